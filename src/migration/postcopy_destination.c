/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of post-copy at the destination, postcopy_destination.h: what is lacking, how it becomes
 * missing, and memory that is given back meanwhile.
 *
 * A page that is lacking must be missing as the kernel sees it, or whoever touches it would not wait. Those
 * that were sent before are dropped for this, and it is looked whether they are gone: a huge page of the
 * host that cannot be split is only cleared. What is there all the same when its content comes, is an
 * error (postcopy_place.c).
 *
 * The source controls what is pending. It is compared with what is plugged here, and with the size of
 * pages.
 */
#include "migration/postcopy_destination.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"
#include "migration/postcopy_private.h"
#include "migration/ram_presence.h"

/* --- What is pending --------------------------------------------------------------------------- */

struct error *postcopy_destination_pending(struct postcopy_destination *destination,
					   const struct migration_message *message)
{
	const struct ram_table *table = &destination->table;
	uint64_t first = message->bitmap.first, words;
	struct postcopy_block *block;

	if (destination->begun)
		return error_new(EBADMSG, "PENDING, after post-copy has begun");
	if (message->bitmap.block >= table->count)
		return error_new(EBADMSG, "PENDING is about block %u of %u", message->bitmap.block,
				 table->count);
	block = &destination->blocks[message->bitmap.block];
	words = bitmap_words(block->pages);
	if (!range_contains(0, words, first, message->bitmap.words))
		return error_new(EBADMSG, "PENDING has words up to %llu of block '%s', of %llu",
				 (unsigned long long)first + message->bitmap.words,
				 block->ram->name, (unsigned long long)words);
	for (uint32_t i = 0; i < message->bitmap.words; i++)
		block->lacking[first + i] |= wire_bitmap_word(message, i);
	if (block->pages % 64 && block->lacking[words - 1] >> (block->pages % 64))
		return error_new(EBADMSG, "PENDING has pages behind the end of block '%s', %llu",
				 block->ram->name, (unsigned long long)block->pages);
	__atomic_store_n(&destination->pending, true, __ATOMIC_RELEASE);
	return NULL;
}

bool postcopy_destination_is_pending(const struct postcopy_destination *destination)
{
	return __atomic_load_n(&destination->pending, __ATOMIC_ACQUIRE);
}

/* --- Beginning --------------------------------------------------------------------------------- */

struct run {
	uint64_t first, end; /* pages */
};

static bool next_run(const struct postcopy_block *block, struct run *run)
{
	run->first = bitmap_next_set(block->lacking, run->end, block->pages);
	run->end = bitmap_next_clear(block->lacking, run->first, block->pages);
	return run->first < block->pages;
}

static struct error *check_pending(const struct postcopy_block *block)
{
	const struct postcopy_destination *destination = block->destination;

	for (struct run run = {}; next_run(block, &run);) {
		if (run.first % block->whole || run.end % block->whole)
			return error_new(EBADMSG,
					 "of a page of %llu KiB of block '%s' only a part is "
					 "pending, from page %llu up to %llu",
					 (unsigned long long)block->ram->page_size >> 10,
					 block->ram->name, (unsigned long long)run.first,
					 (unsigned long long)run.end);
		if (!ram_table_plugged(&destination->table, block->index, run.first,
				       run.end - run.first))
			return error_new(EBADMSG,
					 "pages from %llu up to %llu of block '%s' are pending, "
					 "and not all are plugged",
					 (unsigned long long)run.first, (unsigned long long)run.end,
					 block->ram->name);
	}
	return NULL;
}

/* Pages may be there that ram_presence.h does not see: those that commits took, or huge zeros. */
static bool is_hidden(const struct postcopy_block *block)
{
	return block->whole > 1 || block->ram->options.prealloc ||
	       block->ram->options.backing == RAM_BACKING_FILE;
}

/* Drops a range, and has the host reserve again what it had reserved for it. */
static struct error *drop_range(const struct postcopy_block *block, uint64_t first, uint64_t end)
{
	uint64_t offset = first * WIRE_PAGE, size = (end - first) * WIRE_PAGE;
	int result = ram_block_discard(block->ram, offset, size);

