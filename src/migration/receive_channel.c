/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One data connection of a receiver: reads records, and puts pages where they belong. Pages go from
 * the socket straight into guest memory, with as few calls of the kernel as there are records. What
 * comes first makes its pages (ram_place.h): huge ones where a record is full and the host has them, else through
 * the descriptor, although that is a copy more. Small records are received many at once and copied.
 *
 * The peer controls every byte. Blocks, pages and plugged ranges are checked before anything of guest
 * memory is touched. What a compressed record contains is not known before it is decompressed: it
 * cannot become more than the pages that the record names.
 */
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/ram_place.h"
#include "migration/receiver_private.h"

#define LARGE	   (64 << 10) /* bytes of a record; from here on receiving ahead only costs a copy */
#define HUGE_PAGES (RAM_PLACE_HUGE / WIRE_PAGE)

#define SLICE (256 << 10) /* bytes that are received, and then written while they are in a cache */

/* --- Life -------------------------------------------------------------------------------------- */

struct error *receive_channel_init(struct receive_channel *channel,
				   struct migration_receiver *receiver, uint32_t index)
{
	channel->receiver = receiver;
	channel->index = index;
	channel->transport = migration_link_data(receiver->link, index);
	channel->requested = index >= receiver->barrier_count;
	channel->ahead = malloc(AHEAD_SIZE);
	channel->frame = malloc(WIRE_WINDOW_SIZE);
	channel->content = aligned_alloc(WIRE_PAGE, WIRE_WINDOW_SIZE);
	channel->decompression = ZSTD_createDCtx();
	if (!channel->ahead || !channel->frame || !channel->content || !channel->decompression)
		return error_system(ENOMEM, "a migration");
	return NULL;
}

void receive_channel_clear(struct receive_channel *channel)
{
	ZSTD_freeDCtx(channel->decompression);
	free(channel->content);
	free(channel->frame);
	free(channel->ahead);
}

/* --- Bytes ------------------------------------------------------------------------------------- */

static void count_bytes(struct receive_channel *channel, size_t size)
{
	__atomic_fetch_add(&channel->receiver->received.bytes, size, __ATOMIC_RELAXED);
}

/* Makes @size bytes be there, and points at them. NULL: the connection was closed in front of them. */
static struct error *take_ahead(struct receive_channel *channel, size_t size, const uint8_t **bytes)
{
	size_t there = channel->end - channel->start, got = 0;

	if (there < size) {
		struct iovec part;

		memmove(channel->ahead, channel->ahead + channel->start, there);
		channel->start = 0;
		channel->end = there;
		part.iov_base = channel->ahead + there;
		part.iov_len = (channel->large ? size : AHEAD_SIZE) - there;
		TRY(transport_receive(channel->transport, &part, 1, size - there, &got));
		if (!got && there)
			return error_new(ECONNRESET,
					 "%s: the connection was closed within a record",
					 transport_name(channel->transport));
		channel->end += got;
		count_bytes(channel, got);
	}
	*bytes = channel->end > channel->start ? channel->ahead + channel->start : NULL;
	if (*bytes)
		channel->start += size;
	return NULL;
}

/* Fills all @parts, @size bytes together. */
static struct error *take_parts(struct receive_channel *channel, struct iovec *parts, size_t count,
				size_t size)
{
	size_t got;

	while (size && channel->end > channel->start) {
		size_t some = MIN(parts->iov_len, channel->end - channel->start);

		memcpy(parts->iov_base, channel->ahead + channel->start, some);
		channel->start += some;
		size -= some;
		parts->iov_base = (uint8_t *)parts->iov_base + some;
		parts->iov_len -= some;
		if (!parts->iov_len) {
			parts++;
			count--;
		}
	}
	if (!size)
		return NULL;
	TRY(transport_receive(channel->transport, parts, count, size, &got));
	if (!got)
		return error_new(ECONNRESET, "%s: the connection was closed within a record",
				 transport_name(channel->transport));
	count_bytes(channel, got);
	return NULL;
}

static struct error *take_bytes(struct receive_channel *channel, void *bytes, size_t size)
{
	struct iovec part = {bytes, size};

