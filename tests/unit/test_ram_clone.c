/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that shares a file's pages: what is written stays with the block, what is given back is
 * zeros, the file never changes, and the kernel's mappings are not used up. */
#include "cmocka_prelude.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "memory/memory_map.h"
#include "memory/ram_clone.h"
#include "memory/userfault.h"
#include "migration/ram_presence.h"

#define PAGE   KIB(4)
#define SIZE   MIB(8)
#define PAGES  (SIZE / PAGE)
#define OFFSET MIB(1) /* of the block in the file */

/* Every page whose number is not a multiple of 3 is stored; of the last 2 MiB, none. */
static bool is_stored(uint64_t page)
{
	return page % 3 && page < PAGES / 4 * 3;
}

static uint8_t content_of(uint64_t page)
{
	return is_stored(page) ? (uint8_t)(1 + page % 251) : 0;
}

static int file_create(uint64_t *stored)
{
	char path[] = "/var/tmp/godwit-clone-XXXXXX";
	int fd = mkstemp(path);
	uint8_t bytes[PAGE];

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, (off_t)(OFFSET + SIZE)), 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		if (!is_stored(page))
			continue;
		bitmap_set_range(stored, page, 1);
		memset(bytes, content_of(page), PAGE);
		assert_int_equal(pwrite(fd, bytes, PAGE, (off_t)(OFFSET + page * PAGE)), PAGE);
	}
	return fd;
}

static void file_is_unchanged(int fd)
{
	uint8_t bytes[PAGE];

	for (uint64_t page = 0; page < PAGES; page++) {
		assert_int_equal(pread(fd, bytes, PAGE, (off_t)(OFFSET + page * PAGE)), PAGE);
		assert_int_equal(bytes[0], content_of(page));
		assert_memory_equal(bytes, bytes + 1, PAGE - 1);
	}
}

static struct ram_block *clone_of(int fd, const uint64_t *stored)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct ram_clone_source source = {
	    .fd = fd, .offset = OFFSET, .stored = stored, .mappings_max = 1000};
	struct ram_block *block;

	assert_no_error(ram_block_create("x", &options, SIZE, &block));
	assert_no_error(ram_clone_attach(block, &source));
	return block;
}

struct fixture {
	uint64_t stored[PAGES / 64];
	int fd;
	struct ram_block *block;
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	fixture->fd = file_create(fixture->stored);
	fixture->block = clone_of(fixture->fd, fixture->stored);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;

	ram_block_destroy(fixture->block);
	close(fixture->fd);
	free(fixture);
	return 0;
}

static void pages_are(const uint8_t *host, uint64_t first, uint64_t end, bool zeros)
{
	for (uint64_t page = first; page < end; page++) {
		uint8_t want = zeros ? 0 : content_of(page);

		assert_int_equal(host[page * PAGE], want);
		assert_memory_equal(host + page * PAGE, host + page * PAGE + 1, PAGE - 1);
	}
}

static void a_block_reads_as_the_file(void **state)
{
	struct fixture *fixture = *state;

	pages_are(fixture->block->host, 0, PAGES, false);
}

static void writes_stay_with_the_block(void **state)
{
	struct fixture *fixture = *state;
	struct ram_block *other = clone_of(fixture->fd, fixture->stored);

	memset(fixture->block->host, 0xee, SIZE);
	pages_are(other->host, 0, PAGES, false);
	file_is_unchanged(fixture->fd);
	ram_block_destroy(other);
}

static void what_is_given_back_reads_as_zeros(void **state)
{
	struct fixture *fixture = *state;
	uint8_t *host = fixture->block->host;

	memset(host, 0xee, 20 * PAGE);
	assert_int_equal(ram_block_discard(fixture->block, 10 * PAGE, 100 * PAGE), 0);
	pages_are(host, 10, 110, true);
	pages_are(host, 110, PAGES, false);
	for (uint64_t page = 0; page < 10; page++)
		assert_int_equal(host[page * PAGE], 0xee);
	/* Once more, now that it is another kind of memory. */
	memset(host + 50 * PAGE, 0xee, 10 * PAGE);
	assert_int_equal(ram_block_discard(fixture->block, 10 * PAGE, 100 * PAGE), 0);
	pages_are(host, 10, 110, true);
	file_is_unchanged(fixture->fd);
}

static void what_is_given_back_costs_nothing(void **state)
{
	struct fixture *fixture = *state;

	memset(fixture->block->host, 0xee, SIZE / 2);
	assert_int_equal(ram_block_resident(fixture->block), SIZE / 2);
	assert_int_equal(ram_block_discard(fixture->block, 0, SIZE / 2), 0);
	assert_int_equal(ram_block_resident(fixture->block), 0);
}

static void own_and_shared_pages_are_told_apart(void **state)
{
	struct fixture *fixture = *state;
	uint8_t *host = fixture->block->host;
	volatile uint8_t *first = host + PAGE;
	uint64_t shared;

	assert_int_equal(ram_block_resident(fixture->block), 0);
	assert_int_equal(ram_block_shared(fixture->block), 0);
	*first; /* the host maps its neighbours as well */
	shared = ram_block_shared(fixture->block);
	assert_in_range(shared, PAGE, KIB(256));
	assert_int_equal(ram_block_resident(fixture->block), 0);
	*first = 1;
	assert_int_equal(ram_block_resident(fixture->block), PAGE);
	assert_int_equal(ram_block_shared(fixture->block), shared - PAGE);
}

