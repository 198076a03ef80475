/* SPDX-License-Identifier: BSD-2-Clause */
/* The decisions of machine/auto_policy.h, one behaviour a test, and a simulated guest that lives
 * with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/clock.h"
#include "machine/auto_policy.h"

#define SECOND NS_PER_SECOND

/* A guest of 512 MiB that may have up to 8 GiB of elastic memory, in blocks of 2 MiB, one sample a
 * second. */
struct world {
	struct auto_state state;
	struct auto_limits limits;
	struct auto_elastic elastic;
	struct auto_sample sample;
	struct auto_decision decision;
	int64_t now;
};

static struct world world_create(void)
{
	return (struct world){
	    .limits = {.maximum = GIB(8), .boot = MIB(512), .block = MIB(2)},
	    .sample = {.total = MIB(480), .available = MIB(380)},
	    .now = 100 * SECOND,
	};
}

/* A second later, with what was asked for plugged and a new sample that shows @used bytes in use.
 */
static enum auto_action step(struct world *world, uint64_t used)
{
	world->now += SECOND;
	world->elastic.plugged = world->elastic.requested;
	world->sample.time_ns = world->now;
	world->sample.total = MIB(480) + world->elastic.plugged;
	world->sample.available = world->sample.total - used;
	auto_decide(&world->state, &world->limits, &world->elastic, &world->sample, world->now,
		    &world->decision);
	world->elastic.requested = world->decision.target;
	return world->decision.action;
}

/* The same without a new sample. */
static enum auto_action step_silent(struct world *world)
{
	world->now += SECOND;
	auto_decide(&world->state, &world->limits, &world->elastic, &world->sample, world->now,
		    &world->decision);
	world->elastic.requested = world->decision.target;
	return world->decision.action;
}

static void run_calm(struct world *world, uint64_t used, int seconds)
{
	for (int i = 0; i < seconds; i++)
		step(world, used);
}

static void test_without_statistics_nothing_happens(void **state)
{
	struct world world = world_create();

	assert_int_equal(step_silent(&world), AUTO_HOLD);
	assert_int_equal(world.decision.reason, AUTO_NO_STATISTICS);
}

static void test_a_request_below_the_minimum_is_raised_even_without_statistics(void **state)
{
	struct world world = world_create();

	world.limits.minimum = MIB(256);
	assert_int_equal(step_silent(&world), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_BELOW_MINIMUM);
	assert_int_equal(world.decision.target, MIB(256));
}

static void test_a_request_above_the_maximum_is_lowered(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(9);
	assert_int_equal(step_silent(&world), AUTO_SHRINK);
	assert_int_equal(world.decision.target, GIB(8));
}

static void test_an_idle_guest_with_enough_is_left_alone(void **state)
{
	struct world world = world_create();

	for (int i = 0; i < 100; i++)
		assert_int_equal(step(&world, MIB(100)), AUTO_HOLD);
}

static void test_low_available_memory_grows_to_use_and_a_quarter(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(2);
	assert_int_equal(step(&world, MIB(2100)), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_LOW);
	assert_in_range(world.decision.target, MIB(2625 - 480), MIB(2625 - 480 + 128));
}

static void test_growth_is_at_least_one_memory_block_of_the_guest(void **state)
{
	struct world world = world_create();

	step(&world, MIB(355)); /* 125 MiB available, 3 MiB short */
	assert_int_equal(world.decision.action, AUTO_GROW);
	assert_int_equal(world.decision.target, MIB(128));
}

static void test_targets_are_whole_blocks(void **state)
{
	struct world world = world_create();

	world.limits.block = MIB(64);
	step(&world, MIB(470));
	assert_int_equal(world.decision.action, AUTO_GROW);
	assert_int_equal(world.decision.target % MIB(64), 0);
}

static void test_a_fast_growing_guest_gets_three_seconds_in_advance(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	step(&world, GIB(2));
	assert_int_equal(step(&world, GIB(2) + MIB(700)), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_FAST);
	assert_true(world.decision.wanted >= GIB(2) + MIB(700) + 3 * MIB(699));
}

static void test_memory_on_its_way_is_not_asked_for_again(void **state)
{
	struct world world = world_create();
	uint64_t target;

	step(&world, MIB(450));
	target = world.decision.target;
	assert_int_equal(world.decision.action, AUTO_GROW);
	/* The next sample comes before anything was plugged. */
	world.now += SECOND;
	world.sample.time_ns = world.now;
	auto_decide(&world.state, &world.limits, &world.elastic, &world.sample, world.now,
		    &world.decision);
	assert_int_equal(world.decision.action, AUTO_HOLD);
	assert_int_equal(world.decision.target, target);
}

