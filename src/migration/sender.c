/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a sender, its rounds and barriers, sender.h. A round is cut into pieces; each connection
 * has a job on the workers that takes the next piece until there is none.
 *
 * What the destination can make wait: everything, by not reading. Nothing here waits for it longer
 * than the connection does.
 */
#include "migration/sender.h"

#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "memory/dirty_log.h"
#include "migration/sender_private.h"

/* A read section is not kept longer, or memory could not be unplugged meanwhile. */
#define PIECES_KEPT 16

/* --- Failing ----------------------------------------------------------------------------------- */

static struct error *repeat(const struct error *error)
{
	return error_new(error_code(error), "%s", error_message(error));
}

struct error *sender_check(struct migration_sender *sender)
{
	struct error *error = NULL;

	pthread_mutex_lock(&sender->lock);
	if (sender->error)
		error = repeat(sender->error);
	pthread_mutex_unlock(&sender->lock);
	return error;
}

struct error *sender_fail(struct migration_sender *sender, struct error *error)
{
	uint32_t count;

	pthread_mutex_lock(&sender->lock);
	if (sender->error)
		error_free(error);
	else
		sender->error = error;
	__atomic_store_n(&sender->stopping, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&sender->changed);
	error = repeat(sender->error);
	pthread_mutex_unlock(&sender->lock);
	bandwidth_cancel(sender->bandwidth);
	count = sender->channel_count + (migration_link_has_postcopy(sender->link) ? 1 : 0);
	for (uint32_t i = 0; i < count; i++)
		transport_cancel(migration_link_data(sender->link, i));
	return error;
}

void migration_sender_cancel(struct migration_sender *sender)
{
	error_free(sender_fail(sender, error_new(ECANCELED, "the migration was cancelled")));
}

/* --- Rounds ------------------------------------------------------------------------------------ */

/*
 * Where writes are logged: what is about to be read is seen when it is written again. Not before, so
 * that what is written again and again until then costs the guest nothing.
 */
static struct error *before_copy(const struct migration_sender *sender, uint32_t block,
				 uint64_t first, uint64_t end)
{
	struct dirty_log *log = memory_map_dirty_log(sender->table.map);
	const uint64_t *pending = sender->pending[block];
	uint64_t any = 0;

	if (!dirty_log_is_on(log))
		return NULL;
	for (uint64_t word = first / 64; word < bitmap_words(end); word++)
		any |= __atomic_load_n(&pending[word], __ATOMIC_RELAXED);
	if (!any)
		return NULL;
	return dirty_log_before_copy(log, sender->table.blocks[block].block, first, end - first);
}

/* Pages of @block that are to be kept together: 1, unless pages of the host are larger. */
static uint64_t whole_pages(const struct migration_sender *sender, uint32_t block)
{
	return sender->whole ? sender->table.blocks[block].block->page_size / WIRE_PAGE : 1;
}

static uint64_t piece_pages(const struct migration_sender *sender, uint32_t block)
{
	return MAX(whole_pages(sender, block), (uint64_t)PIECE_PAGES);
}

static void cut_pieces(struct migration_sender *sender)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < sender->table.count; i++) {
		uint64_t size = piece_pages(sender, i);

		sender->first_piece[i] = total;
		total += (sender->table.blocks[i].pages + size - 1) / size;
	}
	sender->first_piece[sender->table.count] = total;
}

/*
 * @channel is about to send all that is pending of the page of the host that begins with @page. False:
 * another one is.
 */
static bool claim(struct send_channel *channel, uint32_t block, uint64_t page)
{
	struct migration_sender *sender = channel->sender;
	bool mine = true;

	pthread_mutex_lock(&sender->lock);
	for (uint32_t i = 0; i <= sender->channel_count && sender->channels[i]; i++)
		if (sender->channels[i]->claims && sender->channels[i]->claimed_block == block &&
		    sender->channels[i]->claimed_page == page)
			mine = false;
	if (mine) {
		channel->claims = true;
		channel->claimed_block = block;
		channel->claimed_page = page;
	}
	pthread_mutex_unlock(&sender->lock);
	return mine;
}

