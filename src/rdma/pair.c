/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queue pairs: their states, what each change of state needs, and the work that is posted to them
 * (InfiniBand architecture, 10.3; one transition is a row of a table).
 *
 * Runs on the engine's thread. Work is copied when it is posted. What fails a queue pair completes all
 * of its work with an error, in order.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/engine.h"

#define NUMBER_MAX   0xfffffeU
#define NUMBER_FIRST 16U /* lower ones have meanings: 1 is the general services interface */
#define PEER_RIGHTS  (GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ | GODWIT_RDMA_REMOTE_ATOMIC)
#define TIMEOUT_MAX  31U
#define RETRIES_MAX  7U

/* --- Making ------------------------------------------------------------------------------------ */

static bool are_valid(const struct godwit_rdma_domain *domain,
		      const struct godwit_rdma_pair_options *options)
{
	if (options->service < GODWIT_RDMA_RELIABLE || options->service > GODWIT_RDMA_DATAGRAM ||
	    !options->send || !options->receive || options->send->engine != domain->engine ||
	    options->receive->engine != domain->engine || options->number > NUMBER_MAX)
		return false;
	if (!is_power_of_two(options->send_capacity) ||
	    options->send_capacity > GODWIT_RDMA_QUEUE_MAX || !options->send_segments ||
	    options->send_segments > GODWIT_RDMA_SEGMENTS_MAX)
		return false;
	if (options->shared)
		return options->shared->domain == domain;
	if (options->receives.take)
		return true;
	return is_power_of_two(options->receive_capacity) &&
	       options->receive_capacity <= GODWIT_RDMA_QUEUE_MAX && options->receive_segments &&
	       options->receive_segments <= GODWIT_RDMA_SEGMENTS_MAX;
}

bool rdma_pair_number_fits(uint32_t number)
{
	return number >= NUMBER_FIRST && number <= NUMBER_MAX;
}

static int choose_number(struct godwit_rdma *engine, uint32_t wanted, uint32_t *number)
{
	*number = wanted;
	if (wanted)
		return rdma_table_find(&engine->pairs, wanted) ? -EEXIST : 0;
	if (engine->pairs.count >= NUMBER_MAX - NUMBER_FIRST)
		return -ENOSPC;
	do {
		*number = engine->next_pair;
		engine->next_pair = *number == NUMBER_MAX ? NUMBER_FIRST : *number + 1;
	} while (rdma_table_find(&engine->pairs, *number));
	return 0;
}

int godwit_rdma_pair_create(struct godwit_rdma_domain *domain,
			    const struct godwit_rdma_pair_options *options,
			    struct godwit_rdma_pair **result)
{
	struct godwit_rdma *engine = domain->engine;
	struct godwit_rdma_pair *pair;
	uint32_t number;
	int status;

	*result = NULL;
	if (!are_valid(domain, options))
		return -EINVAL;
	status = choose_number(engine, options->number, &number);
	if (status < 0)
		return status;
	pair = calloc(1, sizeof(*pair));
	if (!pair)
		return -ENOMEM;
	pair->entry.number = number;
	pair->engine = engine;
	pair->domain = domain;
	pair->send_completions = options->send;
	pair->receive_completions = options->receive;
	pair->shared = options->shared;
	pair->service = options->service;
	pair->signal_all = options->signal_all;
	pair->sent = options->sent;
	pair->context = options->context;
	if (!rdma_requester_init(pair, options->send_capacity, options->send_segments) ||
	    (!pair->shared &&
	     !rdma_receive_queue_init(&pair->responder.queue, &options->receives,
				      options->receive_capacity, options->receive_segments)) ||
	    !rdma_table_add(&engine->pairs, &pair->entry)) {
		rdma_requester_free(pair);
		rdma_receive_queue_free(&pair->responder.queue);
		free(pair);
		return -ENOMEM;
	}
	domain->users++;
	options->send->pairs++;
	options->receive->pairs++;
	if (pair->shared)
		pair->shared->pairs++;
	*result = pair;
	return 0;
}

int godwit_rdma_pair_destroy(struct godwit_rdma_pair *pair)
{
	if (!pair)
		return 0;
	rdma_unbind_windows(pair);
	rdma_pair_not_ready(pair);
	rdma_pair_stop_timers(pair);
	rdma_table_remove(&pair->engine->pairs, &pair->entry);
	pair->domain->users--;
	pair->send_completions->pairs--;
	pair->receive_completions->pairs--;
	if (pair->shared)
		pair->shared->pairs--;
	rdma_requester_free(pair);
	rdma_receive_queue_free(&pair->responder.queue);
	free(pair);
	return 0;
}

uint32_t godwit_rdma_pair_number(const struct godwit_rdma_pair *pair)
{
	return pair->entry.number;
}

