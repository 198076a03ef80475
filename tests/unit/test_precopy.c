/* SPDX-License-Identifier: BSD-2-Clause */
/* The rounds of a pre-copy migration, with a made-up guest, connection and clock. */
#include "cmocka_prelude.h"

#include <string.h>

#include "base/clock.h"
#include "migration/precopy.h"

#define PAGE	  4096.0
#define GIB_PAGES (1u << 18)

/* A guest that writes to so many other pages a second, and a connection. */
struct world {
	int64_t now;
	uint64_t memory, pending, sent; /* pages */
	double writes, sends;		/* pages a second */
	double zeros;			/* of what is sent: pages without content */
	int64_t collected_ns;
	uint32_t rounds, cancel_at, slower_at;
	bool fails, slows, bursts;
	uint32_t slowed; /* how often */
	double speed;
	struct precopy precopy;
};

static struct error *collect(void *context, uint64_t *pages, uint64_t *written)
{
	struct world *world = context;
	double fresh = world->writes * (double)(world->now - world->collected_ns) / NS_PER_SECOND;

	*written = !world->rounds		   ? world->memory
		   : fresh > (double)world->memory ? world->memory
						   : (uint64_t)fresh;
	world->pending = *pages = *written;
	world->collected_ns = world->now;
	return NULL;
}

static struct error *send(void *context)
{
	struct world *world = context;
	double content = (double)world->pending * (1 - world->zeros);

	world->rounds++;
	if (world->fails)
		return error_new(ECONNRESET, "the connection broke");
	if (world->bursts)
		world->writes = world->rounds % 2 ? 10000 : 1000000;
	if (world->rounds == world->slower_at)
		world->writes /= 100;
	world->now += (int64_t)(content / world->sends * NS_PER_SECOND) + 1000;
	world->sent += (uint64_t)content;
	world->pending = 0;
	return NULL;
}

static uint64_t sent(void *context)
{
	return ((struct world *)context)->sent;
}

static int64_t now(void *context)
{
	return ((struct world *)context)->now;
}

static bool stopping(void *context)
{
	struct world *world = context;

	return world->cancel_at && world->rounds >= world->cancel_at;
}

static double slow(void *context, double factor)
{
	struct world *world = context;

	assert_true(factor > 0 && factor < 1);
	world->slowed++;
	world->writes *= factor;
	world->speed *= factor;
	return world->speed;
}

static const struct precopy_ops ops = {
    .collect = collect, .send = send, .sent = sent, .now = now, .stopping = stopping, .slow = slow};

static struct world make(double writes, double sends)
{
	return (struct world){.now = NS_PER_SECOND,
			      .speed = 1,
			      .memory = GIB_PAGES,
			      .writes = writes,
			      .sends = sends};
}

static struct error *run(struct world *world, int64_t downtime_ms)
{
	precopy_init(&world->precopy, &ops, world, downtime_ms * NS_PER_MS);
	if (world->slows)
		precopy_slow_guests(&world->precopy);
	return precopy_run(&world->precopy);
}

static void check_code(struct error *error, int code)
{
	assert_non_null(error);
	assert_int_equal(error_code(error), code);
	error_free(error);
}

static void idle_guest_is_sent_once(void **state)
{
	struct world world = make(0, 100000);

	assert_null(run(&world, 300));
	assert_int_equal(world.rounds, 1);
	assert_int_equal(world.sent, GIB_PAGES);
	precopy_clear(&world.precopy);
}

static void rest_fits_into_the_downtime(void **state)
{
	for (int64_t ms = 20; ms <= 2000; ms *= 10) {
		struct world world = make(20000, 100000);

		assert_null(run(&world, ms));
		/* What is left is sent while it stands still. */
		assert_true((double)world.pending / world.sends * 1000 < (double)ms);
		precopy_clear(&world.precopy);
	}
}

static void longer_downtime_needs_fewer_rounds(void **state)
{
	struct world strict = make(60000, 100000), lax = make(60000, 100000);

	assert_null(run(&strict, 20));
	assert_null(run(&lax, 1000));
	assert_true(lax.rounds < strict.rounds);
	precopy_clear(&strict.precopy);
	precopy_clear(&lax.precopy);
}

