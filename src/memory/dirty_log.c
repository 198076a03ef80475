/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The log of writes to guest memory, see dirty_log.h for what holds it together.
 *
 * The bitmaps are made at the first start and kept as long as the map, so that a device that has
 * just seen the log on may still mark after it was stopped. They cost a bit a page (32 KiB a GiB).
 *
 * A guest controls where and how often its devices write, never more than a mark each.
 */
#include "memory/dirty_log.h"

#include <assert.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/checked.h"

struct logged_block {
	const struct ram_block *block;
	uint64_t *written; /* atomic words */
};

struct dirty_log {
	struct memory_map *map;
	bool *on;	      /* atomic; the map's, for writers */
	pthread_mutex_t lock; /* serialises starting, stopping, collecting and the sources */
	struct dirty_source *sources;
	struct logged_block *blocks; /* ascending host address; changes only while off */
	size_t count;
};

struct error *dirty_log_create(struct memory_map *map, bool *on, struct dirty_log **result)
{
	struct dirty_log *log = calloc(1, sizeof(*log));

	if (!log)
		return error_system(ENOMEM, "log of writes");
	log->map = map;
	log->on = on;
	pthread_mutex_init(&log->lock, NULL);
	*result = log;
	return NULL;
}

void dirty_log_destroy(struct dirty_log *log)
{
	if (!log)
		return;
	assert(!log->sources);
	for (size_t i = 0; i < log->count; i++)
		free(log->blocks[i].written);
	free(log->blocks);
	pthread_mutex_destroy(&log->lock);
	free(log);
}

/* --- Marking
 * --------------------------------------------------------------------------------------- */

/* The block that @host lies in, or NULL. */
static const struct logged_block *find_host(const struct dirty_log *log, const uint8_t *host)
{
	size_t low = 0, high = log->count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct ram_block *block = log->blocks[middle].block;

		if ((uintptr_t)host < (uintptr_t)block->host)
			high = middle;
		else if ((uintptr_t)host - (uintptr_t)block->host >= block->size)
			low = middle + 1;
		else
			return &log->blocks[middle];
	}
	return NULL;
}

static void mark_pages(const struct logged_block *logged, uint64_t page, uint64_t end)
{
	while (page < end) {
		uint64_t stop = MIN(end, (page / 64 + 1) * 64);
		uint64_t bits = (stop - page == 64 ? ~0ULL : (1ULL << (stop - page)) - 1)
				<< (page % 64);

		__atomic_fetch_or(&logged->written[page / 64], bits, __ATOMIC_RELEASE);
		page = stop;
	}
}

void dirty_log_mark(struct dirty_log *log, const uint8_t *host, size_t size)
{
	const struct logged_block *logged = size ? find_host(log, host) : NULL;
	uint64_t offset;

	/* A block that came after the start is not logged; what is in none is no guest memory. */
	if (!logged)
		return;
	offset = (uint64_t)(host - logged->block->host);
	size = MIN(size, logged->block->size - offset);
	mark_pages(logged, offset / DIRTY_PAGE_SIZE, (offset + size - 1) / DIRTY_PAGE_SIZE + 1);
}

/* --- Switching
 * ------------------------------------------------------------------------------------- */

/* Inserts @block where it belongs. */
static struct error *log_block(struct dirty_log *log, const struct ram_block *block)
{
	struct logged_block logged = {.block = block};
	struct logged_block *grown;
	size_t place = 0;

	for (size_t i = 0; i < log->count; i++) {
		if (log->blocks[i].block == block)
			return NULL;
		place += (uintptr_t)log->blocks[i].block->host < (uintptr_t)block->host;
	}
	grown = reallocarray(log->blocks, log->count + 1, sizeof(*grown));
	if (!grown)
		return error_system(ENOMEM, "log of writes");
	log->blocks = grown;
	logged.written = bitmap_create(dirty_log_words(block) * 64);
	if (!logged.written)
		return error_system(ENOMEM, "log of writes to memory '%s'", block->name);
	for (size_t i = log->count; i > place; i--)
		grown[i] = grown[i - 1];
	grown[place] = logged;
	log->count++;
	return NULL;
}

/* Marks what is, or may become, guest memory. */
static struct error *mark_everything(struct dirty_log *log)
{
	const struct memory_region *region;

	for (region = memory_map_first(log->map); region; region = region->next)
		TRY(log_block(log, region->block));
	for (region = memory_map_first(log->map); region; region = region->next)
		dirty_log_mark(log, region->block->host + region->block_offset, region->size);
	return NULL;
}

/* Makes every other thread of the process pass a full memory barrier before this returns. */
static struct error *barrier_for_all(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0 ||
	    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0)
		return error_system(errno, "this host's kernel has no memory barriers for other "
					   "threads (membarrier)");
	return NULL;
}

