/* SPDX-License-Identifier: BSD-2-Clause */
/* Small snapshot files for tests: a folder of their own, memory with a pattern, a file of it. */
#ifndef GODWIT_TESTS_SNAPSHOT_DRIVER_H
#define GODWIT_TESTS_SNAPSHOT_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/state.h"
#include "cmocka_prelude.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_writer.h"

#define PAGE SNAPSHOT_PAGE_SIZE

/* A block of memory as the test has it. */
struct test_block {
	const char *name;
	uint64_t pages;
	uint8_t *bytes;
};

static char folder[] = "/tmp/godwit-snapshot-XXXXXX";

static inline int make_folder(void **unused)
{
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
	return remove(path);
}

static inline int remove_folder(void **unused)
{
	return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A path in the folder, in one of four static buffers. */
static inline const char *in_folder(const char *name)
{
	static char paths[4][256];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static inline struct test_block block_create(const char *name, uint64_t pages)
{
	struct test_block block = {.name = name, .pages = pages};

	assert_int_equal(posix_memalign((void **)&block.bytes, PAGE, pages * PAGE), 0);
	memset(block.bytes, 0, pages * PAGE);
	return block;
}

/* Fills a page with something that tells it from others; @seed 0 makes it zeros. */
static inline void fill_page(struct test_block *block, uint64_t page, uint8_t seed)
{
	for (size_t i = 0; i < PAGE; i++)
		block->bytes[page * PAGE + i] =
		    seed ? (uint8_t)(seed + page * 31 + i * 7 + i / 256) : 0;
}

static inline bool page_is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static inline void numbers_state(void *context, struct state *state)
{
	uint32_t *numbers = context;

	state_u32(state, "first", &numbers[0]);
	state_u32(state, "second", &numbers[1]);
}

/* Writes the pages of @blocks: those that @old (if any) has alike are inherited, zeros left out. */
static inline void write_pages(struct snapshot_writer *writer, const struct test_block *blocks,
			       uint32_t count, const struct test_block *old)
{
	for (uint32_t b = 0; b < count; b++) {
		for (uint64_t first = 0; first < blocks[b].pages; first += 64) {
			uint64_t pages = MIN(blocks[b].pages - first, (uint64_t)64);
			const uint8_t *chunk = blocks[b].bytes + first * PAGE;
			uint64_t stored = 0, inherited = 0;

			for (uint64_t page = 0; page < pages; page++) {
				const uint8_t *bytes = chunk + page * PAGE;

				if (page_is_zero(bytes))
					continue;
				if (old && first + page < old[b].pages &&
				    !memcmp(bytes, old[b].bytes + (first + page) * PAGE, PAGE)) {
					inherited |= UINT64_C(1) << page;
					continue;
				}
				stored |= UINT64_C(1) << page;
				assert_int_equal(pwrite(snapshot_writer_fd(writer), bytes, PAGE,
							(off_t)snapshot_writer_page_offset(
							    writer, b, first + page)),
						 PAGE);
			}
			snapshot_writer_set_chunk(writer, b, first / 64, stored, inherited,
						  snapshot_checksum(chunk, pages * PAGE));
		}
	}
}

/* A writer with the blocks and one section "test/numbers". */
static inline struct snapshot_writer *writer_create(const char *path,
						    const struct test_block *blocks, uint32_t count,
						    const struct snapshot_file *base)
{
	const struct snapshot_writer_options options = {.path = path, .base = base};
	struct snapshot_block_plan plans[8] = {};
	AUTO_STATE struct state *state = state_save_begin(true);
	uint32_t numbers[2] = {0x01020304, 0x05060708};
	const struct state_part part = {
	    .name = "test/numbers", .version = 1, .visit = numbers_state, .context = numbers};
	struct snapshot_writer *writer;

	for (uint32_t i = 0; i < count; i++) {
		snprintf(plans[i].name, sizeof(plans[i].name), "%s", blocks[i].name);
		plans[i].size = blocks[i].pages * PAGE;
	}
	assert_no_error(snapshot_writer_create(&options, plans, count, &writer));
	assert_no_error(state_visit(state, &part));
	assert_no_error(snapshot_writer_add_section(writer, part.name, 0, 1, state));
	return writer;
}

static inline void write_file(const char *path, const struct test_block *blocks, uint32_t count,
			      const struct snapshot_file *base, const struct test_block *old)
{
	struct snapshot_writer *writer = writer_create(path, blocks, count, base);

	write_pages(writer, blocks, count, old);
	assert_no_error(snapshot_writer_finish(writer));
	snapshot_writer_destroy(writer);
}

/* Reads every chunk and compares it. */
static inline void assert_content(const struct snapshot_file *file, const struct test_block *blocks,
				  uint32_t count)
{
	static _Alignas(PAGE) uint8_t buffer[SNAPSHOT_CHUNK_SIZE];

	assert_int_equal(file->block_count, count);
	for (uint32_t b = 0; b < count; b++) {
		const struct snapshot_block *block = &file->blocks[b];

		assert_string_equal(block->name, blocks[b].name);
		assert_int_equal(block->size, blocks[b].pages * PAGE);
		for (uint64_t chunk = 0; chunk < snapshot_block_chunks(block); chunk++) {
			size_t size = snapshot_chunk_size(block, chunk);

			memset(buffer, 0xa5, sizeof(buffer));
			assert_int_equal(snapshot_chunk_read(block, chunk, buffer), 0);
			assert_memory_equal(buffer, blocks[b].bytes + chunk * SNAPSHOT_CHUNK_SIZE,
					    size);
		}
	}
}

#endif
