/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages over a UNIX stream socket, descriptors beside them, with deadlines.
 *
 * Every function that waits has a deadline, in nanoseconds of CLOCK_MONOTONIC: a peer that hangs
 * makes it fail (code ETIMEDOUT) and no more. Deadline 0 is "do not wait". Not for several threads
 * at once.
 */
#ifndef GODWIT_VHOST_USER_SOCKET_H
#define GODWIT_VHOST_USER_SOCKET_H

#include "vhost_user/message.h"

struct vhost_user_socket {
	int fd; /* owned, non-blocking; -1: closed */
	enum vhost_user_channel channel;
	bool replies; /* what arrives are replies, not requests */
	/* The message that is arriving. */
	uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX];
	size_t have;
	int fds[VHOST_USER_FDS_MAX];
	unsigned int fd_count;
	uint64_t sent, received; /* messages, for tests and counters */
};

/*
 * Takes over @fd, also on error. @replies: the peer answers requests that go out here. Refused: what
 * is not a stream socket of the UNIX domain.
 */
struct error *vhost_user_socket_init(struct vhost_user_socket *socket, int fd,
				     enum vhost_user_channel channel, bool replies) MUST_CHECK;
/* Closes it and what has arrived in part. May be called again. */
void vhost_user_socket_close(struct vhost_user_socket *socket);

/*
 * Sends @message, whose descriptors stay the caller's. After an error nothing more can be sent:
 * a part may be on its way.
 */
struct error *vhost_user_socket_send(struct vhost_user_socket *socket,
				     const struct vhost_user_message *message,
				     int64_t deadline_ns) MUST_CHECK;
/*
 * Receives a message: *@got says whether one is complete; if not, what there is stays for the next
 * call, and with a deadline other than 0 that is an error. Its header has been checked, its payload
 * is raw (vhost_user_message_decode). The end of the connection is an error with code ECONNRESET.
 */
struct error *vhost_user_socket_receive(struct vhost_user_socket *socket,
					struct vhost_user_message *message, int64_t deadline_ns,
					bool *got) MUST_CHECK;

/* --- Connections ------------------------------------------------------------------------------- */

/* Connects to the socket at @path; *@fd is the caller's. Code ECONNREFUSED or ENOENT: nobody there. */
struct error *vhost_user_connect(const char *path, int64_t deadline_ns, int *fd) MUST_CHECK;
/*
 * Listens at @path, with mode 0600; a socket that nobody listens on any more is replaced, anything
 * else there is refused. The caller closes *@fd and removes the path.
 */
struct error *vhost_user_listen(const char *path, int *fd) MUST_CHECK;
/* The next connection to @listener; -1 in *@fd with deadline 0: none is waiting. */
struct error *vhost_user_accept(int listener, int64_t deadline_ns, int *fd) MUST_CHECK;

#endif