static void rest_that_halves_with_each_round_becomes_short(void **state)
{
	struct world world = make(40000, 100000);

	assert_null(run(&world, 2000));
	assert_true((double)world.pending / world.sends * 1000 < 10);
	/* For not much more time than the rest would have taken that was allowed: 1 s, after 2.6 s. */
	assert_true(world.now - NS_PER_SECOND < 5 * NS_PER_SECOND);
	precopy_clear(&world.precopy);
}

/* A rest that is allowed is not given away again and again for a shorter one that does not come. */
static void guest_that_writes_in_bursts_is_moved_between_two(void **state)
{
	struct world world = make(0, 100000);

	world.bursts = true;
	world.cancel_at = 20;
	assert_no_error(run(&world, 500));
	assert_int_equal(world.rounds, 3);
	precopy_clear(&world.precopy);
}

static void nothing_left_is_enough_for_any_downtime(void **state)
{
	struct world world = make(0, 1000);

	assert_null(run(&world, 1));
	assert_int_equal(world.rounds, 1);
	precopy_clear(&world.precopy);
}

/* A round of zeros goes by fast, which says nothing about pages with content. */
static void zeros_do_not_count_as_speed(void **state)
{
	struct world world = make(1000, 10000);
	struct precopy_progress progress;

	world.zeros = 0.99;
	assert_null(run(&world, 100));
	precopy_get_progress(&world.precopy, &progress);
	assert_true((double)progress.send_rate < 1.1 * world.sends * PAGE);
	precopy_clear(&world.precopy);
}

static void guest_that_writes_faster_than_the_connection_goes_on_until_cancelled(void **state)
{
	struct world world = make(200000, 100000);
	struct precopy_progress progress;
	char why[256];

	world.cancel_at = 20;
	check_code(run(&world, 300), ECANCELED);
	assert_int_equal(world.rounds, 20);
	precopy_get_progress(&world.precopy, &progress);
	assert_int_equal(progress.time_ns, -1);
	precopy_explain(&progress, 300 * NS_PER_MS, why, sizeof(why));
	assert_non_null(strstr(why, "the guest writes to"));
	precopy_clear(&world.precopy);
}

static void downtime_that_is_too_short_is_said(void **state)
{
	struct world world = make(99000, 100000);
	struct precopy_progress progress;
	char why[256];

	/* Less each round, until it is as little as a round itself costs. */
	world.cancel_at = 2000;
	check_code(run(&world, 5), ECANCELED);
	precopy_get_progress(&world.precopy, &progress);
	progress.stalled = 3;
	precopy_explain(&progress, 5 * NS_PER_MS, why, sizeof(why));
	assert_non_null(strstr(why, "allow a longer downtime"));
	precopy_clear(&world.precopy);
}

static void nothing_is_said_while_it_gets_on(void **state)
{
	struct world world = make(50000, 100000);
	struct precopy_progress progress;
	char why[256];

	world.cancel_at = 3;
	check_code(run(&world, 6), ECANCELED);
	precopy_get_progress(&world.precopy, &progress);
	precopy_explain(&progress, 6 * NS_PER_MS, why, sizeof(why));
	assert_string_equal(why, "");
	assert_true(progress.time_ns > 0);
	precopy_clear(&world.precopy);
}

static void guest_that_calms_down_is_moved(void **state)
{
	struct world world = make(200000, 100000);

	world.slower_at = 10;
	world.cancel_at = 50;
	assert_null(run(&world, 300));
	assert_true(world.rounds >= 10 && world.rounds < 20);
	precopy_clear(&world.precopy);
}

static void expected_time_is_near(void **state)
{
	struct world world = make(50000, 100000), early = make(50000, 100000);
	struct precopy_progress progress;
	int64_t expected;

	early.cancel_at = 1;
	check_code(run(&early, 50), ECANCELED);
	early.cancel_at = 2;
	precopy_clear(&early.precopy);
	early = make(50000, 100000);
	early.cancel_at = 2;
	check_code(run(&early, 50), ECANCELED);
	precopy_get_progress(&early.precopy, &progress);
	/* Foreseen at the beginning of the second round, which has been sent since. */
	expected = progress.time_ns + early.collected_ns;
	assert_null(run(&world, 50));
	assert_true(expected > world.now * 8 / 10 && expected < world.now * 12 / 10);
	precopy_clear(&early.precopy);
	precopy_clear(&world.precopy);
}

static void error_of_the_connection_ends_it(void **state)
{
	struct world world = make(0, 1000);

	world.fails = true;
	check_code(run(&world, 300), ECONNRESET);
	precopy_clear(&world.precopy);
}

