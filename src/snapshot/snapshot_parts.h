/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sections that a machine writes and that tools understand without knowing the machine: where RAM
 * is in guest-physical memory ("godwit/memory", instance 0), and which of an elastic block is
 * plugged ("godwit/plugged", an instance for each such block, from 0). Each visit function serves a
 * state_part, for saving and for loading.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_PARTS_H
#define GODWIT_SNAPSHOT_SNAPSHOT_PARTS_H

#include "base/state.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_format.h"

#define SNAPSHOT_RANGES_MAX	 512
#define SNAPSHOT_MEMORY_VERSION	 1
#define SNAPSHOT_PLUGGED_VERSION 1

/* [address, address + size) of guest-physical memory is [offset, offset + size) of a block. */
struct snapshot_range {
	char block[SNAPSHOT_NAME_MAX + 1];
	uint64_t address, offset, size; /* bytes, whole pages */
};

struct snapshot_memory {
	uint32_t count;
	struct snapshot_range ranges[SNAPSHOT_RANGES_MAX]; /* ascending, none overlaps another */
};

/* @context is a struct snapshot_memory. A load refuses ranges that overlap or are not whole pages. */
void snapshot_memory_state(void *context, struct state *state);

struct snapshot_plugged {
	char block[SNAPSHOT_NAME_MAX + 1];
	uint64_t size;	/* of the block, bytes, a multiple of @unit */
	uint64_t unit;	/* bytes, a power of two, at least a page */
	uint64_t *bits; /* bit n: unit n is plugged. A load allocates it: free it with free(). */
};

/* @context is a struct snapshot_plugged; for a load @bits is NULL. */
void snapshot_plugged_state(void *context, struct state *state);

/*
 * The layout of @file's memory in *@memory, checked against its blocks. Of files that QEMU wrote it
 * is that of the machine types pc and q35 with their usual hole below 4 GiB (*@assumed is true
 * then). An error says when it is not known.
 */
struct error *snapshot_file_memory(const struct snapshot_file *file, struct snapshot_memory *memory,
				   bool *assumed) MUST_CHECK;
/*
 * What is plugged of @block; *@plugged->bits is NULL when the file does not say, as for a block
 * that is not elastic. The caller frees the bits.
 */
struct error *snapshot_block_plugged(const struct snapshot_block *block,
				     struct snapshot_plugged *plugged) MUST_CHECK;

#endif