static void test_an_oom_kill_doubles_the_guest(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	step(&world, MIB(400));
	world.sample.oom_kills = 1;
	assert_int_equal(step(&world, MIB(400)), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_OOM_KILL);
	assert_true(world.decision.target >= GIB(2) + MIB(480));
}

static void test_swapping_with_little_available_grows(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	step(&world, MIB(1100));
	world.sample.swap_out += MIB(5);
	assert_int_equal(step(&world, MIB(1100)), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_SWAPPING);
}

static void test_swapping_with_much_available_only_ends_the_calm(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	run_calm(&world, MIB(200), 29);
	world.sample.swap_out += MIB(5);
	assert_int_equal(step(&world, MIB(200)), AUTO_HOLD);
	assert_int_equal(step(&world, MIB(200)), AUTO_HOLD);
	assert_int_equal(world.decision.reason, AUTO_NOT_CALM);
}

static void test_a_trickle_of_swap_is_no_pressure(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	step(&world, MIB(1100));
	world.sample.swap_in += KIB(512);
	assert_int_equal(step(&world, MIB(1100)), AUTO_HOLD);
}

static void test_stalled_allocations_with_little_available_grow(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	step(&world, MIB(1100));
	world.sample.stalls += 1;
	assert_int_equal(step(&world, MIB(1100)), AUTO_GROW);
	assert_int_equal(world.decision.reason, AUTO_STALLING);
}

static void test_growth_stops_at_the_maximum(void **state)
{
	struct world world = world_create();

	world.limits.maximum = MIB(256);
	world.elastic.requested = MIB(192);
	assert_int_equal(step(&world, MIB(660)), AUTO_GROW);
	assert_int_equal(world.decision.target, MIB(256));
	assert_int_equal(step(&world, MIB(730)), AUTO_HOLD);
	assert_int_equal(world.decision.reason, AUTO_AT_LIMIT);
}

static void test_growth_stops_where_boot_memory_cannot_describe_more(void **state)
{
	struct world world = world_create();

	world.limits.maximum = GIB(64);
	world.elastic.requested = GIB(8); /* 128 MiB of page array, a quarter of 512 MiB */
	assert_int_equal(step(&world, GIB(8)), AUTO_HOLD);
	assert_int_equal(world.decision.reason, AUTO_MEMMAP_LIMIT);
}

static void test_a_step_needs_no_more_page_array_than_half_of_what_is_available(void **state)
{
	struct world world = world_create();

	world.limits.maximum = GIB(64);
	world.limits.boot = GIB(16);
	world.elastic.requested = GIB(16);
	step(&world, GIB(16) + MIB(480) - MIB(32)); /* 32 MiB left: half of it describes 1 GiB */
	assert_int_equal(world.decision.action, AUTO_GROW);
	assert_int_equal(world.decision.target, GIB(17));
}

static void test_with_nothing_available_half_a_gigabyte_is_asked_for(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	assert_int_equal(step(&world, GIB(4) + MIB(480)), AUTO_GROW);
	assert_int_equal(world.decision.target, GIB(4) + MIB(512));
}

static void test_a_blocked_device_is_not_asked_for_more(void **state)
{
	struct world world = world_create();

	world.elastic.blocked = true;
	assert_int_equal(step(&world, MIB(450)), AUTO_HOLD);
	assert_int_equal(world.decision.reason, AUTO_BLOCKED);
}

static void test_shrinking_waits_for_thirty_seconds_of_calm(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	for (int i = 0; i < 30; i++) {
		assert_int_equal(step(&world, MIB(200)), AUTO_HOLD);
		assert_int_equal(world.decision.reason, AUTO_NOT_CALM);
	}
	assert_int_equal(step(&world, MIB(200)), AUTO_SHRINK);
	assert_int_equal(world.decision.reason, AUTO_IDLE);
}

static void test_a_shrink_takes_an_eighth_of_the_surplus(void **state)
{
	struct world world = world_create();
	uint64_t surplus = GIB(4) + MIB(480) - MIB(200) - MIB(256);

	world.elastic.requested = GIB(4);
	run_calm(&world, MIB(200), 30);
	step(&world, MIB(200));
	assert_int_equal(world.decision.target, GIB(4) - align_down(surplus / 8, MIB(2)));
}

