/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Unix sockets of vsock_host.h. Programs of the host control the greeting; the guest controls only
 * the port in a name.
 *
 * System calls: socket, bind, listen, accept4, connect, recv, send, unlink.
 */
#include "virtio/vsock_host.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/size.h"

static int new_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	AUTO_CLOSE int fd = new_socket();

	if (fd < 0)
		return -errno;
	memcpy(address.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	return TAKE_FD(fd);
}

int vsock_host_connect(const char *path, uint32_t port)
{
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];

	snprintf(name, sizeof(name), "%s_%" PRIu32, path, port);
	return connect_to(name);
}

struct error *vsock_host_listen(const char *path, int *result)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	AUTO_CLOSE int fd = -1;
	int other;

	if (!*path || strlen(path) > VSOCK_PATH_MAX)
		return error_usage("path: '%s' must have 1 to %zu characters", path,
				   VSOCK_PATH_MAX);
	fd = new_socket();
	if (fd < 0)
		return error_system(errno, "cannot create a unix socket");
	memcpy(address.sun_path, path, strlen(path));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address))) {
		if (errno != EADDRINUSE)
			return error_system(errno, "cannot listen at '%s'", path);
		other = connect_to(path);
		if (other >= 0)
			close(other);
		if (other != -ECONNREFUSED)
			return error_new(
			    EADDRINUSE,
			    "cannot listen at '%s': another program does, or it is not a "
			    "socket; choose another path or remove it",
			    path);
		/* What is left of a program that ended. */
		if (unlink(path) || bind(fd, (struct sockaddr *)&address, sizeof(address)))
			return error_system(errno, "cannot listen at '%s'", path);
	}
	if (listen(fd, 64))
		return error_system(errno, "cannot listen at '%s'", path);
	*result = TAKE_FD(fd);
	return NULL;
}

int vsock_host_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int parse_greeting(const struct vsock_greeting *greeting, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	AUTO_ERROR struct error *error = NULL;
	uint64_t number = 0;

	if (strncmp(greeting->line, word, strlen(word)) != 0)
		return -1;
	error = number_parse(greeting->line + strlen(word), UINT32_MAX, &number);
	*port = (uint32_t)number;
	return error ? -1 : 1;
}

int vsock_host_greeting(int fd, struct vsock_greeting *greeting, uint32_t *port)
{
	char *begin = greeting->line + greeting->used, *end;
	size_t room = sizeof(greeting->line) - 1 - greeting->used;
	ssize_t size = recv(fd, begin, room, MSG_PEEK | MSG_DONTWAIT);

	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (!size)
		return -1;
	/* Take the line and nothing behind it: that is for the guest. */
	end = memchr(begin, '\n', (size_t)size);
	if (end)
		size = end - begin + 1;
	if (recv(fd, begin, (size_t)size, MSG_DONTWAIT) != size)
		return -1;
	greeting->used += size;
	if (end) {
		*end = '\0';
		return parse_greeting(greeting, port);
	}
	return greeting->used < sizeof(greeting->line) - 1 ? 0 : -1;
}

bool vsock_host_confirm(int fd, uint32_t host_port)
{
	char line[24];
	int size = snprintf(line, sizeof(line), "OK %" PRIu32 "\n", host_port);

	/* The socket is fresh: its buffer takes a line. */
	return send(fd, line, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) == size;
}

int vsock_host_call(const char *path, uint32_t port)
{
	char line[VSOCK_GREETING_MAX];
	int size = snprintf(line, sizeof(line), "CONNECT %" PRIu32 "\n", port);
	AUTO_CLOSE int fd = connect_to(path);

	if (fd < 0)
		return fd;
	if (send(fd, line, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) != size)
		return -EPIPE;
	return TAKE_FD(fd);
}

int vsock_host_called(int fd)
{
	char line[3];
	ssize_t size = recv(fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);

	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (!size)
		return -1;
	return size < (ssize_t)sizeof(line) ? 0 : memcmp(line, "OK ", sizeof(line)) == 0 ? 1 : -1;
}
