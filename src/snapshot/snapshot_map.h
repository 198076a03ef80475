/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What each page of a snapshot is: counted, and drawn. Looks at bitmaps only, never at pages, so the
 * bases need not be there.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_MAP_H
#define GODWIT_SNAPSHOT_SNAPSHOT_MAP_H

#include "snapshot/snapshot_file.h"

enum snapshot_page_kind {
	SNAPSHOT_PAGE_STORED,	 /* in this file; with a base: changed since then */
	SNAPSHOT_PAGE_INHERITED, /* as in the base */
	SNAPSHOT_PAGE_ZERO,
	SNAPSHOT_PAGE_UNPLUGGED, /* of an elastic block */
	SNAPSHOT_PAGE_KINDS,
};

/* Counts the pages of each kind in @block. */
struct error *snapshot_block_count(const struct snapshot_block *block,
				   uint64_t counts[SNAPSHOT_PAGE_KINDS]) MUST_CHECK;
/* Bytes of the block's pages that the file system has allocated in this file. */
uint64_t snapshot_block_allocated(const struct snapshot_block *block);

/* Draws the blocks of @file into a new SVG file at @path, a name that is not taken. */
struct error *snapshot_map_write(const struct snapshot_file *file, const char *path) MUST_CHECK;

#endif
