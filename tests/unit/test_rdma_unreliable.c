/* SPDX-License-Identifier: BSD-2-Clause */
/* UC and UD: what arrives, what becomes of messages with lost parts, who may send a datagram. */
#include "rdma_network.h"

#define WRITE_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(2);
	return 0;
}

static int tear_down(void **state)
{
	network_destroy(*state);
	return 0;
}

#define CONNECTED(service)                                                                         \
	struct network *network = *state;                                                          \
	struct node *a = &network->nodes[0], *b = &network->nodes[1];                              \
	network_connect(network, service, 1024)

/* --- UC ---------------------------------------------------------------------------------------- */

static void unreliable_write_arrives(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 1, 5001);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(b->memory + WRITE_AT, a->memory + 1, 5001);
	assert_int_equal(network->packets[RDMA_SERVICE_UC | RDMA_WRITE_MIDDLE], 3);
}

static void unreliable_send_arrives_with_immediate(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);
	struct godwit_rdma_completion completion;

	post_receive(b, 3, WRITE_AT, 9000);
	post(a,
	     (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND,
				       .flags = GODWIT_RDMA_WITH_IMMEDIATE,
				       .immediate = 99},
	     0, 3000);
	network_run(network);
	completion = only_completion(b);
	assert_int_equal(completion.id, 3);
	assert_int_equal(completion.immediate, 99);
	assert_int_equal(completion.bytes, 3000);
	assert_memory_equal(b->memory + WRITE_AT, a->memory, 3000);
}

static void message_with_a_lost_part_is_lost_whole(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);

	post_receive(b, 1, 0, 9000);
	post_receive(b, 2, 9000, 9000);
	network->lose_opcode = RDMA_SERVICE_UC | RDMA_SEND_MIDDLE;
	network->lose_count = 1;
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 5000);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 5000, 4000);
	network_run(network);
	assert_int_equal(a->count, 2);
	/* The receive that it had begun to fill serves the next message. */
	assert_int_equal(only_completion(b).id, 1);
	assert_memory_equal(b->memory, a->memory + 5000, 4000);
}

static void nothing_is_torn_on_a_bad_network(void **state)
{
	struct network *network = *state;
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	uint32_t whole = 0;

	network->loss = 20;
	network->duplication = 50;
	network->delay = 5;
	network->damage = 10;
	network_connect(network, GODWIT_RDMA_UNRELIABLE, 256);
	for (uint32_t i = 0; i < 200; i++)
		post_receive(b, i, WRITE_AT + i * 2000ULL, 2000);
	for (uint32_t i = 0; i < 200; i++)
		post(a,
		     (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND,
					       .flags = GODWIT_RDMA_WITH_IMMEDIATE,
					       .immediate = i},
		     i * 2000ULL, 2000);
	network_run(network);
	assert_int_equal(a->count, 200);
	for (; whole < b->count; whole++)
		assert_memory_equal(b->memory + WRITE_AT + b->list[whole].id * 2000,
				    a->memory + b->list[whole].immediate * 2000ULL, 2000);
	assert_in_range(whole, 100, 199);
}

static void unreliable_write_without_a_key_is_dropped(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);
	struct godwit_rdma_counters counters;

	work.remote_key ^= 1;
	post(a, work, 0, 3000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	godwit_rdma_get_counters(b->engine, &counters);
	assert_true(counters.dropped);
	assert_int_equal(b->wrote, 0);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
}

static void unreliable_pair_does_not_read(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_LOCAL_OPERATION);
}

static void message_that_is_too_long_for_its_receive_fails_the_receiver(void **state)
{
	CONNECTED(GODWIT_RDMA_UNRELIABLE);

	post_receive(b, 1, 0, 10);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 11);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	expect_status(b, GODWIT_RDMA_LOCAL_LENGTH);
}

/* --- UD ---------------------------------------------------------------------------------------- */

static struct godwit_rdma_work datagram(const struct node *to)
{
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.destination_pair = godwit_rdma_pair_number(to->pair),
					.queue_key = 0x1234};

	memcpy(work.destination, to->address, 16);
	return work;
}

