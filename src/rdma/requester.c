/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The half of a queue pair that sends requests: posted work becomes packets, and what has no answer is
 * sent again.
 *
 * Work begins in order; what begins gets its sequence numbers, so that a number says which bytes of
 * which work its packet has. Going back is then setting a number. Of RC a window of packets is under
 * way; a read takes as many numbers as its answer has packets, and is asked for in pieces of half a
 * window, whose borders stay where they are when one is asked for again (rxe answers parts of what it
 * was asked before, and nothing else). Work that is wrong completes, with the reason, when all work
 * before it has completed; nothing after it begins.
 *
 * Runs on the engine's thread. The user controls the work: each key and place is checked when it is
 * used.
 */
#include <errno.h>
#include <stdlib.h>

#include "rdma/engine.h"

#define ACKNOWLEDGE_EACH 16U /* packets, besides the last one of a message */

bool rdma_requester_init(struct godwit_rdma_pair *pair, uint32_t capacity, uint32_t segments)
{
	struct rdma_requester *requester = &pair->requester;

	requester->capacity = capacity;
	requester->segments_max = segments;
	requester->sends = calloc(capacity, sizeof(*requester->sends));
	requester->segments = calloc((size_t)capacity * segments, sizeof(*requester->segments));
	return requester->sends && requester->segments;
}

void rdma_requester_free(struct godwit_rdma_pair *pair)
{
	free(pair->requester.sends);
	free(pair->requester.segments);
}

/* --- What is under way ------------------------------------------------------------------------- */

bool rdma_requester_waits(const struct godwit_rdma_pair *pair)
{
	return rdma_psn_difference(pair->requester.sent, pair->requester.oldest) > 0;
}

void rdma_requester_expect_answer(struct godwit_rdma_pair *pair)
{
	if (pair->attributes.timeout)
		rdma_pair_timer(pair, RDMA_TIMER_ANSWER, INT64_C(4096) << pair->attributes.timeout);
}

void rdma_requester_fail(struct godwit_rdma_pair *pair, enum godwit_rdma_status status)
{
	struct rdma_requester *requester = &pair->requester;

	if (requester->head != requester->tail)
		rdma_complete_send(pair, rdma_send_at(pair, requester->head++), status);
	rdma_pair_fail(pair);
}

void rdma_requester_complete(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;

	while (requester->head != requester->begun) {
		const struct rdma_send *send = rdma_send_at(pair, requester->head);

		if (send->refused) {
			rdma_requester_fail(pair, send->status);
			return;
		}
		if (rdma_psn_difference(requester->oldest, rdma_psn_add(send->psn, send->packets)) <
		    0)
			break;
		if (requester->cursor == requester->head)
			requester->cursor++;
		requester->head++;
		rdma_complete_send(pair, send, GODWIT_RDMA_SUCCESS);
		if (pair->state == GODWIT_RDMA_ERROR)
			return;
	}
	if (pair->state == GODWIT_RDMA_SQD && requester->head == requester->begun &&
	    !requester->drained) {
		requester->drained = true;
		rdma_event(pair->engine, GODWIT_RDMA_EVENT_DRAINED, pair);
	}
}

void rdma_requester_go_back(struct godwit_rdma_pair *pair, int64_t delay)
{
	struct rdma_requester *requester = &pair->requester;

	pair->engine->counters.retransmissions++;
	requester->psn = requester->oldest;
	for (requester->cursor = requester->head; requester->cursor != requester->begun;
	     requester->cursor++) {
		const struct rdma_send *send = rdma_send_at(pair, requester->cursor);

		if (send->refused ||
		    rdma_psn_difference(requester->psn, rdma_psn_add(send->psn, send->packets)) < 0)
			break;
	}
	requester->read_head = requester->read_tail = 0;
	rdma_pair_timer(pair, delay ? RDMA_TIMER_PAUSE : RDMA_NO_TIMER, delay);
	rdma_pair_ready(pair);
}

