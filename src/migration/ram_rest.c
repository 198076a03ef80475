/* SPDX-License-Identifier: BSD-2-Clause */
/* See ram_rest.h. Nothing here fails but the host's memory, which is told to the log. */
#include "migration/ram_rest.h"

#include <string.h>

#include "base/checked.h"
#include "base/log.h"

#define PIECE MIB(2) /* of memory that is taken at once */

static bool stopping(const bool *stop)
{
	return __atomic_load_n(stop, __ATOMIC_RELAXED);
}

/*
 * What of [@offset, @offset + @size) of the region is plugged. A read section keeps an unplug from
 * giving back meanwhile what would be taken here. What is being plugged at this very moment may have
 * been reserved before and be marked after: then its first touches take it.
 */
static int take_plugged(struct memory_map *map, const struct memory_region *region, uint64_t offset,
			uint64_t size)
{
	int token = memory_read_begin(map);
	int result = 0;

	if (memory_region_all_plugged(region, offset, size))
		result = ram_block_take_rest(region->block, region->block_offset + offset, size);
	memory_read_end(map, token);
	return result;
}

static int take_region(struct memory_map *map, const struct memory_region *region, const bool *stop)
{
	uint64_t unit = region->unit ? MIN(region->unit, PIECE) : PIECE;
	int result = 0;

	for (uint64_t at = 0; at < region->size && !result && !stopping(stop); at += PIECE) {
		uint64_t end = MIN(at + PIECE, region->size);

		if (memory_region_all_plugged(region, at, end - at)) {
			result = take_plugged(map, region, at, end - at);
			continue;
		}
		if (!memory_region_any_plugged(region, at, end - at))
			continue;
		for (uint64_t part = at; part < end && !result; part += unit)
			result = take_plugged(map, region, part, MIN(unit, end - part));
	}
	return result;
}

void ram_rest_take(struct memory_map *map, const bool *stop)
{
	struct memory_region *region = memory_map_first(map);

	for (; region && !stopping(stop); region = region->next) {
		int result = take_region(map, region, stop);

		if (result < 0)
			log_warning(
			    "memory '%s': the host has no room for pages that the guest "
			    "has not used yet (%s): it may fail when it uses them; make room",
			    region->block->name, strerror(-result));
	}
}