static void datagram_arrives_with_its_header(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_work work = datagram(b);
	struct godwit_rdma_completion completion;

	work.flags = GODWIT_RDMA_WITH_IMMEDIATE;
	work.immediate = 7;
	post_receive(b, 9, WRITE_AT, 2000);
	post(a, work, 0, 1001);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	completion = only_completion(b);
	assert_int_equal(completion.id, 9);
	assert_int_equal(completion.bytes, 1041);
	assert_int_equal(completion.flags, GODWIT_RDMA_WITH_IMMEDIATE | GODWIT_RDMA_WITH_HEADER);
	assert_int_equal(completion.immediate, 7);
	assert_int_equal(completion.source, godwit_rdma_pair_number(a->pair));
	assert_memory_equal(b->memory + WRITE_AT + 40, a->memory, 1001);
	/* IPv4: the header is in the last 20 of the 40 bytes. */
	assert_int_equal(b->memory[WRITE_AT + 20], 0x45);
	assert_memory_equal(b->memory + WRITE_AT + 32, a->address + 12, 4);
	assert_memory_equal(b->memory + WRITE_AT + 36, b->address + 12, 4);
}

static void datagram_with_another_queue_key_is_dropped(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_work work = datagram(b);
	struct godwit_rdma_counters counters;

	work.queue_key++;
	post_receive(b, 9, 0, 2000);
	post(a, work, 0, 10);
	network_run(network);
	assert_int_equal(b->count, 0);
	godwit_rdma_get_counters(b->engine, &counters);
	assert_int_equal(counters.dropped, 1);
}

static void senders_own_queue_key_is_used_when_asked(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_work work = datagram(b);

	work.queue_key = 0x80000000;
	post_receive(b, 9, 0, 2000);
	post(a, work, 0, 10);
	network_run(network);
	expect_status(b, GODWIT_RDMA_SUCCESS);
}

static void datagram_without_a_receive_is_dropped(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);

	post(a, datagram(b), 0, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	post_receive(b, 9, 0, 2000);
	post(a, datagram(b), 10, 10);
	network_run(network);
	assert_int_equal(b->count, 1);
	assert_memory_equal(b->memory + 40, a->memory + 10, 10);
}

static void datagram_that_does_not_fit_leaves_the_receive(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);

	post_receive(b, 9, 0, 49);
	post(a, datagram(b), 0, 10);
	post(a, datagram(b), 0, 9);
	network_run(network);
	assert_int_equal(only_completion(b).bytes, 49);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
}

static void datagram_longer_than_the_mtu_is_not_sent(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);

	post(a, datagram(b), 0, 1025);
	network_run(network);
	expect_status(a, GODWIT_RDMA_LOCAL_LENGTH);
}

static void datagrams_carry_nothing_but_sends(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_work work = datagram(b);

	work.operation = GODWIT_RDMA_WRITE;
	post(a, work, 0, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_LOCAL_OPERATION);
}

static void datagram_waits_for_its_memory(void **state)
{
	CONNECTED(GODWIT_RDMA_DATAGRAM);

	a->absent[0] = true;
	post_receive(b, 9, 0, 100);
	post(a, datagram(b), 0, 10);
	for (int i = 0; i < 100; i++)
		network_step(network);
	assert_int_equal(b->count, 0);
	a->absent[0] = false;
	network_run(network);
	expect_status(b, GODWIT_RDMA_SUCCESS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(unreliable_write_arrives),
	    TEST(unreliable_send_arrives_with_immediate),
	    TEST(message_with_a_lost_part_is_lost_whole),
	    TEST(nothing_is_torn_on_a_bad_network),
	    TEST(unreliable_write_without_a_key_is_dropped),
	    TEST(unreliable_pair_does_not_read),
	    TEST(message_that_is_too_long_for_its_receive_fails_the_receiver),
	    TEST(datagram_arrives_with_its_header),
	    TEST(datagram_with_another_queue_key_is_dropped),
	    TEST(senders_own_queue_key_is_used_when_asked),
	    TEST(datagram_without_a_receive_is_dropped),
	    TEST(datagram_that_does_not_fit_leaves_the_receive),
	    TEST(datagram_longer_than_the_mtu_is_not_sent),
	    TEST(datagrams_carry_nothing_but_sends),
	    TEST(datagram_waits_for_its_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
