/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's side of a socket device's connections, see vsock_connection.h.
 *
 * Data for the guest is never buffered here: a readable socket puts its connection in line, and
 * vsock.c reads from it straight into a receive buffer. Data of the guest is sent at once; what the
 * socket does not take is buffered, within the credit that the guest was given.
 *
 * A socket whose other end is gone reports EPOLLHUP for ever, so it is not watched any more:
 * reading it does not wait anyway, and writing fails.
 *
 * Programs of the host control when data comes and goes; the guest controls what it sends. Nothing
 * but attaching can fail.
 *
 * System calls: recvmsg (readv), sendmsg, shutdown, close, madvise.
 */
#include "virtio/vsock_connection.h"

#include <assert.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/iov.h"

#define ANSWER_TIME_NS (5 * NS_PER_SECOND) /* for the guest to answer a REQUEST */
#define CLOSE_TIME_NS  (8 * NS_PER_SECOND) /* and a SHUTDOWN: as long as Linux waits */
#define HOST_PORT_BASE 0x40000000	   /* where ports of the host's programs begin */

/* --- The table --- */

struct vsock_connection *vsock_connection_new(struct virtio_vsock *vsock)
{
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->flow.state != VSOCK_FREE)
			continue;
		*connection = (struct vsock_connection){
		    .vsock = vsock,
		    .fd = -1,
		    .buffer.bytes = vsock->buffers + (size_t)i * VSOCK_BUFFER_SIZE,
		};
		return connection;
	}
	return NULL;
}

struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock, uint32_t guest_port,
					       uint32_t host_port)
{
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++) {
		const struct vsock_flow *flow = &vsock->connections[i].flow;

		if (flow->guest_port == guest_port && flow->host_port == host_port &&
		    flow->state >= VSOCK_REQUESTED && flow->state <= VSOCK_CLOSING)
			return &vsock->connections[i];
	}
	return NULL;
}

static void unschedule(struct vsock_connection *connection)
{
	struct virtio_vsock *vsock = connection->vsock;
	struct vsock_connection **link = &vsock->ready_first;

	if (!connection->ready)
		return;
	while (*link != connection)
		link = &(*link)->next_ready;
	*link = connection->next_ready;
	if (!*link)
		vsock->ready_end = link;
	connection->ready = false;
}

void vsock_connection_schedule(struct vsock_connection *connection)
{
	struct virtio_vsock *vsock = connection->vsock;

	if (connection->ready || !connection->flow.pending)
		return;
	connection->ready = true;
	connection->next_ready = NULL;
	*vsock->ready_end = connection;
	vsock->ready_end = &connection->next_ready;
}

static void close_socket(struct vsock_connection *connection)
{
	event_source_remove(TAKE_PTR(connection->source));
	close_fd(&connection->fd);
}

void vsock_connection_release(struct vsock_connection *connection)
{
	struct virtio_vsock *vsock = connection->vsock;

	unschedule(connection);
	close_socket(connection);
	/* The next user of the slot may never need it. */
	madvise(connection->buffer.bytes, VSOCK_BUFFER_SIZE, MADV_DONTNEED);
	connection->flow.state = VSOCK_FREE;
	connection->flow.pending = 0;
	vsock->used--;
	vsock_listener_update(vsock);
}

/* --- Time limits --- */

static void limit(struct vsock_connection *connection, int64_t delay_ns)
{
	connection->deadline_ns = clock_monotonic_ns() + delay_ns;
	event_timer_arm(connection->vsock->timer, NS_PER_SECOND);
}

void vsock_check_deadlines(void *context)
{
	struct virtio_vsock *vsock = context;
	int64_t now = clock_monotonic_ns();
	bool any = false;

	for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->flow.state == VSOCK_FREE || !connection->deadline_ns)
			continue;
		if (now < connection->deadline_ns) {
			any = true;
			continue;
		}
		vsock_connection_refuse(connection);
	}
	if (any)
		event_timer_arm(vsock->timer, NS_PER_SECOND);
	vsock_send(vsock);
}

/* --- From the guest to the host --- */

/* The host's program takes no more: what is buffered is lost to it, as with any socket. */
static void host_refuses(struct vsock_connection *connection)
{
	uint32_t lost = connection->buffer.used;

	connection->buffer.used = 0;
	if (connection->flow.state == VSOCK_DRAINING) {
		vsock_connection_release(connection);
		return;
	}
	vsock_flow_forwarded(&connection->flow, lost);
	vsock_flow_shut_host(&connection->flow, VSOCK_SHUTDOWN_RECEIVE);
	vsock_connection_shut(connection);
}

void vsock_connection_shut(struct vsock_connection *connection)
{
	struct vsock_flow *flow = &connection->flow;

	if (flow->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE) {
		flow->pending &= ~(VSOCK_SEND_DATA | VSOCK_SEND_CREDIT_REQUEST);
		if (connection->fd >= 0)
			shutdown(connection->fd, SHUT_RD);
	}
	if (!connection->buffer.used) {
		if (flow->guest_shutdown & VSOCK_SHUTDOWN_SEND && connection->fd >= 0)
			shutdown(connection->fd, SHUT_WR);
		/* A clean end: RST says that the ports may be used again (5.10.6.5). */
		if (flow->guest_shutdown == VSOCK_SHUTDOWN_BOTH) {
			vsock_connection_refuse(connection);
			return;
		}
	}
	vsock_connection_schedule(connection);
}

