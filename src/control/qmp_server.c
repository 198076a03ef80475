/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The socket side of QMP. Everything runs on the main loop and nothing here waits for a client:
 * what a client does not read is kept up to QMP_OUTPUT_MAX, then the client is dropped with a log
 * line; a client with much unread output is not read from until it has taken some. What a client
 * sends is bounded by the framer.
 *
 * A client may be dropped in the middle of one of its own commands (the command's event did not fit
 * into its queue), so dropping only closes and marks; client_reap frees when no handler is inside a
 * client.
 */
#include "control/qmp_server.h"

#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/qmp_framer.h"

#define READ_SIZE     4096
#define OUTPUT_STALL  (256 * 1024) /* bytes: stop reading commands above this */
#define OUTPUT_KEEP   16384	   /* a larger empty buffer is given back */
#define FLUSH_TIME_NS NS_PER_SECOND

struct qmp_client {
	struct qmp_server *server;
	struct qmp_client *next;
	int fd; /* -1: dropped, waits to be freed */
	struct event_source *source;
	struct qmp_framer framer;
	struct qmp_session session;
	struct qmp_descriptors descriptors;
	char *output;
	size_t output_start, output_end, output_capacity; /* bytes */
	bool ended; /* the client sends no more; close when it has read everything */
};

struct qmp_server {
	struct event_loop *loop;
	int fd;
	struct event_source *source;
	const struct qmp_command *commands;
	void *context;
	struct qmp_client *clients;
	uint32_t count;
	uint32_t inside;	    /* handlers that hold a client pointer */
	struct qmp_client *current; /* whose command runs, or NULL */
};

static size_t output_waiting(const struct qmp_client *client)
{
	return client->output_end - client->output_start;
}

static void client_drop(struct qmp_client *client)
{
	if (client->fd < 0)
		return;
	event_source_remove(TAKE_PTR(client->source));
	close_fd(&client->fd);
	client->server->count--;
}

static void client_free(struct qmp_client *client)
{
	client_drop(client);
	qmp_framer_clear(&client->framer);
	qmp_descriptors_clear(&client->descriptors);
	free(client->output);
	free(client);
}

/* Frees dropped clients once nobody can be using one. */
static void client_reap(struct qmp_server *server)
{
	struct qmp_client **link = &server->clients;

	if (server->inside)
		return;
	while (*link) {
		struct qmp_client *client = *link;

		if (client->fd < 0) {
			*link = client->next;
			client_free(client);
		} else {
			link = &client->next;
		}
	}
}

/* What the client is waited for, from its state. */
static void client_update_events(struct qmp_client *client)
{
	uint32_t events = 0;

	if (client->fd < 0)
		return;
	if (output_waiting(client))
		events |= EPOLLOUT;
	if (!client->ended && output_waiting(client) < OUTPUT_STALL)
		events |= EPOLLIN;
	event_source_set_events(client->source, events);
}

/* Sends what the socket takes; drops the client when it is gone, or done. */
static void client_send(struct qmp_client *client)
{
	while (client->fd >= 0 && output_waiting(client)) {
		ssize_t sent = send(client->fd, client->output + client->output_start,
				    output_waiting(client), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (sent < 0) {
			client_drop(client);
			return;
		}
		client->output_start += (size_t)sent;
	}
	if (!output_waiting(client)) {
		client->output_start = client->output_end = 0;
		if (client->output_capacity > OUTPUT_KEEP) {
			free(TAKE_PTR(client->output));
			client->output_capacity = 0;
		}
		if (client->ended)
			client_drop(client);
	}
	client_update_events(client);
}

/* Makes room for @size more bytes; false when the client has too much unread or memory is short. */
static bool output_reserve(struct qmp_client *client, size_t size)
{
	size_t waiting = output_waiting(client);
	size_t capacity = client->output_capacity ?: 1024;
	char *grown;

	if (size > QMP_OUTPUT_MAX || waiting > QMP_OUTPUT_MAX - size)
		return false;
	if (client->output_start) {
		memmove(client->output, client->output + client->output_start, waiting);
		client->output_start = 0;
		client->output_end = waiting;
	}
	while (capacity < waiting + size)
		capacity *= 2;
	if (capacity == client->output_capacity)
		return true;
	grown = realloc(client->output, capacity);
	if (!grown)
		return false;
	client->output = grown;
	client->output_capacity = capacity;
	return true;
}

/* Queues a line; sending starts at once. */
static void client_write(struct qmp_client *client, const char *text, size_t size)
{
	if (client->fd < 0)
		return;
	if (!output_reserve(client, size + 2)) {
		log_warning("a control client does not read what it is sent: dropped with %zu "
			    "bytes waiting",
			    output_waiting(client));
		client_drop(client);
		return;
	}
	memcpy(client->output + client->output_end, text, size);
	memcpy(client->output + client->output_end + size, "\r\n", 2);
	client->output_end += size + 2;
	client_send(client);
}

/* Queues @message, which is freed. */
static void client_write_json(struct qmp_client *client, json_t *message)
{
	AUTO_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

	json_decref(message);
	if (text) {
		client_write(client, text, strlen(text));
	} else {
		log_error("no memory for an answer: a control client is dropped");
		client_drop(client);
	}
}

static void client_message(void *context, const char *text, size_t size)
{
	struct qmp_client *client = context;
	struct qmp_server *server = client->server;
	json_t *answer;

	if (client->fd < 0)
		return;
	server->current = client;
	answer = qmp_dispatch(server->commands, server->context, &client->session, text, size);
	server->current = NULL;
	client_write_json(client, answer);
}

struct qmp_descriptors *qmp_server_descriptors(const struct qmp_server *server)
{
	return server && server->current ? &server->current->descriptors : NULL;
}

/* As recv, and keeps the descriptors that came along; what does not fit the kernel closes. */
static ssize_t receive_some(struct qmp_client *client, void *buffer, size_t size)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(QMP_DESCRIPTORS_WAITING * sizeof(int))];
	} control;
	struct iovec part = {buffer, size};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	ssize_t received = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (received < 0)
		return received;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header;
	     header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= header->cmsg_len;
		     at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + at, sizeof(fd));
			qmp_descriptors_add(&client->descriptors, fd);
		}
	}
	return received;
}

