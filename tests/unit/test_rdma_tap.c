/* SPDX-License-Identifier: BSD-2-Clause */
/* The RDMA device's port over a network device, whose tap is a socket: which frames are whose. */
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "device_stream.h"
#include "rdma/frame.h"
#include "rdma_network.h"
#include "virtio/net.h"
#include "virtio/rdma.h"
#include "virtio/rng.h"
#include "virtio_driver.h"

#define BUFFERS	  0x100000 /* receive buffers, 0x1000 apart */
#define FRAME_MAX 8192U
#define LIMIT	  (60 * NS_PER_SECOND)

/* A network device with its driver, and the port over it. */
struct machine {
	struct driver driver;
	struct virtio_rdma_port port;
	uint8_t mac[6];
};

static const uint8_t stranger[16] = {[10] = 0xff, 0xff, 10, 0, 0, 99};

static void create(struct machine *machine, uint8_t number, int wire)
{
	struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct virtio_net_options options = {.id = "net0"};
	struct virtio_device *device;
	struct tap tap;

	*machine = (struct machine){.mac = {0x52, 0x54, [5] = number}};
	memcpy(options.mac, machine->mac, 6);
	tap_from_sockets(&tap, &wire, 1);
	driver_no_error(virtio_net_create_on_tap(&options, &tap, &device));
	driver_create_memory(&machine->driver, &anonymous);
	driver_add_device(&machine->driver, device);
	driver_no_error(virtio_rdma_tap_port_open(device, &machine->port));
	machine->port.set_mac(machine->port.context, machine->mac);
	driver_start(&machine->driver, 0);
	for (unsigned int i = 0; i < 16; i++)
		driver_offer(&machine->driver, 0,
			     &(struct driver_buffer){BUFFERS + i * 0x1000, 0x1000, true}, 1);
	driver_notify(&machine->driver, 0);
}

static void destroy(struct machine *machine)
{
	machine->port.close(machine->port.context);
	driver_destroy(&machine->driver);
}

static json_int_t fact(const struct machine *machine, const char *name)
{
	json_t *report = json_object();
	json_int_t value;

	machine->port.describe(machine->port.context, report);
	assert_non_null(json_object_get(report, name));
	value = json_integer_value(json_object_get(report, name));
	json_decref(report);
	return value;
}

/* --- One machine, and the test at its wire ------------------------------------------------------ */

struct single {
	struct machine machine;
	int wire;
	struct godwit_rdma *engine;
	struct rdma_crc crc;
};

static uint8_t *discard_reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	return NULL;
}

static void discard_commit(void *context)
{
}

static const uint8_t own[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1};

static void setup(struct single *single)
{
	const struct godwit_rdma_options options = {
	    .port = {.reserve = discard_reserve, .commit = discard_commit}};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	create(&single->machine, 1, ends[0]);
	single->wire = ends[1];
	rdma_crc_init(&single->crc, true);
	assert_int_equal(godwit_rdma_create(&options, &single->engine), 0);
	single->machine.port.set_address(single->machine.port.context, 3, own);
}

static void teardown(struct single *single)
{
	destroy(&single->machine);
	close(single->wire);
	assert_int_equal(godwit_rdma_destroy(single->engine), 0);
}

/* An acknowledgement to @to, behind the header of a tap; returns the length of all. */
static uint32_t make_packet(const struct single *single, const uint8_t to[16], uint8_t *bytes)
{
	struct godwit_rdma_ends ends = {.source_port = 0xc000};
	const struct rdma_packet packet = {
	    .opcode = RDMA_ACKNOWLEDGE, .pkey = RDMA_PKEY_DEFAULT, .queue_pair = 0x12};
	uint32_t size = rdma_packet_size(packet.opcode, 0), headers;
	uint8_t *datagram;

	memcpy(ends.source, stranger, 16);
	memcpy(ends.destination, to, 16);
	headers = rdma_frame_headers_size(&ends);
	memset(bytes, 0, NET_HEADER_SIZE);
	rdma_frame_encode_headers(&ends, single->machine.mac, size + RDMA_ICRC_SIZE,
				  bytes + NET_HEADER_SIZE);
	datagram = bytes + NET_HEADER_SIZE + headers;
	rdma_packet_encode(&packet, datagram);
	put_le32(datagram + size,
		 rdma_icrc(&single->crc, &ends, (struct rdma_fragment){0, true}, datagram, size));
	return NET_HEADER_SIZE + headers + size + RDMA_ICRC_SIZE;
}

