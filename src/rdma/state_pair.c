/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a queue pair: what was agreed with the peer, work that is posted, how much of it is under way,
 * the message that is coming, and what is kept for a peer that asks again. No times are in it: at the
 * other end work is sent again from the first packet without an answer on, at once, and the peer is told
 * which packet is expected, so that it need not wait for its time-out either.
 *
 * Runs on the engine's thread. See state.c for what is checked.
 */
#include <errno.h>
#include <string.h>

#include "rdma/engine.h"

#define EVERY_ATTRIBUTE (~UINT32_C(0))
#define WORK_FLAGS                                                                                 \
	(GODWIT_RDMA_SIGNALED | GODWIT_RDMA_SOLICITED | GODWIT_RDMA_FENCED |                       \
	 GODWIT_RDMA_WITH_IMMEDIATE | GODWIT_RDMA_WITH_INVALIDATE)
#define UNDER_WAY_MAX 0x7fffffU /* packets: half of the numbers */
#define MESSAGE_LIMIT (UINT32_C(1) << 31)

/* --- Agreed ------------------------------------------------------------------------------------ */

static void visit_attributes(struct godwit_rdma_pair *pair, struct state *state)
{
	struct godwit_rdma_attributes *own = &pair->attributes;
	uint32_t mask = EVERY_ATTRIBUTE;

	state_u32(state, "access", &own->access);
	state_buffer(state, "source", own->ends.source, sizeof(own->ends.source));
	state_buffer(state, "destination", own->ends.destination, sizeof(own->ends.destination));
	state_u16(state, "source port", &own->ends.source_port);
	state_buffer(state, "next hop", own->ends.next_hop, sizeof(own->ends.next_hop));
	state_u32(state, "path MTU", &own->mtu);
	state_u32(state, "peer", &own->peer);
	state_u32(state, "first number to receive", &own->receive_psn);
	state_u32(state, "first number to send", &own->send_psn);
	state_u8(state, "timeout", &own->timeout);
	state_u8(state, "retries", &own->retries);
	state_u8(state, "retries of not ready", &own->not_ready_retries);
	state_u8(state, "timer of not ready", &own->not_ready_timer);
	state_u8(state, "reads out", &own->reads_out);
	state_u8(state, "reads in", &own->reads_in);
	state_u32(state, "queue key", &own->queue_key);
	/* Before it is known nothing can be divided by it. */
	if (!own->mtu && !rdma_pair_receives(pair))
		mask &= ~GODWIT_RDMA_SET_MTU;
	state_check(state, rdma_attributes_fit(own, mask), "attributes", "are out of range");
}

/* --- Work -------------------------------------------------------------------------------------- */

static void visit_work(struct godwit_rdma_work *work, struct state *state)
{
	uint32_t operation = work->operation;

	state_u64(state, "id", &work->id);
	state_u32(state, "operation", &operation);
	work->operation = operation;
	state_check(state, rdma_can_be_sent(work->operation), "operation", "cannot be sent");
	state_u32(state, "flags", &work->flags);
	state_check(state, !(work->flags & ~WORK_FLAGS), "flags", "are not known");
	state_u32(state, "immediate data", &work->immediate);
	state_u32(state, "key to invalidate", &work->invalidate);
	state_u64(state, "remote address", &work->remote_address);
	state_u32(state, "remote key", &work->remote_key);
	state_u64(state, "compare", &work->compare);
	state_u64(state, "swap", &work->swap);
	state_buffer(state, "source", work->source, sizeof(work->source));
	state_buffer(state, "destination", work->destination, sizeof(work->destination));
	state_buffer(state, "next hop", work->next_hop, sizeof(work->next_hop));
	state_u32(state, "destination pair", &work->destination_pair);
	state_u32(state, "queue key", &work->queue_key);
	state_u32(state, "window", &work->window);
	state_u32(state, "region", &work->region);
	state_u64(state, "bound address", &work->bind_address);
	state_u64(state, "bound size", &work->bind_size);
	state_u32(state, "bound access", &work->bind_access);
	state_u32(state, "bound key", &work->bind_key);
	state_u64(state, "registration", &work->register_data[0]);
	state_u64(state, "more of registration", &work->register_data[1]);
}

