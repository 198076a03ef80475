/* SPDX-License-Identifier: BSD-2-Clause */
/* Packets of RoCE v2: the bytes of each operation, and the invariant CRC of known packets. */
#include "cmocka_prelude.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "rdma/icrc.h"
#include "rdma/packet.h"

/* Two packets as scapy made them: a write of 22 bytes and an acknowledgement, headers of IP first. */
static const uint8_t known_write[] = {
    0x45, 0x00, 0x00, 0x54, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x13, 0x94, 0x0a, 0x63,
    0x00, 0x01, 0x0a, 0x63, 0x00, 0x0b, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x40, 0xff, 0x60,
    0x0a, 0x20, 0xff, 0xff, 0x00, 0x00, 0x00, 0x11, 0x80, 0x11, 0x22, 0x33, 0x00, 0x00,
    0x7f, 0x00, 0x11, 0x22, 0x33, 0x44, 0x00, 0x00, 0x15, 0x01, 0x00, 0x00, 0x00, 0x16,
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d,
    0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x00, 0x00, 0x2f, 0xcf, 0xf4, 0x24};
static const uint8_t known_ack[] = {
    0x45, 0x00, 0x00, 0x30, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x13, 0xb8, 0x0a, 0x63, 0x00, 0x01,
    0x0a, 0x63, 0x00, 0x0b, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x1c, 0xd2, 0xb4, 0x11, 0x00, 0xff, 0xff,
    0x00, 0x00, 0x00, 0x11, 0x00, 0x11, 0x22, 0x33, 0x1f, 0x00, 0x00, 0x07, 0xca, 0x3e, 0x27, 0xba};

static const struct godwit_rdma_ends v4_ends = {
    {[10] = 0xff, 0xff, 10, 99, 0, 1}, {[10] = 0xff, 0xff, 10, 99, 0, 11}, 0xc123};
static const struct godwit_rdma_ends v6_ends = {{0xfd, [15] = 1}, {0xfd, [15] = 2}, 0xc000};

static void fill(uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)random();
}

static void crc_has_its_check_value(void **state)
{
	struct rdma_crc crc;

	rdma_crc_init(&crc, false);
	assert_int_equal(~rdma_crc_update(&crc, UINT32_MAX, "123456789", 9), 0xcbf43926);
}

static void register_after_the_link_header_is_the_known_one(void **state)
{
	static const uint8_t ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct rdma_crc crc;

	rdma_crc_init(&crc, true);
	assert_int_equal(rdma_crc_update(&crc, UINT32_MAX, ones, 8), 0xdebb20e3);
}

static void vectors_and_tables_agree_at_every_length(void **state)
{
	struct rdma_crc tables, vectors;
	enum rdma_crc_vector best;
	uint8_t bytes[1700];

	rdma_crc_init(&tables, false);
	rdma_crc_init(&vectors, true);
	best = vectors.vector;
	if (best == RDMA_CRC_TABLES)
		skip();
	fill(bytes, sizeof(bytes));
	for (size_t size = 0; size < 1680; size++) {
		size_t at = size % 17;
		uint32_t expected = rdma_crc_update(&tables, (uint32_t)size, bytes + at, size);

		for (vectors.vector = RDMA_CRC_NARROW; vectors.vector <= best; vectors.vector++)
			assert_int_equal(
			    rdma_crc_update(&vectors, (uint32_t)size, bytes + at, size), expected);
	}
}

static void zeros_are_taken_back(void **state)
{
	static const uint8_t zeros[5000];
	struct rdma_crc crc;

	rdma_crc_init(&crc, true);
	for (uint32_t size = 0; size < 5000; size += 7) {
		uint32_t after = rdma_crc_update(&crc, 0xdeadbeef, zeros, size);

		assert_int_equal(rdma_crc_rewind(after, rdma_crc_rewind_factor(&crc, size)),
				 0xdeadbeef);
	}
}

static void check_known(const uint8_t *bytes, size_t size)
{
	struct rdma_crc crc;

	for (int vector = 0; vector < 2; vector++) {
		rdma_crc_init(&crc, vector);
		assert_int_equal(rdma_icrc(&crc, &v4_ends, (struct rdma_fragment){0x1234, true},
					   bytes + 28, size - 32),
				 get_le32(bytes + size - 4));
	}
}

static void known_packets_have_their_crc(void **state)
{
	check_known(known_write, sizeof(known_write));
	check_known(known_ack, sizeof(known_ack));
}

