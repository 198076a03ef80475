/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-net over sockets in the place of a tap: what each side sees of the other's frames. */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net.h"
#include "virtio/net_control.h"
#include "virtio/net_header.h"
#include "virtio/net_pair.h"
#include "virtio_state.h"

#define BIT(n)	    VIRTIO_FEATURE(n)
#define BUFFERS	    0x100000 /* receive buffers, 0x1000 apart */
#define FRAME	    0x400000 /* a frame to send, with its header */
#define COMMAND	    0x500000
#define ANSWER	    0x501000
#define MERGE	    BIT(NET_F_MRG_RXBUF)
#define CONTROL	    (BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_MAC_ADDR))
#define HEADER_SIZE NET_HEADER_SIZE

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct net {
	struct driver driver;
	int wires[4]; /* the other ends of the device's sockets */
	uint32_t pairs;
};

static void setup_pairs(struct net *net, uint32_t pairs)
{
	struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct virtio_net_options options = {.id = "net0", .mtu = 1500};
	struct virtio_device *device;
	struct tap tap;
	int fds[4];

	*net = (struct net){.pairs = pairs};
	for (uint32_t i = 0; i < pairs; i++) {
		int ends[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
		fds[i] = ends[0];
		net->wires[i] = ends[1];
	}
	memcpy(options.mac, own_mac, 6);
	tap_from_sockets(&tap, fds, pairs);
	driver_no_error(virtio_net_create_on_tap(&options, &tap, &device));
	driver_create_memory(&net->driver, &anonymous);
	driver_add_device(&net->driver, device);
}

static void setup(struct net *net, uint64_t features)
{
	setup_pairs(net, 1);
	driver_start(&net->driver, features);
}

static void teardown(struct net *net)
{
	driver_destroy(&net->driver);
	for (uint32_t i = 0; i < net->pairs; i++)
		if (net->wires[i] >= 0)
			close(net->wires[i]);
}

/* A packet (header and frame) of @size bytes with a recognisable content. */
static void make_packet(uint8_t *packet, size_t size)
{
	memset(packet, 0, HEADER_SIZE);
	for (size_t i = HEADER_SIZE; i < size; i++)
		packet[i] = (uint8_t)(i * 7 + i / 256);
}

static void wire_send(struct net *net, uint32_t wire, const uint8_t *packet, size_t size)
{
	assert_int_equal(send(net->wires[wire], packet, size, 0), size);
}

/* The next packet from the device, or -1 if none comes. */
static ssize_t wire_receive(struct net *net, uint32_t wire, uint8_t *packet, size_t size,
			    int wait_ms)
{
	struct pollfd ready = {.fd = net->wires[wire], .events = POLLIN};

	if (poll(&ready, 1, wait_ms) <= 0)
		return -1;
	return recv(net->wires[wire], packet, size, MSG_DONTWAIT);
}

/* Offers @count receive buffers of @size bytes, without the doorbell. */
static void offer_buffers(struct net *net, uint16_t queue, unsigned int first, unsigned int count,
			  uint32_t size)
{
	for (unsigned int i = first; i < first + count; i++)
		driver_offer(&net->driver, queue,
			     &(struct driver_buffer){BUFFERS + i * 0x1000, size, true}, 1);
}

static uint8_t *buffer(struct net *net, unsigned int index)
{
	return net->driver.ram + BUFFERS + index * 0x1000;
}

static void offer_frame(struct net *net, uint16_t queue, size_t size)
{
	driver_offer(&net->driver, queue, &(struct driver_buffer){FRAME, (uint32_t)size, false}, 1);
}

static json_int_t fact(struct net *net, const char *name)
{
	json_t *report = virtio_device_describe(net->driver.device);
	json_t *value = json_object_get(report, name);
	json_int_t number =
	    json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);

	assert_non_null(value);
	json_decref(report);
	return number;
}

/* --- Sending --- */

static void a_frame_goes_out_unchanged(void **state)
{
	uint8_t packet[4096];
	struct net net;

	setup(&net, 0);
	make_packet(net.driver.ram + FRAME, 1000);
	offer_frame(&net, 1, 1000);
	driver_notify(&net.driver, 1);
	assert_int_equal(driver_wait(&net.driver, 1, NULL), 0);
	assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 1000), 1000);
	assert_memory_equal(packet, net.driver.ram + FRAME, 1000);
	teardown(&net);
}

