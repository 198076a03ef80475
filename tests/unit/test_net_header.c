/* SPDX-License-Identifier: BSD-2-Clause */
/* Network device, without a device: features, frame headers, control commands, addresses. */
#include <linux/if_tun.h>
#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "cmocka_prelude.h"
#include "virtio/net.h"
#include "virtio/net_control.h"
#include "virtio/net_header.h"
#include "virtio/tap.h"

#define BIT(n) (1ULL << (n))

/* --- Features and offloads --- */

static void an_offload_without_the_checksum_is_refused(void **state)
{
	assert_true(net_features_valid(BIT(NET_F_CSUM) | BIT(NET_F_HOST_TSO4)));
	assert_false(net_features_valid(BIT(NET_F_HOST_TSO4)));
	assert_false(net_features_valid(BIT(NET_F_GUEST_TSO6)));
	assert_false(net_features_valid(BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_ECN)));
}

static void several_queues_need_the_control_queue(void **state)
{
	assert_false(net_features_valid(BIT(NET_F_MQ)));
	assert_true(net_features_valid(BIT(NET_F_MQ) | BIT(NET_F_CTRL_VQ)));
}

static void the_tap_gets_the_offloads_that_the_guest_takes(void **state)
{
	uint64_t tcp = BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_ECN);

	assert_int_equal(net_tap_offloads(0), 0);
	assert_int_equal(net_tap_offloads(tcp), TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN);
	assert_int_equal(net_tap_offloads(tcp | BIT(NET_F_GUEST_TSO6)),
			 TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
	assert_int_equal(net_tap_offloads(tcp & ~BIT(NET_F_GUEST_CSUM)), 0);
}

static void udp_segmentation_is_on_for_both_versions_or_none(void **state)
{
	uint64_t csum = BIT(NET_F_GUEST_CSUM);

	assert_int_equal(net_tap_offloads(csum | BIT(NET_F_GUEST_USO4)), TUN_F_CSUM);
	assert_int_equal(net_tap_offloads(csum | BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6)),
			 TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6);
}

/* --- Headers of frames to send --- */

#define ALL_HOST                                                                                   \
	(BIT(NET_F_CSUM) | BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) | BIT(NET_F_HOST_ECN) |     \
	 BIT(NET_F_HOST_UFO) | BIT(NET_F_HOST_USO))

static void tcp_header(uint8_t *header, uint8_t type)
{
	memset(header, 0, NET_HEADER_SIZE);
	header[NET_HEADER_FLAGS] = NET_HEADER_NEEDS_CSUM;
	header[NET_HEADER_GSO_TYPE] = type;
	put_le16(header + NET_HEADER_HDR_LEN, 54);
	put_le16(header + NET_HEADER_GSO_SIZE, 1448);
	put_le16(header + NET_HEADER_CSUM_START, 34);
	put_le16(header + NET_HEADER_CSUM_OFFSET, 16);
}

static void a_segmentation_type_must_be_negotiated(void **state)
{
	static const struct {
		uint8_t type;
		unsigned int feature;
	} cases[] = {{NET_GSO_TCPV4, NET_F_HOST_TSO4},
		     {NET_GSO_TCPV6, NET_F_HOST_TSO6},
		     {NET_GSO_UDP, NET_F_HOST_UFO},
		     {NET_GSO_UDP_L4, NET_F_HOST_USO}};
	uint8_t header[NET_HEADER_SIZE];

	for (size_t i = 0; i < 4; i++) {
		tcp_header(header, cases[i].type);
		assert_true(net_header_sanitize(header, ALL_HOST, 9000));
		assert_int_equal(get_le16(header + NET_HEADER_GSO_SIZE), 1448);
		assert_false(net_header_sanitize(header, ALL_HOST & ~BIT(cases[i].feature), 9000));
	}
	tcp_header(header, 2);
	assert_false(net_header_sanitize(header, ALL_HOST, 9000));
}

