/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of a migration share: machine_migrate.c has its life, machine_migrate_link.c what is
 * said and heard, machine_migrate_handover.c its thread and who runs the guest,
 * machine_migrate_copy.c the memory and the states, machine_migrate_stream.c the streams,
 * machine_migrate_postcopy.c what of it is brought when the guest is gone,
 * machine_migrate_recover.c connections that are made anew;
 * machine_main_call.c is how threads ask the main loop.
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
#include "migration/postcopy_source.h"
#include "migration/sender.h"

#define MIGRATE_STATE_JOBS  2 /* that emit states */
#define MIGRATE_STREAM_JOBS 8 /* that emit streams at once, at the most */

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

/* A device's stream (virtio_device.h). */
struct migrate_stream {
	struct worker_job job;
	struct machine_migrate *migrate;
	struct virtio_device *device;
	uint32_t number; /* among all states */
	bool begun;	 /* to be saved */
	bool stopped;	 /* the guest stands still: all the rest */
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
	void (*on_change)(void *context);
	void *context;
	struct main_calls calls;
	struct handover_queue events;
	pthread_t thread;

	/* The thread's: */
	/* Changes with the lock. NULL: broken, and not made anew. */
	struct migration_link *link;
	pthread_t reader;
	bool connected, reader_started, aborted;
	uint8_t session[WIRE_SESSION_SIZE]; /* once connected */
	bool froze, released; /* the guest was stopped; locks of disks were given back */
	struct migrate_block *blocks;
	uint32_t block_count;
	uint64_t **pending,
	    **fresh;	/* of each block: pages to be sent; those that are zeros there */
	bool collected; /* once at least */
	bool any_fresh;
	struct migrate_state *states;
	uint32_t state_count;
	struct migrate_stream *streams;
	uint32_t stream_count;
	struct vcpu_throttle *throttle; /* NULL: nobody slows the guest; from the start on */
	struct migrate_state_job jobs[MIGRATE_STATE_JOBS];
	int64_t began_ns, stopped_ns, sent_ns, go_ns;

	struct precopy precopy;		  /* locks itself */
	struct postcopy_source *postcopy; /* NULL: there is none, or not yet */

	/* machine_migrate_recover.c's: a link that is being made anew. */
	pthread_t connector;
	bool connector_started; /* the main loop's, as the thread above */

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	struct handover handover;
	struct migration_sender *sender; /* from ACCEPT on */
	bool cancelled;
	uint32_t changes;
	bool postcopy_wanted; /* as soon as can be */
	bool postcopy_begun;  /* pages are lacking at the destination, or were */
	bool connecting;
	struct migration_link *next;  /* that is being connected, or is and was not taken yet */
	struct error *recover_error;  /* why the last attempt failed, until the next one */
	struct migration_sent before; /* over connections that are gone */
	bool slowed_alike;	      /* whoever writes */
	bool heard_all; /* the destination says no more that matters: it closed, or rejected */
	struct error *reason; /* why it failed: the first that was known */
	struct migration_done destination;
	struct machine_downtime downtime;
};

/* machine_migrate.c */

/* Keeps @error, which is taken over, as the reason if there is none yet. */
void migrate_note(struct machine_migrate *migrate, struct error *error);
/* What is said of one that an operator has ended. */
struct error *migrate_cancelled(void) MUST_CHECK;
enum handover_state migrate_state_of(struct machine_migrate *migrate);

/* machine_migrate_copy.c */

/* The context is the migration. */
extern const struct precopy_ops migrate_precopy_ops;

/* With the sender there: room for all that will be needed. */
struct error *migrate_copy_prepare(struct machine_migrate *migrate) MUST_CHECK;
void migrate_copy_clear(struct machine_migrate *migrate);
/* The guest can be slowed down if that was asked for; before there are threads. */
struct error *migrate_copy_slow(struct machine_migrate *migrate) MUST_CHECK;
/* Which processors are slowed, in words. */
const char *migrate_copy_slowed(bool alike);
/* It has all its time again. While it stands still, or on the migration's thread. */
void migrate_copy_slow_no_more(struct machine_migrate *migrate);
/* Sends memory while the guest runs, until the rest is small. */
struct error *migrate_copy_run(struct machine_migrate *migrate) MUST_CHECK;
/* On the main loop, while the guest stands still: collects the states. */
struct error *migrate_copy_states(struct machine_migrate *migrate) MUST_CHECK;
/*
 * What was written since the last time is to be sent as well, and what is plugged is told. Behind it a
 * round is to begin. *@pages: all that is to be sent now.
 */
