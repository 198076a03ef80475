/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of a migration share: machine_migrate.c has its life and the handover,
 * machine_migrate_copy.c the memory and the states, machine_main_call.c is how threads ask the main
 * loop.
 */
#ifndef GODWIT_MACHINE_MACHINE_MIGRATE_PRIVATE_H
#define GODWIT_MACHINE_MACHINE_MIGRATE_PRIVATE_H

#include <pthread.h>

#include "kvm/vcpu_throttle.h"
#include "machine/machine_main_call.h"
#include "machine/machine_migrate.h"
#include "machine/machine_private.h"
#include "migration/handover_queue.h"
#include "migration/link.h"
#include "migration/sender.h"

#define MIGRATE_STATE_JOBS 2 /* that emit states */

/* The state of a device or processor, as it is sent. */
struct migrate_state {
	void *bytes;
	size_t size;
};

struct migrate_state_job {
	struct worker_job job;
	struct machine_migrate *migrate;
	uint32_t first; /* of MIGRATE_STATE_JOBS */
	struct error *error;
};

/* What is to be sent of a block of memory. */
struct migrate_block {
	struct ram_block *block;
	uint64_t pages;
	/* Elastic memory: its region, and what of it was plugged at the last collection. */
	const struct memory_region *region;
	uint64_t *plugged;
};

struct machine_migrate {
	struct machine *machine;
	struct machine_migrate_options options; /* texts are copies */
	void (*done)(void *context, struct error *error);
	void (*undecided)(void *context);
	void *context;
	struct main_calls calls;
	struct handover_queue events;
	pthread_t thread;

	/* The thread's: */
	struct migration_link *link; /* from the start on */
	pthread_t reader;
	bool connected, reader_started, aborted;
	bool froze, released; /* the guest was stopped; locks of disks were given back */
	struct migrate_block *blocks;
	uint32_t block_count;
	uint64_t **pending,
	    **fresh;	/* of each block: pages to be sent; those that are zeros there */
	bool collected; /* once at least */
	bool any_fresh;
	struct migrate_state *states;
	uint32_t state_count;
	struct vcpu_throttle *throttle; /* NULL: nobody slows the guest; from the start on */
	struct migrate_state_job jobs[MIGRATE_STATE_JOBS];
	int64_t began_ns, stopped_ns, sent_ns, go_ns;

	struct precopy precopy; /* locks itself */

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	struct handover handover;
	struct migration_sender *sender; /* from ACCEPT on */
	bool cancelled;
	bool heard_all; /* the destination says no more that matters: it closed, or rejected */
	struct error *reason; /* why it failed: the first that was known */
	struct migration_done destination;
	struct machine_downtime downtime;
};

/* Keeps @error, which is taken over, as the reason if there is none yet. */
void migrate_note(struct machine_migrate *migrate, struct error *error);

/* machine_migrate_copy.c */

/* The context is the migration. */
extern const struct precopy_ops migrate_precopy_ops;

/* With the sender there: room for all that will be needed. */
struct error *migrate_copy_prepare(struct machine_migrate *migrate) MUST_CHECK;
void migrate_copy_clear(struct machine_migrate *migrate);
/* The guest can be slowed down if that was asked for; before there are threads. */
struct error *migrate_copy_slow(struct machine_migrate *migrate) MUST_CHECK;
/* It has all its time again. While it stands still, or on the migration's thread. */
void migrate_copy_slow_no_more(struct machine_migrate *migrate);
/* Sends memory while the guest runs, until the rest is small. */
struct error *migrate_copy_run(struct machine_migrate *migrate) MUST_CHECK;
/* On the main loop, while the guest stands still: collects the states. */
struct error *migrate_copy_states(struct machine_migrate *migrate) MUST_CHECK;
/* Sends the rest of memory, and the states. */
struct error *migrate_copy_rest(struct machine_migrate *migrate) MUST_CHECK;

#endif
