/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of machine_incoming.h share: machine_incoming.c has its life and the handover,
 * machine_incoming_load.c what arrives: states and what is plugged.
 */
#ifndef GODWIT_MACHINE_MACHINE_INCOMING_PRIVATE_H
#define GODWIT_MACHINE_MACHINE_INCOMING_PRIVATE_H

#include <pthread.h>

#include "machine/machine_description.h"
#include "machine/machine_incoming.h"
#include "machine/machine_main_call.h"
#include "machine/machine_private.h"
#include "migration/handover_queue.h"
#include "migration/link.h"

/* A state as it has arrived so far. One thread at a time adds to it. */
struct incoming_state {
	uint8_t *bytes;
	size_t size, room;
};

/* Elastic memory, and what of it the source said is plugged. */
struct incoming_block {
	struct memory_region *region; /* NULL: always plugged */
	uint64_t pages;
	uint64_t *plugged;
};

struct machine_incoming {
	struct machine *machine; /* NULL: not started */
	struct migration_link *link;
	struct machine_description *description;

	struct main_calls calls;
	struct handover_queue events;
	pthread_t thread, reader;
	bool thread_started, reader_started;
	struct migration_receiver *receiver;
	struct incoming_state *states;
	uint32_t state_count; /* of the description, and one for what becomes of the machine */
	uint64_t state_bytes; /* of all; atomic */
	struct incoming_block *blocks;
	uint32_t block_count;
	int64_t go_ns; /* the thread's, as the next ones */
	bool rejected;

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	struct handover handover;
	bool stopping, finished;
	bool heard_all; /* the source says no more that matters: it closed, or aborted */
	bool switch_begun;
	uint64_t rounds_told;	 /* by ROUND_END: what is in `plugged` is for after it */
	uint64_t rounds_applied; /* and was made so */
	int64_t switch_ns;
	int64_t load_ns, resume_ns;
	struct error *reason;		    /* why it failed: the first that was known */
	struct migration_received received; /* once the receiver is gone */
};

/* Keeps @error, which is taken over, as the reason if there is none yet. */
void incoming_note(struct machine_incoming *incoming, struct error *error);

/* machine_incoming_load.c */

/* Room for all that will be needed. */
struct error *incoming_load_prepare(struct machine_incoming *incoming) MUST_CHECK;
void incoming_load_clear(struct machine_incoming *incoming);
/* PLUGGED, ROUND_END; from who receives messages. */
struct error *incoming_take_plugged(struct machine_incoming *incoming,
				    const struct migration_message *message) MUST_CHECK;
struct error *incoming_take_round(struct machine_incoming *incoming, uint64_t round) MUST_CHECK;
/* The receiver's callbacks, on its threads. */
struct error *incoming_round_ended(void *context, uint64_t round) MUST_CHECK;
struct error *incoming_load_chunk(void *context, uint32_t device, const void *bytes, size_t size,
				  bool last) MUST_CHECK;
/* On the main loop, once memory and all states are there. */
struct error *incoming_load_states(struct machine_incoming *incoming) MUST_CHECK;

#endif
