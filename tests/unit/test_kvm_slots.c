/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's slots follow what is plugged, within their budget. On the real KVM of whatever machine this
 * is (no guest runs), skipped where there is none.
 */
#include <string.h>

#include "base/checked.h"
#include "cmocka_prelude.h"
#include "kvm/slots.h"

#define ELASTIC GIB(4)
#define UNIT	MIB(2)

struct world {
	struct kvm_vm *vm;
	struct memory_map *map;
	struct kvm_slots *slots;
	struct ram_block *block;
	struct memory_region *region;
};

static struct world *create(uint64_t size, uint32_t limit)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));
	struct error *error;

	assert_non_null(world);
	error = kvm_vm_create(false, &world->vm);
	if (error) {
		error_free(error);
		free(world);
		skip();
	}
	assert_no_error(memory_map_create(&world->map));
	assert_no_error(kvm_slots_create(world->vm, world->map, limit, &world->slots));
	assert_no_error(ram_block_create("elastic", &options, size, &world->block));
	assert_no_error(
	    memory_map_add(world->map, ELASTIC, size, world->block, 0, UNIT, &world->region));
	return world;
}

static void destroy(struct world *world)
{
	kvm_slots_destroy(world->slots);
	kvm_vm_destroy(world->vm);
	memory_map_destroy(world->map);
	ram_block_destroy(world->block);
	free(world);
}

static int plug(struct world *world, uint64_t first, uint64_t count)
{
	return memory_region_plug(world->map, world->region, first * UNIT, count * UNIT);
}

static int unplug(struct world *world, uint64_t first, uint64_t count)
{
	return memory_region_unplug(world->map, world->region, first * UNIT, count * UNIT);
}

static uint32_t plugged_slots(struct world *world)
{
	struct kvm_slots_statistics statistics;

	kvm_slots_statistics(world->slots, &statistics);
	return statistics.slots_plugged;
}

/* What the guest would get: plugged memory from its slot, absent memory through the exit. */
static uint64_t guest_read(struct world *world, uint64_t unit)
{
	uint64_t value = ~0ULL;

	assert_true(kvm_slots_absent_ops.access(world->slots, ELASTIC + unit * UNIT, &value,
						sizeof(value), false));
	return value;
}

static void a_plug_takes_one_slot(void **state)
{
	struct world *world = create(MIB(64), 0);

	assert_int_equal(plugged_slots(world), 0);
	assert_int_equal(plug(world, 0, 4), 0);
	assert_int_equal(plugged_slots(world), 1);
	assert_int_equal(plug(world, 4, 4), 0);
	assert_int_equal(plugged_slots(world), 2);
	destroy(world);
}

static void an_unplug_cuts_what_sticks_out(void **state)
{
	struct world *world = create(MIB(64), 0);

	assert_int_equal(plug(world, 0, 10), 0);
	assert_int_equal(unplug(world, 4, 2), 0);
	assert_int_equal(plugged_slots(world), 2);
	assert_int_equal(unplug(world, 0, 1), 0);
	assert_int_equal(plugged_slots(world), 2);
	assert_int_equal(unplug(world, 9, 1), 0);
	assert_int_equal(plugged_slots(world), 2);
	destroy(world);
}

static void an_unplug_over_several_slots_cuts_both_ends(void **state)
{
	struct world *world = create(MIB(64), 0);

	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(plug(world, i * 4, 4), 0);
	assert_int_equal(unplug(world, 2, 12), 0);
	assert_int_equal(plugged_slots(world), 2);
	assert_int_equal(memory_region_plugged_size(world->region), 4 * UNIT);
	destroy(world);
}

static void a_read_of_a_hole_opens_one_window(void **state)
{
	struct world *world = create(MIB(64), 0);
	struct kvm_slots_statistics statistics;

	assert_int_equal(guest_read(world, 3), 0);
	assert_int_equal(guest_read(world, 7), 0);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.slots_zero, 1);
	assert_int_equal(statistics.absent_reads, 2);
	/* Plugging in the middle removes the window; the holes on both sides open theirs when read.
	 */
	assert_int_equal(plug(world, 5, 1), 0);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.slots_zero, 0);
	assert_int_equal(guest_read(world, 3), 0);
	assert_int_equal(guest_read(world, 7), 0);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.slots_zero, 2);
	destroy(world);
}