static void throw(const struct single *single, const uint8_t *bytes, uint32_t size)
{
	assert_int_equal(send(single->wire, bytes, size, 0), size);
}

/* Waits for frames, and gives the engine what there is; the number of packets. */
static uint32_t receive(struct single *single)
{
	const struct virtio_rdma_port *port = &single->machine.port;
	struct pollfd ready = {port->fd, POLLIN, 0};

	assert_int_equal(poll(&ready, 1, WAIT_MAX_MS), 1);
	return port->receive(port->context, single->engine, 0);
}

static uint64_t received(const struct single *single)
{
	struct godwit_rdma_counters counters;

	godwit_rdma_get_counters(single->engine, &counters);
	return counters.received;
}

static void a_packet_to_an_own_address_is_the_engines(void **state)
{
	struct pollfd ready;
	struct single single;
	uint8_t bytes[FRAME_MAX];

	setup(&single);
	throw(&single, bytes, make_packet(&single, own, bytes));
	assert_int_equal(receive(&single), 1);
	assert_int_equal(received(&single), 1);
	assert_int_equal(fact(&single.machine, "packets-bad-crc"), 0);
	/* It sleeps until the next one. */
	ready = (struct pollfd){single.machine.port.fd, POLLIN, 0};
	assert_int_equal(poll(&ready, 1, 0), 0);
	teardown(&single);
}

static void everything_else_is_the_drivers(void **state)
{
	struct single single;
	uint8_t bytes[FRAME_MAX];
	uint32_t size;

	setup(&single);
	/* To another address, */
	throw(&single, bytes, size = make_packet(&single, stranger, bytes));
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	assert_memory_equal(single.machine.driver.ram + BUFFERS + NET_HEADER_SIZE,
			    bytes + NET_HEADER_SIZE, size - NET_HEADER_SIZE);
	/* a fragment, */
	size = make_packet(&single, own, bytes);
	bytes[NET_HEADER_SIZE + 20] = 0x20;
	throw(&single, bytes, size);
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	/* to an address that was one, */
	single.machine.port.set_address(single.machine.port.context, 3, (uint8_t[16]){0});
	throw(&single, bytes, size = make_packet(&single, own, bytes));
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	/* and to none. */
	throw(&single, bytes, size = make_packet(&single, (uint8_t[16]){0}, bytes));
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	assert_int_equal(single.machine.port.receive(single.machine.port.context, single.engine, 0),
			 0);
	teardown(&single);
}

static void without_the_port_all_is_the_drivers(void **state)
{
	struct single single;
	uint8_t bytes[FRAME_MAX];
	uint32_t size;

	setup(&single);
	single.machine.port.close(single.machine.port.context);
	throw(&single, bytes, size = make_packet(&single, own, bytes));
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	driver_no_error(
	    virtio_rdma_tap_port_open(single.machine.driver.device, &single.machine.port));
	teardown(&single);
}

static void frames_have_one_taker(void **state)
{
	struct virtio_rdma_port second;
	struct single single;
	AUTO_ERROR struct error *error = NULL;

	setup(&single);
	error = virtio_rdma_tap_port_open(single.machine.driver.device, &second);
	assert_non_null(error);
	assert_non_null(strstr(error_message(error), "are shared already"));
	teardown(&single);
}

static void frames_of_a_back_end_cannot_be_shared(void **state)
{
	struct virtio_rdma_port port;
	struct virtio_device *other;
	AUTO_ERROR struct error *error = NULL;

	driver_no_error(virtio_rng_create("other", &other));
	error = virtio_rdma_tap_port_open(other, &port);
	assert_non_null(error);
	assert_non_null(strstr(error_message(error),
			       "'other' is the interface of a back-end, which has its frames"));
	virtio_device_destroy(other);
}

static void a_damaged_packet_is_counted_and_forgotten(void **state)
{
	struct single single;
	uint8_t bytes[FRAME_MAX];
	uint32_t size;

	setup(&single);
	size = make_packet(&single, own, bytes);
	for (uint32_t i = 1; i <= 3; i++) {
		bytes[size - i] ^= 1;
		throw(&single, bytes, size);
		bytes[size - i] ^= 1;
		receive(&single);
		assert_int_equal(fact(&single.machine, "packets-bad-crc"), i);
	}
	/* The identification is of the CRC too. */
	bytes[NET_HEADER_SIZE + 19] ^= 1;
	throw(&single, bytes, size);
	receive(&single);
	assert_int_equal(fact(&single.machine, "packets-bad-crc"), 4);
	assert_int_equal(received(&single), 0);
	teardown(&single);
}

