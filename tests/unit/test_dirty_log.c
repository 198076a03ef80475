/* SPDX-License-Identifier: BSD-2-Clause */
/* The log of writes to guest memory: what is marked, what is reported, and that nothing is lost. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka_prelude.h"

#include "base/bitmap.h"
#include "base/checked.h"
#include "memory/dirty_log.h"
#include "memory/memory_discard.h"

#define PAGE	KIB(4)
#define BOOT	MIB(1)
#define ELASTIC GIB(4)
#define UNIT	KIB(64)
#define UNITS	16

/* Two regions of boot memory on one block, which adjoin, and elastic memory, of which unit 1 is plugged. */
struct world {
	struct memory_map *map;
	struct ram_block *boot, *elastic;
	struct memory_region *region;
	struct dirty_log *log;
	uint64_t *pages; /* what the last collection said of the block it was asked for */
};

static int create(void **state)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));
	struct memory_region *region;

	assert_non_null(world);
	assert_no_error(ram_block_create("boot", &backing, 2 * BOOT, &world->boot));
	assert_no_error(ram_block_create("elastic", &backing, UNITS * UNIT, &world->elastic));
	assert_no_error(memory_map_create(&world->map));
	assert_no_error(memory_map_add(world->map, 0, BOOT, world->boot, 0, 0, &region));
	assert_no_error(memory_map_add(world->map, BOOT, BOOT, world->boot, BOOT, 0, &region));
	assert_no_error(memory_map_add(world->map, ELASTIC, UNITS * UNIT, world->elastic, 0, UNIT,
				       &world->region));
	assert_int_equal(memory_region_plug(world->map, world->region, UNIT, UNIT), 0);
	world->log = memory_map_dirty_log(world->map);
	world->pages = bitmap_create(2 * BOOT / PAGE);
	*state = world;
	return 0;
}

static int destroy(void **state)
{
	struct world *world = *state;

	memory_map_destroy(world->map);
	ram_block_destroy(world->boot);
	ram_block_destroy(world->elastic);
	free(world->pages);
	free(world);
	return 0;
}

/* Collects afresh; the number of pages. */
static uint64_t collect(struct world *world, const struct ram_block *block)
{
	memset(world->pages, 0, 2 * BOOT / PAGE / 8);
	assert_no_error(dirty_log_collect(world->log, block, world->pages));
	assert_no_error(dirty_log_before_copy(world->log, block, 0, block->size / PAGE));
	return bitmap_count_range(world->pages, 0, block->size / PAGE);
}

/* Starts the log with nothing in it. */
static void start(struct world *world)
{
	assert_no_error(dirty_log_start(world->log));
	collect(world, world->boot);
	collect(world, world->elastic);
	memset(world->pages, 0, 2 * BOOT / PAGE / 8);
}

static void at_the_start_all_that_is_plugged_counts_as_written(void **state)
{
	struct world *world = *state;

	assert_no_error(dirty_log_start(world->log));
	assert_int_equal(collect(world, world->boot), 2 * BOOT / PAGE);
	assert_int_equal(collect(world, world->elastic), UNIT / PAGE);
	assert_true(bitmap_all_set(world->pages, UNIT / PAGE, UNIT / PAGE));
}

static void a_write_marks_the_pages_that_it_touches(void **state)
{
	struct world *world = *state;

	start(world);
	assert_true(memory_write(world->map, 5 * PAGE - 1, "ab", 2));
	assert_true(memory_write(world->map, BOOT - 1, "ab", 2)); /* into the next region */
	assert_true(memory_write(world->map, 9 * PAGE, "a", 1));
	assert_int_equal(collect(world, world->boot), 5);
	for (size_t i = 0; i < 5; i++)
		assert_true(bitmap_test(
		    world->pages, (const size_t[]){4, 5, BOOT / PAGE - 1, BOOT / PAGE, 9}[i]));
	assert_int_equal(collect(world, world->elastic), 0);
}

static void a_mark_is_reported_once(void **state)
{
	struct world *world = *state;

	start(world);
	assert_true(memory_write(world->map, 0, "a", 1));
	assert_int_equal(collect(world, world->boot), 1);
	assert_int_equal(collect(world, world->boot), 0);
	assert_true(memory_write(world->map, 0, "a", 1));
	assert_int_equal(collect(world, world->boot), 1);
}

