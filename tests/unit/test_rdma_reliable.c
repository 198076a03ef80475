/* SPDX-License-Identifier: BSD-2-Clause */
/* RC: every operation, under loss, duplication, reordering and damage, with memory that is not there yet. */
#include "rdma_network.h"

#define WRITE_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(1);
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

static uint64_t number_at(const struct node *node, uint64_t offset)
{
	return get_le64(node->memory + offset);
}

/* --- Operations -------------------------------------------------------------------------------- */

static void write_arrives(void **state)
{
	CONNECTED;
	struct godwit_rdma_completion completion;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 100, 5000);
	network_run(network);
	completion = only_completion(a);
	assert_int_equal(completion.status, GODWIT_RDMA_SUCCESS);
	assert_int_equal(completion.operation, GODWIT_RDMA_WRITE);
	assert_int_equal(completion.pair, godwit_rdma_pair_number(a->pair));
	assert_memory_equal(b->memory + WRITE_AT, a->memory + 100, 5000);
	assert_int_equal(b->count, 0);
	assert_int_equal(b->wrote, 5000);
}

static void write_touches_nothing_else(void **state)
{
	CONNECTED;
	uint8_t *before = malloc(MEMORY_SIZE);

	memcpy(before, b->memory, MEMORY_SIZE);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT + 1), 3, 4099);
	network_run(network);
	memcpy(before + WRITE_AT + 1, a->memory + 3, 4099);
	assert_memory_equal(b->memory, before, MEMORY_SIZE);
	free(before);
}

static void write_with_immediate_is_announced(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT);
	struct godwit_rdma_completion completion;

	work.flags = GODWIT_RDMA_WITH_IMMEDIATE;
	work.immediate = 0xcafef00d;
	post_receive(b, 77, 0, 0);
	post(a, work, 0, 2500);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	completion = only_completion(b);
	assert_int_equal(completion.id, 77);
	assert_int_equal(completion.operation, GODWIT_RDMA_RECEIVE_WRITE);
	assert_int_equal(completion.flags, GODWIT_RDMA_WITH_IMMEDIATE);
	assert_int_equal(completion.immediate, 0xcafef00d);
	assert_int_equal(completion.bytes, 2500);
	assert_memory_equal(b->memory + WRITE_AT, a->memory, 2500);
}

static void send_fills_a_receive(void **state)
{
	CONNECTED;
	struct godwit_rdma_completion completion;

	post_receive(b, 5, WRITE_AT, 9000);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND, .id = 4}, 10, 3333);
	network_run(network);
	assert_int_equal(only_completion(a).id, 4);
	completion = only_completion(b);
	assert_int_equal(completion.id, 5);
	assert_int_equal(completion.operation, GODWIT_RDMA_RECEIVE);
	assert_int_equal(completion.bytes, 3333);
	assert_int_equal(completion.flags, 0);
	assert_memory_equal(b->memory + WRITE_AT, a->memory + 10, 3333);
}

static void send_of_many_segments_fills_many(void **state)
{
	CONNECTED;
	struct godwit_rdma_segment from[4] = {segment_of(a, 0, 700), segment_of(a, 5000, 0),
					      segment_of(a, 1000, 1), segment_of(a, 2000, 2999)};
	struct godwit_rdma_segment to[3] = {segment_of(b, WRITE_AT, 1),
					    segment_of(b, WRITE_AT + 100, 2000),
					    segment_of(b, WRITE_AT + 5000, 4000)};
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.flags = GODWIT_RDMA_SIGNALED,
					.segments = from,
					.segment_count = 4};
	uint8_t sent[3700], came[3700];

	assert_int_equal(
	    godwit_rdma_pair_receive(b->pair, &(struct godwit_rdma_receive_work){0, to, 3}), 0);
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), 0);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).bytes, 3700);
	memcpy(sent, a->memory, 700);
	memcpy(sent + 700, a->memory + 1000, 1);
	memcpy(sent + 701, a->memory + 2000, 2999);
	memcpy(came, b->memory + WRITE_AT, 1);
	memcpy(came + 1, b->memory + WRITE_AT + 100, 2000);
	memcpy(came + 2001, b->memory + WRITE_AT + 5000, 1699);
	assert_memory_equal(sent, came, sizeof(sent));
}

