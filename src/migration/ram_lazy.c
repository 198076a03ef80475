/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lazy restore, see ram_lazy.h.
 *
 * Memory is cut into units: of one chunk, or of one page where pages are larger. A unit goes ABSENT
 * → TAKEN → DONE, or back to ABSENT if it cannot be brought. Whoever makes it TAKEN, a channel or
 * the thread that handles a fault, reads it into a buffer and lets the kernel put it in place at
 * once, so that nobody sees half of it. Pages that are zero in the file are not put anywhere: once
 * their unit is DONE they become zeros when somebody touches them.
 *
 * When all units are DONE the last channel stops watching, and takes what zero pages memory that was to
 * be certain lacks (ram_rest.h).
 */
#include "migration/ram_lazy.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/thread.h"
#include "migration/ram_blocks.h"
#include "migration/ram_rest.h"

#define PAGE  SNAPSHOT_PAGE_SIZE
#define CHUNK SNAPSHOT_CHUNK_SIZE

enum unit_state { UNIT_ABSENT, UNIT_TAKEN, UNIT_DONE };

struct lazy_block {
	struct ram_lazy *lazy;
	struct ram_block *block;
	const struct snapshot_block *source;
	uint64_t chunks, unit_chunks, units;
	uint64_t first_unit; /* in the count over all blocks */
	uint8_t *states;     /* enum unit_state, one a unit, atomic */
	struct ram_block_watcher discards;
	bool watched;
};

struct lazy_channel {
	struct ram_lazy *lazy;
	pthread_t thread;
	bool started;
};

struct ram_lazy {
	struct memory_map *map;
	const struct snapshot_file *file;
	struct userfault *userfault;
	struct userfault_watcher watcher;
	const struct ram_lazy_ops *ops;
	void *context;
	struct lazy_block *blocks;
	uint32_t block_count;
	uint64_t units;
	uint64_t next_unit; /* atomic */
	uint64_t buffer_size;
	struct lazy_channel channels[RAM_LOAD_CHANNELS_MAX];

	pthread_mutex_t lock;	/* guards the next ones */
	pthread_cond_t changed; /* a unit is no longer TAKEN */
	uint64_t open_units;	/* not DONE */
	uint32_t bringing;	/* channels that may still take a unit */
	void *free_buffers;	/* each begins with a pointer to the next */
	bool failed;
	bool stopping; /* also read without the lock */

	uint64_t total, done, asked; /* done and asked are atomic */
};

/* --- Buffers: one for each thread that brings, made when first needed --------------------------- */

