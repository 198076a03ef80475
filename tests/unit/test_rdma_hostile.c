/* SPDX-License-Identifier: BSD-2-Clause */
/* A peer, or a stranger, that sends what it likes: docs/rdma.md has the same list. */
#include "rdma_network.h"

#define READ_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(4);
	return 0;
}

static int tear_down(void **state)
{
	network_destroy(*state);
	return 0;
}

#define CONNECTED                                                                                  \
	struct network *network = *state;                                                          \
	struct node *a = &network->nodes[0], *b = &network->nodes[1];                              \
	network_connect(network, GODWIT_RDMA_RELIABLE, 1024)

/* --- The attacker ------------------------------------------------------------------------------ */

static struct godwit_rdma_counters counters_of(const struct node *node)
{
	struct godwit_rdma_counters counters;

	godwit_rdma_get_counters(node->engine, &counters);
	return counters;
}

static struct godwit_rdma_ends ends_to(const struct network *network, const struct node *victim)
{
	const struct node *attacker = &network->nodes[victim == network->nodes];
	struct godwit_rdma_ends ends = {.source_port = 0xc000};

	memcpy(ends.source, attacker->address, 16);
	memcpy(ends.destination, victim->address, 16);
	return ends;
}

/* Delivers @packet to @victim at once; its payload is all of one byte. */
static void deliver(struct network *network, struct node *victim, struct rdma_packet packet)
{
	struct godwit_rdma_ends ends = ends_to(network, victim);
	uint8_t bytes[GODWIT_RDMA_PACKET_MAX + 4096];

	if (!packet.pkey)
		packet.pkey = RDMA_PKEY_DEFAULT;
	if (!packet.queue_pair)
		packet.queue_pair = godwit_rdma_pair_number(victim->pair);
	memset(rdma_packet_encode(&packet, bytes), 0x66, packet.payload_size);
	godwit_rdma_receive(victim->engine, &ends, bytes,
			    rdma_packet_size(packet.opcode, packet.payload_size), network->now);
}

/* A request with the number that @victim expects first. */
static struct rdma_packet request_to(const struct node *victim, uint8_t opcode)
{
	return (struct rdma_packet){.opcode = opcode,
				    .psn = 0xfffff0,
				    .ack_request = true,
				    .address = MEMORY_ADDRESS,
				    .key = godwit_rdma_region_key(victim->region)};
}

/* What @victim says to the request: the syndrome of its only acknowledgement. */
static uint8_t answer_to(struct network *network, struct node *victim, struct rdma_packet packet)
{
	struct rdma_packet answer;

	deliver(network, victim, packet);
	godwit_rdma_poll(victim->engine, network->now);
	take_completions(victim);
	assert_true(rdma_packet_decode(victim->packet, victim->packet_size, &answer));
	assert_int_equal(answer.opcode, RDMA_ACKNOWLEDGE);
	return answer.syndrome;
}

static void expect_refusal(struct network *network, struct node *victim, struct rdma_packet packet,
			   uint8_t syndrome)
{
	assert_int_equal(answer_to(network, victim, packet), syndrome);
	assert_int_equal(godwit_rdma_pair_state(victim->pair), GODWIT_RDMA_ERROR);
	assert_int_equal(victim->wrote, 0);
}

/* --- Strangers --------------------------------------------------------------------------------- */

static void noise_is_counted_and_forgotten(void **state)
{
	CONNECTED;
	struct godwit_rdma_ends ends = ends_to(network, b);
	uint8_t bytes[8192];

	for (int i = 0; i < 5000; i++) {
		size_t size = network_random(network) % sizeof(bytes);

		for (size_t at = 0; at < size; at += 4)
			put_le32(bytes + at, network_random(network));
		godwit_rdma_receive(b->engine, &ends, bytes, size, network->now);
	}
	assert_int_equal(counters_of(b).malformed + counters_of(b).stray, 5000);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
	assert_int_equal(b->wrote, 0);
	assert_non_null(a);
}

