/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Post-copy, the source's side, postcopy_source.h. Two bitmaps for each block: what was pending when
 * post-copy began, which never changes, and what is not sent yet. Whoever clears a bit of the second
 * sends the page; so no page is sent twice over one set of connections, and after they broke only what
 * the destination says it lacks, and nothing that it was never told of.
 *
 * The destination controls requests and what it says it has received: numbers are checked; what it
 * claims wrongly costs itself pages. It cannot be sent what it was not told to lack.
 */
#include "migration/postcopy_source.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/thread.h"
#include "migration/ram_presence.h"
#include "migration/ram_table.h"

#define PART_WORDS 512 /* of PENDING that are left out when they are zeros */

enum phase {
	PHASE_IDLE,	 /* nothing is pending yet, or there are no connections */
	PHASE_SERVING,	 /* requests are answered */
	PHASE_RECEIVING, /* the destination says what it has */
	PHASE_STREAMING, /* and all the rest is sent */
	PHASE_STREAMED,
};

struct postcopy_source {
	struct ram_table table;
	uint64_t **total, **pending; /* of each block; the words of pending are atomic */
	uint64_t total_pages, requests;
	const struct postcopy_source_ops *ops;
	void *context;
	pthread_t thread;
	bool thread_started;

	uint32_t received_block; /* where the next RECEIVED begins */
	uint64_t received_word;

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	enum phase phase;
	struct migration_sender *sender; /* NULL: no connections */
	bool in_use;			 /* the thread uses the sender */
	bool stopping;
};

/* --- Streaming --------------------------------------------------------------------------------- */

static void stream(struct postcopy_source *source, struct migration_sender *sender)
{
	AUTO_ERROR struct error *error = migration_sender_round(sender, source->pending, false);

	if (!error)
		error = migration_sender_finish(sender);
	source->ops->streamed(source->context, error);
}

static void *stream_thread(void *context)
{
	struct postcopy_source *source = context;

	pthread_mutex_lock(&source->lock);
	for (;;) {
		struct migration_sender *sender = source->sender;

		if (source->stopping)
			break;
		if (source->phase != PHASE_STREAMING || !sender) {
			pthread_cond_wait(&source->changed, &source->lock);
			continue;
		}
		source->in_use = true;
		pthread_mutex_unlock(&source->lock);
		stream(source, sender);
		pthread_mutex_lock(&source->lock);
		source->in_use = false;
		if (source->phase == PHASE_STREAMING)
			source->phase = PHASE_STREAMED;
		pthread_cond_broadcast(&source->changed);
	}
	pthread_mutex_unlock(&source->lock);
	return NULL;
}

static void enter(struct postcopy_source *source, enum phase phase)
{
	pthread_mutex_lock(&source->lock);
	source->phase = phase;
	pthread_cond_broadcast(&source->changed);
	pthread_mutex_unlock(&source->lock);
}

static enum phase phase_of(struct postcopy_source *source, struct migration_sender **sender)
{
	enum phase phase;

	pthread_mutex_lock(&source->lock);
	phase = source->phase;
	*sender = source->sender;
	pthread_mutex_unlock(&source->lock);
	return phase;
}

/* --- Beginning --------------------------------------------------------------------------------- */

struct error *postcopy_source_drop_absent(struct postcopy_source *source, uint64_t *const *pending,
					  uint64_t *const *fresh)
{
	AUTO_RAM_PRESENCE struct ram_presence *presence = NULL;

	TRY(ram_presence_create(&presence));
	for (uint32_t i = 0; i < source->table.count; i++) {
		const struct ram_table_block *block = &source->table.blocks[i];

		for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
			uint64_t absent = pending[i][word] & fresh[i][word];

			if (absent)
				pending[i][word] &=
				    ~absent | ram_presence_chunk(presence, block->block,
								 word * 64 * WIRE_PAGE);
		}
	}
	return NULL;
}

