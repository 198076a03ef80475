/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Large states of devices on their way: over real connections, each of which is slow, they are spread so
 * evenly that more connections take as much less time; and whatever order chunks come in, they are
 * loaded in theirs.
 *
 * The slow network is one thread that hands on a certain number of bytes of each connection in each of
 * its rounds: all are equally slow however busy this host is, so that bytes can be counted where a clock
 * would have to be looked at.
 */
#include "migration_pair_states.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>

#include "base/bytes.h"
#include "base/clock.h"

#define DEVICES	   8
#define STATE	   MIB(3) /* of each device */
#define POOL	   MIB(4)
#define ROUND_SIZE KIB(32) /* bytes of a connection in a round of the network */
#define ROUND_MS   1
#define BUFFER	   KIB(64) /* of the network, for a connection */
#define GREETING   40	   /* of a connection: its kind is at 10, its index at 32 */

static uint8_t byte_at(uint32_t device, uint64_t offset)
{
	return (uint8_t)(offset * 7 + offset / 4096 * 13 + device);
}

/* --- A slow network ---------------------------------------------------------------------------- */

struct hop {
	int from, to; /* the source, the destination */
	bool data;
	uint32_t index;
	uint64_t bytes; /* from the source */
};

struct network {
	int listener;
	uint16_t port, destination;
	struct hop hops[WIRE_CHANNELS_MAX];
	uint32_t count;
	pthread_t thread;
	bool ending; /* atomic */
};

static void send_whole(int fd, const uint8_t *bytes, size_t size)
{
	/* Either end may have hung up, at the end. */
	for (ssize_t some; size; bytes += some, size -= (size_t)some) {
		some = send(fd, bytes, size, MSG_NOSIGNAL);
		if (some <= 0)
			return;
	}
}

/* False: nothing is there now. */
static bool hand_on(int from, int to, size_t most, uint64_t *count)
{
	uint8_t bytes[ROUND_SIZE];
	ssize_t some = recv(from, bytes, most, MSG_DONTWAIT);

	if (some == 0)
		shutdown(to, SHUT_WR);
	if (some <= 0)
		return false;
	send_whole(to, bytes, (size_t)some);
	*count += (uint64_t)some;
	return true;
}

static struct sockaddr_in local(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
}

static void take_connection(struct network *network)
{
	struct sockaddr_in address = local(network->destination);
	struct hop *hop = &network->hops[network->count];
	uint8_t greeting[GREETING];

	hop->from = accept(network->listener, NULL, NULL);
	if (hop->from < 0)
		return;
	hop->to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(hop->to, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    recv(hop->from, greeting, GREETING, MSG_WAITALL) != GREETING)
		abort();
	hop->data = get_le16(greeting + 10) == WIRE_CHANNEL_DATA;
	hop->index = get_le16(greeting + 32);
	send_whole(hop->to, greeting, GREETING);
	network->count++;
}

static void *run_network(void *context)
{
	struct network *network = context;

	while (!__atomic_load_n(&network->ending, __ATOMIC_ACQUIRE)) {
		struct pollfd poll_listener = {.fd = network->listener, .events = POLLIN};

		if (poll(&poll_listener, 1, ROUND_MS) > 0)
			take_connection(network);
		for (uint32_t i = 0; i < network->count; i++) {
			struct hop *hop = &network->hops[i];
			uint64_t back = 0;

			hand_on(hop->from, hop->to, ROUND_SIZE, &hop->bytes);
			while (hand_on(hop->to, hop->from, ROUND_SIZE, &back))
				;
		}
	}
	return NULL;
}

static void network_begin(struct network *network, const char *destination)
{
	struct sockaddr_in address = local(0);
	socklen_t size = sizeof(address);
	int buffer = BUFFER;

	*network = (struct network){
	    .listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
	    .destination = (uint16_t)atoi(strrchr(destination, ':') + 1)};
	setsockopt(network->listener, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	assert_int_equal(bind(network->listener, (struct sockaddr *)&address, size), 0);
	assert_int_equal(listen(network->listener, 16), 0);
	assert_int_equal(getsockname(network->listener, (struct sockaddr *)&address, &size), 0);
	network->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&network->thread, NULL, run_network, network), 0);
}

