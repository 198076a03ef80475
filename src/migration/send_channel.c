/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One data connection of a sender: records of pages, several to a call of the kernel, which copies
 * the pages from where they are. Whoever has the channel's lock. Fails when the connection does.
 *
 * A page that the guest changes while it is looked at or sent is dirty afterwards, and so is sent
 * again: it need not be seen at one moment.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/sender_private.h"
#include "migration/zero_page.h"

#define PRESENCE_PAGES 64 /* that ram_presence_chunk tells about */

/* --- Life, turns ------------------------------------------------------------------------------- */

void send_channel_destroy(struct send_channel *channel)
{
	if (!channel)
		return;
	ram_presence_destroy(channel->presence);
	compressor_destroy(channel->compressor);
	pthread_mutex_destroy(&channel->lock);
	free(channel);
}

struct error *send_channel_create(struct migration_sender *sender, struct transport *transport,
				  const struct migration_sender_options *options,
				  struct send_channel **result)
{
	struct send_channel *channel = calloc(1, sizeof(*channel));

	if (!channel)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&channel->lock, NULL);
	channel->sender = sender;
	channel->transport = transport;
	channel->section = -1;
	*result = channel;
	TRY(ram_presence_create(&channel->presence));
	return options->zstd ? compressor_create(options->zstd_level, &channel->compressor) : NULL;
}

void send_channel_enter(struct send_channel *channel)
{
	__atomic_fetch_add(&channel->waiting, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&channel->lock);
	__atomic_fetch_sub(&channel->waiting, 1, __ATOMIC_RELAXED);
}

void send_channel_give_way(struct send_channel *channel)
{
	if (!__atomic_load_n(&channel->waiting, __ATOMIC_RELAXED))
		return;
	/* A lock that is let go and taken at once again is hardly ever somebody else's. */
	pthread_mutex_unlock(&channel->lock);
	while (__atomic_load_n(&channel->waiting, __ATOMIC_RELAXED))
		sched_yield();
	pthread_mutex_lock(&channel->lock);
}

/* --- Sending ----------------------------------------------------------------------------------- */

static void count_sent(struct send_channel *channel)
{
	struct migration_sent *total = &channel->sender->sent, *sent = &channel->sent;

	__atomic_fetch_add(&total->pages, sent->pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&total->zero_pages, sent->zero_pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&total->compressed_pages, sent->compressed_pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&total->bytes, sent->bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&total->state_bytes, sent->state_bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&total->requested_pages, sent->requested_pages, __ATOMIC_RELAXED);
	*sent = (struct migration_sent){};
}

static struct error *send_now(struct send_channel *channel, struct iovec *parts, size_t count,
			      size_t bytes)
{
	struct migration_sender *sender = channel->sender;

	bool later = sender->whole; /* post-copy */

	if (!channel->unlimited && !later && !bandwidth_take(sender->bandwidth, bytes))
		return sender_check(sender);
	TRY(transport_send(channel->transport, parts, count));
	if (!channel->unlimited && later)
		channel->owed += bytes;
	channel->sent.bytes += bytes;
	count_sent(channel);
	return NULL;
}

struct error *send_channel_pay(struct send_channel *channel)
{
	size_t bytes = channel->owed;

	channel->owed = 0;
	return bytes && !bandwidth_take(channel->sender->bandwidth, bytes)
		   ? sender_check(channel->sender)
		   : NULL;
}

struct error *send_channel_record(struct send_channel *channel, const struct wire_record *record,
				  const void *bytes)
{
	uint8_t head[WIRE_RECORD_SIZE];
	struct iovec parts[] = {{head, sizeof(head)}, {(void *)(uintptr_t)bytes, record->length}};

	wire_put_record(head, record);
	if (record->kind == WIRE_RECORD_DEVICE)
		channel->sent.state_bytes += record->length;
	return send_now(channel, parts, record->length ? 2 : 1, sizeof(head) + record->length);
}

struct error *send_channel_flush(struct send_channel *channel)
{
	struct error *error = NULL;

	if (channel->parts)
		error = send_now(channel, channel->part, channel->parts, channel->bytes);
	else
		count_sent(channel);
	if (channel->section >= 0)
		memory_read_end(channel->sender->table.map, channel->section);
	channel->section = -1;
	channel->records = channel->parts = 0;
	channel->bytes = 0;
	if (channel->compressor)
		compressor_reset(channel->compressor);
	return error;
}

/* --- Records of pages -------------------------------------------------------------------------- */

bool send_take_window(uint64_t *pending, uint64_t pages, uint64_t first,
		      uint64_t words[WIRE_WINDOW_WORDS])
{
	uint64_t end = bitmap_words(pages), any = 0;

	for (uint64_t i = 0, word = first / 64; i < WIRE_WINDOW_WORDS; i++, word++) {
		words[i] = 0;
		if (word < end && __atomic_load_n(&pending[word], __ATOMIC_RELAXED))
			words[i] = __atomic_exchange_n(&pending[word], 0, __ATOMIC_ACQ_REL);
		if (word + 1 == end && pages % 64)
			words[i] &= (1ULL << (pages % 64)) - 1;
		any |= words[i];
	}
	return any;
}