	return take_parts(channel, &part, 1, size);
}

/* --- Pages ------------------------------------------------------------------------------------- */

static struct error *check_pages(const struct receive_channel *channel,
				 const struct wire_record *record)
{
	const struct ram_table *table = &channel->receiver->table;
	uint64_t all[WIRE_WINDOW_WORDS], first = record->ram.first_page, pages;

	if (record->ram.block >= table->count)
		return error_new(EBADMSG, "memory of block %u of %u", record->ram.block,
				 table->count);
	pages = table->blocks[record->ram.block].pages;
	for (int i = 0; i < WIRE_WINDOW_WORDS; i++)
		all[i] = record->ram.content[i] | record->ram.zero[i];
	if (first >= pages ||
	    (pages - first < WIRE_WINDOW_PAGES &&
	     bitmap_next_set(all, pages - first, WIRE_WINDOW_PAGES) < WIRE_WINDOW_PAGES))
		return error_new(
		    EBADMSG, "pages from %llu on of block '%s' go beyond its end, %llu",
		    (unsigned long long)first, table->blocks[record->ram.block].block->name,
		    (unsigned long long)pages);
	FOR_EACH_WINDOW_RUN (run, all)
		if (!channel->placing &&
		    !ram_table_plugged(table, record->ram.block, first + run.first, run.count))
			return error_new(EBADMSG,
					 "pages from %llu on of block '%s' are not plugged",
					 (unsigned long long)(first + run.first),
					 table->blocks[record->ram.block].block->name);
	return NULL;
}

/*
 * Whether nothing was put into any of the record's pages yet, and they are better made by writing to
 * the block's descriptor (ram_place.h). Pages that come again have been made, and the guest, which
 * writes to them often, will be glad to find them mapped.
 */
static bool is_first(const struct receive_channel *channel, const struct wire_record *record)
{
	const struct migration_receiver *receiver = channel->receiver;
	const uint64_t *filled = receiver->filled[record->ram.block] + record->ram.first_page / 64;
	uint64_t again = 0;

	for (int i = 0; i < WIRE_WINDOW_WORDS; i++)
		again |= record->ram.content[i] & __atomic_load_n(&filled[i], __ATOMIC_RELAXED);
	return receiver->written[record->ram.block] && !again;
}

/*
 * Whether the pages of a record that nothing was put into yet are part of a huge page now. That takes
 * memory for all of it, so only a record that is full is worth it.
 */
static bool make_huge(const struct receive_channel *channel, const struct wire_record *record)
{
	struct migration_receiver *receiver = channel->receiver;
	const struct ram_table *table = &receiver->table;
	uint32_t index = record->ram.block;
	uint64_t first = align_down(record->ram.first_page, HUGE_PAGES);
	int failure;

	if (record->ram.pages < WIRE_WINDOW_PAGES ||
	    !__atomic_load_n(&receiver->huge[index], __ATOMIC_RELAXED) ||
	    first + HUGE_PAGES > table->blocks[index].pages ||
	    !ram_table_plugged(table, index, first, HUGE_PAGES))
		return false;
	failure =
	    ram_place_make_huge(table->blocks[index].block, record->ram.first_page * WIRE_PAGE);
	if (failure < 0 && failure != -EAGAIN && failure != -EBUSY)
		__atomic_store_n(&receiver->huge[index], false, __ATOMIC_RELAXED);
	return !failure;
}

static void mark_filled(const struct receive_channel *channel, const struct wire_record *record)
{
	uint64_t *filled =
	    channel->receiver->filled[record->ram.block] + record->ram.first_page / 64;

	for (int i = 0; i < WIRE_WINDOW_WORDS; i++)
		if (record->ram.content[i])
			__atomic_fetch_or(&filled[i], record->ram.content[i], __ATOMIC_RELAXED);
}

/* @bytes: of all the run's pages, or NULL for zeros. */
static struct error *place_run(const struct receive_channel *channel,
			       const struct wire_record *record, struct ram_window_run run,
			       const void *bytes)
{
	struct migration_receiver *receiver = channel->receiver;

	return error_prefix(
	    receiver->ops->place(receiver->context, channel->index, record->ram.block,
				 record->ram.first_page + run.first, run.count, bytes),
	    "%s", transport_name(channel->transport));
}

