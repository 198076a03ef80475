/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest memory map: lookups, plugging, and who is kept out when. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cmocka_prelude.h"
#include "memory/memory_map.h"

#define BOOT_SIZE MIB(16)
#define ELASTIC	  GIB(4)
#define UNIT	  MIB(2)
#define UNITS	  16

struct world {
	struct memory_map *map;
	struct ram_block *boot, *elastic;
	struct memory_region *boot_region, *region;
};

static int setup_backing(void **state, enum ram_backing backing)
{
	struct ram_backing_options options = {.backing = backing, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));

	assert_non_null(world);
	assert_no_error(memory_map_create(&world->map));
	assert_no_error(ram_block_create("boot", &options, BOOT_SIZE, &world->boot));
	assert_no_error(ram_block_create("elastic", &options, UNITS * UNIT, &world->elastic));
	assert_no_error(memory_map_add(world->map, ELASTIC, UNITS * UNIT, world->elastic, 0, UNIT,
				       &world->region));
	assert_no_error(
	    memory_map_add(world->map, 0, BOOT_SIZE, world->boot, 0, 0, &world->boot_region));
	*state = world;
	return 0;
}

static int setup(void **state)
{
	return setup_backing(state, RAM_BACKING_MEMFD);
}

static int setup_anon(void **state)
{
	return setup_backing(state, RAM_BACKING_ANON);
}

static int teardown(void **state)
{
	struct world *world = *state;

	memory_map_destroy(world->map);
	ram_block_destroy(world->boot);
	ram_block_destroy(world->elastic);
	free(world);
	return 0;
}

static bool accessible(struct world *world, uint64_t address, uint64_t size)
{
	int section = memory_read_begin(world->map);
	struct memory_span span;
	bool there = memory_access(world->map, address, size, MEMORY_WRITE, &span);

	memory_read_end(world->map, section);
	return there;
}

static void regions_are_found_by_address(void **state)
{
	struct world *world = *state;

	assert_ptr_equal(memory_map_first(world->map), world->boot_region);
	assert_ptr_equal(memory_map_find(world->map, 0), world->boot_region);
	assert_ptr_equal(memory_map_find(world->map, BOOT_SIZE - 1), world->boot_region);
	assert_null(memory_map_find(world->map, BOOT_SIZE));
	assert_null(memory_map_find(world->map, ELASTIC - 1));
	assert_ptr_equal(memory_map_find(world->map, ELASTIC), world->region);
	assert_null(memory_map_find(world->map, ELASTIC + UNITS * UNIT));
	assert_null(memory_map_find(world->map, UINT64_MAX));
}

static void overlapping_regions_are_refused(void **state)
{
	struct world *world = *state;
	struct memory_region *region;

	assert_error_with(
	    memory_map_add(world->map, BOOT_SIZE - 4096, MIB(2), world->boot, 0, 0, &region),
	    "overlaps");
}

static void an_access_must_lie_wholly_in_one_region(void **state)
{
	struct world *world = *state;

	assert_true(accessible(world, 0, BOOT_SIZE));
	assert_true(accessible(world, BOOT_SIZE - 1, 1));
	assert_false(accessible(world, BOOT_SIZE - 1, 2));
	assert_false(accessible(world, 0, BOOT_SIZE + 1));
	assert_false(accessible(world, 4096, UINT64_MAX));
	assert_false(accessible(world, 0, 0));
}

static void unplugged_memory_is_not_accessible(void **state)
{
	struct world *world = *state;

	assert_false(accessible(world, ELASTIC, 1));
	assert_int_equal(memory_region_plug(world->map, world->region, UNIT, 2 * UNIT), 0);
	assert_false(accessible(world, ELASTIC, 1));
	assert_true(accessible(world, ELASTIC + UNIT, 2 * UNIT));
	assert_false(accessible(world, ELASTIC + UNIT - 1, 2));
	assert_false(accessible(world, ELASTIC + 3 * UNIT - 1, 2));
	assert_int_equal(memory_region_unplug(world->map, world->region, UNIT, UNIT), 0);
	assert_false(accessible(world, ELASTIC + UNIT, 1));
	assert_true(accessible(world, ELASTIC + 2 * UNIT, UNIT));
	assert_int_equal(memory_region_plugged_size(world->region), UNIT);
}

static void unplugging_returns_memory_to_the_host(void **state)
{
	struct world *world = *state;

	assert_int_equal(memory_region_plug(world->map, world->region, 0, 4 * UNIT), 0);
	memset(world->elastic->host, 0xaa, 4 * UNIT);
	assert_int_equal(ram_block_resident(world->elastic), 4 * UNIT);
	assert_int_equal(memory_region_unplug(world->map, world->region, UNIT, UNIT), 0);
	assert_int_equal(ram_block_resident(world->elastic), 3 * UNIT);
	assert_int_equal(memory_region_plug(world->map, world->region, UNIT, UNIT), 0);
	assert_int_equal(world->elastic->host[UNIT], 0);
	assert_int_equal(world->elastic->host[0], 0xaa);
	assert_int_equal(world->elastic->host[2 * UNIT], 0xaa);
}

static void tolerant_copies_see_zeros_where_nothing_is_plugged(void **state)
{
	struct world *world = *state;
	uint8_t buffer[8];

	assert_int_equal(memory_region_plug(world->map, world->region, 0, UNIT), 0);
	memset(buffer, 0x55, sizeof(buffer));
	assert_true(memory_write_or_drop(world->map, ELASTIC + UNIT - 4, buffer, 8));
	memset(buffer, 0xff, sizeof(buffer));
	assert_true(memory_read_or_zero(world->map, ELASTIC + UNIT - 4, buffer, 8));
	assert_memory_equal(buffer, "\x55\x55\x55\x55\0\0\0\0", 8);
	assert_false(memory_read(world->map, ELASTIC + UNIT - 4, buffer, 8));
	assert_false(memory_read_or_zero(world->map, GIB(2), buffer, 8));
}

