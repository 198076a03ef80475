/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end of bringing memory lazily, from a file (ram_lazy.h) or from another host
 * (postcopy_destination.h): memory that was to be certain, and was only reserved meanwhile, takes the
 * pages that nobody has touched, lest a guest that comes to use them find the host's memory, or a file
 * system on it, full.
 */
#ifndef GODWIT_MIGRATION_RAM_REST_H
#define GODWIT_MIGRATION_RAM_REST_H

#include <stdbool.h>

#include "memory/memory_map.h"

/*
 * For all of @map that is plugged, after ram_block_end_reserving, while nobody watches. What is short
 * is logged. Returns soon when *@stop becomes true, which is read atomically. Blocks; any thread.
 */
void ram_rest_take(struct memory_map *map, const bool *stop);

#endif