static struct error *put_zeros(const struct receive_channel *channel,
			       const struct wire_record *record, uint8_t *host)
{
	struct migration_receiver *receiver = channel->receiver;
	const uint64_t *filled = receiver->filled[record->ram.block] + record->ram.first_page / 64;

	FOR_EACH_WINDOW_RUN (run, record->ram.zero) {
		__atomic_fetch_add(&receiver->received.zero_pages, run.count, __ATOMIC_RELAXED);
		if (channel->placing) {
			TRY(place_run(channel, record, run, NULL));
			continue;
		}
		/* What nothing was put into is zeros, and is not to be touched for that. */
		for (uint32_t page = run.first; page < run.first + run.count; page++)
			if (bitmap_test(filled, page))
				memset(host + (size_t)page * WIRE_PAGE, 0, WIRE_PAGE);
	}
	return NULL;
}

static struct error *write_pages(const struct receive_channel *channel,
				 const struct wire_record *record, uint64_t page, const void *bytes,
				 size_t size)
{
	struct migration_receiver *receiver = channel->receiver;
	const struct ram_block *block = receiver->table.blocks[record->ram.block].block;
	int failure;

	pthread_mutex_lock(&receiver->writing[record->ram.block]);
	failure = ram_place(block, true, (record->ram.first_page + page) * WIRE_PAGE, bytes, size);
	pthread_mutex_unlock(&receiver->writing[record->ram.block]);
	return failure < 0 ? error_system(-failure, "%s: cannot write to block '%s'",
					  transport_name(channel->transport), block->name)
			   : NULL;
}

/* The record's pages are in channel->content, one behind another. */
static struct error *put_content(const struct receive_channel *channel,
				 const struct wire_record *record, uint8_t *host, bool first)
{
	const uint8_t *content = channel->content;

	FOR_EACH_WINDOW_RUN (run, record->ram.content) {
		size_t size = (size_t)run.count * WIRE_PAGE;

		if (channel->placing)
			TRY(place_run(channel, record, run, content));
		else if (first)
			TRY(write_pages(channel, record, run.first, content, size));
		else
			memcpy(host + (size_t)run.first * WIRE_PAGE, content, size);
		content += size;
	}
	return NULL;
}

static struct error *receive_first(struct receive_channel *channel,
				   const struct wire_record *record)
{
	FOR_EACH_WINDOW_RUN (run, record->ram.content)
		for (size_t done = 0, size = (size_t)run.count * WIRE_PAGE; done < size;) {
			size_t slice = MIN(size - done, (size_t)SLICE);

			TRY(take_bytes(channel, channel->content, slice));
			TRY(write_pages(channel, record, run.first + done / WIRE_PAGE,
					channel->content, slice));
			done += slice;
		}
	return NULL;
}

static struct error *decompress(struct receive_channel *channel, const struct wire_record *record,
				uint8_t *host, bool first)
{
	struct ram_window_run run = ram_window_run(record->ram.content, 0);
	bool direct = run.count == record->ram.pages && !channel->placing && !first;
	size_t wanted = (size_t)record->ram.pages * WIRE_PAGE, size;
	uint8_t *to = direct ? host + (size_t)run.first * WIRE_PAGE : channel->content;

	TRY(take_bytes(channel, channel->frame, record->length));
	size =
	    ZSTD_decompressDCtx(channel->decompression, to, wanted, channel->frame, record->length);
	if (ZSTD_isError(size))
		return error_new(EBADMSG, "%s: %u compressed bytes are damaged: %s",
				 transport_name(channel->transport), record->length,
				 ZSTD_getErrorName(size));
	if (size != wanted)
		return error_new(EBADMSG, "%s: %u compressed bytes have become %zu, instead of %zu",
				 transport_name(channel->transport), record->length, size, wanted);
	return direct ? NULL : put_content(channel, record, host, first);
}