enum godwit_rdma_state godwit_rdma_pair_state(const struct godwit_rdma_pair *pair)
{
	return pair->state;
}

/* --- Completions and failure ------------------------------------------------------------------- */

static void add_completion(struct godwit_rdma_pair *pair,
			   struct godwit_rdma_completions *completions,
			   const struct godwit_rdma_completion *completion, bool solicited)
{
	if (rdma_completions_add(completions, completion, solicited) ||
	    pair->state == GODWIT_RDMA_ERROR)
		return;
	rdma_event(pair->engine, GODWIT_RDMA_EVENT_FATAL, pair);
	rdma_pair_fail(pair);
}

void rdma_complete_send(struct godwit_rdma_pair *pair, const struct rdma_send *send,
			enum godwit_rdma_status status)
{
	const struct godwit_rdma_work *work = &send->work;
	struct godwit_rdma_completion completion = {.id = work->id,
						    .status = status,
						    .operation = work->operation,
						    .pair = pair->entry.number};

	if (pair->sent)
		pair->sent(pair->context);
	if (status == GODWIT_RDMA_SUCCESS) {
		if (!pair->signal_all && !(work->flags & GODWIT_RDMA_SIGNALED))
			return;
		if (work->operation == GODWIT_RDMA_READ)
			completion.bytes = (uint32_t)send->size;
	}
	add_completion(pair, pair->send_completions, &completion, false);
}

void rdma_complete_receive(struct godwit_rdma_pair *pair,
			   const struct godwit_rdma_completion *completion, bool solicited)
{
	struct godwit_rdma_completion whole = *completion;

	whole.pair = pair->entry.number;
	add_completion(pair, pair->receive_completions, &whole, solicited);
}

static void flush_sends(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;

	while (requester->head != requester->tail)
		rdma_complete_send(pair, rdma_send_at(pair, requester->head++),
				   GODWIT_RDMA_FLUSHED);
	requester->cursor = requester->begun = requester->tail;
}

static void flush_receives(struct godwit_rdma_pair *pair)
{
	struct rdma_responder *responder = &pair->responder;
	struct rdma_receive_queue *queue = &responder->queue;
	struct godwit_rdma_completion completion = {.status = GODWIT_RDMA_FLUSHED,
						    .operation = GODWIT_RDMA_RECEIVE};

	if (responder->has_receive) {
		responder->has_receive = false;
		completion.id = responder->receive.id;
		rdma_complete_receive(pair, &completion, false);
	}
	while (!pair->shared &&
	       rdma_receive_queue_take(queue, &responder->receive, responder->segments)) {
		completion.id = responder->receive.id;
		rdma_complete_receive(pair, &completion, false);
	}
}

void rdma_pair_fail(struct godwit_rdma_pair *pair)
{
	if (pair->state == GODWIT_RDMA_ERROR)
		return;
	pair->state = GODWIT_RDMA_ERROR;
	rdma_pair_timer(pair, RDMA_NO_TIMER, 0);
	flush_sends(pair);
	flush_receives(pair);
	if (pair->shared)
		rdma_event(pair->engine, GODWIT_RDMA_EVENT_LAST_RECEIVE, pair);
	rdma_pair_ready(pair);
}

/* Forgets everything but how it was made, without completions. */
static void reset(struct godwit_rdma_pair *pair)
{
	struct rdma_requester *requester = &pair->requester;
	struct rdma_receive_queue queue = pair->responder.queue;

	rdma_unbind_windows(pair);
	rdma_pair_not_ready(pair);
	rdma_pair_stop_timers(pair);
	pair->requester = (struct rdma_requester){.capacity = requester->capacity,
						  .segments_max = requester->segments_max,
						  .sends = requester->sends,
						  .segments = requester->segments};
	queue.head = queue.tail = 0;
	memset(&pair->responder, 0, sizeof(pair->responder));
	pair->responder.queue = queue;
	memset(&pair->attributes, 0, sizeof(pair->attributes));
	pair->state = GODWIT_RDMA_RESET;
}

/* --- Changes of state -------------------------------------------------------------------------- */

#define ALWAYS                                                                                     \
	(GODWIT_RDMA_SET_ACCESS | GODWIT_RDMA_SET_NOT_READY_TIMER | GODWIT_RDMA_SET_QUEUE_KEY)
#define TO_RTR	 (GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU)
#define TO_RTR_C (TO_RTR | GODWIT_RDMA_SET_PEER | GODWIT_RDMA_SET_RECEIVE_PSN)
#define RTS_RC                                                                                     \
	(GODWIT_RDMA_SET_SEND_PSN | GODWIT_RDMA_SET_TIMEOUT | GODWIT_RDMA_SET_RETRIES |            \
	 GODWIT_RDMA_SET_NOT_READY_RETRIES | GODWIT_RDMA_SET_READS_OUT)