static void strangers_address_is_noticed(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);
	struct godwit_rdma_ends ends = ends_to(network, b);
	uint8_t bytes[64];

	packet.queue_pair = 0x123456;
	packet.pkey = RDMA_PKEY_DEFAULT;
	rdma_packet_encode(&packet, bytes);
	ends.source[15]++;
	godwit_rdma_receive(b->engine, &ends, bytes, rdma_packet_size(packet.opcode, 0), 0);
	ends = ends_to(network, b);
	ends.destination[15]++;
	godwit_rdma_receive(b->engine, &ends, bytes, rdma_packet_size(packet.opcode, 0), 0);
	assert_int_equal(counters_of(b).stray, 2);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
	assert_non_null(a);
}

static void queue_pairs_that_there_are_not_answer_nothing(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_SEND_ONLY);

	packet.queue_pair = 0x123457;
	deliver(network, b, packet);
	network_run(network);
	assert_int_equal(counters_of(b).stray, 1);
	assert_int_equal(counters_of(b).sent, 0);
	assert_non_null(a);
}

static void packets_of_another_service_are_strays(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_SERVICE_UC | RDMA_SEND_ONLY);

	deliver(network, b, packet);
	packet.opcode = RDMA_SERVICE_UD | RDMA_SEND_ONLY;
	deliver(network, b, packet);
	assert_int_equal(counters_of(b).stray, 2);
	assert_non_null(a);
}

static void packets_of_another_partition_are_strays(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_SEND_ONLY);

	packet.pkey = 0x8001;
	deliver(network, b, packet);
	assert_int_equal(counters_of(b).stray, 1);
	assert_non_null(a);
}

static void nothing_is_taken_before_its_state(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_RESET};

	assert_int_equal(godwit_rdma_pair_modify(b->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	deliver(network, b, request_to(b, RDMA_SEND_ONLY));
	assert_int_equal(counters_of(b).stray, 1);
	assert_non_null(a);
}

/* --- Requests ---------------------------------------------------------------------------------- */

static void middle_of_nothing_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_MIDDLE);

	packet.payload_size = 1024;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_int_equal(b->events[GODWIT_RDMA_EVENT_BAD_REQUEST], 1);
	assert_non_null(a);
}

static void end_of_another_message_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_SEND_FIRST);

	post_receive(b, 0, 0, 4096);
	packet.payload_size = 1024;
	deliver(network, b, packet);
	packet.opcode = RDMA_WRITE_LAST;
	packet.psn++;
	assert_int_equal(answer_to(network, b, packet), RDMA_NAK_INVALID);
	assert_int_equal(b->wrote, 1024);
	/* Its receive is flushed. */
	expect_status(b, GODWIT_RDMA_FLUSHED);
	assert_non_null(a);
}

static void first_packet_of_another_size_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_FIRST);

	packet.length = 2048;
	packet.payload_size = 1020;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_non_null(a);
}

static void packet_larger_than_the_mtu_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);

	packet.length = packet.payload_size = 1028;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_non_null(a);
}

static void write_of_more_than_it_announced_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);

	packet.address += MEMORY_SIZE - 8;
	packet.length = 8;
	packet.payload_size = 64;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_non_null(a);
}

static void write_that_goes_on_past_its_length_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_FIRST);

	packet.length = 1500;
	packet.payload_size = 1024;
	deliver(network, b, packet);
	packet.opcode = RDMA_WRITE_MIDDLE;
	packet.psn++;
	assert_int_equal(answer_to(network, b, packet), RDMA_NAK_INVALID);
	assert_int_equal(b->wrote, 1024);
	assert_non_null(a);
}

static void write_that_ends_early_is_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);

	packet.length = 100;
	packet.payload_size = 96;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_non_null(a);
}

static void address_that_wraps_is_refused(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);

	packet.address = UINT64_MAX - 3;
	packet.length = packet.payload_size = 16;
	expect_refusal(network, b, packet, RDMA_NAK_ACCESS);
	assert_non_null(a);
}

static void write_over_the_end_is_refused_before_its_first_byte(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_FIRST);

	packet.address += MEMORY_SIZE - 1024;
	packet.length = 1025;
	packet.payload_size = 1024;
	expect_refusal(network, b, packet, RDMA_NAK_ACCESS);
	assert_non_null(a);
}