static void routers_may_change_congestion_bits(void **state)
{
	struct rdma_crc crc;
	uint8_t packet[16] = {4}, marked[16] = {4, [4] = 0xc0};

	rdma_crc_init(&crc, true);
	assert_int_equal(rdma_icrc(&crc, &v6_ends, (struct rdma_fragment){0}, packet, 16),
			 rdma_icrc(&crc, &v6_ends, (struct rdma_fragment){0}, marked, 16));
}

static void known_write_is_taken_apart(void **state)
{
	struct rdma_packet packet;

	assert_true(rdma_packet_decode(known_write + 28, sizeof(known_write) - 32, &packet));
	assert_int_equal(packet.opcode, RDMA_SERVICE_RC | RDMA_WRITE_ONLY);
	assert_int_equal(packet.queue_pair, 0x11);
	assert_int_equal(packet.psn, 0x112233);
	assert_true(packet.ack_request);
	assert_false(packet.solicited);
	assert_int_equal(packet.pkey, 0xffff);
	assert_int_equal(packet.address, 0x7f0011223344);
	assert_int_equal(packet.key, 0x1501);
	assert_int_equal(packet.length, 22);
	assert_int_equal(packet.payload_size, 22);
	assert_int_equal(packet.payload[21], 0x15);
}

static void known_acknowledgement_is_taken_apart(void **state)
{
	struct rdma_packet packet;

	assert_true(rdma_packet_decode(known_ack + 28, sizeof(known_ack) - 32, &packet));
	assert_int_equal(packet.opcode, RDMA_ACKNOWLEDGE);
	assert_int_equal(packet.syndrome, RDMA_ACK);
	assert_int_equal(packet.messages, 7);
}

/* A packet of @opcode with something in each field that it has. */
static struct rdma_packet filled(uint8_t opcode, uint32_t payload_size)
{
	uint32_t flags = rdma_opcode_flags(opcode);
	struct rdma_packet packet = {.opcode = opcode,
				     .solicited = true,
				     .ack_request = true,
				     .pkey = 0xffff,
				     .queue_pair = 0x123456,
				     .psn = 0xfedcba,
				     .flags = flags};

	if (flags & (RDMA_HAS_RETH | RDMA_HAS_ATOMIC)) {
		packet.address = 0x1122334455667788;
		packet.key = 0x99aabbcc;
	}
	if (flags & RDMA_HAS_RETH)
		packet.length = 0x7fffffff;
	if (flags & RDMA_HAS_ATOMIC) {
		packet.swap = 0x0102030405060708;
		packet.compare = 0x8877665544332211;
	}
	if (flags & RDMA_HAS_AETH) {
		packet.syndrome = RDMA_NAK_ACCESS;
		packet.messages = 0xabcdef;
	}
	if (flags & RDMA_HAS_ATOMIC_ACK)
		packet.original = 0xa1a2a3a4a5a6a7a8;
	if (flags & RDMA_HAS_DETH) {
		packet.queue_key = 0x80010000;
		packet.source = 0x654321;
	}
	if (flags & RDMA_HAS_IMMEDIATE)
		packet.immediate = 0x11223344;
	if (flags & RDMA_HAS_INVALIDATE)
		packet.invalidate = 0x55667788;
	if (flags & RDMA_HAS_PAYLOAD)
		packet.payload_size = payload_size;
	return packet;
}

static void check_fields(const struct rdma_packet *a, const struct rdma_packet *b)
{
	assert_int_equal(a->opcode, b->opcode);
	assert_int_equal(a->solicited, b->solicited);
	assert_int_equal(a->ack_request, b->ack_request);
	assert_int_equal(a->pkey, b->pkey);
	assert_int_equal(a->queue_pair, b->queue_pair);
	assert_int_equal(a->psn, b->psn);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->address, b->address);
	assert_int_equal(a->key, b->key);
	assert_int_equal(a->length, b->length);
	assert_int_equal(a->swap, b->swap);
	assert_int_equal(a->compare, b->compare);
	assert_int_equal(a->original, b->original);
	assert_int_equal(a->syndrome, b->syndrome);
	assert_int_equal(a->messages, b->messages);
	assert_int_equal(a->queue_key, b->queue_key);
	assert_int_equal(a->source, b->source);
	assert_int_equal(a->immediate, b->immediate);
	assert_int_equal(a->invalidate, b->invalidate);
	assert_int_equal(a->payload_size, b->payload_size);
}

