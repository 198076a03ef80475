/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's end of a socket device, in the style that Firecracker made known: unix sockets of the
 * host stand for ports.
 *
 *	A program of the host connects to PATH, writes "CONNECT <port>\n", and reads "OK <host
 *      port>\n" once the guest's program has accepted; then the connection is a plain stream. A
 *      program of the guest that connects to port P of cid 2 is connected to the unix socket
 *      PATH_P.
 *
 * All of these are non-blocking; the device's loop calls them.
 */
#ifndef GODWIT_VIRTIO_VSOCK_HOST_H
#define GODWIT_VIRTIO_VSOCK_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "base/error.h"

/* The longest PATH, with room for "_<port>". */
#define VSOCK_PATH_MAX	   (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 - 11)
#define VSOCK_GREETING_MAX 32

/* A line that arrives in pieces. */
struct vsock_greeting {
	char line[VSOCK_GREETING_MAX];
	uint8_t used;
};

/* Listens at @path. A socket that nobody listens at any more is replaced. */
struct error *vsock_host_listen(const char *path, int *fd) MUST_CHECK;
/* Takes the next connection at @listener. A descriptor, or a negative errno (-EAGAIN: none). */
int vsock_host_accept(int listener);
/* Connects to the socket for @port. A descriptor, or a negative errno. */
int vsock_host_connect(const char *path, uint32_t port);
/*
 * Reads of @fd up to the end of the line. 1: *port is the one asked for, and nothing behind the
 * line was taken; 0: more has to come; -1: not a greeting, or the other end is gone.
 */
int vsock_host_greeting(int fd, struct vsock_greeting *greeting, uint32_t *port);
/* Tells the program that it is connected. False if that is not possible. */
bool vsock_host_confirm(int fd, uint32_t host_port);

/*
 * As a program of the host: connects to PATH and asks for @port. A descriptor, or a negative errno.
 */
int vsock_host_call(const char *path, uint32_t port);
/* Whether the guest has accepted: 1: yes; 0: not yet; -1: it has not, and will not. */
int vsock_host_called(int fd);

#endif