/* A datagram that the sender's kernel has not cut apart: each of its packets has the next identification. */
static void a_long_datagram_is_many_packets(void **state)
{
	uint8_t bytes[FRAME_MAX], one[FRAME_MAX];
	struct godwit_rdma_ends ends = {.source_port = 0xc000};
	struct single single;
	uint32_t size, headers = NET_HEADER_SIZE + 42, piece;

	setup(&single);
	size = make_packet(&single, own, one);
	piece = size - headers;
	memcpy(ends.source, stranger, 16);
	memcpy(ends.destination, own, 16);
	memset(bytes, 0, NET_HEADER_SIZE);
	bytes[NET_HEADER_GSO_TYPE] = NET_GSO_UDP_L4;
	put_le16(bytes + NET_HEADER_GSO_SIZE, (uint16_t)piece);
	rdma_frame_encode_headers(&ends, single.machine.mac, 3 * piece, bytes + NET_HEADER_SIZE);
	for (uint16_t i = 0; i < 3; i++) {
		uint8_t *packet = bytes + headers + i * piece;

		memcpy(packet, one + headers, piece - RDMA_ICRC_SIZE);
		put_le32(packet + piece - RDMA_ICRC_SIZE,
			 rdma_icrc(&single.crc, &ends, (struct rdma_fragment){i, true}, packet,
				   piece - RDMA_ICRC_SIZE));
	}
	throw(&single, bytes, headers + 3 * piece);
	assert_int_equal(receive(&single), 3);
	assert_int_equal(received(&single), 3);
	teardown(&single);
}

static void datagrams_of_any_length_are_survived(void **state)
{
	struct godwit_rdma_ends ends = {.source_port = 0xc000};
	uint8_t bytes[FRAME_MAX] = {0};
	struct single single;

	setup(&single);
	memcpy(ends.source, stranger, 16);
	memcpy(ends.destination, own, 16);
	for (uint32_t size = 0; size < 100; size++) {
		bytes[NET_HEADER_GSO_TYPE] = size % 2 ? NET_GSO_UDP_L4 : NET_GSO_NONE;
		put_le16(bytes + NET_HEADER_GSO_SIZE, (uint16_t)(size % 7));
		rdma_frame_encode_headers(&ends, single.machine.mac, size, bytes + NET_HEADER_SIZE);
		throw(&single, bytes, NET_HEADER_SIZE + 42 + size);
		receive(&single);
	}
	assert_int_equal(received(&single), 0);
	teardown(&single);
}

/* Of what comes while nobody takes it as much is kept as there is room for. */
static void a_full_buffer_loses_frames_and_says_so(void **state)
{
	struct single single;
	uint8_t bytes[FRAME_MAX];
	uint32_t size, sent = 30000, taken = 0;

	setup(&single);
	size = make_packet(&single, own, bytes);
	for (uint32_t i = 0; i < sent; i++)
		throw(&single, bytes, size);
	/* The driver's frame comes behind them all. */
	throw(&single, bytes, size = make_packet(&single, stranger, bytes));
	assert_int_equal(driver_wait(&single.machine.driver, 0, NULL), size);
	assert_true(fact(&single.machine, "frames-lost") > 0);
	while (taken + fact(&single.machine, "frames-lost") < sent)
		taken += receive(&single);
	assert_int_equal(received(&single), taken);
	teardown(&single);
}

/* --- The device's address ----------------------------------------------------------------------- */

/* The state of a device for an interface with the address @mac. */
static struct stream save_another(struct memory_map *map, const uint8_t mac[6])
{
	struct virtio_rdma_port port;
	struct virtio_device *device;
	struct stream stream;

	driver_no_error(virtio_rdma_udp_port_open("127.0.0.1", true, &port));
	driver_no_error(virtio_rdma_create("other", mac, &port, &device));
	device->map = map;
	virtio_device_quiesce(device);
	stream = stream_save(device);
	virtio_device_destroy(device);
	return stream;
}