static void set_switch(struct dirty_log *log, bool on)
{
	__atomic_store_n(log->on, on, __ATOMIC_SEQ_CST);
}

bool dirty_log_is_on(const struct dirty_log *log)
{
	return __atomic_load_n(log->on, __ATOMIC_RELAXED);
}

static struct error *start(struct dirty_log *log)
{
	struct error *error;

	if (dirty_log_is_on(log))
		return error_new(EBUSY, "writes to guest memory are being logged already: wait for "
					"the operation that needs it");
	TRY(mark_everything(log));
	set_switch(log, true);
	error = barrier_for_all();
	for (struct dirty_source *source = log->sources; source && !error; source = source->next) {
		error = source->start(source);
		for (struct dirty_source *s = log->sources; error && s != source; s = s->next)
			s->stop(s);
	}
	if (error)
		set_switch(log, false);
	return error;
}

struct error *dirty_log_start(struct dirty_log *log)
{
	struct error *error;

	pthread_mutex_lock(&log->lock);
	error = start(log);
	pthread_mutex_unlock(&log->lock);
	return error;
}

void dirty_log_stop(struct dirty_log *log)
{
	pthread_mutex_lock(&log->lock);
	if (dirty_log_is_on(log)) {
		set_switch(log, false);
		for (struct dirty_source *source = log->sources; source; source = source->next)
			source->stop(source);
	}
	pthread_mutex_unlock(&log->lock);
}

void dirty_log_add_source(struct dirty_log *log, struct dirty_source *source)
{
	pthread_mutex_lock(&log->lock);
	assert(!dirty_log_is_on(log));
	source->next = log->sources;
	log->sources = source;
	pthread_mutex_unlock(&log->lock);
}

void dirty_log_remove_source(struct dirty_log *log, struct dirty_source *source)
{
	pthread_mutex_lock(&log->lock);
	for (struct dirty_source **link = &log->sources; *link; link = &(*link)->next) {
		if (*link != source)
			continue;
		*link = source->next;
		if (dirty_log_is_on(log))
			source->stop(source);
		break;
	}
	pthread_mutex_unlock(&log->lock);
}

/* --- Collecting
 * ------------------------------------------------------------------------------------ */

static void take_marks(const struct logged_block *logged, uint64_t *pages)
{
	size_t words = dirty_log_words(logged->block);

	for (size_t i = 0; i < words; i++)
		if (__atomic_load_n(&logged->written[i], __ATOMIC_RELAXED))
			pages[i] |= __atomic_exchange_n(&logged->written[i], 0, __ATOMIC_ACQUIRE);
}

/*
 * Takes the units out of @pages that are not plugged. After the marks were taken: what is plugged
 * becomes so before it is marked, so a mark that we have seen has its unit plugged (or unplugged
 * again).
 */
static void drop_unplugged(const struct memory_region *region, uint64_t *pages)
{
	uint64_t first = region->block_offset / DIRTY_PAGE_SIZE;
	uint64_t unit = region->unit / DIRTY_PAGE_SIZE;

	for (uint64_t offset = 0; region->unit && offset < region->size; offset += region->unit)
		if (!memory_region_any_plugged(region, offset, region->unit))
			bitmap_clear_range(pages, first + offset / DIRTY_PAGE_SIZE, unit);
}

static struct error *collect(struct dirty_log *log, const struct ram_block *block, uint64_t *pages)
{
	const struct memory_region *region;
	struct error *error = NULL;

	if (!dirty_log_is_on(log))
		return error_new(EINVAL, "writes to guest memory are not being logged");
	for (struct dirty_source *source = log->sources; source && !error; source = source->next)
		error = source->collect(source, block, pages);
	for (size_t i = 0; i < log->count; i++)
		if (log->blocks[i].block == block)
			take_marks(&log->blocks[i], pages);
	for (region = memory_map_first(log->map); region; region = region->next)
		if (region->block == block)
			drop_unplugged(region, pages);
	return error;
}

struct error *dirty_log_collect(struct dirty_log *log, const struct ram_block *block,
				uint64_t *pages)
{
	struct error *error;

	pthread_mutex_lock(&log->lock);
	error = collect(log, block, pages);
	pthread_mutex_unlock(&log->lock);
	return error;
}

struct error *dirty_log_before_copy(struct dirty_log *log, const struct ram_block *block,
				    uint64_t first, uint64_t count)
{
	/* The list stands still while the log is on. */
	for (struct dirty_source *source = log->sources; source; source = source->next)
		if (source->before_copy)
			TRY(source->before_copy(source, block, first, count));
	return NULL;
}