	if (result < 0)
		return error_system(-result, "cannot drop what is old of memory '%s'",
				    block->ram->name);
	if (!__atomic_load_n(&block->ram->reserving, __ATOMIC_RELAXED))
		return NULL;
	result = ram_block_commit(block->ram, offset, size);
	if (result < 0)
		return error_system(-result, "the host has no room for memory '%s'",
				    block->ram->name);
	return NULL;
}

/* Of the 64 pages of @word, those that are lacking, and there. */
static uint64_t old_pages(struct ram_presence *presence, const struct postcopy_block *block,
			  uint64_t word)
{
	uint64_t lacking = block->lacking[word];

	return lacking ? lacking & ram_presence_chunk(presence, block->ram, word * 64 * WIRE_PAGE)
		       : 0;
}

/* Each hole has its price, so none is made where nothing is. */
static struct error *drop_present(const struct postcopy_block *block, struct ram_presence *presence)
{
	for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
		uint64_t old = old_pages(presence, block, word), first = 0;

		while (old && (first = bitmap_next_set(&old, first, 64)) < 64) {
			uint64_t end = bitmap_next_clear(&old, first, 64);

			TRY(drop_range(block, word * 64 + first, word * 64 + end));
			first = end;
		}
	}
	ram_presence_forget(presence);
	for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
		uint64_t old = old_pages(presence, block, word);

		if (old)
			return error_new(EBUSY,
					 "page %llu of memory '%s' is old, and the host does not "
					 "take it back: something holds it",
					 (unsigned long long)word * 64 +
					     (unsigned)__builtin_ctzll(old),
					 block->ram->name);
	}
	return NULL;
}

static struct error *drop_old(const struct postcopy_block *block, struct ram_presence *presence)
{
	ram_presence_forget(presence);
	if (!is_hidden(block))
		return drop_present(block, presence);
	for (struct run run = {}; next_run(block, &run);)
		TRY(drop_range(block, run.first, run.end));
	return NULL;
}

static struct error *begin_block(struct postcopy_block *block, struct ram_presence *presence)
{
	struct postcopy_destination *destination = block->destination;

	memcpy(block->expected, block->lacking, 8 * bitmap_words(block->pages));
	/* Before the old is dropped: what is touched then waits. */
	TRY(userfault_watch(destination->userfault, block->ram, &destination->watcher));
	block->watched = true;
	TRY(drop_old(block, presence));
	ram_block_watch(block->ram, &block->discards);
	return NULL;
}

struct error *postcopy_destination_begin(struct postcopy_destination *destination)
{
	AUTO_RAM_PRESENCE struct ram_presence *presence = NULL;

	TRY(ram_presence_create(&presence));
	for (uint32_t i = 0; i < destination->table.count; i++)
		TRY(check_pending(&destination->blocks[i]));
	destination->begun = true;
	for (uint32_t i = 0; i < destination->table.count; i++)
		destination->total += bitmap_count_range(destination->blocks[i].lacking, 0,
							 destination->blocks[i].pages);
	/* One more, so that nothing is complete before all is watched. */
	__atomic_store_n(&destination->lacking, destination->total + 1, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < destination->table.count; i++)
		TRY(begin_block(&destination->blocks[i], presence));
	postcopy_settle(destination, 1);
	return NULL;
}

/* --- Faults, and memory that is given back ----------------------------------------------------- */

static bool on_missing(void *context, struct ram_block *ram, uint64_t offset)
{
	struct postcopy_destination *destination = context;

	for (uint32_t i = 0; i < destination->table.count; i++)
		if (destination->blocks[i].ram == ram)
			return postcopy_ask(&destination->blocks[i], offset / WIRE_PAGE);
	return false;
}

static bool on_written(void *context, struct ram_block *ram, uint64_t offset)
{
	return false;
}

static const struct userfault_ops fault_ops = {.missing = on_missing, .written = on_written};

/* Whoever waits for such a page goes on, with zeros. */
static void let_go(const struct postcopy_block *block, uint64_t first)
{
	int result = userfault_zero(block->destination->userfault, block->ram, first * WIRE_PAGE,
				    block->whole * WIRE_PAGE);

	if (result < 0)
		log_error("memory '%s': who waits for page %llu, which was given back, cannot go "
			  "on: %s",
			  block->ram->name, (unsigned long long)first, strerror(-result));
}

