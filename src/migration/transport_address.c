/* SPDX-License-Identifier: BSD-2-Clause */
/* Addresses of transport.h. Whoever operates the machine gives them. */
#include <linux/vm_sockets.h>
#include <string.h>

#include "base/size.h"
#include "migration/transport_private.h"

void transport_address_free(struct transport_address *address)
{
	if (!address)
		return;
	for (uint32_t i = 0; address->owns_fds && i < address->fd_count; i++)
		close_fd(&address->fds[i]);
	free(address->text);
	free(address->host);
	free(address->port);
	free(address);
}

void transport_unix_address(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, path, strlen(path));
}

static struct error *no_memory(const struct transport_address *address)
{
	return error_system(ENOMEM, "%s", address->text);
}

/* "HOST:PORT", "[ADDRESS]:PORT". */
static struct error *parse_tcp(struct transport_address *address, const char *text, bool listening)
{
	const char *colon = strrchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : 0;

	if (!colon || !colon[1])
		return error_usage("'%s' has no port: use tcp:HOST:PORT", address->text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	} else if (memchr(text, ':', length)) {
		return error_usage("'%s' is not clear: put an IPv6 address in brackets, as in "
				   "tcp:[::1]:4444",
				   address->text);
	}
	if (!length && !listening)
		return error_usage("'%s' has no host: use tcp:HOST:PORT", address->text);
	address->host = strndup(text, length);
	address->port = strdup(colon + 1);
	return address->host && address->port ? NULL : no_memory(address);
}

static struct error *parse_unix(struct transport_address *address, const char *path)
{
	struct sockaddr_un socket;

	if (!*path || strlen(path) >= sizeof(socket.sun_path))
		return error_usage(
		    "'%s' cannot be a socket: its path must have 1 to %zu characters",
		    address->text, sizeof(socket.sun_path) - 1);
	address->host = strdup(path);
	return address->host ? NULL : no_memory(address);
}

static struct error *parse_vsock(struct transport_address *address, const char *text,
				 bool listening)
{
	const char *colon = strchr(text, ':');
	uint64_t cid = VMADDR_CID_ANY, port;
	AUTO_FREE char *first = NULL;
	struct error *error = NULL;

	if (!colon || (colon == text && !listening))
		return error_usage("'%s' is not complete: use vsock:CID:PORT", address->text);
	first = strndup(text, (size_t)(colon - text));
	if (!first)
		return no_memory(address);
	if (*first)
		error = number_parse(first, UINT32_MAX, &cid);
	if (!error)
		error = number_parse(colon + 1, UINT32_MAX - 1, &port);
	if (error)
		return error_prefix(error, "%s", address->text);
	address->vsock_cid = (unsigned int)cid;
	address->vsock_port = (unsigned int)port;
	return NULL;
}

/* "7+8+9" or "7+fd:8+fd:9". */
static struct error *parse_fds(struct transport_address *address, const char *text)
{
	for (;;) {
		size_t length = strcspn(text, "+");
		AUTO_FREE char *number = strndup(text, length);
		struct error *error;
		uint64_t fd;

		if (!number)
			return no_memory(address);
		error = number_parse(number, INT32_MAX, &fd);
		if (error)
			return error_prefix(error, "%s", address->text);
		if (address->fd_count == TRANSPORT_FDS_MAX)
			return error_usage("'%s' has more than %d descriptors", address->text,
					   TRANSPORT_FDS_MAX);
		for (uint32_t i = 0; i < address->fd_count; i++)
			if (address->fds[i] == (int)fd)
				return error_usage("'%s' names descriptor %d twice", address->text,
						   (int)fd);
		address->fds[address->fd_count++] = (int)fd;
		if (!text[length])
			return NULL;
		text += length + 1;
		if (strncmp(text, "fd:", 3) == 0)
			text += 3;
	}
}

static struct error *parse(struct transport_address *address, const char *text, bool listening)
{
	static const char *const prefixes[] = {
	    [TRANSPORT_TCP] = "tcp:", [TRANSPORT_UNIX] = "unix:", [TRANSPORT_VSOCK] = "vsock:",
	    [TRANSPORT_FD] = "fd:",   [TRANSPORT_EXEC] = "exec:",
	};
	int kind = TRANSPORT_TCP;

	while (kind <= TRANSPORT_EXEC && strncmp(text, prefixes[kind], strlen(prefixes[kind])) != 0)
		kind++;
	if (kind > TRANSPORT_EXEC)
		return error_usage("'%s' is not an address: use tcp:HOST:PORT, unix:PATH, "
				   "vsock:CID:PORT, fd:NUMBER or exec:COMMAND",
				   text);
	text += strlen(prefixes[kind]);
	address->kind = (enum transport_kind)kind;
	switch (address->kind) {
	case TRANSPORT_TCP:
		return parse_tcp(address, text, listening);
	case TRANSPORT_UNIX:
		return parse_unix(address, text);
	case TRANSPORT_VSOCK:
		return parse_vsock(address, text, listening);
	case TRANSPORT_FD:
		return parse_fds(address, text);
	case TRANSPORT_EXEC:
		if (!*text)
			return error_usage("'%s' has no command", address->text);
		address->host = strdup(text);
		return address->host ? NULL : no_memory(address);
	}
	return NULL;
}

struct error *transport_address_parse(const char *text, bool listening,
				      struct transport_address **result)
{
	AUTO_TRANSPORT_ADDRESS struct transport_address *address = calloc(1, sizeof(*address));

	if (!address || !(address->text = strdup(text)))
		return error_system(ENOMEM, "%s", text);
	TRY(parse(address, text, listening));
	*result = TAKE_PTR(address);
	return NULL;
}

struct error *transport_resolve(const struct transport_address *address, int flags,
				struct addrinfo **found)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	int result;

	hints.ai_flags = flags;
	result = getaddrinfo(*address->host ? address->host : NULL, address->port, &hints, found);
	if (result == EAI_SYSTEM)
		return error_system(errno, "%s", address->text);
	if (result)
		return error_new(EHOSTUNREACH, "%s: %s", address->text, gai_strerror(result));
	return NULL;
}
