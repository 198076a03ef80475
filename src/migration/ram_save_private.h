/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of ram_save share: ram_save.c has the channels and the life of a save,
 * ram_save_chunk.c brings one chunk's content into the file or the stream, ram_save_stripe.c many of
 * a paused guest's at once into the file, ram_save_live.c is about guests that run.
 *
 * Memory is cut into units: of one chunk, or of one page where pages are larger, since that is what
 * can be protected.
 */
#ifndef GODWIT_MIGRATION_RAM_SAVE_PRIVATE_H
#define GODWIT_MIGRATION_RAM_SAVE_PRIVATE_H

#include <pthread.h>

#include "migration/page_io.h"
#include "migration/ram_blocks.h"
#include "migration/ram_presence.h"
#include "migration/ram_save.h"

#define PAGE	    SNAPSHOT_PAGE_SIZE
#define CHUNK	    SNAPSHOT_CHUNK_SIZE
#define CHUNK_PAGES SNAPSHOT_CHUNK_PAGES
#define STRIPE	    128 /* chunks of a paused guest that a channel takes at once, at most */
#define POOL_COPIES 128 /* of one chunk: 32 MiB for the copies of a running guest's memory */

enum unit_state { UNIT_PENDING, UNIT_TAKEN, UNIT_DONE };

/* A copy of one chunk, on its way to the file. */
struct copy {
	struct copy *next;
	struct saved_block *block;
	uint64_t chunk;
	uint32_t uses;	  /* writes under way, and one for who works on it */
	uint64_t present; /* pages that were there; the others' bytes mean nothing */
	uint8_t *bytes;
};

struct saved_block {
	struct ram_save *save;
	struct ram_block *block;
	uint32_t index;	 /* in the file */
	uint64_t chunks; /* the last one may be shorter */
	uint64_t unit_chunks, units;
	uint64_t first_unit, first_chunk; /* in the count over all blocks */
	const struct snapshot_block *base;
	uint8_t *states;    /* enum unit_state, one a unit, atomic */
	uint64_t *written;  /* units written while logging; atomic words */
	uint64_t *appeared; /* pages that first appeared after the moment; atomic words */
	struct ram_block_watcher discards;
	bool watched;
};

struct save_channel {
	struct ram_save *save;
	pthread_t thread;
	bool started;
	struct page_io *io;
	struct ram_presence *presence;
	uint8_t *scratch;	 /* a chunk: what is compared with the base, or put together */
	uint8_t *base;		 /* a chunk of the base */
	uint64_t stored[STRIPE]; /* pages of a stripe that go into the file */
};

struct ram_save {
	struct snapshot_writer *writer;
	struct ram_save_options options;
	struct saved_block *blocks;
	uint32_t block_count;
	uint64_t units;
	uint64_t next_unit; /* atomic; chunks, not units, of a paused guest */
	uint64_t chunks;
	uint64_t stripe; /* chunks that a channel takes at once, of a paused guest */
	struct save_channel *channels;

	struct userfault *userfault; /* NULL: the guest is paused */
	struct userfault_watcher watcher;
	bool armed; /* atomic; before that, faults only note what was written */
	uint8_t *pool_memory;
	struct copy copies[POOL_COPIES];

	pthread_mutex_t lock;	/* guards the next ones */
	pthread_cond_t changed; /* a copy became free or ready, a unit done, or all has ended */
	struct copy *free, *ready;
	uint64_t open_units; /* not yet DONE, with copies not yet written */
	struct error *error; /* the first one */
	bool stopping;	     /* also read without the lock */
	bool sending;	     /* a thread has its turn at the sender */
	uint64_t next_sent; /* chunks of a paused guest are sent in their order: this one is next */

	uint64_t done_bytes, stored_bytes, waited; /* atomic */
};

/* Ends the save with @error, which is taken over, unless it is ending already. Any thread. */
void ram_save_stop(struct ram_save *save, struct error *error);

static inline bool ram_save_stopping(const struct ram_save *save)
{
	return __atomic_load_n(&save->stopping, __ATOMIC_RELAXED);
}

struct saved_block *ram_save_block_of_unit(struct ram_save *save, uint64_t unit);

/* What is to become of a chunk: see snapshot_writer_set_chunk. */
struct examined_chunk {
	uint64_t stored, inherited;
	struct snapshot_checksum checksum;
};
/* Looks at a chunk's content at @bytes, of which pages outside @present are zeros whatever is there. */
struct error *ram_save_examine(struct save_channel *channel, const struct saved_block *block,
			       uint64_t chunk, const uint8_t *bytes, uint64_t present,
			       struct examined_chunk *examined) MUST_CHECK;
/*
 * Writes the chunk's content at @bytes, of which pages outside @present are zeros whatever is
 * there. @copy is what @bytes belongs to, or NULL. With a sender it has been sent when this returns,
 * in its turn: every chunk of a paused guest must come here.
 */
struct error *ram_save_chunk(struct save_channel *channel, const struct saved_block *block,
			     uint64_t chunk, uint8_t *bytes, uint64_t present,
			     struct copy *copy) MUST_CHECK;
/*
 * Writes @count chunks of a paused guest, at most STRIPE, to the file from where they are. They may
 * still be on their way when this returns.
 */
struct error *ram_save_stripe(struct save_channel *channel, const struct saved_block *block,
			      uint64_t first, uint64_t count) MUST_CHECK;
/* One use of @copy less; the last one makes it free again. On the thread of who works on it. */
void ram_save_release_copy(struct ram_save *save, struct copy *copy);

/* What a channel does while the guest runs: units and what others have copied, until all is done. */
struct error *ram_save_copied(struct save_channel *channel) MUST_CHECK;
/* Stops watching and frees what belongs to that. */
void ram_save_unwatch(struct ram_save *save);

#endif
