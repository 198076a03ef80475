/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a requester does with the answers of its peer: acknowledgements, refusals, and what was read.
 *
 * An answer for number p says that everything before p was executed. Sends and writes before it are
 * then complete; a read or atomic is only with its own answer, so that a later one says that this was
 * lost. Going back for a gap happens once until something new is answered.
 *
 * Runs on the engine's thread. The peer controls the answers: those for numbers that were not sent, and
 * old ones, are counted and forgotten. A peer can say that it executed what it did not; it cannot make
 * anything be written that was not asked for, nor elsewhere.
 */
#include <errno.h>

#include "rdma/engine.h"

/* What a code of a peer that is not ready means, in 10 microseconds (table 45 of the architecture). */
static const uint16_t not_ready_times[32] = {
    [0] = 65535, 1,    2,    3,	   4,	 6,	8,     12,    16,    24,   32,
    48,		 64,   96,   128,  192,	 256,	384,   512,   768,   1024, 1536,
    2048,	 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};

static bool is_read(const struct rdma_send *send)
{
	return send->work.operation >= GODWIT_RDMA_READ &&
	       send->work.operation <= GODWIT_RDMA_FETCH_ADD;
}

/* The oldest packet without an answer is another one. */
static void progress(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;

	requester->retries = pair->attributes.retries;
	requester->not_ready_retries = pair->attributes.not_ready_retries;
	requester->went_back = false;
	while (requester->read_head != requester->read_tail &&
	       rdma_psn_difference(
		   requester->oldest,
		   requester->reads[requester->read_head % GODWIT_RDMA_READS_MAX]) >= 0)
		requester->read_head++;
	/* An answer to what is just being sent again. */
	if (rdma_psn_difference(requester->psn, requester->oldest) < 0)
		requester->psn = requester->oldest;
	rdma_requester_complete(pair);
	if (pair->state == GODWIT_RDMA_ERROR)
		return;
	if (requester->timer == RDMA_TIMER_ANSWER) {
		if (rdma_requester_waits(pair))
			rdma_requester_expect_answer(pair);
		else
			rdma_pair_timer(pair, RDMA_NO_TIMER, 0);
	}
	rdma_pair_ready(pair);
}

/* The peer has executed everything before @psn. True: there is nothing before it that must be asked again. */
static bool acknowledge_before(struct godwit_rdma_pair *pair, uint32_t psn)
{
	struct rdma_requester *requester = &pair->requester;
	uint32_t oldest = requester->oldest;

	for (uint32_t at = requester->head;
	     at != requester->begun && rdma_psn_difference(requester->oldest, psn) < 0; at++) {
		const struct rdma_send *send = rdma_send_at(pair, at);
		uint32_t end = rdma_psn_add(send->psn, send->packets);

		if (rdma_psn_difference(end, requester->oldest) <= 0)
			continue;
		if (is_read(send))
			break;
		requester->oldest = rdma_psn_difference(end, psn) < 0 ? end : psn;
	}
	if (requester->oldest != oldest)
		progress(pair);
	return requester->oldest == psn;
}

/* Something was lost on the way. */
static void go_back_once(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;

	if (requester->went_back || requester->timer == RDMA_TIMER_PAUSE)
		return;
	if (!requester->retries) {
		rdma_requester_fail(pair, GODWIT_RDMA_RETRIES_EXCEEDED);
		return;
	}
	requester->retries--;
	requester->went_back = true;
	rdma_requester_go_back(pair, 0);
}

static void peer_not_ready(struct godwit_rdma_pair *pair, uint8_t code)
{
	struct rdma_requester *requester = &pair->requester;

	if (requester->timer == RDMA_TIMER_PAUSE)
		return;
	if (!requester->not_ready_retries) {
		rdma_requester_fail(pair, GODWIT_RDMA_NOT_READY_EXCEEDED);
		return;
	}
	if (pair->attributes.not_ready_retries != 7)
		requester->not_ready_retries--;
	rdma_requester_go_back(pair, not_ready_times[code] * 10 * RDMA_NS_PER_US);
}

