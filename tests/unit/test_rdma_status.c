/* SPDX-License-Identifier: BSD-2-Clause */
/* RC: every way in which work can fail, and what becomes of the work after it. */
#include "rdma_network.h"

#define WRITE_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(7);
	return 0;
}

static int tear_down(void **state)
{
	network_destroy(*state);
	return 0;
}

static void connected(void **state, struct network **network, struct node **a, struct node **b)
{
	*network = *state;
	*a = &(*network)->nodes[0];
	*b = &(*network)->nodes[1];
	network_connect(*network, GODWIT_RDMA_RELIABLE, 1024);
}

#define CONNECTED                                                                                  \
	struct network *network;                                                                   \
	struct node *a, *b;                                                                        \
	connected(state, &network, &a, &b)

/* --- Statuses ---------------------------------------------------------------------------------- */

/* The work after one that failed is flushed, and so are receives. */
static void expect_failure(struct network *network, struct node *a, enum godwit_rdma_status status)
{
	post_receive(a, 50, 0, 10);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND, .id = 51}, 0, 1);
	network_run(network);
	assert_int_equal(godwit_rdma_pair_state(a->pair), GODWIT_RDMA_ERROR);
	assert_int_equal(a->count, 3);
	assert_int_equal(a->list[0].status, status);
	assert_int_equal(a->list[1].status, GODWIT_RDMA_FLUSHED);
	assert_int_equal(a->list[1].id, 51);
	assert_int_equal(a->list[2].status, GODWIT_RDMA_FLUSHED);
	assert_int_equal(a->list[2].id, 50);
}

static void peer_that_is_silent_ends_in_retries_exceeded(void **state)
{
	CONNECTED;

	network->loss = 1000;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 100);
	expect_failure(network, a, GODWIT_RDMA_RETRIES_EXCEEDED);
	/* The first and seven more. */
	assert_int_equal(network->packets[RDMA_WRITE_ONLY], 8);
}

static void peer_without_receives_ends_in_not_ready_exceeded(void **state)
{
	struct network *network = *state;
	struct godwit_rdma_attributes attributes = default_attributes(1024);

	attributes.not_ready_retries = 3;
	network_connect_as(network, GODWIT_RDMA_RELIABLE, attributes);
	post(&network->nodes[0], (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 100);
	expect_failure(network, &network->nodes[0], GODWIT_RDMA_NOT_READY_EXCEEDED);
	/* Two messages, four times. */
	assert_int_equal(network->packets[RDMA_SEND_ONLY], 8);
}

static void receive_that_comes_in_time_is_enough(void **state)
{
	CONNECTED;

	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 5000);
	for (int i = 0; i < 500; i++)
		network_step(network);
	assert_int_equal(a->count, 0);
	post_receive(b, 1, WRITE_AT, 5000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	expect_status(b, GODWIT_RDMA_SUCCESS);
}

static void message_that_is_too_long_fails_both_ends(void **state)
{
	CONNECTED;

	post_receive(b, 1, 0, 5000);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 5001);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_INVALID);
	expect_status(b, GODWIT_RDMA_LOCAL_LENGTH);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_ERROR);
}

static void receive_with_a_bad_key_fails_both_ends(void **state)
{
	CONNECTED;
	struct godwit_rdma_segment segment = segment_of(b, 0, 100);

	segment.key ^= 1;
	assert_int_equal(
	    godwit_rdma_pair_receive(b->pair, &(struct godwit_rdma_receive_work){1, &segment, 1}),
	    0);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 50);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_OPERATION);
	expect_status(b, GODWIT_RDMA_LOCAL_PROTECTION);
}

static void bad_key_is_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	/* The generation alone is another one. */
	work.remote_key ^= 1;
	post(a, work, 0, 8);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(b->events[GODWIT_RDMA_EVENT_BAD_ACCESS], 1);
	assert_int_equal(b->wrote, 0);
}

static void reading_past_the_end_is_refused(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_READ, b, MEMORY_SIZE - 99), 0, 100);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_ACCESS);
}

static void memory_that_is_gone_is_refused(void **state)
{
	CONNECTED;

	b->gone = true;
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 100);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_ACCESS);
}

