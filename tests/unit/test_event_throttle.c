/* SPDX-License-Identifier: BSD-2-Clause */
/* Which events go out at once, and which wait for their second to pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/clock.h"
#include "control/event_throttle.h"

struct fixture {
	struct event_loop *loop;
	struct event_throttle *throttle;
	struct event_timer *end;
	char log[512]; /* "EVENT value;" in the order they went out */
};

static void emit(void *context, json_t *event)
{
	struct fixture *fixture = context;
	size_t used = strlen(fixture->log);
	json_t *data = json_object_get(event, "data");

	snprintf(fixture->log + used, sizeof(fixture->log) - used, "%s %d;",
		 json_string_value(json_object_get(event, "event")),
		 (int)json_integer_value(json_object_get(data, "size")));
}

static void stop_loop(void *context)
{
	event_loop_stop(context);
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_null(event_loop_create(&fixture->loop));
	assert_null(event_throttle_create(fixture->loop, emit, fixture, &fixture->throttle));
	assert_null(event_timer_create(fixture->loop, stop_loop, fixture->loop, &fixture->end));
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;

	event_timer_destroy(fixture->end);
	event_throttle_destroy(fixture->throttle);
	event_loop_destroy(fixture->loop);
	free(fixture);
	return 0;
}

static void submit(struct fixture *fixture, const char *name, const char *id, int size)
{
	json_t *data = json_pack("{s:s,s:i}", "id", id, "size", size);

	event_throttle_submit(fixture->throttle, name, data);
	json_decref(data);
}

static void run_for(struct fixture *fixture, int64_t ns)
{
	event_timer_arm(fixture->end, ns);
	event_loop_run(fixture->loop);
}

static void ordinary_events_all_go_out(void **state)
{
	struct fixture *fixture = *state;

	submit(fixture, "STOP", "", 1);
	submit(fixture, "STOP", "", 2);
	assert_string_equal(fixture->log, "STOP 1;STOP 2;");
}

static void first_goes_at_once_and_the_last_of_the_rest_after_a_second(void **state)
{
	struct fixture *fixture = *state;

	for (int i = 1; i <= 5; i++)
		submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", "hot0", i);
	assert_string_equal(fixture->log, "MEMORY_DEVICE_SIZE_CHANGE 1;");
	run_for(fixture, NS_PER_SECOND / 20);
	assert_string_equal(fixture->log, "MEMORY_DEVICE_SIZE_CHANGE 1;");
	run_for(fixture, NS_PER_SECOND * 6 / 5);
	assert_string_equal(fixture->log,
			    "MEMORY_DEVICE_SIZE_CHANGE 1;MEMORY_DEVICE_SIZE_CHANGE 5;");
}

static void subjects_do_not_hold_each_other_back(void **state)
{
	struct fixture *fixture = *state;

	submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", "hot0", 1);
	submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", "hot1", 2);
	submit(fixture, "MEMORY_UNPLUGGED_ACCESS", "hot0", 3);
	assert_string_equal(fixture->log, "MEMORY_DEVICE_SIZE_CHANGE 1;MEMORY_DEVICE_SIZE_CHANGE 2;"
					  "MEMORY_UNPLUGGED_ACCESS 3;");
}

static void flush_sends_what_waits(void **state)
{
	struct fixture *fixture = *state;

	submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", "", 1);
	submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", "", 2);
	event_throttle_flush(fixture->throttle);
	assert_string_equal(fixture->log,
			    "MEMORY_DEVICE_SIZE_CHANGE 1;MEMORY_DEVICE_SIZE_CHANGE 2;");
}

static void more_subjects_than_room_lose_nothing(void **state)
{
	struct fixture *fixture = *state;
	int separators = 0;

	for (int i = 0; i < 100; i++) {
		char id[16];

		snprintf(id, sizeof(id), "d%d", i);
		fixture->log[0] = '\0';
		submit(fixture, "MEMORY_DEVICE_SIZE_CHANGE", id, i);
		separators += fixture->log[0] != '\0';
	}
	assert_int_equal(separators, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(ordinary_events_all_go_out, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(
		first_goes_at_once_and_the_last_of_the_rest_after_a_second, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(subjects_do_not_hold_each_other_back, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(flush_sends_what_waits, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(more_subjects_than_room_lose_nothing, set_up,
					    tear_down),
	};

	return cmocka_run_group_tests_name("event_throttle", tests, NULL, NULL);
}
