/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Measures the RDMA engine: two of them, of which one asks and the other is asked, each with a processor.
 *
 *	rdma-load PORT OPERATION SIZE DEPTH MTU SECONDS [sleep]
 *		OPERATION write, read, send or add (fetch-and-add of 8 bytes), of SIZE bytes, DEPTH at once,
 *		with packets of MTU bytes. Prints how many a second are complete, and the median and the
 *		99th percentile of their time in microseconds. sleep: both wait in the kernel, instead of
 *		asking over and over.
 *	rdma-load plain memcpy|udp|tcp|echo SIZE SECONDS
 *		what the machine can do without RDMA: copies, datagrams cut by the kernel, a stream, a datagram
 *		there and back. Prints how many times SIZE bytes a second, and times as above for the last one.
 *
 * PORT is loop, or udp:ADDRESS,ADDRESS[,NETNS]: whence the requests come, whither they go, and the network
 * namespace of /run/netns that has the second one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <godwit/rdma.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"

#define SAMPLES_MAX 8000000U
#define DEPTH_MAX   4096U
#define NUMBER	    0x11U   /* of both queue pairs */
#define KEY	    0x1200U /* of both regions */
#define ADDRESS	    0x100000000000ULL
#define PSN	    0xffff00U
#define ALL	    (GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ | GODWIT_RDMA_REMOTE_ATOMIC)

struct load {
	enum godwit_rdma_operation operation;
	uint32_t size, depth, mtu;
	double seconds;
	bool sleeps;
};

struct end {
	const struct load *load;
	uint8_t address[16], peer[16];
	struct godwit_rdma_udp *udp;
	struct godwit_rdma_member *member;
	struct godwit_rdma *engine;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_region *region;
	struct godwit_rdma_pair *pair;
	uint64_t memory_size;
	uint8_t *memory;
};

static _Noreturn void fail(const char *what, int status)
{
	fprintf(stderr, "rdma-load: %s: %s\n", what, strerror(status < 0 ? -status : status));
	exit(1);
}

static void must(const char *what, int status)
{
	if (status < 0)
		fail(what, status);
}

