/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections of vsock_flow.h. The guest controls each packet's fields; all counters are
 * free-running 32-bit numbers, and differences of them are meant modulo 2^32.
 */
#include "virtio/vsock_flow.h"

static void take_credit(struct vsock_flow *flow, const struct vsock_header *packet)
{
	flow->peer_buf_alloc = packet->buf_alloc;
	flow->peer_fwd_count = packet->fwd_cnt;
}

void vsock_flow_accept(struct vsock_flow *flow, const struct vsock_header *request)
{
	*flow = (struct vsock_flow){
	    .state = VSOCK_ESTABLISHED,
	    .guest_port = request->src_port,
	    .host_port = request->dst_port,
	    .pending = VSOCK_SEND_RESPONSE,
	};
	take_credit(flow, request);
}

void vsock_flow_greet(struct vsock_flow *flow)
{
	*flow = (struct vsock_flow){.state = VSOCK_GREETING};
}

void vsock_flow_request(struct vsock_flow *flow, uint32_t guest_port, uint32_t host_port)
{
	*flow = (struct vsock_flow){
	    .state = VSOCK_REQUESTED,
	    .guest_port = guest_port,
	    .host_port = host_port,
	    .pending = VSOCK_SEND_REQUEST,
	};
}

uint32_t vsock_flow_peer_room(const struct vsock_flow *flow)
{
	uint32_t in_flight = flow->tx_count - flow->peer_fwd_count;

	return in_flight > flow->peer_buf_alloc ? 0 : flow->peer_buf_alloc - in_flight;
}

uint32_t vsock_flow_room(const struct vsock_flow *flow)
{
	return VSOCK_BUFFER_SIZE - (flow->rx_count - flow->fwd_count);
}

void vsock_flow_forwarded(struct vsock_flow *flow, uint32_t size)
{
	flow->fwd_count += size;
	if (flow->state != VSOCK_ESTABLISHED)
		return;
	/* Early enough that the guest need not stop, rare enough to cost little. */
	if (flow->fwd_count - flow->fwd_told >= VSOCK_BUFFER_SIZE / 2)
		flow->pending |= VSOCK_SEND_CREDIT_UPDATE;
}

static enum vsock_verdict receive_data(struct vsock_flow *flow, const struct vsock_header *packet)
{
	if (flow->state == VSOCK_REQUESTED || flow->guest_shutdown & VSOCK_SHUTDOWN_SEND ||
	    packet->size > vsock_flow_room(flow))
		return VSOCK_REFUSE;
	flow->rx_count += packet->size;
	if (flow->state == VSOCK_CLOSING || flow->host_shutdown & VSOCK_SHUTDOWN_RECEIVE) {
		/* It crossed our SHUTDOWN; nobody wants it. */
		vsock_flow_forwarded(flow, packet->size);
		return VSOCK_NOTHING;
	}
	return VSOCK_DATA;
}

enum vsock_verdict vsock_flow_receive(struct vsock_flow *flow, const struct vsock_header *packet)
{
	if (packet->op == VSOCK_OP_RST)
		return VSOCK_GONE;
	take_credit(flow, packet);
	switch (packet->op) {
	case VSOCK_OP_RESPONSE:
		if (flow->state != VSOCK_REQUESTED || flow->pending & VSOCK_SEND_REQUEST)
			return VSOCK_REFUSE;
		flow->state = VSOCK_ESTABLISHED;
		return VSOCK_CONNECTED;
	case VSOCK_OP_RW:
		return receive_data(flow, packet);
	case VSOCK_OP_SHUTDOWN:
		if (flow->state == VSOCK_REQUESTED)
			return VSOCK_REFUSE;
		flow->guest_shutdown |= packet->flags & VSOCK_SHUTDOWN_BOTH;
		return VSOCK_SHUT;
	case VSOCK_OP_CREDIT_REQUEST:
		flow->pending |= VSOCK_SEND_CREDIT_UPDATE;
		return VSOCK_CREDIT;
	case VSOCK_OP_CREDIT_UPDATE:
		return VSOCK_CREDIT;
	default: /* a REQUEST for what is open, or no op at all */
		return VSOCK_REFUSE;
	}
}

void vsock_flow_shut_host(struct vsock_flow *flow, uint8_t flags)
{
	if (!(flags & ~flow->host_shutdown))
		return;
	flow->host_shutdown |= flags;
	if (flow->state == VSOCK_ESTABLISHED)
		flow->pending |= VSOCK_SEND_SHUTDOWN;
}

enum vsock_op vsock_flow_next(const struct vsock_flow *flow)
{
	/* The order is the protocol's: nothing before the answer to a REQUEST, SHUTDOWN behind all
	 * data. */
	static const struct {
		uint8_t pending;
		enum vsock_op op;
	} order[] = {
	    {VSOCK_SEND_RST, VSOCK_OP_RST},
	    {VSOCK_SEND_REQUEST, VSOCK_OP_REQUEST},
	    {VSOCK_SEND_RESPONSE, VSOCK_OP_RESPONSE},
	    {VSOCK_SEND_CREDIT_UPDATE, VSOCK_OP_CREDIT_UPDATE},
	    {VSOCK_SEND_DATA, VSOCK_OP_RW},
	    {VSOCK_SEND_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST},
	    {VSOCK_SEND_SHUTDOWN, VSOCK_OP_SHUTDOWN},
	};

	for (unsigned int i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (flow->pending & order[i].pending)
			return order[i].op;
	return VSOCK_OP_INVALID;
}

void vsock_flow_send(struct vsock_flow *flow, enum vsock_op op, uint32_t size, uint64_t cid,
		     struct vsock_header *header)
{
	*header = (struct vsock_header){
	    .src_cid = VSOCK_HOST_CID,
	    .dst_cid = cid,
	    .src_port = flow->host_port,
	    .dst_port = flow->guest_port,
	    .size = size,
	    .type = VSOCK_TYPE_STREAM,
	    .op = op,
	    .flags = op == VSOCK_OP_SHUTDOWN ? flow->host_shutdown : 0,
	    .buf_alloc = VSOCK_BUFFER_SIZE,
	    .fwd_cnt = flow->fwd_count,
	};
	/* Every packet carries the credit. */
	flow->fwd_told = flow->fwd_count;
	flow->pending &= ~VSOCK_SEND_CREDIT_UPDATE;
	switch (op) {
	case VSOCK_OP_RST:
		flow->state = VSOCK_FREE;
		flow->pending = 0;
		break;
	case VSOCK_OP_REQUEST:
		flow->pending &= ~VSOCK_SEND_REQUEST;
		break;
	case VSOCK_OP_RESPONSE:
		flow->pending &= ~VSOCK_SEND_RESPONSE;
		break;
	case VSOCK_OP_SHUTDOWN:
		flow->pending &= ~VSOCK_SEND_SHUTDOWN;
		if (flow->host_shutdown == VSOCK_SHUTDOWN_BOTH)
			flow->state = VSOCK_CLOSING;
		break;
	case VSOCK_OP_RW:
		flow->tx_count += size;
		flow->credit_asked = false;
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		flow->pending &= ~VSOCK_SEND_CREDIT_REQUEST;
		break;
	default:
		break;
	}
}