/* What the work is about: segments, or bytes in their place. */
static void visit_data(const struct rdma_requester *requester, struct rdma_send *send,
		       struct state *state)
{
	struct godwit_rdma_segment *segments =
	    requester->segments + (size_t)(send - requester->sends) * requester->segments_max;
	uint32_t room = requester->segments_max * (uint32_t)sizeof(*segments);
	struct godwit_rdma_work *work = &send->work;
	bool has_bytes = work->bytes;

	state_bool(state, "bytes in place", &has_bytes);
	work->bytes = has_bytes ? segments : NULL;
	work->segments = segments;
	send->size = 0;
	if (has_bytes) {
		send->size = work->byte_count =
		    state_count(state, "bytes of work", work->byte_count, room);
		state_buffer(state, "bytes", segments, work->byte_count);
		return;
	}
	work->segment_count =
	    state_count(state, "segments", work->segment_count, requester->segments_max);
	rdma_segments_visit(segments, work->segment_count, state);
	for (uint32_t i = 0; i < work->segment_count; i++)
		send->size += segments[i].size;
}

/* Work that has begun has numbers, @next and following ones. */
static void visit_begun(struct godwit_rdma_pair *pair, struct rdma_send *send, uint32_t *next,
			struct state *state)
{
	uint32_t status = send->status, packets;

	state_bool(state, "refused", &send->refused);
	state_u32(state, "status", &status);
	state_check(state, status <= GODWIT_RDMA_NOT_READY_EXCEEDED, "status", "is none");
	send->status = status;
	state_u32(state, "packets", &send->packets);
	if (!state_loading(state) || state_failed(state))
		return;
	/* What was refused when it began has none; what was refused later has those that it had. */
	packets = rdma_send_is_local(send) ? 0 : rdma_packets_of(pair, send->size);
	state_check(state,
		    (send->packets == packets &&
		     (!packets || rdma_requester_judge(pair, send) == GODWIT_RDMA_SUCCESS)) ||
			(send->refused && !send->packets),
		    "packets", "do not fit the work");
	send->psn = *next;
	*next = rdma_psn_add(*next, send->packets);
}

static bool is_sender(const struct godwit_rdma_pair *pair)
{
	return pair->state == GODWIT_RDMA_RTS || pair->state == GODWIT_RDMA_SQD;
}

static void visit_sends(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_requester *requester = &pair->requester;
	uint32_t posted = state_count(state, "posted work", requester->tail - requester->head,
				      is_sender(pair) ? requester->capacity : 0);
	uint32_t begun =
	    state_count(state, "work that has begun", requester->begun - requester->head,
			pair->service == GODWIT_RDMA_DATAGRAM ? 0 : posted);
	uint32_t first = begun ? rdma_send_at(pair, requester->head)->psn : requester->oldest;
	uint64_t packets = 0;

	state_u32(state, "first number", &first);
	requester->next = state_loading(state) ? first : requester->next;
	for (uint32_t i = 0; i < posted && !state_failed(state); i++) {
		struct rdma_send *send = rdma_send_at(pair, requester->head + i);

		visit_work(&send->work, state);
		visit_data(requester, send, state);
		if (i >= begun || state_failed(state))
			continue;
		visit_begun(pair, send, state_loading(state) ? &requester->next : &(uint32_t){0},
			    state);
		packets += send->packets;
	}
	state_check(state, packets <= UNDER_WAY_MAX && first <= RDMA_24_BITS, "first number",
		    "or what follows is out of range");
	if (!state_loading(state) || state_failed(state))
		return;
	requester->tail = requester->head + posted;
	requester->begun = requester->head + begun;
}

/* What is under way begins in the work at the head, and nothing was sent that has no number. */
static void check_numbers(const struct godwit_rdma_pair *pair, struct state *state)
{
	const struct rdma_requester *requester = &pair->requester;
	const struct rdma_send *head = rdma_send_at(pair, requester->head);
	bool begun = requester->begun != requester->head;

	state_check(state,
		    (requester->oldest | requester->sent) <= RDMA_24_BITS &&
			rdma_psn_difference(requester->sent, requester->oldest) >= 0 &&
			rdma_psn_difference(requester->next, requester->sent) >= 0 &&
			(begun ? !head->refused &&
				     rdma_psn_difference(requester->oldest, head->psn) >= 0 &&
				     rdma_psn_difference(requester->oldest, head->psn) <
					 (int32_t)head->packets
			       : requester->oldest == requester->next),
		    "numbers", "do not fit the work that is under way");
}

