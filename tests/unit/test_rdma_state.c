/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An engine that goes on in another one: nothing is lost, done twice or told wrongly, wherever it was when
 * its state was saved; and states that are wrong are refused.
 */
#include "rdma_network.h"

#define WRITE_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(1);
	return 0;
}

static int tear_down(void **state)
{
	network_destroy(*state);
	return 0;
}

static void connected_as(void **state, enum godwit_rdma_service service, struct network **network,
			 struct node **a, struct node **b)
{
	*network = *state;
	*a = &(*network)->nodes[0];
	*b = &(*network)->nodes[1];
	network_connect(*network, service, 1024);
}

#define CONNECTED_AS(service)                                                                      \
	struct network *network;                                                                   \
	struct node *a, *b;                                                                        \
	connected_as(state, service, &network, &a, &b)
#define CONNECTED CONNECTED_AS(GODWIT_RDMA_RELIABLE)

/* --- Moving ------------------------------------------------------------------------------------ */

/* What objects of @node are made with: all but what the state is to bring. */
struct plan {
	enum godwit_rdma_service service;
	uint32_t key, pair, completions;
};

static struct plan plan_of(const struct node *node, enum godwit_rdma_service service)
{
	return (struct plan){.service = service,
			     .key = godwit_rdma_region_key(node->region),
			     .pair = godwit_rdma_pair_number(node->pair),
			     .completions = 1};
}

/* The objects of @node anew, in @copy, with the same memory. */
static void make_again(const struct node *node, const struct plan *plan, struct node *copy)
{
	struct godwit_rdma_options options = {
	    .port = {.reserve = node_reserve, .commit = node_commit},
	    .event = node_event,
	    .is_own = node_is_own};
	struct godwit_rdma_completions_options completions = {
	    .capacity = 2048, .notify = node_notify, .number = plan->completions};
	struct godwit_rdma_region_options region = {.memory = {node_span, node_wrote, NULL},
						    .address = MEMORY_ADDRESS,
						    .size = MEMORY_SIZE,
						    .access = EVERYTHING,
						    .key = plan->key};
	struct godwit_rdma_pair_options pair;

	/* Those that call back belong to the node, wherever its engine is. */
	options.port.context = options.context = completions.context = region.memory.context =
	    (void *)(uintptr_t)node;
	*copy = *node;
	assert_int_equal(godwit_rdma_create(&options, &copy->engine), 0);
	assert_int_equal(godwit_rdma_domain_create(copy->engine, &copy->domain), 0);
	assert_int_equal(
	    godwit_rdma_completions_create(copy->engine, &completions, &copy->completions), 0);
	assert_int_equal(godwit_rdma_region_create(copy->domain, &region, &copy->region), 0);
	pair = pair_options(copy, plan->service);
	pair.number = plan->pair;
	assert_int_equal(godwit_rdma_pair_create(copy->domain, &pair, &copy->pair), 0);
}

static void destroy_engine(struct node *node)
{
	assert_int_equal(godwit_rdma_pair_destroy(node->pair), 0);
	assert_int_equal(godwit_rdma_region_destroy(node->region), 0);
	assert_int_equal(godwit_rdma_completions_destroy(node->completions), 0);
	assert_int_equal(godwit_rdma_domain_destroy(node->domain), 0);
	assert_int_equal(godwit_rdma_destroy(node->engine), 0);
}

static void *saved(struct node *node, size_t *size)
{
	void *bytes;

	assert_int_equal(godwit_rdma_save(node->engine, &bytes, size), 0);
	return bytes;
}

/* @node goes on in another engine. What was under way to it is lost. */
static void move_as(struct network *network, struct node *node, enum godwit_rdma_service service)
{
	struct plan plan = plan_of(node, service);
	char reason[GODWIT_RDMA_REASON_MAX] = "";
	struct node copy;
	size_t size;
	void *bytes = saved(node, &size);

	make_again(node, &plan, &copy);
	if (godwit_rdma_load(copy.engine, bytes, size, reason))
		fail_msg("%s", reason);
	destroy_engine(node);
	node->engine = copy.engine;
	node->domain = copy.domain;
	node->completions = copy.completions;
	node->region = copy.region;
	node->pair = copy.pair;
	free(bytes);
	for (struct flight **at = &network->flights; *at;) {
		struct flight *flight = *at;

		if (flight->ends.destination[15] != node->address[15]) {
			at = &flight->next;
			continue;
		}
		*at = flight->next;
		free(flight);
	}
}