static void a_frame_in_many_small_buffers_goes_out_whole(void **state)
{
	struct driver_buffer buffers[40];
	uint8_t packet[4096];
	struct net net;

	setup(&net, 0);
	make_packet(net.driver.ram + FRAME, 200);
	for (size_t i = 0; i < 40; i++)
		buffers[i] = (struct driver_buffer){FRAME + i * 5, 5, false};
	driver_request(&net.driver, 1, buffers, 40);
	assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 1000), 200);
	assert_memory_equal(packet, net.driver.ram + FRAME, 200);
	teardown(&net);
}

static void a_header_that_was_not_negotiated_is_dropped_and_counted(void **state)
{
	uint8_t packet[4096];
	struct net net;

	setup(&net, 0);
	make_packet(net.driver.ram + FRAME, 1000);
	net.driver.ram[FRAME + NET_HEADER_FLAGS] = NET_HEADER_NEEDS_CSUM;
	offer_frame(&net, 1, 1000);
	driver_notify(&net.driver, 1);
	driver_wait(&net.driver, 1, NULL);
	assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 0), -1);
	assert_int_equal(fact(&net, "tx-dropped"), 1);
	assert_false(driver_needs_reset(&net.driver));
	teardown(&net);
}

static void a_chain_without_a_header_needs_a_reset(void **state)
{
	struct net net;

	setup(&net, 0);
	offer_frame(&net, 1, HEADER_SIZE - 1);
	driver_notify(&net.driver, 1);
	assert_true(driver_needs_reset(&net.driver));
	teardown(&net);
}

static void a_full_back_end_delays_frames_and_loses_none(void **state)
{
	uint8_t packet[4096];
	struct net net;

	setup(&net, 0);
	make_packet(net.driver.ram + FRAME, 1500);
	for (int i = 0; i < NET_QUEUE_SIZE; i++)
		offer_frame(&net, 1, 1500);
	driver_notify(&net.driver, 1);
	assert_true(fact(&net, "tx-packets") < NET_QUEUE_SIZE);
	for (int i = 0; i < NET_QUEUE_SIZE; i++)
		assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 1000), 1500);
	for (int i = 0; i < NET_QUEUE_SIZE; i++)
		driver_wait(&net.driver, 1, NULL);
	assert_int_equal(fact(&net, "tx-dropped"), 0);
	teardown(&net);
}

/* --- Receiving --- */

static void a_frame_arrives_in_one_buffer(void **state)
{
	uint8_t packet[1000];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 1, 0x1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	assert_int_equal(driver_wait(&net.driver, 0, NULL), sizeof(packet));
	assert_int_equal(get_le16(buffer(&net, 0) + NET_HEADER_NUM_BUFFERS), 1);
	assert_memory_equal(buffer(&net, 0) + HEADER_SIZE, packet + HEADER_SIZE,
			    sizeof(packet) - HEADER_SIZE);
	teardown(&net);
}

static void flags_reach_only_a_driver_that_knows_checksums(void **state)
{
	uint64_t features[] = {0, BIT(NET_F_GUEST_CSUM)};
	uint8_t packet[100];
	struct net net;

	for (int i = 0; i < 2; i++) {
		setup(&net, features[i]);
		offer_buffers(&net, 0, 0, 1, 0x1000);
		driver_notify(&net.driver, 0);
		make_packet(packet, sizeof(packet));
		packet[NET_HEADER_FLAGS] = NET_HEADER_DATA_VALID;
		wire_send(&net, 0, packet, sizeof(packet));
		driver_wait(&net.driver, 0, NULL);
		assert_int_equal(buffer(&net, 0)[NET_HEADER_FLAGS], i ? NET_HEADER_DATA_VALID : 0);
		teardown(&net);
	}
}

static void check_merged(struct net *net, const uint8_t *packet, size_t size, uint32_t each)
{
	unsigned int count = (unsigned int)((size + each - 1) / each);

	for (unsigned int i = 0; i < count; i++) {
		uint32_t part = (uint32_t)MIN(size - i * each, (size_t)each);
		uint32_t skip = i ? 0 : HEADER_SIZE;

		assert_int_equal(driver_wait(&net->driver, 0, NULL), part);
		assert_memory_equal(buffer(net, i) + skip, packet + i * each + skip, part - skip);
	}
	assert_int_equal(get_le16(buffer(net, 0) + NET_HEADER_NUM_BUFFERS), count);
}