static void *take_buffer(struct ram_lazy *lazy)
{
	void *buffer;

	pthread_mutex_lock(&lazy->lock);
	buffer = lazy->free_buffers;
	if (buffer)
		lazy->free_buffers = *(void **)buffer;
	pthread_mutex_unlock(&lazy->lock);
	if (buffer)
		return buffer;
	buffer = mmap(NULL, lazy->buffer_size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return buffer == MAP_FAILED ? NULL : buffer;
}

static void give_buffer(struct ram_lazy *lazy, void *buffer)
{
	pthread_mutex_lock(&lazy->lock);
	*(void **)buffer = lazy->free_buffers;
	lazy->free_buffers = buffer;
	pthread_mutex_unlock(&lazy->lock);
}

/* --- Bringing a unit --------------------------------------------------------------------------- */

static uint64_t content_mask(const struct snapshot_block *source, uint64_t chunk)
{
	return source->stored[chunk] | (source->inherited ? source->inherited[chunk] : 0);
}

static uint64_t unit_end(const struct lazy_block *block, uint64_t unit)
{
	return MIN((unit + 1) * block->unit_chunks, block->chunks);
}

static uint64_t unit_bytes(const struct lazy_block *block, uint64_t unit)
{
	uint64_t pages = 0;

	for (uint64_t chunk = unit * block->unit_chunks; chunk < unit_end(block, unit); chunk++)
		pages += (uint64_t)__builtin_popcountll(content_mask(block->source, chunk));
	return pages * PAGE;
}

static void fail(struct ram_lazy *lazy, struct error *error)
{
	bool first;

	pthread_mutex_lock(&lazy->lock);
	first = !lazy->failed;
	lazy->failed = true;
	pthread_mutex_unlock(&lazy->lock);
	if (first)
		lazy->ops->failed(lazy->context, error);
	else
		error_free(error);
}

static struct error *read_unit(const struct lazy_block *block, uint64_t unit, uint8_t *buffer)
{
	uint64_t first = unit * block->unit_chunks;

	for (uint64_t chunk = first; chunk < unit_end(block, unit); chunk++) {
		int result =
		    snapshot_chunk_read(block->source, chunk, buffer + (chunk - first) * CHUNK);

		if (result < 0)
			return snapshot_chunk_error(block->source, chunk, result);
	}
	return NULL;
}

/* One page where pages are large; else the runs that hold something. */
static int place_unit(const struct lazy_block *block, uint64_t unit, const uint8_t *buffer)
{
	struct userfault *userfault = block->lazy->userfault;
	uint64_t offset = unit * block->unit_chunks * CHUNK;

	if (block->unit_chunks > 1)
		return userfault_copy(userfault, block->block, offset, buffer,
				      block->unit_chunks * CHUNK);
	FOR_EACH_PAGE_RUN(run, content_mask(block->source, unit))
	{
		int result = userfault_copy(userfault, block->block, offset + run.first * PAGE,
					    buffer + run.first * PAGE, run.count * PAGE);

		if (result < 0)
			return result;
	}
	return 0;
}

static struct error *bring_unit(const struct lazy_block *block, uint64_t unit)
{
	uint8_t *buffer = take_buffer(block->lazy);
	struct error *error;
	int result;

	if (!buffer)
		return error_new(ENOMEM, "no memory to read memory '%s' into", block->block->name);
	error = read_unit(block, unit, buffer);
	if (!error) {
		result = place_unit(block, unit, buffer);
		if (result < 0)
			error = error_system(-result, "cannot put pages of memory '%s' in place",
					     block->block->name);
	}
	give_buffer(block->lazy, buffer);
	return error;
}

static bool take_unit(struct lazy_block *block, uint64_t unit)
{
	uint8_t absent = UNIT_ABSENT;

	return __atomic_compare_exchange_n(&block->states[unit], &absent, UNIT_TAKEN, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static enum unit_state state_of(const struct lazy_block *block, uint64_t unit)
{
	return __atomic_load_n(&block->states[unit], __ATOMIC_ACQUIRE);
}

static void settle_unit(struct lazy_block *block, uint64_t unit, enum unit_state state)
{
	struct ram_lazy *lazy = block->lazy;

	if (state == UNIT_DONE)
		__atomic_fetch_add(&lazy->done, unit_bytes(block, unit), __ATOMIC_RELAXED);
	pthread_mutex_lock(&lazy->lock);
	__atomic_store_n(&block->states[unit], state, __ATOMIC_RELEASE);
	if (state == UNIT_DONE)
		lazy->open_units--;
	pthread_cond_broadcast(&lazy->changed);
	pthread_mutex_unlock(&lazy->lock);
}

/* Brings a unit that the caller has taken. */
static void bring_taken(struct lazy_block *block, uint64_t unit)
{
	struct error *error = unit_bytes(block, unit) ? bring_unit(block, unit) : NULL;

	settle_unit(block, unit, error ? UNIT_ABSENT : UNIT_DONE);
	if (error)
		fail(block->lazy, error);
}

/* --- Who asks ---------------------------------------------------------------------------------- */

static struct lazy_block *find_block(struct ram_lazy *lazy, const struct ram_block *block)
{
	for (uint32_t i = 0; i < lazy->block_count; i++)
		if (lazy->blocks[i].block == block)
			return &lazy->blocks[i];
	return NULL;
}

/*
 * A unit that somebody else brings is waited for: its zero pages are not put in place, so nothing
 * else would let the one who touched such a page go on.
 */
static bool on_missing(void *context, struct ram_block *ram, uint64_t offset)
{
	struct ram_lazy *lazy = context;
	struct lazy_block *block = find_block(lazy, ram);
	uint64_t unit = offset / CHUNK / block->unit_chunks;
	enum unit_state state;

	if (state_of(block, unit) != UNIT_DONE)
		__atomic_fetch_add(&lazy->asked, 1, __ATOMIC_RELAXED);
	if (take_unit(block, unit))
		bring_taken(block, unit);
	pthread_mutex_lock(&lazy->lock);
	while ((state = state_of(block, unit)) == UNIT_TAKEN)
		pthread_cond_wait(&lazy->changed, &lazy->lock);
	pthread_mutex_unlock(&lazy->lock);
	/* If it failed nobody may go on. Otherwise the page is there (and "zeros" changes nothing) or
	 * it is one of the zero pages. */
	return state == UNIT_ABSENT;
}

static bool on_written(void *context, struct ram_block *ram, uint64_t offset)
{
	return false;
}

static const struct userfault_ops fault_ops = {.missing = on_missing, .written = on_written};

/* What goes as a whole need not come; a unit that goes in part comes first. */
static void before_discard(void *context, struct ram_block *ram, uint64_t offset, uint64_t size)
{
	struct lazy_block *block = context;
	struct ram_lazy *lazy = block->lazy;
	uint64_t unit_size = block->unit_chunks * CHUNK;

	for (uint64_t unit = offset / unit_size; unit <= (offset + size - 1) / unit_size; unit++) {
		uint64_t start = unit * unit_size;
		bool whole = offset <= start && MIN(start + unit_size, ram->size) <= offset + size;

		if (take_unit(block, unit)) {
			if (whole)
				settle_unit(block, unit, UNIT_DONE);
			else
				bring_taken(block, unit);
			continue;
		}
		pthread_mutex_lock(&lazy->lock);
		while (state_of(block, unit) == UNIT_TAKEN)
			pthread_cond_wait(&lazy->changed, &lazy->lock);
		pthread_mutex_unlock(&lazy->lock);
	}
}

/* --- The end ----------------------------------------------------------------------------------- */

static bool stopping(const struct ram_lazy *lazy)
{
	return __atomic_load_n(&lazy->stopping, __ATOMIC_RELAXED);
}

static void unwatch(struct lazy_block *block)
{
	if (!block->watched)
		return;
	block->watched = false;
	ram_block_unwatch(block->block, &block->discards);
	userfault_unwatch(block->lazy->userfault, block->block, &block->lazy->watcher);
	ram_block_end_reserving(block->block);
}

/* On the last channel. Units that others have taken are still on their way. */
static void finish(struct ram_lazy *lazy)
{
	bool complete;

	pthread_mutex_lock(&lazy->lock);
	while (lazy->open_units && !lazy->failed && !stopping(lazy))
		pthread_cond_wait(&lazy->changed, &lazy->lock);
	complete = !lazy->open_units;
	pthread_mutex_unlock(&lazy->lock);
	if (!complete)
		return;
	for (uint32_t i = 0; i < lazy->block_count; i++)
		unwatch(&lazy->blocks[i]);
	ram_rest_take(lazy->map, &lazy->stopping);
	if (!stopping(lazy))
		lazy->ops->completed(lazy->context);
}

static void *channel_thread(void *context)
{
	struct lazy_channel *channel = context;
	struct ram_lazy *lazy = channel->lazy;
	uint64_t index;
	bool last;

	while (!stopping(lazy) &&
	       (index = __atomic_fetch_add(&lazy->next_unit, 1, __ATOMIC_RELAXED)) < lazy->units) {
		uint32_t i = lazy->block_count - 1;

		while (lazy->blocks[i].first_unit > index)
			i--;
		if (take_unit(&lazy->blocks[i], index - lazy->blocks[i].first_unit))
			bring_taken(&lazy->blocks[i], index - lazy->blocks[i].first_unit);
	}
	pthread_mutex_lock(&lazy->lock);
	last = !--lazy->bringing;
	pthread_mutex_unlock(&lazy->lock);
	if (last)
		finish(lazy);
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *add_block(struct ram_lazy *lazy, struct ram_block *ram,
			       const struct snapshot_block *source)
{
	struct lazy_block *block = &lazy->blocks[lazy->block_count++];

	*block = (struct lazy_block){
	    .lazy = lazy,
	    .block = ram,
	    .source = source,
	    .chunks = ram_chunks(ram),
	    .unit_chunks = MAX(ram->page_size / CHUNK, (uint64_t)1),
	    .first_unit = lazy->units,
	    .discards = {.before_discard = before_discard},
	};
	block->discards.context = block;
	block->units = (block->chunks + block->unit_chunks - 1) / block->unit_chunks;
	block->states = calloc(block->units, 1);
	if (!block->states)
		return error_system(ENOMEM, "the map of memory '%s'", ram->name);
	lazy->units += block->units;
	lazy->buffer_size = MAX(lazy->buffer_size, block->unit_chunks * CHUNK);
	/* What has nothing to bring is done: unplugged memory, for one, stays as it is. */
	for (uint64_t unit = 0; unit < block->units; unit++) {
		uint64_t bytes = unit_bytes(block, unit);

		lazy->total += bytes;
		if (bytes)
			lazy->open_units++;
		else
			block->states[unit] = UNIT_DONE;
	}
	TRY(userfault_watch(lazy->userfault, ram, &lazy->watcher));
	block->watched = true;
	ram_block_watch(ram, &block->discards);
	return NULL;
}

struct error *ram_lazy_create(struct memory_map *map, const struct snapshot_file *file,
			      struct userfault *userfault, const struct ram_lazy_ops *ops,
			      void *context, struct ram_lazy **result)
{
	AUTO_RAM_LAZY struct ram_lazy *lazy = calloc(1, sizeof(*lazy));
	struct ram_block *block;

	if (!lazy)
		return error_system(ENOMEM, "a lazy restore");
	pthread_mutex_init(&lazy->lock, NULL);
	pthread_cond_init(&lazy->changed, NULL);
	lazy->map = map;
	lazy->file = file;
	lazy->userfault = userfault;
	lazy->watcher = (struct userfault_watcher){.ops = &fault_ops, .context = lazy};
	lazy->ops = ops;
	lazy->context = context;
	lazy->blocks = calloc(file->block_count, sizeof(*lazy->blocks));
	if (!lazy->blocks)
		return error_system(ENOMEM, "a lazy restore");
	TRY(ram_load_check_blocks(map, file));
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++)
		TRY(userfault_supports(block));
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++)
		TRY(add_block(lazy, block, snapshot_file_block(file, block->name)));
	*result = TAKE_PTR(lazy);
	return NULL;
}

struct error *ram_lazy_start(struct ram_lazy *lazy, uint32_t channels)
{
	channels = MIN(channels, RAM_LOAD_CHANNELS_MAX);
	lazy->bringing = channels;
	for (uint32_t i = 0; i < channels; i++) {
		struct lazy_channel *channel = &lazy->channels[i];
		char name[16];

		channel->lazy = lazy;
		snprintf(name, sizeof(name), "lazy%u", i);
		TRY(thread_start(&channel->thread, name, channel_thread, channel));
		channel->started = true;
	}
	return NULL;
}

void ram_lazy_destroy(struct ram_lazy *lazy)
{
	if (!lazy)
		return;
	pthread_mutex_lock(&lazy->lock);
	__atomic_store_n(&lazy->stopping, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&lazy->changed);
	pthread_mutex_unlock(&lazy->lock);
	for (uint32_t i = 0; i < RAM_LOAD_CHANNELS_MAX; i++)
		if (lazy->channels[i].started)
			pthread_join(lazy->channels[i].thread, NULL);
	for (uint32_t i = 0; lazy->blocks && i < lazy->block_count; i++) {
		unwatch(&lazy->blocks[i]);
		free(lazy->blocks[i].states);
	}
	while (lazy->free_buffers) {
		void *buffer = lazy->free_buffers;

		lazy->free_buffers = *(void **)buffer;
		munmap(buffer, lazy->buffer_size);
	}
	pthread_cond_destroy(&lazy->changed);
	pthread_mutex_destroy(&lazy->lock);
	free(lazy->blocks);
	free(lazy);
}

void ram_lazy_progress(const struct ram_lazy *lazy, struct ram_lazy_progress *progress)
{
	*progress = (struct ram_lazy_progress){
	    .total = lazy->total,
	    .done = __atomic_load_n(&lazy->done, __ATOMIC_RELAXED),
	    .asked = __atomic_load_n(&lazy->asked, __ATOMIC_RELAXED),
	};
}
