/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of one stream connection as the guest sees it: life cycle, shutdowns, credit in both
 * directions, and which packet is to be sent next (virtio 1.2 section 5.10.6). No sockets, no
 * queues, no thread: values only.
 *
 *	GREETING ------> REQUESTED --RESPONSE--> ESTABLISHED --both ends shut by us--> CLOSING
 *	(host opens)                                 ^    |                              |
 *	                 guest's REQUEST ------------'    '--- RST either way: gone <----'
 *
 * DRAINING: the guest has let go after it had sent everything, and the host has not taken it all
 * yet.
 */
#ifndef GODWIT_VIRTIO_VSOCK_FLOW_H
#define GODWIT_VIRTIO_VSOCK_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/vsock_packet.h"

/* What a connection buffers of the guest's data: the credit that it is given (buf_alloc), bytes. */
#define VSOCK_BUFFER_SIZE 65536

enum vsock_state {
	VSOCK_FREE,
	VSOCK_GREETING,	 /* a host's program has connected and not said to which port */
	VSOCK_REQUESTED, /* the guest has to answer our REQUEST */
	VSOCK_ESTABLISHED,
	VSOCK_CLOSING,	/* we have shut both directions down; the guest has to answer with RST */
	VSOCK_DRAINING, /* unknown to the guest */
};

/* What waits to be sent to the guest. */
enum vsock_pending {
	VSOCK_SEND_REQUEST = 1 << 0,
	VSOCK_SEND_RESPONSE = 1 << 1,
	VSOCK_SEND_RST = 1 << 2,
	VSOCK_SEND_SHUTDOWN = 1 << 3,
	VSOCK_SEND_CREDIT_UPDATE = 1 << 4,
	VSOCK_SEND_CREDIT_REQUEST = 1 << 5,
	VSOCK_SEND_DATA = 1 << 6, /* the host's socket may have data */
};

struct vsock_flow {
	enum vsock_state state;
	uint32_t guest_port, host_port;
	uint32_t rx_count;  /* payload bytes that came from the guest, free-running */
	uint32_t fwd_count; /* of these, bytes that left our buffer */
	uint32_t fwd_told;  /* the last fwd_count that the guest was told */
	uint32_t tx_count;  /* payload bytes sent to the guest, free-running */
	uint32_t peer_buf_alloc, peer_fwd_count; /* what the guest told last */
	uint8_t guest_shutdown; /* VSOCK_SHUTDOWN_* that the guest sent; they stay */
	uint8_t host_shutdown;	/* those of the host's side */
	uint8_t pending;	/* enum vsock_pending */
	bool credit_asked;	/* CREDIT_REQUEST was sent for this want of credit */
};

/* What a packet from the guest means for its connection. */
enum vsock_verdict {
	VSOCK_NOTHING,	 /* taken note of */
	VSOCK_CONNECTED, /* the guest accepted */
	VSOCK_DATA,	 /* the payload is to be buffered or passed on; there is room for it */
	VSOCK_SHUT,	 /* guest_shutdown changed */
	VSOCK_CREDIT,	 /* the guest may have more room now */
	VSOCK_GONE,	 /* the guest has reset the connection: no answer */
	VSOCK_REFUSE, /* the packet breaks the rules: answer with RST and forget the connection */
};

/* A flow that the guest (its REQUEST is @request) or a host's program opens. */
void vsock_flow_accept(struct vsock_flow *flow, const struct vsock_header *request);
void vsock_flow_greet(struct vsock_flow *flow);
/* The host's program named @guest_port: asks the guest. */
void vsock_flow_request(struct vsock_flow *flow, uint32_t guest_port, uint32_t host_port);

/* Takes a packet of this connection's ports; the payload, if any, is all there. */
enum vsock_verdict vsock_flow_receive(struct vsock_flow *flow, const struct vsock_header *packet);

/* Bytes that the guest has room for. A guest that contradicts itself has none. */
uint32_t vsock_flow_peer_room(const struct vsock_flow *flow);
/* Bytes that we have room for. */
uint32_t vsock_flow_room(const struct vsock_flow *flow);
/* @size bytes left our buffer; the guest is told when that is worth a packet. */
void vsock_flow_forwarded(struct vsock_flow *flow, uint32_t size);
/* The host's side does not send, or receive, any more: @flags of VSOCK_SHUTDOWN_*. */
void vsock_flow_shut_host(struct vsock_flow *flow, uint8_t flags);

/* The op to send next, VSOCK_OP_INVALID if there is none. RW means: if the socket has data. */
enum vsock_op vsock_flow_next(const struct vsock_flow *flow);
/*
 * Fills @header for sending @op with @size bytes of payload to guest @cid, and takes note that it
 * is sent. After RST the flow is free; after a SHUTDOWN of both directions it is closing.
 */
void vsock_flow_send(struct vsock_flow *flow, enum vsock_op op, uint32_t size, uint64_t cid,
		     struct vsock_header *header);

#endif