static void a_large_frame_is_merged_from_several_buffers(void **state)
{
	uint8_t packet[2512];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 4, 1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	check_merged(&net, packet, sizeof(packet), 1000);
	assert_false(driver_used(&net.driver, 0));
	teardown(&net);
}

static void the_largest_frame_is_merged(void **state)
{
	static uint8_t packet[HEADER_SIZE + NET_FRAME_MAX];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 60, 1526);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	check_merged(&net, packet, sizeof(packet), 1526);
	teardown(&net);
}

static void a_large_frame_without_merging_is_dropped_and_counted(void **state)
{
	uint8_t packet[2000];
	struct net net;

	setup(&net, 0);
	offer_buffers(&net, 0, 0, 2, 1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	wire_send(&net, 0, packet, 500);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), 500);
	assert_int_equal(fact(&net, "rx-dropped"), 1);
	teardown(&net);
}

static void a_frame_waits_for_a_buffer(void **state)
{
	uint8_t packet[500];
	struct net net;

	setup(&net, MERGE);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	usleep(20000);
	offer_buffers(&net, 0, 0, 1, 1000);
	driver_notify(&net.driver, 0);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), sizeof(packet));
	teardown(&net);
}

static void a_frame_that_needs_more_buffers_waits_whole(void **state)
{
	uint8_t packet[2512];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 2, 1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	usleep(20000);
	assert_false(driver_used(&net.driver, 0));
	/* The two may have been written to meanwhile, and the guest may write to them too. */
	memset(buffer(&net, 0), 0xee, 0x2000);
	offer_buffers(&net, 0, 2, 1, 1000);
	driver_notify(&net.driver, 0);
	check_merged(&net, packet, sizeof(packet), 1000);
	teardown(&net);
}

static uint16_t event_of(struct net *net, uint64_t address)
{
	return le16toh(__atomic_load_n((uint16_t *)(net->driver.ram + address), __ATOMIC_ACQUIRE));
}

static void a_device_that_waits_for_more_buffers_asks_for_the_doorbell(void **state)
{
	uint8_t packet[2512];
	struct net net;
	uint64_t event;

	setup(&net, MERGE | BIT(VIRTIO_F_EVENT_IDX));
	offer_buffers(&net, 0, 0, 2, 1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	event = net.driver.queues[0].used + 4 + net.driver.queues[0].size * 8;
	/* The device writes it on its thread. */
	for (int i = 0; i < WAIT_MAX_MS && event_of(&net, event) != 2; i++)
		usleep(1000);
	assert_int_equal(event_of(&net, event), 2);
	teardown(&net);
}

static void a_receive_buffer_smaller_than_the_header_needs_a_reset(void **state)
{
	uint8_t packet[100];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 1, HEADER_SIZE - 1);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet));
	for (int i = 0; i < 1000 && !driver_needs_reset(&net.driver); i++)
		usleep(1000);
	assert_true(driver_needs_reset(&net.driver));
	teardown(&net);
}

/* --- Control --- */

/* Sends a command on @queue; the answer. */
static uint8_t command(struct net *net, uint16_t queue, const uint8_t *bytes, uint32_t size)
{
	struct driver_buffer buffers[] = {{COMMAND, size, false}, {ANSWER, 1, true}};

	memcpy(net->driver.ram + COMMAND, bytes, size);
	net->driver.ram[ANSWER] = 0xff;
	assert_int_equal(driver_request(&net->driver, queue, buffers, 2), 1);
	return net->driver.ram[ANSWER];
}

#define COMMAND_BYTES(...) ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})

static void a_new_address_is_in_the_configuration_until_reset(void **state)
{
	struct net net;

	setup(&net, CONTROL);
	assert_int_equal(command(&net, 2, COMMAND_BYTES(1, 1, 2, 0, 0, 0, 0, 9)), NET_CONTROL_OK);
	assert_int_equal(driver_read_config(&net.driver, 0, 6), 0x090000000002);
	driver_set_status(&net.driver, 0);
	assert_int_equal(driver_read_config(&net.driver, 0, 6), 0x030201005452);
	teardown(&net);
}

