/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sending and receiving whole messages.
 *
 * Runs on the caller's thread. Nothing is read ahead: first a header, then what it says follows, so
 * that descriptors are always those of the message at hand. The peer controls all of what arrives:
 * lengths are checked before they are used, and every descriptor that the kernel has installed is
 * either in the message or closed, also when there were too many of them.
 */
#include "vhost_user/socket.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"

/* More than any message may have, so that too many can be told from a truncated list. */
#define FDS_ROOM 16U

/* --- Waiting ----------------------------------------------------------------------------------- */

/* Waits for @events on @fd until the deadline; false: it has passed. */
static bool wait_for(int fd, short events, int64_t deadline_ns)
{
	struct pollfd item = {.fd = fd, .events = events};

	while (deadline_ns > 0) {
		int64_t left = deadline_ns - clock_monotonic_ns();
		struct timespec time;
		int count;

		if (left < 0)
			left = 0;
		time = (struct timespec){left / NS_PER_SECOND, left % NS_PER_SECOND};
		count = ppoll(&item, 1, &time, NULL);
		if (count > 0)
			return true;
		if (!count || errno != EINTR)
			return false;
	}
	return false;
}

/* --- The socket -------------------------------------------------------------------------------- */

struct error *vhost_user_socket_init(struct vhost_user_socket *sock, int fd,
				     enum vhost_user_channel channel, bool replies)
{
	int domain = 0, type = 0, flags;
	socklen_t size = sizeof(domain);

	*sock = (struct vhost_user_socket){.fd = fd, .channel = channel, .replies = replies};
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || domain != AF_UNIX ||
	    type != SOCK_STREAM) {
		vhost_user_socket_close(sock);
		return error_new(ENOTSOCK, "descriptor %d is no UNIX stream socket", fd);
	}
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		struct error *error = error_system(errno, "cannot use descriptor %d", fd);

		vhost_user_socket_close(sock);
		return error;
	}
	return NULL;
}

static void forget_arriving(struct vhost_user_socket *sock)
{
	for (unsigned int i = 0; i < sock->fd_count; i++)
		close_fd(&sock->fds[i]);
	sock->fd_count = 0;
	sock->have = 0;
}

void vhost_user_socket_close(struct vhost_user_socket *sock)
{
	forget_arriving(sock);
	close_fd(&sock->fd);
}

/* --- Sending ----------------------------------------------------------------------------------- */

struct error *vhost_user_socket_send(struct vhost_user_socket *sock,
				     const struct vhost_user_message *message, int64_t deadline_ns)
{
	uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX];
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * VHOST_USER_FDS_MAX)];
	} control = {0};
	struct iovec part = {bytes, vhost_user_message_encode(message, bytes)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

	if (sock->fd < 0)
		return error_new(ENOTCONN, "%s: the connection is closed", message->type->name);
	if (message->fd_count) {
		size_t size = sizeof(int) * message->fd_count;

		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(&control.header), message->fds, size);
		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(size);
	}
	while (part.iov_len) {
		ssize_t count = sendmsg(sock->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (count > 0) {
			part.iov_base = (uint8_t *)part.iov_base + count;
			part.iov_len -= (size_t)count;
			header.msg_control = NULL; /* they went with the first byte */
			header.msg_controllen = 0;
		} else if (errno == EAGAIN) {
			if (!wait_for(sock->fd, POLLOUT, deadline_ns))
				return error_new(ETIMEDOUT, "%s: the peer does not take it in time",
						 message->type->name);
		} else if (errno != EINTR) {
			return error_system(errno, "cannot send %s", message->type->name);
		}
	}
	sock->sent++;
	return NULL;
}

/* --- Receiving --------------------------------------------------------------------------------- */

/* Takes the descriptors out of @header. All that do not fit are closed. */
static struct error *take_descriptors(struct vhost_user_socket *sock, struct msghdr *header,
				      bool first)
{
	unsigned int count = 0;

	for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item; item = CMSG_NXTHDR(header, item)) {
		size_t bytes;

		if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS ||
		    item->cmsg_len < CMSG_LEN(0))
			continue;
		bytes = item->cmsg_len - CMSG_LEN(0);
		for (size_t i = 0; i + sizeof(int) <= bytes; i += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(item) + i, sizeof(fd));
			if (first && sock->fd_count < VHOST_USER_FDS_MAX)
				sock->fds[sock->fd_count++] = fd;
			else
				close(fd);
			count++;
		}
	}
	if (count && !first)
		return error_new(EPROTO, "%u descriptors come in the middle of a message", count);
	if (count > VHOST_USER_FDS_MAX || header->msg_flags & MSG_CTRUNC)
		return error_new(EPROTO,
				 "a message comes with more than 8 descriptors, or with some "
				 "that could not be received");
	return NULL;
}