/* Sends a packet; its frame comes from @mac. */
static void expect_sender(const struct single *single, const struct virtio_rdma_port *port,
			  const uint8_t mac[6])
{
	struct godwit_rdma_ends ends = {.source_port = 0xc000};
	const struct rdma_packet packet = {
	    .opcode = RDMA_ACKNOWLEDGE, .pkey = RDMA_PKEY_DEFAULT, .queue_pair = 0x12};
	uint8_t bytes[FRAME_MAX];

	memcpy(ends.source, own, 16);
	memcpy(ends.destination, stranger, 16);
	rdma_packet_encode(&packet, port->packets.reserve(port->packets.context, &ends,
							  rdma_packet_size(packet.opcode, 0)));
	port->packets.commit(port->packets.context);
	port->packets.flush(port->packets.context);
	assert_true(recv(single->wire, bytes, sizeof(bytes), MSG_DONTWAIT) > NET_HEADER_SIZE + 14);
	assert_memory_equal(bytes + NET_HEADER_SIZE + 6, mac, 6);
}

/* Under another name a machine that is restored has another one in its configuration. */
static void frames_come_from_the_address_that_was_loaded(void **state)
{
	static const uint8_t loaded[6] = {0x52, 0x54, 0, 7, 7, 7};
	struct virtio_device *device;
	struct virtio_rdma_port port;
	struct single single;
	struct stream stream;

	setup(&single);
	port = single.machine.port;
	driver_no_error(virtio_rdma_create("rdma", single.machine.mac, &port, &device));
	device->map = single.machine.driver.map;
	virtio_device_quiesce(device);
	expect_sender(&single, &port, single.machine.mac);
	stream = save_another(device->map, loaded);
	driver_no_error(device->stream->load(device, stream.bytes, stream.size, true));
	free(stream.bytes);
	expect_sender(&single, &port, loaded);
	/* And with it the port. */
	virtio_device_destroy(device);
	driver_no_error(
	    virtio_rdma_tap_port_open(single.machine.driver.device, &single.machine.port));
	teardown(&single);
}

/* --- Two machines, one's tap the other's -------------------------------------------------------- */

struct both {
	struct machine machines[2];
	struct network network; /* only for its nodes */
};

static void make_node(struct node *node, const uint8_t address[16], struct godwit_rdma_port port)
{
	const struct godwit_rdma_options options = {
	    .port = port, .event = node_event, .context = node};
	const struct godwit_rdma_completions_options completions = {
	    .capacity = 2048, .notify = node_notify, .context = node};
	const struct godwit_rdma_region_options region = {.memory = {node_span, node_wrote, node},
							  .address = MEMORY_ADDRESS,
							  .size = MEMORY_SIZE,
							  .access = EVERYTHING};

	memcpy(node->address, address, 16);
	node->memory = (uint8_t *)calloc(1, MEMORY_SIZE + 2 * GUARD) + GUARD;
	fill_memory(node->network, node);
	assert_int_equal(godwit_rdma_create(&options, &node->engine), 0);
	assert_int_equal(godwit_rdma_domain_create(node->engine, &node->domain), 0);
	assert_int_equal(
	    godwit_rdma_completions_create(node->engine, &completions, &node->completions), 0);
	assert_int_equal(godwit_rdma_region_create(node->domain, &region, &node->region), 0);
}

static struct both *join(const uint8_t addresses[2][16])
{
	struct both *both = calloc(1, sizeof(*both));
	int ends[2];

	assert_non_null(both);
	both->network.random = 5;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	for (uint8_t i = 0; i < 2; i++) {
		struct virtio_rdma_port *port = &both->machines[i].port;

		create(&both->machines[i], i + 1, ends[i]);
		port->set_address(port->context, 0, addresses[i]);
		both->network.nodes[i].network = &both->network;
		make_node(&both->network.nodes[i], addresses[i], port->packets);
	}
	return both;
}

static void part(struct both *both)
{
	for (int i = 0; i < 2; i++) {
		struct node *node = &both->network.nodes[i];

		assert_int_equal(fact(&both->machines[i], "packets-bad-crc"), 0);
		assert_int_equal(godwit_rdma_pair_destroy(node->pair), 0);
		assert_int_equal(godwit_rdma_region_destroy(node->region), 0);
		assert_int_equal(godwit_rdma_completions_destroy(node->completions), 0);
		assert_int_equal(godwit_rdma_domain_destroy(node->domain), 0);
		assert_int_equal(godwit_rdma_destroy(node->engine), 0);
		free(node->memory - GUARD);
	}
	/* First both ports, then what is at their wires' ends. */
	for (int i = 0; i < 2; i++)
		both->machines[i].port.close(both->machines[i].port.context);
	for (int i = 0; i < 2; i++)
		driver_destroy(&both->machines[i].driver);
	free(both);
}