static void an_unknown_command_is_answered_with_an_error(void **state)
{
	struct net net;

	setup(&net, CONTROL);
	assert_int_equal(command(&net, 2, COMMAND_BYTES(77, 0)), NET_CONTROL_ERR);
	assert_int_equal(command(&net, 2, COMMAND_BYTES(0)), NET_CONTROL_ERR);
	assert_false(driver_needs_reset(&net.driver));
	teardown(&net);
}

static void a_command_without_room_for_the_answer_needs_a_reset(void **state)
{
	struct net net;

	setup(&net, CONTROL);
	driver_offer(&net.driver, 2, &(struct driver_buffer){COMMAND, 3, false}, 1);
	driver_notify(&net.driver, 2);
	assert_true(driver_needs_reset(&net.driver));
	teardown(&net);
}

static void a_second_pair_is_used_from_the_command_on(void **state)
{
	uint8_t packet[500];
	struct net net;

	setup_pairs(&net, 2);
	driver_start(&net.driver, CONTROL | BIT(NET_F_MQ));
	offer_buffers(&net, 2, 0, 2, 0x1000);
	driver_notify(&net.driver, 2);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 1, packet, sizeof(packet));
	usleep(20000);
	assert_false(driver_used(&net.driver, 2));
	assert_int_equal(command(&net, 4, COMMAND_BYTES(4, 0, 2, 0)), NET_CONTROL_OK);
	assert_int_equal(driver_wait(&net.driver, 2, NULL), sizeof(packet));
	assert_int_equal(command(&net, 4, COMMAND_BYTES(4, 0, 3, 0)), NET_CONTROL_ERR);
	assert_int_equal(command(&net, 4, COMMAND_BYTES(4, 0, 1, 0)), NET_CONTROL_OK);
	wire_send(&net, 1, packet, sizeof(packet));
	usleep(20000);
	assert_false(driver_used(&net.driver, 2));
	teardown(&net);
}

static void a_second_pair_sends_when_in_use_and_drops_otherwise(void **state)
{
	uint8_t packet[4096];
	struct net net;

	setup_pairs(&net, 2);
	driver_start(&net.driver, CONTROL | BIT(NET_F_MQ));
	make_packet(net.driver.ram + FRAME, 300);
	offer_frame(&net, 3, 300);
	driver_notify(&net.driver, 3);
	driver_wait(&net.driver, 3, NULL);
	assert_int_equal(wire_receive(&net, 1, packet, sizeof(packet), 0), -1);
	assert_int_equal(command(&net, 4, COMMAND_BYTES(4, 0, 2, 0)), NET_CONTROL_OK);
	offer_frame(&net, 3, 300);
	driver_notify(&net.driver, 3);
	driver_wait(&net.driver, 3, NULL);
	assert_int_equal(wire_receive(&net, 1, packet, sizeof(packet), 1000), 300);
	teardown(&net);
}

static void without_multiqueue_the_control_queue_is_the_third(void **state)
{
	struct net net;

	setup_pairs(&net, 2);
	driver_start(&net.driver, CONTROL);
	assert_int_equal(command(&net, 2, COMMAND_BYTES(0, 0, 0)), NET_CONTROL_OK);
	assert_int_equal(fact(&net, "promiscuous"), 0);
	assert_int_equal(command(&net, 2, COMMAND_BYTES(4, 0, 2, 0)), NET_CONTROL_ERR);
	teardown(&net);
}

/* --- Life cycle --- */

static void the_configuration_says_what_is_offered(void **state)
{
	struct net net;

	setup_pairs(&net, 3);
	assert_int_equal(driver_read_config(&net.driver, 6, 2), 1);
	assert_int_equal(driver_read_config(&net.driver, 8, 2), 3);
	assert_int_equal(driver_read_config(&net.driver, 10, 2), 1500);
	assert_true(net.driver.device->features & BIT(NET_F_MQ));
	assert_true(net_features_valid(net.driver.device->features));
	teardown(&net);
}