void rdma_requester_timer(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;
	enum rdma_timer timer = requester->timer;

	rdma_pair_timer(pair, RDMA_NO_TIMER, 0);
	if (timer == RDMA_TIMER_PAUSE) {
		rdma_pair_ready(pair);
		return;
	}
	pair->engine->counters.timeouts++;
	requester->went_back = false;
	if (!requester->retries) {
		rdma_requester_fail(pair, GODWIT_RDMA_RETRIES_EXCEEDED);
		return;
	}
	requester->retries--;
	rdma_requester_go_back(pair, 0);
}

/* --- Beginning --------------------------------------------------------------------------------- */

static bool is_read(const struct rdma_send *send)
{
	return send->work.operation >= GODWIT_RDMA_READ &&
	       send->work.operation <= GODWIT_RDMA_FETCH_ADD;
}

bool rdma_send_is_local(const struct rdma_send *send)
{
	return send->work.operation == GODWIT_RDMA_BIND ||
	       send->work.operation == GODWIT_RDMA_INVALIDATE ||
	       send->work.operation == GODWIT_RDMA_REGISTER;
}

enum godwit_rdma_status rdma_requester_judge(const struct godwit_rdma_pair *pair,
					     const struct rdma_send *send)
{
	const struct godwit_rdma_work *work = &send->work;
	bool reliable = pair->service == GODWIT_RDMA_RELIABLE, read = is_read(send);
	uint32_t with = work->flags & (GODWIT_RDMA_WITH_IMMEDIATE | GODWIT_RDMA_WITH_INVALIDATE);

	if ((read && (!reliable || with || work->bytes || !pair->attributes.reads_out)) ||
	    with == (GODWIT_RDMA_WITH_IMMEDIATE | GODWIT_RDMA_WITH_INVALIDATE) ||
	    (with == GODWIT_RDMA_WITH_INVALIDATE &&
	     (!reliable || work->operation != GODWIT_RDMA_SEND)))
		return GODWIT_RDMA_LOCAL_OPERATION;
	if (send->size > GODWIT_RDMA_MESSAGE_MAX ||
	    (read && work->operation != GODWIT_RDMA_READ && send->size != sizeof(uint64_t)))
		return GODWIT_RDMA_LOCAL_LENGTH;
	return GODWIT_RDMA_SUCCESS;
}

/* What is wrong with @send, or GODWIT_RDMA_SUCCESS. What concerns this end only is executed. */
static enum godwit_rdma_status judge(struct godwit_rdma_pair *pair, const struct rdma_send *send)
{
	const struct godwit_rdma_work *work = &send->work;
	enum godwit_rdma_status status;

	if (work->operation == GODWIT_RDMA_BIND)
		return rdma_bind_window(pair, work) ? GODWIT_RDMA_SUCCESS
						    : GODWIT_RDMA_BIND_REFUSED;
	if (work->operation == GODWIT_RDMA_INVALIDATE)
		return rdma_invalidate(pair, work->invalidate, false) ? GODWIT_RDMA_SUCCESS
								      : GODWIT_RDMA_LOCAL_OPERATION;
	if (work->operation == GODWIT_RDMA_REGISTER)
		return rdma_register_region(pair, work) ? GODWIT_RDMA_SUCCESS
							: GODWIT_RDMA_LOCAL_OPERATION;
	status = rdma_requester_judge(pair, send);
	if (status != GODWIT_RDMA_SUCCESS)
		return status;
	for (uint32_t i = 0; i < work->segment_count; i++) {
		struct rdma_place place;

		if (work->segments[i].size &&
		    !rdma_find_local(pair, &work->segments[i], is_read(send), &place))
			return GODWIT_RDMA_LOCAL_PROTECTION;
	}
	return GODWIT_RDMA_SUCCESS;
}

static bool may_begin(struct godwit_rdma_pair *pair, const struct rdma_send *send)
{
	const struct rdma_requester *requester = &pair->requester;

	if (pair->state == GODWIT_RDMA_SQD)
		return false;
	if (pair->service != GODWIT_RDMA_RELIABLE)
		return true;
	if (send->work.flags & GODWIT_RDMA_FENCED && requester->read_head != requester->read_tail)
		return false;
	return rdma_psn_difference(requester->next, requester->oldest) <
	       (int32_t)pair->engine->options.window;
}

