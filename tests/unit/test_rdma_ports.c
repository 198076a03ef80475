/* SPDX-License-Identifier: BSD-2-Clause */
/* What carries packets: the UDP socket, with the real clock and kernel, and the loop of one process. */
#include "rdma_network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define LIMIT (60 * NS_PER_SECOND)

/* Two engines as in a network, over ports of the library's own. */
struct ports {
	struct network network; /* only for its nodes */
	struct godwit_rdma_udp *udp[2];
	struct godwit_rdma_loop *loop;
	struct godwit_rdma_member *members[2];
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

static void destroy_ports(struct ports *ports)
{
	for (int i = 0; i < 2; i++) {
		struct node *node = &ports->network.nodes[i];

		assert_int_equal(godwit_rdma_pair_destroy(node->pair), 0);
		assert_int_equal(godwit_rdma_region_destroy(node->region), 0);
		assert_int_equal(godwit_rdma_completions_destroy(node->completions), 0);
		assert_int_equal(godwit_rdma_domain_destroy(node->domain), 0);
		assert_int_equal(godwit_rdma_destroy(node->engine), 0);
		free(node->memory - GUARD);
		godwit_rdma_udp_close(ports->udp[i]);
		godwit_rdma_loop_leave(ports->members[i]);
	}
	assert_int_equal(godwit_rdma_loop_destroy(ports->loop), 0);
	free(ports);
}

static uint8_t *v4(uint8_t number)
{
	static uint8_t addresses[256][16];
	uint8_t *address = addresses[number];

	/* Addresses of this process alone, as far as that can be. */
	address[10] = address[11] = 0xff;
	address[12] = 127;
	address[13] = (uint8_t)(getpid() >> 8 | 1);
	address[14] = (uint8_t)getpid();
	address[15] = number;
	return address;
}

static struct ports *new_ports(void)
{
	struct ports *ports = calloc(1, sizeof(*ports));

	assert_non_null(ports);
	ports->network.random = 5;
	ports->network.nodes[0].network = ports->network.nodes[1].network = &ports->network;
	return ports;
}

static struct ports *udp_ports(const uint8_t a[16], const uint8_t b[16])
{
	struct ports *ports = new_ports();
	const uint8_t *addresses[2] = {a, b};

	for (int i = 0; i < 2; i++) {
		int status = godwit_rdma_udp_open(addresses[i], &ports->udp[i]);

		if (status == -EADDRINUSE || status == -EADDRNOTAVAIL || status == -EAFNOSUPPORT) {
			godwit_rdma_udp_close(ports->udp[0]);
			free(ports);
			skip();
		}
		assert_int_equal(status, 0);
		make_node(&ports->network.nodes[i], addresses[i],
			  godwit_rdma_udp_port(ports->udp[i]));
	}
	return ports;
}

static struct ports *loop_ports(uint32_t capacity)
{
	struct ports *ports = new_ports();

	assert_int_equal(godwit_rdma_loop_create(&ports->loop), 0);
	for (uint8_t i = 0; i < 2; i++) {
		assert_int_equal(
		    godwit_rdma_loop_join(ports->loop, v4(i + 1), capacity, &ports->members[i]), 0);
		make_node(&ports->network.nodes[i], v4(i + 1),
			  godwit_rdma_loop_port(ports->members[i]));
	}
	return ports;
}

/* Runs both until @count completions are at the first one: a socket in real time, the loop in its own. */
static void run_ports(struct ports *ports, uint32_t count)
{
	int64_t end = clock_monotonic_ns() + LIMIT;
	struct node *nodes = ports->network.nodes;

	while (nodes[0].count < count) {
		struct pollfd fds[2];
		uint32_t came = 0;

		for (int i = 0; i < 2; i++) {
			int64_t now = ports->udp[0] ? clock_monotonic_ns()
						    : (ports->network.now += NS_PER_MS);

			if (ports->udp[i])
				came +=
				    godwit_rdma_udp_receive(ports->udp[i], nodes[i].engine, now);
			else
				came += godwit_rdma_loop_receive(ports->members[i], nodes[i].engine,
								 now);
			came += godwit_rdma_poll(nodes[i].engine, now) <= now;
			take_completions(&nodes[i]);
			if (ports->udp[i])
				fds[i] =
				    (struct pollfd){godwit_rdma_udp_fd(ports->udp[i]), POLLIN, 0};
		}
		if (!came && ports->udp[0])
			poll(fds, 2, 1);
		assert_true(clock_monotonic_ns() < end);
	}
	nodes[0].count = 0;
}

/* Every kind of work, with lengths of one packet and of many. */
static void exercise(struct ports *ports, uint32_t mtu)
{
	struct node *a = &ports->network.nodes[0], *b = &ports->network.nodes[1];
	struct godwit_rdma_work add = remote_work(GODWIT_RDMA_FETCH_ADD, b, 0);
	uint64_t number;

	struct godwit_rdma_attributes attributes = default_attributes(mtu);

	/* 67 ms: the machine may be slow. */
	attributes.timeout = 14;
	network_connect_as(&ports->network, GODWIT_RDMA_RELIABLE, attributes);
	for (uint32_t i = 0; i < 20; i++)
		post(a, remote_work(GODWIT_RDMA_WRITE, b, i * 1000), i * 1000, 1000);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 30000), 30000, 300001);
	run_ports(ports, 21);
	assert_memory_equal(a->memory, b->memory, 20000);
	assert_memory_equal(a->memory + 30000, b->memory + 30000, 300001);
	post(a, remote_work(GODWIT_RDMA_READ, b, 500000), 400000, 100003);
	run_ports(ports, 1);
	assert_memory_equal(a->memory + 400000, b->memory + 500000, 100003);
	post_receive(b, 1, 700000, 50000);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 600000, 40001);
	run_ports(ports, 1);
	assert_memory_equal(a->memory + 600000, b->memory + 700000, 40001);
	number = get_le64(b->memory);
	add.swap = 3;
	post(a, add, 8, 8);
	run_ports(ports, 1);
	assert_int_equal(get_le64(b->memory), number + 3);
	assert_int_equal(get_le64(a->memory + 8), number);
}

