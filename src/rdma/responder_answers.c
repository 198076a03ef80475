/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a responder of RC sends: the answers of reads and atomics, in the order of their requests, and
 * then one acknowledgement or refusal for everything that came since the last one.
 *
 * Memory that was there when it was asked for, and is gone when its turn comes, is waited for in
 * silence: Linux's rxe of 6.1 takes a refusal in the middle of a read for its end, and reports success.
 *
 * Runs on the engine's thread. How much a peer can make it send follows from reads_in: answers that
 * have no place in the queue are not sent, and the peer asks again.
 */
#include <errno.h>

#include "rdma/engine.h"

void rdma_responder_answer(struct godwit_rdma_pair *pair, uint32_t read, uint32_t psn, uint32_t end,
			   bool again)
{
	struct rdma_responder *responder = &pair->responder;
	struct rdma_answer *answer;

	/* What is still to be sent need not be sent twice. */
	for (uint32_t at = responder->answer_head; again && at != responder->answer_tail; at++) {
		struct rdma_answer *other =
		    &responder->answers[at % ARRAY_SIZE(responder->answers)];

		if (other->read != read || rdma_psn_difference(other->psn, psn) > 0 ||
		    rdma_psn_difference(other->end, end) < 0)
			continue;
		/* Its peer has waited for the next packet, and expects an answer's first one now. */
		if (other->psn == psn)
			other->first = psn;
		return;
	}
	/* First answers are at most reads_in: half of the queue is for others. */
	if (again && responder->answer_tail - responder->answer_head - responder->answers_first >=
			 GODWIT_RDMA_READS_MAX)
		return;
	answer = &responder->answers[responder->answer_tail++ % ARRAY_SIZE(responder->answers)];
	*answer = (struct rdma_answer){
	    .read = read, .psn = psn, .first = psn, .end = end, .again = again};
	if (!again)
		responder->answers_first++;
	rdma_pair_ready(pair);
}

enum result {
	SENT,
	NO_ROOM,
	LATER,
	REFUSED,
};

static enum result send_read(struct godwit_rdma_pair *pair, const struct rdma_answer *answer,
			     const struct rdma_read *read)
{
	uint32_t mtu = pair->attributes.mtu;
	uint64_t offset = (uint64_t)((answer->psn - read->psn) & RDMA_24_BITS) * mtu;
	bool first = answer->psn == answer->first,
	     last = rdma_psn_add(answer->psn, 1) == answer->end;
	struct rdma_packet packet = {.opcode = first && last ? RDMA_READ_RESPONSE_ONLY
					       : first	     ? RDMA_READ_RESPONSE_FIRST
					       : last	     ? RDMA_READ_RESPONSE_LAST
							     : RDMA_READ_RESPONSE_MIDDLE,
				     .pkey = RDMA_PKEY_DEFAULT,
				     .queue_pair = pair->attributes.peer,
				     .psn = answer->psn,
				     .syndrome = RDMA_ACK,
				     .messages = pair->responder.messages,
				     .payload_size =
					 (uint32_t)MIN((uint64_t)mtu, read->size - offset)};
	struct rdma_place place;
	uint8_t *bytes;
	int status;

	/* The key may have gone since it was asked for. */
	if (packet.payload_size &&
	    !rdma_find_remote(pair, read->key, read->address + offset, packet.payload_size,
			      GODWIT_RDMA_REMOTE_READ, &place))
		return REFUSED;
	bytes = rdma_reserve(pair, rdma_packet_size(packet.opcode, packet.payload_size));
	if (!bytes)
		return NO_ROOM;
	bytes = rdma_packet_encode(&packet, bytes);
	status = packet.payload_size ? rdma_copy_out(&place, 0, bytes, packet.payload_size) : 0;
	if (status < 0)
		return status == -EAGAIN ? LATER : REFUSED;
	rdma_commit(pair->engine);
	return SENT;
}

static enum result send_acknowledge(struct godwit_rdma_pair *pair, uint8_t opcode, uint32_t psn,
				    uint8_t syndrome, uint64_t original)
{
	struct rdma_packet packet = {.opcode = opcode,
				     .pkey = RDMA_PKEY_DEFAULT,
				     .queue_pair = pair->attributes.peer,
				     .psn = psn,
				     .syndrome = syndrome,
				     .messages = pair->responder.messages,
				     .original = original};
	uint8_t *bytes = rdma_reserve(pair, rdma_packet_size(opcode, 0));

	if (!bytes)
		return NO_ROOM;
	rdma_packet_encode(&packet, bytes);
	rdma_commit(pair->engine);
	return SENT;
}

/* The next packet of the oldest answer. */
static enum result send_answer(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;
	struct rdma_answer *answer =
	    &responder->answers[responder->answer_head % ARRAY_SIZE(responder->answers)];
	const struct rdma_read *read = &responder->reads[answer->read];
	enum result result;

	/* Asked for again, and since then so many were executed that it is not kept any more. */
	if (answer->again && ((answer->psn - read->psn) & RDMA_24_BITS) >= read->packets) {
		responder->answer_head++;
		return SENT;
	}
	result = read->atomic ? send_acknowledge(pair, RDMA_ATOMIC_ACKNOWLEDGE, answer->psn,
						 RDMA_ACK, read->original)
			      : send_read(pair, answer, read);
	if (result != SENT)
		return result;
	answer->psn = rdma_psn_add(answer->psn, 1);
	if (answer->psn == answer->end) {
		if (!answer->again)
			responder->answers_first--;
		responder->answer_head++;
	}
	return SENT;
}

/* The peer may not have what it asked for any more: it is told at the packet that it waits for. */
static void refuse_answer(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;
	uint32_t psn =
	    responder->answers[responder->answer_head % ARRAY_SIZE(responder->answers)].psn;

	responder->answer_head = responder->answer_tail;
	responder->answers_first = 0;
	responder->psn = psn;
	rdma_responder_refuse(pair, RDMA_NAK_ACCESS);
}

bool rdma_responder_run(struct godwit_rdma_pair *pair, uint32_t budget)
{
	struct rdma_responder *responder = &pair->responder;
	enum result result;

	if (pair->service != GODWIT_RDMA_RELIABLE || responder->paused)
		return false;
	while (responder->answer_head != responder->answer_tail) {
		if (!budget--)
			return true;
		result = send_answer(pair);
		if (result == REFUSED)
			refuse_answer(pair);
		else if (result == LATER)
			rdma_responder_pause(pair);
		if (result == LATER || result == NO_ROOM)
			return false;
	}
	if (responder->refusal) {
		result =
		    send_acknowledge(pair, RDMA_ACKNOWLEDGE, responder->psn, responder->refusal, 0);
		if (result != SENT)
			return false;
		/* It says that everything before was executed. */
		responder->refusal = 0;
		responder->acknowledge = false;
	}
	if (responder->acknowledge) {
		result = send_acknowledge(pair, RDMA_ACKNOWLEDGE,
					  rdma_psn_add(responder->psn, RDMA_24_BITS), RDMA_ACK, 0);
		if (result != SENT)
			return false;
		responder->acknowledge = false;
	}
	return false;
}