static void network_end(struct network *network)
{
	__atomic_store_n(&network->ending, true, __ATOMIC_RELEASE);
	pthread_join(network->thread, NULL);
	for (uint32_t i = 0; i < network->count; i++) {
		close(network->hops[i].from);
		close(network->hops[i].to);
	}
	close(network->listener);
}

/* --- Both ends --------------------------------------------------------------------------------- */

struct travel {
	struct network network;
	struct pair_memory here, there;
	struct pair_states ends;
	pthread_t accepting;
	uint64_t loaded[DEVICES];
	bool mixed_up; /* atomic */
};

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	struct travel *travel = context;

	for (size_t i = 0; i < size; i++)
		if (((const uint8_t *)bytes)[i] != byte_at(device, travel->loaded[device] + i))
			__atomic_store_n(&travel->mixed_up, true, __ATOMIC_RELAXED);
	travel->loaded[device] += size;
	return NULL;
}

static void ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops ops = {.load = load, .ended = ended};

static void *accept_link(void *context)
{
	struct travel *travel = context;

	return migration_link_accept(travel->ends.destination);
}

static void connect_links(struct travel *travel, uint32_t channels)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0"};
	char address[64];
	void *error;

	assert_no_error(
	    migration_link_open(MIGRATION_DESTINATION, &options, &travel->ends.destination));
	network_begin(&travel->network, migration_link_address(travel->ends.destination));
	assert_int_equal(pthread_create(&travel->accepting, NULL, accept_link, travel), 0);
	snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", travel->network.port);
	options = (struct migration_link_options){.address = address, .channels = channels};
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &travel->ends.source));
	assert_no_error(migration_link_connect(travel->ends.source));
	pthread_join(travel->accepting, &error);
	assert_no_error(error);
}

static void begin(struct travel *travel, uint32_t channels)
{
	struct migration_sender_options options = {.workers = DEVICES, .devices = DEVICES};
	struct migration_receiver_options receiver_options = {
	    .workers = 2, .devices = DEVICES, .pool_size = POOL};

	*travel = (struct travel){};
	pair_memory_create(&travel->here);
	pair_memory_create(&travel->there);
	connect_links(travel, channels);
	assert_no_error(migration_sender_create(travel->ends.source, travel->here.map, &options,
						&travel->ends.sender));
	assert_no_error(migration_receiver_create(travel->ends.destination, travel->there.map,
						  &receiver_options, &ops, travel,
						  &travel->ends.receiver));
	pair_states_begin(&travel->ends);
	assert_no_error(migration_receiver_start(travel->ends.receiver));
}

static void end(struct travel *travel)
{
	pair_states_end(&travel->ends);
	network_end(&travel->network);
	pair_memory_destroy(&travel->here);
	pair_memory_destroy(&travel->there);
}

struct emission {
	struct travel *travel;
	struct worker_job job;
	uint32_t device;
	struct error *error;
};

static void emit(void *context)
{
	struct emission *emission = context;
	uint8_t *bytes = malloc(STATE);

	for (uint64_t i = 0; i < STATE; i++)
		bytes[i] = byte_at(emission->device, i);
	emission->error = migration_sender_emit(emission->travel->ends.sender, emission->device,
						bytes, STATE, true);
	free(bytes);
}

static void emit_all(struct travel *travel)
{
	struct worker_pool *workers = migration_sender_workers(travel->ends.sender);
	struct emission emissions[DEVICES];

	for (uint32_t i = 0; i < DEVICES; i++) {
		emissions[i] = (struct emission){.travel = travel, .device = i};
		emissions[i].job = (struct worker_job){.run = emit, .context = &emissions[i]};
		worker_pool_submit(workers, &emissions[i].job);
	}
	for (uint32_t i = 0; i < DEVICES; i++) {
		worker_pool_wait(workers, &emissions[i].job);
		assert_no_error(emissions[i].error);
	}
}

/* --- Tests ------------------------------------------------------------------------------------- */

