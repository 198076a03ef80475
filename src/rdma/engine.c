/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The engine: packets are given to the queue pair that they name, queue pairs that have something to
 * send take turns, and timers end.
 *
 * Runs on one thread at a time, its user's. Strangers control whole packets: what does not decode, or
 * names no queue pair of theirs, is counted and forgotten. Nothing is allocated for a packet.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/engine.h"
#include "rdma/icrc.h"

#define WINDOW_DEFAULT 64U
#define TURN	       16U /* packets that a queue pair sends before the next one may */
#define TURNS	       64U /* of one poll: packets that come are not kept waiting for long */

int godwit_rdma_create(const struct godwit_rdma_options *options, struct godwit_rdma **result)
{
	struct godwit_rdma *engine;

	*result = NULL;
	if (!options->port.reserve || !options->port.commit || options->window == 1 ||
	    options->window > GODWIT_RDMA_WINDOW_MAX)
		return -EINVAL;
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return -ENOMEM;
	engine->options = *options;
	if (!engine->options.window)
		engine->options.window = WINDOW_DEFAULT;
	engine->next_pair = 16;
	engine->timers_at = GODWIT_RDMA_NEVER;
	*result = engine;
	return 0;
}

int godwit_rdma_destroy(struct godwit_rdma *engine)
{
	if (!engine)
		return 0;
	if (engine->users)
		return -EBUSY;
	rdma_table_free(&engine->keys);
	rdma_table_free(&engine->pairs);
	rdma_table_free(&engine->completions);
	rdma_table_free(&engine->shared);
	free(engine);
	return 0;
}

void godwit_rdma_get_counters(const struct godwit_rdma *engine,
			      struct godwit_rdma_counters *counters)
{
	*counters = engine->counters;
}

int rdma_choose_number(struct godwit_rdma *engine, const struct rdma_table *table, uint32_t wanted,
		       uint32_t *number)
{
	*number = wanted;
	if (wanted)
		return rdma_table_find(table, wanted) ? -EEXIST : 0;
	do {
		*number = ++engine->next_number;
	} while (!*number || rdma_table_find(table, *number));
	return 0;
}

void rdma_event(struct godwit_rdma *engine, enum godwit_rdma_event_type type,
		struct godwit_rdma_pair *pair)
{
	if (engine->options.event)
		engine->options.event(engine->options.context,
				      &(struct godwit_rdma_event){.type = type, .pair = pair});
}

/* --- Packets that come ------------------------------------------------------------------------- */

/* True if @packet came from the pair's peer, to the pair's address. */
static bool is_from_peer(const struct godwit_rdma_pair *pair, const struct godwit_rdma_ends *ends)
{
	const struct godwit_rdma_ends *own = &pair->attributes.ends;

	if (pair->service == GODWIT_RDMA_DATAGRAM && rdma_address_is_none(own->source))
		return pair->engine->options.is_own &&
		       pair->engine->options.is_own(pair->engine->options.context,
						    ends->destination);
	if (memcmp(ends->destination, own->source, sizeof(own->source)) != 0)
		return false;
	return pair->service == GODWIT_RDMA_DATAGRAM ||
	       !memcmp(ends->source, own->destination, sizeof(own->destination));
}

static bool is_service(const struct godwit_rdma_pair *pair, uint8_t opcode)
{
	static const uint8_t services[] = {[GODWIT_RDMA_RELIABLE] = RDMA_SERVICE_RC,
					   [GODWIT_RDMA_UNRELIABLE] = RDMA_SERVICE_UC,
					   [GODWIT_RDMA_DATAGRAM] = RDMA_SERVICE_UD};

	return (opcode & RDMA_SERVICE_MASK) == services[pair->service];
}

void godwit_rdma_receive(struct godwit_rdma *engine, const struct godwit_rdma_ends *ends,
			 const uint8_t *bytes, size_t size, int64_t now)
{
	struct rdma_table_entry *entry;
	struct godwit_rdma_pair *pair;
	struct rdma_packet packet;

	engine->now = now;
	engine->counters.received++;
	if (size > RDMA_PACKET_MAX || !rdma_packet_decode(bytes, size, &packet)) {
		engine->counters.malformed++;
		return;
	}
	entry = rdma_table_find(&engine->pairs, packet.queue_pair);
	pair = entry ? CONTAINER_OF(entry, struct godwit_rdma_pair, entry) : NULL;
	if (!pair || !rdma_pair_receives(pair) || !is_service(pair, packet.opcode) ||
	    !is_from_peer(pair, ends) || (packet.pkey & 0x7fff) != (RDMA_PKEY_DEFAULT & 0x7fff)) {
		engine->counters.stray++;
		return;
	}
	if (pair->service == GODWIT_RDMA_DATAGRAM)
		rdma_datagram_receive(pair, ends, &packet);
	else if (packet.flags & RDMA_IS_RESPONSE)
		rdma_requester_receive(pair, &packet);
	else
		rdma_responder_receive(pair, &packet);
}

/* --- Packets that go --------------------------------------------------------------------------- */