static void udp_carries_everything(void **state)
{
	for (uint32_t mtu = 256; mtu <= 4096; mtu *= 4) {
		struct ports *ports = udp_ports(v4(1), v4(2));
		struct godwit_rdma_udp_counters counters;

		exercise(ports, mtu);
		for (int i = 0; i < 2; i++) {
			godwit_rdma_udp_get_counters(ports->udp[i], &counters);
			assert_true(counters.received);
			assert_int_equal(counters.bad_crc, 0);
			assert_int_equal(counters.unsent, 0);
		}
		destroy_ports(ports);
	}
}

static void udp_carries_ipv6(void **state)
{
	/* There is one address of its own, so both queue pairs are one engine's. */
	static const uint8_t address[16] = {[15] = 1};
	struct ports *ports = new_ports();
	struct node *a = &ports->network.nodes[0];
	struct godwit_rdma_pair_options options;
	struct godwit_rdma_pair *other;
	struct godwit_rdma_udp_counters counters;
	int64_t end = clock_monotonic_ns() + LIMIT;

	if (godwit_rdma_udp_open(address, &ports->udp[0]) < 0) {
		free(ports);
		skip();
	}
	make_node(a, address, godwit_rdma_udp_port(ports->udp[0]));
	options = pair_options(a, GODWIT_RDMA_RELIABLE);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &other), 0);
	bring_up(a, a->pair, a, godwit_rdma_pair_number(other), GODWIT_RDMA_RELIABLE,
		 default_attributes(1024));
	bring_up(a, other, a, godwit_rdma_pair_number(a->pair), GODWIT_RDMA_RELIABLE,
		 default_attributes(1024));
	post(a, remote_work(GODWIT_RDMA_WRITE, a, 100000), 0, 70001);
	while (!a->count) {
		int64_t now = clock_monotonic_ns();

		godwit_rdma_udp_receive(ports->udp[0], a->engine, now);
		godwit_rdma_poll(a->engine, now);
		take_completions(a);
		assert_true(now < end);
	}
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, a->memory + 100000, 70001);
	godwit_rdma_udp_get_counters(ports->udp[0], &counters);
	assert_int_equal(counters.bad_crc, 0);
	assert_int_equal(godwit_rdma_pair_destroy(other), 0);
	assert_int_equal(godwit_rdma_pair_destroy(a->pair), 0);
	assert_int_equal(godwit_rdma_region_destroy(a->region), 0);
	assert_int_equal(godwit_rdma_completions_destroy(a->completions), 0);
	assert_int_equal(godwit_rdma_domain_destroy(a->domain), 0);
	assert_int_equal(godwit_rdma_destroy(a->engine), 0);
	free(a->memory - GUARD);
	godwit_rdma_udp_close(ports->udp[0]);
	free(ports);
}

/* Sends @size bytes to the node's port from another socket. */
static void throw_at(const struct node *node, const uint8_t *bytes, size_t size)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(4791)};
	AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(&to.sin_addr, node->address + 12, 4);
	assert_int_equal(sendto(fd, bytes, size, 0, (struct sockaddr *)&to, sizeof(to)), size);
}

