/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of ram_table.h. */
#include "migration/ram_table.h"

#include <stdlib.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/ram_blocks.h"

struct error *ram_table_init(struct ram_table *table, struct memory_map *map)
{
	*table = (struct ram_table){.map = map};
	while (ram_blocks_at(map, table->count))
		table->count++;
	if (table->count > UINT16_MAX)
		return error_new(E2BIG, "%u blocks of memory are too many", table->count);
	table->blocks = calloc(table->count + 1, sizeof(*table->blocks));
	if (!table->blocks)
		return error_system(ENOMEM, "a migration");
	for (uint32_t i = 0; i < table->count; i++) {
		table->blocks[i].block = ram_blocks_at(map, i);
		table->blocks[i].pages = table->blocks[i].block->size / WIRE_PAGE;
	}
	return NULL;
}

void ram_table_clear(struct ram_table *table)
{
	free(TAKE_PTR(table->blocks));
}

bool ram_table_plugged(const struct ram_table *table, uint32_t index, uint64_t first,
		       uint64_t count)
{
	const struct ram_block *block = table->blocks[index].block;
	uint64_t start = first * WIRE_PAGE, end = start + count * WIRE_PAGE, found = 0;
	const struct memory_region *region;

	for (region = memory_map_first(table->map); region; region = region->next) {
		uint64_t from, to;

		if (region->block != block)
			continue;
		from = MAX(start, region->block_offset);
		to = MIN(end, region->block_offset + region->size);
		if (from >= to)
			continue;
		if (region->unit &&
		    !memory_region_all_plugged(region, from - region->block_offset, to - from))
			return false;
		found += to - from;
	}
	return found >= end - start;
}

struct ram_window_run ram_window_run(const uint64_t mask[WIRE_WINDOW_WORDS], uint32_t from)
{
	size_t first = bitmap_next_set(mask, from, WIRE_WINDOW_PAGES);
	size_t end = bitmap_next_clear(mask, first, WIRE_WINDOW_PAGES);

	return (struct ram_window_run){(uint32_t)first, (uint32_t)(end - first)};
}
