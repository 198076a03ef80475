/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The planner of vhost-user memory against a back-end that is played here: what it holds after each
 * single message of a plan is compared with the promises of the header.
 */
#include "cmocka_prelude.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "vhost_user/memory.h"

#define UNIT  MIB(2)
#define UNITS 4096U
#define BASE  GIB(4)

/* What the back-end holds, and what was plugged before and is plugged now. */
struct world {
	struct vhost_user_memory *memory;
	struct vhost_user_region held[2 * UNITS];
	uint32_t count, limit;
	uint8_t mapped[UNITS], before[UNITS], plugged[UNITS];
	uint64_t pin; /* unit of a live ring, or UINT64_MAX */
	uint64_t messages;
	uint64_t random;
};

static uint32_t draw(struct world *world, uint32_t below)
{
	world->random = world->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(world->random >> 33) % below;
}

static void paint(struct world *world, const struct vhost_user_region *region, bool mapped)
{
	uint64_t first = (region->guest_address - BASE) / UNIT;

	if (region->guest_address < BASE)
		return;
	assert_int_equal(region->guest_address % UNIT, 0);
	for (uint64_t i = first; i < first + region->size / UNIT; i++) {
		assert_true(i < UNITS);
		assert_int_equal(world->mapped[i],
				 !mapped); /* neither twice nor without being there */
		world->mapped[i] = mapped;
	}
}

/* One message; @live: rings run, so nothing that stays may go. */
static void apply(struct world *world, const struct vhost_user_change *change, bool live)
{
	const struct vhost_user_region *region = &change->region;
	uint32_t at = 0;

	world->messages++;
	assert_int_equal(region->user_address, region->guest_address + GIB(1024));
	if (change->add) {
		assert_true(world->count < world->limit);
		world->held[world->count++] = *region;
		paint(world, region, true);
		return;
	}
	while (at < world->count && memcmp(&world->held[at], region, sizeof(*region)))
		at++;
	assert_true(at < world->count);
	world->held[at] = world->held[--world->count];
	paint(world, region, false);
	for (uint64_t i = (region->guest_address - BASE) / UNIT;
	     live && i < (region->guest_address + region->size - BASE) / UNIT; i++) {
		assert_false(world->before[i] && world->plugged[i]);
		assert_false(i == world->pin);
	}
}

static void apply_plan(struct world *world, const struct vhost_user_plan *plan, bool live)
{
	uint64_t excess = 0;

	for (size_t i = 0; i < plan->count; i++)
		apply(world, &plan->list[i], live);
	for (uint32_t i = 0; i < UNITS; i++) {
		if (world->plugged[i])
			assert_true(world->mapped[i]);
		excess += world->mapped[i] && !world->plugged[i] ? UNIT : 0;
	}
	assert_int_equal(vhost_user_memory_held(world->memory), world->count);
	assert_int_equal(vhost_user_memory_excess(world->memory), excess);
	memcpy(world->before, world->plugged, sizeof(world->before));
}

static void begin(struct world *world, uint32_t limit)
{
	struct vhost_user_plan plan = {0};

	world->limit = limit;
	world->count = 0;
	memset(world->mapped, 0, sizeof(world->mapped));
	assert_no_error(vhost_user_memory_begin(world->memory, limit, &plan));
	apply_plan(world, &plan, true);
	vhost_user_plan_free(&plan);
}

static struct world *make_world(uint32_t limit, uint64_t seed)
{
	struct world *world = calloc(1, sizeof(*world));

	world->random = seed;
	world->pin = UINT64_MAX;
	world->memory = vhost_user_memory_create();
	assert_no_error(vhost_user_memory_add_block(
	    world->memory, &(struct vhost_user_block){{0, GIB(3), GIB(1024), 0}, 5, 0}));
	assert_no_error(vhost_user_memory_add_block(
	    world->memory,
	    &(struct vhost_user_block){{BASE, UNITS * UNIT, BASE + GIB(1024), GIB(3)}, 5, UNIT}));
	begin(world, limit);
	return world;
}