static void let_go(struct send_channel *channel)
{
	pthread_mutex_lock(&channel->sender->lock);
	channel->claims = false;
	pthread_mutex_unlock(&channel->sender->lock);
}

static struct error *send_windows(struct send_channel *channel, uint32_t block, uint64_t first,
				  uint64_t end)
{
	struct migration_sender *sender = channel->sender;
	uint64_t pages = sender->table.blocks[block].pages;
	uint64_t words[WIRE_WINDOW_WORDS];

	for (; first < end; first += WIRE_WINDOW_PAGES) {
		if (!send_take_window(sender->pending[block], pages, first, words))
			continue;
		TRY(send_channel_add(channel, block, first, words, sender->fresh));
		if (channel->parts)
			continue;
		if (!channel->claims)
			TRY(send_channel_pay(channel));
		send_channel_give_way(channel);
	}
	return NULL;
}

static struct error *send_piece(struct send_channel *channel, uint32_t block, uint64_t piece)
{
	struct migration_sender *sender = channel->sender;
	uint64_t whole = whole_pages(sender, block), size = piece_pages(sender, block);
	uint64_t first = piece * size, end = MIN(first + size, sender->table.blocks[block].pages);

	TRY(before_copy(sender, block, first, end));
	if (whole <= WIRE_WINDOW_PAGES)
		return send_windows(channel, block, first, end);
	for (; first < end; first += whole) {
		struct error *error;

		if (!claim(channel, block, first))
			continue;
		error = send_windows(channel, block, first, first + whole);
		let_go(channel);
		TRY(error);
		TRY(send_channel_flush(channel));
		TRY(send_channel_pay(channel));
	}
	return NULL;
}

static struct error *send_pieces(struct send_channel *channel)
{
	struct migration_sender *sender = channel->sender;
	uint64_t total = sender->first_piece[sender->table.count], piece;
	uint32_t kept = 0;

	while (!sender_stopping(sender) &&
	       !__atomic_load_n(&sender->interrupted, __ATOMIC_RELAXED) &&
	       (piece = __atomic_fetch_add(&sender->next_piece, 1, __ATOMIC_RELAXED)) < total) {
		uint32_t block = sender->table.count - 1;

		while (sender->first_piece[block] > piece)
			block--;
		TRY(send_piece(channel, block, piece - sender->first_piece[block]));
		kept = channel->section >= 0 ? kept + 1 : 0;
		if (kept >= PIECES_KEPT)
			TRY(send_channel_flush(channel));
	}
	return NULL;
}

static void run_channel(void *context)
{
	struct send_channel *channel = context;
	struct error *error, *flushed;

	send_channel_enter(channel);
	/* What appears from here on is dirty, and not this round's. */
	ram_presence_forget(channel->presence);
	error = send_pieces(channel);
	flushed = send_channel_flush(channel);
	pthread_mutex_unlock(&channel->lock);
	if (error)
		error_free(sender_fail(channel->sender, error));
	if (flushed)
		error_free(sender_fail(channel->sender, flushed));
}

struct error *migration_sender_round(struct migration_sender *sender, uint64_t *const *pending,
				     bool fresh)
{
	TRY(sender_check(sender));
	sender->pending = pending;
	sender->fresh = fresh;
	sender->next_piece = 0;
	for (uint32_t i = 0; i < sender->channel_count; i++)
		worker_pool_submit(sender->workers, &sender->channels[i]->job);
	for (uint32_t i = 0; i < sender->channel_count; i++)
		worker_pool_wait(sender->workers, &sender->channels[i]->job);
	return sender_check(sender);
}

struct error *migration_sender_settle(struct migration_sender *sender)
{
	return bandwidth_take(sender->bandwidth, 0) ? NULL : sender_check(sender);
}

void migration_sender_keep_whole(struct migration_sender *sender)
{
	sender->whole = true;
	cut_pieces(sender);
}

void migration_sender_interrupt(struct migration_sender *sender)
{
	__atomic_store_n(&sender->interrupted, true, __ATOMIC_RELAXED);
	bandwidth_set_hurry(sender->bandwidth, true);
}

void migration_sender_go_on(struct migration_sender *sender)
{
	__atomic_store_n(&sender->interrupted, false, __ATOMIC_RELAXED);
	bandwidth_set_hurry(sender->bandwidth, false);
}

