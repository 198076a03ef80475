/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One chunk, from its content to the file or the stream: which pages are not zero, which of them the
 * base does not have alike, the checksum, the writes. Runs on a channel's thread.
 */
#include <string.h>

#include "migration/ram_save_private.h"
#include "migration/zero_page.h"

/*
 * Takes pages off *stored that the base has alike: those are inherited. A chunk whose checksum is
 * the base's is not read at all.
 */
static struct error *compare_with_base(struct save_channel *channel,
				       const struct saved_block *block, uint64_t chunk,
				       const uint8_t *content, struct snapshot_checksum checksum,
				       uint64_t *stored, uint64_t *inherited)
{
	uint64_t same = 0;
	int result;

	*inherited = 0;
	if (!block->base || !*stored)
		return NULL;
	if (snapshot_checksum_equal(checksum, block->base->checksums[chunk])) {
		*inherited = *stored;
		*stored = 0;
		return NULL;
	}
	if (snapshot_chunk_is_zero(block->base, chunk))
		return NULL;
	result = snapshot_chunk_read(block->base, chunk, channel->base);
	if (result < 0)
		return snapshot_chunk_error(block->base, chunk, result);
	for (uint64_t left = *stored; left; left &= left - 1) {
		uint64_t page = (uint64_t)__builtin_ctzll(left);

		if (memcmp(content + page * PAGE, channel->base + page * PAGE, PAGE) == 0)
			same |= 1ULL << page;
	}
	*inherited = same;
	*stored &= ~same;
	return NULL;
}

/* The content of a chunk of which only @stored is not zero, without touching the other pages. */
static const uint8_t *whole_content(struct save_channel *channel, const uint8_t *bytes,
				    uint64_t size, uint64_t stored)
{
	if (stored == ram_page_mask(size))
		return bytes;
	memset(channel->scratch, 0, size);
	FOR_EACH_PAGE_RUN(run, stored)
	memcpy(channel->scratch + run.first * PAGE, bytes + run.first * PAGE, run.count * PAGE);
	return channel->scratch;
}

/*
 * Sends a chunk when no other thread is at it, those of a paused guest in their order: who reads, or
 * compresses, then sees memory from one end to the other.
 */
static struct error *send_chunk(struct ram_save *save, const struct saved_block *block,
				uint64_t chunk, uint64_t stored, struct snapshot_checksum checksum,
				const uint8_t *bytes)
{
	uint64_t turn = block->first_chunk + chunk;
	bool ordered = !save->userfault;
	struct error *error = NULL;

	if (!ordered && !stored)
		return NULL;
	pthread_mutex_lock(&save->lock);
	while (!save->stopping && (save->sending || (ordered && save->next_sent != turn)))
		pthread_cond_wait(&save->changed, &save->lock);
	if (save->stopping) {
		pthread_mutex_unlock(&save->lock);
		return NULL;
	}
	save->sending = true;
	pthread_mutex_unlock(&save->lock);
	if (stored)
		error = snapshot_sender_chunk(save->options.sender, block->index, chunk, stored,
					      checksum, bytes);
	pthread_mutex_lock(&save->lock);
	save->sending = false;
	save->next_sent = turn + 1;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	return error;
}

/* Hands the pages to the channel's page_io, to be written to their places. */
static void write_chunk(struct save_channel *channel, const struct saved_block *block,
			uint64_t chunk, uint64_t stored, uint8_t *bytes, struct copy *copy)
{
	FOR_EACH_PAGE_RUN(run, stored)
	{
		if (copy)
			copy->uses++;
		page_io_submit(channel->io, bytes + run.first * PAGE, run.count * PAGE,
			       snapshot_writer_page_offset(channel->save->writer, block->index,
							   chunk * CHUNK_PAGES + run.first),
			       copy);
	}
	page_io_poll(channel->io);
}

struct error *ram_save_examine(struct save_channel *channel, const struct saved_block *block,
			       uint64_t chunk, const uint8_t *bytes, uint64_t present,
			       struct examined_chunk *examined)
{
	uint64_t size = ram_chunk_size(block->block, chunk);
	const uint8_t *content;

	*examined = (struct examined_chunk){.stored = present & ~pages_are_zero(bytes, present)};
	if (!examined->stored)
		return NULL;
	content = whole_content(channel, bytes, size, examined->stored);
	examined->checksum = snapshot_checksum(content, size);
	return compare_with_base(channel, block, chunk, content, examined->checksum,
				 &examined->stored, &examined->inherited);
}

struct error *ram_save_chunk(struct save_channel *channel, const struct saved_block *block,
			     uint64_t chunk, uint8_t *bytes, uint64_t present, struct copy *copy)
{
	struct ram_save *save = channel->save;
	struct examined_chunk examined;

	TRY(ram_save_examine(channel, block, chunk, bytes, present, &examined));
	if (save->options.sender) {
		TRY(send_chunk(save, block, chunk, examined.stored, examined.checksum, bytes));
	} else {
		snapshot_writer_set_chunk(save->writer, block->index, chunk, examined.stored,
					  examined.inherited, examined.checksum);
		write_chunk(channel, block, chunk, examined.stored, bytes, copy);
	}
	__atomic_fetch_add(&save->stored_bytes,
			   (uint64_t)__builtin_popcountll(examined.stored) * PAGE,
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&save->done_bytes, ram_chunk_size(block->block, chunk),
			   __ATOMIC_RELAXED);
	return NULL;
}
