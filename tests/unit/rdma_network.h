/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two RDMA engines with a network between them that loses, doubles, delays and damages packets as a
 * seed says. Its clock is its own: a test takes no longer for the time-outs in it, and does the same
 * each time. Every packet has its invariant CRC, which is checked where it arrives.
 */
#ifndef GODWIT_TESTS_RDMA_NETWORK_H
#define GODWIT_TESTS_RDMA_NETWORK_H

#include <errno.h>
#include <godwit/rdma.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "cmocka_prelude.h"
#include "rdma/icrc.h"
#include "rdma/packet.h"

#define MEMORY_SIZE    MIB(2)
#define MEMORY_ADDRESS 0x7f0000001000ULL
#define GUARD	       4096U
#define PIECE	       3000U /* a span goes no further than a multiple of it */
#define PIECES	       (MEMORY_SIZE / PIECE + 1)
#define EVERYTHING                                                                                 \
	(GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ |            \
	 GODWIT_RDMA_REMOTE_ATOMIC | GODWIT_RDMA_BIND_WINDOW)
#define PEER_RIGHTS (GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ | GODWIT_RDMA_REMOTE_ATOMIC)

struct network;

struct node {
	struct network *network;
	uint8_t address[16];
	struct godwit_rdma *engine;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_region *region;
	struct godwit_rdma_pair *pair;
	uint8_t *memory; /* MEMORY_SIZE, between guards */
	bool absent[PIECES];
	bool gone;	       /* no span is given */
	uint64_t wrote;	       /* bytes that were told */
	uint64_t asked_absent; /* spans that were not there */
	uint8_t packet[GODWIT_RDMA_PACKET_MAX];
	uint32_t packet_size;
	struct godwit_rdma_ends packet_ends;
	uint32_t room; /* packets that the port still takes */
	uint32_t notified;
	uint32_t events[9];
	struct godwit_rdma_completion list[4096]; /* that were taken */
	uint32_t count;
};

struct flight {
	struct flight *next;
	int64_t due;
	struct godwit_rdma_ends ends;
	uint32_t size, icrc;
	uint8_t bytes[GODWIT_RDMA_PACKET_MAX];
};

struct network {
	struct node nodes[2];
	struct flight *flights; /* by time */
	struct rdma_crc crc;
	int64_t now;
	uint64_t random;
	uint32_t window; /* of its engines */
	/* In 1000. */
	uint32_t loss, duplication, delay, damage;
	uint64_t lost, duplicated, delayed, damaged, delivered;
	uint64_t packets[256]; /* sent, by operation code */
	/* Loses the next so many of this operation code. */
	uint8_t lose_opcode;
	uint32_t lose_count;
};

static inline uint32_t network_random(struct network *network)
{
	network->random = network->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(network->random >> 33);
}

static inline bool happens(struct network *network, uint32_t in_1000)
{
	return network_random(network) % 1000 < in_1000;
}

/* --- The port ---------------------------------------------------------------------------------- */

static inline uint8_t *node_reserve(void *context, const struct godwit_rdma_ends *ends,
				    uint32_t size)
{
	struct node *node = context;

	if (!node->room)
		return NULL;
	assert_in_range(size, RDMA_BTH_SIZE, GODWIT_RDMA_PACKET_MAX);
	node->packet_ends = *ends;
	node->packet_size = size;
	return node->packet;
}

static inline void network_add(struct network *network, const struct node *node, bool damage)
{
	struct flight *flight = calloc(1, sizeof(*flight)), **at = &network->flights;

	assert_non_null(flight);
	flight->due = network->now + 5000;
	if (happens(network, network->delay)) {
		flight->due += network_random(network) % 100000;
		network->delayed++;
	}
	flight->ends = node->packet_ends;
	flight->size = node->packet_size;
	memcpy(flight->bytes, node->packet, node->packet_size);
	flight->icrc = rdma_icrc(&network->crc, &flight->ends, (struct rdma_fragment){0, true},
				 flight->bytes, flight->size);
	if (damage) {
		uint32_t bit = network_random(network) % (flight->size * 8);

		/* Congestion bits are free to change. */
		if (bit / 8 != 4) {
			flight->bytes[bit / 8] ^= 1 << bit % 8;
			network->damaged++;
		}
	}
	while (*at && (*at)->due <= flight->due)
		at = &(*at)->next;
	flight->next = *at;
	*at = flight;
}