static void move(struct network *network, struct node *node)
{
	move_as(network, node, GODWIT_RDMA_RELIABLE);
}

static void steps(struct network *network, uint32_t count)
{
	while (count-- && network_step(network))
		;
}

/* --- Requesters and responders ----------------------------------------------------------------- */

/* Each of the two moves after each number of steps: messages are at every point of their way. */
static void expect_anywhere(void **state, enum godwit_rdma_operation operation, uint32_t size)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(operation, b, WRITE_AT);

	for (uint32_t round = 0; round < 60; round++) {
		uint64_t offset = round * 64;

		work.remote_address = MEMORY_ADDRESS + WRITE_AT + offset;
		if (operation == GODWIT_RDMA_SEND)
			post_receive(b, round, WRITE_AT + offset, size);
		else if (operation == GODWIT_RDMA_READ)
			fill_memory(network, a);
		for (uint32_t i = 0; i < 3; i++) {
			if (i && operation == GODWIT_RDMA_SEND)
				post_receive(b, round, WRITE_AT + offset, size);
			work.id = i;
			post(a, work, offset, size);
		}
		steps(network, round);
		move(network, round % 2 ? a : b);
		network_run(network);
		assert_int_equal(a->count, 3);
		for (uint32_t i = 0; i < 3; i++) {
			assert_int_equal(a->list[i].id, i);
			assert_int_equal(a->list[i].status, GODWIT_RDMA_SUCCESS);
		}
		assert_int_equal(b->count, operation == GODWIT_RDMA_SEND ? 3 : 0);
		a->count = b->count = 0;
		assert_memory_equal(a->memory + offset, b->memory + WRITE_AT + offset, size);
	}
}

static void writes_go_on(void **state)
{
	expect_anywhere(state, GODWIT_RDMA_WRITE, 20000);
}

static void reads_go_on(void **state)
{
	expect_anywhere(state, GODWIT_RDMA_READ, 20000);
}

static void sends_go_on(void **state)
{
	expect_anywhere(state, GODWIT_RDMA_SEND, 5000);
}

static void atomics_happen_once(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_FETCH_ADD, b, WRITE_AT);
	uint64_t expected = 0;

	put_le64(b->memory + WRITE_AT, 0);
	work.swap = 1;
	for (uint32_t round = 0; round < 40; round++) {
		for (uint32_t i = 0; i < 4; i++)
			post(a, work, i * 8, 8);
		steps(network, round / 2);
		move(network, round % 2 ? a : b);
		network_run(network);
		assert_int_equal(a->count, 4);
		a->count = 0;
		for (uint32_t i = 0; i < 4; i++)
			assert_int_equal(get_le64(a->memory + i * 8), expected++);
	}
	assert_int_equal(get_le64(b->memory + WRITE_AT), expected);
}

/* One loses packets of its own besides. */
static void both_move_over_a_bad_network(void **state)
{
	CONNECTED;
	struct godwit_rdma_work write = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT),
				read = remote_work(GODWIT_RDMA_READ, b, WRITE_AT);

	network->loss = 20;
	network->duplication = network->delay = 50;
	for (uint32_t round = 0; round < 40; round++) {
		post(a, write, round * 100, 30000);
		post(a, read, KIB(256), 30000);
		for (uint32_t i = 0; i < 4; i++) {
			steps(network, network_random(network) % 60);
			move(network, i % 2 ? a : b);
		}
		network_run(network);
		assert_int_equal(a->count, 2);
		assert_int_equal(a->list[0].status, GODWIT_RDMA_SUCCESS);
		assert_int_equal(a->list[1].status, GODWIT_RDMA_SUCCESS);
		a->count = 0;
		assert_memory_equal(b->memory + WRITE_AT, a->memory + round * 100, 30000);
		assert_memory_equal(a->memory + KIB(256), a->memory + round * 100, 30000);
	}
}