static void end_world(struct world *world)
{
	vhost_user_memory_destroy(world->memory);
	free(world);
}

/* Plugs or unplugs @count units from @first; returns how many messages that was. */
static uint64_t change(struct world *world, uint32_t first, uint32_t count, bool plug)
{
	struct vhost_user_range range = {BASE + first * UNIT, count * UNIT};
	struct vhost_user_plan plan = {0};
	uint64_t messages;

	memset(world->plugged + first, plug, count);
	assert_no_error(vhost_user_memory_change(world->memory, &range, plug ? 0 : 1, &range,
						 plug ? 1 : 0, &plan));
	apply_plan(world, &plan, true);
	messages = plan.count;
	vhost_user_plan_free(&plan);
	return messages;
}

static void random_changes(uint32_t limit, uint64_t seed, unsigned int rounds)
{
	struct world *world = make_world(limit, seed);

	for (unsigned int i = 0; i < rounds; i++) {
		uint32_t first = draw(world, UNITS);
		uint32_t most = draw(world, 4) ? 1 : draw(world, 2) ? 16 : UNITS;
		uint32_t count = 1 + draw(world, MIN(most, UNITS - first));
		uint64_t messages = change(world, first, count, draw(world, 2));

		if (count == 1)
			assert_true(messages <= 1);
		if (!draw(world, 500))
			begin(world, limit); /* a new session */
		if (!draw(world, 100)) {
			struct vhost_user_plan plan = {0};
			bool stopped = draw(world, 2);

			assert_no_error(vhost_user_memory_tidy(world->memory, stopped, &plan));
			apply_plan(world, &plan, !stopped);
			vhost_user_plan_free(&plan);
		}
	}
	end_world(world);
}

static void test_promises_hold_with_8_slots(void **unused)
{
	random_changes(8, 1, 2000);
	random_changes(2, 2, 500);
	random_changes(3, 3, 500);
}

static void test_promises_hold_with_32_slots(void **unused)
{
	random_changes(32, 4, 2000);
}

static void test_promises_hold_with_509_slots(void **unused)
{
	random_changes(509, 5, 2000);
}

static void test_promises_hold_with_4096_slots(void **unused)
{
	random_changes(4096, 6, 2000);
}

static void test_memory_is_exact_while_slots_last(void **unused)
{
	struct world *world = make_world(509, 7);

	for (uint32_t i = 0; i < 100; i++) {
		uint32_t first = draw(world, UNITS);

		change(world, first, 1, true);
		assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	}
	end_world(world);
}

static void test_4096_pieces_with_enough_slots_are_exact(void **unused)
{
	struct world *world = make_world(3 * UNITS, 8);

	for (uint32_t i = 0; i < UNITS; i += 2)
		assert_int_equal(change(world, i, 1, true), 1);
	for (uint32_t i = 1; i < UNITS; i += 2)
		assert_int_equal(change(world, i, 1, true), 1);
	assert_int_equal(vhost_user_memory_held(world->memory), UNITS + 1);
	assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	for (uint32_t i = 0; i < UNITS; i += 3)
		assert_int_equal(change(world, i, 1, false), 1);
	assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	end_world(world);
}

static void test_growing_by_single_units_gets_coarser_not_larger(void **unused)
{
	struct world *world = make_world(32, 9);

	for (uint32_t i = 0; i < UNITS; i++) {
		assert_true(change(world, i, 1, true) <= 1);
		/* At most half of the slots are cells: none is above 1/8 of the block. */
		assert_true(vhost_user_memory_excess(world->memory) <= UNITS / 8 * UNIT);
	}
	assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	end_world(world);
}

static void test_a_large_plug_is_given_up_piece_by_piece(void **unused)
{
	struct world *world = make_world(509, 10);

	change(world, 0, UNITS, true);
	assert_true(vhost_user_memory_held(world->memory) > 100);
	for (uint32_t i = UNITS; i-- > UNITS / 2;)
		change(world, i, 1, false);
	/* Half of it went, all but one cell. */
	assert_true(vhost_user_memory_excess(world->memory) < UNITS / 100 * UNIT);
	end_world(world);
}