static void right_that_goes_during_a_write_counts(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_FIRST);

	packet.length = 2048;
	packet.payload_size = 1024;
	deliver(network, b, packet);
	assert_int_equal(godwit_rdma_region_destroy(b->region), 0);
	b->region = NULL;
	packet.opcode = RDMA_WRITE_LAST;
	packet.psn++;
	assert_int_equal(answer_to(network, b, packet), RDMA_NAK_ACCESS);
	assert_int_equal(b->wrote, 1024);
	assert_non_null(a);
}

static void lengths_beyond_all_messages_are_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST);

	packet.length = UINT32_MAX;
	expect_refusal(network, b, packet, RDMA_NAK_INVALID);
	assert_non_null(a);
}

static void more_reads_than_agreed_are_invalid(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST);

	packet.length = 8;
	for (int i = 0; i < 4; i++) {
		deliver(network, b, packet);
		packet.psn = rdma_psn_add(packet.psn, 1);
	}
	assert_int_equal(counters_of(b).refused, 0);
	deliver(network, b, packet);
	assert_int_equal(counters_of(b).refused, 1);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_ERROR);
	assert_non_null(a);
}

static void read_that_is_asked_for_again_and_again_is_answered_once(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST);

	packet.length = 10000;
	for (int i = 0; i < 10000; i++)
		deliver(network, b, packet);
	godwit_rdma_poll(b->engine, network->now);
	assert_int_equal(counters_of(b).duplicates, 9999);
	assert_int_equal(counters_of(b).sent, 10);
	assert_non_null(a);
}

static void parts_of_reads_asked_for_again_have_a_limit(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST);

	packet.length = 1024 * 1024;
	deliver(network, b, packet);
	for (int i = 0; i < 64; i++)
		godwit_rdma_poll(b->engine, network->now);
	assert_int_equal(counters_of(b).sent, 1024);
	/* 1000 parts that differ, of 1000 packets and less. */
	for (uint32_t i = 1; i <= 1000; i++) {
		struct rdma_packet part = packet;

		part.psn = rdma_psn_add(packet.psn, i);
		part.address += i * 1024;
		part.length -= i * 1024 + (i % 7) * 1024;
		deliver(network, b, part);
	}
	for (int i = 0; i < 1000; i++)
		godwit_rdma_poll(b->engine, network->now);
	assert_in_range(counters_of(b).sent, 1024, 1024 + GODWIT_RDMA_READS_MAX * 1024);
	assert_non_null(a);
}

static void read_asked_for_again_elsewhere_is_not_answered(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST);

	packet.length = 16;
	deliver(network, b, packet);
	godwit_rdma_poll(b->engine, network->now);
	assert_int_equal(counters_of(b).sent, 1);
	packet.address += 16;
	deliver(network, b, packet);
	packet.address -= 16;
	packet.length = 17;
	deliver(network, b, packet);
	packet.length = 0;
	deliver(network, b, packet);
	packet.length = 16;
	packet.key++;
	deliver(network, b, packet);
	godwit_rdma_poll(b->engine, network->now);
	assert_int_equal(counters_of(b).sent, 1);
	assert_non_null(a);
}

static void read_asked_for_again_where_it_waits_begins_there(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_READ_REQUEST), said;

	packet.length = 4096;
	deliver(network, b, packet);
	b->room = 1;
	godwit_rdma_poll(b->engine, network->now);
	assert_int_equal(network->packets[RDMA_READ_RESPONSE_FIRST], 1);
	memset(b->absent, true, sizeof(b->absent));
	b->room = 1;
	godwit_rdma_poll(b->engine, network->now);
	packet.psn++;
	packet.address += 1024;
	packet.length -= 1024;
	deliver(network, b, packet);
	memset(b->absent, false, sizeof(b->absent));
	godwit_rdma_poll(b->engine, network->now + 10000000);
	assert_true(rdma_packet_decode(b->packet, b->packet_size, &said));
	assert_int_equal(said.opcode, RDMA_READ_RESPONSE_FIRST);
	assert_int_equal(said.psn, packet.psn);
	assert_non_null(a);
}