static void visit_requester(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_requester *requester = &pair->requester;

	state_u32(state, "oldest number", &requester->oldest);
	state_u32(state, "number after those that were sent", &requester->sent);
	state_u32(state, "number of the next datagram", &requester->psn);
	state_check(state, requester->psn <= RDMA_24_BITS, "number of the next datagram",
		    "is out of range");
	state_u8(state, "retries that are left", &requester->not_ready_retries);
	state_bool(state, "drained", &requester->drained);
	visit_sends(pair, state);
	if (!state_loading(state) || state_failed(state))
		return;
	requester->retries = pair->attributes.retries;
	requester->cursor = requester->begun;
	if (pair->service == GODWIT_RDMA_DATAGRAM)
		return;
	requester->psn = requester->next;
	/* Of one that has failed they are where it failed. */
	if (!is_sender(pair))
		requester->oldest = requester->sent = requester->next;
	check_numbers(pair, state);
	if (!state_failed(state) && requester->begun != requester->head)
		rdma_requester_go_back(pair, 0);
}

/* --- What comes -------------------------------------------------------------------------------- */

static void visit_receive(struct rdma_responder *responder, struct state *state)
{
	struct rdma_receive *receive = &responder->receive;

	state_bool(state, "a receive was taken", &responder->has_receive);
	if (!responder->has_receive)
		return;
	state_u64(state, "id", &receive->id);
	receive->segment_count =
	    state_count(state, "segments", receive->segment_count, GODWIT_RDMA_SEGMENTS_MAX);
	receive->segments = responder->segments;
	rdma_segments_visit(responder->segments, receive->segment_count, state);
}

static void visit_message(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_responder *responder = &pair->responder;
	uint8_t message = (uint8_t)responder->message;

	visit_receive(responder, state);
	state_u8(state, "message", &message);
	state_u64(state, "bytes received", &responder->received);
	state_u64(state, "address", &responder->address);
	state_u32(state, "key", &responder->key);
	state_u32(state, "bytes left", &responder->left);
	state_check(state,
		    message == RDMA_NO_MESSAGE ||
			(message == RDMA_MESSAGE_SEND && responder->has_receive &&
			 responder->received <= rdma_receive_size(&responder->receive)) ||
			(message == RDMA_MESSAGE_WRITE && responder->received <= MESSAGE_LIMIT &&
			 responder->left <= responder->received),
		    "message", "is none that can have begun");
	responder->message = message;
}

static void visit_reads(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_responder *responder = &pair->responder;
	uint32_t room = pair->service == GODWIT_RDMA_RELIABLE && pair->attributes.mtu
			    ? pair->attributes.reads_in
			    : 0,
		 count = state_count(state, "reads", room, room);

	state_u32(state, "next read", &responder->read_next);
	state_check(state, count == room && responder->read_next < MAX(1U, room), "next read",
		    "is not one of them");
	for (uint32_t i = 0; i < room && !state_failed(state); i++) {
		struct rdma_read *read = &responder->reads[i];
		bool used = read->packets;

		state_bool(state, "used", &used);
		if (!used)
			continue;
		state_u32(state, "first number", &read->psn);
		state_bool(state, "atomic", &read->atomic);
		state_u64(state, "address", &read->address);
		state_u64(state, "original", &read->original);
		state_u32(state, "key", &read->key);
		state_u32(state, "size", &read->size);
		state_check(state, read->psn <= RDMA_24_BITS && read->size <= MESSAGE_LIMIT, "size",
			    "or number of a read is out of range");
		read->packets = read->atomic ? 1 : rdma_packets_of(pair, read->size);
	}
}

/* Whether @answer is of packets of its read that are not sent yet. */
static bool is_of_read(const struct rdma_responder *responder, const struct rdma_answer *answer)
{
	const struct rdma_read *read = &responder->reads[answer->read];
	uint32_t from = (answer->psn - read->psn) & RDMA_24_BITS,
		 to = (answer->end - read->psn) & RDMA_24_BITS;

	return from < to && to <= read->packets;
}

static void visit_answer(struct godwit_rdma_pair *pair, struct rdma_answer *answer,
			 struct state *state)
{
	struct rdma_responder *responder = &pair->responder;

