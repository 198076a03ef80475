/* SPDX-License-Identifier: BSD-2-Clause */
/* Giving plugged memory back: what of a range is touched. */
#include <string.h>

#include "cmocka_prelude.h"

#include "base/checked.h"
#include "memory/memory_discard.h"

#define ELASTIC GIB(4)
#define UNIT	MIB(2)

/* 8 MiB of boot memory at 0, and 8 MiB of elastic memory of which units 0 and 2 are plugged; all
 * filled. */
struct world {
	struct memory_map *map;
	struct ram_block *boot, *elastic;
};

static struct world world_create(void)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct memory_region *region;
	struct world world;

	assert_no_error(ram_block_create("boot", &backing, MIB(8), &world.boot));
	assert_no_error(ram_block_create("elastic", &backing, MIB(8), &world.elastic));
	assert_no_error(memory_map_create(&world.map));
	assert_no_error(memory_map_add(world.map, 0, MIB(8), world.boot, 0, 0, &region));
	assert_no_error(
	    memory_map_add(world.map, ELASTIC, MIB(8), world.elastic, 0, UNIT, &region));
	assert_int_equal(memory_region_plug(world.map, region, 0, UNIT), 0);
	assert_int_equal(memory_region_plug(world.map, region, 2 * UNIT, UNIT), 0);
	memset(world.boot->host, 0x5a, MIB(8));
	memset(world.elastic->host, 0x5a, UNIT);
	memset(world.elastic->host + 2 * UNIT, 0x5a, UNIT);
	return world;
}

static void world_destroy(struct world *world)
{
	memory_map_destroy(world->map);
	ram_block_destroy(world->boot);
	ram_block_destroy(world->elastic);
}

static void assert_count(const struct memory_discard_count *count, uint64_t discarded,
			 uint64_t kept, uint64_t absent)
{
	assert_int_equal(count->discarded, discarded);
	assert_int_equal(count->kept, kept);
	assert_int_equal(count->absent, absent);
}

static void test_boot_memory_reads_as_zeros_afterwards(void **state)
{
	struct world world = world_create();
	struct memory_discard_count count = {0};

	memory_discard(world.map, MIB(1), MIB(3), false, &count);
	assert_count(&count, MIB(3), 0, 0);
	assert_int_equal(world.boot->host[MIB(1) - 1], 0x5a);
	assert_int_equal(world.boot->host[MIB(1)], 0);
	assert_int_equal(world.boot->host[MIB(4) - 1], 0);
	assert_int_equal(world.boot->host[MIB(4)], 0x5a);
	world_destroy(&world);
}

static void test_unplugged_units_of_a_range_are_not_touched(void **state)
{
	struct world world = world_create();
	struct memory_discard_count count = {0};

	memory_discard(world.map, ELASTIC, MIB(8), false, &count);
	assert_count(&count, 2 * UNIT, 0, 2 * UNIT);
	assert_int_equal(ram_block_resident(world.elastic), 0);
	world_destroy(&world);
}

static void test_a_range_inside_units_is_exact(void **state)
{
	struct world world = world_create();
	struct memory_discard_count count = {0};

	memory_discard(world.map, ELASTIC + UNIT - KIB(4), UNIT + KIB(8), false, &count);
	assert_count(&count, KIB(8), 0, UNIT);
	assert_int_equal(world.elastic->host[UNIT - KIB(4) - 1], 0x5a);
	assert_int_equal(world.elastic->host[UNIT - KIB(4)], 0);
	assert_int_equal(world.elastic->host[2 * UNIT], 0);
	assert_int_equal(world.elastic->host[2 * UNIT + KIB(4)], 0x5a);
	world_destroy(&world);
}

static void test_where_no_memory_is_nothing_happens(void **state)
{
	struct world world = world_create();
	struct memory_discard_count count = {0};

	memory_discard(world.map, MIB(8), KIB(64), false, &count);
	memory_discard(world.map, UINT32_MAX * 4096ULL, KIB(4), false, &count);
	assert_count(&count, 0, 0, KIB(68));
	world_destroy(&world);
}

static void test_a_discarded_range_can_be_unplugged(void **state)
{
	struct world world = world_create();
	struct memory_discard_count count = {0};
	struct memory_region *region = memory_map_find(world.map, ELASTIC);

	memory_discard(world.map, ELASTIC, UNIT, false, &count);
	assert_int_equal(memory_region_unplug(world.map, region, 0, UNIT), 0);
	memory_discard(world.map, ELASTIC, UNIT, false, &count);
	assert_count(&count, UNIT, 0, UNIT);
	world_destroy(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_boot_memory_reads_as_zeros_afterwards),
	    cmocka_unit_test(test_unplugged_units_of_a_range_are_not_touched),
	    cmocka_unit_test(test_a_range_inside_units_is_exact),
	    cmocka_unit_test(test_where_no_memory_is_nothing_happens),
	    cmocka_unit_test(test_a_discarded_range_can_be_unplugged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
