/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads snapshot files: godwit's, and mapped-ram files that QEMU wrote. Nothing in a file is
 * trusted: opening checks every field, and an error names the field and its offset. A file that
 * godwit wrote must carry its mark of completion, its size and the checksum of everything that is
 * not a page; pages are checked chunk by chunk as they are read. What is allocated is bounded by
 * the size of the file (and 16 TiB of RAM).
 *
 * A file may change, or lose its end, while it is open: reading then fails, or its checksum does.
 *
 * Threads: an open file is not changed by reading; any number of threads may read at once.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_FILE_H
#define GODWIT_SNAPSHOT_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "snapshot/snapshot_checksum.h"
#include "snapshot/snapshot_format.h"

struct snapshot_section {
	char name[SNAPSHOT_NAME_MAX + 1];
	uint32_t instance, version;
	const uint8_t *bytes; /* owned by the file */
	size_t size;
	uint64_t offset; /* of the body in the file, for messages */
};

struct snapshot_block {
	char name[SNAPSHOT_NAME_MAX + 1];
	uint64_t size;		   /* bytes */
	uint64_t pages_offset;	   /* of its first page in the file */
	const uint64_t *stored;	   /* bit n: page n is in this file */
	const uint64_t *inherited; /* bit n: page n is the base's; NULL: the file has no base */
	const struct snapshot_checksum *checksums; /* one a chunk; NULL: QEMU wrote the file */
	const struct snapshot_block *base;	   /* the block of this name in the base, or NULL */
	const struct snapshot_file *file;
};

struct snapshot_file {
	char *path; /* as it was opened */
	int fd;
	uint64_t size;
	bool foreign; /* QEMU wrote it: no checksums, no mark of completion */
	char machine[SNAPSHOT_NAME_MAX + 1]; /* "godwit-1", "pc-i440fx-10.0" */
	uint8_t id[SNAPSHOT_ID_SIZE];	     /* random, of godwit's files */
	uint8_t base_id[SNAPSHOT_ID_SIZE];   /* zeros: it has no base */
	char *base_path;	    /* of the base as the file names it; NULL: it has none */
	struct snapshot_file *base; /* open as well; NULL: none, or not asked for */
	struct snapshot_block *blocks;
	uint32_t block_count;
	struct snapshot_section *sections;
	uint32_t section_count;
	/*
	 * The rest of a sequential stream (snapshot_receive.h), whose `path` is its channel's name:
	 * there is no fd, and blocks have neither bitmaps nor checksums. NULL: a file.
	 */
	struct snapshot_receiver *receiver;
};

struct snapshot_open_options {
	/*
	 * Where the base is, if not where the file says (relative to the file's own folder); NULL:
	 * there. It is refused unless its id is the one that the file names.
	 */
	const char *base;
	bool without_base; /* look at the file alone; inherited pages cannot be read then */
	/*
	 * Do not compare the checksum of what is not a page: for tools that look at damage, and for
	 * the fuzzer, which would get no further. Everything else is checked all the same.
	 */
	bool damaged;
};

/* Opens and checks the file and its chain of bases. @options may be NULL. */
struct error *snapshot_file_open(const char *path, const struct snapshot_open_options *options,
				 struct snapshot_file **file) MUST_CHECK;
/* Closes its bases as well. Accepts NULL. */
void snapshot_file_close(struct snapshot_file *file);
DEFINE_CLEANUP(snapshot_file, struct snapshot_file *, snapshot_file_close)
#define AUTO_SNAPSHOT_FILE AUTO(cleanup_snapshot_file)

/* The section @name of @instance, or NULL. */
const struct snapshot_section *snapshot_file_section(const struct snapshot_file *file,
						     const char *name, uint32_t instance);
const struct snapshot_block *snapshot_file_block(const struct snapshot_file *file,
						 const char *name);
/*
 * Loads section @part->name of @part->instance into what @part visits; an error names the file, the
 * section and the field. ENOENT is the code of the error when there is no such section.
 */
struct error *snapshot_file_load(const struct snapshot_file *file,
				 const struct state_part *part) MUST_CHECK;

static inline uint64_t snapshot_block_pages(const struct snapshot_block *block)
{
	return block->size / SNAPSHOT_PAGE_SIZE;
}

static inline uint64_t snapshot_block_chunks(const struct snapshot_block *block)
{
	return (block->size + SNAPSHOT_CHUNK_SIZE - 1) / SNAPSHOT_CHUNK_SIZE;
}

/* The bytes of chunk @chunk; the last one of a block may be shorter than the others. */
static inline size_t snapshot_chunk_size(const struct snapshot_block *block, uint64_t chunk)
{
	uint64_t left = block->size - chunk * SNAPSHOT_CHUNK_SIZE;

	return left < SNAPSHOT_CHUNK_SIZE ? left : SNAPSHOT_CHUNK_SIZE;
}

/* Whether every page of a chunk reads as zeros, without looking at pages. */
bool snapshot_chunk_is_zero(const struct snapshot_block *block, uint64_t chunk);
/*
 * Reads a whole chunk (snapshot_chunk_size) into @buffer, pages from where they are, zeros
 * elsewhere, and checks it. O_DIRECT is not used; a system call a run of pages; allocates nothing.
 * 0; -EIO or another error of reading; -EBADMSG: the checksum does not fit; -ENOLINK: a page is in
 * a base that was not opened.
 */
int snapshot_chunk_read(const struct snapshot_block *block, uint64_t chunk, void *buffer);
/* An error for a result of snapshot_chunk_read, naming file, block and offset. */
struct error *snapshot_chunk_error(const struct snapshot_block *block, uint64_t chunk,
				   int result) MUST_CHECK;

#endif
