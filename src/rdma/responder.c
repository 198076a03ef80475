/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The half of a queue pair that executes its peer's requests, of RC and UC.
 *
 * Requests are executed in the order of their numbers, each once. RC: one that is too early is refused
 * once, and the peer goes back; one that came before is acknowledged again, or, if its answer has
 * bytes, answered again from what is kept of the last ones. UC: a gap ends the message it is in,
 * and the next one begins anew.
 *
 * Runs on the engine's thread. The peer controls every field. A request is judged before anything is
 * done for it: is it one that can follow the one before, does its length fit, may its key do this, is
 * there a receive. What breaks the protocol, or asks for what it may not, fails a queue pair of RC
 * after a refusal with the right code, and is dropped by one of UC.
 */
#include <errno.h>
#include <string.h>

#include "rdma/engine.h"

#define LENGTH_MAX (UINT32_C(1) << 31)
#define PROBE_MAX  (UINT32_C(1) << 20) /* of a read, before its first byte is sent */

/* What becomes of a request; beside it, a syndrome of a refusal. */
enum verdict {
	EXECUTED = 0,
	NOT_READY = 1, /* RC: come again. UC: dropped */
	FAILED = 2,    /* the pair has failed */
};

/* --- Refusing ---------------------------------------------------------------------------------- */

void rdma_responder_refuse(struct godwit_rdma_pair *pair, uint8_t syndrome)
{
	pair->engine->counters.refused++;
	pair->responder.refusal = syndrome;
	rdma_event(pair->engine,
		   syndrome == RDMA_NAK_ACCESS ? GODWIT_RDMA_EVENT_BAD_ACCESS
					       : GODWIT_RDMA_EVENT_BAD_REQUEST,
		   pair);
	rdma_pair_fail(pair);
}

/* A receive that cannot be filled completes with @status, and the pair fails. */
static void fail_receive(struct godwit_rdma_pair *pair, enum godwit_rdma_status status,
			 uint8_t syndrome)
{
	struct rdma_responder *responder = &pair->responder;
	struct godwit_rdma_completion completion = {
	    .id = responder->receive.id, .status = status, .operation = GODWIT_RDMA_RECEIVE};

	responder->has_receive = false;
	pair->engine->counters.refused++;
	responder->refusal = syndrome;
	rdma_complete_receive(pair, &completion, false);
	rdma_pair_fail(pair);
}

/* --- Judging ----------------------------------------------------------------------------------- */

/* True if @packet can follow what came before, with a payload of the right size. */
static bool follows(const struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	const struct rdma_responder *responder = &pair->responder;
	uint32_t mtu = pair->attributes.mtu, size = packet->payload_size;
	enum rdma_message message = packet->flags & RDMA_IS_SEND    ? RDMA_MESSAGE_SEND
				    : packet->flags & RDMA_IS_WRITE ? RDMA_MESSAGE_WRITE
								    : RDMA_NO_MESSAGE;

	if (packet->flags & RDMA_BEGINS ? responder->message != RDMA_NO_MESSAGE
					: responder->message != message)
		return false;
	if (!(packet->flags & RDMA_HAS_PAYLOAD))
		return true;
	if (!(packet->flags & RDMA_ENDS))
		return size == mtu;
	return size <= mtu && (packet->flags & RDMA_BEGINS || size);
}

/* Takes a receive for the message, unless it has one. */
static bool need_receive(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;

	if (!responder->has_receive)
		responder->has_receive =
		    rdma_take_receive(pair, &responder->receive, responder->segments);
	return responder->has_receive;
}

uint64_t rdma_receive_size(const struct rdma_receive *receive)
{
	uint64_t size = 0;

	for (uint32_t i = 0; i < receive->segment_count; i++)
		size += receive->segments[i].size;
	return size;
}

/* --- Executing --------------------------------------------------------------------------------- */

/* The message is complete, and so is its receive. */
static void complete_receive(struct godwit_rdma_pair *pair, const struct rdma_packet *packet,
			     enum godwit_rdma_operation operation, uint64_t bytes)
{
	struct rdma_responder *responder = &pair->responder;
	struct godwit_rdma_completion completion = {.id = responder->receive.id,
						    .operation = operation,
						    .bytes = (uint32_t)bytes,
						    .immediate = packet->immediate,
						    .invalidated = packet->invalidate,
						    .source = pair->attributes.peer};

	if (packet->flags & RDMA_HAS_IMMEDIATE)
		completion.flags |= GODWIT_RDMA_WITH_IMMEDIATE;
	if (packet->flags & RDMA_HAS_INVALIDATE)
		completion.flags |= GODWIT_RDMA_WITH_INVALIDATE;
	responder->has_receive = false;
	rdma_complete_receive(pair, &completion, packet->solicited);
}

