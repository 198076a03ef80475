/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library libgodwit-snapshot: what the public header promises, over this folder's reader. Only
 * what it declares is visible (snapshot_public.map).
 *
 * Runs on the caller's threads. A snapshot is not changed after it was opened. What can fail: the
 * file, whose every byte somebody else controls, the disk, memory. Callers' indices are checked.
 */
#include <errno.h>
#include <godwit/snapshot.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_parts.h"
#include "snapshot/snapshot_verify.h"

_Static_assert(GODWIT_SNAPSHOT_PAGE == SNAPSHOT_PAGE_SIZE, "page");
_Static_assert(GODWIT_SNAPSHOT_CHUNK == SNAPSHOT_CHUNK_SIZE, "chunk");
_Static_assert(GODWIT_SNAPSHOT_ID == SNAPSHOT_ID_SIZE, "id");

struct godwit_snapshot {
	struct snapshot_file *file;
	struct snapshot_memory *memory;	  /* count 0: not known */
	struct snapshot_plugged *plugged; /* one a block; without bits: it is not elastic */
};

/* The result for @error, which is freed or becomes *@message. */
static int give(struct error *error, char **message)
{
	int code;

	if (message)
		*message = error ? strdup(error_message(error)) : NULL;
	if (!error)
		return 0;
	code = error_code(error);
	error_free(error);
	return code > 0 ? -code : -EINVAL;
}

/* --- Opening ----------------------------------------------------------------------------------- */

/* Files may lack them, and of QEMU's only those of some machines are known. */
static struct error *load_ranges(struct godwit_snapshot *snapshot)
{
	bool assumed;
	struct error *error = snapshot_file_memory(snapshot->file, snapshot->memory, &assumed);

	if (!error || (!snapshot->file->foreign && error_code(error) != ENOENT))
		return error;
	error_free(error);
	snapshot->memory->count = 0;
	return NULL;
}

static struct error *load_layout(struct godwit_snapshot *snapshot)
{
	const struct snapshot_file *file = snapshot->file;

	snapshot->memory = calloc(1, sizeof(*snapshot->memory));
	snapshot->plugged = calloc(MAX(file->block_count, 1U), sizeof(*snapshot->plugged));
	if (!snapshot->memory || !snapshot->plugged)
		return error_system(ENOMEM, "%s", file->path);
	TRY(load_ranges(snapshot));
	for (uint32_t i = 0; i < file->block_count; i++)
		TRY(snapshot_block_plugged(&file->blocks[i], &snapshot->plugged[i]));
	return NULL;
}

static struct error *open_snapshot(const char *path, const char *base, unsigned int flags,
				   struct godwit_snapshot **result)
{
	const struct snapshot_open_options options = {
	    .base = base, .without_base = flags & GODWIT_SNAPSHOT_ALONE};
	struct godwit_snapshot *snapshot;
	struct error *error;

	if (flags & ~GODWIT_SNAPSHOT_ALONE)
		return error_new(EINVAL, "flags %#x are not known", flags);
	snapshot = calloc(1, sizeof(*snapshot));
	if (!snapshot)
		return error_system(ENOMEM, "%s", path);
	error = snapshot_file_open(path, &options, &snapshot->file);
	if (!error)
		error = load_layout(snapshot);
	if (error)
		godwit_snapshot_close(snapshot);
	else
		*result = snapshot;
	return error;
}

int godwit_snapshot_open(const char *path, const char *base, unsigned int flags,
			 struct godwit_snapshot **snapshot, char **message)
{
	*snapshot = NULL;
	return give(open_snapshot(path, base, flags, snapshot), message);
}

void godwit_snapshot_close(struct godwit_snapshot *snapshot)
{
	if (!snapshot)
		return;
	for (uint32_t i = 0; snapshot->plugged && i < snapshot->file->block_count; i++)
		free(snapshot->plugged[i].bits);
	snapshot_file_close(snapshot->file);
	free(snapshot->plugged);
	free(snapshot->memory);
	free(snapshot);
}

const char *godwit_snapshot_machine(const struct godwit_snapshot *snapshot)
{
	return snapshot->file->machine;
}

bool godwit_snapshot_is_foreign(const struct godwit_snapshot *snapshot)
{
	return snapshot->file->foreign;
}

void godwit_snapshot_id(const struct godwit_snapshot *snapshot, uint8_t id[GODWIT_SNAPSHOT_ID])
{
	memcpy(id, snapshot->file->id, GODWIT_SNAPSHOT_ID);
}

const char *godwit_snapshot_base(const struct godwit_snapshot *snapshot,
				 uint8_t id[GODWIT_SNAPSHOT_ID])
{
	if (id)
		memcpy(id, snapshot->file->base_id, GODWIT_SNAPSHOT_ID);
	return snapshot->file->base_path;
}

/* --- Blocks ------------------------------------------------------------------------------------ */

uint32_t godwit_snapshot_blocks(const struct godwit_snapshot *snapshot)
{
	return snapshot->file->block_count;
}

/* NULL past the last one. */
static const struct snapshot_block *block_at(const struct godwit_snapshot *snapshot, uint32_t index)
{
	return index < snapshot->file->block_count ? &snapshot->file->blocks[index] : NULL;
}

bool godwit_snapshot_block(const struct godwit_snapshot *snapshot, uint32_t index,
			   struct godwit_snapshot_block *result)
{
	const struct snapshot_block *block = block_at(snapshot, index);
	const struct snapshot_plugged *plugged;

	if (!block)
		return false;
	plugged = &snapshot->plugged[index];
	*result = (struct godwit_snapshot_block){.name = block->name,
						 .size = block->size,
						 .elastic = plugged->bits,
						 .unit = plugged->bits ? plugged->unit : 0};
	return true;
}