static void begin(struct godwit_rdma_pair *pair, struct rdma_send *send)
{
	struct rdma_requester *requester = &pair->requester;

	send->status = judge(pair, send);
	send->refused = send->status != GODWIT_RDMA_SUCCESS;
	send->psn = requester->next;
	send->packets =
	    send->refused || rdma_send_is_local(send) ? 0 : rdma_packets_of(pair, send->size);
	requester->next = rdma_psn_add(requester->next, send->packets);
	requester->begun++;
}

/* --- Packets ----------------------------------------------------------------------------------- */

enum result {
	SENT,
	NO_ROOM, /* of the port */
	LATER,	 /* something else must happen first */
};

/* The operation code of packet @index of a send or write. */
static uint8_t opcode_of(const struct godwit_rdma_pair *pair, const struct rdma_send *send,
			 uint32_t index)
{
	uint8_t service = pair->service == GODWIT_RDMA_RELIABLE ? RDMA_SERVICE_RC : RDMA_SERVICE_UC;
	bool write = send->work.operation == GODWIT_RDMA_WRITE, first = !index,
	     last = index == send->packets - 1,
	     immediate = send->work.flags & GODWIT_RDMA_WITH_IMMEDIATE;

	if (!last)
		return service | (first ? (write ? RDMA_WRITE_FIRST : RDMA_SEND_FIRST)
					: (write ? RDMA_WRITE_MIDDLE : RDMA_SEND_MIDDLE));
	if (send->work.flags & GODWIT_RDMA_WITH_INVALIDATE)
		return service | (first ? RDMA_SEND_ONLY_INVALIDATE : RDMA_SEND_LAST_INVALIDATE);
	if (write)
		return service |
		       (first ? (immediate ? RDMA_WRITE_ONLY_IMMEDIATE : RDMA_WRITE_ONLY)
			      : (immediate ? RDMA_WRITE_LAST_IMMEDIATE : RDMA_WRITE_LAST));
	return service | (first ? (immediate ? RDMA_SEND_ONLY_IMMEDIATE : RDMA_SEND_ONLY)
				: (immediate ? RDMA_SEND_LAST_IMMEDIATE : RDMA_SEND_LAST));
}

static enum result put_packet(struct godwit_rdma_pair *pair, struct rdma_send *send,
			      const struct rdma_packet *packet, uint64_t offset)
{
	uint8_t *bytes = rdma_reserve(pair, rdma_packet_size(packet->opcode, packet->payload_size));
	int status;

	if (!bytes)
		return NO_ROOM;
	status = rdma_gather(pair, &send->work, offset, rdma_packet_encode(packet, bytes),
			     packet->payload_size);
	if (status == -EAGAIN) {
		rdma_pair_timer(pair, RDMA_TIMER_PAUSE, RDMA_PATIENCE);
		return LATER;
	}
	if (status < 0) {
		send->refused = true;
		send->status = GODWIT_RDMA_LOCAL_PROTECTION;
		rdma_requester_complete(pair);
		return LATER;
	}
	rdma_commit(pair->engine);
	return SENT;
}

static struct rdma_packet new_packet(const struct godwit_rdma_pair *pair,
				     const struct rdma_send *send)
{
	return (struct rdma_packet){.pkey = RDMA_PKEY_DEFAULT,
				    .queue_pair = pair->attributes.peer,
				    .psn = pair->requester.psn,
				    .address = send->work.remote_address,
				    .key = send->work.remote_key,
				    .immediate = send->work.immediate,
				    .invalidate = send->work.invalidate};
}

/* The next packet of a send or write. */
static enum result send_part(struct godwit_rdma_pair *pair, struct rdma_send *send)
{
	struct rdma_requester *requester = &pair->requester;
	uint32_t index = (requester->psn - send->psn) & RDMA_24_BITS, mtu = pair->attributes.mtu;
	struct rdma_packet packet = new_packet(pair, send);
	uint64_t offset = (uint64_t)index * mtu;
	bool last = index == send->packets - 1;
	enum result result;