static void each_operation_is_the_same_after_its_bytes(void **state)
{
	unsigned int operations = 0;

	for (unsigned int opcode = 0; opcode < 256; opcode++) {
		if (!rdma_opcode_flags((uint8_t)opcode))
			continue;
		operations++;
		for (uint32_t size = 0; size < 6; size++) {
			struct rdma_packet packet = filled((uint8_t)opcode, size), decoded;
			uint32_t whole = rdma_packet_size(packet.opcode, packet.payload_size);
			uint8_t bytes[RDMA_PACKET_MAX], *payload;

			payload = rdma_packet_encode(&packet, bytes);
			memset(payload, 0xee, packet.payload_size);
			assert_true(rdma_packet_decode(bytes, whole, &decoded));
			assert_ptr_equal(decoded.payload, payload);
			assert_int_equal(whole & 3, 0);
			for (uint32_t i = packet.payload_size; payload + i < bytes + whole; i++)
				assert_int_equal(payload[i], 0);
			check_fields(&decoded, &packet);
		}
	}
	assert_int_equal(operations, 23 + 12 + 2);
}

static void the_longest_headers_fit(void **state)
{
	for (unsigned int opcode = 0; opcode < 256; opcode++) {
		if (rdma_opcode_flags((uint8_t)opcode))
			assert_true(rdma_headers_size((uint8_t)opcode) <= RDMA_HEADERS_MAX);
	}
}

static void packets_that_end_early_are_refused(void **state)
{
	for (unsigned int opcode = 0; opcode < 256; opcode++) {
		struct rdma_packet packet, decoded;
		uint8_t bytes[RDMA_PACKET_MAX];

		if (!rdma_opcode_flags((uint8_t)opcode))
			continue;
		packet = filled((uint8_t)opcode, 0);
		rdma_packet_encode(&packet, bytes);
		for (uint32_t size = 0; size < rdma_headers_size((uint8_t)opcode); size++)
			assert_false(rdma_packet_decode(bytes, size, &decoded));
	}
}

static void zeros_that_are_not_there_are_refused(void **state)
{
	struct rdma_packet packet = filled(RDMA_SEND_ONLY, 1), decoded;
	uint8_t bytes[RDMA_PACKET_MAX];

	rdma_packet_encode(&packet, bytes);
	assert_false(rdma_packet_decode(bytes, RDMA_BTH_SIZE + 2, &decoded));
}

static void payload_where_none_belongs_is_refused(void **state)
{
	struct rdma_packet packet = filled(RDMA_READ_REQUEST, 0), decoded;
	uint8_t bytes[RDMA_PACKET_MAX] = {0};

	rdma_packet_encode(&packet, bytes);
	assert_false(rdma_packet_decode(bytes, RDMA_BTH_SIZE + 16 + 4, &decoded));
}

static void other_versions_are_refused(void **state)
{
	struct rdma_packet packet = filled(RDMA_SEND_ONLY, 4), decoded;
	uint8_t bytes[RDMA_PACKET_MAX];

	rdma_packet_encode(&packet, bytes);
	bytes[1] |= 1;
	assert_false(rdma_packet_decode(bytes, RDMA_BTH_SIZE + 4, &decoded));
}

static void operations_that_there_are_not_are_refused(void **state)
{
	static const uint8_t none[] = {0x15, 0x18, 0x1f, 0x2c, 0x31, 0x36, 0x40, 0x60, 0x6a, 0x81};
	uint8_t bytes[64] = {0};
	struct rdma_packet decoded;

	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		bytes[0] = none[i];
		assert_false(rdma_packet_decode(bytes, sizeof(bytes), &decoded));
	}
}

static void remembered_headers_are_not_mixed_up(void **state)
{
	struct rdma_icrc_memo memo = {0};
	uint8_t packet[64];
	struct rdma_crc crc;

	rdma_crc_init(&crc, true);
	fill(packet, sizeof(packet));
	/* All in the same place of the memo. */
	for (uint32_t i = 0; i < 2000; i++) {
		struct godwit_rdma_ends ends = random() & 1 ? v4_ends : v6_ends;
		struct rdma_fragment fragment = {(uint16_t)(random() % 3 * 64), random() & 1};
		size_t size = 12 + 4 * ((size_t)random() % 3);

		ends.source_port ^= random() & 1;
		ends.source[15] ^= random() & 1;
		ends.destination[15] ^= random() & 1;
		assert_int_equal(rdma_icrc_again(&crc, &memo, &ends, fragment, packet, size),
				 rdma_icrc(&crc, &ends, fragment, packet, size));
	}
}