/* What the peer sent in vain is asked for: it need not wait for its time-out. */
static void peer_is_asked_for_what_was_lost(void **state)
{
	CONNECTED;
	int64_t began;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 100);
	network_run(network);
	a->count = 0;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 3000);
	godwit_rdma_poll(a->engine, network->now);
	move(network, b);
	began = network->now;
	while (!a->count)
		assert_true(network_step(network));
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_in_range(network->now - began, 1, 1000000);
}

static void peer_that_waits_for_nothing_is_not_disturbed(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 100);
	network_run(network);
	move(network, b);
	move(network, a);
	network_run(network);
	assert_int_equal(a->count, 1);
	assert_int_equal(godwit_rdma_pair_state(a->pair), GODWIT_RDMA_RTS);
	assert_int_equal(godwit_rdma_pair_state(b->pair), GODWIT_RDMA_RTS);
}

static void numbers_and_keys_stay(void **state)
{
	CONNECTED;
	uint32_t number = godwit_rdma_pair_number(a->pair), key = godwit_rdma_region_key(a->region);
	struct godwit_rdma_region_options options = {
	    .memory = {node_span, node_wrote, a}, .address = 0, .size = 8, .access = EVERYTHING};
	struct godwit_rdma_region *before, *after;
	uint32_t given;

	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &before), 0);
	given = godwit_rdma_region_key(before);
	godwit_rdma_region_destroy(before);
	move(network, a);
	assert_int_equal(godwit_rdma_pair_number(a->pair), number);
	assert_int_equal(godwit_rdma_region_key(a->region), key);
	/* And a key that was given before is not given to another at once. */
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &after), 0);
	assert_int_not_equal(godwit_rdma_region_key(after) >> 8, given >> 8);
	godwit_rdma_region_destroy(after);
}

/* --- Other services, states and queues --------------------------------------------------------- */

static void unreliable_messages_go_on(void **state)
{
	CONNECTED_AS(GODWIT_RDMA_UNRELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT);

	for (uint32_t i = 0; i < 20; i++) {
		post(a, work, i, 60000);
		steps(network, i);
		move_as(network, a, GODWIT_RDMA_UNRELIABLE);
		network_run(network);
		expect_status(a, GODWIT_RDMA_SUCCESS);
		assert_memory_equal(b->memory + WRITE_AT, a->memory + i, 60000);
	}
}

static void datagrams_go_on(void **state)
{
	CONNECTED_AS(GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_work work = {
	    .operation = GODWIT_RDMA_SEND, .destination_pair = 0x123456, .queue_key = 0x1234};

	memcpy(work.destination, b->address, 16);
	post_receive(b, 7, WRITE_AT, 2000);
	post(a, work, 0, 1000);
	move_as(network, a, GODWIT_RDMA_DATAGRAM);
	move_as(network, b, GODWIT_RDMA_DATAGRAM);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).id, 7);
	assert_memory_equal(b->memory + WRITE_AT + 40, a->memory, 1000);
}

static void work_with_bytes_and_many_segments_goes_on(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT);
	struct godwit_rdma_segment segments[4] = {segment_of(a, 0, 700), segment_of(a, 5000, 0),
						  segment_of(a, 700, 1), segment_of(a, 701, 2999)};
	const char text[] = "these bytes are the work's own";

	work.flags = GODWIT_RDMA_SIGNALED;
	work.segments = segments;
	work.segment_count = 4;
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), 0);
	work = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT + 10000);
	work.flags = GODWIT_RDMA_SIGNALED;
	work.bytes = text;
	work.byte_count = sizeof(text);
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), 0);
	move(network, a);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_memory_equal(b->memory + WRITE_AT, a->memory, 3700);
	assert_memory_equal(b->memory + WRITE_AT + 10000, text, sizeof(text));
}

