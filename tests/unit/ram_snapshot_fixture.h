/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory of every kind, with a pattern in it, and snapshots of it. */
#ifndef GODWIT_TEST_RAM_SNAPSHOT_FIXTURE_H
#define GODWIT_TEST_RAM_SNAPSHOT_FIXTURE_H

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "migration/ram_lazy.h"
#include "migration/ram_load.h"
#include "migration/ram_receive.h"
#include "migration/ram_save.h"
#include "snapshot/snapshot_receive.h"
#include "snapshot/snapshot_send.h"

#define PAGE	   KIB(4)
#define BLOCKS	   3
#define BLOCK_SIZE (MIB(8) + KIB(8)) /* the last chunk is short */
#define HUGE_SIZE  MIB(8)
#define UNIT	   MIB(2)

/* Boot memory on memfd, boot memory on anonymous pages (or huge ones), and an elastic region. */
struct memory {
	struct memory_map *map;
	struct ram_block *blocks[BLOCKS];
	struct memory_region *elastic;
	struct userfault *userfault;
};

static char folder[] = "/var/tmp/godwit-test-XXXXXX";
static char path[64], base_path[64];

/*
 * @backing is that of the second block, a file being one on tmpfs. @certain: all memory is
 * preallocated.
 */
static inline bool memory_create_with(struct memory *memory, enum ram_backing backing, bool certain)
{
	static const char *const names[] = {"memory0", "memory1", "mem0"};
	struct memory_region *region;

	memset(memory, 0, sizeof(*memory));
	assert_null(memory_map_create(&memory->map));
	for (int i = 0; i < BLOCKS; i++) {
		struct ram_backing_options options = {.backing =
							  i == 1 ? backing : RAM_BACKING_MEMFD,
						      .page_size = MIB(2),
						      .host_node = -1,
						      .prealloc = certain};
		char file[] = "/dev/shm/godwit-test-XXXXXX";
		uint64_t size =
		    i == 2 || (i == 1 && backing == RAM_BACKING_HUGETLB) ? HUGE_SIZE : BLOCK_SIZE;

		if (options.backing == RAM_BACKING_FILE) {
			close(mkstemp(file));
			options.path = file;
		}
		assert_null(ram_block_create(names[i], &options, size, &memory->blocks[i]));
		if (options.path)
			unlink(file);
		ram_block_set_reserving(memory->blocks[i]);
		if (i < 2 && certain)
			assert_int_equal(ram_block_commit(memory->blocks[i], 0, size), 0);
		if (i == 1 && backing == RAM_BACKING_HUGETLB &&
		    ram_block_commit(memory->blocks[i], 0, size) < 0)
			return false;
		if (i == 1 && backing == RAM_BACKING_HUGETLB)
			assert_int_equal(ram_block_discard(memory->blocks[i], 0, size), 0);
		assert_null(memory_map_add(memory->map, GIB(i), size, memory->blocks[i], 0,
					   i == 2 ? UNIT : 0, &region));
	}
	memory->elastic = region;
	assert_int_equal(memory_region_plug(memory->map, region, UNIT, UNIT), 0);
	return true;
}

static inline bool memory_create(struct memory *memory, enum ram_backing backing)
{
	return memory_create_with(memory, backing, backing == RAM_BACKING_FILE);
}

static inline void memory_destroy(struct memory *memory)
{
	userfault_destroy(memory->userfault);
	memory_map_destroy(memory->map);
	for (int i = 0; i < BLOCKS; i++)
		ram_block_destroy(memory->blocks[i]);
}

static inline bool open_userfault(struct memory *memory)
{
	struct error *error = userfault_create(2, &memory->userfault);

	error_free(error);
	return !error;
}

/*
 * Two memories, @watched of them (or none) with a userfault. Without huge pages or without the
 * privilege here the test is skipped, and nothing stays.
 */
static inline void create_two(struct memory *from, struct memory *to, enum ram_backing backing,
			      struct memory *watched)
{
	bool created = memory_create(from, backing);