static inline void node_commit(void *context)
{
	struct node *node = context;
	struct network *network = node->network;

	node->room--;
	network->packets[node->packet[0]]++;
	if (network->lose_count && network->lose_opcode == node->packet[0]) {
		network->lose_count--;
		network->lost++;
		return;
	}
	if (happens(network, network->loss)) {
		network->lost++;
		return;
	}
	network_add(network, node, happens(network, network->damage));
	if (happens(network, network->duplication)) {
		network->duplicated++;
		network_add(network, node, false);
	}
}

/* --- Memory ------------------------------------------------------------------------------------ */

static inline int node_span(void *context, uint64_t offset, bool write, uint8_t **bytes,
			    uint64_t *there)
{
	struct node *node = context;
	uint64_t piece = offset / PIECE;

	assert_true(range_contains(0, MEMORY_SIZE, offset, *there));
	if (node->gone)
		return -EFAULT;
	if (node->absent[piece]) {
		node->asked_absent++;
		return -EAGAIN;
	}
	*there = MIN(*there, (piece + 1) * PIECE - offset);
	*bytes = node->memory + offset;
	return 0;
}

static inline void node_wrote(void *context, uint64_t offset, uint64_t size)
{
	struct node *node = context;

	assert_true(range_contains(0, MEMORY_SIZE, offset, size));
	node->wrote += size;
}

static inline void fill_memory(struct network *network, struct node *node)
{
	for (size_t i = 0; i < MEMORY_SIZE; i += 4)
		put_le32(node->memory + i, network_random(network));
}

/* --- Set-up ------------------------------------------------------------------------------------ */

static inline void node_event(void *context, const struct godwit_rdma_event *event)
{
	struct node *node = context;

	node->events[event->type]++;
}

static inline void node_notify(void *context, struct godwit_rdma_completions *completions)
{
	struct node *node = context;

	node->notified++;
}

static inline bool node_is_own(void *context, const uint8_t address[16])
{
	const struct node *node = context;

	return !memcmp(address, node->address, sizeof(node->address));
}

static inline struct godwit_rdma_pair_options pair_options(const struct node *node,
							   enum godwit_rdma_service service)
{
	return (struct godwit_rdma_pair_options){.service = service,
						 .send = node->completions,
						 .receive = node->completions,
						 .send_capacity = 256,
						 .receive_capacity = 256,
						 .send_segments = 4,
						 .receive_segments = 4};
}

static inline void node_init(struct network *network, struct node *node, uint8_t number)
{
	const struct godwit_rdma_options options = {
	    .port = {.reserve = node_reserve, .commit = node_commit, .context = node},
	    .window = network->window,
	    .event = node_event,
	    .is_own = node_is_own,
	    .context = node};
	const struct godwit_rdma_completions_options completions = {
	    .capacity = 2048, .notify = node_notify, .context = node};
	const struct godwit_rdma_region_options region = {.memory = {node_span, node_wrote, node},
							  .address = MEMORY_ADDRESS,
							  .size = MEMORY_SIZE,
							  .access = EVERYTHING};

	node->network = network;
	node->room = UINT32_MAX;
	node->address[10] = node->address[11] = 0xff;
	node->address[12] = 10;
	node->address[15] = number;
	node->memory = (uint8_t *)calloc(1, MEMORY_SIZE + 2 * GUARD) + GUARD;
	fill_memory(network, node);
	assert_int_equal(godwit_rdma_create(&options, &node->engine), 0);
	assert_int_equal(godwit_rdma_domain_create(node->engine, &node->domain), 0);
	assert_int_equal(
	    godwit_rdma_completions_create(node->engine, &completions, &node->completions), 0);
	assert_int_equal(godwit_rdma_region_create(node->domain, &region, &node->region), 0);
}

/* The network and its engines, with neither queue pairs nor faults. @window: as of an engine. */
static inline struct network *network_create_with(uint64_t seed, uint32_t window)
{
	struct network *network = calloc(1, sizeof(*network));

	assert_non_null(network);
	network->random = seed;
	network->window = window;
	network->now = 1000000;
	rdma_crc_init(&network->crc, true);
	node_init(network, &network->nodes[0], 1);
	node_init(network, &network->nodes[1], 2);
	return network;
}