	state_u32(state, "read", &answer->read);
	state_u32(state, "number", &answer->psn);
	state_u32(state, "first number", &answer->first);
	state_u32(state, "end", &answer->end);
	state_bool(state, "again", &answer->again);
	if (state_check(state,
			answer->read < pair->attributes.reads_in &&
			    (answer->psn | answer->first | answer->end) <= RDMA_24_BITS,
			"answer", "is out of range"))
		state_check(state, is_of_read(responder, answer), "answer", "is of no read");
	responder->answers_first += state_loading(state) && !answer->again;
}

/* Answers that are asked for again, of what is not kept any more, are not sent. */
static bool is_worth_it(const struct rdma_responder *responder, const struct rdma_answer *answer)
{
	return !answer->again || is_of_read(responder, answer);
}

static void visit_answers(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_responder *responder = &pair->responder;
	uint32_t room = ARRAY_SIZE(responder->answers), count = 0, limit = room;

	if (pair->service != GODWIT_RDMA_RELIABLE || !pair->attributes.mtu)
		limit = 0;
	for (uint32_t at = responder->answer_head; at != responder->answer_tail; at++)
		count += is_worth_it(responder, &responder->answers[at % room]);
	count = state_count(state, "answers", count, limit);
	if (state_loading(state)) {
		for (uint32_t i = 0; i < count && !state_failed(state); i++)
			visit_answer(pair, &responder->answers[i], state);
		responder->answer_tail = count;
		/* Each kind has half of the places (rdma_responder_answer). */
		state_check(state,
			    responder->answers_first <= pair->attributes.reads_in &&
				count - responder->answers_first <= GODWIT_RDMA_READS_MAX,
			    "answers", "are more than there can be");
		return;
	}
	for (uint32_t at = responder->answer_head; at != responder->answer_tail; at++)
		if (is_worth_it(responder, &responder->answers[at % room]))
			visit_answer(pair, &responder->answers[at % room], state);
}

static bool is_refusal(uint8_t syndrome)
{
	return !syndrome || (syndrome & RDMA_SYNDROME_KIND) == RDMA_RNR_NAK ||
	       (syndrome >= RDMA_NAK_SEQUENCE && syndrome <= RDMA_NAK_OPERATION);
}

static void visit_responder(struct godwit_rdma_pair *pair, struct state *state)
{
	struct rdma_responder *responder = &pair->responder;

	state_u32(state, "expected number", &responder->psn);
	state_u32(state, "messages", &responder->messages);
	state_check(state, responder->psn <= RDMA_24_BITS, "expected number", "is out of range");
	state_bool(state, "established", &responder->established);
	state_bool(state, "acknowledgement is owed", &responder->acknowledge);
	state_u8(state, "refusal that is owed", &responder->refusal);
	state_check(state, is_refusal(responder->refusal), "refusal that is owed", "is none");
	state_bool(state, "refused", &responder->gap);
	visit_message(pair, state);
	visit_reads(pair, state);
	visit_answers(pair, state);
	rdma_receive_queue_visit(&responder->queue, state);
}

/* --- All of it --------------------------------------------------------------------------------- */

/* The peer has perhaps sent in vain, and is told what is expected. */
static void ask_again(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;

	if (pair->service == GODWIT_RDMA_RELIABLE && rdma_pair_receives(pair) &&
	    responder->established && !responder->refusal && !responder->answer_tail)
		responder->refusal = RDMA_NAK_SEQUENCE;
	if (rdma_pair_receives(pair) || pair->state == GODWIT_RDMA_ERROR)
		rdma_pair_ready(pair);
}

void rdma_pair_visit(struct godwit_rdma_pair *pair, struct state *state)
{
	uint32_t now = pair->state;

	state_same(state, "service", pair->service);
	state_same(state, "send queue", pair->requester.capacity);
	state_same(state, "segments of the send queue", pair->requester.segments_max);
	state_same(state, "shared receive queue", pair->shared ? pair->shared->entry.number : 0);
	state_u32(state, "state", &now);
	state_check(state, now <= GODWIT_RDMA_ERROR, "state", "is none");
	pair->state = now;
	visit_attributes(pair, state);
	visit_requester(pair, state);
	visit_responder(pair, state);
	if (state_loading(state) && !state_failed(state))
		ask_again(pair);
}
