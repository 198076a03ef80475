/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices: where the bytes of a serial port or console come from and go to.
 *
 *	null		output vanishes, there is no input
 *	tty		standard input and output; a terminal is in raw mode until the device is
 *                      destroyed. Ctrl-A x calls the escape handler, Ctrl-A Ctrl-A sends one Ctrl-A
 *	file:PATH	output goes to the file, which is emptied first; no input
 *	unix:PATH	a listening socket, removed when the device is destroyed; one client at a
 *                      time, others wait. A client first gets the last 64 KiB written while there
 *                      was none
 *	pty		a pseudo-terminal; its name is in chardev_name. Somebody who opens it late
 *                      gets what the kernel holds (4 KiB) and the last 64 KiB after that
 *
 * Output never blocks: what the other side does not take is kept in a buffer of 64 KiB, and when
 * that is full the oldest bytes are dropped and counted, so a stuck reader costs output and never
 * stops the guest. `file:` writes at once; what the file system does not take is dropped and
 * counted.
 *
 * Input has flow control: what the receiver does not take is kept, 4 KiB at most; beyond that
 * nothing is read, so it stays with the kernel and in time stops the sender.
 *
 * Threads: everything here belongs to the thread of the event loop given to chardev_attach, but for
 * create and destroy, which are for when that loop does not run, and what says otherwise.
 */
#ifndef GODWIT_BASE_CHARDEV_H
#define GODWIT_BASE_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/state.h"

#define CHARDEV_OUTPUT_SIZE (64 * 1024) /* bytes kept */
#define CHARDEV_INPUT_SIZE  (4 * 1024)

struct chardev;

/* They may call chardev_write and chardev_set_receiving, nothing else of this. */
struct chardev_handlers {
	/*
	 * @size > 0 bytes came in. Returns how many of them it took; if not all, no more come until
	 * chardev_set_receiving(true).
	 */
	size_t (*receive)(void *context, const uint8_t *data, size_t size);
	/*
	 * A client came or went, or the terminal's size changed (which is noticed when the next key
	 * is pressed). NULL: not interested.
	 */
	void (*changed)(void *context);
};

/*
 * Opens what @text describes; nothing is read yet. An error says what was wrong with the text or
 * the path. A file at unix:PATH is an error unless it is a socket that nobody listens on any more.
 */
struct error *chardev_create(const char *text, struct chardev **chardev) MUST_CHECK;
/* Detaches, restores the terminal, removes the socket. Accepts NULL. Before its loop is destroyed.
 */
void chardev_destroy(struct chardev *chardev);
DEFINE_CLEANUP(chardev, struct chardev *, chardev_destroy)
#define AUTO_CHARDEV AUTO(cleanup_chardev)

/*
 * Puts the device on @loop. @handlers is not copied; NULL: output only. Receiving is on, unless it
 * was set before.
 */
struct error *chardev_attach(struct chardev *chardev, struct event_loop *loop,
			     const struct chardev_handlers *handlers, void *context) MUST_CHECK;
/* Takes the device off its loop: no handler runs after this. Not from a handler. */
void chardev_detach(struct chardev *chardev);
/* Writes @size bytes, as described above. Any thread. */
void chardev_write(struct chardev *chardev, const void *data, size_t size);
/* Sees output go by. */
struct chardev_watcher {
	/* On the thread of chardev_write, before anybody else has it; must not block or write. */
	void (*output)(void *context, const void *data, size_t size);
	void *context;
};
/*
 * Shows all output from now on to @watcher, also what nobody else takes; NULL: to none any more. One
 * at a time. While nobody writes.
 */
void chardev_watch_output(struct chardev *chardev, const struct chardev_watcher *watcher);
/* Stops input, or goes on with it; what is there already may arrive before this returns. */
void chardev_set_receiving(struct chardev *chardev, bool receiving);

/*
 * The input that was read and that the receiver has not taken yet (base/state.h). When loading it
 * comes before what was read here already, and is kept until receiving is set again.
 */
void chardev_state(struct chardev *chardev, struct state *state);

/*
 * Another process of this host that goes on with the device, by its descriptors; -1 where there is
 * none. What `kept` is, is between the two.
 */
struct chardev_descriptors {
	int in, out, listen, slave, kept;
};
/*
 * That process is about to come: what it is to be given, which stays this one's too. From now on no
 * further client is accepted (they wait), and once the state was saved nothing more is read.
 */
struct error *chardev_share(struct chardev *chardev,
			    struct chardev_descriptors *descriptors) MUST_CHECK;
/*
 * As chardev_create, in that process. @descriptors become the device's, also on error. It neither
 * reads nor writes before chardev_take_over.
 */
struct error *chardev_adopt(const char *text, const struct chardev_descriptors *descriptors,
			    struct chardev **chardev) MUST_CHECK;
/*
 * Leaves the device to that process, with the output that nobody has taken; unless it was not
 * shared.
 */
void chardev_release(struct chardev *chardev);
/* The device is this process's, or its own again. */
struct error *chardev_take_over(struct chardev *chardev) MUST_CHECK;
/* It is this process's, and the other one has none. */
void chardev_unshare(struct chardev *chardev);

/* Called on the loop's thread when a person asks to leave (Ctrl-A x). Set before attach. */
void chardev_set_escape_handler(struct chardev *chardev, event_callback handler, void *context);
/* Whether output goes to a terminal (tty only), and its size in characters. Any thread. */
bool chardev_terminal_size(const struct chardev *chardev, uint16_t *columns, uint16_t *rows);
/* Whether somebody is at the other end (always, but for unix:). */
bool chardev_connected(const struct chardev *chardev);
/* "pty:/dev/pts/3", or the text it was created from. Any thread. */
const char *chardev_name(const struct chardev *chardev);
/* Bytes of output dropped so far. Any thread. */
uint64_t chardev_dropped(const struct chardev *chardev);

#endif