static void drop_unplugged(const struct ram_table *table, uint32_t block, uint64_t first,
			   uint64_t words[WIRE_WINDOW_WORDS])
{
	uint64_t count = MIN(table->blocks[block].pages - first, (uint64_t)WIRE_WINDOW_PAGES);

	if (ram_table_plugged(table, block, first, count))
		return;
	for (uint64_t page = 0; page < count; page++)
		if (bitmap_test(words, page) && !ram_table_plugged(table, block, first + page, 1))
			bitmap_clear_range(words, page, 1);
}

static void drop_absent(struct send_channel *channel, const struct ram_block *block, uint64_t first,
			uint64_t words[WIRE_WINDOW_WORDS])
{
	for (uint64_t i = 0; i < WIRE_WINDOW_WORDS; i++) {
		uint64_t present;

		if (!words[i])
			continue;
		present = ram_presence_chunk(channel->presence, block,
					     (first + i * PRESENCE_PAGES) * WIRE_PAGE);
		channel->sent.zero_pages += (uint64_t)__builtin_popcountll(words[i] & ~present);
		words[i] &= present;
	}
}

/* Whether there is something to send: @record's masks and number of pages are filled in. */
static bool look_at(struct send_channel *channel, const uint8_t *host,
		    const uint64_t words[WIRE_WINDOW_WORDS], bool fresh, struct wire_record *record)
{
	uint64_t any = 0, zeros = 0;

	record->ram.pages = 0;
	for (uint64_t i = 0; i < WIRE_WINDOW_WORDS; i++) {
		uint64_t zero = pages_are_zero(host + i * 64 * WIRE_PAGE, words[i]);

		record->ram.content[i] = words[i] & ~zero;
		record->ram.zero[i] = fresh ? 0 : zero;
		record->ram.pages += (uint32_t)__builtin_popcountll(record->ram.content[i]);
		zeros += (uint64_t)__builtin_popcountll(zero);
		any |= record->ram.content[i] | record->ram.zero[i];
	}
	channel->sent.pages += record->ram.pages;
	channel->sent.zero_pages += zeros;
	return any;
}

static void add_part(struct send_channel *channel, const void *bytes, size_t size)
{
	channel->part[channel->parts++] = (struct iovec){(void *)(uintptr_t)bytes, size};
	channel->bytes += size;
}

static void add_record(struct send_channel *channel, const uint8_t *host,
		       struct wire_record *record)
{
	uint8_t *head = channel->heads[channel->records++];
	const void *frame = NULL;
	size_t size;

	record->length = record->ram.pages * WIRE_PAGE;
	if (channel->compressor && record->ram.pages)
		frame = compressor_try(channel->compressor, host, record->ram.content,
				       record->ram.pages, &size);
	if (frame) {
		record->flags = WIRE_RAM_ZSTD;
		record->length = (uint32_t)size;
		channel->sent.compressed_pages += record->ram.pages;
	}
	wire_put_record(head, record);
	add_part(channel, head, WIRE_RECORD_SIZE);
	if (frame)
		add_part(channel, frame, size);
	else
		FOR_EACH_WINDOW_RUN (run, record->ram.content)
			add_part(channel, host + (size_t)run.first * WIRE_PAGE,
				 (size_t)run.count * WIRE_PAGE);
}

/* In post-copy with a limit no more is taken at once than has to be. */
static bool is_full(const struct send_channel *channel)
{
	const struct migration_sender *sender = channel->sender;

	return (sender->whole && bandwidth_rate(sender->bandwidth)) ||
	       channel->records == SEND_RECORDS ||
	       channel->parts + SEND_RECORD_PARTS > SEND_PARTS || channel->bytes >= SEND_BYTES ||
	       (channel->compressor &&
		!compressor_has_room(channel->compressor, WIRE_WINDOW_PAGES));
}

struct error *send_channel_add(struct send_channel *channel, uint32_t index, uint64_t first,
			       uint64_t words[WIRE_WINDOW_WORDS], bool fresh)
{
	const struct ram_table *table = &channel->sender->table;
	const struct ram_block *block = table->blocks[index].block;
	const uint8_t *host = block->host + first * WIRE_PAGE;
	struct wire_record record = {.kind = WIRE_RECORD_RAM};

	if (channel->section < 0)
		channel->section = memory_read_begin(table->map);
	drop_unplugged(table, index, first, words);
	if (fresh)
		drop_absent(channel, block, first, words);
	if (!look_at(channel, host, words, fresh, &record))
		return NULL;
	record.ram.block = (uint16_t)index;
	record.ram.first_page = first;
	add_record(channel, host, &record);
	return is_full(channel) ? send_channel_flush(channel) : NULL;
}
