/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A queue pair of the RDMA engine over UDP, which does what lines on its standard input say: the other
 * end of tests with other implementations. Usage: rdma-peer ADDRESS.
 *
 *	connect SERVICE MTU PAIR PSN ADDRESS
 *					a new queue pair of RC, UC or UD (1, 2, 3), to that one; says:
 *					ok PAIR PSN KEY VADDRESS
 *	fault LOSS DOUBLE LATE SEED	in 1000 packets that leave
 *	absent OFFSET MILLISECONDS	memory from there on is not there for this time
 *	fill OFFSET SIZE SEED
 *	sum OFFSET SIZE			says: sum CRC
 *	number OFFSET			says: number N
 *	receive OFFSET SIZE
 *	post OPERATION OFFSET SIZE ADDRESS KEY FLAGS A B
 *					A: immediate, compare or the key to invalidate; B: swap
 *	bind OFFSET SIZE		a window of type 2, to be written; says: bound KEY; completes
 *	wait				says: done OPERATION STATUS BYTES FLAGS IMMEDIATE; zeros after 20
 *					seconds (100: RC)
 *	counters			says: counters BAD-CRC BAD-ANSWERS NOT-READY RECEIVED
 *
 * The others say: ok. Ends with its input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <godwit/rdma.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "rdma/crc.h"

#define SIZE	MIB(4)
#define ADDRESS 0x100000000000ULL
#define PSN	0xfffff8U
#define KEY	0x1234567U /* of datagrams */

struct peer {
	uint8_t address[16];
	struct godwit_rdma_udp *udp;
	struct godwit_rdma_port port; /* of the socket */
	struct godwit_rdma *engine;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_region *region;
	struct godwit_rdma_pair *pair;
	struct godwit_rdma_window *window;
	struct rdma_crc crc;
	bool waits;
	int64_t waits_until, patience;
	uint32_t absent_from;
	int64_t absent_until;
	/* Of datagrams. */
	uint8_t destination[16];
	uint32_t destination_pair;
	/* Faults, and the packet that is being made and the one that is held back. */
	unsigned int loss, doubled, late;
	struct godwit_rdma_ends ends, late_ends;
	uint8_t *packet, late_packet[GODWIT_RDMA_PACKET_MAX];
	uint32_t size, late_size;
	uint8_t memory[SIZE] __attribute__((aligned(4096)));
};

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct peer *peer = context;

	peer->ends = *ends;
	peer->size = size;
	peer->packet = peer->port.reserve(peer->port.context, ends, size);
	return peer->packet;
}

static bool happens(unsigned int in_1000)
{
	return (unsigned long)random() % 1000 < in_1000;
}

static void send_copy(struct peer *peer, const struct godwit_rdma_ends *ends, const uint8_t *bytes,
		      uint32_t size)
{
	uint8_t *place = peer->port.reserve(peer->port.context, ends, size);

	if (!place)
		return;
	memcpy(place, bytes, size);
	peer->port.commit(peer->port.context);
}

static void commit(void *context)
{
	struct peer *peer = context;
	uint8_t copy[GODWIT_RDMA_PACKET_MAX];

	memcpy(copy, peer->packet, peer->size);
	if (happens(peer->loss))
		return;
	if (!peer->late_size && happens(peer->late)) {
		memcpy(peer->late_packet, copy, peer->size);
		peer->late_ends = peer->ends;
		peer->late_size = peer->size;
		return;
	}
	peer->port.commit(peer->port.context);
	if (happens(peer->doubled))
		send_copy(peer, &peer->ends, copy, peer->size);
	if (peer->late_size && happens(300)) {
		send_copy(peer, &peer->late_ends, peer->late_packet, peer->late_size);
		peer->late_size = 0;
	}
}

static void flush(void *context)
{
	struct peer *peer = context;

	peer->port.flush(peer->port.context);
}

static int span(void *context, uint64_t offset, bool write, uint8_t **bytes, uint64_t *there)
{
	struct peer *peer = context;

	if (offset + *there > peer->absent_from && clock_monotonic_ns() < peer->absent_until) {
		if (offset >= peer->absent_from)
			return -EAGAIN;
		*there = peer->absent_from - offset;
	}
	*bytes = peer->memory + offset;
	return 0;
}

static void parse_address(const char *text, uint8_t address[16])
{
	memset(address, 0, 10);
	memset(address + 10, 0xff, 2);
	if (inet_pton(AF_INET, text, address + 12) != 1 && inet_pton(AF_INET6, text, address) != 1)
		exit(2);
}