struct error *migrate_copy_collect(struct machine_migrate *migrate, uint64_t *pages) MUST_CHECK;
/* Emits the states; and until they are emitted. @error, taken over: what failed meanwhile, or NULL. */
void migrate_copy_begin_states(struct machine_migrate *migrate);
struct error *migrate_copy_end_states(struct machine_migrate *migrate,
				      struct error *error) MUST_CHECK;
/* Sends the rest of memory, and the states. */
struct error *migrate_copy_rest(struct machine_migrate *migrate) MUST_CHECK;

/* machine_migrate_stream.c */

/* On the main loop: which there are. */
struct error *migrate_streams_find(struct machine_migrate *migrate) MUST_CHECK;
void migrate_streams_clear(struct machine_migrate *migrate);
/*
 * Lets all devices emit what they have, @stopped: the last of it; and until they have. @error, taken over:
 * what failed meanwhile, or NULL.
 */
void migrate_streams_begin(struct machine_migrate *migrate, bool stopped);
struct error *migrate_streams_end(struct machine_migrate *migrate, struct error *error) MUST_CHECK;
/* The devices need no longer remember what they have emitted. */
void migrate_streams_finish(struct machine_migrate *migrate);

/* machine_migrate_postcopy.c */

/* With the sender there, before memory is copied: room for all that will be needed. */
struct error *migrate_postcopy_create(struct machine_migrate *migrate) MUST_CHECK;
/* precopy_ops.suffices. */
bool migrate_postcopy_suffices(void *migrate, const struct precopy_progress *progress);
/* The guest runs still, and all that was collected and not sent is for post-copy. */
struct error *migrate_postcopy_prepare(struct machine_migrate *migrate) MUST_CHECK;
/* Instead of migrate_copy_rest: tells what is lacking, sends the states, and lets the pages follow. */
struct error *migrate_postcopy_rest(struct machine_migrate *migrate) MUST_CHECK;
/* PAGE_REQUEST, RECEIVED; from who receives messages. */
struct error *migrate_postcopy_message(struct machine_migrate *migrate,
				       const struct migration_message *message) MUST_CHECK;
bool migrate_postcopy_begun(struct machine_migrate *migrate);
/* What @progress has of post-copy. */
void migrate_postcopy_progress(struct machine_migrate *migrate, const struct migration_sent *sent,
			       struct machine_migrate_progress *progress);

/* machine_migrate_recover.c */

/* The connections have broken, and their reader has ended: puts what is left of them away. */
void migrate_recover_detach(struct machine_migrate *migrate);
/* Goes on with those that were made anew: LINK_UP. An error: as if they had broken. */
struct error *migrate_recover_adopt(struct machine_migrate *migrate) MUST_CHECK;
void migrate_recover_add(struct migration_sent *sum, const struct migration_sent *sent);
/* On the main loop: nothing is being connected once it returns. */
void migrate_recover_end(struct machine_migrate *migrate);

/* machine_migrate_link.c */

/* Connects and is accepted, and sends memory until the rest is small, or for post-copy. */
struct error *migrate_begin(struct machine_migrate *migrate) MUST_CHECK;
/* Until the destination has said its last word: what was sent last must not be lost. */
void migrate_linger(struct machine_migrate *migrate);
/* @devices: whose states it sends. */
struct error *migrate_create_sender(struct machine_migrate *migrate, uint32_t devices) MUST_CHECK;
struct error *migrate_start_reader(struct machine_migrate *migrate) MUST_CHECK;

/* machine_migrate_handover.c */

/* The migration's thread, from its beginning to the one who runs the guest afterwards. */
void *migrate_thread(void *migrate);
/* Has the owner look. */
void migrate_tell_changed(struct machine_migrate *migrate);

#endif
