/* SPDX-License-Identifier: BSD-2-Clause */
/* The event loop: sources, timers, calls from other threads, and removal from within handlers. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/event_loop.h"

struct fixture {
	struct event_loop *loop;
	int fds[3];
	struct event_source *sources[3];
	struct event_timer *timers[2];
	unsigned int calls[3];
	unsigned int order[8], order_count;
	pthread_t thread;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_null(event_loop_create(&f->loop));
	for (int i = 0; i < 3; i++)
		f->fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	event_loop_join(f->loop);
	event_loop_destroy(f->loop);
	for (int i = 0; i < 3; i++)
		close(f->fds[i]);
	free(f);
	return 0;
}

static void signal_fd(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void stop(void *context)
{
	struct fixture *f = context;

	event_loop_stop(f->loop);
}

/* Stops the loop at its next turn, so that what is ready now has been handled. */
static void stop_soon(struct fixture *f)
{
	assert_null(event_timer_create(f->loop, stop, f, &f->timers[1]));
	event_timer_arm(f->timers[1], 20 * NS_PER_MS);
}

static void count_0(void *context, uint32_t events)
{
	struct fixture *f = context;

	f->calls[0]++;
	stop(f);
}

static void a_ready_descriptor_calls_its_handler(void **state)
{
	struct fixture *f = *state;

	assert_null(event_loop_add(f->loop, f->fds[0], EPOLLIN, count_0, f, &f->sources[0]));
	signal_fd(f->fds[0]);
	event_loop_run(f->loop);
	assert_int_equal(f->calls[0], 1);
}

static void remove_all(void *context, uint32_t events)
{
	struct fixture *f = context;

	f->calls[0]++;
	for (int i = 0; i < 3; i++) {
		event_source_remove(f->sources[i]);
		f->sources[i] = NULL;
	}
}

static void sources_removed_in_a_handler_are_not_called_from_the_same_batch(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++) {
		assert_null(
		    event_loop_add(f->loop, f->fds[i], EPOLLIN, remove_all, f, &f->sources[i]));
		signal_fd(f->fds[i]);
	}
	stop_soon(f);
	event_loop_run(f->loop);
	assert_int_equal(f->calls[0], 1);
}

static void silence_all(void *context, uint32_t events)
{
	struct fixture *f = context;

	f->calls[0]++;
	for (int i = 0; i < 3; i++)
		event_source_set_events(f->sources[i], 0);
}

static void a_source_silenced_in_a_handler_is_not_called_from_the_same_batch(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++) {
		assert_null(
		    event_loop_add(f->loop, f->fds[i], EPOLLIN, silence_all, f, &f->sources[i]));
		signal_fd(f->fds[i]);
	}
	stop_soon(f);
	event_loop_run(f->loop);
	assert_int_equal(f->calls[0], 1);
}

static void note_0(void *context)
{
	struct fixture *f = context;

	f->order[f->order_count++] = 0;
}

static void note_1_and_stop(void *context)
{
	struct fixture *f = context;

	f->order[f->order_count++] = 1;
	stop(f);
}

static void timers_fire_in_order_of_expiry(void **state)
{
	struct fixture *f = *state;

	assert_null(event_timer_create(f->loop, note_1_and_stop, f, &f->timers[1]));
	assert_null(event_timer_create(f->loop, note_0, f, &f->timers[0]));
	event_timer_arm(f->timers[1], 10 * NS_PER_MS);
	event_timer_arm(f->timers[0], 2 * NS_PER_MS);
	event_loop_run(f->loop);
	assert_int_equal(f->order_count, 2);
	assert_int_equal(f->order[0], 0);
	assert_int_equal(f->order[1], 1);
}

static void a_timer_does_not_fire_early(void **state)
{
	struct fixture *f = *state;
	int64_t start = clock_monotonic_ns();

	assert_null(event_timer_create(f->loop, note_1_and_stop, f, &f->timers[0]));
	event_timer_arm(f->timers[0], 5 * NS_PER_MS);
	event_loop_run(f->loop);
	assert_true(clock_monotonic_ns() - start >= 5 * NS_PER_MS);
}