static const struct transition {
	enum godwit_rdma_state from, to;
	uint32_t required[4]; /* by service */
} transitions[] = {
    {GODWIT_RDMA_RESET,
     GODWIT_RDMA_INIT,
     {0, GODWIT_RDMA_SET_ACCESS, GODWIT_RDMA_SET_ACCESS, GODWIT_RDMA_SET_QUEUE_KEY}},
    {GODWIT_RDMA_INIT, GODWIT_RDMA_INIT, {0}},
    {GODWIT_RDMA_INIT,
     GODWIT_RDMA_RTR,
     {0, TO_RTR_C | GODWIT_RDMA_SET_READS_IN | GODWIT_RDMA_SET_NOT_READY_TIMER, TO_RTR_C, TO_RTR}},
    {GODWIT_RDMA_RTR,
     GODWIT_RDMA_RTS,
     {0, RTS_RC, GODWIT_RDMA_SET_SEND_PSN, GODWIT_RDMA_SET_SEND_PSN}},
    {GODWIT_RDMA_RTS, GODWIT_RDMA_RTS, {0}},
    {GODWIT_RDMA_RTS, GODWIT_RDMA_SQD, {0}},
    {GODWIT_RDMA_SQD, GODWIT_RDMA_RTS, {0}},
    {GODWIT_RDMA_SQD, GODWIT_RDMA_SQD, {0}},
};

static const struct transition *find_transition(enum godwit_rdma_state from,
						enum godwit_rdma_state to)
{
	for (size_t i = 0; i < ARRAY_SIZE(transitions); i++) {
		if (transitions[i].from == from && transitions[i].to == to)
			return &transitions[i];
	}
	return NULL;
}

bool rdma_attributes_fit(const struct godwit_rdma_attributes *attributes, uint32_t mask)
{
	uint32_t mtu = attributes->mtu;

	return (!(mask & GODWIT_RDMA_SET_ACCESS) || !(attributes->access & ~PEER_RIGHTS)) &&
	       (!(mask & GODWIT_RDMA_SET_MTU) ||
		(is_power_of_two(mtu) && mtu >= 256 && mtu <= RDMA_MTU_MAX)) &&
	       (!(mask & GODWIT_RDMA_SET_PEER) || attributes->peer <= RDMA_24_BITS) &&
	       (!(mask & GODWIT_RDMA_SET_RECEIVE_PSN) || attributes->receive_psn <= RDMA_24_BITS) &&
	       (!(mask & GODWIT_RDMA_SET_SEND_PSN) || attributes->send_psn <= RDMA_24_BITS) &&
	       (!(mask & GODWIT_RDMA_SET_TIMEOUT) || attributes->timeout <= TIMEOUT_MAX) &&
	       (!(mask & GODWIT_RDMA_SET_RETRIES) || attributes->retries <= RETRIES_MAX) &&
	       (!(mask & GODWIT_RDMA_SET_NOT_READY_RETRIES) ||
		attributes->not_ready_retries <= RETRIES_MAX) &&
	       (!(mask & GODWIT_RDMA_SET_NOT_READY_TIMER) ||
		attributes->not_ready_timer <= RDMA_SYNDROME_CODE_MASK) &&
	       (!(mask & GODWIT_RDMA_SET_READS_OUT) ||
		attributes->reads_out <= GODWIT_RDMA_READS_MAX) &&
	       (!(mask & GODWIT_RDMA_SET_READS_IN) ||
		attributes->reads_in <= GODWIT_RDMA_READS_MAX);
}