static void collecting_adds_to_what_is_there(void **state)
{
	struct world *world = *state;

	start(world);
	assert_true(memory_write(world->map, PAGE, "a", 1));
	assert_no_error(dirty_log_collect(world->log, world->boot, world->pages));
	assert_true(memory_write(world->map, 3 * PAGE, "a", 1));
	assert_no_error(dirty_log_collect(world->log, world->boot, world->pages));
	assert_int_equal(bitmap_count_range(world->pages, 0, 2 * BOOT / PAGE), 2);
}

static void who_writes_directly_says_so(void **state)
{
	struct world *world = *state;
	int section = memory_read_begin(world->map);
	struct memory_span span;

	start(world);
	assert_true(memory_access(world->map, 3 * PAGE + 8, 2 * PAGE, MEMORY_WRITE, &span));
	assert_int_equal(collect(world, world->boot), 0);
	memory_written(world->map, span.host, span.size);
	memory_read_end(world->map, section);
	assert_int_equal(collect(world, world->boot), 3);
}

static void a_large_range_is_marked_exactly(void **state)
{
	struct world *world = *state;

	start(world);
	memory_written(world->map, world->boot->host + 3 * PAGE, 200 * PAGE);
	assert_int_equal(collect(world, world->boot), 200);
	assert_true(bitmap_all_set(world->pages, 3, 200));
}

static void what_is_no_guest_memory_is_ignored(void **state)
{
	struct world *world = *state;
	char own[16] = {0};

	start(world);
	memory_written(world->map, own, sizeof(own));
	memory_written(world->map, world->boot->host, 0);
	memory_written(world->map, world->boot->host + world->boot->size, 1);
	assert_int_equal(collect(world, world->boot), 0);
}

static void it_can_be_stopped_and_started_again(void **state)
{
	struct world *world = *state;

	start(world);
	dirty_log_stop(world->log);
	dirty_log_stop(world->log);
	assert_error_with(dirty_log_collect(world->log, world->boot, world->pages),
			  "not being logged");
	assert_false(memory_logs_writes(world->map));
	start(world);
	assert_true(memory_logs_writes(world->map));
	assert_int_equal(collect(world, world->boot), 0);
}

static void there_is_one_log_at_a_time(void **state)
{
	struct world *world = *state;

	start(world);
	assert_error_with(dirty_log_start(world->log), "already");
	assert_true(memory_write(world->map, 0, "a", 1));
	assert_int_equal(collect(world, world->boot), 1);
}

static void unplugged_memory_is_not_reported(void **state)
{
	struct world *world = *state;

	start(world);
	assert_true(memory_write(world->map, ELASTIC + UNIT, "a", 1));
	assert_no_error(dirty_log_collect(world->log, world->elastic, world->pages));
	assert_true(bitmap_test(world->pages, UNIT / PAGE));
	assert_int_equal(memory_region_unplug(world->map, world->region, UNIT, UNIT), 0);
	/* Not even what was reported before and is still to be copied. */
	assert_no_error(dirty_log_collect(world->log, world->elastic, world->pages));
	assert_int_equal(bitmap_count_range(world->pages, 0, UNITS * UNIT / PAGE), 0);
}

static void memory_that_is_plugged_again_is_reported(void **state)
{
	struct world *world = *state;

	start(world);
	assert_int_equal(memory_region_unplug(world->map, world->region, UNIT, UNIT), 0);
	assert_int_equal(collect(world, world->elastic), 0);
	assert_int_equal(memory_region_plug(world->map, world->region, UNIT, 2 * UNIT), 0);
	assert_int_equal(collect(world, world->elastic), 2 * UNIT / PAGE);
	assert_true(bitmap_all_set(world->pages, UNIT / PAGE, 2 * UNIT / PAGE));
}

/* A listener that collects while an unplug is under way, and refuses it. */
struct refusing_listener {
	struct memory_listener listener;
	struct world *world;
};

static struct error *accept_region(struct memory_listener *listener, struct memory_region *region)
{
	return NULL;
}

static void lose_region(struct memory_listener *listener, struct memory_region *region)
{
}

static int accept_plug(struct memory_listener *listener, struct memory_region *region,
		       uint64_t offset, uint64_t size)
{
	return 0;
}

static int refuse_unplug(struct memory_listener *listener, struct memory_region *region,
			 uint64_t offset, uint64_t size)
{
	struct world *world = ((struct refusing_listener *)listener)->world;

	assert_int_equal(collect(world, world->elastic), 0);
	return -EBUSY;
}