static bool connect_pair(struct peer *peer, uint32_t service, uint32_t mtu, uint32_t number,
			 uint32_t psn, const char *address)
{
	const struct godwit_rdma_pair_options options = {.service = service,
							 .send = peer->completions,
							 .receive = peer->completions,
							 .send_capacity = 256,
							 .receive_capacity = 256,
							 .send_segments = 1,
							 .receive_segments = 1,
							 .signal_all = true};
	struct godwit_rdma_attributes attributes = {
	    .access =
		GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ | GODWIT_RDMA_REMOTE_ATOMIC,
	    .mtu = mtu,
	    .peer = number,
	    .receive_psn = psn,
	    .send_psn = PSN,
	    .timeout = 17, /* 0.54 s: the other end may be emulated */
	    .retries = 7,
	    .not_ready_retries = 7,
	    .not_ready_timer = 12,
	    .reads_out = 4,
	    .reads_in = 4,
	    .queue_key = KEY};
	const bool reliable = service == GODWIT_RDMA_RELIABLE,
		   datagram = service == GODWIT_RDMA_DATAGRAM;
	const uint32_t masks[] = {
	    datagram ? GODWIT_RDMA_SET_QUEUE_KEY : GODWIT_RDMA_SET_ACCESS,
	    GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU |
		(datagram ? 0 : GODWIT_RDMA_SET_PEER | GODWIT_RDMA_SET_RECEIVE_PSN) |
		(reliable ? GODWIT_RDMA_SET_READS_IN | GODWIT_RDMA_SET_NOT_READY_TIMER : 0),
	    GODWIT_RDMA_SET_SEND_PSN |
		(reliable ? GODWIT_RDMA_SET_TIMEOUT | GODWIT_RDMA_SET_RETRIES |
				GODWIT_RDMA_SET_NOT_READY_RETRIES | GODWIT_RDMA_SET_READS_OUT
			  : 0)};
	struct godwit_rdma_completion old;

	godwit_rdma_pair_destroy(peer->pair);
	godwit_rdma_window_destroy(peer->window);
	peer->window = NULL;
	while (godwit_rdma_completions_poll(peer->completions, &old, 1))
		;
	memcpy(attributes.ends.source, peer->address, 16);
	parse_address(address, attributes.ends.destination);
	parse_address(address, peer->destination);
	peer->destination_pair = number;
	peer->patience = (reliable ? 100 : 20) * NS_PER_SECOND;
	if (godwit_rdma_pair_create(peer->domain, &options, &peer->pair))
		return false;
	for (int i = 0; i < 3; i++) {
		attributes.state = GODWIT_RDMA_INIT + i;
		if (godwit_rdma_pair_modify(peer->pair, &attributes,
					    masks[i] | GODWIT_RDMA_SET_STATE))
			return false;
	}
	printf("ok %u %u %u %llu\n", godwit_rdma_pair_number(peer->pair), PSN,
	       godwit_rdma_region_key(peer->region), ADDRESS);
	return true;
}

static struct godwit_rdma_segment segment(const struct peer *peer, uint32_t offset, uint32_t size)
{
	return (struct godwit_rdma_segment){ADDRESS + offset, size,
					    godwit_rdma_region_key(peer->region)};
}

static bool post(struct peer *peer, const char *line)
{
	static const char *const names[] = {"", "send", "write", "read", "swap", "add"};
	struct godwit_rdma_work work = {0};
	struct godwit_rdma_segment one;
	uint64_t address, a, b;
	uint32_t offset, size, key, flags;
	char name[16];

	if (sscanf(line,
		   "post %15s %" SCNu32 " %" SCNu32 " %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64
		   " %" SCNu64,
		   name, &offset, &size, &address, &key, &flags, &a, &b) != 8)
		return false;
	for (uint32_t i = 1; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(name, names[i]))
			work.operation = i;
	}
	one = segment(peer, offset, size);
	work.segments = &one;
	work.segment_count = 1;
	work.flags = flags;
	work.immediate = work.invalidate = (uint32_t)a;
	work.compare = a;
	work.swap = b;
	work.remote_address = address;
	work.remote_key = key;
	memcpy(work.destination, peer->destination, 16);
	work.destination_pair = peer->destination_pair;
	work.queue_key = KEY;
	printf("ok\n");
	return !godwit_rdma_pair_send(peer->pair, &work);
}

static bool bind_window(struct peer *peer, uint32_t offset, uint32_t size)
{
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_BIND,
					.region = godwit_rdma_region_key(peer->region),
					.bind_address = ADDRESS + offset,
					.bind_size = size,
					.bind_access = GODWIT_RDMA_REMOTE_WRITE};

	if (peer->window || godwit_rdma_window_create(peer->domain, 2, 0, &peer->window))
		return false;
	work.window = godwit_rdma_window_key(peer->window);
	work.bind_key = godwit_rdma_window_key(peer->window) ^ 1;
	printf("bound %u\n", work.bind_key);
	return !godwit_rdma_pair_send(peer->pair, &work);
}

static void say_counters(const struct peer *peer)
{
	struct godwit_rdma_udp_counters udp;
	struct godwit_rdma_counters engine;

	godwit_rdma_udp_get_counters(peer->udp, &udp);
	godwit_rdma_get_counters(peer->engine, &engine);
	printf("counters %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", udp.bad_crc,
	       engine.bad_answers, engine.not_ready, udp.received);
}