static void a_paused_device_keeps_frames_for_later(void **state)
{
	uint8_t packet[2512];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 2, 1000);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet)); /* waits for a third buffer */
	usleep(20000);
	virtio_device_quiesce(net.driver.device);
	offer_buffers(&net, 0, 2, 1, 1000);
	driver_notify(&net.driver, 0);
	usleep(20000);
	assert_false(driver_used(&net.driver, 0));
	virtio_device_resume(net.driver.device);
	check_merged(&net, packet, sizeof(packet), 1000);
	teardown(&net);
}

static void a_reset_device_starts_again_with_one_pair(void **state)
{
	uint8_t packet[500];
	struct net net;

	setup_pairs(&net, 2);
	driver_start(&net.driver, MERGE | CONTROL | BIT(NET_F_MQ));
	assert_int_equal(command(&net, 4, COMMAND_BYTES(4, 0, 2, 0)), NET_CONTROL_OK);
	offer_buffers(&net, 0, 0, 2, 100);
	driver_notify(&net.driver, 0);
	make_packet(packet, sizeof(packet));
	wire_send(&net, 0, packet, sizeof(packet)); /* waits, and is dropped by the reset */
	usleep(20000);
	driver_set_status(&net.driver, 0);
	assert_int_equal(fact(&net, "queue-pairs-in-use"), 1);
	driver_start(&net.driver, MERGE);
	offer_buffers(&net, 0, 0, 2, 0x1000);
	driver_notify(&net.driver, 0);
	wire_send(&net, 0, packet, 400);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), 400);
	teardown(&net);
}

static void the_link_goes_down_with_the_back_end(void **state)
{
	struct net net;

	setup(&net, BIT(NET_F_STATUS));
	offer_buffers(&net, 0, 0, 1, 0x1000);
	driver_notify(&net.driver, 0);
	close(net.wires[0]);
	net.wires[0] = -1;
	for (int i = 0; i < 1000 && driver_read_config(&net.driver, 6, 2); i++)
		usleep(1000);
	assert_int_equal(driver_read_config(&net.driver, 6, 2), 0);
	assert_int_equal(net.driver.config_interrupts, 1);
	assert_false(driver_used(&net.driver, 0));
	teardown(&net);
}

/* --- From one host to the next --- */

/* Moves the guest to a device with new sockets; what is left on the old ones is lost. */
static void move_host(struct net *net)
{
	struct virtio_net_options options = {.id = "net0", .mtu = 1500, .mac = {2, 2, 2, 2, 2, 2}};
	struct virtio_device *fresh;
	struct tap tap;
	int fds[4];

	for (uint32_t i = 0; i < net->pairs; i++) {
		int ends[2];

		close(net->wires[i]);
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
		fds[i] = ends[0];
		net->wires[i] = ends[1];
	}
	tap_from_sockets(&tap, fds, net->pairs);
	driver_no_error(virtio_net_create_on_tap(&options, &tap, &fresh));
	move_to_device(&net->driver, fresh);
}

static void a_guest_is_announced_where_it_comes_to(void **state)
{
	static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	const uint8_t *frame;
	uint8_t packet[256];
	struct net net;

	setup(&net, MERGE | CONTROL);
	move_host(&net);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 5000),
				 HEADER_SIZE + 60);
		frame = packet + HEADER_SIZE;
		assert_memory_equal(frame, everybody, 6);
		assert_memory_equal(frame + 6, own_mac, 6);
		assert_int_equal(get_be16(frame + 12), 0x8035);
		assert_memory_equal(frame + 22, own_mac, 6);
	}
	assert_int_equal(wire_receive(&net, 0, packet, sizeof(packet), 700), -1);
	teardown(&net);
}