static void atomic_is_executed_once_however_often_it_comes(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_FETCH_ADD);
	uint64_t before = get_le64(b->memory);

	packet.swap = 5;
	for (int i = 0; i < 100; i++)
		deliver(network, b, packet);
	assert_int_equal(get_le64(b->memory), before + 5);
	assert_non_null(a);
}

static void atomic_on_memory_that_is_not_aligned_is_refused(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_FETCH_ADD);
	/* The address is aligned, what is behind it is not. */
	struct godwit_rdma_region_options options = {
	    .memory = {node_span, node_wrote, b}, .address = 4, .size = 4096, .access = EVERYTHING};
	struct godwit_rdma_region *region;

	assert_int_equal(godwit_rdma_region_create(b->domain, &options, &region), 0);
	packet.key = godwit_rdma_region_key(region);
	packet.address = 8;
	expect_refusal(network, b, packet, RDMA_NAK_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	assert_non_null(a);
}

static void send_without_receives_takes_nothing(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_SEND_ONLY);

	packet.payload_size = 100;
	assert_int_equal(answer_to(network, b, packet), RDMA_RNR_NAK | 1);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
	assert_int_equal(counters_of(b).not_ready, 1);
	assert_non_null(a);
}

static void early_packets_are_refused_once(void **state)
{
	CONNECTED;
	struct rdma_packet packet = request_to(b, RDMA_WRITE_ONLY);

	packet.psn += 3;
	for (int i = 0; i < 1000; i++) {
		deliver(network, b, packet);
		godwit_rdma_poll(b->engine, network->now);
	}
	assert_int_equal(counters_of(b).sent, 1);
	assert_int_equal(counters_of(b).out_of_sequence, 1000);
	assert_non_null(a);
}

/* --- Answers ----------------------------------------------------------------------------------- */

/* @a has sent a write of two packets, which nobody has answered. */
static void send_two_packets(struct network *network, struct node *a, struct node *b)
{
	network->loss = 1000;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 2000);
	godwit_rdma_poll(a->engine, network->now);
	assert_int_equal(counters_of(a).sent, 2);
}

static struct rdma_packet answer(uint8_t opcode, uint32_t psn, uint8_t syndrome)
{
	return (struct rdma_packet){.opcode = opcode, .psn = psn, .syndrome = syndrome};
}

static void answers_to_what_was_not_sent_are_forgotten(void **state)
{
	CONNECTED;

	send_two_packets(network, a, b);
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff2, RDMA_ACK));
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0x7fffff, RDMA_NAK_ACCESS));
	take_completions(a);
	assert_int_equal(a->count, 0);
	assert_int_equal(counters_of(a).bad_answers, 1);
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff1, RDMA_ACK));
	take_completions(a);
	expect_status(a, GODWIT_RDMA_SUCCESS);
}

static void answers_with_unknown_syndromes_are_forgotten(void **state)
{
	CONNECTED;

	send_two_packets(network, a, b);
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff1, 0x9f));
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff0, 0x4f));
	deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff0, 0x7f));
	take_completions(a);
	assert_int_equal(a->count, 0);
	assert_int_equal(counters_of(a).bad_answers, 3);
}

static void bytes_for_a_write_fail_it(void **state)
{
	CONNECTED;
	struct rdma_packet packet = answer(RDMA_READ_RESPONSE_ONLY, 0xfffff0, RDMA_ACK);

	send_two_packets(network, a, b);
	packet.payload_size = 1024;
	deliver(network, a, packet);
	take_completions(a);
	expect_status(a, GODWIT_RDMA_BAD_RESPONSE);
	assert_int_equal(a->wrote, 0);
}