static void send_of_nothing_completes(void **state)
{
	CONNECTED;

	post_receive(b, 0, 0, 0);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 0);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).bytes, 0);
}

static void read_fetches(void **state)
{
	CONNECTED;
	struct godwit_rdma_completion completion;

	post(a, remote_work(GODWIT_RDMA_READ, b, 77), WRITE_AT, 200001);
	network_run(network);
	completion = only_completion(a);
	assert_int_equal(completion.status, GODWIT_RDMA_SUCCESS);
	assert_int_equal(completion.bytes, 200001);
	assert_memory_equal(a->memory + WRITE_AT, b->memory + 77, 200001);
	assert_int_equal(a->wrote, 200001);
	assert_int_equal(b->wrote, 0);
}

static void nothing_can_be_read_and_written_without_a_key(void **state)
{
	CONNECTED;

	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_READ, .remote_key = 1}, 0, 0);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_WRITE, .remote_key = 1}, 0, 0);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_int_equal(a->list[0].status, GODWIT_RDMA_SUCCESS);
	assert_int_equal(a->list[1].status, GODWIT_RDMA_SUCCESS);
}

static void fetch_and_add_adds(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_FETCH_ADD, b, 64);
	uint64_t before = number_at(b, 64);

	work.swap = 0x100000001;
	post(a, work, 8, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(number_at(b, 64), before + 0x100000001);
	assert_int_equal(number_at(a, 8), before);
	assert_int_equal(b->wrote, 8);
}

static void compare_and_swap_swaps_what_is_equal(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_COMPARE_SWAP, b, 64);
	uint64_t before = number_at(b, 64);

	work.compare = before + 1;
	work.swap = 42;
	post(a, work, 8, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(number_at(b, 64), before);
	assert_int_equal(number_at(a, 8), before);
	work.compare = before;
	post(a, work, 8, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(number_at(b, 64), 42);
	assert_int_equal(number_at(a, 8), before);
}

static void only_signaled_work_completes_visibly(void **state)
{
	CONNECTED;

	assert_int_equal(post_at(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8), 0);
	network_run(network);
	assert_int_equal(a->count, 0);
	assert_memory_equal(a->memory, b->memory, 8);
}

static void fenced_work_waits_for_reads(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	/* The write sends what the read before it fetches. */
	post(a, remote_work(GODWIT_RDMA_READ, b, KIB(64)), 0, 50000);
	work.flags = GODWIT_RDMA_FENCED;
	post(a, work, 0, 50000);
	network_run(network);
	assert_memory_equal(b->memory, b->memory + KIB(64), 50000);
}

static void numbers_of_operations_on_the_wire_are_few(void **state)
{
	CONNECTED;

	/* One request a piece of half a window, one acknowledgement for many packets. */
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), WRITE_AT, 128 * 1024);
	network_run(network);
	assert_int_equal(network->packets[RDMA_READ_REQUEST], 4);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 64 * 1024);
	network_run(network);
	assert_int_equal(network->packets[RDMA_WRITE_FIRST], 1);
	assert_int_equal(network->packets[RDMA_WRITE_MIDDLE], 62);
	assert_int_equal(network->packets[RDMA_WRITE_LAST], 1);
	assert_in_range(network->packets[RDMA_ACKNOWLEDGE], 1, 5);
}

/* --- A bad network ----------------------------------------------------------------------------- */

struct expectation {
	enum godwit_rdma_operation operation;
	uint64_t local, remote;
	uint32_t size;
};

#define BATCH 24

