/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine has few blocks and several regions may share one; counting them again is cheap. */
#include "migration/ram_blocks.h"

struct ram_block *ram_blocks_at(const struct memory_map *map, uint32_t index)
{
	struct memory_region *region, *earlier;

	for (region = memory_map_first(map); region; region = region->next) {
		for (earlier = memory_map_first(map); earlier->block != region->block;)
			earlier = earlier->next;
		if (earlier == region && index-- == 0)
			return region->block;
	}
	return NULL;
}