static void what_commands_set_outlives_a_move(void **state)
{
	static const uint8_t set_mac[] = {1, 1, 2, 9, 9, 9, 9, 9}, pairs[] = {4, 0, 2, 0},
			     promiscuous_off[] = {0, 0, 0};
	uint8_t packet[4096];
	struct net net;

	setup_pairs(&net, 2);
	driver_start(&net.driver, MERGE | CONTROL | BIT(NET_F_MQ));
	assert_int_equal(command(&net, 4, pairs, sizeof(pairs)), NET_CONTROL_OK);
	assert_int_equal(command(&net, 4, set_mac, sizeof(set_mac)), NET_CONTROL_OK);
	assert_int_equal(command(&net, 4, promiscuous_off, sizeof(promiscuous_off)),
			 NET_CONTROL_OK);
	move_host(&net);
	assert_int_equal(fact(&net, "queue-pairs-in-use"), 2);
	assert_int_equal(fact(&net, "promiscuous"), 0);
	assert_int_equal(driver_read_config(&net.driver, 0, 6), 0x090909090902);
	/* The second pair works. */
	offer_buffers(&net, 2, 0, 1, 2048);
	driver_notify(&net.driver, 2);
	make_packet(packet, 500);
	wire_send(&net, 1, packet, 500);
	assert_int_equal(driver_wait(&net.driver, 2, NULL), 500);
	/* After a reset the address is the one that the guest was created with. */
	driver_set_status(&net.driver, 0);
	assert_memory_equal(&(uint64_t){driver_read_config(&net.driver, 0, 6)}, own_mac, 6);
	teardown(&net);
}

static void a_packet_that_waits_for_buffers_is_not_lost(void **state)
{
	uint8_t packet[4096];
	struct net net;

	setup(&net, MERGE);
	offer_buffers(&net, 0, 0, 1, 1024);
	driver_notify(&net.driver, 0);
	make_packet(packet, 3000);
	wire_send(&net, 0, packet, 3000);
	while (recv(net.wires[0], packet, 1, MSG_DONTWAIT | MSG_PEEK) > 0)
		usleep(1000);
	usleep(50000); /* until it was read */
	move_host(&net);
	assert_false(driver_used(&net.driver, 0));
	offer_buffers(&net, 0, 1, 2, 1024);
	driver_notify(&net.driver, 0);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), 1024);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), 1024);
	assert_int_equal(driver_wait(&net.driver, 0, NULL), 3000 - 2048);
	assert_memory_equal(buffer(&net, 0) + HEADER_SIZE, packet + HEADER_SIZE,
			    1024 - HEADER_SIZE);
	assert_memory_equal(buffer(&net, 1), packet + 1024, 1024);
	assert_false(driver_used(&net.driver, 0));
	teardown(&net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_frame_goes_out_unchanged),
	    cmocka_unit_test(a_frame_in_many_small_buffers_goes_out_whole),
	    cmocka_unit_test(a_header_that_was_not_negotiated_is_dropped_and_counted),
	    cmocka_unit_test(a_chain_without_a_header_needs_a_reset),
	    cmocka_unit_test(a_full_back_end_delays_frames_and_loses_none),
	    cmocka_unit_test(a_frame_arrives_in_one_buffer),
	    cmocka_unit_test(flags_reach_only_a_driver_that_knows_checksums),
	    cmocka_unit_test(a_large_frame_is_merged_from_several_buffers),
	    cmocka_unit_test(the_largest_frame_is_merged),
	    cmocka_unit_test(a_large_frame_without_merging_is_dropped_and_counted),
	    cmocka_unit_test(a_frame_waits_for_a_buffer),
	    cmocka_unit_test(a_frame_that_needs_more_buffers_waits_whole),
	    cmocka_unit_test(a_device_that_waits_for_more_buffers_asks_for_the_doorbell),
	    cmocka_unit_test(a_receive_buffer_smaller_than_the_header_needs_a_reset),
	    cmocka_unit_test(a_new_address_is_in_the_configuration_until_reset),
	    cmocka_unit_test(an_unknown_command_is_answered_with_an_error),
	    cmocka_unit_test(a_command_without_room_for_the_answer_needs_a_reset),
	    cmocka_unit_test(a_second_pair_is_used_from_the_command_on),
	    cmocka_unit_test(a_second_pair_sends_when_in_use_and_drops_otherwise),
	    cmocka_unit_test(without_multiqueue_the_control_queue_is_the_third),
	    cmocka_unit_test(the_configuration_says_what_is_offered),
	    cmocka_unit_test(a_paused_device_keeps_frames_for_later),
	    cmocka_unit_test(a_reset_device_starts_again_with_one_pair),
	    cmocka_unit_test(the_link_goes_down_with_the_back_end),
	    cmocka_unit_test(a_guest_is_announced_where_it_comes_to),
	    cmocka_unit_test(what_commands_set_outlives_a_move),
	    cmocka_unit_test(a_packet_that_waits_for_buffers_is_not_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
