/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of machine_incoming.h share: machine_incoming.c has its life and the handover,
 * machine_incoming_load.c what arrives: states and what is plugged; machine_incoming_postcopy.c what
 * arrives when the guest runs already, machine_incoming_recover.c connections that are made anew.
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
#include "migration/postcopy_destination.h"
#include "migration/ram_blocks.h"
#include "migration/state_collect.h"

/* Elastic memory, and what of it the source said is plugged. */
struct incoming_block {
	struct memory_region *region; /* NULL: always plugged */
	uint64_t pages;
	uint64_t *plugged;
};

struct machine_incoming {
	struct machine *machine;     /* NULL: not started */
	struct migration_link *link; /* changes with the lock. NULL: broken */
	struct machine_description *description;

	struct main_calls calls;
	struct handover_queue events;
	pthread_t thread, reader;
	bool thread_started, reader_started;
	struct migration_receiver *receiver; /* as the link */
	uint32_t state_count; /* of the description, and one for what becomes of the machine */
	struct state_collector *states;
	struct virtio_device **streams; /* of each state: who loads it as it comes, or NULL */
	uint32_t stream_count;
	struct incoming_block *blocks;
	uint32_t block_count;
	int64_t go_ns; /* the thread's, as the next ones */
	bool rejected;
	uint32_t channels; /* of the session, as the next one */
	bool has_postcopy;
	enum handover_state told; /* the main loop's: by the last event */
	char *tls;
	void (*lost)(void *context, const struct error *error);
	void (*started)(void *context);
	void *context; /* of these */
	int token_fd;
	struct error
	    *loss; /* the main loop's: the machine ends, and this is why its guest is lost */

	/* machine_incoming_postcopy.c */
	struct postcopy_destination *postcopy; /* changes with the lock. NULL: none, or over */
	bool postcopy_begun;		       /* atomic */
	pthread_mutex_t order;		       /* guards the next ones */
	bool states_loaded, pages_complete, failed;

	/* machine_incoming_recover.c; the first two are the owner's */
	pthread_t listener;
	bool listener_started;

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
	struct error *reason;			      /* why it failed: the first that was known */
	struct migration_received received;	      /* over connections that are gone */
	struct postcopy_destination_progress brought; /* once there is no post-copy any more */
	uint8_t session[WIRE_SESSION_SIZE];	      /* once connections have broken */
	bool ending;				      /* also atomic: nobody waits for anything */
	bool listen;				      /* it is waited for the source */
	char *address;				      /* where. NULL: nobody knows */
	uint32_t address_number;		      /* grows when an operator says where */
	struct migration_link *next; /* that is being made anew, or is and was not taken yet */
};

/* Keeps @error, which is taken over, as the reason if there is none yet. */
void incoming_note(struct machine_incoming *incoming, struct error *error);

/* machine_incoming.c */

struct error *incoming_create_receiver(struct machine_incoming *incoming,
				       uint32_t devices) MUST_CHECK;
struct error *incoming_start_reader(struct machine_incoming *incoming) MUST_CHECK;
/* Loads the states, on the main loop, and waits for that. */
struct error *incoming_load_all(struct machine_incoming *incoming) MUST_CHECK;

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

/* machine_incoming_postcopy.c */

/* Before ACCEPT: refuses what cannot be done. */
struct error *incoming_postcopy_create(struct machine_incoming *incoming) MUST_CHECK;
/* PENDING; from who receives messages. */
struct error *incoming_postcopy_pending(struct machine_incoming *incoming,
					const struct migration_message *message) MUST_CHECK;
/* At the end of a round, when what is plugged is as at the source. */
struct error *incoming_postcopy_round_ended(struct machine_incoming *incoming) MUST_CHECK;
/* The receiver's callbacks. */
struct error *incoming_postcopy_place(void *context, uint32_t connection, uint32_t block,
				      uint64_t first, uint64_t count, const void *bytes) MUST_CHECK;
void incoming_postcopy_all_loaded(void *context);
/* What comes before all states are loaded has failed. False: they are loaded, and nothing was done. */
bool incoming_postcopy_fail(struct machine_incoming *incoming);
/* Of a receiver that ended when the states had been loaded. */
void incoming_postcopy_ended(struct machine_incoming *incoming, const struct error *failure);
/* Whether pages are lacking, or were; whether some are; whether states were loaded. Any thread. */
bool incoming_postcopy_begun(struct machine_incoming *incoming);
bool incoming_postcopy_lacking(struct machine_incoming *incoming);
bool incoming_postcopy_loaded(struct machine_incoming *incoming);
/* Nobody needs what is here, nor shall anybody wait for it: what is lacking becomes zeros. */
void incoming_postcopy_release(struct machine_incoming *incoming);
/* The receiver is gone. */
void incoming_postcopy_end(struct machine_incoming *incoming);
/* All pages are there, nobody watches: makes certain what was only reserved. Blocks. */
void incoming_postcopy_take_rest(struct machine_incoming *incoming);

/* machine_incoming_recover.c; the owner's, but where it says so */

/* The connections have broken: puts what is left of them away. */
void incoming_recover_detach(struct machine_incoming *incoming);
/* Waits for the source to connect anew, as LINK_UP. */
void incoming_recover_listen(struct machine_incoming *incoming);
/* Goes on with connections that were made anew: LINK_UP. An error: as if they had broken. */
struct error *incoming_recover_adopt(struct machine_incoming *incoming) MUST_CHECK;
/* Says what of memory has come, when it was said what this side is. */
void incoming_recover_resume(struct machine_incoming *incoming);
/* `ending` is set and `next` cancelled: waits. On the main loop, when there is no owner any more. */
void incoming_recover_end(struct machine_incoming *incoming);
/* With the lock: what was received so far, over all connections. */
void incoming_recover_received(const struct machine_incoming *incoming,
			       struct migration_received *received);

#endif