static void marks_taken_while_an_unplug_is_refused_are_not_lost(void **state)
{
	struct world *world = *state;
	struct refusing_listener refusing = {.listener = {.region_add = accept_region,
							  .region_remove = lose_region,
							  .plug = accept_plug,
							  .unplug = refuse_unplug},
					     .world = world};

	assert_no_error(memory_map_add_listener(world->map, &refusing.listener));
	start(world);
	assert_true(memory_write(world->map, ELASTIC + UNIT + 2 * PAGE, "a", 1));
	assert_int_equal(memory_region_unplug(world->map, world->region, UNIT, UNIT), -EBUSY);
	collect(world, world->elastic);
	assert_true(bitmap_test(world->pages, UNIT / PAGE + 2));
	memory_map_remove_listener(world->map, &refusing.listener);
}

static void memory_that_is_given_back_counts_as_written(void **state)
{
	struct world *world = *state;
	struct memory_discard_count count = {0};

	start(world);
	memory_discard(world->map, 4 * PAGE, 3 * PAGE, false, &count);
	assert_int_equal(count.discarded, 3 * PAGE);
	assert_int_equal(collect(world, world->boot), 3);
	assert_true(bitmap_all_set(world->pages, 4, 3));
}

/* --- Sources --- */

struct fake_source {
	struct dirty_source source; /* first */
	int starts, stops;
	uint64_t page, copied;
	bool fail_start, fail_collect;
};

static struct error *fake_start(struct dirty_source *source)
{
	struct fake_source *fake = (struct fake_source *)source;

	if (fake->fail_start)
		return error_new(ENOTSUP, "no logging here");
	fake->starts++;
	return NULL;
}

static void fake_stop(struct dirty_source *source)
{
	((struct fake_source *)source)->stops++;
}

static struct error *fake_collect(struct dirty_source *source, const struct ram_block *block,
				  uint64_t *pages)
{
	struct fake_source *fake = (struct fake_source *)source;

	if (fake->fail_collect)
		return error_new(EIO, "forgot what was written");
	bitmap_set_range(pages, fake->page, 1);
	return NULL;
}

static struct error *fake_before_copy(struct dirty_source *source, const struct ram_block *block,
				      uint64_t first, uint64_t count)
{
	((struct fake_source *)source)->copied += count;
	return NULL;
}

static const struct dirty_source fake_operations = {.start = fake_start,
						    .stop = fake_stop,
						    .collect = fake_collect,
						    .before_copy = fake_before_copy};

static void sources_add_what_they_see(void **state)
{
	struct world *world = *state;
	struct fake_source fake = {.source = fake_operations, .page = 7};

	dirty_log_add_source(world->log, &fake.source);
	start(world);
	assert_true(memory_write(world->map, 0, "a", 1));
	assert_int_equal(collect(world, world->boot), 2);
	assert_true(bitmap_test(world->pages, 0) && bitmap_test(world->pages, 7));
	assert_true(fake.copied >= 2 * BOOT / PAGE);
	dirty_log_remove_source(world->log, &fake.source);
	assert_int_equal(fake.starts, 1);
	assert_int_equal(fake.stops, 1);
}

static void a_source_that_cannot_start_leaves_the_log_off(void **state)
{
	struct world *world = *state;
	struct fake_source good = {.source = fake_operations};
	struct fake_source bad = {.source = fake_operations, .fail_start = true};

	dirty_log_add_source(world->log, &bad.source);
	dirty_log_add_source(world->log, &good.source);
	assert_error_with(dirty_log_start(world->log), "no logging here");
	assert_false(memory_logs_writes(world->map));
	assert_int_equal(good.starts, 1);
	assert_int_equal(good.stops, 1);
	assert_int_equal(bad.stops, 0);
	dirty_log_remove_source(world->log, &good.source);
	dirty_log_remove_source(world->log, &bad.source);
}

static void a_source_that_loses_its_log_is_an_error(void **state)
{
	struct world *world = *state;
	struct fake_source fake = {.source = fake_operations};

	dirty_log_add_source(world->log, &fake.source);
	start(world);
	fake.fail_collect = true;
	assert_error_with(dirty_log_collect(world->log, world->boot, world->pages), "forgot");
	dirty_log_remove_source(world->log, &fake.source);
}