/* Reads until @want bytes of the message are there; *@got: they are. */
static struct error *receive_bytes(struct vhost_user_socket *sock, size_t want, int64_t deadline_ns,
				   bool *got)
{
	*got = false;
	while (sock->have < want) {
		union {
			struct cmsghdr header;
			uint8_t bytes[CMSG_SPACE(sizeof(int) * FDS_ROOM)];
		} control;
		struct iovec part = {sock->bytes + sock->have, want - sock->have};
		struct msghdr header = {.msg_iov = &part,
					.msg_iovlen = 1,
					.msg_control = control.bytes,
					.msg_controllen = sizeof(control.bytes)};
		ssize_t count = recvmsg(sock->fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

		if (count > 0) {
			TRY(take_descriptors(sock, &header, !sock->have));
			sock->have += (size_t)count;
		} else if (!count) {
			return sock->have
				   ? error_new(ECONNRESET, "the connection ends within a message")
				   : error_new(ECONNRESET, "the peer has closed the connection");
		} else if (errno == EAGAIN) {
			if (!deadline_ns)
				return NULL;
			if (!wait_for(sock->fd, POLLIN, deadline_ns))
				return error_new(ETIMEDOUT, "the peer does not answer in time");
		} else if (errno != EINTR) {
			return error_system(errno == ECONNRESET ? ECONNRESET : errno,
					    "cannot receive");
		}
	}
	*got = true;
	return NULL;
}

static struct error *check_header(const struct vhost_user_socket *sock, uint32_t request,
				  uint32_t flags, uint32_t size)
{
	const struct vhost_user_message_type *type =
	    vhost_user_message_type(sock->channel, request);

	if (!type)
		return error_new(EPROTO, "request %" PRIu32 " is not known", request);
	if ((flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return error_new(EPROTO, "%s has version %" PRIu32 ", not 1", type->name,
				 flags & VHOST_USER_VERSION_MASK);
	if (!!(flags & VHOST_USER_REPLY) != sock->replies)
		return error_new(EPROTO, "%s is %s", type->name,
				 sock->replies ? "not a reply" : "a reply that nobody waits for");
	if (size > VHOST_USER_PAYLOAD_MAX)
		return error_new(EPROTO, "%s has a payload of %" PRIu32 " bytes: %u are the most",
				 type->name, size, VHOST_USER_PAYLOAD_MAX);
	return NULL;
}

struct error *vhost_user_socket_receive(struct vhost_user_socket *sock,
					struct vhost_user_message *message, int64_t deadline_ns,
					bool *got)
{
	uint32_t request, flags, size;

	*message = (struct vhost_user_message){0};
	*got = false;
	if (sock->fd < 0)
		return error_new(ENOTCONN, "the connection is closed");
	TRY(receive_bytes(sock, MAX(sock->have, (size_t)VHOST_USER_HEADER_SIZE), deadline_ns, got));
	if (!*got)
		return NULL;
	request = get_le32(sock->bytes);
	flags = get_le32(sock->bytes + 4);
	size = get_le32(sock->bytes + 8);
	TRY(check_header(sock, request, flags, size));
	TRY(receive_bytes(sock, VHOST_USER_HEADER_SIZE + size, deadline_ns, got));
	if (!*got)
		return NULL;
	message->type = vhost_user_message_type(sock->channel, request);
	message->flags = flags;
	message->raw = sock->bytes + VHOST_USER_HEADER_SIZE;
	message->raw_size = size;
	message->fd_count = sock->fd_count;
	memcpy(message->fds, sock->fds, sizeof(message->fds));
	sock->fd_count = 0;
	sock->have = 0;
	sock->received++;
	return NULL;
}

/* --- Connections ------------------------------------------------------------------------------- */

static struct error *address_of(const char *path, struct sockaddr_un *address)
{
	size_t length = strlen(path);

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!length || length >= sizeof(address->sun_path))
		return error_new(ENAMETOOLONG, "%s: a socket's path has 1 to %zu bytes", path,
				 sizeof(address->sun_path) - 1);
	memcpy(address->sun_path, path, length);
	return NULL;
}

struct error *vhost_user_connect(const char *path, int64_t deadline_ns, int *result)
{
	struct sockaddr_un address;
	AUTO_CLOSE int fd = -1;

	*result = -1;
	TRY(address_of(path, &address));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_system(errno, "%s: cannot make a socket", path);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		const struct timespec pause = {0, 10 * NS_PER_MS};

		if (errno == EINTR)
			continue;
		/* EAGAIN: the queue of who listens is full, and there is nothing to poll for. */
		if (errno != EAGAIN)
			return error_system(errno, "%s: cannot connect", path);
		if (clock_monotonic_ns() >= deadline_ns)
			return error_new(ETIMEDOUT, "%s: the connection is not taken in time",
					 path);
		nanosleep(&pause, NULL);
	}
	*result = TAKE_FD(fd);
	return NULL;
}

/* Removes a socket at @path that nobody listens on. */
static struct error *remove_stale(const char *path, const struct sockaddr_un *address)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat status;

	if (fd < 0)
		return error_system(errno, "%s: cannot make a socket", path);
	if (lstat(path, &status) < 0)
		return NULL;
	if (!S_ISSOCK(status.st_mode))
		return error_new(EEXIST, "%s exists and is no socket", path);
	if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)) ||
	    errno != ECONNREFUSED)
		return error_new(EADDRINUSE, "%s: somebody listens there already", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return error_system(errno, "%s: cannot remove the old socket", path);
	return NULL;
}

struct error *vhost_user_listen(const char *path, int *result)
{
	struct sockaddr_un address;
	AUTO_CLOSE int fd = -1;

	*result = -1;
	TRY(address_of(path, &address));
	TRY(remove_stale(path, &address));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_system(errno, "%s: cannot make a socket", path);
	/* The mode of the descriptor, less the mask, becomes the file's. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_system(errno, "%s: cannot make the socket", path);
	if (listen(fd, 1) < 0)
		return error_system(errno, "%s: cannot listen", path);
	*result = TAKE_FD(fd);
	return NULL;
}

struct error *vhost_user_accept(int listener, int64_t deadline_ns, int *fd)
{
	for (;;) {
		*fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (*fd >= 0)
			return NULL;
		if (errno == EAGAIN) {
			if (!deadline_ns)
				return NULL;
			if (!wait_for(listener, POLLIN, deadline_ns))
				return error_new(ETIMEDOUT, "nobody has connected in time");
		} else if (errno != EINTR && errno != ECONNABORTED) {
			return error_system(errno, "cannot take a connection");
		}
	}
}