static inline struct network *network_create(uint64_t seed)
{
	return network_create_with(seed, 0);
}

static inline void network_destroy(struct network *network)
{
	for (struct node *node = network->nodes; node < network->nodes + 2; node++) {
		for (size_t i = 0; i < GUARD; i++) {
			assert_int_equal(node->memory[-1 - (ptrdiff_t)i], 0);
			assert_int_equal(node->memory[MEMORY_SIZE + i], 0);
		}
		assert_int_equal(godwit_rdma_pair_destroy(node->pair), 0);
		assert_int_equal(godwit_rdma_region_destroy(node->region), 0);
		assert_int_equal(godwit_rdma_completions_destroy(node->completions), 0);
		assert_int_equal(godwit_rdma_domain_destroy(node->domain), 0);
		assert_int_equal(godwit_rdma_destroy(node->engine), 0);
		free(node->memory - GUARD);
	}
	while (network->flights) {
		struct flight *flight = network->flights;

		network->flights = flight->next;
		free(flight);
	}
	free(network);
}

/* What both ends are set to; tests change it before network_connect_as. */
static inline struct godwit_rdma_attributes default_attributes(uint32_t mtu)
{
	return (struct godwit_rdma_attributes){.access = PEER_RIGHTS,
					       .mtu = mtu,
					       .receive_psn = 0xfffff0,
					       .send_psn = 0xfffff0,
					       .timeout = 10,
					       .retries = 7,
					       .not_ready_retries = 7,
					       .not_ready_timer = 1,
					       .reads_out = 4,
					       .reads_in = 4,
					       .queue_key = 0x1234};
}

#define SET_INIT(service)                                                                          \
	(GODWIT_RDMA_SET_STATE |                                                                   \
	 ((service) == GODWIT_RDMA_DATAGRAM ? GODWIT_RDMA_SET_QUEUE_KEY : GODWIT_RDMA_SET_ACCESS))
#define SET_RTR(service)                                                                           \
	(GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU |                      \
	 ((service) == GODWIT_RDMA_DATAGRAM                                                        \
	      ? 0                                                                                  \
	      : GODWIT_RDMA_SET_PEER | GODWIT_RDMA_SET_RECEIVE_PSN) |                              \
	 ((service) == GODWIT_RDMA_RELIABLE                                                        \
	      ? GODWIT_RDMA_SET_READS_IN | GODWIT_RDMA_SET_NOT_READY_TIMER                         \
	      : 0))
#define SET_RTS(service)                                                                           \
	(GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_SEND_PSN |                                        \
	 ((service) == GODWIT_RDMA_RELIABLE                                                        \
	      ? GODWIT_RDMA_SET_TIMEOUT | GODWIT_RDMA_SET_RETRIES |                                \
		    GODWIT_RDMA_SET_NOT_READY_RETRIES | GODWIT_RDMA_SET_READS_OUT                  \
	      : 0))

/* Brings @pair of @node to RTS, towards queue pair @peer of @other. */
static inline void bring_up(struct node *node, struct godwit_rdma_pair *pair,
			    const struct node *other, uint32_t peer,
			    enum godwit_rdma_service service,
			    struct godwit_rdma_attributes attributes)
{
	attributes.peer = peer;
	memcpy(attributes.ends.source, node->address, 16);
	memcpy(attributes.ends.destination, other->address, 16);
	attributes.ends.source_port = 0xc000;
	attributes.state = GODWIT_RDMA_INIT;
	assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_INIT(service)), 0);
	attributes.state = GODWIT_RDMA_RTR;
	assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_RTR(service)), 0);
	attributes.state = GODWIT_RDMA_RTS;
	assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_RTS(service)), 0);
}

static inline void network_connect_as(struct network *network, enum godwit_rdma_service service,
				      struct godwit_rdma_attributes attributes)
{
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_pair_options options = pair_options(a, service);

	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	options = pair_options(b, service);
	options.number = 0x123456;
	assert_int_equal(godwit_rdma_pair_create(b->domain, &options, &b->pair), 0);
	bring_up(a, a->pair, b, 0x123456, service, attributes);
	bring_up(b, b->pair, a, godwit_rdma_pair_number(a->pair), service, attributes);
}