/* Random work of every kind, each on memory of its own, then everything is compared. */
static void run_batch(struct network *network, struct node *a, struct node *b)
{
	static const enum godwit_rdma_operation operations[] = {
	    GODWIT_RDMA_SEND, GODWIT_RDMA_WRITE, GODWIT_RDMA_READ, GODWIT_RDMA_FETCH_ADD};
	struct expectation list[BATCH];
	uint64_t local = network_random(network) % 64, remote = network_random(network) % 64;
	uint32_t receives = 0, arrived = 0;
	uint64_t counter = network_random(network), additions = 0;

	put_le64(b->memory + MEMORY_SIZE - 8, counter);
	for (int i = 0; i < BATCH; i++) {
		struct expectation *one = &list[i];
		struct godwit_rdma_work work;

		one->operation = operations[network_random(network) % ARRAY_SIZE(operations)];
		one->size = network_random(network) % (happens(network, 300) ? 40000 : 600);
		if (one->operation == GODWIT_RDMA_FETCH_ADD)
			one->size = 8;
		one->local = local;
		one->remote = remote;
		local += one->size + network_random(network) % 9;
		remote += one->size + network_random(network) % 9;
		work = remote_work(one->operation, b, one->remote);
		work.id = (uint64_t)i;
		if (one->operation == GODWIT_RDMA_SEND) {
			post_receive(b, 1000 + receives++, one->remote,
				     one->size + network_random(network) % 3);
		} else if (one->operation == GODWIT_RDMA_FETCH_ADD) {
			work.remote_address = MEMORY_ADDRESS + MEMORY_SIZE - 8;
			work.swap = 1 + i;
		}
		post(a, work, one->local, one->size);
	}
	network_run(network);
	assert_int_equal(a->count, BATCH);
	for (int i = 0; i < BATCH; i++) {
		const struct expectation *one = &list[i];

		assert_int_equal(a->list[i].status, GODWIT_RDMA_SUCCESS);
		assert_int_equal(a->list[i].id, i);
		if (one->operation == GODWIT_RDMA_FETCH_ADD) {
			assert_int_equal(number_at(a, one->local), counter + additions);
			additions += 1 + (uint64_t)i;
			continue;
		}
		assert_memory_equal(a->memory + one->local, b->memory + one->remote, one->size);
		if (one->operation == GODWIT_RDMA_SEND) {
			assert_int_equal(b->list[arrived].id, 1000 + arrived);
			assert_int_equal(b->list[arrived++].bytes, one->size);
		}
	}
	assert_int_equal(b->count, receives);
	assert_int_equal(number_at(b, MEMORY_SIZE - 8), counter + additions);
	a->count = b->count = 0;
}

static void run_batches(struct network *network, uint32_t mtu, int count)
{
	network_connect(network, GODWIT_RDMA_RELIABLE, mtu);
	for (int i = 0; i < count; i++) {
		fill_memory(network, &network->nodes[i & 1]);
		run_batch(network, &network->nodes[i & 1], &network->nodes[!(i & 1)]);
	}
}

static void each_mtu_carries_everything(void **state)
{
	for (uint32_t mtu = 256; mtu <= 4096; mtu *= 2) {
		struct network *network = network_create(mtu);

		run_batches(network, mtu, 6);
		assert_int_equal(network->nodes[0].engine ? network->lost : 1, 0);
		network_destroy(network);
	}
}

static void on_a_bad_network(uint32_t loss, uint32_t duplication, uint32_t delay, uint32_t damage)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct network *network =
		    network_create_with(seed, seed % 2 ? GODWIT_RDMA_WINDOW_MAX : 0);

		network->loss = loss;
		network->duplication = duplication;
		network->delay = delay;
		network->damage = damage;
		run_batches(network, 256U << seed % 5, 6);
		assert_true(!loss || network->lost);
		assert_true(!duplication || network->duplicated);
		assert_true(!delay || network->delayed);
		assert_true(!damage || network->damaged);
		network_destroy(network);
	}
}

static void nothing_is_lost_with_loss(void **state)
{
	on_a_bad_network(20, 0, 0, 0);
}

static void nothing_is_done_twice_with_duplication(void **state)
{
	on_a_bad_network(0, 200, 0, 0);
}

static void order_is_kept_with_reordering(void **state)
{
	on_a_bad_network(0, 0, 10, 0);
}