static int execute_send(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	bool reliable = pair->service == GODWIT_RDMA_RELIABLE;
	uint64_t received = packet->flags & RDMA_BEGINS ? 0 : responder->received;
	int status;

	if (!need_receive(pair))
		return NOT_READY;
	if (packet->payload_size > rdma_receive_size(&responder->receive) - received) {
		fail_receive(pair, GODWIT_RDMA_LOCAL_LENGTH, reliable ? RDMA_NAK_INVALID : 0);
		return FAILED;
	}
	status = rdma_scatter(pair, responder->receive.segments, responder->receive.segment_count,
			      received, packet->payload, packet->payload_size);
	if (status == -EAGAIN)
		return NOT_READY;
	if (status < 0) {
		fail_receive(pair, GODWIT_RDMA_LOCAL_PROTECTION, reliable ? RDMA_NAK_OPERATION : 0);
		return FAILED;
	}
	if (packet->flags & RDMA_HAS_INVALIDATE && !rdma_invalidate(pair, packet->invalidate, true))
		return RDMA_NAK_ACCESS;
	responder->received = received + packet->payload_size;
	responder->message = RDMA_MESSAGE_SEND;
	if (packet->flags & RDMA_ENDS)
		complete_receive(pair, packet, GODWIT_RDMA_RECEIVE, responder->received);
	return EXECUTED;
}

static int execute_write(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	uint64_t address = responder->address;
	uint32_t key = responder->key, left = responder->left, size = packet->payload_size;
	uint64_t total = responder->received;
	struct rdma_place place;
	int status = 0;

	if (packet->flags & RDMA_BEGINS) {
		address = packet->address;
		key = packet->key;
		left = packet->length;
		total = left;
		if (left > LENGTH_MAX)
			return RDMA_NAK_INVALID;
		/* All of it, before any of it. Nothing at all needs no key. */
		if (left &&
		    !rdma_find_remote(pair, key, address, left, GODWIT_RDMA_REMOTE_WRITE, &place))
			return RDMA_NAK_ACCESS;
	}
	if (packet->flags & RDMA_ENDS ? size != left : size >= left)
		return RDMA_NAK_INVALID;
	if (packet->flags & RDMA_HAS_IMMEDIATE && !need_receive(pair))
		return NOT_READY;
	if (size) {
		/* Keys can go, and rights, between two packets. */
		if (!rdma_find_remote(pair, key, address, size, GODWIT_RDMA_REMOTE_WRITE, &place))
			return RDMA_NAK_ACCESS;
		status = rdma_copy_in(&place, 0, packet->payload, size);
	}
	if (status < 0)
		return status == -EAGAIN ? NOT_READY : RDMA_NAK_ACCESS;
	responder->address = address + size;
	responder->key = key;
	responder->left = left - size;
	responder->received = total;
	responder->message = RDMA_MESSAGE_WRITE;
	if (packet->flags & RDMA_HAS_IMMEDIATE)
		complete_receive(pair, packet, GODWIT_RDMA_RECEIVE_WRITE, total);
	return EXECUTED;
}

/* Room for what is kept of a read or atomic. NULL: the peer has asked for more than it may. */
static struct rdma_read *keep_read(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;

	if (responder->answers_first >= pair->attributes.reads_in)
		return NULL;
	return &responder->reads[responder->read_next];
}

static void answer_read(struct godwit_rdma_pair *pair, const struct rdma_read *read)
{
	struct rdma_responder *responder = &pair->responder;
	uint32_t index = responder->read_next;

	responder->read_next = (index + 1) % pair->attributes.reads_in;
	rdma_responder_answer(pair, index, read->psn, rdma_psn_add(read->psn, read->packets),
			      false);
}

static int execute_read(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_place place;
	struct rdma_read *read;
	int status = 0;

	if (packet->length > LENGTH_MAX)
		return RDMA_NAK_INVALID;
	if (packet->length && !rdma_find_remote(pair, packet->key, packet->address, packet->length,
						GODWIT_RDMA_REMOTE_READ, &place))
		return RDMA_NAK_ACCESS;
	read = keep_read(pair);
	if (!read)
		return RDMA_NAK_INVALID;
	/* Here the peer can be told to come again; in the middle of its answer it cannot. */
	if (packet->length)
		status = rdma_probe(&place, MIN(packet->length, PROBE_MAX));
	if (status < 0)
		return status == -EAGAIN ? NOT_READY : RDMA_NAK_ACCESS;
	*read = (struct rdma_read){.psn = packet->psn,
				   .packets = rdma_packets_of(pair, packet->length),
				   .address = packet->address,
				   .key = packet->key,
				   .size = packet->length};
	answer_read(pair, read);
	return EXECUTED;
}

static int execute_atomic(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_place place;
	struct rdma_read *read;
	uint64_t original;
	int status;

	if (packet->address % sizeof(uint64_t))
		return RDMA_NAK_INVALID;
	if (!rdma_find_remote(pair, packet->key, packet->address, sizeof(uint64_t),
			      GODWIT_RDMA_REMOTE_ATOMIC, &place))
		return RDMA_NAK_ACCESS;
	read = keep_read(pair);
	if (!read)
		return RDMA_NAK_INVALID;
	status = rdma_atomic(&place, packet, &original);
	if (status < 0)
		return status == -EAGAIN ? NOT_READY : RDMA_NAK_ACCESS;
	*read = (struct rdma_read){
	    .psn = packet->psn, .packets = 1, .atomic = true, .original = original};
	answer_read(pair, read);
	return EXECUTED;
}