static void completions_that_nobody_took_are_there(void **state)
{
	CONNECTED;
	struct godwit_rdma_completion list[8];

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 100);
	network_run(network);
	/* network_run takes them; what fails at once stays. */
	a->count = 0;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 100);
	godwit_rdma_pair_modify(a->pair,
				&(struct godwit_rdma_attributes){.state = GODWIT_RDMA_ERROR},
				GODWIT_RDMA_SET_STATE);
	godwit_rdma_completions_arm(a->completions, false);
	move(network, a);
	assert_int_equal(godwit_rdma_pair_state(a->pair), GODWIT_RDMA_ERROR);
	assert_int_equal(godwit_rdma_completions_poll(a->completions, list, 8), 1);
	assert_int_equal(list[0].status, GODWIT_RDMA_FLUSHED);
	/* It was armed. */
	post_receive(a, 1, 0, 8);
	assert_int_equal(a->notified, 1);
}

static void failed_queue_pair_stays_failed(void **state)
{
	CONNECTED;

	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 20000);
	steps(network, 10);
	godwit_rdma_pair_modify(a->pair,
				&(struct godwit_rdma_attributes){.state = GODWIT_RDMA_ERROR},
				GODWIT_RDMA_SET_STATE);
	move(network, a);
	network_run(network);
	assert_int_equal(godwit_rdma_pair_state(a->pair), GODWIT_RDMA_ERROR);
	expect_status(a, GODWIT_RDMA_FLUSHED);
}

static void drained_queue_stays_drained(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_SQD};

	godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE);
	network_run(network);
	assert_int_equal(a->events[GODWIT_RDMA_EVENT_DRAINED], 1);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 100);
	move(network, a);
	network_run(network);
	assert_int_equal(a->events[GODWIT_RDMA_EVENT_DRAINED], 1);
	assert_int_equal(a->count, 0);
	attributes.state = GODWIT_RDMA_RTS;
	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
}

/* The wait of a peer that is not ready counts anew, its limit does not. */
static void not_ready_peer_is_asked_again(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};

	post(a, work, 0, 2000);
	steps(network, 12);
	move(network, a);
	steps(network, 12);
	move(network, b);
	post_receive(b, 9, WRITE_AT, 2000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).id, 9);
}

/* Windows of both types, a region by work and a shared queue, beside what every node has. */
struct extras {
	struct godwit_rdma_window *windows[2];
	struct godwit_rdma_region *fast;
	struct godwit_rdma_shared *shared;
};

static int register_nothing(void *context, const struct godwit_rdma_work *work)
{
	return 0;
}

static void make_extras(struct node *node, struct extras *extras, const uint32_t keys[3])
{
	struct godwit_rdma_region_options fast = {
	    .memory = {node_span, node_wrote, node, register_nothing},
	    .by_work = true,
	    .key = keys[2]};
	struct godwit_rdma_shared_options shared = {.capacity = 8, .segments = 2, .number = 5};

	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(
		    godwit_rdma_window_create(node->domain, i + 1, keys[i], &extras->windows[i]),
		    0);
	assert_int_equal(godwit_rdma_region_create(node->domain, &fast, &extras->fast), 0);
	assert_int_equal(godwit_rdma_shared_create(node->domain, &shared, &extras->shared), 0);
}

static void destroy_extras(struct extras *extras)
{
	assert_int_equal(godwit_rdma_shared_destroy(extras->shared), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(godwit_rdma_window_destroy(extras->windows[i]), 0);
	assert_int_equal(godwit_rdma_region_destroy(extras->fast), 0);
}

static void bind_one(struct node *node, struct godwit_rdma_window *window, uint32_t low)
{
	uint32_t key = godwit_rdma_window_key(window);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_BIND,
					.window = key,
					.region = godwit_rdma_region_key(node->region),
					.bind_address = MEMORY_ADDRESS + WRITE_AT,
					.bind_size = 1000,
					.bind_access = GODWIT_RDMA_REMOTE_WRITE,
					.bind_key = (key & ~0xffU) | low};

	assert_int_equal(godwit_rdma_pair_send(node->pair, &work), 0);
}

