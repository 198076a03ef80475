/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RAM blocks of a memory map as a migration numbers them: in order of guest address
 * (ram_blocks.h), which both ends must have alike. Built once; any thread may look.
 */
#ifndef GODWIT_MIGRATION_RAM_TABLE_H
#define GODWIT_MIGRATION_RAM_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/memory_map.h"
#include "migration/wire.h"

struct ram_table {
	struct memory_map *map; /* outlives the table */
	uint32_t count;
	struct ram_table_block {
		struct ram_block *block;
		uint64_t pages;
	} * blocks;
};

/* Freed with ram_table_clear, whatever it returns. */
struct error *ram_table_init(struct ram_table *table, struct memory_map *map) MUST_CHECK;
void ram_table_clear(struct ram_table *table);

/*
 * Whether all of [first, first + count) pages of @block are guest memory that is plugged. The range
 * is inside the block. For an answer that lasts, inside a read section.
 */
bool ram_table_plugged(const struct ram_table *table, uint32_t block, uint64_t first,
		       uint64_t count);

/* Runs of set bits in a window's mask: for (run = ram_window_run(mask, 0); run.count; …). */
struct ram_window_run {
	uint32_t first, count; /* pages of the window */
};
struct ram_window_run ram_window_run(const uint64_t mask[WIRE_WINDOW_WORDS], uint32_t from);

#define FOR_EACH_WINDOW_RUN(run, mask)                                                             \
	for (struct ram_window_run run = ram_window_run(mask, 0); run.count;                       \
	     run = ram_window_run(mask, run.first + run.count))

#endif
