/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RAM blocks of a memory map as a snapshot has them: in order of guest address, each once,
 * cut into chunks.
 */
#ifndef GODWIT_MIGRATION_RAM_BLOCKS_H
#define GODWIT_MIGRATION_RAM_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "memory/memory_map.h"
#include "snapshot/snapshot_format.h"

/* The @index-th block of @map, or NULL past the end. */
struct ram_block *ram_blocks_at(const struct memory_map *map, uint32_t index);

static inline uint64_t ram_chunks(const struct ram_block *block)
{
	return block->size / SNAPSHOT_CHUNK_SIZE + !!(block->size % SNAPSHOT_CHUNK_SIZE);
}

/* Bytes of a chunk: the last one of a block may be shorter. */
static inline uint64_t ram_chunk_size(const struct ram_block *block, uint64_t chunk)
{
	uint64_t left = block->size - chunk * SNAPSHOT_CHUNK_SIZE;

	return left < SNAPSHOT_CHUNK_SIZE ? left : SNAPSHOT_CHUNK_SIZE;
}

/* A bit for each page of @size bytes, at most a chunk. */
static inline uint64_t ram_page_mask(uint64_t size)
{
	return size == SNAPSHOT_CHUNK_SIZE ? UINT64_MAX : (1ULL << (size / SNAPSHOT_PAGE_SIZE)) - 1;
}

/* Runs of set bits: for (run = ram_first_run(mask); run.count; run = ram_next_run(mask, run)). */
struct ram_run {
	uint32_t first, count; /* pages */
};

static inline struct ram_run ram_run_from(uint64_t mask, uint32_t from)
{
	uint64_t left = from < 64 ? mask & UINT64_MAX << from : 0;
	struct ram_run run = {.first = 64};

	if (!left)
		return run;
	run.first = (uint32_t)__builtin_ctzll(left);
	left = ~(left >> run.first);
	run.count = left ? (uint32_t)__builtin_ctzll(left) : 64;
	if (run.count > 64 - run.first)
		run.count = 64 - run.first;
	return run;
}

#define FOR_EACH_PAGE_RUN(run, mask)                                                               \
	for (struct ram_run run = ram_run_from(mask, 0); run.count;                                \
	     run = ram_run_from(mask, run.first + run.count))

#endif