static void damage_is_noticed(void **state)
{
	on_a_bad_network(0, 0, 0, 20);
}

static void all_faults_together_change_nothing(void **state)
{
	on_a_bad_network(10, 50, 5, 10);
}

static void sequence_numbers_wrap(void **state)
{
	CONNECTED;

	/* They begin 16 before the end. */
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), WRITE_AT, 100000);
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 100000);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_memory_equal(a->memory, a->memory + WRITE_AT, 100000);
}

static void one_lost_packet_costs_one_refusal(void **state)
{
	CONNECTED;
	struct godwit_rdma_counters counters;

	network->lose_opcode = RDMA_WRITE_FIRST;
	network->lose_count = 1;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 20000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	godwit_rdma_get_counters(a->engine, &counters);
	assert_int_equal(counters.retransmissions, 1);
	assert_int_equal(counters.timeouts, 0);
	/* The refusal, and what acknowledges what came after it. */
	assert_in_range(network->packets[RDMA_ACKNOWLEDGE], 2, 4);
}

static void lost_acknowledgement_costs_a_timeout_and_no_second_send(void **state)
{
	CONNECTED;
	struct godwit_rdma_counters counters;

	network->lose_opcode = RDMA_ACKNOWLEDGE;
	network->lose_count = 1;
	post_receive(b, 1, 0, 100);
	post_receive(b, 2, 100, 100);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 100);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).id, 1);
	godwit_rdma_get_counters(a->engine, &counters);
	assert_int_equal(counters.timeouts, 1);
	godwit_rdma_get_counters(b->engine, &counters);
	assert_int_equal(counters.duplicates, 1);
}

static void lost_answer_of_an_atomic_does_not_repeat_it(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_FETCH_ADD, b, 0);
	uint64_t before = number_at(b, 0);

	network->lose_opcode = RDMA_ATOMIC_ACKNOWLEDGE;
	network->lose_count = 3;
	work.swap = 1;
	post(a, work, 64, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(number_at(b, 0), before + 1);
	assert_int_equal(number_at(a, 64), before);
}

static void lost_part_of_a_read_is_asked_for_again(void **state)
{
	CONNECTED;

	network->lose_opcode = RDMA_READ_RESPONSE_MIDDLE;
	network->lose_count = 1;
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), WRITE_AT, 30000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory + WRITE_AT, b->memory, 30000);
	assert_int_equal(network->packets[RDMA_READ_REQUEST], 2);
}

static void last_lost_packet_is_found_by_time(void **state)
{
	CONNECTED;
	int64_t before = network->now;

	network->lose_opcode = RDMA_WRITE_ONLY;
	network->lose_count = 1;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8);
	while (!a->count)
		assert_true(network_step(network));
	expect_status(a, GODWIT_RDMA_SUCCESS);
	/* 4.096 us << 10. */
	assert_in_range(network->now - before, 4194304, 4194304 + 100000);
}

static void port_without_room_is_waited_for(void **state)
{
	CONNECTED;

	a->room = 3;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 20000);
	for (int i = 0; i < 50; i++) {
		network_step(network);
		if (!a->room && i % 5 == 4)
			a->room = 2;
	}
	a->room = UINT32_MAX;
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 20000);
}

/* --- Memory that is not there now -------------------------------------------------------------- */

static void absent_everywhere(struct node *node, bool absent)
{
	memset(node->absent, absent, sizeof(node->absent));
}

/* Runs for a while, with the memory of @node missing, then with it. */
static void run_with_absence(struct network *network, struct node *node)
{
	absent_everywhere(node, true);
	for (int i = 0; i < 2000; i++)
		network_step(network);
	assert_true(node->asked_absent);
	assert_int_equal(network->nodes[0].count, 0);
	absent_everywhere(node, false);
	network_run(network);
}

static void write_waits_for_memory(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 20000);
	run_with_absence(network, b);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 20000);
}