static void writes_to_a_hole_are_counted_and_dropped(void **state)
{
	struct world *world = create(MIB(64), 0);
	uint64_t value = 0x1234, reads, writes;

	for (int i = 0; i < 5; i++)
		assert_true(kvm_slots_absent_ops.access(world->slots, ELASTIC, &value,
							sizeof(value), true));
	assert_int_equal(guest_read(world, 0), 0);
	kvm_slots_region_attempts(world->slots, world->region, &reads, &writes);
	assert_int_equal(reads, 1);
	assert_int_equal(writes, 5);
	assert_int_equal(ram_block_resident(world->block), 0);
	destroy(world);
}

static void an_access_outside_memory_is_not_ours(void **state)
{
	struct world *world = create(MIB(64), 0);
	uint64_t value;

	assert_false(
	    kvm_slots_absent_ops.access(world->slots, GIB(1), &value, sizeof(value), false));
	destroy(world);
}

static void the_budget_is_used_up_by_windows_first_then_merges(void **state)
{
	struct world *world = create(MIB(128), 8);
	struct kvm_slots_statistics statistics;

	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(plug(world, i, 1), 0);
	guest_read(world, 20);
	assert_int_equal(plug(world, 40, 1), 0);
	assert_int_equal(plug(world, 6, 1), 0);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.slots_zero, 0);
	assert_int_equal(statistics.merges, 0);
	assert_int_equal(plug(world, 7, 1), 0);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.merges, 1);
	assert_true(statistics.slots_plugged <= 8);
	destroy(world);
}

static void beyond_the_budget_is_busy_and_changes_nothing(void **state)
{
	struct world *world = create(MIB(64), 4);
	struct kvm_slots_statistics statistics;

	for (uint64_t i = 0; i < 8; i += 2)
		assert_int_equal(plug(world, i, 1), 0);
	assert_int_equal(plug(world, 10, 1), -EBUSY);
	assert_int_equal(memory_region_plugged_size(world->region), 4 * UNIT);
	kvm_slots_statistics(world->slots, &statistics);
	assert_int_equal(statistics.refused, 1);
	/* Filling a hole is possible: the three become one. */
	assert_int_equal(unplug(world, 6, 1), 0);
	assert_int_equal(plug(world, 1, 1), 0);
	assert_int_equal(plug(world, 3, 1), 0);
	/* So is taking a whole slot away; a hole in the middle of one is not. */
	assert_int_equal(plug(world, 12, 1), 0);
	assert_int_equal(plug(world, 16, 3), 0);
	assert_int_equal(plug(world, 24, 1), 0);
	assert_int_equal(unplug(world, 17, 1), -EBUSY);
	assert_true(memory_region_all_plugged(world->region, 16 * UNIT, 3 * UNIT));
	assert_int_equal(unplug(world, 24, 1), 0);
	assert_int_equal(unplug(world, 17, 1), 0);
	destroy(world);
}

static void sixty_four_gib_in_a_checkered_pattern_fit(void **state)
{
	struct world *world = create(GIB(64), 0);
	uint64_t units = GIB(64) / UNIT;

	for (uint64_t i = 0; i < units; i += 2)
		assert_int_equal(plug(world, i, 1), 0);
	assert_int_equal(plugged_slots(world), units / 2);
	for (uint64_t i = 1; i < units; i += 2)
		assert_int_equal(plug(world, i, 1), 0);
	assert_int_equal(memory_region_plugged_size(world->region), GIB(64));
	for (uint64_t i = 0; i < units; i += 2)
		assert_int_equal(unplug(world, i, 1), 0);
	assert_int_equal(plugged_slots(world), units / 2);
	destroy(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_plug_takes_one_slot),
	    cmocka_unit_test(an_unplug_cuts_what_sticks_out),
	    cmocka_unit_test(an_unplug_over_several_slots_cuts_both_ends),
	    cmocka_unit_test(a_read_of_a_hole_opens_one_window),
	    cmocka_unit_test(writes_to_a_hole_are_counted_and_dropped),
	    cmocka_unit_test(an_access_outside_memory_is_not_ours),
	    cmocka_unit_test(the_budget_is_used_up_by_windows_first_then_merges),
	    cmocka_unit_test(beyond_the_budget_is_busy_and_changes_nothing),
	    cmocka_unit_test(sixty_four_gib_in_a_checkered_pattern_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
