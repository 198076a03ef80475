/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Channels of channel.h over descriptors. Nothing blocks but poll, which also looks at an eventfd
 * that channel_cancel makes readable; only regular files are waited for without it. The peer
 * controls what arrives and when.
 */
#include "base/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/child.h"

#define EXPLAIN_MS 1000	     /* for a command to end after its side of the pipe was closed */
#define PIPE_SIZE  (1 << 20) /* bytes; what an unprivileged process may ask for by default */

struct channel {
	char *name;
	int fd;
	int cancel_fd, watched_fd;
	enum channel_direction direction;
	bool is_socket, is_file;
	bool was_blocking; /* to be made so again */
	struct child *child;
};

const char *channel_name(const struct channel *channel)
{
	return channel->name;
}

/* --- Life -------------------------------------------------------------------------------------- */

/* The descriptor is somebody else's again. */
static void let_go(struct channel *channel)
{
	if (channel->fd >= 0 && channel->was_blocking)
		fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) & ~O_NONBLOCK);
	close_fd(&channel->fd);
}

void channel_close(struct channel *channel)
{
	if (!channel)
		return;
	let_go(channel);
	child_end(channel->child);
	close_fd(&channel->cancel_fd);
	free(channel->name);
	free(channel);
}

static struct error *adopt(struct channel *channel)
{
	int flags = fcntl(channel->fd, F_GETFL);
	int wrong = channel->direction == CHANNEL_READ ? O_WRONLY : O_RDONLY;
	struct stat status;