uint8_t *rdma_reserve_for(struct godwit_rdma_pair *pair, const struct godwit_rdma_ends *ends,
			  uint32_t size)
{
	struct godwit_rdma *engine = pair->engine;
	uint8_t *bytes = engine->options.port.reserve(engine->options.port.context, ends, size);

	engine->blocked = !bytes;
	return bytes;
}

uint8_t *rdma_reserve(struct godwit_rdma_pair *pair, uint32_t size)
{
	return rdma_reserve_for(pair, &pair->attributes.ends, size);
}

void rdma_commit(struct godwit_rdma *engine)
{
	engine->options.port.commit(engine->options.port.context);
	engine->counters.sent++;
}

void rdma_pair_ready(struct godwit_rdma_pair *pair)
{
	struct godwit_rdma *engine = pair->engine;

	if (pair->ready)
		return;
	pair->ready = true;
	pair->ready_next = NULL;
	pair->ready_previous = engine->ready_tail;
	if (engine->ready_tail)
		engine->ready_tail->ready_next = pair;
	else
		engine->ready_head = pair;
	engine->ready_tail = pair;
}

void rdma_pair_not_ready(struct godwit_rdma_pair *pair)
{
	struct godwit_rdma *engine = pair->engine;

	if (!pair->ready)
		return;
	pair->ready = false;
	if (pair->ready_previous)
		pair->ready_previous->ready_next = pair->ready_next;
	else
		engine->ready_head = pair->ready_next;
	if (pair->ready_next)
		pair->ready_next->ready_previous = pair->ready_previous;
	else
		engine->ready_tail = pair->ready_previous;
}

/* A turn of @pair. Answers go first: the peer waits for them. True: it wants another one. */
static bool take_turn(struct godwit_rdma_pair *pair)
{
	bool more;

	if (pair->service == GODWIT_RDMA_DATAGRAM)
		return rdma_datagram_run(pair, TURN);
	more = rdma_responder_run(pair, TURN);
	return rdma_requester_run(pair, TURN) || more;
}

/* --- Timers ------------------------------------------------------------------------------------ */

/* Whether @pair is in the list of those with a timer follows from its timers. */
static void list_timer(struct godwit_rdma_pair *pair)
{
	struct godwit_rdma *engine = pair->engine;
	bool timed = pair->requester.timer != RDMA_NO_TIMER || pair->responder.paused;

	if (pair->requester.timer != RDMA_NO_TIMER)
		engine->timers_at = MIN(engine->timers_at, pair->requester.timer_at);
	if (pair->responder.paused)
		engine->timers_at = MIN(engine->timers_at, pair->responder.resume_at);
	if (timed == pair->timed)
		return;
	pair->timed = timed;
	if (timed) {
		pair->timed_previous = NULL;
		pair->timed_next = engine->timed;
		if (engine->timed)
			engine->timed->timed_previous = pair;
		engine->timed = pair;
		return;
	}
	if (pair->timed_previous)
		pair->timed_previous->timed_next = pair->timed_next;
	else
		engine->timed = pair->timed_next;
	if (pair->timed_next)
		pair->timed_next->timed_previous = pair->timed_previous;
}

void rdma_pair_timer(struct godwit_rdma_pair *pair, enum rdma_timer timer, int64_t delay)
{
	pair->requester.timer = timer;
	pair->requester.timer_at = pair->engine->now + delay;
	list_timer(pair);
}

void rdma_responder_pause(struct godwit_rdma_pair *pair)
{
	pair->responder.paused = true;
	pair->responder.resume_at = pair->engine->now + RDMA_PATIENCE;
	list_timer(pair);
}

void rdma_pair_stop_timers(struct godwit_rdma_pair *pair)
{
	pair->responder.paused = false;
	rdma_pair_timer(pair, RDMA_NO_TIMER, 0);
}

/* A timer that was put off is found to be later here: its owner does not sort anything. */
static void end_timers(struct godwit_rdma *engine)
{
	struct godwit_rdma_pair *pair, *next;

	if (engine->now < engine->timers_at)
		return;
	for (pair = engine->timed; pair; pair = next) {
		next = pair->timed_next;
		if (pair->responder.paused && engine->now >= pair->responder.resume_at) {
			pair->responder.paused = false;
			rdma_pair_ready(pair);
		}
		if (pair->requester.timer != RDMA_NO_TIMER &&
		    engine->now >= pair->requester.timer_at)
			rdma_requester_timer(pair);
		list_timer(pair);
	}
	engine->timers_at = GODWIT_RDMA_NEVER;
	for (pair = engine->timed; pair; pair = pair->timed_next)
		list_timer(pair);
}

int64_t godwit_rdma_poll(struct godwit_rdma *engine, int64_t now)
{
	engine->now = now;
	engine->blocked = false;
	end_timers(engine);
	for (uint32_t turns = 0; engine->ready_head && !engine->blocked && turns < TURNS; turns++) {
		struct godwit_rdma_pair *pair = engine->ready_head;

		rdma_pair_not_ready(pair);
		if (take_turn(pair) || engine->blocked)
			rdma_pair_ready(pair);
	}
	if (engine->options.port.flush)
		engine->options.port.flush(engine->options.port.context);
	return engine->ready_head ? now : engine->timers_at;
}