static void windows_and_registrations_go_on(void **state)
{
	CONNECTED;
	uint32_t keys[3] = {0x101 << 8, 0x102 << 8, 0x103 << 8};
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_REGISTER,
					.bind_address = MEMORY_ADDRESS + WRITE_AT,
					.bind_size = 4096,
					.bind_access = EVERYTHING,
					.bind_key = keys[2] | 0x33};
	struct extras extras, again;
	struct plan plan = plan_of(b, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_receive_work receive = {77, NULL, 0};
	char reason[GODWIT_RDMA_REASON_MAX];
	struct node copy;
	size_t size;
	void *bytes;

	make_extras(b, &extras, keys);
	bind_one(b, extras.windows[0], 0x11);
	bind_one(b, extras.windows[1], 0x22);
	assert_int_equal(godwit_rdma_pair_send(b->pair, &work), 0);
	assert_int_equal(godwit_rdma_shared_receive(extras.shared, &receive), 0);
	network_run(network);
	bytes = saved(b, &size);
	make_again(b, &plan, &copy);
	make_extras(&copy, &again, keys);
	if (godwit_rdma_load(copy.engine, bytes, size, reason))
		fail_msg("%s", reason);
	free(bytes);
	destroy_extras(&extras);
	destroy_engine(b);
	b->engine = copy.engine;
	b->domain = copy.domain;
	b->completions = copy.completions;
	b->region = copy.region;
	b->pair = copy.pair;
	assert_int_equal(godwit_rdma_window_key(again.windows[0]), keys[0] | 0x11);
	assert_int_equal(godwit_rdma_region_key(again.fast), keys[2] | 0x33);
	assert_int_equal(godwit_rdma_region_destroy(b->region), -EBUSY);
	for (int i = 0; i < 2; i++) {
		work = remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT);
		work.remote_key = godwit_rdma_window_key(again.windows[i]);
		post(a, work, 100 * i, 1000);
		network_run(network);
		expect_status(a, GODWIT_RDMA_SUCCESS);
		assert_memory_equal(b->memory + WRITE_AT, a->memory + 100 * i, 1000);
	}
	/* Not outside of it. */
	post(a, work, 0, 1001);
	network_run(network);
	expect_status(a, GODWIT_RDMA_REMOTE_ACCESS);
	destroy_extras(&again);
}

/* --- Refusing ---------------------------------------------------------------------------------- */

/* A node with something of everything, and its state. */
static void *busy_state(struct network *network, struct node *a, struct node *b, size_t *size)
{
	struct godwit_rdma_work add = remote_work(GODWIT_RDMA_FETCH_ADD, b, WRITE_AT);

	post(b, remote_work(GODWIT_RDMA_READ, a, 0), WRITE_AT, 50000);
	post(b, remote_work(GODWIT_RDMA_FETCH_ADD, a, 0), 0, 8);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, WRITE_AT), 0, 20000);
	post(a, remote_work(GODWIT_RDMA_READ, b, WRITE_AT), KIB(300), 20000);
	post(a, add, 0, 8);
	post_receive(a, 3, KIB(700), 100);
	steps(network, 40);
	return saved(a, size);
}

/* What is loaded may be refused, and must not hurt: it is then polled and spoken to. */
static void try_to_load(struct node *node, const struct plan *plan, const uint8_t *bytes,
			size_t size)
{
	char reason[GODWIT_RDMA_REASON_MAX] = "";
	struct node copy;

	make_again(node, plan, &copy);
	if (godwit_rdma_load(copy.engine, bytes, size, reason))
		assert_true(strlen(reason) > 10);
	else
		for (int64_t now = 0; now < 40; now++)
			godwit_rdma_poll(copy.engine, now * 100000000);
	destroy_engine(&copy);
}

static void cut_off_states_are_refused(void **state)
{
	CONNECTED;
	struct plan plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	char reason[GODWIT_RDMA_REASON_MAX];
	struct node copy;
	size_t size;
	uint8_t *bytes = busy_state(network, a, b, &size);

	for (size_t cut = 0; cut < size; cut++) {
		make_again(a, &plan, &copy);
		assert_int_equal(godwit_rdma_load(copy.engine, bytes, cut, reason), -EINVAL);
		destroy_engine(&copy);
	}
	free(bytes);
}