static void the_ecn_bit_must_be_negotiated_and_stand_beside_tcp(void **state)
{
	uint8_t header[NET_HEADER_SIZE];

	tcp_header(header, NET_GSO_TCPV4 | NET_GSO_ECN);
	assert_true(net_header_sanitize(header, ALL_HOST, 9000));
	assert_false(net_header_sanitize(header, ALL_HOST & ~BIT(NET_F_HOST_ECN), 9000));
	tcp_header(header, NET_GSO_UDP_L4 | NET_GSO_ECN);
	assert_false(net_header_sanitize(header, ALL_HOST, 9000));
	tcp_header(header, NET_GSO_ECN);
	assert_false(net_header_sanitize(header, ALL_HOST, 9000));
}

static void segmentation_needs_a_checksum_and_a_size(void **state)
{
	uint8_t header[NET_HEADER_SIZE];

	tcp_header(header, NET_GSO_TCPV4);
	header[NET_HEADER_FLAGS] = 0;
	assert_false(net_header_sanitize(header, ALL_HOST, 9000));
	tcp_header(header, NET_GSO_TCPV4);
	put_le16(header + NET_HEADER_GSO_SIZE, 0);
	assert_false(net_header_sanitize(header, ALL_HOST, 9000));
}

static void a_checksum_lies_inside_the_frame(void **state)
{
	uint8_t header[NET_HEADER_SIZE];

	tcp_header(header, NET_GSO_NONE);
	assert_true(net_header_sanitize(header, ALL_HOST, 52));
	assert_false(net_header_sanitize(header, ALL_HOST, 51));
	put_le16(header + NET_HEADER_CSUM_START, 0xffff);
	put_le16(header + NET_HEADER_CSUM_OFFSET, 0xffff);
	assert_false(net_header_sanitize(header, ALL_HOST, NET_FRAME_MAX));
}

static void unknown_flags_and_unused_fields_are_cleared(void **state)
{
	uint8_t header[NET_HEADER_SIZE], zero[NET_HEADER_SIZE] = {0};

	memset(header, 0xff, sizeof(header));
	header[NET_HEADER_FLAGS] = 0xfe;
	header[NET_HEADER_GSO_TYPE] = NET_GSO_NONE;
	assert_true(net_header_sanitize(header, 0, 60));
	assert_memory_equal(header, zero, sizeof(zero));
}

static void a_frame_has_an_ethernet_header_and_a_limit(void **state)
{
	uint8_t header[NET_HEADER_SIZE] = {0};

	assert_false(net_header_sanitize(header, ALL_HOST, NET_FRAME_MIN - 1));
	assert_true(net_header_sanitize(header, ALL_HOST, NET_FRAME_MIN));
	assert_true(net_header_sanitize(header, ALL_HOST, NET_FRAME_MAX));
	assert_false(net_header_sanitize(header, ALL_HOST, NET_FRAME_MAX + 1));
}

/* --- Control commands --- */

#define ALL_CONTROL                                                                                \
	(BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_MAC_ADDR) | BIT(NET_F_MQ) |      \
	 BIT(NET_F_CTRL_GUEST_OFFLOADS) | BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4))

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct command {
	struct net_control control;
	unsigned int changed;
};

static void setup(struct command *command)
{
	net_control_reset(&command->control, own_mac, ALL_CONTROL);
}

static bool run_with(struct command *command, uint64_t features, const void *bytes, size_t size)
{
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = size};
	struct virtqueue_chain chain = {.iov = &iov, .out_count = 1, .out_size = size};

	return net_control_execute(&command->control, features, 4, &chain, &command->changed);
}

static bool run(struct command *command, const void *bytes, size_t size)
{
	return run_with(command, ALL_CONTROL, bytes, size);
}

#define RUN(command, ...)                                                                          \
	({                                                                                         \
		const uint8_t bytes_[] = {__VA_ARGS__};                                            \
		run(command, bytes_, sizeof(bytes_));                                              \
	})