static void udp_drops_what_has_no_crc(void **state)
{
	struct ports *ports = udp_ports(v4(1), v4(2));
	struct node *b = &ports->network.nodes[1];
	static const size_t sizes[] = {0, 1, 12, 15, 16, 17, 100, 4140, 4141, 9000, 60000};
	int64_t end = clock_monotonic_ns() + LIMIT;
	struct godwit_rdma_udp_counters counters;
	static uint8_t bytes[60000];
	uint32_t came = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		throw_at(b, bytes, sizes[i]);
	while (came < ARRAY_SIZE(sizes)) {
		came += godwit_rdma_udp_receive(ports->udp[1], b->engine, 0);
		assert_true(clock_monotonic_ns() < end);
	}
	godwit_rdma_udp_get_counters(ports->udp[1], &counters);
	assert_int_equal(counters.bad_crc, ARRAY_SIZE(sizes));
	assert_int_equal(counters.received, 0);
	destroy_ports(ports);
}

static void udp_port_belongs_to_one_process(void **state)
{
	struct ports *ports = udp_ports(v4(1), v4(2));
	struct godwit_rdma_udp *other;

	assert_int_equal(godwit_rdma_udp_open(v4(1), &other), -EADDRINUSE);
	assert_null(other);
	destroy_ports(ports);
}

static void udp_needs_an_address(void **state)
{
	static const uint8_t any[16], any_v4[16] = {[10] = 0xff, 0xff},
				      nobodys[16] = {[10] = 0xff, 0xff, 192, 0, 2, 1};
	struct godwit_rdma_udp *udp;

	assert_int_equal(godwit_rdma_udp_open(any, &udp), -EINVAL);
	assert_int_equal(godwit_rdma_udp_open(any_v4, &udp), -EINVAL);
	assert_int_equal(godwit_rdma_udp_open(nobodys, &udp), -EADDRNOTAVAIL);
}

static void udp_loses_what_it_cannot_reach(void **state)
{
	struct ports *ports = udp_ports(v4(1), v4(2));
	struct godwit_rdma_port port = godwit_rdma_udp_port(ports->udp[0]);
	struct godwit_rdma_ends ends = {.destination = {0xfd, [15] = 1}};
	struct godwit_rdma_udp_counters counters;

	assert_non_null(port.reserve(port.context, &ends, 16));
	port.commit(port.context);
	port.flush(port.context);
	assert_false(godwit_rdma_udp_waits(ports->udp[0]));
	godwit_rdma_udp_get_counters(ports->udp[0], &counters);
	assert_int_equal(counters.unsent, 1);
	destroy_ports(ports);
}

/* --- The loop ---------------------------------------------------------------------------------- */

static void loop_carries_everything(void **state)
{
	struct ports *ports = loop_ports(256);

	exercise(ports, 4096);
	assert_int_equal(godwit_rdma_loop_lost(ports->members[1]), 0);
	destroy_ports(ports);
}

static void small_loop_loses_and_everything_arrives(void **state)
{
	struct ports *ports = loop_ports(4);

	exercise(ports, 1024);
	assert_true(godwit_rdma_loop_lost(ports->members[1]));
	destroy_ports(ports);
}

static void member_cannot_speak_for_another(void **state)
{
	struct ports *ports = loop_ports(4);
	struct godwit_rdma_port port = godwit_rdma_loop_port(ports->members[0]);
	struct godwit_rdma_ends ends = {0};

	memcpy(ends.source, v4(3), 16);
	memcpy(ends.destination, v4(2), 16);
	assert_non_null(port.reserve(port.context, &ends, 16));
	port.commit(port.context);
	assert_int_equal(
	    godwit_rdma_loop_receive(ports->members[1], ports->network.nodes[1].engine, 0), 0);
	memcpy(ends.source, v4(1), 16);
	assert_non_null(port.reserve(port.context, &ends, 16));
	port.commit(port.context);
	assert_int_equal(
	    godwit_rdma_loop_receive(ports->members[1], ports->network.nodes[1].engine, 0), 1);
	destroy_ports(ports);
}

static void addresses_in_a_loop_are_different(void **state)
{
	struct ports *ports = loop_ports(4);
	struct godwit_rdma_member *member;

	assert_int_equal(godwit_rdma_loop_join(ports->loop, v4(1), 4, &member), -EEXIST);
	assert_int_equal(godwit_rdma_loop_join(ports->loop, v4(3), 0, &member), -EINVAL);
	assert_int_equal(godwit_rdma_loop_destroy(ports->loop), -EBUSY);
	destroy_ports(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(udp_carries_everything),
	    cmocka_unit_test(udp_carries_ipv6),
	    cmocka_unit_test(udp_drops_what_has_no_crc),
	    cmocka_unit_test(udp_port_belongs_to_one_process),
	    cmocka_unit_test(udp_needs_an_address),
	    cmocka_unit_test(udp_loses_what_it_cannot_reach),
	    cmocka_unit_test(loop_carries_everything),
	    cmocka_unit_test(small_loop_loses_and_everything_arrives),
	    cmocka_unit_test(member_cannot_speak_for_another),
	    cmocka_unit_test(addresses_in_a_loop_are_different),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