static void other_limit_counts_from_the_next_round_on(void **state)
{
	struct world world = make(60000, 100000);

	precopy_init(&world.precopy, &ops, &world, 1 * NS_PER_MS);
	precopy_set_max_downtime(&world.precopy, 60 * NS_PER_SECOND);
	assert_int_equal(precopy_max_downtime(&world.precopy), 60 * NS_PER_SECOND);
	assert_null(precopy_run(&world.precopy));
	assert_int_equal(world.rounds, 1);
	precopy_clear(&world.precopy);
}

static void numbers_of_an_extreme_world_do_not_overflow(void **state)
{
	struct world world = make(1e12, 1e-3);

	world.memory = 1ULL << 40;
	world.cancel_at = 3;
	check_code(run(&world, 1), ECANCELED);
	precopy_clear(&world.precopy);
}

static void test_guest_that_writes_too_fast_is_slowed(void **unused)
{
	struct world world = make(200000, 100000);
	struct precopy_progress progress;

	world.slows = true;
	world.cancel_at = 40;
	assert_no_error(run(&world, 300));
	precopy_get_progress(&world.precopy, &progress);
	assert_true(world.slowed > 0);
	assert_true(progress.speed == world.speed);
	/* To half of what is sent, and not much slower. */
	assert_true(world.speed <= 0.26 && world.speed > 0.1);
	precopy_clear(&world.precopy);
}

/* One that writes to all of its memory in less than a round shows how fast only as it is slowed. */
static void test_guest_that_writes_to_everything_is_slowed_until_it_does_not(void **unused)
{
	struct world world = make(100000000, 100000);

	world.slows = true;
	world.cancel_at = 40;
	assert_no_error(run(&world, 300));
	assert_true(world.speed < 0.001);
	precopy_clear(&world.precopy);
}

static void test_guest_that_is_no_trouble_is_not_slowed(void **unused)
{
	struct world world = make(20000, 100000);

	world.slows = true;
	assert_no_error(run(&world, 300));
	assert_int_equal(world.slowed, 0);
	precopy_clear(&world.precopy);
}

static void test_status_says_that_the_guest_is_slowed(void **unused)
{
	const struct precopy_progress progress = {.phase = PRECOPY_AGAIN,
						  .stalled = 5,
						  .send_rate = 1 << 20,
						  .write_rate = 2 << 20,
						  .speed = 0.01};
	struct precopy_progress full = progress;
	char why[512];

	precopy_explain(&progress, 300 * NS_PER_MS, why, sizeof(why));
	assert_non_null(strstr(why, "the guest, slowed to 1 % of its time, writes to 2"));
	assert_null(strstr(why, "--auto-converge"));
	full.speed = 1;
	precopy_explain(&full, 300 * NS_PER_MS, why, sizeof(why));
	assert_non_null(strstr(why, "the guest writes to 2"));
	assert_non_null(strstr(why, "let --auto-converge slow it down, or cancel"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(idle_guest_is_sent_once),
	    cmocka_unit_test(rest_fits_into_the_downtime),
	    cmocka_unit_test(longer_downtime_needs_fewer_rounds),
	    cmocka_unit_test(rest_that_halves_with_each_round_becomes_short),
	    cmocka_unit_test(guest_that_writes_in_bursts_is_moved_between_two),
	    cmocka_unit_test(nothing_left_is_enough_for_any_downtime),
	    cmocka_unit_test(zeros_do_not_count_as_speed),
	    cmocka_unit_test(guest_that_writes_faster_than_the_connection_goes_on_until_cancelled),
	    cmocka_unit_test(downtime_that_is_too_short_is_said),
	    cmocka_unit_test(nothing_is_said_while_it_gets_on),
	    cmocka_unit_test(guest_that_calms_down_is_moved),
	    cmocka_unit_test(expected_time_is_near),
	    cmocka_unit_test(error_of_the_connection_ends_it),
	    cmocka_unit_test(other_limit_counts_from_the_next_round_on),
	    cmocka_unit_test(numbers_of_an_extreme_world_do_not_overflow),
	    cmocka_unit_test(test_guest_that_writes_too_fast_is_slowed),
	    cmocka_unit_test(test_guest_that_writes_to_everything_is_slowed_until_it_does_not),
	    cmocka_unit_test(test_guest_that_is_no_trouble_is_not_slowed),
	    cmocka_unit_test(test_status_says_that_the_guest_is_slowed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