static enum godwit_snapshot_state state_of(const struct snapshot_block *block,
					   const struct snapshot_plugged *plugged, uint64_t page)
{
	if (plugged->bits && !bitmap_test(plugged->bits, page * SNAPSHOT_PAGE_SIZE / plugged->unit))
		return GODWIT_SNAPSHOT_UNPLUGGED;
	if (bitmap_test(block->stored, page))
		return GODWIT_SNAPSHOT_STORED;
	if (block->inherited && bitmap_test(block->inherited, page))
		return GODWIT_SNAPSHOT_INHERITED;
	return GODWIT_SNAPSHOT_ZERO;
}

uint64_t godwit_snapshot_run(const struct godwit_snapshot *snapshot, uint32_t index, uint64_t page,
			     enum godwit_snapshot_state *state)
{
	const struct snapshot_block *block = block_at(snapshot, index);
	uint64_t pages = block ? snapshot_block_pages(block) : 0, end = page;

	if (page >= pages)
		return 0;
	*state = state_of(block, &snapshot->plugged[index], page);
	while (++end < pages && state_of(block, &snapshot->plugged[index], end) == *state)
		;
	return end - page;
}

/* Whole chunks go right where they are wanted, parts of one by way of a chunk of our own. */
static struct error *read_block(const struct snapshot_block *block, uint64_t offset,
				uint8_t *buffer, size_t size)
{
	AUTO_FREE uint8_t *own = NULL;

	while (size) {
		uint64_t chunk = offset / SNAPSHOT_CHUNK_SIZE;
		size_t skip = offset % SNAPSHOT_CHUNK_SIZE,
		       whole = snapshot_chunk_size(block, chunk);
		size_t part = MIN(size, whole - skip);
		bool all = part == whole;
		int result;

		if (!all && !own)
			own = malloc(SNAPSHOT_CHUNK_SIZE);
		if (!all && !own)
			return error_system(ENOMEM, "%s", block->file->path);
		result = snapshot_chunk_read(block, chunk, all ? buffer : own);
		if (result < 0)
			return snapshot_chunk_error(block, chunk, result);
		if (!all)
			memcpy(buffer, own + skip, part);
		buffer += part;
		offset += part;
		size -= part;
	}
	return NULL;
}

int godwit_snapshot_read(const struct godwit_snapshot *snapshot, uint32_t index, uint64_t offset,
			 void *buffer, size_t size, char **message)
{
	const struct snapshot_block *block = block_at(snapshot, index);

	if (!block)
		return give(error_new(ERANGE, "%s has %u blocks, and none with the number %u",
				      snapshot->file->path, snapshot->file->block_count, index),
			    message);
	if (offset > block->size || size > block->size - offset)
		return give(error_new(ERANGE, "%s: block '%s' ends at offset %#lx",
				      snapshot->file->path, block->name,
				      (unsigned long)block->size),
			    message);
	return give(read_block(block, offset, buffer, size), message);
}

bool godwit_snapshot_checksum(const struct godwit_snapshot *snapshot, uint32_t index,
			      uint64_t chunk, uint8_t checksum[16])
{
	const struct snapshot_block *block = block_at(snapshot, index);

	if (!block || !block->checksums || chunk >= snapshot_block_chunks(block))
		return false;
	put_be64(checksum, block->checksums[chunk].high);
	put_be64(checksum + 8, block->checksums[chunk].low);
	return true;
}

/* --- Guest-physical memory ---------------------------------------------------------------------- */

uint32_t godwit_snapshot_ranges(const struct godwit_snapshot *snapshot)
{
	return snapshot->memory->count;
}

bool godwit_snapshot_range(const struct godwit_snapshot *snapshot, uint32_t index,
			   struct godwit_snapshot_range *result)
{
	const struct snapshot_range *range;

	if (index >= snapshot->memory->count)
		return false;
	range = &snapshot->memory->ranges[index];
	*result = (struct godwit_snapshot_range){
	    .block = (uint32_t)(snapshot_file_block(snapshot->file, range->block) -
				snapshot->file->blocks),
	    .address = range->address,
	    .offset = range->offset,
	    .size = range->size,
	};
	return true;
}

/* --- Parts ------------------------------------------------------------------------------------- */

uint32_t godwit_snapshot_parts(const struct godwit_snapshot *snapshot)
{
	return snapshot->file->section_count;
}

bool godwit_snapshot_part(const struct godwit_snapshot *snapshot, uint32_t index,
			  struct godwit_snapshot_part *part)
{
	const struct snapshot_section *section;

	if (index >= snapshot->file->section_count)
		return false;
	section = &snapshot->file->sections[index];
	*part = (struct godwit_snapshot_part){.name = section->name,
					      .instance = section->instance,
					      .version = section->version,
					      .bytes = section->bytes,
					      .size = section->size,
					      .offset = section->offset};
	return true;
}

/* --- Everything -------------------------------------------------------------------------------- */

int godwit_snapshot_verify(const struct godwit_snapshot *snapshot, unsigned int threads,
			   struct godwit_snapshot_verified *verified, char **message)
{
	struct snapshot_verify_result result = {0};
	struct error *error;

	if (threads < 1 || threads > SNAPSHOT_VERIFY_THREADS_MAX)
		return give(error_new(EINVAL, "%u threads are not 1 to %d", threads,
				      SNAPSHOT_VERIFY_THREADS_MAX),
			    message);
	error = snapshot_verify(snapshot->file, threads, NULL, &result);
	if (verified)
		*verified = (struct godwit_snapshot_verified){.bytes = result.bytes,
							      .zero = result.zero,
							      .chunks = result.chunks,
							      .bad = result.bad};
	return give(error, message);
}