static void run(struct both *both, uint32_t count)
{
	int64_t end = clock_monotonic_ns() + LIMIT;
	struct node *nodes = both->network.nodes;

	while (nodes[0].count < count) {
		struct pollfd fds[2];
		uint32_t came = 0;

		for (int i = 0; i < 2; i++) {
			struct virtio_rdma_port *port = &both->machines[i].port;
			int64_t now = clock_monotonic_ns();

			came += port->receive(port->context, nodes[i].engine, now);
			came += godwit_rdma_poll(nodes[i].engine, now) <= now;
			take_completions(&nodes[i]);
			fds[i] = (struct pollfd){port->fd, POLLIN, 0};
		}
		if (!came)
			poll(fds, 2, 1);
		assert_true(clock_monotonic_ns() < end);
	}
	nodes[0].count = 0;
}

static void exercise(const uint8_t addresses[2][16])
{
	struct both *both = join(addresses);
	struct node *a = &both->network.nodes[0], *b = &both->network.nodes[1];
	struct godwit_rdma_attributes attributes = default_attributes(4096);

	/* 268 ms: the machine may be slow. */
	attributes.timeout = 16;
	network_connect_as(&both->network, GODWIT_RDMA_RELIABLE, attributes);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 30000), 30000, 300001);
	run(both, 1);
	assert_memory_equal(a->memory + 30000, b->memory + 30000, 300001);
	post(a, remote_work(GODWIT_RDMA_READ, b, 500000), 400000, 100003);
	run(both, 1);
	assert_memory_equal(a->memory + 400000, b->memory + 500000, 100003);
	part(both);
}

static void two_machines_have_rdma_over_ipv4(void **state)
{
	static const uint8_t addresses[2][16] = {{[10] = 0xff, 0xff, 10, 0, 0, 1},
						 {[10] = 0xff, 0xff, 10, 0, 0, 2}};

	exercise(addresses);
}

static void two_machines_have_rdma_over_ipv6(void **state)
{
	static const uint8_t addresses[2][16] = {{0xfe, 0x80, [15] = 1}, {0xfe, 0x80, [15] = 2}};

	exercise(addresses);
}

static void a_machine_reaches_itself(void **state)
{
	static const uint8_t addresses[2][16] = {{[10] = 0xff, 0xff, 10, 0, 0, 1},
						 {[10] = 0xff, 0xff, 10, 0, 0, 2}};
	struct both *both = join(addresses);
	struct node *a = &both->network.nodes[0];
	struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_attributes attributes = default_attributes(4096);
	struct godwit_rdma_pair *other;

	attributes.timeout = 16;
	network_connect(&both->network, GODWIT_RDMA_RELIABLE, 4096);
	assert_int_equal(godwit_rdma_pair_destroy(a->pair), 0);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &other), 0);
	bring_up(a, a->pair, a, godwit_rdma_pair_number(other), GODWIT_RDMA_RELIABLE, attributes);
	bring_up(a, other, a, godwit_rdma_pair_number(a->pair), GODWIT_RDMA_RELIABLE, attributes);
	post(a, remote_work(GODWIT_RDMA_WRITE, a, 500000), 30000, 300001);
	run(both, 1);
	assert_memory_equal(a->memory + 30000, a->memory + 500000, 300001);
	assert_int_equal(godwit_rdma_pair_destroy(other), 0);
	part(both);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_packet_to_an_own_address_is_the_engines),
	    cmocka_unit_test(everything_else_is_the_drivers),
	    cmocka_unit_test(without_the_port_all_is_the_drivers),
	    cmocka_unit_test(frames_have_one_taker),
	    cmocka_unit_test(frames_of_a_back_end_cannot_be_shared),
	    cmocka_unit_test(a_damaged_packet_is_counted_and_forgotten),
	    cmocka_unit_test(a_long_datagram_is_many_packets),
	    cmocka_unit_test(datagrams_of_any_length_are_survived),
	    cmocka_unit_test(a_full_buffer_loses_frames_and_says_so),
	    cmocka_unit_test(frames_come_from_the_address_that_was_loaded),
	    cmocka_unit_test(two_machines_have_rdma_over_ipv4),
	    cmocka_unit_test(two_machines_have_rdma_over_ipv6),
	    cmocka_unit_test(a_machine_reaches_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