static void use_processor(int number)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(number % (int)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* --- An end ------------------------------------------------------------------------------------ */

static int span(void *context, uint64_t offset, bool write, uint8_t **bytes, uint64_t *there)
{
	const struct end *end = context;

	*bytes = end->memory + offset;
	return 0;
}

static void make_memory(struct end *end)
{
	end->memory_size = (uint64_t)MAX(end->load->size, 64U) * end->load->depth;
	end->memory = mmap(NULL, end->memory_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (end->memory == MAP_FAILED)
		fail("memory", errno);
	memset(end->memory, 0x5a, end->memory_size);
}

static void connect_pair(struct end *end)
{
	struct godwit_rdma_attributes attributes = {.access = ALL,
						    .ends = {.source_port = 0xc000},
						    .mtu = end->load->mtu,
						    .peer = NUMBER,
						    .receive_psn = PSN,
						    .send_psn = PSN,
						    .timeout = 14,
						    .retries = 7,
						    .not_ready_retries = 7,
						    .not_ready_timer = 1,
						    .reads_out = 16,
						    .reads_in = 16};

	memcpy(attributes.ends.source, end->address, 16);
	memcpy(attributes.ends.destination, end->peer, 16);
	attributes.state = GODWIT_RDMA_INIT;
	must("INIT", godwit_rdma_pair_modify(end->pair, &attributes,
					     GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ACCESS));
	attributes.state = GODWIT_RDMA_RTR;
	must("RTR", godwit_rdma_pair_modify(
			end->pair, &attributes,
			GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU |
			    GODWIT_RDMA_SET_PEER | GODWIT_RDMA_SET_RECEIVE_PSN |
			    GODWIT_RDMA_SET_READS_IN | GODWIT_RDMA_SET_NOT_READY_TIMER));
	attributes.state = GODWIT_RDMA_RTS;
	must("RTS", godwit_rdma_pair_modify(end->pair, &attributes,
					    GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_SEND_PSN |
						GODWIT_RDMA_SET_TIMEOUT | GODWIT_RDMA_SET_RETRIES |
						GODWIT_RDMA_SET_NOT_READY_RETRIES |
						GODWIT_RDMA_SET_READS_OUT));
}

static void make_end(struct end *end, struct godwit_rdma_port port)
{
	struct godwit_rdma_options options = {.port = port, .window = GODWIT_RDMA_WINDOW_MAX};
	struct godwit_rdma_completions_options queue = {.capacity = 2 * DEPTH_MAX};
	struct godwit_rdma_region_options region = {.memory = {.span = span, .context = end},
						    .address = ADDRESS,
						    .access = ALL | GODWIT_RDMA_LOCAL_WRITE,
						    .key = KEY};
	struct godwit_rdma_pair_options pair = {.service = GODWIT_RDMA_RELIABLE,
						.send_capacity = DEPTH_MAX,
						.receive_capacity = DEPTH_MAX,
						.send_segments = 1,
						.receive_segments = 1,
						.number = NUMBER};

	make_memory(end);
	region.size = end->memory_size;
	must("engine", godwit_rdma_create(&options, &end->engine));
	must("domain", godwit_rdma_domain_create(end->engine, &end->domain));
	must("completions", godwit_rdma_completions_create(end->engine, &queue, &end->completions));
	must("region", godwit_rdma_region_create(end->domain, &region, &end->region));
	pair.send = pair.receive = end->completions;
	must("queue pair", godwit_rdma_pair_create(end->domain, &pair, &end->pair));
	connect_pair(end);
}

/* Packets that came, and those that leave. Waits first if both have nothing to do. */
static void turn(struct end *end)
{
	int64_t now = clock_monotonic_ns(), next;
	uint32_t came = end->udp ? godwit_rdma_udp_receive(end->udp, end->engine, now)
				 : godwit_rdma_loop_receive(end->member, end->engine, now);

	next = godwit_rdma_poll(end->engine, now);
	if (end->load->sleeps && end->udp && !came && next > now) {
		struct pollfd watched = {.fd = godwit_rdma_udp_fd(end->udp), .events = POLLIN};

		poll(&watched, 1, next == GODWIT_RDMA_NEVER ? -1 : 1);
	}
}

/* --- Who is asked ------------------------------------------------------------------------------ */

static void post_receive(struct end *end, uint64_t slot)
{
	struct godwit_rdma_segment segment = {ADDRESS + slot * end->load->size, end->load->size,
					      KEY};
	struct godwit_rdma_receive_work work = {slot, &segment, 1};

	must("receive", godwit_rdma_pair_receive(end->pair, &work));
}

static void post_receives(struct end *end)
{
	for (uint32_t i = 0; end->load->operation == GODWIT_RDMA_SEND && i < end->load->depth; i++)
		post_receive(end, i);
}

static void take_receives(struct end *end)
{
	struct godwit_rdma_completion list[64];
	uint32_t count = godwit_rdma_completions_poll(end->completions, list, ARRAY_SIZE(list));

	for (uint32_t i = 0; i < count; i++) {
		if (list[i].status != GODWIT_RDMA_SUCCESS)
			fail("a receive failed", EIO);
		post_receive(end, list[i].id);
	}
}

/* --- Who asks ---------------------------------------------------------------------------------- */

struct times {
	uint32_t *list;
	size_t count;
	int64_t begun[DEPTH_MAX];
};

static void post(struct end *end, struct times *times, uint64_t slot)
{
	const struct load *load = end->load;
	uint64_t place = ADDRESS + slot * MAX(load->size, 64U);
	struct godwit_rdma_segment segment = {place, load->size, KEY};
	struct godwit_rdma_work work = {.id = slot,
					.operation = load->operation,
					.flags = GODWIT_RDMA_SIGNALED,
					.segments = &segment,
					.segment_count = 1,
					.remote_address = place,
					.remote_key = KEY,
					.swap = 1};

	if (times->list)
		times->begun[slot] = clock_monotonic_ns();
	must("post", godwit_rdma_pair_send(end->pair, &work));
}

static uint64_t take(struct end *end, struct times *times, bool again)
{
	struct godwit_rdma_completion list[64];
	uint64_t all = 0;
	uint32_t count;

	while ((count = godwit_rdma_completions_poll(end->completions, list, ARRAY_SIZE(list)))) {
		for (uint32_t i = 0; i < count; i++) {
			if (list[i].status != GODWIT_RDMA_SUCCESS)
				fail("a request failed", EIO);
			if (times->list && times->count < SAMPLES_MAX)
				times->list[times->count++] =
				    (uint32_t)(clock_monotonic_ns() - times->begun[list[i].id]);
			if (again)
				post(end, times, list[i].id);
		}
		all += count;
	}
	return all;
}

static int compare(const void *a, const void *b)
{
	const uint32_t *left = a, *right = b;

	return *left < *right ? -1 : *left > *right;
}

static void print_result(const struct times *times, double rate)
{
	double median = 0, high = 0;

	if (times->count) {
		qsort(times->list, times->count, sizeof(*times->list), compare);
		median = times->list[times->count / 2] / 1000.0;
		high = times->list[times->count * 99 / 100] / 1000.0;
	}
	printf("%.0f %.2f %.2f\n", rate, median, high);
}

/* @other: is in this thread too. */
static void ask(struct end *end, struct end *other)
{
	const struct load *load = end->load;
	struct times times = {0};
	int64_t begun, until;
	uint64_t done = 0;

	/* Asking for the time costs something where many are under way. */
	if (load->depth == 1)
		times.list = malloc(SAMPLES_MAX * sizeof(*times.list));
	for (uint32_t i = 0; i < load->depth; i++)
		post(end, &times, i);
	/* What is not counted: caches are cold, addresses are looked up. */
	for (until = clock_monotonic_ns() + 100000000; clock_monotonic_ns() < until;) {
		turn(end);
		if (other) {
			turn(other);
			take_receives(other);
		}
		take(end, &times, true);
	}
	times.count = 0;
	begun = clock_monotonic_ns();
	until = begun + (int64_t)(load->seconds * 1e9);
	while (clock_monotonic_ns() < until) {
		for (int i = 0; i < 8; i++) {
			turn(end);
			if (other) {
				turn(other);
				take_receives(other);
			}
			done += take(end, &times, true);
		}
	}
	print_result(&times, (double)done * 1e9 / (double)(clock_monotonic_ns() - begun));
	free(times.list);
}

/* --- Ports ------------------------------------------------------------------------------------- */

static void read_address(const char *text, uint8_t address[16])
{
	memset(address, 0, 16);
	if (inet_pton(AF_INET6, text, address) == 1)
		return;
	memset(address + 10, 0xff, 2);
	if (inet_pton(AF_INET, text, address + 12) != 1)
		fail(text, EINVAL);
}

static void run_loop(const struct load *load)
{
	struct end ends[2] = {{.load = load}, {.load = load}};
	struct godwit_rdma_loop *loop;

	must("loop", godwit_rdma_loop_create(&loop));
	read_address("192.0.2.1", ends[0].address);
	read_address("192.0.2.2", ends[1].address);
	for (int i = 0; i < 2; i++) {
		memcpy(ends[i].peer, ends[1 - i].address, 16);
		must("loop", godwit_rdma_loop_join(loop, ends[i].address, 1024, &ends[i].member));
		make_end(&ends[i], godwit_rdma_loop_port(ends[i].member));
	}
	post_receives(&ends[1]);
	ask(&ends[0], &ends[1]);
}

static void open_udp(struct end *end)
{
	must("UDP port 4791", godwit_rdma_udp_open(end->address, &end->udp));
	make_end(end, godwit_rdma_udp_port(end->udp));
}

/* Serves until this process's parent kills it. */
static _Noreturn void serve(struct end *end, const char *space, int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	use_processor(1);
	if (space) {
		char path[256];
		int fd;

		snprintf(path, sizeof(path), "/run/netns/%s", space);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
			fail(path, errno);
		close(fd);
	}
	open_udp(end);
	post_receives(end);
	if (write(ready, "", 1) != 1)
		fail("pipe", errno);
	for (;;) {
		turn(end);
		take_receives(end);
	}
}

static void run_udp(const struct load *load, char *where)
{
	struct end from = {.load = load}, to = {.load = load};
	const char *first = strtok(where, ","), *second = strtok(NULL, ","),
		   *space = strtok(NULL, ",");
	int ready[2];
	char byte;
	pid_t child;

	if (!first || !second)
		fail("udp", EINVAL);
	read_address(first, from.address);
	read_address(second, to.address);
	memcpy(from.peer, to.address, 16);
	memcpy(to.peer, from.address, 16);
	if (pipe(ready) < 0)
		fail("pipe", errno);
	child = fork();
	if (child < 0)
		fail("fork", errno);
	if (!child)
		serve(&to, space, ready[1]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		exit(1);
	use_processor(0);
	open_udp(&from);
	ask(&from, NULL);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* --- Without RDMA ------------------------------------------------------------------------------ */

static void copy(uint32_t size, double seconds)
{
	/* As far apart as the ends of 8 requests. */
	uint8_t *from = malloc((size_t)size * 8), *to = malloc((size_t)size * 8);
	int64_t begun, now;
	uint64_t done = 0;

	if (!from || !to)
		fail("memory", ENOMEM);
	memset(from, 1, (size_t)size * 8);
	memset(to, 1, (size_t)size * 8);
	begun = clock_monotonic_ns();
	do {
		for (uint32_t i = 0; i < 1024; i++, done++) {
			memcpy(to + (size_t)(i % 8) * size, from + (size_t)(i % 8) * size, size);
			__asm__ volatile("" : : "r"(to) : "memory");
		}
		now = clock_monotonic_ns();
	} while ((double)(now - begun) < seconds * 1e9);
	printf("%.0f\n", (double)done * 1e9 / (double)(now - begun));
	free(from);
	free(to);
}

static int open_socket(bool stream, struct sockaddr_in *address)
{
	int fd = socket(AF_INET, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(*address);

	*address =
	    (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0 || bind(fd, (struct sockaddr *)address, sizeof(*address)) < 0 ||
	    (stream && listen(fd, 1) < 0) || getsockname(fd, (struct sockaddr *)address, &size) < 0)
		fail("socket", errno);
	return fd;
}

/* Takes until SECONDS are over, then says how many bytes came; the other process sends without an end. */
static double take_stream(int fd, double seconds)
{
	size_t room = 1 << 20;
	char *bytes = malloc(room);
	int64_t begun = 0, now;
	uint64_t all = 0;
	ssize_t size;

	do {
		size = recv(fd, bytes, room, 0);
		if (size <= 0)
			fail("recv", errno);
		now = clock_monotonic_ns();
		if (!begun)
			begun = now;
		else
			all += (uint64_t)size;
	} while ((double)(now - begun) < seconds * 1e9);
	free(bytes);
	return (double)all * 1e9 / (double)(now - begun);
}

static _Noreturn void send_stream(bool stream, const struct sockaddr_in *to, uint32_t size)
{
	int fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0),
	    piece = stream ? 1 << 20 : (int)(MIN(65000 / size, 60U) * size);
	char *bytes = calloc(1, (size_t)piece);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	use_processor(0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0 ||
	    (!stream && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &(int){(int)size}, sizeof(int))))
		fail("connect", errno);
	while (send(fd, bytes, (size_t)piece, MSG_NOSIGNAL) >= 0)
		;
	exit(1);
}

static void stream(bool tcp, uint32_t size, double seconds)
{
	struct sockaddr_in address;
	int fd = open_socket(tcp, &address), room = 4 << 20;
	pid_t child = fork();

	if (child < 0)
		fail("fork", errno);
	if (!child)
		send_stream(tcp, &address, size);
	use_processor(1);
	if (tcp) {
		fd = accept(fd, NULL, NULL);
	} else {
		setsockopt(fd, IPPROTO_UDP, UDP_GRO, &(int){1}, sizeof(int));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	}
	printf("%.0f\n", take_stream(fd, seconds) / size);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(fd);
}

/* Without waiting in the kernel. */
static void receive_one(int fd, char *bytes, size_t size, struct sockaddr_in *from)
{
	socklen_t length;

	do {
		length = sizeof(*from);
	} while (recvfrom(fd, bytes, size, MSG_DONTWAIT, (struct sockaddr *)from, &length) < 0);
}

static void send_one(int fd, const char *bytes, size_t size, const struct sockaddr_in *to)
{
	if (sendto(fd, bytes, size, 0, (const struct sockaddr *)to, sizeof(*to)) < 0)
		fail("sendto", errno);
}

static void echo(uint32_t size, double seconds)
{
	struct times times = {.list = malloc(SAMPLES_MAX * sizeof(*times.list))};
	struct sockaddr_in own, there, from;
	int near = open_socket(false, &own), far = open_socket(false, &there);
	char *bytes = calloc(1, size);
	int64_t begun, sent, now;
	pid_t child = fork();

	if (child < 0 || !times.list || !bytes)
		fail("echo", errno);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		use_processor(1);
		for (;;) {
			receive_one(far, bytes, size, &from);
			send_one(far, bytes, size, &from);
		}
	}
	use_processor(0);
	begun = clock_monotonic_ns();
	do {
		sent = clock_monotonic_ns();
		send_one(near, bytes, size, &there);
		receive_one(near, bytes, size, &from);
		now = clock_monotonic_ns();
		if (times.count < SAMPLES_MAX)
			times.list[times.count++] = (uint32_t)(now - sent);
	} while ((double)(now - begun) < seconds * 1e9);
	print_result(&times, (double)times.count * 1e9 / (double)(now - begun));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(near);
	close(far);
	free(bytes);
	free(times.list);
}

static int run_plain(char **argv)
{
	uint32_t size = (uint32_t)atoi(argv[1]);
	double seconds = atof(argv[2]);

	if (!size)
		fail("size", EINVAL);
	if (!strcmp(argv[0], "memcpy"))
		copy(size, seconds);
	else if (!strcmp(argv[0], "echo"))
		echo(size, seconds);
	else
		stream(!strcmp(argv[0], "tcp"), size, seconds);
	return 0;
}

static enum godwit_rdma_operation operation_of(const char *name)
{
	static const char *const names[] = {[GODWIT_RDMA_SEND] = "send",
					    [GODWIT_RDMA_WRITE] = "write",
					    [GODWIT_RDMA_READ] = "read",
					    [GODWIT_RDMA_FETCH_ADD] = "add"};

	for (size_t i = GODWIT_RDMA_SEND; i < ARRAY_SIZE(names); i++)
		if (names[i] && !strcmp(name, names[i]))
			return i;
	fail(name, EINVAL);
}

int main(int argc, char **argv)
{
	struct load load;

	if (argc == 5 && !strcmp(argv[1], "plain"))
		return run_plain(argv + 2);
	if (argc != 7 && argc != 8) {
		fputs("usage: rdma-load PORT OPERATION SIZE DEPTH MTU SECONDS [sleep]\n"
		      "       rdma-load plain memcpy|udp|tcp|echo SIZE SECONDS\n",
		      stderr);
		return 2;
	}
	load = (struct load){.operation = operation_of(argv[2]),
			     .size = (uint32_t)atoi(argv[3]),
			     .depth = (uint32_t)atoi(argv[4]),
			     .mtu = (uint32_t)atoi(argv[5]),
			     .seconds = atof(argv[6]),
			     .sleeps = argc == 8};
	if (!load.depth || load.depth > DEPTH_MAX ||
	    (load.operation == GODWIT_RDMA_FETCH_ADD && load.size != sizeof(uint64_t)))
		fail("arguments", EINVAL);
	if (!strcmp(argv[1], "loop"))
		run_loop(&load);
	else if (!strncmp(argv[1], "udp:", 4))
		run_udp(&load, argv[1] + 4);
	else
		fail(argv[1], EINVAL);
	return 0;
}