struct late_reader {
	struct world *world;
	int section;
	bool ended;
};

static void *end_section_late(void *context)
{
	struct late_reader *reader = context;

	usleep(100 * 1000);
	__atomic_store_n(&reader->ended, true, __ATOMIC_SEQ_CST);
	memory_read_end(reader->world->map, reader->section);
	return NULL;
}

static void an_unplug_waits_for_sections_that_began_before(void **state)
{
	struct world *world = *state;
	struct late_reader reader = {.world = world};
	pthread_t thread;

	assert_int_equal(memory_region_plug(world->map, world->region, 0, UNIT), 0);
	reader.section = memory_read_begin(world->map);
	assert_int_equal(pthread_create(&thread, NULL, end_section_late, &reader), 0);
	assert_int_equal(memory_region_unplug(world->map, world->region, 0, UNIT), 0);
	assert_true(__atomic_load_n(&reader.ended, __ATOMIC_SEQ_CST));
	pthread_join(thread, NULL);
}

static void an_unplug_gives_up_on_a_section_that_does_not_end(void **state)
{
	struct world *world = *state;
	int section;

	assert_int_equal(memory_region_plug(world->map, world->region, 0, UNIT), 0);
	world->elastic->host[5] = 7;
	section = memory_read_begin(world->map);
	assert_int_equal(memory_region_unplug(world->map, world->region, 0, UNIT), -16);
	assert_true(accessible(world, ELASTIC, UNIT));
	assert_int_equal(world->elastic->host[5], 7);
	memory_read_end(world->map, section);
	assert_int_equal(memory_region_unplug(world->map, world->region, 0, UNIT), 0);
}

struct refusing_listener {
	struct memory_listener listener;
	bool refuse;
	int plugs, unplugs;
};

static struct error *ignore_region(struct memory_listener *listener, struct memory_region *region)
{
	return NULL;
}

static void forget_region(struct memory_listener *listener, struct memory_region *region)
{
}

static int maybe_plug(struct memory_listener *listener, struct memory_region *region,
		      uint64_t offset, uint64_t size)
{
	struct refusing_listener *refusing = (struct refusing_listener *)listener;

	refusing->plugs++;
	return refusing->refuse ? -16 : 0;
}

static int maybe_unplug(struct memory_listener *listener, struct memory_region *region,
			uint64_t offset, uint64_t size)
{
	struct refusing_listener *refusing = (struct refusing_listener *)listener;

	refusing->unplugs++;
	return refusing->refuse ? -16 : 0;
}

static const struct memory_listener refusing_template = {.region_add = ignore_region,
							 .region_remove = forget_region,
							 .plug = maybe_plug,
							 .unplug = maybe_unplug};

static void a_refused_plug_changes_nothing(void **state)
{
	struct world *world = *state;
	struct refusing_listener first = {.listener = refusing_template},
				 second = {.listener = refusing_template, .refuse = true};

	/* Later listeners are asked first; whichever was asked and agreed must be told to forget
	 * it. */
	assert_no_error(memory_map_add_listener(world->map, &second.listener));
	assert_no_error(memory_map_add_listener(world->map, &first.listener));
	assert_int_equal(memory_region_plug(world->map, world->region, 0, UNIT), -16);
	assert_int_equal(first.plugs, 1);
	assert_int_equal(first.unplugs, 1);
	assert_false(accessible(world, ELASTIC, 1));
	assert_int_equal(memory_region_plugged_size(world->region), 0);
	memory_map_remove_listener(world->map, &first.listener);
	memory_map_remove_listener(world->map, &second.listener);
}

static void a_refused_unplug_changes_nothing(void **state)
{
	struct world *world = *state;
	struct refusing_listener first = {.listener = refusing_template},
				 second = {.listener = refusing_template};

	assert_no_error(memory_map_add_listener(world->map, &second.listener));
	assert_no_error(memory_map_add_listener(world->map, &first.listener));
	assert_int_equal(memory_region_plug(world->map, world->region, 0, UNIT), 0);
	world->elastic->host[9] = 3;
	second.refuse = true;
	assert_int_equal(memory_region_unplug(world->map, world->region, 0, UNIT), -16);
	assert_int_equal(first.plugs, 2);
	assert_true(accessible(world, ELASTIC, UNIT));
	assert_int_equal(world->elastic->host[9], 3);
	memory_map_remove_listener(world->map, &first.listener);
	memory_map_remove_listener(world->map, &second.listener);
}

#define BOTH(test)                                                                                 \
	cmocka_unit_test_setup_teardown(test, setup, teardown),                                    \
	    cmocka_unit_test_setup_teardown(test, setup_anon, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(regions_are_found_by_address),
	    BOTH(overlapping_regions_are_refused),
	    BOTH(an_access_must_lie_wholly_in_one_region),
	    BOTH(unplugged_memory_is_not_accessible),
	    BOTH(unplugging_returns_memory_to_the_host),
	    BOTH(tolerant_copies_see_zeros_where_nothing_is_plugged),
	    BOTH(an_unplug_waits_for_sections_that_began_before),
	    cmocka_unit_test_setup_teardown(an_unplug_gives_up_on_a_section_that_does_not_end,
					    setup, teardown),
	    BOTH(a_refused_plug_changes_nothing),
	    BOTH(a_refused_unplug_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
