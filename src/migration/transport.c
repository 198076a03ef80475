/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections of transport.h. Without TLS the sockets block, and a call to the kernel moves as much
 * as there is: a thread of its own for each direction is cheaper than asking first. With TLS nothing
 * blocks but poll (transport_tls.h).
 *
 * The peer controls what arrives and when.
 */
#include "migration/transport.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/checked.h"
#include "migration/transport_passing.h"
#include "migration/transport_private.h"

#define TLS_RECORD 16384 /* bytes of content that fill one */

/* A peer that has vanished is noticed after about half a minute, whether there is data or not. */
#define KEEPALIVE_IDLE_S     10
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT	     4
#define USER_TIMEOUT_MS	     30000
#define BUFFER_SIZE	     (4 << 20) /* where the kernel does not choose well by itself */

struct transport {
	char *name;
	int fd;
	struct tls_session *tls;
	uint8_t *staging; /* TLS: a record being put together from small parts */
	struct child *child;
	struct transport_passing *passing; /* NULL: no descriptors go along */
	int timeout_ms;			   /* -1: none */
	bool cancelled;			   /* atomic */
};

const char *transport_name(const struct transport *transport)
{
	return transport->name;
}

int transport_fd(const struct transport *transport)
{
	return transport->fd;
}

/* --- Life -------------------------------------------------------------------------------------- */

void transport_close(struct transport *transport)
{
	if (!transport)
		return;
	tls_session_free(transport->tls);
	close_fd(&transport->fd);
	child_end(transport->child);
	transport_passing_free(transport->passing);
	free(transport->staging);
	free(transport->name);
	free(transport);
}

static void set(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

/*
 * None of it is necessary. TCP's buffers are left alone: the kernel lets them grow with the distance
 * up to several megabytes, and would cut a size that was asked for to net.core.wmem_max (208 KiB).
 */
static void tune(int fd)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof(own);
	uint64_t vsock_size = BUFFER_SIZE;

	if (getsockname(fd, (struct sockaddr *)&own, &size) < 0)
		return;
	switch (own.ss_family) {
	case AF_INET:
	case AF_INET6:
		set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
		set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
		set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT);
		set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
		break;
	case AF_UNIX:
		set(fd, SOL_SOCKET, SO_SNDBUF, BUFFER_SIZE);
		set(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_SIZE); /* as far as one may */
		break;
	case AF_VSOCK:
		setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &vsock_size,
			   sizeof(vsock_size));
		setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &vsock_size,
			   sizeof(vsock_size));
		break;
	default:
		break;
	}
}

static struct error *adopt(struct transport *transport)
{
	int type, flags = fcntl(transport->fd, F_GETFL);
	socklen_t size = sizeof(type);