static void client_receive(struct qmp_client *client)
{
	char buffer[READ_SIZE];
	ssize_t received = receive_some(client, buffer, sizeof(buffer));
	int failure;

	if (received < 0) {
		if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
			client_drop(client);
		return;
	}
	if (received == 0) {
		client->ended = true;
		client_send(client); /* drops it if nothing waits */
		return;
	}
	failure =
	    qmp_framer_feed(&client->framer, buffer, (size_t)received, client_message, client);
	if (failure && client->fd >= 0) {
		log_warning("a control client sent a message of more than %d bytes: dropped",
			    QMP_MESSAGE_MAX);
		client_drop(client);
	}
	client_update_events(client);
}

static void client_ready(void *context, uint32_t events)
{
	struct qmp_client *client = context;
	struct qmp_server *server = client->server;

	server->inside++;
	if (events & EPOLLOUT)
		client_send(client);
	if (client->fd >= 0 && !client->ended && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		client_receive(client);
	else if (client->fd >= 0 && events & (EPOLLHUP | EPOLLERR))
		client_drop(client);
	server->inside--;
	client_reap(server);
}

static void accept_client(void *context, uint32_t events)
{
	struct qmp_server *server = context;
	int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct qmp_client *client;
	struct error *error;

	if (fd < 0)
		return;
	if (server->count >= QMP_CLIENTS_MAX) {
		log_warning("a control client was refused: %d are connected", QMP_CLIENTS_MAX);
		close(fd);
		return;
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return;
	}
	client->server = server;
	error = event_loop_add(server->loop, fd, EPOLLIN, client_ready, client, &client->source);
	if (error) {
		log_warning("a control client was refused: %s", error_message(error));
		error_free(error);
		close(fd);
		free(client);
		return;
	}
	client->fd = fd;
	client->next = server->clients;
	server->clients = client;
	server->count++;
	server->inside++;
	client_write_json(client, qmp_greeting());
	server->inside--;
	client_reap(server);
}

static struct error *listen_at(const char *path, int *result)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_system(errno, "cannot create a socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return error_usage("the socket's path %s is too long", path);
	strcpy(address.sun_path, path);
	/* The socket file gets this mode: only the owner may connect. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 16) < 0)
		return error_system(errno, "cannot listen at %s", path);
	*result = TAKE_FD(fd);
	return NULL;
}

struct error *qmp_server_adopt(struct event_loop *loop, int fd, const struct qmp_command *commands,
			       void *context, struct qmp_server **result)
{
	struct qmp_server *server = calloc(1, sizeof(*server));
	AUTO_CLOSE int own = fd;
	struct error *error;

	if (!server)
		return error_system(ENOMEM, "control socket");
	server->loop = loop;
	server->commands = commands;
	server->context = context;
	error = event_loop_add(loop, own, 0, accept_client, server, &server->source);
	if (error) {
		free(server);
		return error;
	}
	server->fd = TAKE_FD(own);
	*result = server;
	return NULL;
}

struct error *qmp_server_create(struct event_loop *loop, const char *path,
				const struct qmp_command *commands, void *context,
				struct qmp_server **result)
{
	int fd = -1;

	TRY(listen_at(path, &fd));
	TRY(qmp_server_adopt(loop, fd, commands, context, result));
	qmp_server_accept(*result, true);
	return NULL;
}

void qmp_server_accept(struct qmp_server *server, bool accept)
{
	if (server)
		event_source_set_events(server->source, accept ? EPOLLIN : 0);
}

int qmp_server_socket(const struct qmp_server *server)
{
	return server ? server->fd : -1;
}

/* Waits, until @deadline, for the client to take what waits for it. */
static void client_flush(struct qmp_client *client, int64_t deadline)
{
	while (client->fd >= 0 && output_waiting(client)) {
		struct pollfd poll_fd = {.fd = client->fd, .events = POLLOUT};
		int64_t left = deadline - clock_monotonic_ns();

		if (left <= 0 || poll(&poll_fd, 1, (int)(left / NS_PER_MS) + 1) <= 0)
			return;
		client_send(client);
	}
}

void qmp_server_destroy(struct qmp_server *server)
{
	int64_t deadline = clock_monotonic_ns() + FLUSH_TIME_NS;

	if (!server)
		return;
	event_source_remove(server->source);
	close_fd(&server->fd);
	while (server->clients) {
		struct qmp_client *client = server->clients;

		server->clients = client->next;
		client_flush(client, deadline);
		client_free(client);
	}
	free(server);
}

void qmp_server_broadcast(struct qmp_server *server, json_t *event)
{
	AUTO_FREE char *text = json_dumps(event, JSON_COMPACT);

	if (!text)
		return;
	server->inside++;
	for (struct qmp_client *client = server->clients; client; client = client->next)
		if (client->session.negotiated)
			client_write(client, text, strlen(text));
	server->inside--;
	client_reap(server);
}

uint32_t qmp_server_clients(const struct qmp_server *server)
{
	return server ? server->count : 0;
}
