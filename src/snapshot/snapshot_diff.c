/* SPDX-License-Identifier: BSD-2-Clause */
/* Comparison of snapshots, snapshot_diff.h. One thread; both files are somebody else's. */
#include "snapshot/snapshot_diff.h"

#include <string.h>

#include "base/checked.h"

void snapshot_diff_free(struct snapshot_diff *diff)
{
	if (!diff)
		return;
	free(diff->blocks);
	free(diff->sections);
	free(diff);
}

/* --- Pages ------------------------------------------------------------------------------------- */

struct buffers {
	uint8_t bytes[2][SNAPSHOT_CHUNK_SIZE];
};

static struct error *compare_chunk(const struct snapshot_block *const blocks[2], uint64_t chunk,
				   struct buffers *buffers, struct snapshot_block_diff *diff)
{
	size_t sizes[2] = {snapshot_chunk_size(blocks[0], chunk),
			   snapshot_chunk_size(blocks[1], chunk)};
	size_t size = MIN(sizes[0], sizes[1]);

	if (snapshot_chunk_is_zero(blocks[0], chunk) && snapshot_chunk_is_zero(blocks[1], chunk))
		return NULL;
	if (sizes[0] == sizes[1] && blocks[0]->checksums && blocks[1]->checksums &&
	    snapshot_checksum_equal(blocks[0]->checksums[chunk], blocks[1]->checksums[chunk]))
		return NULL;
	for (int side = 0; side < 2; side++) {
		int result = snapshot_chunk_read(blocks[side], chunk, buffers->bytes[side]);

		if (result)
			return snapshot_chunk_error(blocks[side], chunk, result);
	}
	for (size_t offset = 0; offset < size; offset += SNAPSHOT_PAGE_SIZE) {
		if (memcmp(buffers->bytes[0] + offset, buffers->bytes[1] + offset,
			   SNAPSHOT_PAGE_SIZE) == 0)
			continue;
		if (!diff->different++)
			diff->first = chunk * SNAPSHOT_CHUNK_PAGES + offset / SNAPSHOT_PAGE_SIZE;
	}
	return NULL;
}

static struct error *compare_blocks(const struct snapshot_file *a, const struct snapshot_file *b,
				    const struct snapshot_progress *progress,
				    struct snapshot_diff *diff)
{
	AUTO_FREE struct buffers *buffers = aligned_alloc(SNAPSHOT_PAGE_SIZE, sizeof(*buffers));
	uint64_t total = 0, done = 0;

	if (!buffers)
		return error_new(ENOMEM, "no memory to compare %s", a->path);
	for (uint32_t i = 0; i < diff->block_count; i++)
		total += diff->blocks[i].pages * SNAPSHOT_PAGE_SIZE;
	for (uint32_t i = 0; i < diff->block_count; i++) {
		struct snapshot_block_diff *item = &diff->blocks[i];
		const struct snapshot_block *const blocks[2] = {snapshot_file_block(a, item->name),
								snapshot_file_block(b, item->name)};
		uint64_t bytes = item->pages * SNAPSHOT_PAGE_SIZE;

		for (uint64_t chunk = 0; chunk * SNAPSHOT_CHUNK_SIZE < bytes; chunk++) {
			TRY(compare_chunk(blocks, chunk, buffers, item));
			if (chunk % SNAPSHOT_PROGRESS_CHUNKS == 0)
				snapshot_progress_report(progress,
							 done + chunk * SNAPSHOT_CHUNK_SIZE, total);
		}
		done += bytes;
		diff->different += item->different;
		diff->same &= !item->different && item->sizes[0] == item->sizes[1];
	}
	snapshot_progress_report(progress, total, total);
	return NULL;
}

static void list_blocks(const struct snapshot_file *a, const struct snapshot_file *b,
			struct snapshot_diff *diff)
{
	for (uint32_t i = 0; i < a->block_count; i++) {
		const struct snapshot_block *other = snapshot_file_block(b, a->blocks[i].name);
		uint64_t size = other ? other->size : 0;

		diff->blocks[diff->block_count++] = (struct snapshot_block_diff){
		    .name = a->blocks[i].name,
		    .sizes = {a->blocks[i].size, size},
		    .pages = MIN(a->blocks[i].size, size) / SNAPSHOT_PAGE_SIZE};
	}
	for (uint32_t i = 0; i < b->block_count; i++)
		if (!snapshot_file_block(a, b->blocks[i].name))
			diff->blocks[diff->block_count++] = (struct snapshot_block_diff){
			    .name = b->blocks[i].name, .sizes = {0, b->blocks[i].size}};
}

/* --- Sections ---------------------------------------------------------------------------------- */

/* Every file has an id of its own there. */
static bool is_identity(const struct snapshot_section *section)
{
	return strcmp(section->name, SNAPSHOT_SECTION_FILE) == 0;
}

static void add_section(struct snapshot_diff *diff, const struct snapshot_section *a,
			const struct snapshot_section *b)
{
	const struct snapshot_section *any = a ? a : b;
	struct snapshot_section_diff *item = &diff->sections[diff->section_count++];

	*item =
	    (struct snapshot_section_diff){.name = any->name,
					   .instance = any->instance,
					   .sizes = {a ? a->size : 0, b ? b->size : 0},
					   .there = {a, b},
					   .versions = {a ? a->version : 0, b ? b->version : 0}};
	while (a && b && item->first < MIN(a->size, b->size) &&
	       a->bytes[item->first] == b->bytes[item->first])
		item->first++;
	diff->same = false;
}

static void compare_sections(const struct snapshot_file *a, const struct snapshot_file *b,
			     struct snapshot_diff *diff)
{
	for (uint32_t i = 0; i < a->section_count; i++) {
		const struct snapshot_section *section = &a->sections[i];
		const struct snapshot_section *other =
		    snapshot_file_section(b, section->name, section->instance);

		if (!is_identity(section) &&
		    (!other || other->version != section->version || other->size != section->size ||
		     memcmp(other->bytes, section->bytes, section->size) != 0))
			add_section(diff, section, other);
	}
	for (uint32_t i = 0; i < b->section_count; i++) {
		const struct snapshot_section *section = &b->sections[i];

		if (!is_identity(section) &&
		    !snapshot_file_section(a, section->name, section->instance))
			add_section(diff, NULL, section);
	}
}

struct error *snapshot_diff(const struct snapshot_file *a, const struct snapshot_file *b,
			    const struct snapshot_progress *progress, struct snapshot_diff **diff)
{
	AUTO_SNAPSHOT_DIFF struct snapshot_diff *made = calloc(1, sizeof(*made));

	if (!made)
		return error_new(ENOMEM, "no memory to compare %s", a->path);
	made->same = true;
	made->blocks = calloc((size_t)a->block_count + b->block_count + 1, sizeof(*made->blocks));
	made->sections =
	    calloc((size_t)a->section_count + b->section_count + 1, sizeof(*made->sections));
	if (!made->blocks || !made->sections)
		return error_new(ENOMEM, "no memory to compare %s", a->path);
	list_blocks(a, b, made);
	compare_sections(a, b, made);
	TRY(compare_blocks(a, b, progress, made));
	*diff = TAKE_PTR(made);
	return NULL;
}