static void send_waits_for_memory_with_its_receive(void **state)
{
	CONNECTED;

	post_receive(b, 9, 0, 20000);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 20000);
	run_with_absence(network, b);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).id, 9);
	assert_memory_equal(a->memory, b->memory, 20000);
}

static void read_waits_for_memory(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 20000);
	run_with_absence(network, b);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 20000);
}

static void read_waits_for_memory_in_its_middle(void **state)
{
	CONNECTED;

	b->absent[3] = true;
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), WRITE_AT, 20000);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 20000);
	for (int i = 0; i < 2000; i++)
		network_step(network);
	assert_int_equal(a->count, 0);
	/* Nothing of it is sent before all of it is there. */
	assert_int_equal(network->packets[RDMA_READ_RESPONSE_FIRST], 0);
	b->absent[3] = false;
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_memory_equal(a->memory + WRITE_AT, b->memory, 20000);
	assert_memory_equal(b->memory + WRITE_AT, a->memory, 20000);
}

static void read_waits_for_memory_that_goes_before_its_turn(void **state)
{
	CONNECTED;
	uint64_t asked;

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), WRITE_AT, 200000);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), WRITE_AT, 200000);
	while (network->packets[RDMA_READ_RESPONSE_MIDDLE] < 20)
		assert_true(network_step(network));
	absent_everywhere(b, true);
	for (asked = 0; asked < 5; asked = b->asked_absent)
		assert_true(network_step(network));
	assert_int_equal(a->count, 0);
	absent_everywhere(b, false);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_int_equal(a->list[0].status, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory + WRITE_AT, b->memory, 200000);
	assert_memory_equal(b->memory + WRITE_AT, b->memory, 200000);
}

static void atomic_waits_for_memory(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_FETCH_ADD, b, 0);
	uint64_t before = number_at(b, 0);

	work.swap = 1;
	post(a, work, 0, 8);
	run_with_absence(network, b);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(number_at(b, 0), before + 1);
}

static void sender_waits_for_its_own_memory(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 20000);
	run_with_absence(network, a);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 20000);
}

static void reader_waits_for_its_own_memory(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_READ, b, 0), 0, 20000);
	run_with_absence(network, a);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 20000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(write_arrives),
	    TEST(write_touches_nothing_else),
	    TEST(write_with_immediate_is_announced),
	    TEST(send_fills_a_receive),
	    TEST(send_of_many_segments_fills_many),
	    TEST(send_of_nothing_completes),
	    TEST(read_fetches),
	    TEST(nothing_can_be_read_and_written_without_a_key),
	    TEST(fetch_and_add_adds),
	    TEST(compare_and_swap_swaps_what_is_equal),
	    TEST(only_signaled_work_completes_visibly),
	    TEST(fenced_work_waits_for_reads),
	    TEST(numbers_of_operations_on_the_wire_are_few),
	    cmocka_unit_test(each_mtu_carries_everything),
	    cmocka_unit_test(nothing_is_lost_with_loss),
	    cmocka_unit_test(nothing_is_done_twice_with_duplication),
	    cmocka_unit_test(order_is_kept_with_reordering),
	    cmocka_unit_test(damage_is_noticed),
	    cmocka_unit_test(all_faults_together_change_nothing),
	    TEST(sequence_numbers_wrap),
	    TEST(one_lost_packet_costs_one_refusal),
	    TEST(lost_acknowledgement_costs_a_timeout_and_no_second_send),
	    TEST(lost_answer_of_an_atomic_does_not_repeat_it),
	    TEST(lost_part_of_a_read_is_asked_for_again),
	    TEST(last_lost_packet_is_found_by_time),
	    TEST(port_without_room_is_waited_for),
	    TEST(write_waits_for_memory),
	    TEST(send_waits_for_memory_with_its_receive),
	    TEST(read_waits_for_memory),
	    TEST(read_waits_for_memory_in_its_middle),
	    TEST(read_waits_for_memory_that_goes_before_its_turn),
	    TEST(atomic_waits_for_memory),
	    TEST(sender_waits_for_its_own_memory),
	    TEST(reader_waits_for_its_own_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
