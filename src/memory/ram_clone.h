/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Blocks whose content is in a file that several processes share: the clones of a snapshot. What
 * nobody has written to is the file's pages in the host's page cache, one copy for all; the first
 * write to a page makes a copy of the block's own. The file never changes by it.
 *
 * The block is one of anonymous memory, and parts of it are private mappings of the file (mmap,
 * MAP_PRIVATE). Anonymous memory takes the place of the file where memory is given back, so that it
 * reads as zeros. Each such place may cost the kernel a mapping, of which a process has a limited
 * number (vm.max_map_count): past three quarters of it small places are refused (-ENOSPC, nothing
 * has changed), and ram_block_clear is left for those that must not stay.
 *
 * Nobody may change the file while it is mapped: what is overwritten changes under the guests that
 * have no copy, and who touches a page past a new end gets SIGBUS, or EFAULT from a system call.
 *
 * Threads: discards of ranges that do not overlap, and questions, from any; the rest as ram_block.h.
 */
#ifndef GODWIT_MEMORY_RAM_CLONE_H
#define GODWIT_MEMORY_RAM_CLONE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/ram_block.h"

struct ram_clone_source {
	int fd;		 /* readable; the caller may close it afterwards */
	uint64_t offset; /* of the block's first byte in the file, a multiple of 4 KiB */
	/*
	 * Bit n: page n is in the file. The others are zeros; those that share a chunk of 64 pages
	 * with one that is there must be zeros (or a hole) in the file too.
	 */
	const uint64_t *stored;
	uint32_t mappings_max; /* of the file; small parts are joined until they are no more */
};

/*
 * Makes the file the content of @block, which must be of RAM_BACKING_ANON without preallocation,
 * and fresh: nobody has touched it. Once a block.
 */
struct error *ram_clone_attach(struct ram_block *block,
			       const struct ram_clone_source *source) MUST_CHECK;

/* Whether the file shows anywhere in the chunk of 256 KiB, zeros of it included. For verifying. */
bool ram_clone_maps(const struct ram_block *block, uint64_t chunk);
/*
 * Of the chunk of 256 KiB, the pages that may hold something because the file has it, whether or
 * not the block has copies by now. 0 for blocks that are no clones.
 */
uint64_t ram_clone_stored(const struct ram_block *block, uint64_t chunk);
/* Bytes that the host has mapped for the block, its own and those that clones share. */
struct ram_clone_usage {
	uint64_t own, shared;
};
/* Reads the block's page tables: some milliseconds a GiB. */
void ram_clone_usage(const struct ram_block *block, struct ram_clone_usage *usage);

/* For ram_block.c: as ram_block_discard, without telling watchers. */
int ram_clone_discard(struct ram_block *block, uint64_t offset, uint64_t size) MUST_CHECK;
void ram_clone_destroy(struct ram_clone *clone);

#endif