static void answer_of_another_size_fails_a_read(void **state)
{
	static const uint32_t sizes[] = {1028, 0, 4096};
	struct network *network = *state;
	struct node *a = &network->nodes[0], *b = &network->nodes[1];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct rdma_packet packet = answer(RDMA_READ_RESPONSE_ONLY, 0xfffff0, RDMA_ACK);

		network_connect(network, GODWIT_RDMA_RELIABLE, 1024);
		network->loss = 1000;
		post(a, remote_work(GODWIT_RDMA_READ, b, 0), READ_AT, 1024);
		godwit_rdma_poll(a->engine, network->now);
		packet.payload_size = sizes[i];
		deliver(network, a, packet);
		take_completions(a);
		expect_status(a, GODWIT_RDMA_BAD_RESPONSE);
		assert_int_equal(a->wrote, 0);
		assert_int_equal(godwit_rdma_pair_destroy(a->pair), 0);
		assert_int_equal(godwit_rdma_pair_destroy(b->pair), 0);
	}
	a->pair = b->pair = NULL;
}

static void atomic_answer_for_a_read_fails_it(void **state)
{
	CONNECTED;

	network->loss = 1000;
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), READ_AT, 8);
	godwit_rdma_poll(a->engine, network->now);
	deliver(network, a, answer(RDMA_ATOMIC_ACKNOWLEDGE, 0xfffff0, RDMA_ACK));
	take_completions(a);
	expect_status(a, GODWIT_RDMA_BAD_RESPONSE);
	assert_int_equal(a->wrote, 0);
}

static void peer_cannot_make_one_send_more_than_its_retries(void **state)
{
	CONNECTED;

	send_two_packets(network, a, b);
	for (int i = 0; i < 1000; i++) {
		deliver(network, a, answer(RDMA_ACKNOWLEDGE, 0xfffff0, RDMA_NAK_SEQUENCE));
		godwit_rdma_poll(a->engine, network->now);
	}
	/* Gone back once, until something new is answered. */
	assert_int_equal(counters_of(a).sent, 4);
	assert_non_null(b);
}

static void answers_of_a_reader_that_was_reset_are_forgotten(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_RESET};
	struct rdma_packet packet = answer(RDMA_READ_RESPONSE_ONLY, 0xfffff0, RDMA_ACK);

	network->loss = 1000;
	post(a, remote_work(GODWIT_RDMA_READ, b, 0), READ_AT, 8);
	godwit_rdma_poll(a->engine, network->now);
	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	packet.payload_size = 8;
	deliver(network, a, packet);
	bring_up(a, a->pair, b, 0x123456, GODWIT_RDMA_RELIABLE, default_attributes(1024));
	deliver(network, a, packet);
	take_completions(a);
	assert_int_equal(a->count, 0);
	assert_int_equal(a->wrote, 0);
}

