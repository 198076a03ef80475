/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes the file around the pages: sections, layout, bitmaps, checksums, and the mark that the
 * file is whole. The pages themselves are written by whoever has them, from any number of threads,
 * straight to the place that the layout gives each of them:
 *
 *	snapshot_writer_create          names the blocks
 *	snapshot_writer_add_section …   states of devices, configuration
 *	    pages: pwrite(fd, page, snapshot_writer_page_offset(…)), snapshot_writer_set_chunk
 *	snapshot_writer_finish          metadata written, everything synced, the file put in place
 *
 * The file is written beside its name (NAME.partial-XXXXXX, for its owner alone) and renamed over
 * it by snapshot_writer_finish only; without that, snapshot_writer_destroy removes it. A process
 * that is killed leaves the old file whole, and a partial one that no reader accepts: its first
 * bytes are written last. A name that is a symbolic link stays one: what it leads to is replaced.
 *
 * With direct I/O the pages go past the page cache and everything else through it, to other 4 KiB of
 * the file, so neither sees the other's; one sync covers both.
 *
 * Threads: page_offset and set_chunk for different chunks from any thread; everything else from one
 * at a time, with no others under way. Errors: a full disk, a broken one, or a name that cannot be
 * written to; whatever was at the name is as it was.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_WRITER_H
#define GODWIT_SNAPSHOT_SNAPSHOT_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "snapshot/snapshot_checksum.h"
#include "snapshot/snapshot_direct.h"
#include "snapshot/snapshot_format.h"

struct snapshot_writer;
struct snapshot_file;
struct snapshot_head;

struct snapshot_block_plan {
	char name[SNAPSHOT_NAME_MAX + 1];
	uint64_t size; /* bytes, a multiple of SNAPSHOT_PAGE_SIZE, not 0 */
};

/* Whether a snapshot can have these blocks: not too many or too large, names told apart. */
struct error *snapshot_plan_check(const struct snapshot_block_plan *blocks,
				  uint32_t count) MUST_CHECK;

struct snapshot_writer_options {
	const char *path;
	enum snapshot_direct direct; /* for the pages */
	/*
	 * Pages may be inherited from it; NULL: none. Borrowed, open with its own bases. @path must
	 * not be it, nor one that it builds on; one with SNAPSHOT_CHAIN_MAX - 1 bases is refused.
	 */
	const struct snapshot_file *base;
};

/* Creates the partial file. Blocks are told apart by their names, which are not empty. */
struct error *snapshot_writer_create(const struct snapshot_writer_options *options,
				     const struct snapshot_block_plan *blocks, uint32_t block_count,
				     struct snapshot_writer **writer) MUST_CHECK;
/* Removes the partial file unless it was put in place. Accepts NULL. */
void snapshot_writer_destroy(struct snapshot_writer *writer);
DEFINE_CLEANUP(snapshot_writer, struct snapshot_writer *, snapshot_writer_destroy)
#define AUTO_SNAPSHOT_WRITER AUTO(cleanup_snapshot_writer)

/* Sections are added to it (snapshot_head.h) before the first page has its place. */
struct snapshot_head *snapshot_writer_head(struct snapshot_writer *writer);
/* As the functions of snapshot_head with its head. */
struct error *snapshot_writer_add_section(struct snapshot_writer *writer, const char *name,
					  uint32_t instance, uint32_t version,
					  const struct state *state) MUST_CHECK;
struct error *snapshot_writer_add_bytes(struct snapshot_writer *writer, const char *name,
					uint32_t instance, uint32_t version, const void *bytes,
					size_t size) MUST_CHECK;

/* Where pages go: a descriptor for pwrite, whether it has O_DIRECT, and the offset in the file. */
int snapshot_writer_fd(const struct snapshot_writer *writer);
bool snapshot_writer_is_direct(const struct snapshot_writer *writer);
/* The first call, for whatever page, ends the adding of sections. */
uint64_t snapshot_writer_page_offset(struct snapshot_writer *writer, uint32_t block, uint64_t page);
/*
 * Asks the file system for room for @count pages that will be written soon: a hint, whose failure
 * the write will tell. Room that is not written to in the end reads as zeros, but is taken.
 */
void snapshot_writer_reserve(struct snapshot_writer *writer, uint32_t block, uint64_t page,
			     uint64_t count);
/*
 * What became of a chunk: bit n of @stored says that its page n is written, bit n of @inherited
 * that it is the base's; neither: it reads as zeros. No bit is in both, or stands for a page beyond
 * the block. @checksum covers the chunk's whole content. The last call counts; without any, the
 * chunk reads as zeros.
 */
void snapshot_writer_set_chunk(struct snapshot_writer *writer, uint32_t block, uint64_t chunk,
			       uint64_t stored, uint64_t inherited,
			       struct snapshot_checksum checksum);

/*
 * Writes everything else, syncs the file, renames it, syncs the folder. After an error the old file
 * is in its place (the message says so where it is not: when only the folder could not be synced).
 */
struct error *snapshot_writer_finish(struct snapshot_writer *writer) MUST_CHECK;

/* For reports, after finish: the file's size in bytes, what of it is allocated, and its id. */
uint64_t snapshot_writer_size(const struct snapshot_writer *writer);
uint64_t snapshot_writer_allocated(const struct snapshot_writer *writer);
const uint8_t *snapshot_writer_id(const struct snapshot_writer *writer);

#endif