static void test_shrinks_are_ten_seconds_apart(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	run_calm(&world, MIB(200), 31);
	for (int i = 0; i < 9; i++)
		assert_int_equal(step(&world, MIB(200)), AUTO_HOLD);
	assert_int_equal(step(&world, MIB(200)), AUTO_SHRINK);
}

static void test_nothing_more_is_taken_while_the_guest_still_gives_back(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	run_calm(&world, MIB(200), 31);
	for (int i = 0; i < 30; i++) {
		world.now += SECOND;
		world.sample.time_ns = world.now;
		auto_decide(&world.state, &world.limits, &world.elastic, &world.sample, world.now,
			    &world.decision);
		assert_int_equal(world.decision.action, AUTO_HOLD);
		assert_int_equal(world.decision.reason, AUTO_SHRINKING);
	}
}

static void test_shrinking_ends_at_the_minimum(void **state)
{
	struct world world = world_create();

	world.limits.minimum = GIB(1);
	world.elastic.requested = GIB(2);
	run_calm(&world, MIB(100), 400);
	assert_int_equal(world.elastic.requested, GIB(1));
}

static void test_shrinking_leaves_twice_the_growth_reserve(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(7);
	run_calm(&world, GIB(2), 1000);
	assert_in_range(world.sample.total, GIB(3), GIB(3) + MIB(128));
	/* And a rise by a fifth right after it does not grow. */
	assert_int_equal(step(&world, GIB(2) + GIB(2) / 20), AUTO_HOLD);
}

static void test_less_than_a_memory_block_is_not_taken_back(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	for (int i = 0; i < 100; i++)
		assert_int_equal(step(&world, GIB(1) + MIB(480) - MIB(512) - MIB(40)), AUTO_HOLD);
}

static void test_major_faults_keep_memory_where_it_is(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(4);
	for (int i = 0; i < 60; i++) {
		world.sample.major_faults += 150;
		assert_int_equal(step(&world, MIB(200)), AUTO_HOLD);
	}
}

static void test_a_guest_silent_under_pressure_gets_one_step(void **state)
{
	struct world world = world_create();
	int grown = 0;

	step(&world, MIB(470));
	for (int i = 0; i < 20; i++)
		grown += step_silent(&world) == AUTO_GROW;
	assert_int_equal(grown, 1);
}

static void test_a_guest_silent_in_comfort_is_left_alone(void **state)
{
	struct world world = world_create();

	step(&world, MIB(100));
	for (int i = 0; i < 20; i++) {
		assert_int_equal(step_silent(&world), AUTO_HOLD);
		assert_int_equal(world.decision.reason, AUTO_WAITING);
	}
}

static void test_counters_that_go_backwards_are_a_new_guest(void **state)
{
	struct world world = world_create();

	world.elastic.requested = GIB(1);
	world.sample.swap_out = GIB(3);
	world.sample.oom_kills = 4;
	step(&world, MIB(1100));
	world.sample.swap_out = MIB(500);
	world.sample.oom_kills = 0;
	assert_int_equal(step(&world, MIB(1100)), AUTO_HOLD);
}

static void test_absurd_samples_stay_within_the_limits(void **state)
{
	static const uint64_t values[] = {0, 1, MIB(512), 1ULL << 62, UINT64_MAX};
	struct world world = world_create();

	world.limits.minimum = MIB(64);
	world.limits.boot = TIB(1);
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(values); j++) {
			for (size_t k = 0; k < ARRAY_SIZE(values); k++) {
				world.now += SECOND;
				world.sample = (struct auto_sample){
				    .time_ns = world.now,
				    .total = values[i],
				    .available = values[j],
				    .swap_in = values[k],
				    .oom_kills = values[k],
				};
				auto_decide(&world.state, &world.limits, &world.elastic,
					    &world.sample, world.now, &world.decision);
				world.elastic.requested = world.decision.target;
				assert_in_range(world.decision.target, MIB(64), GIB(8));
				assert_int_equal(world.decision.target % MIB(2), 0);
			}
		}
	}
}

static void test_growth_is_spread_in_proportion_to_room(void **state)
{
	struct auto_share shares[] = {
	    {.maximum = GIB(4), .block = MIB(2)},
	    {.maximum = GIB(2), .block = MIB(2)},
	};

	auto_spread(shares, 2, GIB(3));
	assert_int_equal(shares[0].requested, GIB(2));
	assert_int_equal(shares[1].requested, GIB(1));
}