/* --- Writers and a collector at once --- */

#define WRITERS 2
#define PHASES	400

struct writer {
	struct world *world;
	pthread_t thread;
	uint64_t first, value;
	uint32_t *running; /* atomic */
};

/* Writes to its share of the pages, each once: a mark that is lost is not made good by a later one. */
static void *write_once(void *context)
{
	const struct writer *writer = context;
	struct memory_map *map = writer->world->map;

	for (uint64_t page = writer->first; page < 2 * BOOT / PAGE; page += WRITERS) {
		int section = memory_read_begin(map);
		struct memory_span span;

		assert_true(memory_access(map, page * PAGE, 8, MEMORY_WRITE, &span));
		__atomic_store_n((uint64_t *)(void *)span.host, writer->value, __ATOMIC_RELAXED);
		memory_written(map, span.host, span.size);
		memory_read_end(map, section);
	}
	__atomic_fetch_sub(writer->running, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void copy_pages(struct world *world, uint64_t *copy)
{
	collect(world, world->boot);
	for (uint64_t page = 0; page < 2 * BOOT / PAGE; page++)
		if (bitmap_test(world->pages, page))
			copy[page] =
			    __atomic_load_n((uint64_t *)(void *)(world->boot->host + page * PAGE),
					    __ATOMIC_RELAXED);
}

/* The log is started while others write, too. */
static void nothing_is_lost_while_others_write(void **state)
{
	struct world *world = *state;
	uint64_t *copy = calloc(2 * BOOT / PAGE, sizeof(*copy));

	assert_non_null(copy);
	for (uint64_t phase = 1; phase <= PHASES; phase++) {
		struct writer writers[WRITERS];
		uint32_t running = WRITERS;

		for (uint64_t i = 0; i < WRITERS; i++) {
			writers[i] = (struct writer){
			    .world = world, .first = i, .value = phase, .running = &running};
			assert_int_equal(
			    pthread_create(&writers[i].thread, NULL, write_once, &writers[i]), 0);
		}
		assert_no_error(dirty_log_start(world->log));
		while (__atomic_load_n(&running, __ATOMIC_ACQUIRE))
			copy_pages(world, copy);
		for (size_t i = 0; i < WRITERS; i++)
			pthread_join(writers[i].thread, NULL);
		copy_pages(world, copy);
		for (uint64_t page = 0; page < 2 * BOOT / PAGE; page++)
			assert_int_equal(copy[page], phase);
		dirty_log_stop(world->log);
	}
	free(copy);
}

static void ranges_of_bits_are_joined_at_any_offset(void **state)
{
	const uint64_t from[3] = {0x8000000000000001ULL, 0xff00ff00ff00ff00ULL, ~0ULL};

	for (size_t first = 0; first < 130; first++) {
		for (size_t count = 0; count < 180; count += 7) {
			uint64_t map[8] = {0};

			bitmap_or_range(map, first, from, count);
			for (size_t i = 0; i < 512; i++)
				assert_int_equal(bitmap_test(map, i),
						 i >= first && i < first + count &&
						     bitmap_test(from, i - first));
		}
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, create, destroy)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(at_the_start_all_that_is_plugged_counts_as_written),
	    TEST(a_write_marks_the_pages_that_it_touches),
	    TEST(a_mark_is_reported_once),
	    TEST(collecting_adds_to_what_is_there),
	    TEST(who_writes_directly_says_so),
	    TEST(a_large_range_is_marked_exactly),
	    TEST(what_is_no_guest_memory_is_ignored),
	    TEST(it_can_be_stopped_and_started_again),
	    TEST(there_is_one_log_at_a_time),
	    TEST(unplugged_memory_is_not_reported),
	    TEST(memory_that_is_plugged_again_is_reported),
	    TEST(marks_taken_while_an_unplug_is_refused_are_not_lost),
	    TEST(memory_that_is_given_back_counts_as_written),
	    TEST(sources_add_what_they_see),
	    TEST(a_source_that_cannot_start_leaves_the_log_off),
	    TEST(a_source_that_loses_its_log_is_an_error),
	    TEST(nothing_is_lost_while_others_write),
	    cmocka_unit_test(ranges_of_bits_are_joined_at_any_offset),
	};

	return cmocka_run_group_tests_name("dirty_log", tests, NULL, NULL);
}
