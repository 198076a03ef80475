/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of devices over a migration's data connections: each arrives whole and in its order, devices
 * do not wait for each other, and the destination never holds more than its pool.
 */
#include "migration_pair_states.h"

#include <pthread.h>

#define DEVICES 12
#define CHUNK	WIRE_CHUNK_MAX

struct travel {
	struct pair_memory memory, there;
	struct pair_states ends;
	uint64_t loaded[DEVICES]; /* bytes */
	bool last[DEVICES];
	bool mixed_up;		/* atomic: bytes did not come in their order */
	uint32_t loading, most; /* devices at once; atomic */
	uint32_t slow;		/* us that loading a chunk takes */
	uint32_t blocked;	/* a device that does not load before… */
	uint32_t others;	/* …as many others are done; atomic */
	uint32_t all_loaded;	/* calls; atomic */
	const char *fails;
};

/* The byte at @offset of the state of @device. */
static uint8_t byte_at(uint32_t device, uint64_t offset)
{
	return (uint8_t)(offset / CHUNK * 13 + offset * 7 + device);
}

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	struct travel *travel = context;
	uint32_t now = __atomic_add_fetch(&travel->loading, 1, __ATOMIC_SEQ_CST);
	uint64_t offset = travel->loaded[device];

	if (now > __atomic_load_n(&travel->most, __ATOMIC_RELAXED))
		__atomic_store_n(&travel->most, now, __ATOMIC_RELAXED);
	if (travel->fails)
		return error_new(EINVAL, "%s", travel->fails);
	if (travel->slow)
		usleep(travel->slow);
	while (travel->blocked && device == travel->blocked &&
	       __atomic_load_n(&travel->others, __ATOMIC_ACQUIRE) < DEVICES - 1)
		usleep(100);
	for (size_t i = 0; i < size; i += 997)
		if (((const uint8_t *)bytes)[i] != byte_at(device, offset + i))
			__atomic_store_n(&travel->mixed_up, true, __ATOMIC_RELAXED);
	travel->loaded[device] += size;
	travel->last[device] = last;
	if (last)
		__atomic_fetch_add(&travel->others, 1, __ATOMIC_RELEASE);
	__atomic_fetch_sub(&travel->loading, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void all_loaded(void *context)
{
	struct travel *travel = context;

	__atomic_fetch_add(&travel->all_loaded, 1, __ATOMIC_RELAXED);
}

static void ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops ops = {
    .load = load, .all_loaded = all_loaded, .ended = ended};

static void begin(struct travel *travel, uint32_t channels, uint64_t pool)
{
	struct migration_sender_options options = {.workers = 4, .devices = DEVICES};
	struct migration_receiver_options receiver_options = {
	    .workers = 4, .devices = DEVICES, .pool_size = pool};
	uint32_t blocked = travel->blocked, slow = travel->slow;
	const char *fails = travel->fails;

	*travel = (struct travel){.blocked = blocked, .slow = slow, .fails = fails};
	pair_memory_create(&travel->memory);
	pair_memory_create(&travel->there);
	pair_links(channels, false, &travel->ends.source, &travel->ends.destination);
	assert_no_error(migration_sender_create(travel->ends.source, travel->memory.map, &options,
						&travel->ends.sender));
	assert_no_error(migration_receiver_create(travel->ends.destination, travel->there.map,
						  &receiver_options, &ops, travel,
						  &travel->ends.receiver));
	pair_states_begin(&travel->ends);
}

static void end(struct travel *travel)
{
	pair_states_end(&travel->ends);
	pair_memory_destroy(&travel->memory);
	pair_memory_destroy(&travel->there);
}

struct emission {
	struct travel *travel;
	struct worker_job job;
	uint32_t device;
	uint64_t size;
	struct error *error;
};

static void emit(void *context)
{
	struct emission *emission = context;
	uint8_t *bytes = malloc(CHUNK);

	for (uint64_t offset = 0; !emission->error;) {
		size_t size = MIN(emission->size - offset, (uint64_t)CHUNK);

		for (size_t i = 0; i < size; i++)
			bytes[i] = byte_at(emission->device, offset + i);
		offset += size;
		emission->error =
		    migration_sender_emit(emission->travel->ends.sender, emission->device, bytes,
					  size, offset == emission->size);
		if (offset == emission->size)
			break;
	}
	free(bytes);
}

/* Device n sends sizes[n] bytes, all at once as far as there are threads. */
static void emit_all(struct travel *travel, const uint64_t sizes[DEVICES])
{
	struct worker_pool *workers = migration_sender_workers(travel->ends.sender);
	struct emission emissions[DEVICES];

	for (uint32_t i = 0; i < DEVICES; i++) {
		emissions[i] = (struct emission){.travel = travel, .device = i, .size = sizes[i]};
		emissions[i].job = (struct worker_job){.run = emit, .context = &emissions[i]};
		worker_pool_submit(workers, &emissions[i].job);
	}
	for (uint32_t i = 0; i < DEVICES; i++) {
		worker_pool_wait(workers, &emissions[i].job);
		assert_no_error(emissions[i].error);
	}
}

static void check(struct travel *travel, const uint64_t sizes[DEVICES], uint64_t pool)
{
	struct migration_received received;

	assert_no_error(migration_sender_finish(travel->ends.sender));
	assert_no_error(migration_receiver_wait(travel->ends.receiver));
	assert_false(travel->mixed_up);
	for (uint32_t i = 0; i < DEVICES; i++) {
		assert_int_equal(travel->loaded[i], sizes[i]);
		assert_true(travel->last[i]);
	}
	migration_receiver_progress(travel->ends.receiver, &received);
	assert_int_equal(received.devices_loaded, DEVICES);
	assert_true(received.pool_peak <= pool);
	assert_int_equal(travel->all_loaded, 1);
}

static const uint64_t some_sizes[DEVICES] = {1,	      0,  CHUNK,      CHUNK + 1, MIB(3), 100,
					     MIB(40), 17, MIB(9) + 5, 4 * CHUNK, 8,	 MIB(1)};

static void check_channels(uint32_t channels, uint64_t pool)
{
	struct travel travel = {};

	begin(&travel, channels, pool);
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	emit_all(&travel, some_sizes);
	check(&travel, some_sizes, pool);
	end(&travel);
}

static void test_states_arrive_in_order(void **unused)
{
	check_channels(1, MIB(16));
	check_channels(8, MIB(16));
}

/* The least there can be: a place for each device. */
static void test_smallest_pool(void **unused)
{
	check_channels(4, DEVICES * CHUNK);
}

static void test_slow_loader_fills_the_pool_and_no_more(void **unused)
{
	struct travel travel = {.slow = 300};
	struct migration_sent sent;

	begin(&travel, 4, MIB(4));
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	emit_all(&travel, some_sizes);
	check(&travel, some_sizes, MIB(4));
	migration_sender_progress(travel.ends.sender, &sent);
	assert_true(sent.credit_waits > 0);
	assert_true(travel.most > 1); /* devices are loaded at the same time */
	end(&travel);
}

/* One that does not get on has its place and its share, and no other's. */
static void test_blocked_device_is_in_nobodys_way(void **unused)
{
	struct travel travel = {.blocked = 6};

	begin(&travel, 2, MIB(4));
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	emit_all(&travel, some_sizes);
	check(&travel, some_sizes, MIB(4));
	end(&travel);
}

static void *send_rounds(void *context)
{
	struct travel *travel = context;
	uint64_t round;

	for (uint8_t version = 1; version < 8; version++) {
		for (uint64_t page = 0; page < PAIR_SIZE / PAIR_PAGE; page++)
			pair_fill(&travel->memory, 0, page, version, true);
		pair_mark(&travel->memory, 0, 0, PAIR_SIZE / PAIR_PAGE);
		assert_no_error(
		    migration_sender_round(travel->ends.sender, travel->memory.pending, false));
		assert_no_error(migration_sender_end_round(travel->ends.sender, &round));
	}
	return NULL;
}

/* Over the same connections, at the same time, with barriers in between. */
static void test_states_travel_beside_memory(void **unused)
{
	struct travel travel = {};
	pthread_t thread;

	begin(&travel, 2, MIB(4));
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	assert_int_equal(pthread_create(&thread, NULL, send_rounds, &travel), 0);
	emit_all(&travel, some_sizes);
	pthread_join(thread, NULL);
	check(&travel, some_sizes, MIB(4));
	pair_assert_same(&travel.memory, &travel.there);
	end(&travel);
}

static void test_failing_load_ends_it(void **unused)
{
	struct travel travel = {.fails = "serial: index is not a register"};

	begin(&travel, 2, 0);
	assert_no_error(migration_receiver_start(travel.ends.receiver));
	assert_no_error(migration_sender_emit(travel.ends.sender, 3, "x", 1, true));
	assert_error_with(migration_receiver_wait(travel.ends.receiver),
			  "serial: index is not a register");
	assert_int_equal(travel.all_loaded, 0);
	end(&travel);
}

static void test_too_small_a_pool_is_refused(void **unused)
{
	struct migration_receiver_options options = {
	    .workers = 1, .devices = DEVICES, .pool_size = DEVICES * CHUNK - 1};
	struct migration_receiver *receiver;
	struct migration_link *link;
	struct pair_memory memory;
	struct pair_ends ends;

	pair_memory_create(&memory);
	link = pair_link(MIGRATION_DESTINATION, 1, false, &ends);
	assert_error_with(
	    migration_receiver_create(link, memory.map, &options, &ops, NULL, &receiver),
	    "too small for the states of 12 devices");
	migration_link_close(link);
	pair_ends_close(&ends);
	pair_memory_destroy(&memory);
}

static void *cancel_soon(void *context)
{
	usleep(20000);
	migration_sender_cancel(context);
	return NULL;
}

/* Without credit a chunk waits, until somebody cancels. */
static void test_waiting_for_credit_can_be_cancelled(void **unused)
{
	struct travel travel = {};
	pthread_t thread;

	begin(&travel, 1, 0);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, travel.ends.sender), 0);
	assert_error_with(migration_sender_emit(travel.ends.sender, 0, "x", 1, true), "cancelled");
	pthread_join(thread, NULL);
	end(&travel);
}