static void test_what_is_plugged_again_is_not_sent_again(void **unused)
{
	struct world *world = make_world(509, 11);

	change(world, 10, 8, true);
	assert_int_equal(change(world, 10, 8, true), 0);
	assert_int_equal(change(world, 12, 1, false), 0); /* a piece of a mapping */
	assert_int_equal(vhost_user_memory_excess(world->memory), UNIT);
	assert_int_equal(change(world, 12, 1, true), 0);
	assert_int_equal(change(world, 10, 8, false), 1);
	end_world(world);
}

static void test_memory_of_a_ring_stays_until_it_is_unpinned(void **unused)
{
	struct world *world = make_world(509, 12);
	struct vhost_user_range ring[3] = {
	    {BASE + 5 * UNIT, 4096}, {BASE + 5 * UNIT + 4096, 100}, {BASE + 5 * UNIT + 8192, 100}};
	struct vhost_user_plan plan = {0};

	change(world, 5, 1, true);
	vhost_user_memory_pin(world->memory, 7, ring);
	world->pin = 5;
	assert_int_equal(change(world, 5, 1, false), 0);
	assert_int_equal(vhost_user_memory_excess(world->memory), UNIT);
	vhost_user_memory_unpin(world->memory, 7);
	world->pin = UINT64_MAX;
	assert_no_error(vhost_user_memory_tidy(world->memory, false, &plan));
	apply_plan(world, &plan, true);
	assert_int_equal(plan.count, 1);
	assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	vhost_user_plan_free(&plan);
	end_world(world);
}

static void test_tidying_stopped_rings_makes_memory_exact(void **unused)
{
	struct world *world = make_world(509, 13);
	struct vhost_user_plan plan = {0};

	change(world, 0, 64, true);
	change(world, 3, 1, false);
	assert_int_equal(vhost_user_memory_excess(world->memory), UNIT);
	assert_no_error(vhost_user_memory_tidy(world->memory, true, &plan));
	apply_plan(world, &plan, false);
	assert_int_equal(vhost_user_memory_excess(world->memory), 0);
	assert_int_equal(plan.count, 3); /* away, and two pieces */
	plan.count = 0;
	assert_no_error(vhost_user_memory_tidy(world->memory, true, &plan));
	assert_int_equal(plan.count, 0);
	vhost_user_plan_free(&plan);
	end_world(world);
}

static void test_a_whole_list_sends_only_the_difference(void **unused)
{
	struct world *world = make_world(509, 14);
	const struct vhost_user_range first[] = {{BASE, 4 * UNIT}, {BASE + 8 * UNIT, UNIT}};
	const struct vhost_user_range second[] = {{BASE, 4 * UNIT}, {BASE + 9 * UNIT, UNIT}};
	struct vhost_user_plan plan = {0};

	assert_no_error(vhost_user_memory_set(world->memory, first, 2, &plan));
	assert_int_equal(plan.count, 2);
	plan.count = 0;
	assert_no_error(vhost_user_memory_set(world->memory, second, 2, &plan));
	assert_int_equal(plan.count, 2);
	assert_false(plan.list[0].add);
	assert_int_equal(plan.list[0].region.guest_address, BASE + 8 * UNIT);
	assert_true(plan.list[1].add);
	assert_int_equal(plan.list[1].region.guest_address, BASE + 9 * UNIT);
	vhost_user_plan_free(&plan);
	end_world(world);
}

static void test_a_refused_addition_is_not_held(void **unused)
{
	struct world *world = make_world(509, 15);
	struct vhost_user_range range = {BASE, UNIT};
	struct vhost_user_plan plan = {0};

	assert_no_error(vhost_user_memory_change(world->memory, NULL, 0, &range, 1, &plan));
	assert_int_equal(plan.count, 1);
	vhost_user_memory_refused(world->memory, &plan.list[0].region);
	assert_int_equal(vhost_user_memory_held(world->memory), 1);
	plan.count = 0;
	assert_no_error(vhost_user_memory_change(world->memory, &range, 1, NULL, 0, &plan));
	assert_int_equal(plan.count, 0);
	assert_no_error(vhost_user_memory_change(world->memory, NULL, 0, &range, 1, &plan));
	assert_int_equal(plan.count, 1);
	vhost_user_plan_free(&plan);
	end_world(world);
}