static void changed_states_do_no_harm(void **state)
{
	CONNECTED;
	struct plan plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	size_t size;
	uint8_t *bytes = busy_state(network, a, b, &size);

	network->loss = 1000;
	for (size_t at = 0; at < size; at++) {
		uint8_t was = bytes[at];

		bytes[at] = was ^ (uint8_t)(1 + network_random(network) % 255);
		try_to_load(a, &plan, bytes, size);
		bytes[at] = was;
	}
	network->loss = 0;
	free(bytes);
}

static void expect_refusal(struct node *node, const struct plan *plan, const void *bytes,
			   size_t size, const char *why)
{
	char reason[GODWIT_RDMA_REASON_MAX] = "";
	struct node copy;

	make_again(node, plan, &copy);
	assert_int_equal(godwit_rdma_load(copy.engine, bytes, size, reason), -EINVAL);
	if (!strstr(reason, why))
		fail_msg("'%s' is not in '%s'", why, reason);
	destroy_engine(&copy);
}

/* The state @bytes, in which one answer is owed, with @count of it that were asked for again. */
static uint8_t *with_answers(const uint8_t *bytes, size_t size, uint32_t count, size_t *larger)
{
	/* Behind them is that no receives are posted. */
	size_t answer = 17, behind = 4, at = size - behind - answer;
	uint8_t *changed = calloc(1, size + count * answer);

	assert_non_null(changed);
	assert_int_equal(get_be32(bytes + at - 4), 1);
	memcpy(changed, bytes, at);
	put_be32(changed + at - 4, count);
	for (uint32_t i = 0; i < count; i++) {
		memcpy(changed + at + i * answer, bytes + at, answer);
		changed[at + (i + 1) * answer - 1] = 1;
	}
	*larger = at + count * answer + behind;
	return changed;
}

/* They would leave no room for the first answers. */
static void too_many_answers_are_refused(void **state)
{
	CONNECTED;
	struct plan plan = plan_of(b, GODWIT_RDMA_RELIABLE);
	char reason[GODWIT_RDMA_REASON_MAX];
	uint8_t *bytes, *changed;
	size_t size, larger;
	struct node copy;

	post(a, remote_work(GODWIT_RDMA_READ, b, WRITE_AT), 0, 3000);
	steps(network, 1);
	bytes = saved(b, &size);
	changed = with_answers(bytes, size, GODWIT_RDMA_READS_MAX, &larger);
	make_again(b, &plan, &copy);
	assert_int_equal(godwit_rdma_load(copy.engine, changed, larger, reason), 0);
	destroy_engine(&copy);
	free(changed);
	changed = with_answers(bytes, size, GODWIT_RDMA_READS_MAX + 1, &larger);
	expect_refusal(b, &plan, changed, larger, "answers");
	free(changed);
	free(bytes);
}

static void other_objects_are_refused(void **state)
{
	CONNECTED;
	struct plan plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	size_t size;
	uint8_t *bytes = busy_state(network, a, b, &size);

	plan.pair++;
	expect_refusal(a, &plan, bytes, size, "number at offset");
	plan = plan_of(a, GODWIT_RDMA_UNRELIABLE);
	expect_refusal(a, &plan, bytes, size, "service");
	plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	plan.key += 256;
	expect_refusal(a, &plan, bytes, size, "number at offset");
	plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	plan.completions++;
	expect_refusal(a, &plan, bytes, size, "number at offset");
	plan = plan_of(a, GODWIT_RDMA_RELIABLE);
	bytes[7]++;
	expect_refusal(a, &plan, bytes, size, "version");
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(writes_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(reads_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(sends_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(atomics_happen_once, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(both_move_over_a_bad_network, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(peer_is_asked_for_what_was_lost, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(peer_that_waits_for_nothing_is_not_disturbed, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(numbers_and_keys_stay, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(unreliable_messages_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(datagrams_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(work_with_bytes_and_many_segments_goes_on, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(completions_that_nobody_took_are_there, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(failed_queue_pair_stays_failed, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(drained_queue_stays_drained, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(not_ready_peer_is_asked_again, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(windows_and_registrations_go_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(cut_off_states_are_refused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(changed_states_do_no_harm, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(too_many_answers_are_refused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(other_objects_are_refused, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