static void test_bad_credit_is_refused(void **unused)
{
	struct migration_message message = {.type = MIGRATION_STATE_CREDIT};
	struct travel travel = {};

	begin(&travel, 1, 0);
	message.credit.device = DEVICES;
	assert_error_with(migration_sender_credit(travel.ends.sender, &message), "device 12 of 12");
	message.credit.device = 1;
	message.credit.indexes = 2;
	message.credit.bytes = 2 * CHUNK;
	assert_no_error(migration_sender_credit(travel.ends.sender, &message));
	message.credit.indexes = 1;
	assert_error_with(migration_sender_credit(travel.ends.sender, &message), "is taken back");
	assert_no_error(migration_sender_emit(travel.ends.sender, 1, "x", 1, true));
	assert_error_with(migration_sender_emit(travel.ends.sender, 1, "x", 1, true),
			  "after its last chunk");
	end(&travel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_states_arrive_in_order),
	    cmocka_unit_test(test_smallest_pool),
	    cmocka_unit_test(test_slow_loader_fills_the_pool_and_no_more),
	    cmocka_unit_test(test_blocked_device_is_in_nobodys_way),
	    cmocka_unit_test(test_states_travel_beside_memory),
	    cmocka_unit_test(test_failing_load_ends_it),
	    cmocka_unit_test(test_too_small_a_pool_is_refused),
	    cmocka_unit_test(test_waiting_for_credit_can_be_cancelled),
	    cmocka_unit_test(test_bad_credit_is_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