static inline void network_connect(struct network *network, enum godwit_rdma_service service,
				   uint32_t mtu)
{
	network_connect_as(network, service, default_attributes(mtu));
}

/* --- Running ----------------------------------------------------------------------------------- */

static inline void take_completions(struct node *node)
{
	node->count += godwit_rdma_completions_poll(node->completions, node->list + node->count,
						    ARRAY_SIZE(node->list) - node->count);
	assert_true(node->count < ARRAY_SIZE(node->list));
}

/* One thing happens. False: nothing more will. */
static inline bool network_step(struct network *network)
{
	int64_t next = GODWIT_RDMA_NEVER;
	struct flight *flight;

	for (int i = 0; i < 2; i++) {
		struct node *node = &network->nodes[i];
		int64_t at = godwit_rdma_poll(node->engine, network->now);

		take_completions(node);
		/* A port without room has none until the test says so. */
		if (at > network->now || node->room)
			next = MIN(next, MAX(at, network->now));
	}
	flight = network->flights;
	if (flight && flight->due <= next) {
		bool v4 = rdma_address_is_v4(flight->ends.destination);
		struct node *node = &network->nodes[flight->ends.destination[15] - 1];

		assert_true(v4);
		network->now = MAX(network->now, flight->due);
		network->flights = flight->next;
		if (rdma_icrc(&network->crc, &flight->ends, (struct rdma_fragment){0, true},
			      flight->bytes, flight->size) == flight->icrc) {
			network->delivered++;
			godwit_rdma_receive(node->engine, &flight->ends, flight->bytes,
					    flight->size, network->now);
			take_completions(node);
		}
		free(flight);
		return true;
	}
	if (next == GODWIT_RDMA_NEVER)
		return false;
	network->now = next;
	return true;
}

/* Until nothing more happens. */
static inline void network_run(struct network *network)
{
	uint32_t steps = 0;

	while (network_step(network))
		assert_true(++steps < 3000000);
}

/* --- Work -------------------------------------------------------------------------------------- */

static inline struct godwit_rdma_segment segment_of(const struct node *node, uint64_t offset,
						    uint32_t size)
{
	return (struct godwit_rdma_segment){MEMORY_ADDRESS + offset, size,
					    godwit_rdma_region_key(node->region)};
}

/* Posts @work of @node with its own @size bytes at @offset. */
static inline int post_at(struct node *node, struct godwit_rdma_work work, uint64_t offset,
			  uint32_t size)
{
	struct godwit_rdma_segment segment = segment_of(node, offset, size);

	work.segments = &segment;
	work.segment_count = 1;
	return godwit_rdma_pair_send(node->pair, &work);
}

static inline void post(struct node *node, struct godwit_rdma_work work, uint64_t offset,
			uint32_t size)
{
	work.flags |= GODWIT_RDMA_SIGNALED;
	assert_int_equal(post_at(node, work, offset, size), 0);
}

static inline void post_receive(struct node *node, uint64_t id, uint64_t offset, uint32_t size)
{
	struct godwit_rdma_segment segment = segment_of(node, offset, size);

	assert_int_equal(godwit_rdma_pair_receive(
			     node->pair, &(struct godwit_rdma_receive_work){id, &segment, 1}),
			 0);
}

/* Work that reaches the other node's memory at @offset. */
static inline struct godwit_rdma_work remote_work(enum godwit_rdma_operation operation,
						  const struct node *other, uint64_t offset)
{
	return (struct godwit_rdma_work){.operation = operation,
					 .remote_address = MEMORY_ADDRESS + offset,
					 .remote_key = godwit_rdma_region_key(other->region)};
}

/* The only completion that @node has taken, which is forgotten. */
static inline struct godwit_rdma_completion only_completion(struct node *node)
{
	assert_int_equal(node->count, 1);
	node->count = 0;
	return node->list[0];
}

static inline void expect_status(struct node *node, enum godwit_rdma_status status)
{
	assert_int_equal(only_completion(node).status, status);
}

#endif