static void test_fewer_slots_than_blocks_are_refused(void **unused)
{
	struct world *world = make_world(2, 16);
	struct vhost_user_plan plan = {0};

	assert_error_with(vhost_user_memory_begin(world->memory, 1, &plan),
			  "takes 1 pieces of memory, and the machine has 2");
	end_world(world);
}

static void test_ranges_that_are_none_are_refused(void **unused)
{
	struct world *world = make_world(32, 17);
	static const struct vhost_user_range bad[] = {{0, MIB(2)},
						      {BASE - UNIT, 2 * UNIT},
						      {BASE, 0},
						      {BASE + 4096, UNIT},
						      {BASE, UNIT + 4096},
						      {BASE + (UNITS - 1) * UNIT, 2 * UNIT},
						      {UINT64_MAX - UNIT, 2 * UNIT}};
	struct vhost_user_plan plan = {0};
	uint64_t user;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_error_with(
		    vhost_user_memory_change(world->memory, NULL, 0, &bad[i], 1, &plan),
		    "bytes of memory");
	assert_int_equal(plan.count, 0);
	assert_false(vhost_user_memory_user_address(world->memory, BASE, 4096, &user));
	change(world, 0, 1, true);
	assert_true(vhost_user_memory_user_address(world->memory, BASE, 4096, &user));
	assert_int_equal(user, BASE + GIB(1024));
	assert_false(vhost_user_memory_user_address(world->memory, BASE + UNIT - 1, 2, &user));
	end_world(world);
}

static void test_blocks_that_overlap_are_refused(void **unused)
{
	struct vhost_user_memory *memory = vhost_user_memory_create();
	struct vhost_user_block block = {{0, MIB(4), GIB(1), 0}, 5, 0};

	assert_no_error(vhost_user_memory_add_block(memory, &block));
	block.region.guest_address = MIB(2);
	assert_error_with(vhost_user_memory_add_block(memory, &block), "overlaps");
	block.region.guest_address = MIB(8);
	block.region.user_address = GIB(1) + MIB(3);
	assert_error_with(vhost_user_memory_add_block(memory, &block), "overlaps");
	block.region.user_address = GIB(2);
	block.unit = 3;
	assert_error_with(vhost_user_memory_add_block(memory, &block), "units");
	block.unit = MIB(8);
	assert_error_with(vhost_user_memory_add_block(memory, &block), "units");
	block.unit = MIB(2);
	block.region.guest_address = UINT64_MAX;
	assert_error_with(vhost_user_memory_add_block(memory, &block), "is no range");
	vhost_user_memory_destroy(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_promises_hold_with_8_slots),
	    cmocka_unit_test(test_promises_hold_with_32_slots),
	    cmocka_unit_test(test_promises_hold_with_509_slots),
	    cmocka_unit_test(test_promises_hold_with_4096_slots),
	    cmocka_unit_test(test_memory_is_exact_while_slots_last),
	    cmocka_unit_test(test_4096_pieces_with_enough_slots_are_exact),
	    cmocka_unit_test(test_growing_by_single_units_gets_coarser_not_larger),
	    cmocka_unit_test(test_a_large_plug_is_given_up_piece_by_piece),
	    cmocka_unit_test(test_what_is_plugged_again_is_not_sent_again),
	    cmocka_unit_test(test_memory_of_a_ring_stays_until_it_is_unpinned),
	    cmocka_unit_test(test_tidying_stopped_rings_makes_memory_exact),
	    cmocka_unit_test(test_a_whole_list_sends_only_the_difference),
	    cmocka_unit_test(test_a_refused_addition_is_not_held),
	    cmocka_unit_test(test_fewer_slots_than_blocks_are_refused),
	    cmocka_unit_test(test_ranges_that_are_none_are_refused),
	    cmocka_unit_test(test_blocks_that_overlap_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