/* Pages of the host become whole; what is not plugged is left out. */
static void take_pending(struct postcopy_source *source, uint32_t index, const uint64_t *pending)
{
	const struct ram_table_block *block = &source->table.blocks[index];
	uint64_t whole = MAX(block->block->page_size / WIRE_PAGE, (uint64_t)1), end;
	uint64_t *total = source->total[index];

	for (uint64_t page = 0; page < block->pages; page = end) {
		page = bitmap_next_set(pending, page, block->pages);
		if (page >= block->pages)
			break;
		end = bitmap_next_clear(pending, page, block->pages);
		page = align_down(page, whole);
		end = MIN(align_down(end + whole - 1, whole), block->pages);
		if (ram_table_plugged(&source->table, index, page, end - page)) {
			bitmap_set_range(total, page, end - page);
			continue;
		}
		for (; page < end; page += whole)
			if (ram_table_plugged(&source->table, index, page, whole))
				bitmap_set_range(total, page, whole);
	}
	for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
		source->total_pages += (uint64_t)__builtin_popcountll(total[word]);
		__atomic_store_n(&source->pending[index][word], total[word], __ATOMIC_RELEASE);
	}
}

/* What is zeros need not be said, except that post-copy begins. */
static struct error *tell_pending(const struct postcopy_source *source, struct migration_link *link)
{
	bool told = false;

	for (uint32_t i = 0; i < source->table.count; i++) {
		uint64_t words = bitmap_words(source->table.blocks[i].pages), part;

		for (uint64_t word = 0; word < words; word += part) {
			const uint64_t *bits = source->total[i] + word;

			part = MIN(words - word, (uint64_t)PART_WORDS);
			if (bitmap_all_clear(bits, 0, part * 64))
				continue;
			TRY(migration_link_send_bitmap(link, MIGRATION_PENDING, (uint16_t)i, word,
						       bits, part));
			told = true;
		}
	}
	return told
		   ? NULL
		   : migration_link_send_bitmap(link, MIGRATION_PENDING, 0, 0, source->total[0], 1);
}

struct error *postcopy_source_begin(struct postcopy_source *source, struct migration_link *link,
				    struct migration_sender *sender, uint64_t *const *pending)
{
	if (!migration_link_has_postcopy(link))
		return error_new(EINVAL, "there is no connection for requested pages");
	for (uint32_t i = 0; i < source->table.count; i++)
		take_pending(source, i, pending[i]);
	migration_sender_keep_whole(sender);
	pthread_mutex_lock(&source->lock);
	source->sender = sender;
	source->phase = PHASE_SERVING;
	pthread_mutex_unlock(&source->lock);
	return tell_pending(source, link);
}

void postcopy_source_stream(struct postcopy_source *source)
{
	enter(source, PHASE_STREAMING);
}

/* --- What the destination says ----------------------------------------------------------------- */

struct error *postcopy_source_request(struct postcopy_source *source,
				      const struct migration_message *message)
{
	uint32_t block = message->request.block;
	struct migration_sender *sender;
	enum phase phase = phase_of(source, &sender);

	if (phase == PHASE_IDLE || phase == PHASE_RECEIVING)
		return error_new(EBADMSG, "PAGE_REQUEST, before it was known what is pending");
	__atomic_fetch_add(&source->requests, 1, __ATOMIC_RELAXED);
	return migration_sender_pages(sender, block, message->request.first, message->request.count,
				      block < source->table.count ? source->pending[block] : NULL);
}

struct error *postcopy_source_received(struct postcopy_source *source,
				       const struct migration_message *message)
{
	const struct ram_table *table = &source->table;
	uint32_t block = message->bitmap.block;
	struct migration_sender *sender;
	uint64_t words;

	if (phase_of(source, &sender) != PHASE_RECEIVING)
		return error_new(EBADMSG, "RECEIVED, where nothing was lost");
	if (block != source->received_block || message->bitmap.first != source->received_word)
		return error_new(EBADMSG,
				 "RECEIVED of block %u from word %llu on, after that of block %u "
				 "up to word %llu",
				 block, (unsigned long long)message->bitmap.first,
				 source->received_block, (unsigned long long)source->received_word);
	words = bitmap_words(table->blocks[block].pages);
	if (message->bitmap.words > words - message->bitmap.first)
		return error_new(EBADMSG, "RECEIVED has words up to %llu of block '%s', of %llu",
				 (unsigned long long)message->bitmap.first + message->bitmap.words,
				 table->blocks[block].block->name, (unsigned long long)words);
	for (uint32_t i = 0; i < message->bitmap.words; i++) {
		uint64_t word = message->bitmap.first + i;

		__atomic_store_n(&source->pending[block][word],
				 source->total[block][word] & ~wire_bitmap_word(message, i),
				 __ATOMIC_RELEASE);
	}
	source->received_word += message->bitmap.words;
	if (source->received_word == words) {
		source->received_word = 0;
		source->received_block++;
	}
	if (source->received_block == table->count)
		enter(source, PHASE_STREAMING);
	return NULL;
}