static void region_that_goes_during_a_read_is_refused(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 100000);
	for (int i = 0; i < 20; i++)
		network_step(network);
	assert_int_equal(godwit_rdma_region_destroy(b->region), 0);
	b->region = NULL;
	expect_failure(network, a, GODWIT_RDMA_REMOTE_ACCESS);
}

static void atomic_that_is_not_aligned_is_invalid(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_FETCH_ADD, b, 4), 0, 8);
	expect_failure(network, a, GODWIT_RDMA_REMOTE_INVALID);
}

static void own_bad_key_fails_before_anything_is_sent(void **state)
{
	CONNECTED;
	struct godwit_rdma_segment segment = segment_of(a, MEMORY_SIZE - 10, 11);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	work.segments = &segment;
	work.segment_count = 1;
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), 0);
	expect_failure(network, a, GODWIT_RDMA_LOCAL_PROTECTION);
	assert_int_equal(network->packets[RDMA_WRITE_ONLY], 0);
}

static void own_memory_that_is_gone_fails(void **state)
{
	CONNECTED;

	a->gone = true;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 10);
	expect_failure(network, a, GODWIT_RDMA_LOCAL_PROTECTION);
}

static void atomic_of_another_size_fails_here(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_FETCH_ADD, b, 0), 0, 4);
	expect_failure(network, a, GODWIT_RDMA_LOCAL_LENGTH);
}

static void work_that_makes_no_sense_fails_here(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	work.flags = GODWIT_RDMA_WITH_INVALIDATE;
	post(a, work, 0, 4);
	expect_failure(network, a, GODWIT_RDMA_LOCAL_OPERATION);
}

static void what_failed_waits_for_what_was_before_it(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 10000);
	post(a, remote_work(GODWIT_RDMA_FETCH_ADD, b, 0), 0, 4);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_int_equal(a->list[0].status, GODWIT_RDMA_SUCCESS);
	assert_int_equal(a->list[1].status, GODWIT_RDMA_LOCAL_LENGTH);
}

static void work_before_a_refusal_succeeds(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), WRITE_AT, 30000);
	work.remote_key ^= 1;
	post(a, work, 0, 8);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_int_equal(a->list[0].status, GODWIT_RDMA_SUCCESS);
	assert_int_equal(a->list[1].status, GODWIT_RDMA_REMOTE_ACCESS);
}

static void failed_pair_flushes_what_is_posted_later(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_ERROR};

	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_FLUSHED);
	post_receive(a, 0, 0, 0);
	network_run(network);
	expect_status(a, GODWIT_RDMA_FLUSHED);
	assert_int_equal(b->count, 0);
}

static void drained_pair_begins_nothing(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_SQD};

	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 50000);
	network_step(network);
	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 50000);
	network_run(network);
	assert_int_equal(a->count, 1);
	assert_int_equal(a->events[GODWIT_RDMA_EVENT_DRAINED], 1);
	attributes.state = GODWIT_RDMA_RTS;
	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_memory_equal(a->memory, b->memory + WRITE_AT, 50000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(peer_that_is_silent_ends_in_retries_exceeded),
	    TEST(peer_without_receives_ends_in_not_ready_exceeded),
	    TEST(receive_that_comes_in_time_is_enough),
	    TEST(message_that_is_too_long_fails_both_ends),
	    TEST(receive_with_a_bad_key_fails_both_ends),
	    TEST(bad_key_is_refused),
	    TEST(reading_past_the_end_is_refused),
	    TEST(memory_that_is_gone_is_refused),
	    TEST(region_that_goes_during_a_read_is_refused),
	    TEST(atomic_that_is_not_aligned_is_invalid),
	    TEST(own_bad_key_fails_before_anything_is_sent),
	    TEST(own_memory_that_is_gone_fails),
	    TEST(atomic_of_another_size_fails_here),
	    TEST(work_that_makes_no_sense_fails_here),
	    TEST(what_failed_waits_for_what_was_before_it),
	    TEST(work_before_a_refusal_succeeds),
	    TEST(failed_pair_flushes_what_is_posted_later),
	    TEST(drained_pair_begins_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
