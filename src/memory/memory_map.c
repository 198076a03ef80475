/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest memory map, see memory_map.h.
 *
 * Transactions (plug, unplug, listeners coming and going) hold `lock`. Readers hold nothing: the
 * table of regions is fixed once the guest runs, and the bitmaps of plugged units are read word by
 * word inside a read section. The guest controls every address that comes in here.
 *
 * The order of an unplug is what makes it safe:
 *   1. the units are marked unplugged, so no new access of a device starts;
 *   2. accesses that started earlier come to their end;
 *   3. the listeners take the range away (KVM: the slot goes, and with it the guest's access);
 *   4. the memory goes back to the host.
 * Up to the end of 3 it can still be refused, and the mark is put back.
 */
#include "memory/memory_map.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "memory/dirty_log.h"
#include "memory/ram_reclaim.h"
#include "memory/read_section.h"

#define REGIONS_MAX	  128
#define UNPLUG_TIMEOUT_NS (5 * NS_PER_SECOND)

struct memory_map {
	pthread_mutex_t lock;
	struct memory_region *regions[REGIONS_MAX]; /* ascending address */
	int region_count;
	struct memory_listener *listeners;
	int listener_count;
	struct read_sections sections;
	bool handed_out;  /* a listener hands_out */
	bool logs_writes; /* atomic; set by the log */
	struct dirty_log *log;
};

struct error *memory_map_create(struct memory_map **result)
{
	struct memory_map *map = aligned_alloc(64, sizeof(*map));
	struct error *error;

	if (!map)
		return error_system(ENOMEM, "memory map");
	memset(map, 0, sizeof(*map));
	error = dirty_log_create(map, &map->logs_writes, &map->log);
	if (error) {
		free(map);
		return error;
	}
	pthread_mutex_init(&map->lock, NULL);
	*result = map;
	return NULL;
}

void memory_map_destroy(struct memory_map *map)
{
	if (!map)
		return;
	dirty_log_destroy(map->log);
	for (int i = 0; i < map->region_count; i++) {
		free(map->regions[i]->plugged);
		free(map->regions[i]);
	}
	pthread_mutex_destroy(&map->lock);
	free(map);
}

struct error *memory_map_add_listener(struct memory_map *map, struct memory_listener *listener)
{
	struct error *error = NULL;

	if (map->listener_count == MEMORY_LISTENERS_MAX)
		return error_new(EINVAL, "more than %d listeners on the memory map",
				 MEMORY_LISTENERS_MAX);
	pthread_mutex_lock(&map->lock);
	listener->index = map->listener_count;
	for (int i = 0; i < map->region_count && !error; i++)
		error = listener->region_add(listener, map->regions[i]);
	if (!error) {
		map->listener_count++;
		listener->next = map->listeners;
		map->listeners = listener;
		map->handed_out |= listener->hands_out;
	}
	pthread_mutex_unlock(&map->lock);
	return error;
}

void memory_map_remove_listener(struct memory_map *map, struct memory_listener *listener)
{
	pthread_mutex_lock(&map->lock);
	for (struct memory_listener **link = &map->listeners; *link; link = &(*link)->next) {
		if (*link == listener) {
			*link = listener->next;
			for (int i = 0; i < map->region_count; i++)
				listener->region_remove(listener, map->regions[i]);
			break;
		}
	}
	pthread_mutex_unlock(&map->lock);
}

static struct error *insert_region(struct memory_map *map, struct memory_region *region)
{
	int place = 0;

	if (map->region_count == REGIONS_MAX)
		return error_new(EINVAL, "more than %d memory regions", REGIONS_MAX);
	while (place < map->region_count && map->regions[place]->address < region->address)
		place++;
	for (int i = 0; i < map->region_count; i++)
		if (ranges_overlap(map->regions[i]->address, map->regions[i]->size, region->address,
				   region->size))
			return error_new(EINVAL,
					 "memory at 0x%" PRIx64 " overlaps memory at 0x%" PRIx64,
					 region->address, map->regions[i]->address);
	memmove(&map->regions[place + 1], &map->regions[place],
		(size_t)(map->region_count - place) * sizeof(map->regions[0]));
	map->regions[place] = region;
	map->region_count++;
	for (int i = 0; i < map->region_count; i++)
		map->regions[i]->next = i + 1 < map->region_count ? map->regions[i + 1] : NULL;
	return NULL;
}

static struct error *tell_region_added(struct memory_map *map, struct memory_region *region)
{
	struct error *error = NULL;

	pthread_mutex_lock(&map->lock);
	for (struct memory_listener *l = map->listeners; l && !error; l = l->next)
		error = l->region_add(l, region);
	pthread_mutex_unlock(&map->lock);
	return error;
}

struct error *memory_map_add(struct memory_map *map, uint64_t address, uint64_t size,
			     struct ram_block *block, uint64_t block_offset, uint64_t unit,
			     struct memory_region **result)
{
	AUTO_FREE struct memory_region *region = calloc(1, sizeof(*region));
	uint64_t end;

	if (!region)
		return error_system(ENOMEM, "memory region");
	if (!size || !checked_add(address, size, &end) ||
	    !range_contains(0, block->size, block_offset, size))
		return error_new(EINVAL,
				 "memory region at 0x%" PRIx64 " does not fit its block '%s'",
				 address, block->name);
	*region = (struct memory_region){.address = address,
					 .size = size,
					 .block = block,
					 .block_offset = block_offset,
					 .unit = unit};
	if (unit) {
		if (!is_power_of_two(unit) || unit < block->page_size || !is_aligned(size, unit) ||
		    !is_aligned(address, unit) || !is_aligned(block_offset, unit))
			return error_new(EINVAL, "memory '%s' does not consist of whole blocks",
					 block->name);
		region->plugged = bitmap_create(size / unit);
		if (!region->plugged)
			return error_system(ENOMEM, "memory '%s'", block->name);
		ram_block_set_granule(block, unit);
	} else {
		int failure = ram_block_commit(block, block_offset, size);

		if (failure)
			return error_system(-failure,
					    "the host has no memory for '%s' (%" PRIu64
					    " MiB): free some, or enlarge the pool of huge "
					    "pages",
					    block->name, size >> 20);
	}
	struct error *error = insert_region(map, region);

	if (error) {
		free(region->plugged);
		return error;
	}
	*result = region;
	return tell_region_added(map, TAKE_PTR(region));
}

struct memory_region *memory_map_first(const struct memory_map *map)
{
	return map->region_count ? map->regions[0] : NULL;
}

struct memory_region *memory_map_find(const struct memory_map *map, uint64_t address)
{
	int low = 0, high = map->region_count;

	while (low < high) {
		int middle = (low + high) / 2;
		struct memory_region *region = map->regions[middle];

		if (address < region->address)
			high = middle;
		else if (address - region->address >= region->size)
			low = middle + 1;
		else
			return region;
	}
	return NULL;
}

/* Sets or clears the marks of a range of whole units with stores that readers see whole. */
static void mark(struct memory_region *region, uint64_t offset, uint64_t size, bool plugged)
{
	uint64_t end = (offset + size) / region->unit;

	for (uint64_t unit = offset / region->unit; unit < end;) {
		uint64_t stop = MIN(end, (unit / 64 + 1) * 64);
		uint64_t *word = &region->plugged[unit / 64];
		uint64_t bits = (stop - unit == 64 ? ~0ULL : (1ULL << (stop - unit)) - 1)
				<< (unit % 64);

		__atomic_store_n(word, plugged ? *word | bits : *word & ~bits, __ATOMIC_RELEASE);
		unit = stop;
	}
}

/* Whether every unit that [offset, offset + size) touches is plugged (unplugged, with @plugged
 * false). */
static bool all_marked(const struct memory_region *region, uint64_t offset, uint64_t size,
		       bool plugged)
{
	uint64_t unit = offset / region->unit;
	uint64_t end = (offset + size - 1) / region->unit + 1;

	while (unit < end) {
		uint64_t stop = MIN(end, (unit / 64 + 1) * 64);
		uint64_t bits = (stop - unit == 64 ? ~0ULL : (1ULL << (stop - unit)) - 1)
				<< (unit % 64);
		uint64_t word = __atomic_load_n(&region->plugged[unit / 64], __ATOMIC_ACQUIRE);

		if ((word & bits) != (plugged ? bits : 0))
			return false;
		unit = stop;
	}
	return true;
}

bool memory_region_all_plugged(const struct memory_region *region, uint64_t offset, uint64_t size)
{
	return !region->unit || all_marked(region, offset, size, true);
}

bool memory_region_any_plugged(const struct memory_region *region, uint64_t offset, uint64_t size)
{
	return !region->unit || !all_marked(region, offset, size, false);
}

uint64_t memory_region_plugged_size(const struct memory_region *region)
{
	uint64_t units;

	if (!region->unit)
		return region->size;
	units = 0;
	for (size_t word = 0; word < bitmap_words(region->size / region->unit); word++)
		units += (uint64_t)__builtin_popcountll(
		    __atomic_load_n(&region->plugged[word], __ATOMIC_RELAXED));
	return units * region->unit;
}

/* Nobody can reach the range any more; if the host will not take it back, that costs memory, no
 * more: it is to read as zeros when it is plugged again, and in a snapshot. */
static void give_back(const struct memory_region *region, uint64_t offset, uint64_t size)
{
	int failure = ram_block_discard(region->block, region->block_offset + offset, size);

	if (!failure)
		return;
	if (failure != -ENOSPC) /* which a guest can bring about, of a clone */
		log_error("memory '%s': cannot return %" PRIu64 " bytes to the host: %s",
			  region->block->name, size, strerrordesc_np(-failure));
	ram_block_clear(region->block, region->block_offset + offset, size);
}

static uint8_t *region_host(const struct memory_region *region, uint64_t offset)
{
	return region->block->host + region->block_offset + offset;
}

/*
 * What is plugged reads as zeros, whatever was there before; and the log forgets what was written
 * to units while they are not marked, even if only because their unplug is refused a moment later.
 */
static void make_present(struct memory_map *map, struct memory_region *region, uint64_t offset,
			 uint64_t size)
{
	mark(region, offset, size, true);
	memory_written(map, region_host(region, offset), size);
}

int memory_region_plug(struct memory_map *map, struct memory_region *region, uint64_t offset,
		       uint64_t size)
{
	struct memory_listener *listener;
	int failure;

	pthread_mutex_lock(&map->lock);
	/* It is to read as zeros. */
	if (map->handed_out)
		ram_block_reclaim(region->block, region->block_offset + offset, size);
	failure = ram_block_commit(region->block, region->block_offset + offset, size);
	if (failure) {
		pthread_mutex_unlock(&map->lock);
		return -EBUSY;
	}
	for (listener = map->listeners; listener; listener = listener->next) {
		failure = listener->plug(listener, region, offset, size);
		if (failure)
			break;
	}
	if (!failure) {
		make_present(map, region, offset, size);
	} else {
		for (struct memory_listener *l = map->listeners; l != listener; l = l->next)
			if (l->unplug(l, region, offset, size))
				log_error(
				    "memory '%s': a listener keeps a range that was not plugged",
				    region->block->name);
		give_back(region, offset, size);
	}
	pthread_mutex_unlock(&map->lock);
	return failure ? -EBUSY : 0;
}

/* Steps 1 to 3 of an unplug; on failure everything is as before. */
static int take_away(struct memory_map *map, struct memory_region *region, uint64_t offset,
		     uint64_t size)
{
	struct memory_listener *listener;
	int failure = 0;

	mark(region, offset, size, false);
	if (!read_sections_wait(&map->sections, UNPLUG_TIMEOUT_NS)) {
		make_present(map, region, offset, size);
		return -EBUSY;
	}
	for (listener = map->listeners; listener; listener = listener->next) {
		failure = listener->unplug(listener, region, offset, size);
		if (failure)
			break;
	}
	if (!failure)
		return 0;
	for (struct memory_listener *l = map->listeners; l != listener; l = l->next)
		if (l->plug(l, region, offset, size))
			log_error("memory '%s': a listener lost a range that stays plugged",
				  region->block->name);
	make_present(map, region, offset, size);
	return -EBUSY;
}

int memory_region_unplug(struct memory_map *map, struct memory_region *region, uint64_t offset,
			 uint64_t size)
{
	int failure;

	pthread_mutex_lock(&map->lock);
	failure = take_away(map, region, offset, size);
	if (!failure)
		give_back(region, offset, size);
	pthread_mutex_unlock(&map->lock);
	return failure;
}

bool memory_map_handed_out(const struct memory_map *map)
{
	return map->handed_out;
}

static uint64_t reclaim_region(const struct memory_region *region)
{
	uint64_t units = region->size / region->unit, found = 0;
	uint64_t unit = bitmap_next_clear(region->plugged, 0, units);

	while (unit < units) {
		uint64_t stop = bitmap_next_set(region->plugged, unit, units);

		found +=
		    ram_block_reclaim(region->block, region->block_offset + unit * region->unit,
				      (stop - unit) * region->unit);
		unit = bitmap_next_clear(region->plugged, stop, units);
	}
	return found;
}

bool memory_map_reclaim(struct memory_map *map, uint64_t *found)
{
	if (!map->handed_out)
		return true;
	if (pthread_mutex_trylock(&map->lock))
		return false;
	for (int i = 0; i < map->region_count; i++)
		if (map->regions[i]->unit)
			*found += reclaim_region(map->regions[i]);
	pthread_mutex_unlock(&map->lock);
	return true;
}

int memory_read_begin(struct memory_map *map)
{
	return read_section_begin(&map->sections);
}

void memory_read_end(struct memory_map *map, int token)
{
	read_section_end(&map->sections, token);
}

bool memory_logs_writes(const struct memory_map *map)
{
	/* The compiler must not load it before what was written is stored; the processor may. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	/* Acquire: who sees the log on sees its bitmaps. */
	return __builtin_expect(__atomic_load_n(&map->logs_writes, __ATOMIC_ACQUIRE), false);
}

void memory_written(struct memory_map *map, const void *host, uint64_t size)
{
	if (memory_logs_writes(map))
		dirty_log_mark(map->log, host, size);
}

struct dirty_log *memory_map_dirty_log(const struct memory_map *map)
{
	return map->log;
}

bool memory_access(struct memory_map *map, uint64_t address, uint64_t size,
		   enum memory_access_mode mode, struct memory_span *span)
{
	const struct memory_region *region = memory_map_find(map, address);
	uint64_t offset;

	if (!region || !size)
		return false;
	offset = address - region->address;
	if (size > region->size - offset || !memory_region_all_plugged(region, offset, size))
		return false;
	span->host = region_host(region, offset);
	span->size = size;
	return true;
}

enum copy_direction { COPY_OUT, COPY_IN };

static void write_stretch(struct memory_map *map, uint8_t *host, const uint8_t *buffer, size_t size)
{
	memcpy(host, buffer, size);
	memory_written(map, host, size);
}

/*
 * Copies between @buffer and guest memory stretch by stretch: a stretch ends with its region and,
 * in elastic memory, with its unit. Absent stretches end the copy, or with @tolerant read as zeros
 * and swallow writes.
 */
static bool copy(struct memory_map *map, uint64_t address, uint8_t *buffer, uint64_t size,
		 enum copy_direction direction, bool tolerant)
{
	int section = memory_read_begin(map);
	bool complete = true, touched = false;

	while (size && complete) {
		const struct memory_region *region = memory_map_find(map, address);
		uint64_t offset = region ? address - region->address : 0;
		uint64_t stretch = region ? MIN(size, region->size - offset) : 1;
		bool present;

		if (region && region->unit)
			stretch = MIN(stretch, region->unit - (offset & (region->unit - 1)));
		present = region && memory_region_all_plugged(region, offset, stretch);
		touched |= region != NULL;
		if (present && direction == COPY_OUT)
			memcpy(buffer, region_host(region, offset), stretch);
		else if (present)
			write_stretch(map, region_host(region, offset), buffer, stretch);
		else if (!tolerant)
			complete = false;
		else if (direction == COPY_OUT)
			memset(buffer, 0, stretch);
		address += stretch;
		buffer += stretch;
		size -= stretch;
	}
	memory_read_end(map, section);
	return complete && (!tolerant || touched);
}

bool memory_read(struct memory_map *map, uint64_t address, void *buffer, uint64_t size)
{
	return copy(map, address, buffer, size, COPY_OUT, false);
}

bool memory_write(struct memory_map *map, uint64_t address, const void *buffer, uint64_t size)
{
	return copy(map, address, (uint8_t *)buffer, size, COPY_IN, false);
}

bool memory_read_or_zero(struct memory_map *map, uint64_t address, void *buffer, uint64_t size)
{
	return copy(map, address, buffer, size, COPY_OUT, true);
}

bool memory_write_or_drop(struct memory_map *map, uint64_t address, const void *buffer,
			  uint64_t size)
{
	return copy(map, address, (uint8_t *)buffer, size, COPY_IN, true);
}