static void a_reset_device_takes_every_frame_on_one_pair(void **state)
{
	uint8_t macs[NET_CONTROL_FILTER_MACS][6];
	struct command command;
	bool all;

	setup(&command);
	assert_int_equal(net_control_filter(&command.control, macs, &all), 0);
	assert_int_equal(command.control.pairs, 1);
	assert_int_equal(command.control.offloads, BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4));
}

static void receive_modes_are_switched(void **state)
{
	struct command command;

	setup(&command);
	assert_true(RUN(&command, 0, 0, 0));
	assert_false(command.control.promiscuous);
	assert_int_equal(command.changed, NET_CONTROL_FILTER);
	assert_true(RUN(&command, 0, 1, 1));
	assert_true(command.control.all_multicast);
	assert_false(RUN(&command, 0, 2, 1));
	assert_false(RUN(&command, 0, 0));
}

static void the_mac_table_becomes_the_filter(void **state)
{
	static const uint8_t unicast[6] = {2, 0, 0, 0, 0, 9}, multicast[6] = {1, 0, 0x5e, 0, 0, 1},
			     broadcast[6] = {255, 255, 255, 255, 255, 255};
	uint8_t macs[NET_CONTROL_FILTER_MACS][6], table[2 + 4 + 6 + 4 + 6] = {1, 0};
	struct command command;
	bool all;

	setup(&command);
	assert_true(RUN(&command, 0, 0, 0));
	put_le32(table + 2, 1);
	memcpy(table + 6, unicast, 6);
	put_le32(table + 12, 1);
	memcpy(table + 16, multicast, 6);
	assert_true(run(&command, table, sizeof(table)));
	assert_int_equal(net_control_filter(&command.control, macs, &all), 4);
	assert_memory_equal(macs[0], own_mac, 6);
	assert_memory_equal(macs[1], unicast, 6);
	assert_memory_equal(macs[2], broadcast, 6);
	assert_memory_equal(macs[3], multicast, 6);
	assert_false(all);
}

static void a_mac_table_beyond_the_command_is_refused(void **state)
{
	uint8_t table[2 + 4 + 6 + 4] = {1, 0};
	struct command command;

	setup(&command);
	put_le32(table + 2, 2);
	assert_false(run(&command, table, sizeof(table)));
	put_le32(table + 2, UINT32_MAX);
	assert_false(run(&command, table, sizeof(table)));
	put_le32(table + 2, 1);
	assert_true(run(&command, table, sizeof(table)));
	put_le32(table + 12, 1);
	assert_false(run(&command, table, sizeof(table)));
}

static void a_long_unicast_table_takes_everything(void **state)
{
	uint8_t macs[NET_CONTROL_FILTER_MACS][6];
	uint8_t table[2 + 4 + 6 * (NET_CONTROL_MACS + 1) + 4] = {1, 0};
	struct command command;
	bool all;

	setup(&command);
	assert_true(RUN(&command, 0, 0, 0));
	put_le32(table + 2, NET_CONTROL_MACS + 1);
	assert_true(run(&command, table, sizeof(table)));
	assert_int_equal(net_control_filter(&command.control, macs, &all), 0);
}

static void a_long_multicast_table_takes_all_multicast(void **state)
{
	uint8_t macs[NET_CONTROL_FILTER_MACS][6];
	uint8_t table[2 + 4 + 4 + 6 * (NET_CONTROL_MACS + 1)] = {1, 0};
	struct command command;
	bool all;

	setup(&command);
	assert_true(RUN(&command, 0, 0, 0));
	put_le32(table + 6, NET_CONTROL_MACS + 1);
	assert_true(run(&command, table, sizeof(table)));
	assert_int_equal(net_control_filter(&command.control, macs, &all), 2);
	assert_true(all);
}