	if (flags < 0 || fstat(channel->fd, &status) < 0)
		return error_system(errno, "%s", channel->name);
	if ((flags & O_ACCMODE) == wrong)
		return error_new(EBADF, "%s: is not open for %s", channel->name,
				 wrong == O_WRONLY ? "reading" : "writing");
	if (S_ISDIR(status.st_mode))
		return error_new(EISDIR, "%s: is a folder", channel->name);
	if (isatty(channel->fd))
		return error_new(EINVAL, "%s: is a terminal: give a pipe or a file", channel->name);
	channel->is_socket = S_ISSOCK(status.st_mode);
	channel->is_file = S_ISREG(status.st_mode);
	channel->was_blocking = !(flags & O_NONBLOCK);
	if (fcntl(channel->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(channel->fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_system(errno, "%s", channel->name);
	if (S_ISFIFO(status.st_mode))
		fcntl(channel->fd, F_SETPIPE_SZ, PIPE_SIZE); /* fewer turns; not needed */
	channel->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return channel->cancel_fd < 0 ? error_system(errno, "%s", channel->name) : NULL;
}

struct error *channel_open(int fd, enum channel_direction direction, const char *name,
			   struct channel **result)
{
	AUTO_CHANNEL struct channel *channel = calloc(1, sizeof(*channel));

	if (!channel) {
		close(fd);
		return error_system(ENOMEM, "%s", name);
	}
	channel->fd = fd;
	channel->cancel_fd = channel->watched_fd = -1;
	channel->direction = direction;
	channel->name = strdup(name);
	if (!channel->name)
		return error_system(ENOMEM, "%s", name);
	TRY(adopt(channel));
	*result = TAKE_PTR(channel);
	return NULL;
}

struct error *channel_open_command(const char *command, enum channel_direction direction,
				   struct channel **result)
{
	AUTO_CHANNEL struct channel *channel = NULL;
	AUTO_CHILD struct child *child = NULL;
	AUTO_FREE char *name = NULL;
	int fd;

	if (asprintf(&name, "exec:%s", command) < 0)
		return error_system(ENOMEM, "exec");
	TRY(child_start(command, direction == CHANNEL_READ ? CHILD_WRITES : CHILD_READS, &fd,
			&child));
	TRY(channel_open(fd, direction, name, &channel));
	channel->child = TAKE_PTR(child);
	*result = TAKE_PTR(channel);
	return NULL;
}

/* --- Bytes ------------------------------------------------------------------------------------- */

void channel_cancel(struct channel *channel)
{
	/* Cannot fail before 2^64 - 1 calls. */
	eventfd_write(channel->cancel_fd, 1);
}

void channel_cancel_when(struct channel *channel, int fd)
{
	channel->watched_fd = fd;
}

/* Waits for @events, or with 0 not at all; fails when the channel was cancelled. */
static struct error *wait_for(struct channel *channel, short events)
{
	struct pollfd fds[] = {{.fd = channel->cancel_fd, .events = POLLIN},
			       {.fd = channel->watched_fd, .events = POLLIN},
			       {.fd = channel->fd, .events = events}};

	while (poll(fds, events ? 3 : 2, events ? -1 : 0) < 0)
		if (errno != EINTR)
			return error_system(errno, "cannot be waited for");
	if (fds[0].revents || fds[1].revents)
		return error_new(ECANCELED, "cancelled");
	return NULL;
}

static ssize_t write_some(struct channel *channel, struct iovec *parts, size_t count)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

	return channel->is_socket ? sendmsg(channel->fd, &message, MSG_NOSIGNAL)
				  : writev(channel->fd, parts, (int)count);
}

struct error *channel_write(struct channel *channel, struct iovec *parts, size_t count)
{
	TRY(wait_for(channel, 0));
	while (count) {
		ssize_t written = write_some(channel, parts, count);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			TRY(wait_for(channel, POLLOUT));
			continue;
		}
		if (written < 0 && errno == EPIPE)
			return error_new(EPIPE, "its reader has gone away");
		if (written < 0)
			return error_system(errno, "cannot be written to");
		while (count && (size_t)written >= parts->iov_len) {
			written -= (ssize_t)parts->iov_len;
			parts++;
			count--;
		}
		if (count) {
			parts->iov_base = (uint8_t *)parts->iov_base + written;
			parts->iov_len -= (size_t)written;
		}
	}
	return NULL;
}

struct error *channel_read(struct channel *channel, void *bytes, size_t size, size_t *got)
{
	TRY(wait_for(channel, 0));
	for (;;) {
		ssize_t result = read(channel->fd, bytes, size);

		if (result >= 0) {
			*got = (size_t)result;
			return NULL;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			TRY(wait_for(channel, POLLIN));
		else if (errno != EINTR)
			return error_system(errno, "cannot be read");
	}
}

/* --- The end ----------------------------------------------------------------------------------- */

static struct error *finish_writing(struct channel *channel)
{
	if (channel->is_file && fsync(channel->fd) < 0)
		return error_system(errno, "cannot be written to its disk");
	if (channel->is_socket && shutdown(channel->fd, SHUT_WR) < 0)
		return error_system(errno, "cannot be ended");
	return NULL;
}

/* Only where it does not depend on somebody's patience. */
static struct error *finish_reading(struct channel *channel)
{
	uint8_t byte;
	size_t got;

	if (!channel->is_file && !channel->child)
		return NULL;
	TRY(channel_read(channel, &byte, 1, &got));
	return got ? error_new(EBADMSG, "goes on after its end") : NULL;
}

struct error *channel_finish(struct channel *channel)
{
	struct error *error;

	TRY(channel->direction == CHANNEL_WRITE ? finish_writing(channel)
						: finish_reading(channel));
	let_go(channel);
	if (!channel->child)
		return NULL;
	error = child_wait(channel->child, channel->cancel_fd, -1);
	child_end(TAKE_PTR(channel->child));
	return error;
}

struct error *channel_explain(struct channel *channel, struct error *error)
{
	AUTO_ERROR struct error *reason = NULL;

	if (!error || error_code(error) == ECHILD) /* which tells of the command */
		return error;
	if (channel->child && error_code(error) != ECANCELED) {
		let_go(channel);
		reason = child_wait(channel->child, channel->cancel_fd, EXPLAIN_MS);
		if (reason && error_code(reason) == ECHILD)
			return error_prefix(error, "%s", error_message(reason));
	}
	return error_prefix(error, "%s", channel->name);
}
