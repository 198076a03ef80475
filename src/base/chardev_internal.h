/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to chardev*.c: the state of a character device. */
#ifndef GODWIT_BASE_CHARDEV_INTERNAL_H
#define GODWIT_BASE_CHARDEV_INTERNAL_H

#include <pthread.h>
#include <termios.h>

#include "base/chardev.h"

struct chardev {
	char *name;
	bool is_null;
	bool writes_directly;		       /* a file: no buffer, no events */
	const struct chardev_watcher *watcher; /* of output, or NULL */
	bool is_terminal;		       /* input is a person's: look for Ctrl-A */

	/* Descriptors; -1 where there is none. in_fd equals out_fd for sockets and
	 * pseudo-terminals. */
	int in_fd, out_fd;
	bool out_is_socket;
	int listen_fd;
	char *socket_path; /* to remove; NULL: none */
	int slave_fd;	   /* keeps a pseudo-terminal alive while nobody has it open */
	bool restore_terminal;
	/* chardev_hand.c; the loop's thread */
	bool shared;  /* another process is given the descriptors */
	bool still;   /* the state was saved for it: nothing more is read */
	bool away;    /* they are the other process's */
	bool adopted; /* they were, and `kept` has what it left */
	int kept_fd;
	struct termios terminal; /* of in_fd, before raw mode */

	/* The loop's thread. */
	struct event_loop *loop;
	const struct chardev_handlers *handlers;
	void *context;
	event_callback escape;
	void *escape_context;
	struct event_source *in_source, *out_source, *listen_source, *kick_source;
	bool receiving, delivering;
	bool escape_pending; /* a Ctrl-A was read, and not yet what follows it */
	bool in_closed;	     /* end of input */
	bool hung_up;	     /* the other side is gone; input may still be in the kernel */
	uint16_t columns, rows;
	uint8_t input[CHARDEV_INPUT_SIZE];
	size_t input_start, input_end;

	/* Output comes from any thread. out_fd changes under this lock too. */
	pthread_mutex_t lock;
	int kick_fd; /* eventfd: a writer left something in the buffer */
	bool out_failed;
	uint8_t *output; /* a ring */
	size_t output_start, output_used;
	uint64_t dropped; /* atomic */
};

/* Fills the descriptors and flags from @text; chardev_close undoes it, also after an error. */
struct error *chardev_open(struct chardev *chardev, const char *text) MUST_CHECK;
void chardev_close(struct chardev *chardev);
/* The same with descriptors of another process, which it takes over, also on error. */
struct error *chardev_open_handed(struct chardev *chardev, const char *text,
				  const struct chardev_descriptors *descriptors) MUST_CHECK;

/* Puts the descriptors on the loop; chardev_unwatch takes them off, also after an error. */
struct error *chardev_watch(struct chardev *chardev) MUST_CHECK;
void chardev_unwatch(struct chardev *chardev);
/* Makes the loop watch for what we wait for now. */
void chardev_update_events(struct chardev *chardev);
/* Keeps @size bytes of output, and sends what can be sent; with the lock held. */
void chardev_output_append(struct chardev *chardev, const uint8_t *data, size_t size);
void chardev_output_flush(struct chardev *chardev);

#endif