static int execute(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	if (!follows(pair, packet))
		return RDMA_NAK_INVALID;
	if (packet->flags & RDMA_IS_SEND)
		return execute_send(pair, packet);
	if (packet->flags & RDMA_IS_WRITE)
		return execute_write(pair, packet);
	if (packet->flags & RDMA_IS_READ)
		return execute_read(pair, packet);
	return execute_atomic(pair, packet);
}

/* The request with the expected number has been executed. */
static void advance(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	uint32_t packets = packet->flags & RDMA_IS_READ ? rdma_packets_of(pair, packet->length) : 1;

	responder->psn = rdma_psn_add(packet->psn, packets);
	responder->gap = false;
	responder->refusal = 0;
	if (packet->flags & RDMA_ENDS) {
		responder->message = RDMA_NO_MESSAGE;
		responder->messages++;
	}
}

/* --- RC ---------------------------------------------------------------------------------------- */

/* What was kept of the read or atomic whose answers have number @psn among them. */
static struct rdma_read *find_read(struct godwit_rdma_pair *pair, uint32_t psn)
{
	struct rdma_read *reads = pair->responder.reads;

	for (uint32_t i = 0; i < pair->attributes.reads_in; i++) {
		if (reads[i].packets && ((psn - reads[i].psn) & RDMA_24_BITS) < reads[i].packets)
			return &reads[i];
	}
	return NULL;
}

/* A request that was executed before came again: its answer was lost, or the network has made two of it. */
static void answer_again(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	const struct rdma_read *read;
	uint64_t offset;

	pair->engine->counters.duplicates++;
	if (!(packet->flags & (RDMA_IS_READ | RDMA_IS_ATOMIC))) {
		responder->acknowledge = true;
		rdma_pair_ready(pair);
		return;
	}
	read = find_read(pair, packet->psn);
	if (!read || read->atomic != !!(packet->flags & RDMA_IS_ATOMIC))
		return;
	if (read->atomic) {
		rdma_responder_answer(pair, (uint32_t)(read - responder->reads), read->psn,
				      rdma_psn_add(read->psn, 1), true);
		return;
	}
	/* Part of what it was, from a packet's border on. */
	offset = (uint64_t)((packet->psn - read->psn) & RDMA_24_BITS) * pair->attributes.mtu;
	if (packet->key != read->key || packet->address != read->address + offset ||
	    packet->length > read->size - offset ||
	    (packet->length < read->size - offset && packet->length % pair->attributes.mtu) ||
	    (!packet->length && read->size))
		return;
	rdma_responder_answer(pair, (uint32_t)(read - responder->reads), packet->psn,
			      rdma_psn_add(packet->psn, rdma_packets_of(pair, packet->length)),
			      true);
}

static void receive_reliable(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	int32_t early = rdma_psn_difference(packet->psn, responder->psn);
	int verdict;

	if (early < 0) {
		answer_again(pair, packet);
		return;
	}
	if (early > 0) {
		pair->engine->counters.out_of_sequence++;
		if (responder->gap)
			return;
		responder->gap = true;
		responder->refusal = RDMA_NAK_SEQUENCE;
		rdma_pair_ready(pair);
		return;
	}
	verdict = execute(pair, packet);
	if (verdict == NOT_READY) {
		pair->engine->counters.not_ready++;
		responder->gap = true;
		responder->refusal = RDMA_RNR_NAK | pair->attributes.not_ready_timer;
		rdma_pair_ready(pair);
	} else if (verdict == EXECUTED) {
		advance(pair, packet);
		if (packet->ack_request && !(packet->flags & (RDMA_IS_READ | RDMA_IS_ATOMIC)))
			responder->acknowledge = true;
		rdma_pair_ready(pair);
	} else if (verdict != FAILED) {
		rdma_responder_refuse(pair, (uint8_t)verdict);
	}
}

/* --- UC ---------------------------------------------------------------------------------------- */

static void receive_unreliable(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_responder *responder = &pair->responder;
	bool gap = packet->psn != responder->psn;
	int verdict;

	if (gap)
		pair->engine->counters.out_of_sequence++;
	/* A message with a part that is lost is lost; its receive serves the next one. */
	if (gap || packet->flags & RDMA_BEGINS)
		responder->message = RDMA_NO_MESSAGE;
	responder->psn = rdma_psn_add(packet->psn, 1);
	verdict = execute(pair, packet);
	if (verdict == EXECUTED) {
		if (packet->flags & RDMA_ENDS)
			responder->message = RDMA_NO_MESSAGE;
	} else if (verdict != FAILED) {
		responder->message = RDMA_NO_MESSAGE;
		pair->engine->counters.dropped++;
	}
}

void rdma_responder_receive(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	if (!pair->responder.established) {
		pair->responder.established = true;
		rdma_event(pair->engine, GODWIT_RDMA_EVENT_ESTABLISHED, pair);
	}
	if (pair->service == GODWIT_RDMA_RELIABLE)
		receive_reliable(pair, packet);
	else
		receive_unreliable(pair, packet);
}