static void test_growth_is_rounded_up_and_shrinking_down(void **state)
{
	struct auto_share shares[] = {
	    {.maximum = GIB(4), .block = MIB(128)},
	    {.maximum = GIB(4), .block = GIB(1)},
	};

	auto_spread(shares, 2, MIB(200));
	assert_int_equal(shares[0].requested + shares[1].requested, MIB(256));
	auto_spread(shares, 2, MIB(100));
	assert_int_equal(shares[0].requested + shares[1].requested, MIB(128));
}

static void test_spreading_respects_each_maximum_and_minimum(void **state)
{
	struct auto_share shares[] = {
	    {.minimum = MIB(64), .maximum = MIB(128), .block = MIB(2), .requested = MIB(64)},
	    {.minimum = 0, .maximum = GIB(1), .block = MIB(2)},
	};

	auto_spread(shares, 2, GIB(9));
	assert_int_equal(shares[0].requested, MIB(128));
	assert_int_equal(shares[1].requested, GIB(1));
	auto_spread(shares, 2, 0);
	assert_int_equal(shares[0].requested, MIB(64));
	assert_int_equal(shares[1].requested, 0);
}

/*
 * A guest for the simulation: it allocates towards its demand at a rate, its driver plugs and
 * unplugs at the speed that was measured, and it counts what must not happen.
 */
struct guest {
	uint64_t demand, used; /* bytes that programs want, and have */
	uint64_t rate;	       /* bytes a second */
	uint64_t kills;
	int turns; /* changes of direction */
	enum auto_action last_action;
};

#define TICKS 10 /* a second */

static void guest_tick(struct guest *guest, struct world *world)
{
	uint64_t plug = GIB(3) / TICKS, unplug = GIB(1) / TICKS;
	uint64_t change =
	    MIN(guest->rate / TICKS, guest->demand > guest->used ? guest->demand - guest->used
								 : guest->used - guest->demand);

	if (world->elastic.plugged < world->elastic.requested)
		world->elastic.plugged +=
		    MIN(plug, world->elastic.requested - world->elastic.plugged);
	else
		world->elastic.plugged -=
		    MIN(unplug, world->elastic.plugged - world->elastic.requested);
	if (guest->used < guest->demand)
		guest->used += change;
	else
		guest->used -= change;
	world->sample.total = MIB(480) + world->elastic.plugged;
	if (guest->used > world->sample.total) {
		guest->kills++;
		guest->used = world->sample.total;
	}
}

static void simulate(struct guest *guest, struct world *world, int seconds)
{
	for (int i = 0; i < seconds * TICKS; i++) {
		guest_tick(guest, world);
		world->now += SECOND / TICKS;
		if (i % TICKS)
			continue;
		world->sample.time_ns = world->now;
		world->sample.available = world->sample.total - guest->used;
		auto_decide(&world->state, &world->limits, &world->elastic, &world->sample,
			    world->now, &world->decision);
		world->elastic.requested = world->decision.target;
		if (world->decision.action == AUTO_HOLD)
			continue;
		guest->turns += world->decision.action != guest->last_action;
		guest->last_action = world->decision.action;
	}
}

static void test_simulated_load_steps_never_kill(void **state)
{
	static const uint64_t demands[] = {100, 700, 300, 3000, 500, 6000, 6500, 200};
	struct guest guest = {.used = MIB(100), .rate = MIB(100)};
	struct world world = world_create();

	for (size_t i = 0; i < ARRAY_SIZE(demands); i++) {
		guest.demand = MIB(demands[i]);
		simulate(&guest, &world, 300);
	}
	assert_int_equal(guest.kills, 0);
}

static void test_simulated_load_steps_do_not_oscillate(void **state)
{
	static const uint64_t demands[] = {100, 3000, 500, 6000};
	struct guest guest = {.used = MIB(100), .rate = MIB(100)};
	struct world world = world_create();

	for (size_t i = 0; i < ARRAY_SIZE(demands); i++) {
		guest.demand = MIB(demands[i]);
		simulate(&guest, &world, 600);
	}
	/*
	 * Up, down, up, and down again where the lead of fast growth turned out too much: at most
	 * one turn a step of the load and one for its overshoot.
	 */
	assert_in_range(guest.turns, 3, 6);
}