static struct error *send_to_all(struct migration_sender *sender, uint32_t count,
				 const struct wire_record *record)
{
	TRY(sender_check(sender));
	for (uint32_t i = 0; i < count; i++) {
		struct send_channel *channel = sender->channels[i];
		struct error *error;

		send_channel_enter(channel);
		error = send_channel_record(channel, record, NULL);
		pthread_mutex_unlock(&channel->lock);
		if (error)
			return sender_fail(sender, error);
	}
	return NULL;
}

struct error *migration_sender_end_round(struct migration_sender *sender, uint64_t *round)
{
	struct wire_record record = {.kind = WIRE_RECORD_BARRIER, .round = ++sender->round};
	struct migration_message message = {.type = MIGRATION_ROUND_END, .round = sender->round};

	*round = sender->round;
	TRY(send_to_all(sender, sender->channel_count, &record));
	return migration_link_send(sender->link, &message);
}

struct error *migration_sender_finish(struct migration_sender *sender)
{
	struct wire_record record = {.kind = WIRE_RECORD_END};
	uint32_t requested = migration_link_has_postcopy(sender->link) ? 1 : 0;

	return send_to_all(sender, sender->channel_count + requested, &record);
}

static struct error *add_requested(struct send_channel *channel, uint32_t block, uint64_t first,
				   uint64_t count, uint64_t *pending)
{
	uint64_t end = first + count;

	for (uint64_t window = align_down(first, WIRE_WINDOW_PAGES); window < end;
	     window += WIRE_WINDOW_PAGES) {
		uint64_t words[WIRE_WINDOW_WORDS] = {}, any = 0;
		uint64_t from = MAX(first, window) - window;
		uint64_t to = MIN(end, window + WIRE_WINDOW_PAGES) - window;

		bitmap_set_range(words, from, to - from);
		for (uint64_t i = 0; i < WIRE_WINDOW_WORDS; i++) {
			uint64_t *word = &pending[window / 64 + i];

			/* Words without a wanted page may be past the end. */
			if (words[i])
				words[i] &= __atomic_fetch_and(word, ~words[i], __ATOMIC_ACQ_REL);
			any |= words[i];
			channel->sent.requested_pages += (uint64_t)__builtin_popcountll(words[i]);
		}
		if (any)
			TRY(send_channel_add(channel, block, window, words, false));
	}
	return NULL;
}

static struct error *send_requested(struct send_channel *channel, uint32_t block, uint64_t first,
				    uint64_t count, uint64_t *pending)
{
	uint64_t whole = whole_pages(channel->sender, block);

	if (whole <= WIRE_WINDOW_PAGES) {
		TRY(add_requested(channel, block, first, count, pending));
		return send_channel_flush(channel);
	}
	for (uint64_t page = align_down(first, whole); page < first + count; page += whole) {
		struct error *error;

		if (!claim(channel, block, page))
			continue;
		error = add_requested(channel, block, page, whole, pending);
		let_go(channel);
		TRY(error);
	}
	return send_channel_flush(channel);
}