static void flush(struct vsock_connection *connection)
{
	ssize_t sent = vsock_buffer_flush(&connection->buffer, connection->fd);

	if (sent < 0) {
		host_refuses(connection);
		return;
	}
	if (connection->flow.state == VSOCK_DRAINING) {
		if (!connection->buffer.used)
			vsock_connection_release(connection);
		return;
	}
	vsock_flow_forwarded(&connection->flow, (uint32_t)sent);
	if (!connection->buffer.used && connection->flow.guest_shutdown)
		vsock_connection_shut(connection);
	vsock_connection_schedule(connection);
}

void vsock_connection_deliver(struct vsock_connection *connection, struct iovec *iov,
			      uint16_t count, uint32_t size)
{
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t sent = 0;
	uint16_t first;

	if (!size)
		return;
	if (!connection->buffer.used) {
		sent = sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN && errno != EINTR) {
			vsock_flow_forwarded(&connection->flow, size);
			host_refuses(connection);
			return;
		}
		sent = MAX(sent, 0);
		vsock_flow_forwarded(&connection->flow, (uint32_t)sent);
	}
	first = iov_skip(iov, count, (size_t)sent);
	vsock_buffer_add(&connection->buffer, iov + first, count - first);
	vsock_connection_update(connection);
	vsock_connection_schedule(connection);
}

void vsock_connection_forget(struct vsock_connection *connection)
{
	/* What a program sent before it closed its socket is still to arrive. */
	if (connection->buffer.used && connection->source &&
	    connection->flow.guest_shutdown & VSOCK_SHUTDOWN_SEND) {
		unschedule(connection);
		connection->flow.state = VSOCK_DRAINING;
		connection->flow.pending = 0;
		connection->deadline_ns = 0;
		vsock_connection_update(connection);
		return;
	}
	vsock_connection_release(connection);
}

void vsock_connection_refuse(struct vsock_connection *connection)
{
	close_socket(connection);
	connection->buffer.used = 0;
	connection->deadline_ns = 0;
	connection->flow.state = VSOCK_CLOSING;
	connection->flow.pending = VSOCK_SEND_RST;
	vsock_connection_schedule(connection);
}

void vsock_connection_end(struct vsock_connection *connection)
{
	close_socket(connection);
	connection->buffer.used = 0;
	limit(connection, CLOSE_TIME_NS);
}

void vsock_connection_credit(struct vsock_connection *connection)
{
	const struct vsock_flow *flow = &connection->flow;

	if (connection->hung_up && flow->state == VSOCK_ESTABLISHED &&
	    !(flow->host_shutdown & VSOCK_SHUTDOWN_SEND) &&
	    !(flow->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE))
		connection->flow.pending |= VSOCK_SEND_DATA;
	vsock_connection_update(connection);
	vsock_connection_schedule(connection);
}

void vsock_connection_confirm(struct vsock_connection *connection)
{
	connection->deadline_ns = 0;
	if (!vsock_host_confirm(connection->fd, connection->flow.host_port)) {
		vsock_connection_refuse(connection);
		return;
	}
	vsock_connection_update(connection);
}

/* --- From the host to the guest --- */

uint32_t vsock_connection_read(struct vsock_connection *connection, const struct iovec *iov,
			       uint16_t count)
{
	ssize_t size = connection->fd < 0 ? 0 : readv(connection->fd, iov, count);

	if (size > 0)
		return (uint32_t)size;
	connection->flow.pending &= ~VSOCK_SEND_DATA;
	if (size < 0 && (errno == EAGAIN || errno == EINTR) && !connection->hung_up) {
		vsock_connection_update(connection);
		return 0;
	}
	vsock_flow_shut_host(&connection->flow,
			     connection->hung_up ? VSOCK_SHUTDOWN_BOTH : VSOCK_SHUTDOWN_SEND);
	vsock_connection_update(connection);
	return 0;
}

/* --- What the loop calls --- */

void vsock_connection_update(struct vsock_connection *connection)
{
	const struct vsock_flow *flow = &connection->flow;
	uint32_t events = 0;

	if (!connection->source)
		return;
	if (connection->vsock->running) {
		bool wants =
		    flow->state == VSOCK_GREETING ||
		    (flow->state == VSOCK_ESTABLISHED && !(flow->pending & VSOCK_SEND_DATA) &&
		     vsock_flow_peer_room(flow) && !(flow->host_shutdown & VSOCK_SHUTDOWN_SEND) &&
		     !(flow->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE));

		if (wants)
			events |= EPOLLIN;
		if (connection->buffer.used)
			events |= EPOLLOUT;
	}
	event_source_set_events(connection->source, events);
}