static struct error *receive_content(struct receive_channel *channel,
				     const struct wire_record *record, uint8_t *host, bool first)
{
	struct iovec parts[WIRE_WINDOW_PAGES / 2];
	size_t count = 0;

	if (record->flags & WIRE_RAM_ZSTD)
		return decompress(channel, record, host, first);
	if (channel->placing) {
		TRY(take_bytes(channel, channel->content, record->length));
		return put_content(channel, record, host, first);
	}
	if (first)
		return receive_first(channel, record);
	FOR_EACH_WINDOW_RUN (run, record->ram.content)
		parts[count++] = (struct iovec){host + (size_t)run.first * WIRE_PAGE,
						(size_t)run.count * WIRE_PAGE};
	return take_parts(channel, parts, count, record->length);
}

static struct error *receive_pages(struct receive_channel *channel,
				   const struct wire_record *record)
{
	struct migration_receiver *receiver = channel->receiver;
	bool first = false;
	uint8_t *host;

	channel->placing = __atomic_load_n(&receiver->placing, __ATOMIC_ACQUIRE);
	if (channel->requested && receiver->ops->place && !channel->placing)
		return error_new(EBADMSG, "%s: pages that nobody can have asked for",
				 transport_name(channel->transport));
	TRY(error_prefix(check_pages(channel, record), "%s", transport_name(channel->transport)));
	host = receiver->table.blocks[record->ram.block].block->host +
	       record->ram.first_page * WIRE_PAGE;
	TRY(put_zeros(channel, record, host));
	if (!record->ram.pages)
		return NULL;
	if (!channel->placing) {
		first = is_first(channel, record) && !make_huge(channel, record);
		mark_filled(channel, record);
	}
	TRY(receive_content(channel, record, host, first));
	__atomic_fetch_add(&receiver->received.pages, record->ram.pages, __ATOMIC_RELAXED);
	return NULL;
}

/* --- Records ----------------------------------------------------------------------------------- */

static struct error *receive_chunk(struct receive_channel *channel,
				   const struct wire_record *record)
{
	uint8_t *bytes;

	TRY(error_prefix(receive_devices_expect(channel->receiver, record, &bytes), "%s",
			 transport_name(channel->transport)));
	if (record->length)
		TRY(take_bytes(channel, bytes, record->length));
	__atomic_fetch_add(&channel->receiver->received.state_bytes, record->length,
			   __ATOMIC_RELAXED);
	receive_devices_arrived(channel->receiver, record);
	return NULL;
}

static struct error *receive_record(struct receive_channel *channel,
				    const struct wire_record *record)
{
	if (channel->requested &&
	    (record->kind == WIRE_RECORD_DEVICE || record->kind == WIRE_RECORD_BARRIER))
		return error_new(EBADMSG, "%s: a record of kind %d has no place here",
				 transport_name(channel->transport), record->kind);
	channel->large = record->length >= LARGE;
	switch (record->kind) {
	case WIRE_RECORD_RAM:
		return receive_pages(channel, record);
	case WIRE_RECORD_DEVICE:
		return receive_chunk(channel, record);
	case WIRE_RECORD_BARRIER:
		return error_prefix(receiver_pass_barrier(channel->receiver, record->round), "%s",
				    transport_name(channel->transport));
	case WIRE_RECORD_END:
		break;
	}
	return error_prefix(receiver_end_channel(channel->receiver, channel->requested), "%s",
			    transport_name(channel->transport));
}

struct error *receive_channel_run(struct receive_channel *channel)
{
	struct wire_record record = {};
	const uint8_t *bytes;

	while (record.kind != WIRE_RECORD_END) {
		TRY(take_ahead(channel, WIRE_RECORD_SIZE, &bytes));
		if (!bytes)
			return error_new(ECONNRESET, "%s: the connection was closed before its end",
					 transport_name(channel->transport));
		TRY(error_prefix(wire_get_record(bytes, &record), "%s",
				 transport_name(channel->transport)));
		TRY(receive_record(channel, &record));
	}
	TRY(take_ahead(channel, 1, &bytes));
	return bytes ? error_new(EBADMSG, "%s: goes on after its end",
				 transport_name(channel->transport))
		     : NULL;
}