static void take_acknowledgement(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	uint8_t kind = packet->syndrome & RDMA_SYNDROME_KIND,
		code = packet->syndrome & RDMA_SYNDROME_CODE_MASK;
	bool reached;

	if (packet->syndrome & 0x80) {
		pair->engine->counters.bad_answers++;
		return;
	}
	if (kind == RDMA_SYNDROME_KIND_ACK) {
		reached = acknowledge_before(pair, rdma_psn_add(packet->psn, 1));
		if (!reached && pair->state != GODWIT_RDMA_ERROR)
			go_back_once(pair);
		return;
	}
	reached = acknowledge_before(pair, packet->psn);
	if (pair->state == GODWIT_RDMA_ERROR)
		return;
	if (!reached || packet->syndrome == RDMA_NAK_SEQUENCE)
		go_back_once(pair);
	else if (kind == RDMA_RNR_NAK)
		peer_not_ready(pair, code);
	else if (packet->syndrome == RDMA_NAK_INVALID)
		rdma_requester_fail(pair, GODWIT_RDMA_REMOTE_INVALID);
	else if (packet->syndrome == RDMA_NAK_ACCESS)
		rdma_requester_fail(pair, GODWIT_RDMA_REMOTE_ACCESS);
	else if (packet->syndrome == RDMA_NAK_OPERATION)
		rdma_requester_fail(pair, GODWIT_RDMA_REMOTE_OPERATION);
	else
		pair->engine->counters.bad_answers++;
}

/* Puts what was read where it belongs. False: the packet counts as lost, or the pair has failed. */
static bool take_bytes(struct godwit_rdma_pair *pair, const struct rdma_send *send, uint64_t offset,
		       const uint8_t *bytes, uint32_t size)
{
	int status =
	    rdma_scatter(pair, send->work.segments, send->work.segment_count, offset, bytes, size);

	if (status == -EAGAIN)
		rdma_requester_go_back(pair, RDMA_PATIENCE);
	else if (status < 0)
		rdma_requester_fail(pair, GODWIT_RDMA_LOCAL_PROTECTION);
	return !status;
}

/* An answer with bytes: of a read, or an atomic operation. */
static void take_answer(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	struct rdma_requester *requester = &pair->requester;
	bool atomic = packet->opcode == RDMA_ATOMIC_ACKNOWLEDGE, reached;
	const struct rdma_send *send;
	uint64_t offset;

	reached = acknowledge_before(pair, packet->psn);
	if (pair->state == GODWIT_RDMA_ERROR)
		return;
	if (!reached) {
		go_back_once(pair);
		return;
	}
	send = rdma_send_at(pair, requester->head);
	offset = (uint64_t)((packet->psn - send->psn) & RDMA_24_BITS) * pair->attributes.mtu;
	if (requester->head == requester->begun || !is_read(send) ||
	    atomic == (send->work.operation == GODWIT_RDMA_READ) ||
	    (!atomic &&
	     packet->payload_size != MIN((uint64_t)pair->attributes.mtu, send->size - offset))) {
		pair->engine->counters.bad_answers++;
		rdma_requester_fail(pair, GODWIT_RDMA_BAD_RESPONSE);
		return;
	}
	if (requester->timer == RDMA_TIMER_PAUSE)
		return;
	/* Numbers in memory have the machine's own order. */
	if (atomic ? !take_bytes(pair, send, 0, (const uint8_t *)&packet->original,
				 sizeof(packet->original))
		   : !take_bytes(pair, send, offset, packet->payload, packet->payload_size))
		return;
	requester->oldest = rdma_psn_add(packet->psn, 1);
	progress(pair);
}

void rdma_requester_receive(struct godwit_rdma_pair *pair, const struct rdma_packet *packet)
{
	const struct rdma_requester *requester = &pair->requester;

	if (pair->service != GODWIT_RDMA_RELIABLE || pair->state < GODWIT_RDMA_RTS ||
	    rdma_psn_difference(packet->psn, requester->sent) >= 0) {
		pair->engine->counters.bad_answers++;
		return;
	}
	if (rdma_psn_difference(packet->psn, requester->oldest) < 0)
		return;
	if (packet->opcode == RDMA_ACKNOWLEDGE)
		take_acknowledgement(pair, packet);
	else
		take_answer(pair, packet);
}
