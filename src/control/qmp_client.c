/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The client of qmp_client.h. The VM controls what arrives: messages are bounded by the framer,
 * events that nobody takes by EVENTS_MAX.
 */
#include "control/qmp_client.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "control/qmp_framer.h"

#define EVENTS_MAX 1024

struct qmp_client {
	int fd;
	int64_t timeout_ns; /* for an answer */
	struct qmp_framer framer;
	json_t *messages; /* array: received, not yet looked at */
	json_t *events;	  /* array */
};

void qmp_client_close(struct qmp_client *client)
{
	if (!client)
		return;
	close_fd(&client->fd);
	qmp_framer_clear(&client->framer);
	json_decref(client->messages);
	json_decref(client->events);
	free(client);
}

static void take_message(void *context, const char *text, size_t size)
{
	struct qmp_client *client = context;
	json_t *message = json_loadb(text, size, 0, NULL);

	json_array_append_new(client->messages, message ?: json_null());
}

/* Waits until @deadline (-1: for ever) for bytes and takes them. -ETIMEDOUT, -ECONNRESET, another
 * -errno, or 0. */
static int receive(struct qmp_client *client, int64_t deadline)
{
	struct pollfd poll_fd = {.fd = client->fd, .events = POLLIN};
	char buffer[4096];
	ssize_t received;
	int timeout = -1, ready;

	if (deadline >= 0) {
		int64_t left = deadline - clock_monotonic_ns();

		timeout = left > 0 ? (int)(left / NS_PER_MS) + 1 : 0;
	}
	ready = poll(&poll_fd, 1, timeout);
	if (ready == 0)
		return -ETIMEDOUT;
	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	received = recv(client->fd, buffer, sizeof(buffer), 0);
	if (received < 0)
		return errno == EINTR ? 0 : -errno;
	if (received == 0)
		return -ECONNRESET;
	return qmp_framer_feed(&client->framer, buffer, (size_t)received, take_message, client);
}

static struct error *receive_error(int failure)
{
	switch (-failure) {
	case ETIMEDOUT:
		return error_new(ETIMEDOUT, "the VM does not answer");
	case ECONNRESET:
		return error_new(ECONNRESET,
				 "the VM closed the connection: it has ended, or this client "
				 "was dropped (see its log)");
	default:
		return error_system(-failure, "cannot receive from the VM");
	}
}

/* The next message that is not an event; events are put aside. */
static struct error *next_response(struct qmp_client *client, int64_t deadline, json_t **response)
{
	for (;;) {
		while (json_array_size(client->messages)) {
			json_t *message = json_incref(json_array_get(client->messages, 0));

			json_array_remove(client->messages, 0);
			if (!json_object_get(message, "event")) {
				*response = message;
				return NULL;
			}
			if (json_array_size(client->events) == EVENTS_MAX)
				json_array_remove(client->events, 0);
			json_array_append_new(client->events, message);
		}
		int failure = receive(client, deadline);

		if (failure)
			return receive_error(failure);
	}
}

struct error *qmp_client_next_event(struct qmp_client *client, int64_t timeout_ns, json_t **event)
{
	int64_t deadline = timeout_ns < 0 ? -1 : clock_monotonic_ns() + timeout_ns;

	*event = NULL;
	for (;;) {
		int failure;

		while (json_array_size(client->messages)) {
			json_t *message = json_incref(json_array_get(client->messages, 0));

			json_array_remove(client->messages, 0);
			if (json_object_get(message, "event"))
				json_array_append_new(client->events, message);
			else
				json_decref(message);
		}
		if (json_array_size(client->events)) {
			*event = json_incref(json_array_get(client->events, 0));
			json_array_remove(client->events, 0);
			return NULL;
		}
		failure = receive(client, deadline);
		if (failure == -ETIMEDOUT)
			return NULL;
		if (failure)
			return receive_error(failure);
	}
}

/* As send; @fd goes along unless it is -1. */
static ssize_t send_some(const struct qmp_client *client, const char *text, size_t size, int fd)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec part = {(char *)text, size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
						  .cmsg_type = SCM_RIGHTS,
						  .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	return sendmsg(client->fd, &message, MSG_NOSIGNAL);
}

static struct error *send_all(struct qmp_client *client, const char *text, size_t size, int fd)
{
	while (size) {
		ssize_t sent = send_some(client, text, size, fd);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EPIPE ? receive_error(-ECONNRESET)
					      : error_system(errno, "cannot send to the VM");
		text += sent;
		size -= (size_t)sent;
		fd = -1;
	}
	return NULL;
}

static struct error *execute(struct qmp_client *client, const char *command, json_t *arguments,
			     int fd, json_t **result)
{
	AUTO_JSON json_t *request = json_pack("{s:s}", "execute", command);
	AUTO_FREE char *text = NULL;
	AUTO_JSON json_t *response = NULL;
	json_t *value;

	if (arguments)
		json_object_set_new(request, "arguments", arguments);
	text = json_dumps(request, JSON_COMPACT);
	if (!text)
		return error_usage("the command or its arguments are not valid UTF-8");
	TRY(send_all(client, text, strlen(text), fd));
	TRY(next_response(client, clock_monotonic_ns() + client->timeout_ns, &response));
	value = json_object_get(response, "error");
	if (value) {
		const char *message = json_string_value(json_object_get(value, "desc"));
		size_t prefix = strlen(command);

		/* "command: " in front helps a person at the socket; here the caller says what was
		 * done. */
		message = message ?: "refused without a reason";
		if (strncmp(message, command, prefix) == 0 &&
		    strncmp(message + prefix, ": ", 2) == 0)
			message += prefix + 2;
		return error_new(EREMOTEIO, "%s", message);
	}
	value = json_object_get(response, "return");
	if (!value)
		return error_new(EPROTO, "the VM's answer is not one of QMP");
	if (result)
		*result = json_incref(value);
	return NULL;
}

struct error *qmp_client_execute(struct qmp_client *client, const char *command, json_t *arguments,
				 json_t **result)
{
	return execute(client, command, arguments, -1, result);
}

struct error *qmp_client_pass(struct qmp_client *client, int fd, const char *name)
{
	return execute(client, "getfd", json_pack("{s:s}", "fdname", name), fd, NULL);
}

/* Reads the greeting and leaves negotiation mode. */
static struct error *negotiate(struct qmp_client *client)
{
	AUTO_JSON json_t *greeting = NULL;

	TRY(next_response(client, clock_monotonic_ns() + client->timeout_ns, &greeting));
	if (!json_object_get(greeting, "QMP"))
		return error_new(EPROTO, "what answers is not a QMP server");
	return qmp_client_execute(client, "qmp_capabilities", NULL, NULL);
}

struct error *qmp_client_connect(const char *path, int64_t timeout_ns, struct qmp_client **result)
{
	AUTO_QMP_CLIENT struct qmp_client *client = calloc(1, sizeof(*client));
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (!client)
		return error_system(ENOMEM, "control client");
	client->timeout_ns = timeout_ns;
	client->messages = json_array();
	client->events = json_array();
	client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd < 0)
		return error_system(errno, "cannot create a socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return error_usage("the socket's path %s is too long", path);
	strcpy(address.sun_path, path);
	if (connect(client->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_system(errno, "cannot connect to %s", path);
	TRY(negotiate(client));
	*result = TAKE_PTR(client);
	return NULL;
}