static void test_simulated_swinging_load_settles(void **state)
{
	struct guest guest = {.used = GIB(2), .rate = MIB(100)};
	struct world world = world_create();

	world.elastic.requested = world.elastic.plugged = GIB(3);
	for (int i = 0; i < 60; i++) {
		guest.demand = GIB(2) + (i % 2 ? MIB(100) : 0);
		simulate(&guest, &world, 20);
	}
	assert_int_equal(guest.kills, 0);
	assert_in_range(guest.turns, 0, 2);
}

static void test_simulated_idle_guest_gives_back(void **state)
{
	struct guest guest = {.used = MIB(150), .demand = MIB(150), .rate = MIB(100)};
	struct world world = world_create();

	world.elastic.requested = world.elastic.plugged = GIB(8);
	simulate(&guest, &world, 400);
	assert_in_range(world.elastic.plugged, 0, MIB(256));
}

static void test_simulated_burst_of_a_gigabyte_a_second_ends_with_what_it_needs(void **state)
{
	struct guest guest = {.used = MIB(100), .demand = GIB(5), .rate = GIB(1)};
	struct world world = world_create();

	/* The first second overruns 512 MiB, whatever the policy; after that it must keep up
	 * quickly. */
	simulate(&guest, &world, 20);
	assert_int_equal(guest.used, GIB(5));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_statistics_nothing_happens),
	    cmocka_unit_test(test_a_request_below_the_minimum_is_raised_even_without_statistics),
	    cmocka_unit_test(test_a_request_above_the_maximum_is_lowered),
	    cmocka_unit_test(test_an_idle_guest_with_enough_is_left_alone),
	    cmocka_unit_test(test_low_available_memory_grows_to_use_and_a_quarter),
	    cmocka_unit_test(test_growth_is_at_least_one_memory_block_of_the_guest),
	    cmocka_unit_test(test_targets_are_whole_blocks),
	    cmocka_unit_test(test_a_fast_growing_guest_gets_three_seconds_in_advance),
	    cmocka_unit_test(test_memory_on_its_way_is_not_asked_for_again),
	    cmocka_unit_test(test_an_oom_kill_doubles_the_guest),
	    cmocka_unit_test(test_swapping_with_little_available_grows),
	    cmocka_unit_test(test_swapping_with_much_available_only_ends_the_calm),
	    cmocka_unit_test(test_a_trickle_of_swap_is_no_pressure),
	    cmocka_unit_test(test_stalled_allocations_with_little_available_grow),
	    cmocka_unit_test(test_growth_stops_at_the_maximum),
	    cmocka_unit_test(test_growth_stops_where_boot_memory_cannot_describe_more),
	    cmocka_unit_test(test_a_step_needs_no_more_page_array_than_half_of_what_is_available),
	    cmocka_unit_test(test_with_nothing_available_half_a_gigabyte_is_asked_for),
	    cmocka_unit_test(test_a_blocked_device_is_not_asked_for_more),
	    cmocka_unit_test(test_shrinking_waits_for_thirty_seconds_of_calm),
	    cmocka_unit_test(test_a_shrink_takes_an_eighth_of_the_surplus),
	    cmocka_unit_test(test_shrinks_are_ten_seconds_apart),
	    cmocka_unit_test(test_nothing_more_is_taken_while_the_guest_still_gives_back),
	    cmocka_unit_test(test_shrinking_ends_at_the_minimum),
	    cmocka_unit_test(test_shrinking_leaves_twice_the_growth_reserve),
	    cmocka_unit_test(test_less_than_a_memory_block_is_not_taken_back),
	    cmocka_unit_test(test_major_faults_keep_memory_where_it_is),
	    cmocka_unit_test(test_a_guest_silent_under_pressure_gets_one_step),
	    cmocka_unit_test(test_a_guest_silent_in_comfort_is_left_alone),
	    cmocka_unit_test(test_counters_that_go_backwards_are_a_new_guest),
	    cmocka_unit_test(test_absurd_samples_stay_within_the_limits),
	    cmocka_unit_test(test_growth_is_spread_in_proportion_to_room),
	    cmocka_unit_test(test_growth_is_rounded_up_and_shrinking_down),
	    cmocka_unit_test(test_spreading_respects_each_maximum_and_minimum),
	    cmocka_unit_test(test_simulated_load_steps_never_kill),
	    cmocka_unit_test(test_simulated_load_steps_do_not_oscillate),
	    cmocka_unit_test(test_simulated_swinging_load_settles),
	    cmocka_unit_test(test_simulated_idle_guest_gives_back),
	    cmocka_unit_test(test_simulated_burst_of_a_gigabyte_a_second_ends_with_what_it_needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
