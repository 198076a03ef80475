/* SPDX-License-Identifier: BSD-2-Clause */
/* Events on their way to a handover. */
#include "cmocka_prelude.h"

#include <pthread.h>

#include "migration/handover_queue.h"

static void events_come_in_their_order(void **state)
{
	struct handover_queue queue;
	enum handover_event event;

	handover_queue_init(&queue);
	for (int i = 0; i < HANDOVER_QUEUE_SIZE; i++)
		assert_true(
		    handover_queue_post(&queue, (enum handover_event)(i % HANDOVER_EVENTS)));
	for (int i = 0; i < HANDOVER_QUEUE_SIZE; i++) {
		assert_true(handover_queue_take(&queue, -1, &event));
		assert_int_equal(event, i % HANDOVER_EVENTS);
	}
	handover_queue_destroy(&queue);
}

static void nothing_comes_in_time(void **state)
{
	struct handover_queue queue;
	enum handover_event event;

	handover_queue_init(&queue);
	assert_false(handover_queue_take(&queue, 1, &event));
	assert_false(handover_queue_is_closed(&queue));
	handover_queue_destroy(&queue);
}

static void *post_too_many(void *context)
{
	for (int i = 0; i < 3 * HANDOVER_QUEUE_SIZE; i++)
		if (!handover_queue_post(context, HANDOVER_EVENT_GO))
			return NULL;
	return context;
}

static void who_posts_too_many_waits(void **state)
{
	struct handover_queue queue;
	enum handover_event event;
	pthread_t thread;
	void *result;

	handover_queue_init(&queue);
	assert_int_equal(pthread_create(&thread, NULL, post_too_many, &queue), 0);
	for (int i = 0; i < 3 * HANDOVER_QUEUE_SIZE; i++)
		assert_true(handover_queue_take(&queue, -1, &event));
	pthread_join(thread, &result);
	assert_ptr_equal(result, &queue);
	handover_queue_destroy(&queue);
}

static void nobody_waits_once_it_is_closed(void **state)
{
	struct handover_queue queue;
	enum handover_event event;
	pthread_t thread;
	void *result;

	handover_queue_init(&queue);
	assert_int_equal(pthread_create(&thread, NULL, post_too_many, &queue), 0);
	handover_queue_close(&queue);
	pthread_join(thread, &result);
	assert_null(result);
	assert_true(handover_queue_is_closed(&queue));
	assert_false(handover_queue_take(&queue, -1, &event));
	handover_queue_destroy(&queue);
}

static void messages_of_the_handover_are_its_events(void **state)
{
	uint32_t found = 0;

	for (int type = 1; type < MIGRATION_MESSAGE_TYPES; type++) {
		enum handover_event event;

		if (!handover_event_of_message((enum migration_message_type)type, &event))
			continue;
		assert_string_equal(migration_message_name((enum migration_message_type)type),
				    handover_event_name(event));
		found++;
	}
	for (int event = 0; event < HANDOVER_EVENTS; event++) {
		enum handover_class class = handover_event_class((enum handover_event)event);

		found -= class == HANDOVER_TO_SOURCE || class == HANDOVER_TO_DESTINATION;
	}
	assert_int_equal(found, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(events_come_in_their_order),
	    cmocka_unit_test(nothing_comes_in_time),
	    cmocka_unit_test(who_posts_too_many_waits),
	    cmocka_unit_test(nobody_waits_once_it_is_closed),
	    cmocka_unit_test(messages_of_the_handover_are_its_events),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
