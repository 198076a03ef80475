/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A row of bytes to or from somebody else, from the first to the last: a pipe, a socket, a command,
 * a device, a file that is only appended to. What is sent over it does not know which.
 *
 * A channel keeps nothing back and reads nothing ahead: what is under way is in the kernel's own
 * buffers. A peer that does not take or give anything makes read and write wait, for ever unless
 * the channel is cancelled.
 *
 * Threads: one that writes, one that reads; cancel from any. Errors of opening begin with the
 * channel's name; those of the others do not, so that who calls says what it was about, and then, once,
 * which channel it was (channel_explain). Code ECANCELED after channel_cancel, EPIPE when the reader
 * is gone. The process must ignore SIGPIPE.
 */
#ifndef GODWIT_BASE_CHANNEL_H
#define GODWIT_BASE_CHANNEL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

struct channel;

/* What it is mainly for, which is how it is finished. */
enum channel_direction { CHANNEL_READ, CHANNEL_WRITE };

/*
 * A channel over @fd, which it takes over, also on error. @name is for messages ("fd:7"). The
 * descriptor is made non-blocking, for everybody who shares it, until the channel is closed.
 * Refused: what is not open for @direction, a folder, a terminal.
 */
struct error *channel_open(int fd, enum channel_direction direction, const char *name,
			   struct channel **channel) MUST_CHECK;
/* A channel to or from the shell command @command (base/child.h). */
struct error *channel_open_command(const char *command, enum channel_direction direction,
				   struct channel **channel) MUST_CHECK;
/* Without channel_finish: a command is ended, and nobody vouches for what arrived. Accepts NULL. */
void channel_close(struct channel *channel);
DEFINE_CLEANUP(channel, struct channel *, channel_close)
#define AUTO_CHANNEL AUTO(cleanup_channel)

/* Writes all @count parts, at most 64, which are used up. */
struct error *channel_write(struct channel *channel, struct iovec *parts, size_t count) MUST_CHECK;
/* Reads what is there, 1 to @size bytes, into @bytes, or waits for it. *@got is 0 at the end. */
struct error *channel_read(struct channel *channel, void *bytes, size_t size,
			   size_t *got) MUST_CHECK;
/*
 * Everything was written: it is handed on, as durable as the transport can tell (a file is synced,
 * a command must have ended with status 0). Everything was read: a command must not have more, and
 * must end with status 0; a file must not have more. The channel can only be closed then.
 */
struct error *channel_finish(struct channel *channel) MUST_CHECK;
/*
 * After something about the channel failed with @error (NULL stays NULL): puts in front of it how
 * its command failed, if that is why, or else the channel's name. The channel can only be closed then.
 */
struct error *channel_explain(struct channel *channel, struct error *error) MUST_CHECK;
/* Makes every read, write and finish fail from now on, also those that wait. */
void channel_cancel(struct channel *channel);
/* The same from when @fd is readable on: a signalfd, say. Borrowed; -1: nothing does. */
void channel_cancel_when(struct channel *channel, int fd);

const char *channel_name(const struct channel *channel);

#endif
