/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A paused guest's memory into the file, a stripe of up to 32 MiB at a time: first all of it is
 * examined, then the file system is asked for the room of what is stored, then it is written in large
 * requests. Runs on a channel's thread, while what it has submitted before is being written.
 *
 * ext4 writes into a hole under an exclusive lock, and asynchronous requests for holes go to helper
 * threads that queue for that lock; into reserved room it writes at once. Asking waits for all
 * requests under way, hence for much at a time.
 */
#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/ram_save_private.h"

#define REQUEST_MAX 256 /* pages written at once */
#define RESERVE_MIN 16	/* pages in a row that room is asked for */

/* Pages that follow one another, from chunk to chunk. */
struct extent {
	uint64_t first, count; /* pages of the block */
};

/* The next extent of a stripe's stored pages from page @from of the stripe on; no pages: the end. */
static struct extent next_extent(const uint64_t *stored, uint64_t chunks, uint64_t from)
{
	struct extent extent = {bitmap_next_set(stored, from, chunks * CHUNK_PAGES), 0};

	if (extent.first < chunks * CHUNK_PAGES)
		extent.count =
		    bitmap_next_clear(stored, extent.first, chunks * CHUNK_PAGES) - extent.first;
	return extent;
}

static void reserve_stripe(struct save_channel *channel, const struct saved_block *block,
			   uint64_t first, uint64_t count)
{
	struct extent extent = {0};

	for (;;) {
		extent = next_extent(channel->stored, count, extent.first + extent.count);
		if (!extent.count)
			return;
		if (extent.count >= RESERVE_MIN)
			snapshot_writer_reserve(channel->save->writer, block->index,
						first * CHUNK_PAGES + extent.first, extent.count);
	}
}

static void write_stripe(struct save_channel *channel, const struct saved_block *block,
			 uint64_t first, uint64_t count)
{
	struct extent extent = {0};

	for (;;) {
		extent = next_extent(channel->stored, count, extent.first + extent.count);
		if (!extent.count)
			return;
		extent.count = MIN(extent.count, (uint64_t)REQUEST_MAX);
		uint64_t page = first * CHUNK_PAGES + extent.first;

		page_io_submit(
		    channel->io, block->block->host + page * PAGE, extent.count * PAGE,
		    snapshot_writer_page_offset(channel->save->writer, block->index, page), NULL);
	}
}

static struct error *examine_stripe(struct save_channel *channel, const struct saved_block *block,
				    uint64_t first, uint64_t count)
{
	struct ram_save *save = channel->save;
	uint64_t stored = 0, size = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t chunk = first + i, offset = chunk * CHUNK;
		struct examined_chunk examined;

		TRY(ram_save_examine(channel, block, chunk, block->block->host + offset,
				     ram_presence_chunk(channel->presence, block->block, offset),
				     &examined));
		snapshot_writer_set_chunk(save->writer, block->index, chunk, examined.stored,
					  examined.inherited, examined.checksum);
		channel->stored[i] = examined.stored;
		stored += (uint64_t)__builtin_popcountll(examined.stored);
		size += ram_chunk_size(block->block, chunk);
		page_io_poll(channel->io);
	}
	__atomic_fetch_add(&save->stored_bytes, stored * PAGE, __ATOMIC_RELAXED);
	__atomic_fetch_add(&save->done_bytes, size, __ATOMIC_RELAXED);
	return NULL;
}

struct error *ram_save_stripe(struct save_channel *channel, const struct saved_block *block,
			      uint64_t first, uint64_t count)
{
	TRY(examine_stripe(channel, block, first, count));
	if (channel->save->options.direct)
		reserve_stripe(channel, block, first, count);
	write_stripe(channel, block, first, count);
	page_io_poll(channel->io);
	return NULL;
}
