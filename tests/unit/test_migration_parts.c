/* SPDX-License-Identifier: BSD-2-Clause */
/* Parts of a migration that stand alone: its threads, and the limit of bandwidth. */
#include "cmocka_prelude.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "migration/bandwidth.h"
#include "migration/state_collect.h"
#include "migration/worker_pool.h"

/* --- Workers ----------------------------------------------------------------------------------- */

static void add_one(void *context)
{
	__atomic_fetch_add((uint32_t *)context, 1, __ATOMIC_RELAXED);
}

static void test_jobs_are_done(void **unused)
{
	struct worker_job jobs[100];
	struct worker_pool *pool;
	uint32_t done = 0;

	assert_no_error(worker_pool_create("test", 3, &pool));
	for (int i = 0; i < 100; i++) {
		jobs[i] = (struct worker_job){.run = add_one, .context = &done};
		worker_pool_submit(pool, &jobs[i]);
	}
	worker_pool_wait(pool, &jobs[99]);
	worker_pool_wait(pool, &jobs[0]);
	worker_pool_submit(pool, &jobs[0]); /* again */
	worker_pool_wait(pool, &jobs[0]);
	worker_pool_destroy(pool);
	assert_int_equal(done, 101);
}

static void wait_for_four(void *context)
{
	pthread_barrier_wait(context);
}

/* All threads exist, and work at the same time. */
static void test_jobs_run_beside_each_other(void **unused)
{
	struct worker_job jobs[4];
	struct worker_pool *pool;
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, 4);
	assert_no_error(worker_pool_create("test", 4, &pool));
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct worker_job){.run = wait_for_four, .context = &barrier};
		worker_pool_submit(pool, &jobs[i]);
	}
	worker_pool_destroy(pool);
	pthread_barrier_destroy(&barrier);
}

/* --- Bandwidth --------------------------------------------------------------------------------- */

static void test_limit_without_a_clock(void **unused)
{
	int64_t free_at = 0, now = 1000 * NS_PER_SECOND, when = 0;

	/* 10 MiB a second, taken by the mebibyte: after the first burst, one every 100 ms. */
	for (int i = 0; i < 50; i++)
		when = bandwidth_schedule(&free_at, now, MIB(10), MIB(1));
	assert_in_range(when - now, 4750 * NS_PER_MS, 4900 * NS_PER_MS);
	/* Late takers wait no longer than the rate asks for, and gain nothing by their pause. */
	now += 3600 * NS_PER_SECOND;
	assert_true(bandwidth_schedule(&free_at, now, MIB(10), MIB(1)) <= now);
	when = bandwidth_schedule(&free_at, now, MIB(10), MIB(1));
	assert_in_range(when - now, 0, 100 * NS_PER_MS);
	/* Nothing wraps. */
	bandwidth_schedule(&free_at, now, 1, UINT64_MAX);
	assert_true(free_at > now);
	assert_true(bandwidth_schedule(&free_at, now, 1, UINT64_MAX) > now);
	assert_true(free_at > now);
}

static void *take_much(void *context)
{
	return bandwidth_take(context, GIB(100)) && bandwidth_take(context, 1) ? context : NULL;
}

static void check_waiting(void (*end)(struct bandwidth *), bool taken)
{
	struct bandwidth *bandwidth;
	pthread_t thread;
	void *result;

	assert_no_error(bandwidth_create(1, &bandwidth));
	assert_int_equal(bandwidth_rate(bandwidth), 1);
	assert_int_equal(pthread_create(&thread, NULL, take_much, bandwidth), 0);
	usleep(10000);
	end(bandwidth);
	pthread_join(thread, &result);
	assert_int_equal(result != NULL, taken);
	bandwidth_destroy(bandwidth);
}

static void lift(struct bandwidth *bandwidth)
{
	bandwidth_set(bandwidth, 0);
}

static void test_who_waits_goes_on_when_the_limit_is_lifted(void **unused)
{
	check_waiting(lift, true);
}

static void hurry(struct bandwidth *bandwidth)
{
	bandwidth_set_hurry(bandwidth, true);
}

static void test_nobody_waits_in_a_hurry(void **unused)
{
	check_waiting(hurry, true);
}

static void test_who_waits_can_be_cancelled(void **unused)
{
	check_waiting(bandwidth_cancel, false);
}

/* --- Whole states ------------------------------------------------------------------------------ */

static void test_states_are_collected(void **unused)
{
	struct state_collector *collector;
	size_t size;

	assert_no_error(state_collector_create(3, 20, &collector));
	assert_no_error(state_collector_add(collector, 0, "abc", 3, false));
	assert_no_error(state_collector_add(collector, 2, "x", 1, true));
	assert_null(state_collector_bytes(collector, 0, &size));
	assert_no_error(state_collector_add(collector, 0, "defghij", 7, false));
	assert_no_error(state_collector_add(collector, 0, NULL, 0, true));
	assert_memory_equal(state_collector_bytes(collector, 0, &size), "abcdefghij", 10);
	assert_int_equal(size, 10);
	assert_memory_equal(state_collector_bytes(collector, 2, &size), "x", 1);
	assert_no_error(state_collector_add(collector, 1, NULL, 0, true));
	assert_non_null(state_collector_bytes(collector, 1, &size));
	assert_int_equal(size, 0);
	state_collector_destroy(collector);
}

static void test_too_much_state_is_refused(void **unused)
{
	struct state_collector *collector;

	assert_no_error(state_collector_create(2, 5, &collector));
	assert_no_error(state_collector_add(collector, 0, "abc", 3, false));
	assert_error_with(state_collector_add(collector, 1, "abc", 3, false), "more than 5 bytes");
	state_collector_destroy(collector);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_jobs_are_done),
	    cmocka_unit_test(test_jobs_run_beside_each_other),
	    cmocka_unit_test(test_limit_without_a_clock),
	    cmocka_unit_test(test_who_waits_goes_on_when_the_limit_is_lifted),
	    cmocka_unit_test(test_nobody_waits_in_a_hurry),
	    cmocka_unit_test(test_who_waits_can_be_cancelled),
	    cmocka_unit_test(test_states_are_collected),
	    cmocka_unit_test(test_too_much_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
