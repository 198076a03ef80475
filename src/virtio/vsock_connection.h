/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The connections of a socket device and the device's own state; private to vsock.c (queues and
 * packets) and vsock_connection.c (the host's sockets). All of it belongs to the device's loop.
 */
#ifndef GODWIT_VIRTIO_VSOCK_CONNECTION_H
#define GODWIT_VIRTIO_VSOCK_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/virtio_device.h"
#include "virtio/vsock_buffer.h"
#include "virtio/vsock_flow.h"
#include "virtio/vsock_host.h"

/*
 * What a guest can make us hold: this many connections with a buffer each (16 MiB in all), and this
 * many answers to packets that belong to none.
 */
#define VSOCK_CONNECTIONS 256
#define VSOCK_RESETS	  64
#define VSOCK_QUEUE_SIZE  256
#define VSOCK_IOV_MAX	  (VSOCK_QUEUE_SIZE + 8)

enum vsock_queue { VSOCK_QUEUE_RX, VSOCK_QUEUE_TX, VSOCK_QUEUE_EVENT, VSOCK_QUEUES };

struct virtio_vsock;

struct vsock_connection {
	struct virtio_vsock *vsock;
	struct vsock_flow flow;
	struct vsock_buffer buffer; /* from the guest to the host */
	struct vsock_greeting greeting;
	int fd;
	struct event_source *source; /* NULL once the other end has hung up */
	bool hung_up;
	int64_t deadline_ns;		     /* when to give up waiting for the guest; 0: never */
	struct vsock_connection *next_ready; /* among those with something to send */
	bool ready;
};

struct virtio_vsock {
	struct virtio_device device; /* first: the device is cast back */
	uint64_t cid;
	char path[VSOCK_PATH_MAX + 1];
	int listener;
	struct event_source *listener_source;
	bool shared, away;	   /* another process has the listener; and listens */
	struct event_timer *timer; /* looks at the deadlines each second while there are any */
	struct event_timer *more;  /* goes on after a full batch */
	bool running;		   /* between activate or resume and reset or quiesce */
	bool rx_starved;	   /* the driver was asked to tell of receive buffers */
	bool tx_stalled;	   /* no room for another reset: receive buffers resume */
	bool loaded;		   /* the guest must hear that its connections are gone */
	uint32_t next_port;	   /* for connections that the host opens */
	struct vsock_connection *connections;		   /* VSOCK_CONNECTIONS */
	uint16_t used;					   /* connections that are not free */
	struct vsock_connection *ready_first, **ready_end; /* in turn */
	struct vsock_header resets[VSOCK_RESETS];
	uint16_t reset_start, reset_count;
	uint8_t *buffers; /* VSOCK_CONNECTIONS * VSOCK_BUFFER_SIZE, one mapping */
	struct iovec rx_iov[VSOCK_IOV_MAX], tx_iov[VSOCK_IOV_MAX];
	uint64_t opened, refused, dropped; /* counters: connections; packets with a wrong source */
};

/* A free connection, or NULL. */
struct vsock_connection *vsock_connection_new(struct virtio_vsock *vsock);
/* The connection of these ports that the guest knows, or NULL. */
struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock, uint32_t guest_port,
					       uint32_t host_port);
/* Watches @fd, which it takes over. False: no memory; the connection is free again. */
bool vsock_connection_attach(struct vsock_connection *connection, int fd);
/* Closes the socket and frees the connection, whatever is buffered; the guest is not told. */
void vsock_connection_release(struct vsock_connection *connection);
/* Puts the connection in line if it has something to send. */
void vsock_connection_schedule(struct vsock_connection *connection);
/* Waits on the socket for what the connection can use now. */
void vsock_connection_update(struct vsock_connection *connection);
/* Passes the payload @iov[0 .. count) on, or buffers it. There is room. */
void vsock_connection_deliver(struct vsock_connection *connection, struct iovec *iov,
			      uint16_t count, uint32_t size);
/* Acts on the guest's SHUTDOWN flags as far as the buffered data allows. */
void vsock_connection_shut(struct vsock_connection *connection);
/* The guest knows nothing of it any more: frees it, at once or when what it sent has been passed
 * on. */
void vsock_connection_forget(struct vsock_connection *connection);
/* Closes the socket, drops what is buffered, and sends RST. */
void vsock_connection_refuse(struct vsock_connection *connection);
/* Reads for the guest into @iov. Bytes, 0 if there is nothing now (the end included: then the flow
 * says so). */
uint32_t vsock_connection_read(struct vsock_connection *connection, const struct iovec *iov,
			       uint16_t count);
/* The guest has accepted what a program of the host opened. */
void vsock_connection_confirm(struct vsock_connection *connection);
/* The guest may have room for data again. */
void vsock_connection_credit(struct vsock_connection *connection);
/* Both directions are shut down: closes the socket, and gives the guest a while to answer. */
void vsock_connection_end(struct vsock_connection *connection);
/* After a change of vsock->running: watches all sockets, or none. */
void vsock_connections_update(struct virtio_vsock *vsock);

/* The listener: opens and closes with room for connections. */
struct error *vsock_listener_start(struct virtio_vsock *vsock) MUST_CHECK;
void vsock_listener_update(struct virtio_vsock *vsock);
/* The handler of vsock->timer. */
void vsock_check_deadlines(void *context);

/* In vsock.c: sends what is in line while the guest has receive buffers. */
void vsock_send(struct virtio_vsock *vsock);

#endif
