/* SPDX-License-Identifier: BSD-2-Clause */
/* Connecting to addresses of transport.h. Waits for the network, never longer than it is told. */
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "migration/transport_private.h"

struct attempt {
	const struct transport_address *address;
	const char *name; /* of the connection */
	int cancel_fd;
	int64_t deadline; /* monotonic */
};

/* Waits until @fd is connected, or has failed: 0 or an error number; ECANCELED. */
static int wait_connected(const struct attempt *attempt, int fd)
{
	struct pollfd fds[] = {{.fd = fd, .events = POLLOUT},
			       {.fd = attempt->cancel_fd, .events = POLLIN}};
	int failure, result;
	socklen_t size = sizeof(failure);

	do {
		int64_t left = (attempt->deadline - clock_monotonic_ns()) / NS_PER_MS;

		result = poll(fds, 2, (int)MAX(left, (int64_t)0));
	} while (result < 0 && errno == EINTR);
	if (result < 0)
		return errno;
	if (fds[1].revents)
		return ECANCELED;
	if (!result)
		return ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) < 0 ? errno : failure;
}

/* *@fd: a connected socket. 0 or an error number. */
static int connect_to(const struct attempt *attempt, const struct sockaddr *where, socklen_t size,
		      int *fd)
{
	AUTO_CLOSE int socket_fd = socket(where->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int failure = 0;

	if (socket_fd < 0)
		return errno;
	/* A UNIX socket connects at once, or waits for a busy listener as it should. */
	if (where->sa_family != AF_UNIX)
		fcntl(socket_fd, F_SETFL, fcntl(socket_fd, F_GETFL) | O_NONBLOCK);
	if (connect(socket_fd, where, size) < 0)
		failure = errno == EINPROGRESS ? wait_connected(attempt, socket_fd) : errno;
	if (!failure)
		*fd = TAKE_FD(socket_fd);
	return failure;
}

static struct error *explain(const struct attempt *attempt, int failure)
{
	if (!failure)
		return NULL;
	if (failure == ECANCELED)
		return error_new(ECANCELED, "%s: cancelled", attempt->name);
	return error_system(failure, "cannot connect to %s", attempt->name);
}

static struct error *connect_tcp(const struct attempt *attempt, int *fd)
{
	struct addrinfo *found;
	int failure = 0;

	TRY(transport_resolve(attempt->address, 0, &found));
	for (struct addrinfo *one = found; one; one = one->ai_next) {
		failure = connect_to(attempt, one->ai_addr, one->ai_addrlen, fd);
		if (!failure || failure == ECANCELED)
			break;
	}
	freeaddrinfo(found);
	return explain(attempt, failure);
}

static struct error *connect_unix(const struct attempt *attempt, int *fd)
{
	struct sockaddr_un where;

	transport_unix_address(attempt->address->host, &where);
	return explain(attempt, connect_to(attempt, (struct sockaddr *)&where, sizeof(where), fd));
}

static struct error *connect_vsock(const struct attempt *attempt, int *fd)
{
	struct sockaddr_vm where = {.svm_family = AF_VSOCK,
				    .svm_cid = attempt->address->vsock_cid,
				    .svm_port = attempt->address->vsock_port};

	return explain(attempt, connect_to(attempt, (struct sockaddr *)&where, sizeof(where), fd));
}

static struct error *connect_fd(struct transport_address *address, uint32_t number,
				const char *name, int *fd)
{
	if (number >= address->fd_count || address->fds[number] < 0)
		return error_usage("'%s' has %u descriptors, and there is none for %s",
				   address->text, address->fd_count, name);
	*fd = TAKE_FD(address->fds[number]);
	return NULL;
}

static struct error *connect_exec(const struct attempt *attempt, const char *label, int *fd,
				  struct child **child)
{
	AUTO_FREE char *command = NULL;

	/* @label has a space before a number, and nothing that a shell would look at. */
	if (asprintf(&command, "GODWIT_CHANNEL=%s; export GODWIT_CHANNEL; %s",
		     strrchr(label, ' ') ? strrchr(label, ' ') + 1 : label,
		     attempt->address->host) < 0)
		return error_system(ENOMEM, "%s", attempt->name);
	return child_start(command, CHILD_BOTH, fd, child);
}

struct error *transport_connect(struct transport_address *address, uint32_t number,
				const char *label, int cancel_fd, int timeout_ms,
				struct transport **transport)
{
	struct attempt attempt = {.address = address,
				  .cancel_fd = cancel_fd,
				  .deadline = clock_monotonic_ns() + timeout_ms * NS_PER_MS};
	AUTO_CHILD struct child *child = NULL;
	AUTO_FREE char *name = NULL;
	int fd = -1;

	if (asprintf(&name, "%s, %s", address->text, label) < 0)
		return error_system(ENOMEM, "%s", address->text);
	attempt.name = name;
	switch (address->kind) {
	case TRANSPORT_TCP:
		TRY(connect_tcp(&attempt, &fd));
		break;
	case TRANSPORT_UNIX:
		TRY(connect_unix(&attempt, &fd));
		break;
	case TRANSPORT_VSOCK:
		TRY(connect_vsock(&attempt, &fd));
		break;
	case TRANSPORT_FD:
		TRY(connect_fd(address, number, name, &fd));
		break;
	case TRANSPORT_EXEC:
		TRY(connect_exec(&attempt, label, &fd, &child));
		break;
	}
	TRY(transport_adopt(fd, name, transport));
	transport_set_child(*transport, TAKE_PTR(child));
	return NULL;
}
