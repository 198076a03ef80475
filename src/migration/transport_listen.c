/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Listening at addresses of transport.h. Who comes is not known until the hello (link_accept.c).
 */
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "migration/transport_private.h"

#define BACKLOG 80 /* a session's connections come at once */

struct transport_listener {
	int fd;
	char *name;
	char *path; /* of a UNIX socket */
};

void transport_listener_close(struct transport_listener *listener)
{
	if (!listener)
		return;
	close_fd(&listener->fd);
	if (listener->path)
		unlink(listener->path);
	free(listener->path);
	free(listener->name);
	free(listener);
}

int transport_listener_fd(const struct transport_listener *listener)
{
	return listener->fd;
}

const char *transport_listener_name(const struct transport_listener *listener)
{
	return listener->name;
}

/* 0 or an error number. */
static int listen_at(struct transport_listener *listener, const struct sockaddr *where,
		     socklen_t size)
{
	int yes = 1;

	close_fd(&listener->fd);
	listener->fd = socket(where->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return errno;
	if (where->sa_family == AF_INET || where->sa_family == AF_INET6)
		setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (where->sa_family == AF_UNIX)
		fchmod(listener->fd, 0600); /* Linux gives the file these permissions */
	if (bind(listener->fd, where, size) < 0 || listen(listener->fd, BACKLOG) < 0)
		return errno;
	return 0;
}

static struct error *name_it(struct transport_listener *listener,
			     const struct transport_address *address)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof(own);
	char text[INET6_ADDRSTRLEN] = "";
	int result;

	if (getsockname(listener->fd, (struct sockaddr *)&own, &size) < 0)
		return error_system(errno, "%s", address->text);
	if (own.ss_family == AF_INET) {
		const struct sockaddr_in *at = (const struct sockaddr_in *)&own;

		inet_ntop(AF_INET, &at->sin_addr, text, sizeof(text));
		result = asprintf(&listener->name, "tcp:%s:%u", text, ntohs(at->sin_port));
	} else if (own.ss_family == AF_INET6) {
		const struct sockaddr_in6 *at = (const struct sockaddr_in6 *)&own;

		inet_ntop(AF_INET6, &at->sin6_addr, text, sizeof(text));
		result = asprintf(&listener->name, "tcp:[%s]:%u", text, ntohs(at->sin6_port));
	} else {
		result = asprintf(&listener->name, "%s", address->text);
	}
	return result < 0 ? error_system(ENOMEM, "%s", address->text) : NULL;
}

static struct error *listen_tcp(struct transport_listener *listener,
				const struct transport_address *address)
{
	struct addrinfo *found;
	int failure = EADDRNOTAVAIL;

	TRY(transport_resolve(address, AI_PASSIVE, &found));
	/* With no host IPv6 first: such a socket takes both. */
	for (int family = 0; failure && family < 2; family++)
		for (struct addrinfo *one = found; failure && one; one = one->ai_next)
			if ((one->ai_family == AF_INET6) == (family == 0))
				failure = listen_at(listener, one->ai_addr, one->ai_addrlen);
	freeaddrinfo(found);
	return failure ? error_system(failure, "cannot listen on %s", address->text) : NULL;
}

/* Whether the file at @where is a socket that was left behind. */
static bool is_stale(const struct sockaddr_un *where)
{
	struct stat status;
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && !lstat(where->sun_path, &status) && S_ISSOCK(status.st_mode) &&
	       connect(fd, (const struct sockaddr *)where, sizeof(*where)) && errno == ECONNREFUSED;
}

static struct error *listen_unix(struct transport_listener *listener,
				 const struct transport_address *address)
{
	struct sockaddr_un where;
	int failure;

	transport_unix_address(address->host, &where);
	failure = listen_at(listener, (struct sockaddr *)&where, sizeof(where));
	if (failure == EADDRINUSE && is_stale(&where)) {
		unlink(where.sun_path);
		failure = listen_at(listener, (struct sockaddr *)&where, sizeof(where));
	}
	if (failure)
		return error_system(failure, "cannot listen on %s", address->text);
	listener->path = strdup(address->host);
	if (!listener->path)
		unlink(address->host);
	return listener->path ? NULL : error_system(ENOMEM, "%s", address->text);
}

static struct error *listen_vsock(struct transport_listener *listener,
				  const struct transport_address *address)
{
	struct sockaddr_vm where = {
	    .svm_family = AF_VSOCK, .svm_cid = address->vsock_cid, .svm_port = address->vsock_port};
	int failure = listen_at(listener, (struct sockaddr *)&where, sizeof(where));

	return failure ? error_system(failure, "cannot listen on %s", address->text) : NULL;
}

struct error *transport_listen(const struct transport_address *address,
			       struct transport_listener **result)
{
	AUTO_TRANSPORT_LISTENER struct transport_listener *listener = calloc(1, sizeof(*listener));

	if (!listener)
		return error_system(ENOMEM, "%s", address->text);
	listener->fd = -1;
	switch (address->kind) {
	case TRANSPORT_TCP:
		TRY(listen_tcp(listener, address));
		break;
	case TRANSPORT_UNIX:
		TRY(listen_unix(listener, address));
		break;
	case TRANSPORT_VSOCK:
		TRY(listen_vsock(listener, address));
		break;
	case TRANSPORT_FD:
	case TRANSPORT_EXEC:
		return error_new(EINVAL, "'%s' is nothing to listen on", address->text);
	}
	TRY(name_it(listener, address));
	*result = TAKE_PTR(listener);
	return NULL;
}

static bool is_passing(int failure)
{
	switch (failure) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED: /* who came has gone again */
	case EPROTO:
	case ENETDOWN:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return true;
	default:
		return failure == EWOULDBLOCK;
	}
}

struct error *transport_accept(struct transport_listener *listener, struct transport **transport)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);

	*transport = NULL;
	if (fd < 0)
		return is_passing(errno) ? NULL
					 : error_system(errno, "%s: cannot accept", listener->name);
	return transport_adopt(fd, listener->name, transport);
}