static void check_channels(uint32_t channels)
{
	const uint64_t share = DEVICES * STATE / channels;
	struct migration_received received;
	struct travel travel;
	int64_t began;

	begin(&travel, channels);
	began = clock_monotonic_ns();
	emit_all(&travel);
	assert_no_error(migration_sender_finish(travel.ends.sender));
	assert_no_error(migration_receiver_wait(travel.ends.receiver));
	print_message("%u connections: %lld ms\n", channels,
		      (long long)((clock_monotonic_ns() - began) / NS_PER_MS));
	assert_false(travel.mixed_up);
	for (uint32_t i = 0; i < DEVICES; i++)
		assert_int_equal(travel.loaded[i], STATE);
	migration_receiver_progress(travel.ends.receiver, &received);
	assert_int_equal(received.state_bytes, DEVICES * STATE);
	assert_true(received.pool_peak <= POOL);
	end(&travel);
	assert_int_equal(travel.network.count, 1 + channels);
	for (uint32_t i = 0; i < travel.network.count; i++) {
		const struct hop *hop = &travel.network.hops[i];

		if (hop->data)
			print_message("  connection %u: %llu KiB of %llu\n", hop->index,
				      (unsigned long long)(hop->bytes / KIB(1)),
				      (unsigned long long)(share / KIB(1)));
		assert_true(!hop->data ||
			    (hop->bytes > share * 3 / 4 && hop->bytes < share * 5 / 4));
	}
}

static void test_more_connections_take_as_much_less(void **unused)
{
	for (uint32_t channels = 1; channels <= 4; channels *= 2)
		check_channels(channels);
}

/* A source that this test speaks for: says chunk @index of device 0, a page of bytes. */
static void say_chunk(int fd, uint32_t index, bool last)
{
	struct wire_record record = {
	    .kind = WIRE_RECORD_DEVICE, .flags = last ? WIRE_DEVICE_LAST : 0, .length = WIRE_PAGE};
	uint8_t bytes[WIRE_RECORD_SIZE + WIRE_PAGE];

	record.device.index = index;
	wire_put_record(bytes, &record);
	for (uint32_t i = 0; i < WIRE_PAGE; i++)
		bytes[WIRE_RECORD_SIZE + i] = byte_at(0, index * WIRE_PAGE + i);
	assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
}

/* Until the destination has granted device 0 so many chunks. */
static void await_credit(int fd, uint32_t indexes)
{
	struct migration_message message = {};

	while (message.credit.indexes < indexes) {
		enum migration_message_type type;
		uint8_t head[WIRE_FRAME_SIZE], payload[WIRE_PAYLOAD_MAX];
		uint32_t length;

		assert_int_equal(recv(fd, head, sizeof(head), MSG_WAITALL), sizeof(head));
		assert_no_error(wire_get_frame(head, &type, &length));
		assert_int_equal(type, MIGRATION_STATE_CREDIT);
		assert_int_equal(recv(fd, payload, length, MSG_WAITALL), length);
		assert_no_error(wire_get_message(type, payload, length, &message));
	}
}

static void test_chunks_are_loaded_in_their_order(void **unused)
{
	struct migration_receiver_options options = {.workers = 2, .devices = 1};
	static const uint32_t order[] = {7, 3, 9, 1, 8, 2, 6, 4, 5};
	struct travel travel = {};
	struct pair_ends ends;

	pair_memory_create(&travel.there);
	travel.ends.destination = pair_link(MIGRATION_DESTINATION, 2, false, &ends);
	assert_no_error(migration_receiver_create(travel.ends.destination, travel.there.map,
						  &options, &ops, &travel, &travel.ends.receiver));
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	await_credit(ends.fds[0], 1);
	say_chunk(ends.fds[1], 0, false);
	await_credit(ends.fds[0], 10);
	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		say_chunk(ends.fds[1 + i % 2], order[i], order[i] == 9);
	for (int i = 0; i < 2; i++) {
		struct wire_record record = {.kind = WIRE_RECORD_END};
		uint8_t head[WIRE_RECORD_SIZE];

		wire_put_record(head, &record);
		assert_int_equal(send(ends.fds[1 + i], head, sizeof(head), 0), sizeof(head));
		shutdown(ends.fds[1 + i], SHUT_WR);
	}
	assert_no_error(migration_receiver_wait(travel.ends.receiver));
	assert_false(travel.mixed_up);
	assert_int_equal(travel.loaded[0], 10 * WIRE_PAGE);
	migration_receiver_destroy(travel.ends.receiver);
	migration_link_close(travel.ends.destination);
	pair_ends_close(&ends);
	pair_memory_destroy(&travel.there);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_more_connections_take_as_much_less),
	    cmocka_unit_test(test_chunks_are_loaded_in_their_order),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
