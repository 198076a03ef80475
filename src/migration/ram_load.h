/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fills guest memory from a snapshot file, all of it before the guest runs, with several channels.
 * Pages are read straight to their place; every chunk's checksum is verified once it is there.
 *
 * Threads: create, run and destroy from one; cancel and progress from any. Errors: the file does
 * not fit the machine, cannot be read, or is damaged: the guest must not be started.
 */
#ifndef GODWIT_MIGRATION_RAM_LOAD_H
#define GODWIT_MIGRATION_RAM_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "snapshot/snapshot_direct.h"
#include "snapshot/snapshot_file.h"

#define RAM_LOAD_CHANNELS_MAX 16

struct ram_load_options {
	uint32_t channels; /* 1 to RAM_LOAD_CHANNELS_MAX */
	enum snapshot_direct direct;
};

struct ram_load_progress {
	uint64_t total; /* bytes of pages to bring */
	uint64_t done;	/* of them */
};

/* Whether @file has exactly the blocks of @map, with the same sizes. */
struct error *ram_load_check_blocks(const struct memory_map *map,
				    const struct snapshot_file *file) MUST_CHECK;
/*
 * Also that nothing is stored where the map is not plugged. @map is as it will be when the guest
 * goes on.
 */
struct error *ram_load_check(const struct memory_map *map,
			     const struct snapshot_file *file) MUST_CHECK;
/*
 * The two halves of it, for a stream, which does not say in advance what it will bring: blocks and
 * their sizes; and whether the pages @mask of chunk @chunk of @source may be there.
 */
struct error *ram_load_check_blocks(const struct memory_map *map,
				    const struct snapshot_file *file) MUST_CHECK;
struct error *ram_load_check_chunk(const struct memory_map *map,
				   const struct snapshot_block *source, uint64_t chunk,
				   uint64_t mask) MUST_CHECK;

struct ram_load;
/* After ram_load_check. The memory is fresh: all zeros. @map and @file outlive it. */
struct error *ram_load_create(const struct memory_map *map, const struct snapshot_file *file,
			      const struct ram_load_options *options,
			      struct ram_load **load) MUST_CHECK;
void ram_load_destroy(struct ram_load *load);
DEFINE_CLEANUP(ram_load, struct ram_load *, ram_load_destroy)
#define AUTO_RAM_LOAD AUTO(cleanup_ram_load)

/* Brings everything; returns when it is there and verified, or with an error. */
struct error *ram_load_run(struct ram_load *load) MUST_CHECK;
/* Makes ram_load_run return soon, with an error of code ECANCELED. */
void ram_load_cancel(struct ram_load *load);
void ram_load_progress(const struct ram_load *load, struct ram_load_progress *progress);

#endif