static void the_longest_table_that_fits_is_kept(void **state)
{
	uint8_t macs[NET_CONTROL_FILTER_MACS][6];
	uint8_t table[2 + 4 + 6 * NET_CONTROL_MACS + 4] = {1, 0};
	struct command command;
	bool all;

	setup(&command);
	assert_true(RUN(&command, 0, 0, 0));
	put_le32(table + 2, NET_CONTROL_MACS);
	assert_true(run(&command, table, sizeof(table)));
	assert_int_equal(net_control_filter(&command.control, macs, &all), NET_CONTROL_FILTER_MACS);
}

static void the_address_is_set_to_a_unicast_one(void **state)
{
	struct command command;

	setup(&command);
	assert_true(RUN(&command, 1, 1, 2, 0, 0, 0, 0, 7));
	assert_int_equal(command.control.mac[5], 7);
	assert_false(RUN(&command, 1, 1, 3, 0, 0, 0, 0, 7));
	assert_false(RUN(&command, 1, 1, 0, 0, 0, 0, 0, 0));
	assert_false(RUN(&command, 1, 1, 2, 0, 0, 0, 0));
}

static void pairs_are_from_one_to_what_is_offered(void **state)
{
	struct command command;

	setup(&command);
	assert_true(RUN(&command, 4, 0, 4, 0));
	assert_int_equal(command.control.pairs, 4);
	assert_int_equal(command.changed, NET_CONTROL_PAIRS);
	assert_false(RUN(&command, 4, 0, 5, 0));
	assert_false(RUN(&command, 4, 0, 0, 0));
	assert_false(RUN(&command, 4, 0, 1));
}

static void only_negotiated_offloads_are_switched_on(void **state)
{
	uint8_t command_bytes[10] = {5, 0};
	struct command command;

	setup(&command);
	put_le64(command_bytes + 2, BIT(NET_F_GUEST_CSUM));
	assert_true(run(&command, command_bytes, sizeof(command_bytes)));
	assert_int_equal(command.control.offloads, BIT(NET_F_GUEST_CSUM));
	put_le64(command_bytes + 2, BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO6));
	assert_false(run(&command, command_bytes, sizeof(command_bytes)));
	put_le64(command_bytes + 2, BIT(NET_F_GUEST_TSO4));
	assert_false(run(&command, command_bytes, sizeof(command_bytes)));
}

static void a_command_without_its_feature_is_refused(void **state)
{
	static const uint8_t promiscuous[] = {0, 0, 1}, mac[] = {1, 1, 2, 0, 0, 0, 0, 7},
			     pairs[] = {4, 0, 1, 0}, vlan[] = {2, 0, 1, 0}, announce[] = {3, 0};
	struct command command;

	setup(&command);
	assert_false(run_with(&command, ALL_CONTROL & ~BIT(NET_F_CTRL_RX), promiscuous, 3));
	assert_false(run_with(&command, ALL_CONTROL & ~BIT(NET_F_CTRL_MAC_ADDR), mac, 8));
	assert_false(run_with(&command, ALL_CONTROL & ~BIT(NET_F_MQ), pairs, 4));
	assert_false(run(&command, vlan, sizeof(vlan)));
	assert_false(run(&command, announce, sizeof(announce)));
}

/* --- Addresses and slices --- */

static void a_mac_is_parsed_or_refused(void **state)
{
	uint8_t mac[6];

	assert_no_error(virtio_net_parse_mac("52:54:00:aB:cd:Ef", mac));
	assert_memory_equal(mac, ((uint8_t[]){0x52, 0x54, 0, 0xab, 0xcd, 0xef}), 6);
	assert_error_with(virtio_net_parse_mac("52:54:00:ab:cd", mac), "form");
	assert_error_with(virtio_net_parse_mac("52:54:00:ab:cd:ef:01", mac), "form");
	assert_error_with(virtio_net_parse_mac("52-54-00-ab-cd-ef", mac), "form");
	assert_error_with(virtio_net_parse_mac("\x10\x10:54:00:ab:cd:ef", mac), "form");
	assert_error_with(virtio_net_parse_mac("01:00:5e:00:00:01", mac), "unicast");
	assert_error_with(virtio_net_parse_mac("00:00:00:00:00:00", mac), "unicast");
}

