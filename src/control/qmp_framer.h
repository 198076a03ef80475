/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cuts a stream of bytes into JSON texts. QMP clients end a command with a newline, or with nothing
 * at all, so a message ends where its outermost bracket closes; anything that is not an object or
 * an array ends at a newline. Bytes 0xF8 to 0xFF cannot occur in UTF-8: they drop what was begun
 * (QEMU's QMP specification, section 2.6, "0xFF").
 */
#ifndef GODWIT_CONTROL_QMP_FRAMER_H
#define GODWIT_CONTROL_QMP_FRAMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QMP_MESSAGE_MAX (1024 * 1024) /* bytes */

struct qmp_framer {
	char *buffer;
	size_t used, capacity; /* bytes */
	uint32_t depth;	       /* brackets open */
	bool in_string, escaped;
	bool bare; /* outside of any bracket: until the newline */
};

/* A whole message, @size bytes without a terminator, valid during the call. */
typedef void (*qmp_message_handler)(void *context, const char *text, size_t size);

/*
 * Takes @size bytes and calls @handler for each message they complete. 0, or -EMSGSIZE when a
 * message is longer than QMP_MESSAGE_MAX, or -ENOMEM; the stream cannot go on after an error. A
 * zeroed framer is ready to use.
 */
int qmp_framer_feed(struct qmp_framer *framer, const char *data, size_t size,
		    qmp_message_handler handler, void *context);
/* Releases the buffer. */
void qmp_framer_clear(struct qmp_framer *framer);

#endif