/* False: the line makes no sense. */
static bool obey(struct peer *peer, const char *line)
{
	uint32_t a, b, c, d, service;
	char address[64];

	if (sscanf(line, "connect %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %63s", &service,
		   &a, &b, &c, address) == 5)
		return connect_pair(peer, service, a, b, c, address);
	if (!strncmp(line, "post ", 5))
		return post(peer, line);
	if (sscanf(line, "bind %" SCNu32 " %" SCNu32, &a, &b) == 2)
		return bind_window(peer, a, b);
	if (sscanf(line, "fault %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &a, &b, &c, &d) ==
	    4) {
		peer->loss = a;
		peer->doubled = b;
		peer->late = c;
		srandom(d);
	} else if (sscanf(line, "absent %" SCNu32 " %" SCNu32, &a, &b) == 2) {
		peer->absent_from = a;
		peer->absent_until = clock_monotonic_ns() + b * NS_PER_MS;
	} else if (sscanf(line, "fill %" SCNu32 " %" SCNu32 " %" SCNu32, &a, &b, &c) == 3) {
		srandom(c);
		for (uint32_t i = 0; i < b && range_contains(0, SIZE, a, b); i++)
			peer->memory[a + i] = (uint8_t)random();
	} else if (sscanf(line, "sum %" SCNu32 " %" SCNu32, &a, &b) == 2) {
		if (!range_contains(0, SIZE, a, b))
			return false;
		printf("sum %u\n", ~rdma_crc_update(&peer->crc, UINT32_MAX, peer->memory + a, b));
		return true;
	} else if (sscanf(line, "number %" SCNu32, &a) == 1) {
		if (!range_contains(0, SIZE, a, 8))
			return false;
		printf("number %" PRIu64 "\n", get_le64(peer->memory + a));
		return true;
	} else if (sscanf(line, "receive %" SCNu32 " %" SCNu32, &a, &b) == 2) {
		struct godwit_rdma_segment one = segment(peer, a, b);

		if (godwit_rdma_pair_receive(peer->pair,
					     &(struct godwit_rdma_receive_work){0, &one, 1}))
			return false;
	} else if (!strncmp(line, "wait", 4)) {
		peer->waits = true;
		peer->waits_until = clock_monotonic_ns() + peer->patience;
		return true;
	} else if (!strncmp(line, "counters", 8)) {
		say_counters(peer);
		return true;
	} else {
		return false;
	}
	printf("ok\n");
	return true;
}

static void open_peer(struct peer *peer, const char *address)
{
	const struct godwit_rdma_options options = {
	    .port = {.reserve = reserve, .commit = commit, .flush = flush, .context = peer}};
	const struct godwit_rdma_completions_options completions = {.capacity = 1024};
	const struct godwit_rdma_region_options region = {.memory = {.span = span, .context = peer},
							  .address = ADDRESS,
							  .size = SIZE,
							  .access = 31};

	parse_address(address, peer->address);
	rdma_crc_init(&peer->crc, true);
	if (godwit_rdma_udp_open(peer->address, &peer->udp)) {
		perror("rdma-peer: cannot open its port");
		exit(1);
	}
	peer->port = godwit_rdma_udp_port(peer->udp);
	if (godwit_rdma_create(&options, &peer->engine) ||
	    godwit_rdma_domain_create(peer->engine, &peer->domain) ||
	    godwit_rdma_completions_create(peer->engine, &completions, &peer->completions) ||
	    godwit_rdma_region_create(peer->domain, &region, &peer->region))
		exit(1);
}

static void report(struct peer *peer)
{
	struct godwit_rdma_completion one = {0};

	if (!peer->waits || (!godwit_rdma_completions_poll(peer->completions, &one, 1) &&
			     clock_monotonic_ns() < peer->waits_until))
		return;
	peer->waits = false;
	printf("done %d %d %u %u %u\n", one.operation, one.status, one.bytes, one.flags,
	       one.immediate);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}};
	char line[256];

	if (argc != 2 || !peer)
		return 2;
	/* One line at a time: what is in a buffer, poll does not see. */
	setvbuf(stdin, NULL, _IONBF, 0);
	open_peer(peer, argv[1]);
	fds[1] = (struct pollfd){godwit_rdma_udp_fd(peer->udp), POLLIN, 0};
	for (;;) {
		int64_t now = clock_monotonic_ns(), next = godwit_rdma_poll(peer->engine, now);

		report(peer);
		poll(fds, 2,
		     next <= now		  ? 0
		     : next - now > NS_PER_SECOND ? 1000
						  : (int)((next - now) / NS_PER_MS + 1));
		while (godwit_rdma_udp_receive(peer->udp, peer->engine, clock_monotonic_ns()))
			godwit_rdma_poll(peer->engine, clock_monotonic_ns());
		if (!fds[0].revents)
			continue;
		if (!fgets(line, sizeof(line), stdin))
			return 0;
		if (!obey(peer, line))
			printf("what? %s", line);
		fflush(stdout);
	}
}