static void a_cancelled_timer_does_not_fire(void **state)
{
	struct fixture *f = *state;

	assert_null(event_timer_create(f->loop, note_0, f, &f->timers[0]));
	event_timer_arm(f->timers[0], NS_PER_MS);
	event_timer_cancel(f->timers[0]);
	stop_soon(f);
	event_loop_run(f->loop);
	assert_int_equal(f->order_count, 0);
}

static void destroy_both_timers(void *context)
{
	struct fixture *f = context;

	f->calls[0]++;
	event_timer_destroy(f->timers[0]);
	event_timer_destroy(f->timers[1]);
	stop(f);
}

static void a_timer_callback_may_destroy_due_timers_and_itself(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		assert_null(event_timer_create(f->loop, destroy_both_timers, f, &f->timers[i]));
		event_timer_arm(f->timers[i], 0);
	}
	event_loop_run(f->loop);
	assert_int_equal(f->calls[0], 1);
}

static void posts_run_in_order(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(event_loop_post(f->loop, note_0, f), 0);
	assert_int_equal(event_loop_post(f->loop, note_1_and_stop, f), 0);
	event_loop_run(f->loop);
	assert_int_equal(f->order_count, 2);
	assert_int_equal(f->order[0], 0);
}

static void note_thread(void *context)
{
	struct fixture *f = context;

	f->thread = pthread_self();
}

static void a_call_runs_on_the_loops_thread(void **state)
{
	struct fixture *f = *state;

	assert_null(event_loop_start_thread(f->loop, "test"));
	f->thread = pthread_self();
	event_loop_call(f->loop, note_thread, f);
	assert_false(pthread_equal(f->thread, pthread_self()));
}

static void a_call_to_a_loop_that_runs_nowhere_is_direct(void **state)
{
	struct fixture *f = *state;

	event_loop_call(f->loop, note_thread, f);
	assert_true(pthread_equal(f->thread, pthread_self()));
}

static void call_itself(void *context)
{
	struct fixture *f = context;

	event_loop_call(f->loop, note_0, f);
	f->order[f->order_count++] = 1;
}

static void a_call_from_the_loops_own_thread_is_direct(void **state)
{
	struct fixture *f = *state;

	assert_null(event_loop_start_thread(f->loop, "test"));
	event_loop_call(f->loop, call_itself, f);
	assert_int_equal(f->order_count, 2);
	assert_int_equal(f->order[0], 0);
}

static void increment(void *context)
{
	struct fixture *f = context;

	f->calls[0]++;
}

static void *call_many(void *context)
{
	struct fixture *f = context;

	for (int i = 0; i < 1000; i++)
		event_loop_call(f->loop, increment, f);
	return NULL;
}

static void calls_from_several_threads_are_serialised(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[3];

	assert_null(event_loop_start_thread(f->loop, "test"));
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, call_many, f), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	event_loop_join(f->loop);
	assert_int_equal(f->calls[0], 3000);
}

static void a_loop_can_be_joined_and_started_again(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 100; i++) {
		assert_null(event_loop_start_thread(f->loop, "test"));
		if (i % 2)
			event_loop_call(f->loop, increment, f);
		event_loop_join(f->loop);
	}
	assert_int_equal(f->calls[0], 50);
}

static void posts_made_before_the_stop_are_not_lost(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 100; i++) {
		assert_null(event_loop_start_thread(f->loop, "test"));
		assert_int_equal(event_loop_post(f->loop, increment, f), 0);
		event_loop_join(f->loop);
	}
	assert_int_equal(f->calls[0], 100);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(a_ready_descriptor_calls_its_handler),
	    TEST(sources_removed_in_a_handler_are_not_called_from_the_same_batch),
	    TEST(a_source_silenced_in_a_handler_is_not_called_from_the_same_batch),
	    TEST(timers_fire_in_order_of_expiry),
	    TEST(a_timer_does_not_fire_early),
	    TEST(a_cancelled_timer_does_not_fire),
	    TEST(a_timer_callback_may_destroy_due_timers_and_itself),
	    TEST(posts_run_in_order),
	    TEST(a_call_runs_on_the_loops_thread),
	    TEST(a_call_to_a_loop_that_runs_nowhere_is_direct),
	    TEST(a_call_from_the_loops_own_thread_is_direct),
	    TEST(calls_from_several_threads_are_serialised),
	    TEST(a_loop_can_be_joined_and_started_again),
	    TEST(posts_made_before_the_stop_are_not_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
