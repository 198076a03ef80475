/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving the memory of a running guest as it was at one moment, see ram_save.h.
 *
 * A unit goes PENDING → TAKEN → DONE. Whoever makes it TAKEN copies it: a channel in its turn, the
 * thread that handles a write to it, or who is about to give it back to the host. Once the copy is
 * made the unit may be written again. Copies that others than channels have made are left to the
 * channels (`ready`). What a guest does cannot lengthen the save: each unit is copied once.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/ram_save_private.h"

/* --- Copies ------------------------------------------------------------------------------------ */

void ram_save_release_copy(struct ram_save *save, struct copy *copy)
{
	if (--copy->uses)
		return;
	pthread_mutex_lock(&save->lock);
	copy->next = save->free;
	save->free = copy;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
}

static struct copy *pop(struct copy **list)
{
	struct copy *copy = *list;

	if (copy)
		*list = copy->next;
	return copy;
}

static bool copy_run(const struct ram_block *ram, uint64_t offset, uint8_t *bytes, uint64_t size)
{
	if (ram->fd < 0) {
		memcpy(bytes, ram->host + offset, size);
		return true;
	}
	for (uint64_t done = 0; done < size;) { /* reads holes as zeros without filling them */
		ssize_t got = pread(ram->fd, bytes + done, size - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		done += (uint64_t)got;
	}
	return true;
}

/*
 * Copies what the chunk held at the moment of the snapshot. Its pages are protected or, from some
 * time after the moment on, noted in `appeared` before they are there. No page that was there has
 * gone, since that takes the unit first: so what @presence has looked up at any time after the
 * moment will do.
 */
static bool copy_chunk(struct ram_presence *presence, const struct saved_block *block,
		       uint64_t chunk, struct copy *copy)
{
	const struct ram_block *ram = block->block;
	uint64_t offset = chunk * CHUNK;
	uint64_t present = ram_presence_chunk(presence, ram, offset);

	FOR_EACH_PAGE_RUN(run, present)
	{
		if (!copy_run(ram, offset + run.first * PAGE, copy->bytes + run.first * PAGE,
			      run.count * PAGE))
			return false;
	}
	copy->present = present & ~__atomic_load_n(&block->appeared[chunk], __ATOMIC_ACQUIRE);
	return true;
}

static bool take_unit(struct saved_block *block, uint64_t unit)
{
	uint8_t pending = UNIT_PENDING;

	return __atomic_compare_exchange_n(&block->states[unit], &pending, UNIT_TAKEN, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/*
 * The unit may be written again. Where nothing was at the moment nothing is protected (and if it is,
 * because it was there earlier, a write finds the unit DONE and takes the protection off): memory
 * that is mostly not there would be gone through one call a unit.
 */
static void release_unit(struct saved_block *block, uint64_t unit, bool present)
{
	struct ram_save *save = block->save;
	uint64_t size = block->unit_chunks * CHUNK, offset = unit * size;
	int result = 0;

	if (present)
		result = userfault_unprotect(save->userfault, block->block, offset,
					     MIN(size, block->block->size - offset));
	__atomic_store_n(&block->states[unit], UNIT_DONE, __ATOMIC_RELEASE);
	if (result < 0)
		ram_save_stop(save, error_system(-result, "cannot make memory '%s' writable again",
						 block->block->name));
	pthread_mutex_lock(&save->lock);
	save->open_units--;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
}

/*
 * For a thread that is no channel: copies a unit that it has taken and leaves the copies to the
 * channels. Waits for room.
 */
static void copy_unit_aside(struct saved_block *block, uint64_t unit)
{
	struct ram_save *save = block->save;
	uint64_t first = unit * block->unit_chunks;
	uint64_t end = MIN(first + block->unit_chunks, block->chunks);
	struct ram_presence *presence = NULL;
	struct error *error = ram_presence_create(&presence);

	__atomic_fetch_add(&save->waited, 1, __ATOMIC_RELAXED);
	for (uint64_t chunk = first; chunk < end && !error; chunk++) {
		struct copy *copy = NULL;

		pthread_mutex_lock(&save->lock);
		while (!save->stopping && !(copy = pop(&save->free)))
			pthread_cond_wait(&save->changed, &save->lock);
		pthread_mutex_unlock(&save->lock);
		if (!copy)
			break;
		copy->uses = 1;
		copy->block = block;
		copy->chunk = chunk;
		if (!copy_chunk(presence, block, chunk, copy))
			error = error_system(errno, "cannot read memory '%s'", block->block->name);
		pthread_mutex_lock(&save->lock);
		copy->next = save->ready;
		save->ready = copy;
		pthread_cond_broadcast(&save->changed);
		pthread_mutex_unlock(&save->lock);
	}
	ram_presence_destroy(presence);
	if (error)
		ram_save_stop(save, error);
	release_unit(block, unit, true);
}

/* --- While the guest runs ---------------------------------------------------------------------- */

static struct error *save_copy(struct save_channel *channel, struct copy *copy)
{
	struct error *error =
	    ram_save_chunk(channel, copy->block, copy->chunk, copy->bytes, copy->present, copy);

	ram_save_release_copy(channel->save, copy);
	return error;
}

/*
 * A free copy for a channel. While there is none it works on what others have copied and on its
 * own requests, so that the pool cannot stay empty. *copy is NULL when the save is stopping.
 */
static struct error *get_copy(struct save_channel *channel, struct copy **result)
{
	struct ram_save *save = channel->save;

	for (;;) {
		struct copy *ready;

		pthread_mutex_lock(&save->lock);
		*result = save->stopping ? NULL : pop(&save->free);
		ready = *result ? NULL : pop(&save->ready);
		while (!save->stopping && !*result && !ready && !page_io_pending(channel->io)) {
			pthread_cond_wait(&save->changed, &save->lock);
			*result = pop(&save->free);
			ready = *result ? NULL : pop(&save->ready);
		}
		pthread_mutex_unlock(&save->lock);
		if (*result || ram_save_stopping(save)) {
			if (ready)
				ram_save_release_copy(save, ready);
			return NULL;
		}
		if (ready)
			TRY(save_copy(channel, ready));
		else
			page_io_wait(channel->io);
	}
}

static struct error *save_unit_copied(struct save_channel *channel, struct saved_block *block,
				      uint64_t unit)
{
	uint64_t first = unit * block->unit_chunks;
	uint64_t end = MIN(first + block->unit_chunks, block->chunks);
	struct error *error = NULL;
	uint64_t present = 0;

	for (uint64_t chunk = first; chunk < end && !error; chunk++) {
		struct copy *copy;

		error = get_copy(channel, &copy);
		if (error || !copy)
			break;
		copy->uses = 1;
		copy->block = block;
		copy->chunk = chunk;
		if (copy_chunk(channel->presence, block, chunk, copy)) {
			present |= copy->present;
			/* The last copy of the unit is all that its writers wait for. */
			if (chunk + 1 == end)
				release_unit(block, unit, present);
			error = save_copy(channel, copy);
			if (chunk + 1 == end)
				return error;
		} else {
			error = error_system(errno, "cannot read memory '%s'", block->block->name);
			ram_save_release_copy(channel->save, copy);
		}
	}
	release_unit(block, unit, true);
	return error;
}

/* Works on what others have copied; waits for them while units that they have taken are open. */
static struct error *save_remaining_copies(struct save_channel *channel)
{
	struct ram_save *save = channel->save;

	for (;;) {
		struct copy *ready;

		page_io_poll(channel->io);
		pthread_mutex_lock(&save->lock);
		while (!(ready = pop(&save->ready)) && save->open_units && !save->stopping &&
		       !page_io_pending(channel->io))
			pthread_cond_wait(&save->changed, &save->lock);
		bool over = !ready && (!save->open_units || save->stopping);
		pthread_mutex_unlock(&save->lock);
		if (over)
			return NULL;
		if (ready)
			TRY(save_copy(channel, ready));
		else
			page_io_wait(channel->io);
	}
}

static struct error *save_ready_copy(struct save_channel *channel)
{
	struct ram_save *save = channel->save;
	struct copy *ready;

	pthread_mutex_lock(&save->lock);
	ready = pop(&save->ready);
	pthread_mutex_unlock(&save->lock);
	return ready ? save_copy(channel, ready) : NULL;
}

struct error *ram_save_copied(struct save_channel *channel)
{
	struct ram_save *save = channel->save;
	uint64_t unit;

	while ((unit = __atomic_fetch_add(&save->next_unit, 1, __ATOMIC_RELAXED)) < save->units &&
	       !ram_save_stopping(save)) {
		struct saved_block *block = ram_save_block_of_unit(save, unit);

		TRY(save_ready_copy(channel));
		if (take_unit(block, unit - block->first_unit))
			TRY(save_unit_copied(channel, block, unit - block->first_unit));
	}
	return save_remaining_copies(channel);
}

/* --- Faults and discards ----------------------------------------------------------------------- */

static struct saved_block *find_block(struct ram_save *save, const struct ram_block *block)
{
	for (uint32_t i = 0; i < save->block_count; i++)
		if (save->blocks[i].block == block)
			return &save->blocks[i];
	return NULL;
}

static uint64_t unit_at(const struct saved_block *block, uint64_t offset)
{
	return offset / CHUNK / block->unit_chunks;
}

static void set_bit(uint64_t *bitmap, uint64_t bit)
{
	__atomic_fetch_or(&bitmap[bit / 64], 1ULL << (bit % 64), __ATOMIC_ACQ_REL);
}

static bool on_written(void *context, struct ram_block *ram, uint64_t offset)
{
	struct ram_save *save = context;
	struct saved_block *block = find_block(save, ram);
	uint64_t unit = unit_at(block, offset);

	if (__atomic_load_n(&save->armed, __ATOMIC_ACQUIRE)) {
		if (take_unit(block, unit))
			copy_unit_aside(block, unit);
		/* Once it is DONE, this is a late message, and what it is about may be written. */
		return __atomic_load_n(&block->states[unit], __ATOMIC_ACQUIRE) == UNIT_TAKEN;
	}
	set_bit(block->written, unit);
	return false;
}

static bool on_missing(void *context, struct ram_block *ram, uint64_t offset)
{
	struct ram_save *save = context;
	struct saved_block *block = find_block(save, ram);

	if (__atomic_load_n(&save->armed, __ATOMIC_ACQUIRE))
		for (uint64_t page = offset / PAGE; page < (offset + ram->page_size) / PAGE; page++)
			set_bit(block->appeared, page);
	else
		set_bit(block->written, unit_at(block, offset));
	return false; /* zeros will do */
}

static const struct userfault_ops fault_ops = {.missing = on_missing, .written = on_written};

static void before_discard(void *context, struct ram_block *ram, uint64_t offset, uint64_t size)
{
	struct saved_block *block = context;
	struct ram_save *save = block->save;

	if (!__atomic_load_n(&save->armed, __ATOMIC_ACQUIRE))
		return;
	for (uint64_t unit = unit_at(block, offset); unit <= unit_at(block, offset + size - 1);
	     unit++) {
		if (take_unit(block, unit)) {
			copy_unit_aside(block, unit);
			continue;
		}
		pthread_mutex_lock(&save->lock);
		while (__atomic_load_n(&block->states[unit], __ATOMIC_ACQUIRE) == UNIT_TAKEN &&
		       !save->stopping)
			pthread_cond_wait(&save->changed, &save->lock);
		pthread_mutex_unlock(&save->lock);
	}
}

/* --- The moment -------------------------------------------------------------------------------- */

static struct error *protect_units(struct saved_block *block, uint64_t first, uint64_t count)
{
	uint64_t size = block->unit_chunks * CHUNK, offset = first * size;
	int result = userfault_protect(block->save->userfault, block->block, offset,
				       MIN(count * size, block->block->size - offset));

	if (result < 0)
		return error_system(-result, "cannot write-protect memory '%s'",
				    block->block->name);
	return NULL;
}

/*
 * Protects the units that hold anything: protecting shared memory that is not there would fill page
 * tables with marks. Huge pages have few.
 */
static struct error *protect_present(struct saved_block *block, struct ram_presence *presence)
{
	uint64_t run = 0;

	for (uint64_t unit = 0; unit < block->units; unit++) {
		bool present = block->unit_chunks > 1 ||
			       ram_presence_chunk(presence, block->block, unit * CHUNK);

		if (present) {
			run++;
			continue;
		}
		if (run)
			TRY(protect_units(block, unit - run, run));
		run = 0;
	}
	return run ? protect_units(block, block->units - run, run) : NULL;
}

struct error *ram_save_watch(struct ram_save *save, struct userfault *userfault)
{
	AUTO_RAM_PRESENCE struct ram_presence *presence = NULL;

	TRY(ram_presence_create(&presence));
	for (uint32_t i = 0; i < save->block_count; i++)
		TRY(userfault_supports(save->blocks[i].block));
	save->pool_memory = mmap(NULL, (size_t)POOL_COPIES * CHUNK, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (save->pool_memory == MAP_FAILED) {
		save->pool_memory = NULL;
		return error_system(ENOMEM, "no memory for copies of a running guest's memory");
	}
	for (uint32_t i = 0; i < POOL_COPIES; i++) {
		save->copies[i].bytes = save->pool_memory + (size_t)i * CHUNK;
		save->copies[i].next = save->free;
		save->free = &save->copies[i];
	}
	save->userfault = userfault;
	save->watcher = (struct userfault_watcher){.ops = &fault_ops, .context = save};
	for (uint32_t i = 0; i < save->block_count; i++) {
		struct saved_block *block = &save->blocks[i];

		block->states = calloc(block->units, 1);
		block->written = bitmap_create(block->units);
		block->appeared = bitmap_create(block->chunks * CHUNK_PAGES);
		if (!block->states || !block->written || !block->appeared)
			return error_system(ENOMEM, "the map of memory '%s'", block->block->name);
		block->discards =
		    (struct ram_block_watcher){.before_discard = before_discard, .context = block};
		TRY(userfault_watch(userfault, block->block, &save->watcher));
		block->watched = true;
		ram_block_watch(block->block, &block->discards);
		TRY(protect_present(block, presence));
	}
	return NULL;
}

struct error *ram_save_protect(struct ram_save *save)
{
	for (uint32_t i = 0; i < save->block_count; i++) {
		struct saved_block *block = &save->blocks[i];
		uint64_t first = 0, end;

		while ((first = bitmap_next_set(block->written, first, block->units)) <
		       block->units) {
			end = bitmap_next_clear(block->written, first, block->units);
			TRY(protect_units(block, first, end - first));
			first = end;
		}
	}
	save->open_units = save->units;
	__atomic_store_n(&save->armed, true, __ATOMIC_RELEASE);
	return NULL;
}

void ram_save_unwatch(struct ram_save *save)
{
	for (uint32_t i = 0; i < save->block_count; i++) {
		struct saved_block *block = &save->blocks[i];

		if (block->watched) {
			ram_block_unwatch(block->block, &block->discards);
			userfault_unwatch(save->userfault, block->block, &save->watcher);
		}
		free(block->states);
		free(block->written);
		free(block->appeared);
	}
	if (save->pool_memory)
		munmap(save->pool_memory, (size_t)POOL_COPIES * CHUNK);
}