	if (getsockopt(transport->fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
		return errno == ENOTSOCK
			   ? error_new(ENOTSOCK,
				       "%s: is not a socket: a migration speaks in both directions",
				       transport->name)
			   : error_system(errno, "%s", transport->name);
	if (type != SOCK_STREAM)
		return error_new(EINVAL, "%s: is not a stream socket", transport->name);
	if (fcntl(transport->fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    fcntl(transport->fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_system(errno, "%s", transport->name);
	tune(transport->fd);
	return NULL;
}

struct error *transport_adopt(int fd, const char *name, struct transport **result)
{
	AUTO_TRANSPORT struct transport *transport = calloc(1, sizeof(*transport));

	if (!transport) {
		close(fd);
		return error_system(ENOMEM, "%s", name);
	}
	transport->fd = fd;
	transport->timeout_ms = -1;
	TRY(transport_rename(transport, name));
	TRY(adopt(transport));
	*result = TAKE_PTR(transport);
	return NULL;
}

struct error *transport_rename(struct transport *transport, const char *name)
{
	char *copy = strdup(name);

	if (!copy)
		return error_system(ENOMEM, "%s", name);
	free(transport->name);
	transport->name = copy;
	return NULL;
}

void transport_set_child(struct transport *transport, struct child *child)
{
	transport->child = child;
}

void transport_set_timeout(struct transport *transport, uint32_t ms)
{
	struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	transport->timeout_ms = ms ? (int)ms : -1;
	setsockopt(transport->fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	setsockopt(transport->fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

void transport_cancel(struct transport *transport)
{
	__atomic_store_n(&transport->cancelled, true, __ATOMIC_RELEASE);
	shutdown(transport->fd, SHUT_RDWR);
}

/* --- Descriptors ------------------------------------------------------------------------------- */

/* Before anybody sends or receives what they go along with. */
static struct error *start_passing(struct transport *transport)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof(own);

	if (getsockname(transport->fd, (struct sockaddr *)&own, &size) < 0)
		return error_system(errno, "%s", transport->name);
	if (own.ss_family != AF_UNIX || transport->tls)
		return error_new(EOPNOTSUPP,
				 "%s: descriptors go along with UNIX sockets without TLS only",
				 transport->name);
	if (!transport->passing)
		transport->passing = transport_passing_create();
	return transport->passing ? NULL : error_system(ENOMEM, "%s", transport->name);
}

struct error *transport_attach(struct transport *transport, const int *fds, uint32_t count)
{
	TRY(start_passing(transport));
	transport_passing_attach(transport->passing, fds, count);
	return NULL;
}

void transport_expect(struct transport *transport)
{
	/* Elsewhere none can come. */
	error_free(start_passing(transport));
}

uint32_t transport_take(struct transport *transport, int fds[TRANSPORT_PASSED_MAX])
{
	return transport->passing ? transport_passing_take(transport->passing, fds) : 0;
}

/* --- Waiting and failing ----------------------------------------------------------------------- */

static struct error *check_cancelled(const struct transport *transport)
{
	return __atomic_load_n(&transport->cancelled, __ATOMIC_ACQUIRE)
		   ? error_new(ECANCELED, "%s: cancelled", transport->name)
		   : NULL;
}

static struct error *timed_out(const struct transport *transport)
{
	return error_new(ETIMEDOUT, "%s: no answer for %d s", transport->name,
			 (transport->timeout_ms + 999) / 1000);
}

/* What became of a call to the kernel, or NULL when it is to be repeated. */
static struct error *failed(const struct transport *transport, int failure)
{
	TRY(check_cancelled(transport));
	if (failure == EINTR)
		return NULL;
	if (failure == EAGAIN || failure == EWOULDBLOCK)
		return timed_out(transport);
	if (failure == EPIPE || failure == ECONNRESET)
		return error_new(ECONNRESET, "%s: the other end has closed the connection",
				 transport->name);
	if (failure == ETIMEDOUT)
		return error_new(ETIMEDOUT, "%s: the other end does not answer any more",
				 transport->name);
	return error_system(failure, "%s", transport->name);
}

static struct error *wait_for(const struct transport *transport, short events)
{
	struct pollfd fd = {.fd = transport->fd, .events = events};
	int result;

	do
		result = poll(&fd, 1, transport->timeout_ms);
	while (result < 0 && errno == EINTR);
	TRY(check_cancelled(transport));
	return result ? NULL : timed_out(transport);
}

/* An error of TLS, which has no prefix; a cancelled one looks like an end. */
static struct error *explain(const struct transport *transport, struct error *error)
{
	struct error *cancelled = error ? check_cancelled(transport) : NULL;

	if (!cancelled)
		return error_prefix(error, "%s", transport->name);
	error_free(error);
	return cancelled;
}

/* --- TLS --------------------------------------------------------------------------------------- */

struct error *transport_start_tls(struct transport *transport, struct tls_credentials *credentials)
{
	transport->staging = malloc(TLS_RECORD);
	if (!transport->staging)
		return error_system(ENOMEM, "%s", transport->name);
	return explain(transport, tls_session_create(credentials, transport->fd, &transport->tls));
}

struct error *transport_try_handshake(struct transport *transport, short *events)
{
	*events = 0;
	return transport->tls ? explain(transport, tls_handshake(transport->tls, events)) : NULL;
}

struct error *transport_handshake(struct transport *transport)
{
	short events;

	for (;;) {
		TRY(transport_try_handshake(transport, &events));
		if (!events)
			return NULL;
		TRY(wait_for(transport, events));
	}
}

static struct error *send_tls(struct transport *transport, const void *bytes, size_t size)
{
	size_t done = 0;
	short events;

	for (;;) {
		TRY(explain(transport, tls_send(transport->tls, bytes, size, &done, &events)));
		if (!events)
			return NULL;
		TRY(wait_for(transport, events));
	}
}

/* Full records, for each costs the same: small parts are put together. */
static struct error *send_parts_tls(struct transport *transport, const struct iovec *parts,
				    size_t count)
{
	size_t staged = 0;

	for (size_t i = 0; i < count; i++) {
		const uint8_t *bytes = parts[i].iov_base;
		size_t left = parts[i].iov_len;

		while (left) {
			size_t size;

			if (!staged && left >= TLS_RECORD) {
				size = align_down(left, TLS_RECORD);
				TRY(send_tls(transport, bytes, size));
			} else {
				size = MIN(left, TLS_RECORD - staged);
				memcpy(transport->staging + staged, bytes, size);
				staged += size;
				if (staged == TLS_RECORD) {
					TRY(send_tls(transport, transport->staging, staged));
					staged = 0;
				}
			}
			bytes += size;
			left -= size;
		}
	}
	return staged ? send_tls(transport, transport->staging, staged) : NULL;
}

static struct error *receive_tls(struct transport *transport, void *bytes, size_t size, size_t *got)
{
	short events;

	for (;;) {
		TRY(explain(transport, tls_receive(transport->tls, bytes, size, got, &events)));
		if (!events)
			return *got ? NULL : check_cancelled(transport);
		TRY(wait_for(transport, events));
	}
}

/* --- Bytes ------------------------------------------------------------------------------------- */

/* Drops @size bytes from the front; the parts have more, or as many. */
static void advance(struct iovec **parts, size_t *count, size_t size)
{
	while (*count && size >= (*parts)->iov_len) {
		size -= (*parts)->iov_len;
		(*parts)++;
		(*count)--;
	}
	if (size) {
		(*parts)->iov_base = (uint8_t *)(*parts)->iov_base + size;
		(*parts)->iov_len -= size;
	}
}

struct error *transport_send(struct transport *transport, struct iovec *parts, size_t count)
{
	if (transport->tls)
		return send_parts_tls(transport, parts, count);
	while (count) {
		struct msghdr message = {.msg_iov = parts,
					 .msg_iovlen = MIN(count, (size_t)IOV_MAX)};
		ssize_t sent;

		if (transport->passing)
			transport_passing_put(transport->passing, &message);
		sent = sendmsg(transport->fd, &message, MSG_NOSIGNAL);
		if (sent < 0) {
			TRY(failed(transport, errno));
			continue;
		}
		if (transport->passing)
			transport_passing_sent(transport->passing);
		advance(&parts, &count, (size_t)sent);
	}
	return NULL;
}

static struct error *receive_some(struct transport *transport, struct iovec *parts, size_t count,
				  bool whole, size_t *got)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = MIN(count, (size_t)IOV_MAX)};
	int flags = (whole ? MSG_WAITALL : 0) | MSG_CMSG_CLOEXEC;
	ssize_t result;

	if (transport->tls)
		return receive_tls(transport, parts->iov_base, parts->iov_len, got);
	if (transport->passing)
		transport_passing_room(transport->passing, &message);
	while ((result = recvmsg(transport->fd, &message, flags)) < 0)
		TRY(failed(transport, errno));
	if (transport->passing)
		TRY(error_prefix(transport_passing_get(transport->passing, &message), "%s",
				 transport->name));
	*got = (size_t)result;
	return result ? NULL : check_cancelled(transport);
}

struct error *transport_receive(struct transport *transport, struct iovec *parts, size_t count,
				size_t minimum, size_t *got)
{
	size_t total = 0;

	*got = 0;
	for (size_t i = 0; i < count; i++)
		total += parts[i].iov_len;
	while (*got < minimum) {
		size_t some;

		advance(&parts, &count, 0); /* empty ones */
		TRY(receive_some(transport, parts, count, minimum == total, &some));
		if (!some && !*got)
			return NULL;
		if (!some)
			return error_new(ECONNRESET,
					 "%s: the other end has closed the connection within %zu "
					 "bytes, after %zu",
					 transport->name, minimum, *got);
		*got += some;
		advance(&parts, &count, some);
	}
	return NULL;
}

struct error *transport_try_receive(struct transport *transport, void *bytes, size_t size,
				    size_t *got)
{
	short events = 0;
	ssize_t result;

	*got = 0;
	if (transport->tls) {
		TRY(explain(transport, tls_receive(transport->tls, bytes, size, got, &events)));
		if (*got || events)
			return NULL;
		return failed(transport, ECONNRESET);
	}
	result = recv(transport->fd, bytes, size, MSG_DONTWAIT);
	if (result > 0)
		*got = (size_t)result;
	else if (!result || (errno != EAGAIN && errno != EWOULDBLOCK))
		return failed(transport, result ? errno : ECONNRESET);
	return NULL;
}
