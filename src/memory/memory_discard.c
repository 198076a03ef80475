/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Discarding plugged memory, see memory_discard.h. Runs on the thread of the device that asks; the
 * guest controls the ranges. A read section keeps a range from being unplugged (and plugged again)
 * while it is discarded here.
 */
#include "memory/memory_discard.h"

#include "base/checked.h"

#define GRANULE KIB(4)

/* The block that @span lies in: blocks are few, and a region's block may be shared by several
 * regions. */
static struct ram_block *block_of(struct memory_map *map, const struct memory_span *span)
{
	struct memory_region *region;

	for (region = memory_map_first(map); region; region = region->next)
		if (range_contains((uintptr_t)region->block->host, region->block->size,
				   (uintptr_t)span->host, span->size))
			return region->block;
	return NULL;
}

static bool is_committed(const struct ram_block *block)
{
	return block->options.backing == RAM_BACKING_HUGETLB ||
	       block->options.backing == RAM_BACKING_FILE;
}

void memory_discard_span(struct memory_map *map, const struct memory_span *span, bool committed,
			 struct memory_discard_count *count)
{
	struct ram_block *block = block_of(map, span);
	uint64_t start, end;

	if (!block) {
		count->absent += span->size;
		return;
	}
	start = (uint64_t)(span->host - block->host);
	end = align_down(start + span->size, block->page_size);
	if (!checked_align_up(start, block->page_size, &start) || start >= end ||
	    (is_committed(block) && !committed) ||
	    ram_block_discard(block, start, end - start) < 0) {
		count->kept += span->size;
		return;
	}
	memory_written(map, block->host + start, end - start); /* zeros */
	count->discarded += end - start;
	count->kept += span->size - (end - start);
}

/* The longest stretch from @address on that one span can cover: its region's, and its plug unit's
 * if not all is. */
static uint64_t stretch_at(struct memory_map *map, uint64_t address, uint64_t size)
{
	const struct memory_region *region = memory_map_find(map, address);
	uint64_t offset, unit_end;

	if (!region)
		return MIN(size, GRANULE);
	offset = address - region->address;
	size = MIN(size, region->size - offset);
	if (!region->unit || memory_region_all_plugged(region, offset, size))
		return size;
	unit_end = align_down(offset, region->unit) + region->unit;
	return MIN(size, unit_end - offset);
}

void memory_discard(struct memory_map *map, uint64_t address, uint64_t size, bool committed,
		    struct memory_discard_count *count)
{
	int section = memory_read_begin(map);

	while (size) {
		uint64_t stretch = stretch_at(map, address, size);
		struct memory_span span;

		if (memory_access(map, address, stretch, MEMORY_READ, &span))
			memory_discard_span(map, &span, committed, count);
		else
			count->absent += stretch;
		address += stretch;
		size -= stretch;
	}
	memory_read_end(map, section);
}
