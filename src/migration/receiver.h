/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The destination's end of a link's data connections: puts pages into guest memory as they arrive,
 * and states of devices in their order into whoever loads them, several devices at a time. Its threads
 * and all memory for chunks exist before the first byte.
 *
 * Chunks are kept in a pool of fixed size, of which each device has at least one place and those that
 * send much more share the rest; the destination says who may send how many (STATE_CREDIT), and refuses
 * whatever is more. So connections never wait for devices, and the pool is all that a peer can fill.
 *
 * Threads: create, start, wait, destroy from one; stop and progress from any; callbacks come on
 * threads of the receiver. Errors: of the connections, what a peer must not send, what a callback says;
 * the machine is not to be used then.
 */
#ifndef GODWIT_MIGRATION_RECEIVER_H
#define GODWIT_MIGRATION_RECEIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "migration/link.h"

struct migration_receiver;

struct migration_receiver_ops {
	/*
	 * All that belongs to @round is in memory, and nothing that comes later: all connections wait
	 * until this returns. Here what is plugged may change (migration_receiver_forget). NULL: nothing
	 * to do.
	 */
	struct error *(*round_ended)(void *context, uint64_t round);
	/*
	 * The next bytes of the state of @device, in their order; @last: there is no more. One call at a
	 * time for a device, several devices at once. @bytes are gone afterwards.
	 */
	struct error *(*load)(void *context, uint32_t device, const void *bytes, size_t size,
			      bool last);
	/* Each device has had its last chunk; once. NULL: nobody wants to know. */
	void (*all_loaded)(void *context);
	/*
	 * Puts @count pages from @first on of @block, inside it, into memory, at once for who waits
	 * there; @bytes is NULL for zeros. Whether they are plugged is for this to say. They came over
	 * @connection, the last of which is the one for requested pages: one call at a time for each.
	 * NULL: memory is the receiver's, and content goes straight there.
	 */
	struct error *(*place)(void *context, uint32_t connection, uint32_t block, uint64_t first,
			       uint64_t count, const void *bytes);
	/*
	 * It is over; once: all connections came to their end and all devices are loaded, or @error,
	 * borrowed. Not to be answered by destroying it, from this thread.
	 */
	void (*ended)(void *context, const struct error *error);
};

struct migration_receiver_options {
	uint32_t workers;   /* threads that load devices, at least 1 */
	uint32_t devices;   /* at most WIRE_DEVICES_MAX */
	uint64_t pool_size; /* bytes for chunks; 0: MIGRATION_POOL_SIZE, or what is needed */
};

#define MIGRATION_POOL_SIZE (16 << 20)

/*
 * @link, which is connected, and @map, whose memory is all zeros, outlive it. A pool with less than a
 * chunk for each device is refused.
 */
struct error *migration_receiver_create(struct migration_link *link, struct memory_map *map,
					const struct migration_receiver_options *options,
					const struct migration_receiver_ops *ops, void *context,
					struct migration_receiver **receiver) MUST_CHECK;
/* Stops it. Accepts NULL. */
void migration_receiver_destroy(struct migration_receiver *receiver);
DEFINE_CLEANUP(migration_receiver, struct migration_receiver *, migration_receiver_destroy)
#define AUTO_MIGRATION_RECEIVER AUTO(cleanup_migration_receiver)

/* Grants the first credit, and takes what comes from here on. To be called after ACCEPT was sent. */
struct error *migration_receiver_start(struct migration_receiver *receiver) MUST_CHECK;
/* Waits until `ended`, and returns its error (a copy). */
struct error *migration_receiver_wait(struct migration_receiver *receiver) MUST_CHECK;
/* Ends it with an error of code ECANCELED, unless it has ended. */
void migration_receiver_stop(struct migration_receiver *receiver);

/*
 * From the next record on, content goes to ops->place (@on) or straight into memory. From round_ended,
 * or before the start. Before it is on, nothing may come over the connection for requested pages.
 */
void migration_receiver_set_placing(struct migration_receiver *receiver, bool on);
/* [first, first + count) pages of @block are zeros again: they were discarded. From round_ended. */
void migration_receiver_forget(struct migration_receiver *receiver, uint32_t block, uint64_t first,
			       uint64_t count);

struct migration_received {
	uint64_t pages, zero_pages;
	uint64_t bytes; /* on the data connections */
	uint64_t state_bytes;
	uint64_t round;		 /* the last one that ended */
	uint32_t devices_loaded; /* to their last chunk */
	uint64_t pool_peak;	 /* bytes of the pool that were in use at once, at most */
};
void migration_receiver_progress(struct migration_receiver *receiver,
				 struct migration_received *received);

#endif