struct error *migration_sender_pages(struct migration_sender *sender, uint32_t block,
				     uint64_t first, uint64_t count, uint64_t *pending)
{
	struct send_channel *channel = sender->channels[sender->channel_count];
	struct error *error;

	if (!channel)
		return error_new(EINVAL, "there is no connection for requested pages");
	if (block >= sender->table.count)
		return error_new(EBADMSG, "the destination wants pages of block %u of %u", block,
				 sender->table.count);
	if (!count || !range_contains(0, sender->table.blocks[block].pages, first, count))
		return error_new(EBADMSG,
				 "the destination wants %llu pages from %llu on of block '%s', "
				 "which has %llu",
				 (unsigned long long)count, (unsigned long long)first,
				 sender->table.blocks[block].block->name,
				 (unsigned long long)sender->table.blocks[block].pages);
	TRY(sender_check(sender));
	send_channel_enter(channel);
	error = send_requested(channel, block, first, count, pending);
	pthread_mutex_unlock(&channel->lock);
	return error ? sender_fail(sender, error) : NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *create_channels(struct migration_sender *sender,
				     const struct migration_sender_options *options)
{
	uint32_t requested = migration_link_has_postcopy(sender->link) ? 1 : 0;
	struct migration_sender_options plain = *options;

	plain.zstd = false; /* who waits for a page waits for its compression too */
	sender->channels = calloc(sender->channel_count + 1, sizeof(struct send_channel *));
	if (!sender->channels)
		return error_system(ENOMEM, "a migration");
	for (uint32_t i = 0; i < sender->channel_count + requested; i++) {
		TRY(send_channel_create(sender, migration_link_data(sender->link, i),
					i < sender->channel_count ? options : &plain,
					&sender->channels[i]));
		sender->channels[i]->job.run = run_channel;
		sender->channels[i]->job.context = sender->channels[i];
		sender->channels[i]->unlimited = i == sender->channel_count;
	}
	return NULL;
}

struct error *migration_sender_create(struct migration_link *link, struct memory_map *map,
				      const struct migration_sender_options *options,
				      struct migration_sender **result)
{
	AUTO_MIGRATION_SENDER struct migration_sender *sender = calloc(1, sizeof(*sender));

	if (!sender)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&sender->lock, NULL);
	pthread_cond_init(&sender->changed, NULL);
	sender->link = link;
	sender->channel_count = migration_link_channels(link);
	TRY(ram_table_init(&sender->table, map));
	sender->first_piece = calloc(sender->table.count + 1, sizeof(uint64_t));
	if (!sender->first_piece)
		return error_system(ENOMEM, "a migration");
	cut_pieces(sender);
	TRY(bandwidth_create(options->bandwidth, &sender->bandwidth));
	sender->device_count = options->devices;
	sender->devices = calloc(options->devices + 1, sizeof(*sender->devices));
	if (!sender->devices)
		return error_system(ENOMEM, "a migration");
	TRY(create_channels(sender, options));
	TRY(worker_pool_create("send", sender->channel_count + options->workers, &sender->workers));
	*result = TAKE_PTR(sender);
	return NULL;
}

void migration_sender_destroy(struct migration_sender *sender)
{
	if (!sender)
		return;
	worker_pool_destroy(sender->workers);
	for (uint32_t i = 0; sender->channels && i <= sender->channel_count; i++)
		send_channel_destroy(sender->channels[i]);
	free(sender->channels);
	bandwidth_destroy(sender->bandwidth);
	free(sender->first_piece);
	free(sender->devices);
	ram_table_clear(&sender->table);
	error_free(sender->error);
	pthread_cond_destroy(&sender->changed);
	pthread_mutex_destroy(&sender->lock);
	free(sender);
}

/* --- What it is -------------------------------------------------------------------------------- */

uint32_t migration_sender_blocks(const struct migration_sender *sender)
{
	return sender->table.count;
}

struct ram_block *migration_sender_block(const struct migration_sender *sender, uint32_t block,
					 uint64_t *pages)
{
	*pages = sender->table.blocks[block].pages;
	return sender->table.blocks[block].block;
}

struct worker_pool *migration_sender_workers(struct migration_sender *sender)
{
	return sender->workers;
}

void migration_sender_set_bandwidth(struct migration_sender *sender, uint64_t rate)
{
	bandwidth_set(sender->bandwidth, rate);
}

void migration_sender_progress(const struct migration_sender *sender, struct migration_sent *sent)
{
	const struct migration_sent *total = &sender->sent;

	*sent = (struct migration_sent){
	    .pages = __atomic_load_n(&total->pages, __ATOMIC_RELAXED),
	    .zero_pages = __atomic_load_n(&total->zero_pages, __ATOMIC_RELAXED),
	    .compressed_pages = __atomic_load_n(&total->compressed_pages, __ATOMIC_RELAXED),
	    .bytes = __atomic_load_n(&total->bytes, __ATOMIC_RELAXED),
	    .state_bytes = __atomic_load_n(&total->state_bytes, __ATOMIC_RELAXED),
	    .requested_pages = __atomic_load_n(&total->requested_pages, __ATOMIC_RELAXED),
	    .credit_waits = __atomic_load_n(&total->credit_waits, __ATOMIC_RELAXED),
	};
}