static void what_is_there_is_known_without_a_look(void **state)
{
	struct fixture *fixture = *state;
	struct ram_presence *presence;

	assert_no_error(ram_presence_create(&presence));
	/* What is stored; of pages between, those that were written to. */
	assert_int_equal(ram_presence_chunk(presence, fixture->block, 0), fixture->stored[0]);
	assert_int_equal(ram_block_shared(fixture->block), 0);
	fixture->block->host[0] = 1;
	ram_presence_forget(presence);
	assert_int_equal(ram_presence_chunk(presence, fixture->block, 0), fixture->stored[0] | 1);
	/* What was only looked at is not there for it. */
	*(volatile uint8_t *)(fixture->block->host + 3 * PAGE);
	ram_presence_forget(presence);
	assert_int_equal(ram_presence_chunk(presence, fixture->block, 0), fixture->stored[0] | 1);
	/* What was given back neither. */
	assert_int_equal(ram_block_discard(fixture->block, 0, 32 * PAGE), 0);
	ram_presence_forget(presence);
	assert_int_equal(ram_presence_chunk(presence, fixture->block, 0),
			 fixture->stored[0] >> 32 << 32);
	ram_presence_destroy(presence);
}

static uint64_t count_mappings(void)
{
	AUTO_FCLOSE FILE *maps = fopen("/proc/self/maps", "re");
	uint64_t count = 0;
	int c;

	assert_non_null(maps);
	while ((c = fgetc(maps)) != EOF)
		count += c == '\n';
	return count;
}

static void mappings_of_the_file_have_a_limit(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_ANON, .host_node = -1};
	uint64_t stored[MIB(64) / PAGE / 64] = {0}, before;
	struct ram_clone_source source = {.stored = stored, .mappings_max = 10};
	struct ram_block *block;

	source.fd = ((struct fixture *)*state)->fd;
	/* Every other chunk: 128 parts, if they were not joined. */
	for (size_t chunk = 0; chunk < ARRAY_SIZE(stored); chunk += 2)
		stored[chunk] = 1;
	assert_int_equal(ftruncate(source.fd, MIB(64)), 0);
	assert_no_error(ram_block_create("x", &options, MIB(64), &block));
	before = count_mappings();
	assert_no_error(ram_clone_attach(block, &source));
	assert_in_range(count_mappings() - before, 0, 21);
	ram_block_destroy(block);
}

/*
 * A balloon may take every other page. What the host has no mapping for is refused, and what a
 * process needs besides is left to it. An unplug cannot be refused for that: what is plugged again
 * is zeros all the same.
 */
static void checkered_discards_leave_mappings_to_others(void **state)
{
	struct fixture *fixture = *state;
	struct ram_backing_options options = {.backing = RAM_BACKING_ANON, .host_node = -1};
	const uint64_t pages = 65536 * 2;
	uint64_t *stored = bitmap_create(pages), limit = 0, refused = 0;
	struct memory_region *region;
	struct memory_map *map;
	struct ram_clone_source source = {
	    .fd = fixture->fd, .stored = stored, .mappings_max = 1000};
	AUTO_FCLOSE FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	struct ram_block *block;

	if (!file || fscanf(file, "%" SCNu64, &limit) != 1 || limit > 70000)
		skip();
	assert_int_equal(ftruncate(fixture->fd, (off_t)(pages * PAGE)), 0);
	bitmap_set_range(stored, 0, pages);
	assert_no_error(ram_block_create("x", &options, pages * PAGE, &block));
	assert_no_error(memory_map_create(&map));
	assert_no_error(memory_map_add(map, GIB(4), block->size, block, 0, PAGE, &region));
	assert_int_equal(memory_region_plug(map, region, 0, block->size), 0);
	assert_no_error(ram_clone_attach(block, &source));
	for (uint64_t page = 1; page < pages; page += 2) {
		int result = ram_block_discard(block, page * PAGE, PAGE);

		assert_true(result == 0 || result == -ENOSPC);
		refused += result != 0;
	}
	assert_true(refused > 0);
	assert_in_range(count_mappings(), limit / 2, limit / 4 * 3 + 64);
	block->host[(pages - 1) * PAGE] = 1;
	assert_int_equal(memory_region_unplug(map, region, (pages - 1) * PAGE, PAGE), 0);
	assert_int_equal(memory_region_plug(map, region, (pages - 1) * PAGE, PAGE), 0);
	pages_are(block->host, pages - 1, pages, true);
	/* What makes them fewer is never refused, and makes room. */
	assert_int_equal(ram_block_discard(block, 0, pages * PAGE), 0);
	assert_in_range(count_mappings(), 0, 500);
	memory_map_destroy(map);
	ram_block_destroy(block);
	free(stored);
}

static void what_must_go_is_cleared_where_it_cannot_be_given_back(void **state)
{
	struct fixture *fixture = *state;

	ram_block_clear(fixture->block, 0, 64 * PAGE);
	pages_are(fixture->block->host, 0, 64, true);
	file_is_unchanged(fixture->fd);
}

static void its_pages_cannot_be_watched(void **state)
{
	struct fixture *fixture = *state;

	assert_error_with(userfault_supports(fixture->block), "clone");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CLONE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	    CLONE_TEST(a_block_reads_as_the_file),
	    CLONE_TEST(writes_stay_with_the_block),
	    CLONE_TEST(what_is_given_back_reads_as_zeros),
	    CLONE_TEST(what_is_given_back_costs_nothing),
	    CLONE_TEST(own_and_shared_pages_are_told_apart),
	    CLONE_TEST(what_is_there_is_known_without_a_look),
	    CLONE_TEST(mappings_of_the_file_have_a_limit),
	    CLONE_TEST(checkered_discards_leave_mappings_to_others),
	    CLONE_TEST(what_must_go_is_cleared_where_it_cannot_be_given_back),
	    CLONE_TEST(its_pages_cannot_be_watched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
