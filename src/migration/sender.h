/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The source's end of a link's data connections: sends pages of guest memory, from where they are, and
 * states of devices, in chunks from whichever thread has them. Its threads exist before the first byte.
 *
 *	migration_sender_round	  pages of a bitmap, over all connections
 *	migration_sender_end_round  what follows is applied after everything before
 *	migration_sender_emit	  a chunk of a device's state, whenever, from any thread
 *	migration_sender_pages	  pages that the guest waits for, now, over their own connection
 *	migration_sender_finish	  no more of anything
 *
 * Nothing is allocated per page or chunk.
 *
 * Elastic memory: what is not plugged at the moment is left out. A range that is unplugged while its
 * pages are being sent is given back only when they have been.
 *
 * Threads: create, round, end_round, finish, destroy from one; the rest from any. Errors: the
 * connection's; after one, all others of these fail with the same message.
 */
#ifndef GODWIT_MIGRATION_SENDER_H
#define GODWIT_MIGRATION_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "migration/link.h"
#include "migration/worker_pool.h"

struct migration_sender;

struct migration_sender_options {
	uint32_t workers;   /* threads for jobs of the caller's, beside one a data connection */
	uint32_t devices;   /* whose states will come; the destination knows the same list */
	bool zstd;	    /* compress what can be compressed */
	int zstd_level;	    /* 0: the fastest */
	uint64_t bandwidth; /* bytes a second of all connections together; 0: no limit */
};

/* @link, which is connected, and @map outlive it. */
struct error *migration_sender_create(struct migration_link *link, struct memory_map *map,
				      const struct migration_sender_options *options,
				      struct migration_sender **sender) MUST_CHECK;
/* Nobody may be using it; jobs are waited for. Accepts NULL. */
void migration_sender_destroy(struct migration_sender *sender);
DEFINE_CLEANUP(migration_sender, struct migration_sender *, migration_sender_destroy)
#define AUTO_MIGRATION_SENDER AUTO(cleanup_migration_sender)

/* How many blocks of memory there are, and the pages of each: what bitmaps are about. */
uint32_t migration_sender_blocks(const struct migration_sender *sender);
struct ram_block *migration_sender_block(const struct migration_sender *sender, uint32_t block,
					 uint64_t *pages);

/*
 * Sends the pages whose bits are set in @pending (a bitmap for each block), and clears the bits as it
 * takes them, atomically: others may clear some too, or set them while it runs. Returns when the
 * kernel has everything, or when migration_sender_interrupt was called, with bits left.
 *
 * @fresh: the destination's memory holds nothing yet where bits are set: pages of zeros, and those
 * that are not there, are left out. Not for memory that is still being brought (ram_lazy.h), where what
 * is not there is not zeros. Else pages of zeros are sent as such, and all are looked at, which makes
 * those that are not there.
 */
struct error *migration_sender_round(struct migration_sender *sender, uint64_t *const *pending,
				     bool fresh) MUST_CHECK;
/*
 * Waits until all that was sent has had the time that the limit of bandwidth gives it. What comes next
 * would have to wait for that, and a round would seem to be faster than the next one can be. An
 * interrupted round waits for nothing.
 */
struct error *migration_sender_settle(struct migration_sender *sender) MUST_CHECK;
/*
 * Makes the round that runs, and each that comes, return soon, until migration_sender_go_on: which must come
 * before a round behind which nothing is sent. Any thread.
 */
void migration_sender_interrupt(struct migration_sender *sender);
void migration_sender_go_on(struct migration_sender *sender);
/*
 * A barrier on all data connections, and ROUND_END on the main one: the destination applies what
 * comes later after all that came before. Returns the number that the round had, from 1, in *@round.
 */
struct error *migration_sender_end_round(struct migration_sender *sender,
					 uint64_t *round) MUST_CHECK;

/*
 * From now on all pending pages of a page of the host, where those are larger, go over one connection,
 * one behind another: the other end has to have all of it before it can use any. Between rounds.
 */
void migration_sender_keep_whole(struct migration_sender *sender);
/*
 * Sends those of [first, first + count) pages of @block whose bits are set in @pending, as above, over
 * the connection for requested pages. The range comes from the peer: one that is not in the block is
 * an error. What is kept whole is sent whole, unless another connection is about to send it. One
 * thread at a time.
 */
struct error *migration_sender_pages(struct migration_sender *sender, uint32_t block,
				     uint64_t first, uint64_t count, uint64_t *pending) MUST_CHECK;

/*
 * Sends @size bytes of the state of @device, in chunks; @last: there is no more. Waits until the
 * destination has room. Chunks of one device reach it in the order in which they were given: from
 * one thread at a time, or in whatever order several have.
 */
struct error *migration_sender_emit(struct migration_sender *sender, uint32_t device,
				    const void *bytes, size_t size, bool last) MUST_CHECK;
/* A STATE_CREDIT of the destination; from who receives its messages, who never waits for this. */
struct error *migration_sender_credit(struct migration_sender *sender,
				      const struct migration_message *message) MUST_CHECK;

/* The end of all data connections. */
struct error *migration_sender_finish(struct migration_sender *sender) MUST_CHECK;
/* Makes all of these fail, also while they wait. The data connections cannot be used any more. */
void migration_sender_cancel(struct migration_sender *sender);

/* The threads, for jobs that emit states. A job must not wait for another one. */
struct worker_pool *migration_sender_workers(struct migration_sender *sender);
/* 0: no limit. Pages that the guest waits for are never held up by it. */
void migration_sender_set_bandwidth(struct migration_sender *sender, uint64_t rate);

struct migration_sent {
	uint64_t pages;		   /* with content */
	uint64_t zero_pages;	   /* sent as such, or left out as fresh */
	uint64_t compressed_pages; /* of pages */
	uint64_t bytes;		   /* on the data connections, all of it */
	uint64_t state_bytes;	   /* of states of devices */
	uint64_t requested_pages;  /* of pages: those that the guest waited for */
	uint64_t credit_waits;	   /* chunks that had to wait for the destination */
};
/* So far; any thread. */
void migration_sender_progress(const struct migration_sender *sender, struct migration_sent *sent);

#endif