static void before_discard(void *context, struct ram_block *ram, uint64_t offset, uint64_t size)
{
	struct postcopy_block *block = context;
	struct postcopy_destination *destination = block->destination;
	uint64_t first = offset / WIRE_PAGE, count = size / WIRE_PAGE, dropped = 0;

	pthread_rwlock_wrlock(&block->lock);
	for (uint64_t word = first / 64; word <= (first + count - 1) / 64; word++) {
		uint64_t mask = postcopy_mask(word, first, count);
		uint64_t waited, gone;

		if (!(__atomic_load_n(&block->lacking[word], __ATOMIC_ACQUIRE) & mask))
			continue;
		gone = mask & __atomic_fetch_and(&block->lacking[word], ~mask, __ATOMIC_ACQ_REL);
		waited = gone & __atomic_load_n(&block->asked[word], __ATOMIC_ACQUIRE);
		dropped += (uint64_t)__builtin_popcountll(gone);
		for (; waited; waited &= waited - 1)
			let_go(block, word * 64 + (unsigned)__builtin_ctzll(waited));
	}
	pthread_rwlock_unlock(&block->lock);
	__atomic_fetch_add(&destination->dropped, dropped, __ATOMIC_RELAXED);
	postcopy_settle(destination, dropped);
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *init_block(struct postcopy_destination *destination, uint32_t index,
				uint64_t source_page_size)
{
	struct postcopy_block *block = &destination->blocks[index];
	pthread_rwlockattr_t attributes;

	block->destination = destination;
	block->ram = destination->table.blocks[index].block;
	block->index = index;
	block->pages = destination->table.blocks[index].pages;
	block->whole = block->ram->page_size / WIRE_PAGE;
	block->discards =
	    (struct ram_block_watcher){.before_discard = before_discard, .context = block};
	/* Pages come all the time; who gives some back is not to wait until they have ended. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&block->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	block->lacking = bitmap_create(block->pages);
	block->expected = bitmap_create(block->pages);
	block->asked = bitmap_create(block->pages);
	if (!block->lacking || !block->expected || !block->asked)
		return error_system(ENOMEM, "post-copy");
	if (source_page_size && block->ram->page_size > source_page_size)
		return error_new(EOPNOTSUPP,
				 "memory '%s' has pages of %llu KiB, larger than those of the "
				 "source, %llu KiB: post-copy cannot bring them; use the same, or "
				 "migrate without it",
				 block->ram->name, (unsigned long long)block->ram->page_size >> 10,
				 (unsigned long long)source_page_size >> 10);
	if (block->whole > 1 && block->ram->page_size < WIRE_WINDOW_SIZE)
		return error_new(EOPNOTSUPP,
				 "memory '%s': post-copy does not know pages of "
				 "%llu KiB",
				 block->ram->name, (unsigned long long)block->ram->page_size >> 10);
	return userfault_supports(block->ram);
}

static struct error *create_assemblies(struct postcopy_destination *destination)
{
	uint64_t size = 0;

	destination->assemblies =
	    calloc(destination->connections + 1, sizeof(*destination->assemblies));
	if (!destination->assemblies)
		return error_system(ENOMEM, "post-copy");
	for (uint32_t i = 0; i < destination->table.count; i++)
		if (destination->blocks[i].whole > 1)
			size = MAX(size, destination->blocks[i].ram->page_size);
	if (!size)
		return NULL;
	destination->assembly_size = size * destination->connections;
	destination->assembly_bytes = mmap(NULL, destination->assembly_size, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (destination->assembly_bytes == MAP_FAILED) {
		destination->assembly_bytes = NULL;
		return error_system(errno, "no room for %u pages of %llu KiB",
				    destination->connections, (unsigned long long)size >> 10);
	}
	for (uint32_t i = 0; i < destination->connections; i++)
		destination->assemblies[i].bytes = destination->assembly_bytes + i * size;
	return NULL;
}

struct error *postcopy_destination_create(struct memory_map *map, struct userfault *userfault,
					  const struct postcopy_destination_options *options,
					  const struct postcopy_destination_ops *ops, void *context,
					  struct postcopy_destination **result)
{
	AUTO_POSTCOPY_DESTINATION struct postcopy_destination *destination =
	    calloc(1, sizeof(*destination));

	if (!destination)
		return error_system(ENOMEM, "post-copy");
	pthread_mutex_init(&destination->lock, NULL);
	pthread_cond_init(&destination->changed, NULL);
	destination->userfault = userfault;
	destination->watcher =
	    (struct userfault_watcher){.ops = &fault_ops, .context = destination};
	destination->ops = ops;
	destination->context = context;
	destination->connections = options->connections;
	TRY(ram_table_init(&destination->table, map));
	destination->blocks = calloc(destination->table.count + 1, sizeof(*destination->blocks));
	if (!destination->blocks)
		return error_system(ENOMEM, "post-copy");
	for (uint32_t i = 0; i < destination->table.count; i++)
		TRY(init_block(destination, i, options->page_sizes ? options->page_sizes[i] : 0));
	TRY(create_assemblies(destination));
	TRY(thread_start(&destination->thread, "requests", postcopy_request_thread, destination));
	destination->thread_started = true;
	*result = TAKE_PTR(destination);
	return NULL;
}

void postcopy_destination_release(struct postcopy_destination *destination)
{
	for (uint32_t i = 0; i < destination->table.count; i++)
		userfault_unwatch(destination->userfault, destination->blocks[i].ram,
				  &destination->watcher);
}

static void clear_block(struct postcopy_block *block)
{
	if (!block->ram) /* not initialised */
		return;
	if (block->watched) {
		ram_block_unwatch(block->ram, &block->discards);
		userfault_unwatch(block->destination->userfault, block->ram,
				  &block->destination->watcher);
	}
	ram_block_end_reserving(block->ram);
	pthread_rwlock_destroy(&block->lock);
	free(block->lacking);
	free(block->expected);
	free(block->asked);
}

void postcopy_destination_destroy(struct postcopy_destination *destination)
{
	if (!destination)
		return;
	pthread_mutex_lock(&destination->lock);
	destination->stopping = true;
	pthread_cond_broadcast(&destination->changed);
	pthread_mutex_unlock(&destination->lock);
	if (destination->thread_started)
		pthread_join(destination->thread, NULL);
	for (uint32_t i = 0; destination->blocks && i < destination->table.count; i++)
		clear_block(&destination->blocks[i]);
	if (destination->assembly_bytes)
		munmap(destination->assembly_bytes, destination->assembly_size);
	free(destination->assemblies);
	free(destination->blocks);
	ram_table_clear(&destination->table);
	pthread_cond_destroy(&destination->changed);
	pthread_mutex_destroy(&destination->lock);
	free(destination);
}

/* --- What is known ----------------------------------------------------------------------------- */

struct error *postcopy_destination_check(const struct postcopy_destination *destination)
{
	uint64_t lacking = __atomic_load_n(&destination->lacking, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < destination->table.count; i++) {
		const struct postcopy_block *block = &destination->blocks[i];

		for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
			uint64_t bits = __atomic_load_n(&block->lacking[word], __ATOMIC_ACQUIRE);

			if (bits)
				return error_new(EBADMSG,
						 "the source has sent all, it says, and %llu pages "
						 "are lacking: page %llu of block '%s' is the "
						 "first",
						 (unsigned long long)lacking,
						 (unsigned long long)word * 64 +
						     (unsigned)__builtin_ctzll(bits),
						 block->ram->name);
		}
	}
	return NULL;
}

void postcopy_destination_progress(const struct postcopy_destination *destination,
				   struct postcopy_destination_progress *progress)
{
	*progress = (struct postcopy_destination_progress){
	    .total = destination->total,
	    .lacking = __atomic_load_n(&destination->lacking, __ATOMIC_ACQUIRE),
	    .dropped = __atomic_load_n(&destination->dropped, __ATOMIC_RELAXED),
	    .asked = __atomic_load_n(&destination->asked, __ATOMIC_RELAXED),
	    .requests = __atomic_load_n(&destination->requests, __ATOMIC_RELAXED),
	};
}