	created = memory_create(to, backing) && created;
	if (created && (!watched || open_userfault(watched)))
		return;
	memory_destroy(from);
	memory_destroy(to);
	skip();
}

/*
 * What is at @offset of block @i of an example memory: of four MiB one has no zeros, one nothing
 * else, and in two every third page is zero.
 */
static inline uint8_t pattern(int i, uint64_t offset, unsigned int seed)
{
	uint64_t page = offset / PAGE;

	if ((page % 3 == 0 && (page / 256) % 4) || (page / 256) % 4 == 2)
		return 0;
	return (uint8_t)(1 + (page * 31 + (uint64_t)i * 7 + seed) % 255);
}

static inline bool is_plugged(int i, uint64_t offset)
{
	return i < 2 || (offset >= UNIT && offset < 2 * UNIT);
}

static inline void fill(struct memory *memory, unsigned int seed)
{
	for (int i = 0; i < BLOCKS; i++)
		for (uint64_t offset = 0; offset < memory->blocks[i]->size; offset += PAGE)
			if (is_plugged(i, offset) && pattern(i, offset, seed))
				memset(memory->blocks[i]->host + offset, pattern(i, offset, seed),
				       PAGE);
}

static inline void check(struct memory *memory, unsigned int seed)
{
	for (int i = 0; i < BLOCKS; i++)
		for (uint64_t offset = 0; offset < memory->blocks[i]->size; offset += PAGE) {
			const uint8_t *page = memory->blocks[i]->host + offset;
			uint8_t want = is_plugged(i, offset) ? pattern(i, offset, seed) : 0;

			assert_int_equal(page[0], want);
			assert_memory_equal(page, page + 1, PAGE - 1);
		}
}

static inline struct snapshot_writer *writer_for(struct memory *memory, const char *name,
						 enum snapshot_direct direct,
						 const struct snapshot_file *base)
{
	struct snapshot_writer_options options = {.path = name, .direct = direct, .base = base};
	struct snapshot_block_plan plans[BLOCKS];
	struct snapshot_writer *writer;

	assert_int_equal(ram_save_plan(memory->map, plans, BLOCKS), BLOCKS);
	assert_string_equal(plans[2].name, "mem0");
	assert_null(snapshot_writer_create(&options, plans, BLOCKS, &writer));
	return writer;
}

static inline void save(struct memory *memory, const char *name, enum snapshot_direct direct,
			uint32_t channels, const struct snapshot_file *base)
{
	struct ram_save_options options = {.channels = channels, .base = base};
	struct snapshot_writer *writer = writer_for(memory, name, direct, base);
	struct ram_save_progress progress;
	struct ram_save *saving;

	options.direct = snapshot_writer_is_direct(writer);
	assert_null(ram_save_create(memory->map, writer, &options, &saving));
	assert_null(ram_save_run(saving));
	ram_save_progress(saving, &progress);
	assert_int_equal(progress.done, progress.total);
	assert_null(snapshot_writer_finish(writer));
	ram_save_destroy(saving);
	snapshot_writer_destroy(writer);
}

static inline void load(struct memory *memory, const char *name, enum snapshot_direct direct,
			uint32_t channels)
{
	struct ram_load_options options = {.channels = channels, .direct = direct};
	struct snapshot_file *file;
	struct ram_load_progress progress;
	struct ram_load *loading;

	assert_null(snapshot_file_open(name, NULL, &file));
	assert_null(ram_load_check(memory->map, file));
	assert_null(ram_load_create(memory->map, file, &options, &loading));
	assert_null(ram_load_run(loading));
	ram_load_progress(loading, &progress);
	assert_int_equal(progress.done, progress.total);
	ram_load_destroy(loading);
	snapshot_file_close(file);
}

static inline int make_folder(void **unused)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/snapshot", folder);
	snprintf(base_path, sizeof(base_path), "%s/base", folder);
	return 0;
}

static inline int remove_folder(void **unused)
{
	unlink(path);
	unlink(base_path);
	return rmdir(folder); /* fails if a partial file is left */
}

#endif