static void default_macs_are_stable_and_differ(void **state)
{
	uint8_t first[6], again[6], other[6], second[6];

	virtio_net_default_mac("vm", 0, first);
	virtio_net_default_mac("vm", 0, again);
	virtio_net_default_mac("vm", 1, second);
	virtio_net_default_mac("vm2", 0, other);
	assert_memory_equal(first, again, 6);
	assert_memory_not_equal(first, second, 6);
	assert_memory_not_equal(first, other, 6);
	assert_int_equal(first[0] & 3, 2);
}

static void slices_skip_and_cut(void **state)
{
	char bytes[] = "abcdefgh";
	struct iovec iov[3] = {{bytes, 2}, {bytes + 2, 3}, {bytes + 5, 3}};

	assert_int_equal(iov_skip(iov, 3, 4), 1);
	assert_ptr_equal(iov[1].iov_base, bytes + 4);
	assert_int_equal(iov[1].iov_len, 1);
	assert_int_equal(iov_truncate(iov + 1, 2, 2), 2);
	assert_int_equal(iov[2].iov_len, 1);
	assert_int_equal(iov_truncate(iov + 1, 2, 0), 0);
	assert_int_equal(iov_skip(iov, 3, 100), 3);
}

static void a_bad_device_text_is_refused_by_name(void **state)
{
	struct virtio_device *device;

	assert_error_with(virtio_net_create("user", "vm", 0, &device), "tap:");
	assert_error_with(virtio_net_create("tap:x,queues=65", "vm", 0, &device), "queues");
	assert_error_with(virtio_net_create("tap:x,queues=0", "vm", 0, &device), "queues");
	assert_error_with(virtio_net_create("tap:x,mtu=67", "vm", 0, &device), "mtu");
	assert_error_with(virtio_net_create("tap:x,mac=1", "vm", 0, &device), "mac");
	assert_error_with(virtio_net_create("tap:x,color=red", "vm", 0, &device), "color");
	assert_error_with(virtio_net_create("tap:a-name-of-17-char", "vm", 0, &device), "15");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_offload_without_the_checksum_is_refused),
	    cmocka_unit_test(several_queues_need_the_control_queue),
	    cmocka_unit_test(the_tap_gets_the_offloads_that_the_guest_takes),
	    cmocka_unit_test(udp_segmentation_is_on_for_both_versions_or_none),
	    cmocka_unit_test(a_segmentation_type_must_be_negotiated),
	    cmocka_unit_test(the_ecn_bit_must_be_negotiated_and_stand_beside_tcp),
	    cmocka_unit_test(segmentation_needs_a_checksum_and_a_size),
	    cmocka_unit_test(a_checksum_lies_inside_the_frame),
	    cmocka_unit_test(unknown_flags_and_unused_fields_are_cleared),
	    cmocka_unit_test(a_frame_has_an_ethernet_header_and_a_limit),
	    cmocka_unit_test(a_reset_device_takes_every_frame_on_one_pair),
	    cmocka_unit_test(receive_modes_are_switched),
	    cmocka_unit_test(the_mac_table_becomes_the_filter),
	    cmocka_unit_test(a_mac_table_beyond_the_command_is_refused),
	    cmocka_unit_test(a_long_unicast_table_takes_everything),
	    cmocka_unit_test(a_long_multicast_table_takes_all_multicast),
	    cmocka_unit_test(the_longest_table_that_fits_is_kept),
	    cmocka_unit_test(the_address_is_set_to_a_unicast_one),
	    cmocka_unit_test(pairs_are_from_one_to_what_is_offered),
	    cmocka_unit_test(only_negotiated_offloads_are_switched_on),
	    cmocka_unit_test(a_command_without_its_feature_is_refused),
	    cmocka_unit_test(a_mac_is_parsed_or_refused),
	    cmocka_unit_test(default_macs_are_stable_and_differ),
	    cmocka_unit_test(slices_skip_and_cut),
	    cmocka_unit_test(a_bad_device_text_is_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
