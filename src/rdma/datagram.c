/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queue pairs of UD: each message is one packet, to whom its work says, from anyone who knows the queue
 * key.
 *
 * Runs on the engine's thread. Any stranger can send datagrams: what has the wrong queue key, finds no
 * receive or does not fit into it is counted and forgotten, and takes no receive with it. A receive
 * begins with 40 bytes for the IP header, of which the addresses are filled in.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "rdma/engine.h"
#include "rdma/icrc.h"

/* --- Sending ----------------------------------------------------------------------------------- */

static enum godwit_rdma_status judge(struct godwit_rdma_pair *pair, const struct rdma_send *send)
{
	const struct godwit_rdma_work *work = &send->work;

	if (work->operation != GODWIT_RDMA_SEND || work->flags & GODWIT_RDMA_WITH_INVALIDATE)
		return GODWIT_RDMA_LOCAL_OPERATION;
	return send->size > pair->attributes.mtu ? GODWIT_RDMA_LOCAL_LENGTH : GODWIT_RDMA_SUCCESS;
}

/* Sends the work at the head of the queue. False: no room now, or its memory is not there. */
static bool send_datagram(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;
	const struct rdma_send *send = rdma_send_at(pair, requester->head);
	const struct godwit_rdma_work *work = &send->work;
	struct rdma_packet packet = {
	    .opcode = RDMA_SERVICE_UD |
		      (work->flags & GODWIT_RDMA_WITH_IMMEDIATE ? RDMA_SEND_ONLY_IMMEDIATE
								: RDMA_SEND_ONLY),
	    .solicited = work->flags & GODWIT_RDMA_SOLICITED,
	    .pkey = RDMA_PKEY_DEFAULT,
	    .queue_pair = work->destination_pair,
	    .psn = requester->psn,
	    /* The highest bit stands for the sender's own key. */
	    .queue_key = work->queue_key >> 31 ? pair->attributes.queue_key : work->queue_key,
	    .source = pair->entry.number,
	    .immediate = work->immediate,
	    .payload_size = (uint32_t)send->size};
	enum godwit_rdma_status status = judge(pair, send);
	struct godwit_rdma_ends ends = pair->attributes.ends;
	uint8_t *bytes;
	int copied;

	if (status != GODWIT_RDMA_SUCCESS) {
		rdma_requester_fail(pair, status);
		return false;
	}
	memcpy(ends.destination, work->destination, sizeof(ends.destination));
	memcpy(ends.next_hop, work->next_hop, sizeof(ends.next_hop));
	if (rdma_address_is_none(ends.source))
		memcpy(ends.source, work->source, sizeof(ends.source));
	bytes = rdma_reserve_for(pair, &ends, rdma_packet_size(packet.opcode, packet.payload_size));
	if (!bytes)
		return false;
	copied =
	    rdma_gather(pair, work, 0, rdma_packet_encode(&packet, bytes), packet.payload_size);
	if (copied == -EAGAIN) {
		rdma_pair_timer(pair, RDMA_TIMER_PAUSE, RDMA_PATIENCE);
		return false;
	}
	if (copied < 0) {
		rdma_requester_fail(pair, GODWIT_RDMA_LOCAL_PROTECTION);
		return false;
	}
	rdma_commit(pair->engine);
	requester->psn = rdma_psn_add(requester->psn, 1);
	requester->head++;
	requester->cursor = requester->begun = requester->head;
	rdma_complete_send(pair, send, GODWIT_RDMA_SUCCESS);
	return true;
}

bool rdma_datagram_run(struct godwit_rdma_pair *pair, uint32_t budget)
{
	struct rdma_requester *requester = &pair->requester;

	while (pair->state == GODWIT_RDMA_RTS && requester->timer != RDMA_TIMER_PAUSE &&
	       requester->head != requester->tail) {
		if (!budget--)
			return true;
		if (!send_datagram(pair))
			return false;
	}
	rdma_requester_complete(pair);
	return false;
}

/* --- Receiving --------------------------------------------------------------------------------- */

/* The IP header as it came, as far as it is known. */
static void make_header(const struct godwit_rdma_ends *ends, uint32_t size, uint8_t header[40])
{
	memset(header, 0, RDMA_DATAGRAM_HEADER);
	if (rdma_address_is_v4(ends->destination)) {
		uint8_t *v4 = header + 20;

		v4[0] = 0x45;
		put_be16(v4 + 2, (uint16_t)(size + 20));
		v4[9] = 17;
		memcpy(v4 + 12, ends->source + 12, 4);
		memcpy(v4 + 16, ends->destination + 12, 4);
	} else {
		header[0] = 0x60;
		put_be16(header + 4, (uint16_t)size);
		header[6] = 17;
		memcpy(header + 8, ends->source, 16);
		memcpy(header + 24, ends->destination, 16);
	}
}

void rdma_datagram_receive(struct godwit_rdma_pair *pair, const struct godwit_rdma_ends *ends,
			   const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	struct godwit_rdma_counters *counters = &pair->engine->counters;
	struct godwit_rdma_completion completion = {.operation = GODWIT_RDMA_RECEIVE,
						    .flags = GODWIT_RDMA_WITH_HEADER,
						    .bytes =
							packet->payload_size + RDMA_DATAGRAM_HEADER,
						    .immediate = packet->immediate,
						    .source = packet->source};
	uint8_t header[RDMA_DATAGRAM_HEADER];
	struct rdma_receive *receive = &responder->receive;
	uint64_t room = 0;

	if (packet->queue_key != pair->attributes.queue_key ||
	    packet->payload_size > pair->attributes.mtu) {
		counters->dropped++;
		return;
	}
	if (!responder->has_receive)
		responder->has_receive = rdma_take_receive(pair, receive, responder->segments);
	if (!responder->has_receive) {
		counters->dropped++;
		return;
	}
	for (uint32_t i = 0; i < receive->segment_count; i++)
		room += receive->segments[i].size;
	make_header(ends, 8 + rdma_packet_size(packet->opcode, packet->payload_size) + 4, header);
	/* A receive that a datagram could not be put into waits for the next one. */
	if (completion.bytes > room ||
	    rdma_scatter(pair, receive->segments, receive->segment_count, 0, header,
			 sizeof(header)) < 0 ||
	    rdma_scatter(pair, receive->segments, receive->segment_count, sizeof(header),
			 packet->payload, packet->payload_size) < 0) {
		counters->dropped++;
		return;
	}
	completion.id = receive->id;
	if (packet->flags & RDMA_HAS_IMMEDIATE)
		completion.flags |= GODWIT_RDMA_WITH_IMMEDIATE;
	responder->has_receive = false;
	rdma_complete_receive(pair, &completion, packet->solicited);
}