	packet.opcode = opcode_of(pair, send, index);
	packet.solicited = last && send->work.flags & GODWIT_RDMA_SOLICITED;
	packet.length = (uint32_t)send->size;
	packet.payload_size = (uint32_t)MIN((uint64_t)mtu, send->size - offset);
	packet.ack_request = pair->service == GODWIT_RDMA_RELIABLE &&
			     (last || packet.psn % ACKNOWLEDGE_EACH == ACKNOWLEDGE_EACH - 1 ||
			      rdma_psn_difference(packet.psn, requester->oldest) + 1 >=
				  (int32_t)pair->engine->options.window);
	result = put_packet(pair, send, &packet, offset);
	if (result == SENT)
		requester->psn = rdma_psn_add(requester->psn, 1);
	return result;
}

/* The next piece of a read, or an atomic operation. */
static enum result ask(struct godwit_rdma_pair *pair, struct rdma_send *send)
{
	struct rdma_requester *requester = &pair->requester;
	uint32_t index = (requester->psn - send->psn) & RDMA_24_BITS, end;
	uint32_t piece = pair->engine->options.window / 2;
	struct rdma_packet packet = new_packet(pair, send);
	uint64_t offset = (uint64_t)index * pair->attributes.mtu;
	enum result result;

	if (requester->read_tail - requester->read_head >= pair->attributes.reads_out)
		return LATER;
	end = MIN((index / piece + 1) * piece, send->packets);
	packet.ack_request = true;
	packet.swap = send->work.swap;
	packet.compare = send->work.compare;
	if (send->work.operation == GODWIT_RDMA_READ) {
		packet.opcode = RDMA_READ_REQUEST;
		packet.address += offset;
		packet.length = (uint32_t)MIN(send->size - offset,
					      (uint64_t)(end - index) * pair->attributes.mtu);
	} else {
		packet.opcode = send->work.operation == GODWIT_RDMA_FETCH_ADD ? RDMA_FETCH_ADD
									      : RDMA_COMPARE_SWAP;
	}
	result = put_packet(pair, send, &packet, 0);
	if (result != SENT)
		return result;
	requester->psn = rdma_psn_add(send->psn, end);
	requester->reads[requester->read_tail++ % GODWIT_RDMA_READS_MAX] = requester->psn;
	return SENT;
}

/* One packet of the work at the cursor. */
static enum result send_next(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;
	struct rdma_send *send = rdma_send_at(pair, requester->cursor);
	bool reliable = pair->service == GODWIT_RDMA_RELIABLE;
	enum result result;

	if (reliable && rdma_psn_difference(requester->psn, requester->oldest) >=
			    (int32_t)pair->engine->options.window)
		return LATER;
	result = is_read(send) ? ask(pair, send) : send_part(pair, send);
	if (result != SENT)
		return result;
	if (rdma_psn_difference(requester->psn, requester->sent) > 0)
		requester->sent = requester->psn;
	if (requester->psn == rdma_psn_add(send->psn, send->packets))
		requester->cursor++;
	if (!reliable) {
		requester->oldest = requester->psn;
		rdma_requester_complete(pair);
	} else if (requester->timer == RDMA_NO_TIMER) {
		rdma_requester_expect_answer(pair);
	}
	return SENT;
}

bool rdma_requester_run(struct godwit_rdma_pair *pair, uint32_t budget)
{
	struct rdma_requester *requester = &pair->requester;

	rdma_requester_complete(pair);
	while ((pair->state == GODWIT_RDMA_RTS || pair->state == GODWIT_RDMA_SQD) &&
	       requester->timer != RDMA_TIMER_PAUSE && requester->cursor != requester->tail) {
		struct rdma_send *send = rdma_send_at(pair, requester->cursor);

		if (requester->cursor == requester->begun) {
			if (!may_begin(pair, send))
				return false;
			begin(pair, send);
		}
		if (send->refused) {
			rdma_requester_complete(pair);
			return false;
		}
		if (!send->packets) {
			requester->cursor++;
			rdma_requester_complete(pair);
			continue;
		}
		if (!budget--)
			return true;
		if (send_next(pair) != SENT)
			return false;
	}
	return false;
}