static void take_attributes(struct godwit_rdma_pair *pair, const struct godwit_rdma_attributes *new,
			    uint32_t mask)
{
	struct godwit_rdma_attributes *own = &pair->attributes;

#define TAKE(bit, field)                                                                           \
	do {                                                                                       \
		if (mask & GODWIT_RDMA_SET_##bit)                                                  \
			own->field = new->field;                                                   \
	} while (0)
	TAKE(ACCESS, access);
	TAKE(ENDS, ends);
	TAKE(MTU, mtu);
	TAKE(PEER, peer);
	TAKE(RECEIVE_PSN, receive_psn);
	TAKE(SEND_PSN, send_psn);
	TAKE(TIMEOUT, timeout);
	TAKE(RETRIES, retries);
	TAKE(NOT_READY_RETRIES, not_ready_retries);
	TAKE(NOT_READY_TIMER, not_ready_timer);
	TAKE(READS_OUT, reads_out);
	TAKE(READS_IN, reads_in);
	TAKE(QUEUE_KEY, queue_key);
#undef TAKE
}

/* What begins with the new state. */
static void enter(struct godwit_rdma_pair *pair, enum godwit_rdma_state before)
{
	struct rdma_requester *requester = &pair->requester;

	if (pair->state == GODWIT_RDMA_RTR) {
		pair->responder.psn = pair->attributes.receive_psn;
	} else if (pair->state == GODWIT_RDMA_RTS && before == GODWIT_RDMA_RTR) {
		requester->oldest = requester->psn = requester->sent = requester->next =
		    pair->attributes.send_psn;
		requester->retries = pair->attributes.retries;
		requester->not_ready_retries = pair->attributes.not_ready_retries;
	}
	requester->drained = false;
	if (pair->state == GODWIT_RDMA_RTS || pair->state == GODWIT_RDMA_SQD)
		rdma_pair_ready(pair);
}

int godwit_rdma_pair_modify(struct godwit_rdma_pair *pair,
			    const struct godwit_rdma_attributes *attributes, uint32_t mask)
{
	enum godwit_rdma_state before = pair->state,
			       to = mask & GODWIT_RDMA_SET_STATE ? attributes->state : before;
	const struct transition *transition = find_transition(before, to);
	uint32_t required;

	if (mask & GODWIT_RDMA_SET_STATE && to == GODWIT_RDMA_RESET) {
		reset(pair);
		return 0;
	}
	if (mask & GODWIT_RDMA_SET_STATE && to == GODWIT_RDMA_ERROR) {
		/* What is owed to the peer is given up. */
		pair->responder.acknowledge = false;
		pair->responder.refusal = 0;
		pair->responder.answer_head = pair->responder.answer_tail = 0;
		pair->responder.answers_first = 0;
		rdma_pair_fail(pair);
		return 0;
	}
	if (before == GODWIT_RDMA_RESET && to == before)
		return -EINVAL;
	if (!(mask & GODWIT_RDMA_SET_STATE)) {
		if (mask & ~ALWAYS || !rdma_attributes_fit(attributes, mask))
			return -EINVAL;
		take_attributes(pair, attributes, mask);
		return 0;
	}
	if (!transition)
		return -EINVAL;
	required = transition->required[pair->service];
	if ((mask & required) != required || mask & ~(required | ALWAYS | GODWIT_RDMA_SET_STATE) ||
	    !rdma_attributes_fit(attributes, mask))
		return -EINVAL;
	take_attributes(pair, attributes, mask);
	pair->state = to;
	enter(pair, before);
	return 0;
}

/* --- Work -------------------------------------------------------------------------------------- */

bool rdma_can_be_sent(enum godwit_rdma_operation operation)
{
	return (operation >= GODWIT_RDMA_SEND && operation <= GODWIT_RDMA_INVALIDATE) ||
	       operation == GODWIT_RDMA_REGISTER;
}

int godwit_rdma_pair_send(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work)
{
	struct rdma_requester *requester = &pair->requester;
	struct godwit_rdma_segment *segments;
	struct rdma_send *send;
	uint32_t slot;

	if (pair->state < GODWIT_RDMA_RTS || work->segment_count > requester->segments_max ||
	    (work->bytes && (work->segment_count ||
			     work->byte_count > requester->segments_max * sizeof(*segments))) ||
	    !rdma_can_be_sent(work->operation))
		return -EINVAL;
	if (requester->tail - requester->head == requester->capacity)
		return -ENOSPC;
	slot = requester->tail & (requester->capacity - 1);
	segments = requester->segments + (size_t)slot * requester->segments_max;
	send = &requester->sends[slot];
	*send = (struct rdma_send){.work = *work};
	send->work.segments = segments;
	if (work->bytes) {
		memcpy(segments, work->bytes, work->byte_count);
		send->work.bytes = segments;
		send->size = work->byte_count;
	}
	for (uint32_t i = 0; i < work->segment_count; i++) {
		segments[i] = work->segments[i];
		send->size += segments[i].size;
	}
	requester->tail++;
	if (pair->state == GODWIT_RDMA_ERROR)
		flush_sends(pair);
	else
		rdma_pair_ready(pair);
	return 0;
}

int godwit_rdma_pair_receive(struct godwit_rdma_pair *pair,
			     const struct godwit_rdma_receive_work *work)
{
	int status;

	if (pair->state == GODWIT_RDMA_RESET || pair->shared || pair->responder.queue.receives.take)
		return -EINVAL;
	status = rdma_receive_queue_post(&pair->responder.queue, work);
	if (!status && pair->state == GODWIT_RDMA_ERROR)
		flush_receives(pair);
	return status;
}

void godwit_rdma_pair_receives_wait(struct godwit_rdma_pair *pair)
{
	if (pair->state == GODWIT_RDMA_ERROR)
		flush_receives(pair);
}