static void windows_of_other_queue_pairs_cannot_be_invalidated(void **state)
{
	CONNECTED;
	struct godwit_rdma_pair_options options = pair_options(b, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_window *window;
	struct godwit_rdma_pair *other;
	struct rdma_packet packet = request_to(b, RDMA_SEND_ONLY_INVALIDATE);

	assert_int_equal(godwit_rdma_pair_create(b->domain, &options, &other), 0);
	bring_up(b, other, a, 99, GODWIT_RDMA_RELIABLE, default_attributes(1024));
	assert_int_equal(godwit_rdma_window_create(b->domain, 2, 0x10000, &window), 0);
	assert_int_equal(
	    godwit_rdma_pair_send(
		other, &(struct godwit_rdma_work){.operation = GODWIT_RDMA_BIND,
						  .window = 0x10000,
						  .region = godwit_rdma_region_key(b->region),
						  .bind_address = MEMORY_ADDRESS,
						  .bind_size = 8,
						  .bind_key = 0x10001}),
	    0);
	network_run(network);
	assert_int_equal(godwit_rdma_region_destroy(b->region), -EBUSY);
	post_receive(b, 0, 0, 10);
	packet.invalidate = 0x10001;
	assert_int_equal(answer_to(network, b, packet), RDMA_NAK_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(b->region), -EBUSY);
	assert_int_equal(godwit_rdma_pair_destroy(other), 0);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
}

/* --- Anything ---------------------------------------------------------------------------------- */

/* Packets of every kind with numbers near those that are expected, while both ends work. */
static void anything_may_come_while_both_work(void **state)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct network *network = network_create(seed);
		struct node *a = &network->nodes[0], *b = &network->nodes[1];

		network_connect(network, (enum godwit_rdma_service)(1 + seed % 3), 256);
		for (int i = 0; i < 100; i++) {
			struct godwit_rdma_work work;

			post_receive(b, 0, 0, network_random(network) % 3000);
			work = remote_work(
			    (enum godwit_rdma_operation)(1 + network_random(network) % 5), b,
			    network_random(network) % 4096);
			memcpy(work.destination, b->address, 16);
			post(a, work, READ_AT, 8);
		}
		for (int i = 0; i < 3000; i++) {
			struct node *victim = &network->nodes[network_random(network) & 1];
			struct rdma_packet packet = request_to(
			    victim, (uint8_t)(network_random(network) % (seed % 3 ? 0x20 : 0x80)));

			if (!rdma_opcode_flags(packet.opcode))
				continue;
			packet.opcode = (uint8_t)((packet.opcode & ~RDMA_SERVICE_MASK) |
						  (seed % 3 == 0   ? RDMA_SERVICE_RC
						   : seed % 3 == 1 ? RDMA_SERVICE_UC
								   : RDMA_SERVICE_UD));
			if (!rdma_opcode_flags(packet.opcode))
				continue;
			packet.psn = rdma_psn_add(packet.psn, network_random(network) % 400);
			packet.length = network_random(network) % 4000;
			packet.address += network_random(network) % 5000;
			packet.queue_key = 0x1234;
			packet.syndrome = (uint8_t)network_random(network);
			if (rdma_opcode_flags(packet.opcode) & RDMA_HAS_PAYLOAD)
				packet.payload_size = network_random(network) % 300;
			deliver(network, victim, packet);
			network_step(network);
			a->count = b->count = 0;
		}
		network_run(network);
		network_destroy(network);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(noise_is_counted_and_forgotten),
	    TEST(strangers_address_is_noticed),
	    TEST(queue_pairs_that_there_are_not_answer_nothing),
	    TEST(packets_of_another_service_are_strays),
	    TEST(packets_of_another_partition_are_strays),
	    TEST(nothing_is_taken_before_its_state),
	    TEST(middle_of_nothing_is_invalid),
	    TEST(end_of_another_message_is_invalid),
	    TEST(first_packet_of_another_size_is_invalid),
	    TEST(packet_larger_than_the_mtu_is_invalid),
	    TEST(write_of_more_than_it_announced_is_invalid),
	    TEST(write_that_goes_on_past_its_length_is_invalid),
	    TEST(write_that_ends_early_is_invalid),
	    TEST(address_that_wraps_is_refused),
	    TEST(write_over_the_end_is_refused_before_its_first_byte),
	    TEST(right_that_goes_during_a_write_counts),
	    TEST(lengths_beyond_all_messages_are_invalid),
	    TEST(more_reads_than_agreed_are_invalid),
	    TEST(read_that_is_asked_for_again_and_again_is_answered_once),
	    TEST(parts_of_reads_asked_for_again_have_a_limit),
	    TEST(read_asked_for_again_elsewhere_is_not_answered),
	    TEST(read_asked_for_again_where_it_waits_begins_there),
	    TEST(atomic_is_executed_once_however_often_it_comes),
	    TEST(atomic_on_memory_that_is_not_aligned_is_refused),
	    TEST(send_without_receives_takes_nothing),
	    TEST(early_packets_are_refused_once),
	    TEST(answers_to_what_was_not_sent_are_forgotten),
	    TEST(answers_with_unknown_syndromes_are_forgotten),
	    TEST(bytes_for_a_write_fail_it),
	    TEST(answer_of_another_size_fails_a_read),
	    TEST(atomic_answer_for_a_read_fails_it),
	    TEST(peer_cannot_make_one_send_more_than_its_retries),
	    TEST(answers_of_a_reader_that_was_reset_are_forgotten),
	    TEST(windows_of_other_queue_pairs_cannot_be_invalidated),
	    cmocka_unit_test(anything_may_come_while_both_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