/* A port for a program of the host that is not in use with @guest_port. */
static uint32_t choose_port(struct virtio_vsock *vsock, uint32_t guest_port)
{
	do {
		vsock->next_port = MAX(vsock->next_port + 1, HOST_PORT_BASE);
	} while (vsock->next_port == UINT32_MAX ||
		 vsock_connection_find(vsock, guest_port, vsock->next_port));
	return vsock->next_port;
}

static void greet(struct vsock_connection *connection)
{
	uint32_t port;
	int result = vsock_host_greeting(connection->fd, &connection->greeting, &port);

	if (!result)
		return;
	if (result < 0) {
		vsock_connection_release(connection);
		return;
	}
	vsock_flow_request(&connection->flow, port, choose_port(connection->vsock, port));
	limit(connection, ANSWER_TIME_NS);
	vsock_connection_update(connection);
	vsock_connection_schedule(connection);
}

static void hang_up(struct vsock_connection *connection)
{
	event_source_remove(TAKE_PTR(connection->source));
	connection->hung_up = true;
}

/* The other end is gone, and the socket is not watched any more: what follows of it. */
static void after_hang_up(struct vsock_connection *connection)
{
	switch (connection->flow.state) {
	case VSOCK_GREETING:
	case VSOCK_DRAINING:
		vsock_connection_release(connection);
		break;
	case VSOCK_REQUESTED:
		if (connection->flow.pending & VSOCK_SEND_REQUEST)
			vsock_connection_release(connection); /* the guest never heard of it */
		else
			vsock_connection_refuse(connection);
		break;
	case VSOCK_ESTABLISHED:
		if (connection->flow.host_shutdown & VSOCK_SHUTDOWN_SEND ||
		    connection->flow.guest_shutdown & VSOCK_SHUTDOWN_RECEIVE)
			vsock_flow_shut_host(&connection->flow, VSOCK_SHUTDOWN_BOTH);
		else
			connection->flow.pending |= VSOCK_SEND_DATA; /* to its end */
		if (connection->buffer.used)
			host_refuses(connection);
		vsock_connection_schedule(connection);
		break;
	default:
		break;
	}
}

void vsock_connections_update(struct virtio_vsock *vsock)
{
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->flow.state == VSOCK_FREE)
			continue;
		if (vsock->running && connection->hung_up)
			after_hang_up(connection); /* it may have happened meanwhile */
		else
			vsock_connection_update(connection);
	}
	vsock_listener_update(vsock);
}

static void socket_ready(void *context, uint32_t events)
{
	struct vsock_connection *connection = context;
	struct virtio_vsock *vsock = connection->vsock;
	bool hung_up = events & (EPOLLHUP | EPOLLERR);

	if (hung_up)
		hang_up(connection);
	if (!vsock->running) {
		vsock_connection_update(connection);
		return; /* vsock_connections_update goes on from here */
	}
	if (hung_up) {
		after_hang_up(connection);
	} else if (connection->flow.state == VSOCK_GREETING) {
		greet(connection);
	} else {
		if (events & EPOLLIN) {
			connection->flow.pending |= VSOCK_SEND_DATA;
			vsock_connection_schedule(connection);
		}
		if (events & EPOLLOUT)
			flush(connection);
		if (connection->flow.state != VSOCK_FREE)
			vsock_connection_update(connection);
	}
	vsock_send(vsock);
}

bool vsock_connection_attach(struct vsock_connection *connection, int fd)
{
	AUTO_ERROR struct error *error = NULL;

	connection->fd = fd;
	connection->vsock->used++;
	connection->vsock->opened++;
	error = event_loop_add(connection->vsock->device.loop, fd, 0, socket_ready, connection,
			       &connection->source);
	if (error) {
		vsock_connection_release(connection);
		return false;
	}
	vsock_connection_update(connection);
	return true;
}

/* --- The listener --- */

static void listener_ready(void *context, uint32_t events)
{
	struct virtio_vsock *vsock = context;

	while (vsock->used < VSOCK_CONNECTIONS) {
		int fd = vsock_host_accept(vsock->listener);
		struct vsock_connection *connection;

		if (fd < 0)
			return;
		/* Without a driver nobody will answer: say so at once. */
		connection = vsock->running ? vsock_connection_new(vsock) : NULL;
		if (!connection) {
			close(fd);
			continue;
		}
		vsock_flow_greet(&connection->flow);
		vsock_connection_attach(connection, fd);
	}
	vsock_listener_update(vsock);
}

struct error *vsock_listener_start(struct virtio_vsock *vsock)
{
	return event_loop_add(vsock->device.loop, vsock->listener, EPOLLIN, listener_ready, vsock,
			      &vsock->listener_source);
}

void vsock_listener_update(struct virtio_vsock *vsock)
{
	/* While the machine is paused, and while all connections are in use, programs wait. */
	bool open = vsock->used < VSOCK_CONNECTIONS && !vsock->device.quiesced;

	if (vsock->listener_source)
		event_source_set_events(vsock->listener_source, open ? EPOLLIN : 0);
}
