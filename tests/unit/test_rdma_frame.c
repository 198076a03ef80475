/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames of RoCE v2: what is one, and what is somebody else's. */
#include "cmocka_prelude.h"

#include <string.h>

#include "base/bytes.h"
#include "rdma/frame.h"

#define IP  14U
#define UDP (IP + 20U)

static const struct godwit_rdma_ends v4_ends = {{[10] = 0xff, 0xff, 10, 99, 0, 1},
						{[10] = 0xff, 0xff, 10, 99, 0, 11},
						0xc123,
						{0x52, 0x54, 0, 1, 2, 3}};
static const struct godwit_rdma_ends v6_ends = {
    {0xfd, [15] = 1}, {0xfd, [15] = 2}, 0xc000, {0x52, 0x54, 0, 1, 2, 4}};
static const uint8_t mac[6] = {0x52, 0x54, 0, 9, 9, 9};

/* A frame with a datagram of @size bytes; returns its length. */
static uint32_t make_frame(const struct godwit_rdma_ends *ends, uint8_t *frame, uint32_t size)
{
	uint32_t headers = rdma_frame_headers_size(ends);

	rdma_frame_encode_headers(ends, mac, size, frame);
	memset(frame + headers, 0x5a, size);
	return headers + size;
}

static void a_frame_has_the_known_headers(void **state)
{
	/* As scapy makes them. */
	static const uint8_t known[] = {
	    0x52, 0x54, 0x00, 0x01, 0x02, 0x03, 0x52, 0x54, 0x00, 0x09, 0x09, 0x09, 0x08, 0x00,
	    0x45, 0x00, 0x00, 0x54, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x25, 0xc8, 0x0a, 0x63,
	    0x00, 0x01, 0x0a, 0x63, 0x00, 0x0b, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x40, 0x00, 0x00};
	uint8_t frame[200];

	assert_int_equal(make_frame(&v4_ends, frame, 56), sizeof(known) + 56);
	assert_memory_equal(frame, known, sizeof(known));
}

static void what_was_made_is_understood(void **state)
{
	const struct godwit_rdma_ends *both[] = {&v4_ends, &v6_ends};

	for (int i = 0; i < 2; i++) {
		struct rdma_frame decoded;
		uint8_t frame[200];
		uint32_t size = make_frame(both[i], frame, 100);

		assert_true(rdma_frame_decode(frame, size, &decoded));
		assert_memory_equal(decoded.ends.source, both[i]->source, 16);
		assert_memory_equal(decoded.ends.destination, both[i]->destination, 16);
		assert_int_equal(decoded.ends.source_port, both[i]->source_port);
		assert_int_equal(decoded.size, 100);
		assert_ptr_equal(decoded.datagram, frame + size - 100);
		assert_int_equal(decoded.fragment.id, 0);
		assert_int_equal(decoded.fragment.dont_fragment, !i);
		assert_memory_equal(frame, both[i]->next_hop, 6);
		assert_memory_equal(frame + 6, mac, 6);
	}
}

static void bytes_behind_the_datagram_are_not_of_it(void **state)
{
	struct rdma_frame decoded;
	uint8_t frame[200] = {0};

	make_frame(&v4_ends, frame, 20);
	assert_true(rdma_frame_decode(frame, 80, &decoded));
	assert_int_equal(decoded.size, 20);
}

static void a_frame_that_is_cut_short_is_none(void **state)
{
	const struct godwit_rdma_ends *both[] = {&v4_ends, &v6_ends};

	for (int i = 0; i < 2; i++) {
		struct rdma_frame decoded;
		uint8_t frame[200];
		uint32_t size = make_frame(both[i], frame, 60);

		for (uint32_t less = 0; less < size; less++)
			assert_false(rdma_frame_decode(frame, less, &decoded));
	}
}

/* One byte of a good frame is another one. */
static void check_refused(const struct godwit_rdma_ends *ends, uint32_t at, uint8_t value)
{
	struct rdma_frame decoded;
	uint8_t frame[200];
	uint32_t size = make_frame(ends, frame, 60);

	assert_int_not_equal(frame[at], value);
	frame[at] = value;
	assert_false(rdma_frame_decode(frame, size, &decoded));
}

static void other_frames_are_somebody_elses(void **state)
{
	check_refused(&v4_ends, 12, 0x81);	/* a VLAN's */
	check_refused(&v4_ends, IP, 0x46);	/* options */
	check_refused(&v4_ends, IP, 0x65);	/* version */
	check_refused(&v4_ends, IP + 2, 1);	/* longer than the frame */
	check_refused(&v4_ends, IP + 3, 27);	/* too short for UDP's header */
	check_refused(&v4_ends, IP + 3, 19);	/* and for its own */
	check_refused(&v4_ends, IP + 6, 0x20);	/* more fragments */
	check_refused(&v4_ends, IP + 6, 0xc0);	/* a bit that is 0 */
	check_refused(&v4_ends, IP + 7, 1);	/* not the first one */
	check_refused(&v4_ends, IP + 9, 6);	/* TCP */
	check_refused(&v4_ends, UDP + 3, 0xb8); /* another port */
	check_refused(&v4_ends, UDP + 5, 67);	/* UDP's length is not IP's */
	check_refused(&v6_ends, IP, 0x40);	/* version */
	check_refused(&v6_ends, IP + 5, 69);	/* longer than the frame */
	check_refused(&v6_ends, IP + 6, 44);	/* a header for fragments */
	check_refused(&v6_ends, IP + 43, 0xb8); /* another port */
}

static void the_sum_of_the_addresses_is_what_udp_wants(void **state)
{
	/* 10.99.0.1, 10.99.0.11, 17, 56 + 8, added by hand; and with carries. */
	static const struct godwit_rdma_ends high = {{[10] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
						     {[10] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}};

	assert_int_equal(rdma_frame_pseudo_sum(&v4_ends, 56), 0x0a63 + 1 + 0x0a63 + 11 + 17 + 64);
	assert_int_equal(rdma_frame_pseudo_sum(&v6_ends, 56), 2 * 0xfd00 + 3 + 17 + 64 - 0xffff);
	assert_int_equal(rdma_frame_pseudo_sum(&high, 0), 17 + 8 - 1);
}

static void an_address_of_ipv4_in_ipv6_is_refused(void **state)
{
	struct rdma_frame decoded;
	uint8_t frame[200];
	uint32_t size = make_frame(&v6_ends, frame, 60);

	memcpy(frame + IP + 24, v4_ends.destination, 16);
	assert_false(rdma_frame_decode(frame, size, &decoded));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_frame_has_the_known_headers),
	    cmocka_unit_test(what_was_made_is_understood),
	    cmocka_unit_test(bytes_behind_the_datagram_are_not_of_it),
	    cmocka_unit_test(a_frame_that_is_cut_short_is_none),
	    cmocka_unit_test(other_frames_are_somebody_elses),
	    cmocka_unit_test(the_sum_of_the_addresses_is_what_udp_wants),
	    cmocka_unit_test(an_address_of_ipv4_in_ipv6_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