static void identification_of_a_packet_is_found(void **state)
{
	uint8_t packet[RDMA_PACKET_MAX];
	struct rdma_icrc_memo memo = {0};
	struct rdma_crc crc;

	rdma_crc_init(&crc, true);
	for (uint32_t i = 0; i < 2000; i++) {
		struct rdma_fragment sent = {(uint16_t)random(), random() & 1};
		struct rdma_fragment found = {(uint16_t)random(), random() & 1};
		size_t size = 12 + 4 * ((size_t)random() % 1000);
		uint32_t factor = rdma_crc_rewind_factor(&crc, rdma_icrc_rewinds(size));

		fill(packet, size);
		assert_true(rdma_icrc_find(&crc, &memo, &v4_ends, &found, packet, size,
					   rdma_icrc(&crc, &v4_ends, sent, packet, size), factor));
		assert_int_equal(found.id, sent.id);
		assert_int_equal(found.dont_fragment, sent.dont_fragment);
	}
}

static void damage_is_seldom_taken_for_an_identification(void **state)
{
	struct rdma_fragment expected = {7, true};
	uint8_t packet[256];
	struct rdma_icrc_memo memo = {0};
	struct rdma_crc crc;
	uint32_t factor, icrc;
	int taken = 0, tried = 0;

	rdma_crc_init(&crc, true);
	fill(packet, sizeof(packet));
	factor = rdma_crc_rewind_factor(&crc, rdma_icrc_rewinds(sizeof(packet)));
	icrc = rdma_icrc(&crc, &v4_ends, expected, packet, sizeof(packet));
	for (; tried < 40000; tried++) {
		struct rdma_fragment found = expected;
		size_t at = 12 + (size_t)random() % (sizeof(packet) - 12 - 8);
		uint64_t before = get_le64(packet + at);

		put_le64(packet + at, before ^ (uint64_t)random() << 32 ^ (uint64_t)random());
		taken += rdma_icrc_find(&crc, &memo, &v4_ends, &found, packet, sizeof(packet), icrc,
					factor);
		put_le64(packet + at, before);
	}
	/* 15 bits remain: 1 in 32768 passes. */
	assert_in_range(taken, 0, 8);
}

static void nothing_is_guessed_of_ipv6(void **state)
{
	struct rdma_fragment found = {0};
	uint8_t packet[32] = {4};
	struct rdma_icrc_memo memo = {0};
	struct rdma_crc crc;
	uint32_t icrc, factor;

	rdma_crc_init(&crc, true);
	icrc = rdma_icrc(&crc, &v6_ends, found, packet, sizeof(packet));
	factor = rdma_crc_rewind_factor(&crc, rdma_icrc_rewinds(sizeof(packet)));
	assert_true(
	    rdma_icrc_find(&crc, &memo, &v6_ends, &found, packet, sizeof(packet), icrc, factor));
	for (int bit = 0; bit < 32; bit++)
		assert_false(rdma_icrc_find(&crc, &memo, &v6_ends, &found, packet, sizeof(packet),
					    icrc ^ 1U << bit, factor));
}

static void sequence_numbers_are_a_ring(void **state)
{
	assert_int_equal(rdma_psn_difference(0, 0xffffff), 1);
	assert_int_equal(rdma_psn_difference(0xffffff, 0), -1);
	assert_int_equal(rdma_psn_difference(0x7fffff, 0), 0x7fffff);
	assert_int_equal(rdma_psn_difference(0x800000, 0), -0x800000);
	assert_int_equal(rdma_psn_add(0xffffff, 2), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(crc_has_its_check_value),
	    cmocka_unit_test(register_after_the_link_header_is_the_known_one),
	    cmocka_unit_test(vectors_and_tables_agree_at_every_length),
	    cmocka_unit_test(zeros_are_taken_back),
	    cmocka_unit_test(known_packets_have_their_crc),
	    cmocka_unit_test(routers_may_change_congestion_bits),
	    cmocka_unit_test(known_write_is_taken_apart),
	    cmocka_unit_test(known_acknowledgement_is_taken_apart),
	    cmocka_unit_test(each_operation_is_the_same_after_its_bytes),
	    cmocka_unit_test(the_longest_headers_fit),
	    cmocka_unit_test(packets_that_end_early_are_refused),
	    cmocka_unit_test(zeros_that_are_not_there_are_refused),
	    cmocka_unit_test(payload_where_none_belongs_is_refused),
	    cmocka_unit_test(other_versions_are_refused),
	    cmocka_unit_test(operations_that_there_are_not_are_refused),
	    cmocka_unit_test(remembered_headers_are_not_mixed_up),
	    cmocka_unit_test(identification_of_a_packet_is_found),
	    cmocka_unit_test(damage_is_seldom_taken_for_an_identification),
	    cmocka_unit_test(nothing_is_guessed_of_ipv6),
	    cmocka_unit_test(sequence_numbers_are_a_ring),
	};

	srandom(6);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