/* --- Connections that break -------------------------------------------------------------------- */

void postcopy_source_detach(struct postcopy_source *source)
{
	pthread_mutex_lock(&source->lock);
	source->phase = PHASE_IDLE;
	source->sender = NULL;
	while (source->in_use)
		pthread_cond_wait(&source->changed, &source->lock);
	pthread_mutex_unlock(&source->lock);
}

void postcopy_source_resume(struct postcopy_source *source, struct migration_sender *sender)
{
	for (uint32_t i = 0; i < source->table.count; i++)
		for (uint64_t word = 0; word < bitmap_words(source->table.blocks[i].pages); word++)
			__atomic_store_n(&source->pending[i][word], 0, __ATOMIC_RELAXED);
	source->received_block = 0;
	source->received_word = 0;
	migration_sender_keep_whole(sender);
	pthread_mutex_lock(&source->lock);
	source->sender = sender;
	source->phase = PHASE_RECEIVING;
	pthread_mutex_unlock(&source->lock);
}

/* --- Life -------------------------------------------------------------------------------------- */

struct error *postcopy_source_create(struct memory_map *map, const struct postcopy_source_ops *ops,
				     void *context, struct postcopy_source **result)
{
	AUTO_POSTCOPY_SOURCE struct postcopy_source *source = calloc(1, sizeof(*source));

	if (!source)
		return error_system(ENOMEM, "post-copy");
	pthread_mutex_init(&source->lock, NULL);
	pthread_cond_init(&source->changed, NULL);
	source->ops = ops;
	source->context = context;
	TRY(ram_table_init(&source->table, map));
	source->total = calloc(source->table.count + 1, sizeof(*source->total));
	source->pending = calloc(source->table.count + 1, sizeof(*source->pending));
	if (!source->total || !source->pending)
		return error_system(ENOMEM, "post-copy");
	for (uint32_t i = 0; i < source->table.count; i++) {
		source->total[i] = bitmap_create(source->table.blocks[i].pages);
		source->pending[i] = bitmap_create(source->table.blocks[i].pages);
		if (!source->total[i] || !source->pending[i])
			return error_system(ENOMEM, "post-copy");
	}
	TRY(thread_start(&source->thread, "postcopy", stream_thread, source));
	source->thread_started = true;
	*result = TAKE_PTR(source);
	return NULL;
}

void postcopy_source_destroy(struct postcopy_source *source)
{
	if (!source)
		return;
	postcopy_source_detach(source);
	pthread_mutex_lock(&source->lock);
	source->stopping = true;
	pthread_cond_broadcast(&source->changed);
	pthread_mutex_unlock(&source->lock);
	if (source->thread_started)
		pthread_join(source->thread, NULL);
	for (uint32_t i = 0; i < source->table.count; i++) {
		if (source->total)
			free(source->total[i]);
		if (source->pending)
			free(source->pending[i]);
	}
	free(source->total);
	free(source->pending);
	ram_table_clear(&source->table);
	pthread_cond_destroy(&source->changed);
	pthread_mutex_destroy(&source->lock);
	free(source);
}

void postcopy_source_progress(const struct postcopy_source *source,
			      struct postcopy_source_progress *progress)
{
	*progress = (struct postcopy_source_progress){
	    .total = source->total_pages,
	    .requests = __atomic_load_n(&source->requests, __ATOMIC_RELAXED),
	};
	for (uint32_t i = 0; i < source->table.count; i++)
		for (uint64_t word = 0; word < bitmap_words(source->table.blocks[i].pages); word++)
			progress->left += (uint64_t)__builtin_popcountll(
			    __atomic_load_n(&source->pending[i][word], __ATOMIC_RELAXED));
}
