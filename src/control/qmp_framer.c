/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The framer of qmp_framer.h. A peer controls every byte; what is kept for it is bounded by
 * QMP_MESSAGE_MAX. Runs on the main loop; brackets are only counted here, whether they match is the
 * JSON parser's to say.
 */
#include "control/qmp_framer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define BUFFER_START 512   /* bytes; most commands fit */
#define BUFFER_KEEP  16384 /* a larger buffer goes back after its message */

void qmp_framer_clear(struct qmp_framer *framer)
{
	free(framer->buffer);
	memset(framer, 0, sizeof(*framer));
}

/* Forgets what was begun. */
static void framer_restart(struct qmp_framer *framer)
{
	if (framer->capacity > BUFFER_KEEP) {
		qmp_framer_clear(framer);
		return;
	}
	framer->used = 0;
	framer->depth = 0;
	framer->in_string = false;
	framer->escaped = false;
	framer->bare = false;
}

static int framer_append(struct qmp_framer *framer, char byte)
{
	if (framer->used == framer->capacity) {
		size_t capacity = framer->capacity ? framer->capacity * 2 : BUFFER_START;
		char *grown;

		if (framer->used == QMP_MESSAGE_MAX)
			return -EMSGSIZE;
		capacity = MIN(capacity, (size_t)QMP_MESSAGE_MAX);
		grown = realloc(framer->buffer, capacity);
		if (!grown)
			return -ENOMEM;
		framer->buffer = grown;
		framer->capacity = capacity;
	}
	framer->buffer[framer->used++] = byte;
	return 0;
}

/* Follows @byte, which belongs to the message; true if it is the message's last. */
static bool framer_advance(struct qmp_framer *framer, char byte)
{
	if (framer->bare)
		return byte == '\n';
	if (framer->in_string) {
		if (framer->escaped)
			framer->escaped = false;
		else if (byte == '\\')
			framer->escaped = true;
		else if (byte == '"')
			framer->in_string = false;
		return false;
	}
	switch (byte) {
	case '{':
	case '[':
		framer->depth++;
		return false;
	case '}':
	case ']':
		if (framer->depth)
			return --framer->depth == 0;
		break;
	case '"':
		if (framer->depth) {
			framer->in_string = true;
			return false;
		}
		break;
	default:
		break;
	}
	if (!framer->depth)
		framer->bare = true;
	return false;
}

static bool is_space(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

int qmp_framer_feed(struct qmp_framer *framer, const char *data, size_t size,
		    qmp_message_handler handler, void *context)
{
	for (size_t i = 0; i < size; i++) {
		int failure;

		if ((unsigned char)data[i] >= 0xf8) {
			framer_restart(framer);
			continue;
		}
		if (!framer->used && is_space(data[i]))
			continue;
		failure = framer_append(framer, data[i]);
		if (failure)
			return failure;
		if (framer_advance(framer, data[i])) {
			handler(context, framer->buffer, framer->used);
			framer_restart(framer);
		}
	}
	return 0;
}
