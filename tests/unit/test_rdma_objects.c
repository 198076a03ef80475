/* SPDX-License-Identifier: BSD-2-Clause */
/* What verbs make: keys, windows, completion queues, shared queues, and the states of queue pairs. */
#include "rdma_network.h"

#define WRITE_AT KIB(512)

static int set_up(void **state)
{
	*state = network_create(3);
	return 0;
}

static int tear_down(void **state)
{
	network_destroy(*state);
	return 0;
}

#define NETWORK                                                                                    \
	struct network *network = *state;                                                          \
	struct node *a = &network->nodes[0], *b = &network->nodes[1]
#define CONNECTED                                                                                  \
	NETWORK;                                                                                   \
	network_connect(network, GODWIT_RDMA_RELIABLE, 1024)

/* --- Regions ----------------------------------------------------------------------------------- */

static struct godwit_rdma_region_options region_options(struct node *node)
{
	return (struct godwit_rdma_region_options){.memory = {node_span, node_wrote, node},
						   .address = 0x1000,
						   .size = 4096,
						   .access = EVERYTHING};
}

static void keys_can_be_chosen(void **state)
{
	NETWORK;
	struct godwit_rdma_region_options options = region_options(a);
	struct godwit_rdma_region *region, *other;

	options.key = 0xabcdef12;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), 0);
	assert_int_equal(godwit_rdma_region_key(region), 0xabcdef12);
	/* The generation alone does not make another key. */
	options.key = 0xabcdef13;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &other), -EEXIST);
	assert_null(other);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), 0);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	assert_null(b->pair);
}

static void many_keys_are_all_different(void **state)
{
	NETWORK;
	struct godwit_rdma_region_options options = region_options(a);
	struct godwit_rdma_region *regions[500];

	for (int i = 0; i < 500; i++) {
		assert_int_equal(godwit_rdma_region_create(a->domain, &options, &regions[i]), 0);
		for (int j = 0; j < i; j++)
			assert_int_not_equal(godwit_rdma_region_key(regions[i]) >> 8,
					     godwit_rdma_region_key(regions[j]) >> 8);
	}
	for (int i = 0; i < 500; i++)
		assert_int_equal(godwit_rdma_region_destroy(regions[i]), 0);
	assert_non_null(b);
}

static void regions_that_make_no_sense_are_refused(void **state)
{
	NETWORK;
	struct godwit_rdma_region *region;
	struct godwit_rdma_region_options options = region_options(a);

	options.address = UINT64_MAX - 4095;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), 0);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	options.address++;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), -EINVAL);
	options = region_options(a);
	options.size = 0;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), -EINVAL);
	options = region_options(a);
	options.access = GODWIT_RDMA_REMOTE_WRITE;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), -EINVAL);
	options.access = 1U << 30;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), -EINVAL);
	options = region_options(a);
	options.key = 0x7f;
	assert_int_equal(godwit_rdma_region_create(a->domain, &options, &region), -EINVAL);
	assert_non_null(b);
}

static void what_is_in_use_stays(void **state)
{
	CONNECTED;
	struct godwit_rdma_completion completion;

	assert_int_equal(godwit_rdma_destroy(a->engine), -EBUSY);
	assert_int_equal(godwit_rdma_domain_destroy(a->domain), -EBUSY);
	assert_int_equal(godwit_rdma_completions_destroy(a->completions), -EBUSY);
	assert_int_equal(godwit_rdma_completions_poll(b->completions, &completion, 1), 0);
}

/* Writes one byte of the region that the peer has with @access, which must end with @status. */
static void try_region(struct network *network, uint32_t access, uint32_t pair_access,
		       enum godwit_rdma_operation operation, enum godwit_rdma_status status)
{
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_region_options options = region_options(b);
	struct godwit_rdma_work work = {.operation = operation, .remote_address = 0x1000};
	struct godwit_rdma_attributes attributes = {.access = pair_access};
	struct godwit_rdma_region *region;

	network_connect(network, GODWIT_RDMA_RELIABLE, 1024);
	options.access = access;
	assert_int_equal(godwit_rdma_region_create(b->domain, &options, &region), 0);
	assert_int_equal(godwit_rdma_pair_modify(b->pair, &attributes, GODWIT_RDMA_SET_ACCESS), 0);
	work.remote_key = godwit_rdma_region_key(region);
	post(a, work, 0, 8);
	network_run(network);
	expect_status(a, status);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
}

#define TRY_REGION(name, access, pair_access, operation, status)                                   \
	static void name(void **state)                                                             \
	{                                                                                          \
		try_region(*state, access, pair_access, operation, status);                        \
	}
TRY_REGION(readers_may_not_write, GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_REMOTE_READ, PEER_RIGHTS,
	   GODWIT_RDMA_WRITE, GODWIT_RDMA_REMOTE_ACCESS)
TRY_REGION(writers_may_not_read, GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_REMOTE_WRITE, PEER_RIGHTS,
	   GODWIT_RDMA_READ, GODWIT_RDMA_REMOTE_ACCESS)
TRY_REGION(writers_may_not_add,
	   GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ,
	   PEER_RIGHTS, GODWIT_RDMA_FETCH_ADD, GODWIT_RDMA_REMOTE_ACCESS)
TRY_REGION(readers_may_read, GODWIT_RDMA_REMOTE_READ, PEER_RIGHTS, GODWIT_RDMA_READ,
	   GODWIT_RDMA_SUCCESS)
TRY_REGION(rights_of_the_queue_pair_count_too, EVERYTHING, GODWIT_RDMA_REMOTE_READ,
	   GODWIT_RDMA_WRITE, GODWIT_RDMA_REMOTE_ACCESS)

static void keys_of_other_domains_are_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_region_options options = region_options(b);
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_region *region;
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_WRITE, .remote_address = 0x1000};

	assert_int_equal(godwit_rdma_domain_create(b->engine, &domain), 0);
	assert_int_equal(godwit_rdma_region_create(domain, &options, &region), 0);
	work.remote_key = godwit_rdma_region_key(region);
	post(a, work, 0, 8);
	network_run(network);
	expect_status(a, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	assert_int_equal(godwit_rdma_domain_destroy(domain), 0);
}

/* --- Windows ----------------------------------------------------------------------------------- */

static struct godwit_rdma_work bind_work(const struct node *node, struct godwit_rdma_window *window)
{
	return (struct godwit_rdma_work){.operation = GODWIT_RDMA_BIND,
					 .flags = GODWIT_RDMA_SIGNALED,
					 .window = godwit_rdma_window_key(window),
					 .region = godwit_rdma_region_key(node->region),
					 .bind_address = MEMORY_ADDRESS + WRITE_AT,
					 .bind_size = 4096,
					 .bind_access = GODWIT_RDMA_REMOTE_WRITE,
					 .bind_key = godwit_rdma_window_key(window) + 1};
}

static struct godwit_rdma_window *bound_window(struct network *network, unsigned int type)
{
	struct node *b = &network->nodes[1];
	struct godwit_rdma_window *window;
	struct godwit_rdma_work work;

	assert_int_equal(godwit_rdma_window_create(b->domain, type, 0x10000, &window), 0);
	work = bind_work(b, window);
	assert_int_equal(godwit_rdma_pair_send(b->pair, &work), 0);
	network_run(network);
	expect_status(b, GODWIT_RDMA_SUCCESS);
	return window;
}

static void try_window(struct network *network, uint64_t offset, uint32_t key,
		       enum godwit_rdma_status status)
{
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_WRITE,
					.remote_address = MEMORY_ADDRESS + WRITE_AT + offset,
					.remote_key = key};

	post(&network->nodes[0], work, 0, 8);
	network_run(network);
	expect_status(&network->nodes[0], status);
}

static void window_opens_a_part(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);

	assert_int_equal(godwit_rdma_window_key(window), 0x10001);
	try_window(network, 4088, 0x10001, GODWIT_RDMA_SUCCESS);
	try_window(network, 4089, 0x10001, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
	assert_non_null(b);
}

static void old_key_of_a_window_is_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 1);

	try_window(network, 0, 0x10000, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
	assert_non_null(b);
}

static void region_with_a_window_stays(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);

	assert_int_equal(godwit_rdma_region_destroy(b->region), -EBUSY);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_int_equal(godwit_rdma_region_destroy(b->region), 0);
	b->region = NULL;
	assert_non_null(a);
}

static void window_goes_with_its_queue_pair(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);

	assert_int_equal(godwit_rdma_pair_destroy(b->pair), 0);
	b->pair = NULL;
	assert_int_equal(godwit_rdma_region_destroy(b->region), 0);
	b->region = NULL;
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
}

static void peer_invalidates_a_window_with_its_send(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.flags = GODWIT_RDMA_WITH_INVALIDATE,
					.invalidate = 0x10001};
	struct godwit_rdma_completion completion;

	post_receive(b, 1, 0, 100);
	post(a, work, 0, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	completion = only_completion(b);
	assert_int_equal(completion.flags, GODWIT_RDMA_WITH_INVALIDATE);
	assert_int_equal(completion.invalidated, 0x10001);
	try_window(network, 0, 0x10001, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
}

static void peer_cannot_invalidate_a_region(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.flags = GODWIT_RDMA_WITH_INVALIDATE,
					.invalidate = godwit_rdma_region_key(b->region)};

	post_receive(b, 1, 0, 100);
	post(a, work, 0, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_REMOTE_ACCESS);
}

static void own_invalidation_ends_a_window(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_INVALIDATE,
					.flags = GODWIT_RDMA_SIGNALED,
					.invalidate = 0x10001};

	assert_int_equal(godwit_rdma_pair_send(b->pair, &work), 0);
	network_run(network);
	expect_status(b, GODWIT_RDMA_SUCCESS);
	try_window(network, 0, 0x10001, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
}

static void refuse_binding(struct network *network, struct godwit_rdma_work work)
{
	struct node *b = &network->nodes[1];

	assert_int_equal(godwit_rdma_pair_send(b->pair, &work), 0);
	network_run(network);
	expect_status(b, GODWIT_RDMA_BIND_REFUSED);
}

static void bindings_past_a_region_are_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window;
	struct godwit_rdma_work work;

	assert_int_equal(godwit_rdma_window_create(b->domain, 2, 0, &window), 0);
	work = bind_work(b, window);
	work.bind_size = MEMORY_SIZE - WRITE_AT + 1;
	refuse_binding(network, work);
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
}

static void second_binding_of_type_2_is_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_window *window = bound_window(network, 2);

	refuse_binding(network, bind_work(b, window));
	assert_int_equal(godwit_rdma_window_destroy(window), 0);
	assert_non_null(a);
}

/* --- Completion queues ------------------------------------------------------------------------- */

static void completion_is_notified_once(void **state)
{
	CONNECTED;

	assert_false(godwit_rdma_completions_arm(a->completions, false));
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8);
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8);
	network_run(network);
	assert_int_equal(a->count, 2);
	assert_int_equal(a->notified, 1);
}

static void solicited_sends_notify(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};

	godwit_rdma_completions_arm(b->completions, true);
	post_receive(b, 0, 0, 8);
	post_receive(b, 0, 0, 8);
	post(a, work, 0, 8);
	network_run(network);
	assert_int_equal(b->notified, 0);
	work.flags = GODWIT_RDMA_SOLICITED;
	post(a, work, 0, 8);
	network_run(network);
	assert_int_equal(b->notified, 1);
}

static void errors_notify_as_if_solicited(void **state)
{
	CONNECTED;
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

	godwit_rdma_completions_arm(a->completions, true);
	work.remote_key = 0;
	post(a, work, 0, 8);
	network_run(network);
	assert_int_equal(a->notified, 1);
}

static void overrun_fails_the_queue_pair(void **state)
{
	NETWORK;
	const struct godwit_rdma_completions_options small = {.capacity = 2};
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_completion list[4];
	struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_pair *pair;

	network_connect(network, GODWIT_RDMA_RELIABLE, 1024);
	assert_int_equal(godwit_rdma_completions_create(a->engine, &small, &completions), 0);
	options.send = completions;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &pair), 0);
	assert_int_equal(godwit_rdma_pair_destroy(a->pair), 0);
	a->pair = pair;
	bring_up(a, pair, b, godwit_rdma_pair_number(b->pair), GODWIT_RDMA_RELIABLE,
		 default_attributes(1024));
	/* Nobody answers this one: it is flushed. */
	for (int i = 0; i < 3; i++)
		post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8);
	network->loss = 1000;
	network_run(network);
	assert_int_equal(a->events[GODWIT_RDMA_EVENT_COMPLETIONS_OVERRUN], 1);
	assert_int_equal(godwit_rdma_pair_state(pair), GODWIT_RDMA_ERROR);
	assert_int_equal(godwit_rdma_completions_poll(completions, list, 4), 2);
	assert_int_equal(godwit_rdma_pair_destroy(pair), 0);
	a->pair = NULL;
	assert_int_equal(godwit_rdma_completions_destroy(completions), 0);
}

static void completion_queue_is_a_ring(void **state)
{
	CONNECTED;

	for (uint64_t i = 0; i < 5000; i++) {
		struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);

		work.id = i;
		post(a, work, 0, 1);
		network_run(network);
		assert_int_equal(only_completion(a).id, i);
	}
}

/* --- Shared receive queues --------------------------------------------------------------------- */

static void shared_queue_serves_several_pairs(void **state)
{
	NETWORK;
	const struct godwit_rdma_shared_options shared_options = {.capacity = 8, .segments = 1};
	struct godwit_rdma_pair_options options = pair_options(b, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_pair *pairs[2], *other;
	struct godwit_rdma_shared *shared;
	struct godwit_rdma_segment segment;

	assert_int_equal(godwit_rdma_shared_create(b->domain, &shared_options, &shared), 0);
	options.shared = shared;
	for (int i = 0; i < 2; i++)
		assert_int_equal(godwit_rdma_pair_create(b->domain, &options, &pairs[i]), 0);
	options = pair_options(a, GODWIT_RDMA_RELIABLE);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &other), 0);
	bring_up(a, a->pair, b, godwit_rdma_pair_number(pairs[0]), GODWIT_RDMA_RELIABLE,
		 default_attributes(256));
	bring_up(a, other, b, godwit_rdma_pair_number(pairs[1]), GODWIT_RDMA_RELIABLE,
		 default_attributes(256));
	bring_up(b, pairs[0], a, godwit_rdma_pair_number(a->pair), GODWIT_RDMA_RELIABLE,
		 default_attributes(256));
	bring_up(b, pairs[1], a, godwit_rdma_pair_number(other), GODWIT_RDMA_RELIABLE,
		 default_attributes(256));
	for (uint64_t i = 0; i < 8; i++) {
		segment = segment_of(b, i * 100, 100);
		assert_int_equal(godwit_rdma_shared_receive(
				     shared, &(struct godwit_rdma_receive_work){i, &segment, 1}),
				 0);
	}
	assert_int_equal(
	    godwit_rdma_shared_receive(shared, &(struct godwit_rdma_receive_work){9, &segment, 1}),
	    -ENOSPC);
	godwit_rdma_shared_set_limit(shared, 7);
	post(a, (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND}, 0, 50);
	network_run(network);
	assert_int_equal(b->events[GODWIT_RDMA_EVENT_SHARED_LIMIT], 0);
	segment = segment_of(a, 1000, 60);
	assert_int_equal(
	    godwit_rdma_pair_send(other, &(struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND,
								    .segments = &segment,
								    .segment_count = 1}),
	    0);
	network_run(network);
	assert_int_equal(b->events[GODWIT_RDMA_EVENT_SHARED_LIMIT], 1);
	assert_int_equal(b->count, 2);
	assert_int_equal(b->list[0].pair, godwit_rdma_pair_number(pairs[0]));
	assert_int_equal(b->list[1].pair, godwit_rdma_pair_number(pairs[1]));
	assert_memory_equal(b->memory, a->memory, 50);
	assert_memory_equal(b->memory + 100, a->memory + 1000, 60);
	assert_int_equal(godwit_rdma_shared_destroy(shared), -EBUSY);
	for (int i = 0; i < 2; i++)
		assert_int_equal(godwit_rdma_pair_destroy(pairs[i]), 0);
	assert_int_equal(godwit_rdma_pair_destroy(other), 0);
	assert_int_equal(godwit_rdma_shared_destroy(shared), 0);
}

/* --- Queue pairs ------------------------------------------------------------------------------- */

static void numbers_can_be_chosen(void **state)
{
	NETWORK;
	struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_DATAGRAM);
	struct godwit_rdma_pair *one, *two;

	options.number = 1;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &one), 0);
	assert_int_equal(godwit_rdma_pair_number(one), 1);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &two), -EEXIST);
	options.number = 0xffffff;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &two), -EINVAL);
	options.number = 0;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &two), 0);
	assert_true(godwit_rdma_pair_number(two) >= 16);
	assert_int_equal(godwit_rdma_pair_destroy(one), 0);
	assert_int_equal(godwit_rdma_pair_destroy(two), 0);
	assert_non_null(b);
}

static void pairs_that_make_no_sense_are_refused(void **state)
{
	NETWORK;
	struct godwit_rdma_pair_options options;
	struct godwit_rdma_pair *pair;

	options = pair_options(a, GODWIT_RDMA_RELIABLE);
	options.send_capacity = 3;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &pair), -EINVAL);
	options = pair_options(a, GODWIT_RDMA_RELIABLE);
	options.send = b->completions;
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &pair), -EINVAL);
	options = pair_options(a, (enum godwit_rdma_service)9);
	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &pair), -EINVAL);
	assert_null(pair);
}

static void states_follow_their_order(void **state)
{
	static const enum godwit_rdma_service services[] = {
	    GODWIT_RDMA_RELIABLE, GODWIT_RDMA_UNRELIABLE, GODWIT_RDMA_DATAGRAM};
	NETWORK;

	for (size_t i = 0; i < ARRAY_SIZE(services); i++) {
		struct godwit_rdma_pair_options options = pair_options(a, services[i]);
		struct godwit_rdma_attributes attributes = default_attributes(1024);
		struct godwit_rdma_pair *pair;

		assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &pair), 0);
		assert_int_equal(godwit_rdma_pair_state(pair), GODWIT_RDMA_RESET);
		for (attributes.state = GODWIT_RDMA_RTR; attributes.state < GODWIT_RDMA_ERROR;
		     attributes.state++)
			assert_int_equal(
			    godwit_rdma_pair_modify(pair, &attributes, GODWIT_RDMA_SET_STATE),
			    -EINVAL);
		attributes.state = GODWIT_RDMA_INIT;
		assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_INIT(services[i])),
				 0);
		attributes.state = GODWIT_RDMA_RTS;
		assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_RTS(services[i])),
				 -EINVAL);
		/* Each attribute that is needed, left out. */
		attributes.state = GODWIT_RDMA_RTR;
		for (uint32_t bit = 2; bit <= GODWIT_RDMA_SET_QUEUE_KEY; bit <<= 1) {
			if (SET_RTR(services[i]) & bit)
				assert_int_equal(
				    godwit_rdma_pair_modify(pair, &attributes,
							    SET_RTR(services[i]) & ~bit),
				    -EINVAL);
		}
		assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_RTR(services[i])),
				 0);
		attributes.state = GODWIT_RDMA_RTS;
		assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, SET_RTS(services[i])),
				 0);
		assert_int_equal(godwit_rdma_pair_state(pair), GODWIT_RDMA_RTS);
		attributes.state = GODWIT_RDMA_RESET;
		assert_int_equal(godwit_rdma_pair_modify(pair, &attributes, GODWIT_RDMA_SET_STATE),
				 0);
		assert_int_equal(godwit_rdma_pair_state(pair), GODWIT_RDMA_RESET);
		assert_int_equal(godwit_rdma_pair_destroy(pair), 0);
	}
	assert_non_null(b);
}

static void attributes_out_of_range_are_refused(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.not_ready_timer = 32};

	assert_int_equal(
	    godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_NOT_READY_TIMER),
	    -EINVAL);
	attributes.access = GODWIT_RDMA_LOCAL_WRITE;
	assert_int_equal(godwit_rdma_pair_modify(a->pair, &attributes, GODWIT_RDMA_SET_ACCESS),
			 -EINVAL);
	attributes.mtu = 1024;
	assert_int_equal(godwit_rdma_pair_modify(b->pair, &attributes, GODWIT_RDMA_SET_MTU),
			 -EINVAL);
}

static void pair_that_was_reset_works_again(void **state)
{
	CONNECTED;
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_RESET};

	network->loss = 1000;
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 50000);
	for (int i = 0; i < 3; i++)
		network_step(network);
	network->loss = 0;
	for (int i = 0; i < 2; i++) {
		struct node *node = &network->nodes[i];

		assert_int_equal(
		    godwit_rdma_pair_modify(node->pair, &attributes, GODWIT_RDMA_SET_STATE), 0);
	}
	bring_up(a, a->pair, b, 0x123456, GODWIT_RDMA_RELIABLE, default_attributes(256));
	bring_up(b, b->pair, a, godwit_rdma_pair_number(a->pair), GODWIT_RDMA_RELIABLE,
		 default_attributes(256));
	post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 5000);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(a->memory, b->memory, 5000);
}

static void queues_that_are_full_say_so(void **state)
{
	CONNECTED;

	a->room = 0;
	for (int i = 0; i < 256; i++)
		post(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8);
	assert_int_equal(post_at(a, remote_work(GODWIT_RDMA_WRITE, b, 0), 0, 8), -ENOSPC);
	a->room = UINT32_MAX;
	network_run(network);
	assert_int_equal(a->count, 256);
}

static void work_is_refused_where_it_cannot_be(void **state)
{
	NETWORK;
	struct godwit_rdma_segment segments[5] = {0};
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};
	struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_RELIABLE);

	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), -EINVAL);
	assert_int_equal(
	    godwit_rdma_pair_receive(a->pair, &(struct godwit_rdma_receive_work){0, NULL, 0}),
	    -EINVAL);
	assert_int_equal(godwit_rdma_pair_destroy(a->pair), 0);
	network_connect(network, GODWIT_RDMA_RELIABLE, 1024);
	work.segments = segments;
	work.segment_count = 5;
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), -EINVAL);
	work.segment_count = 0;
	work.operation = GODWIT_RDMA_RECEIVE;
	assert_int_equal(godwit_rdma_pair_send(a->pair, &work), -EINVAL);
	assert_non_null(b);
}

static void many_pairs_take_turns(void **state)
{
	NETWORK;
	struct godwit_rdma_pair *ours[40], *theirs[40];
	struct godwit_rdma_segment segment = segment_of(a, 0, 60000);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, b, 0);
	uint32_t last[40] = {0};

	work.flags = GODWIT_RDMA_SIGNALED;
	work.segments = &segment;
	work.segment_count = 1;
	for (uint32_t i = 0; i < 40; i++) {
		struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_RELIABLE);

		assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &ours[i]), 0);
		options = pair_options(b, GODWIT_RDMA_RELIABLE);
		assert_int_equal(godwit_rdma_pair_create(b->domain, &options, &theirs[i]), 0);
		bring_up(a, ours[i], b, godwit_rdma_pair_number(theirs[i]), GODWIT_RDMA_RELIABLE,
			 default_attributes(1024));
		bring_up(b, theirs[i], a, godwit_rdma_pair_number(ours[i]), GODWIT_RDMA_RELIABLE,
			 default_attributes(1024));
		for (work.id = 0; work.id < 3; work.id++)
			assert_int_equal(godwit_rdma_pair_send(ours[i], &work), 0);
	}
	network_run(network);
	assert_int_equal(a->count, 120);
	/* Nobody's third work is complete before everybody's first. */
	for (uint32_t i = 0; i < a->count; i++) {
		if (a->list[i].id == 0)
			last[0] = i;
		else if (a->list[i].id == 2 && !last[2])
			last[2] = i;
	}
	assert_true(last[0] < last[2]);
	for (uint32_t i = 0; i < 40; i++) {
		assert_int_equal(godwit_rdma_pair_destroy(ours[i]), 0);
		assert_int_equal(godwit_rdma_pair_destroy(theirs[i]), 0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(keys_can_be_chosen),
	    TEST(many_keys_are_all_different),
	    TEST(regions_that_make_no_sense_are_refused),
	    TEST(what_is_in_use_stays),
	    TEST(readers_may_not_write),
	    TEST(writers_may_not_read),
	    TEST(writers_may_not_add),
	    TEST(readers_may_read),
	    TEST(rights_of_the_queue_pair_count_too),
	    TEST(keys_of_other_domains_are_refused),
	    TEST(window_opens_a_part),
	    TEST(old_key_of_a_window_is_refused),
	    TEST(region_with_a_window_stays),
	    TEST(window_goes_with_its_queue_pair),
	    TEST(peer_invalidates_a_window_with_its_send),
	    TEST(peer_cannot_invalidate_a_region),
	    TEST(own_invalidation_ends_a_window),
	    TEST(bindings_past_a_region_are_refused),
	    TEST(second_binding_of_type_2_is_refused),
	    TEST(completion_is_notified_once),
	    TEST(solicited_sends_notify),
	    TEST(errors_notify_as_if_solicited),
	    TEST(overrun_fails_the_queue_pair),
	    TEST(completion_queue_is_a_ring),
	    TEST(shared_queue_serves_several_pairs),
	    TEST(numbers_can_be_chosen),
	    TEST(pairs_that_make_no_sense_are_refused),
	    TEST(states_follow_their_order),
	    TEST(attributes_out_of_range_are_refused),
	    TEST(pair_that_was_reset_works_again),
	    TEST(queues_that_are_full_say_so),
	    TEST(work_is_refused_where_it_cannot_be),
	    TEST(many_pairs_take_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
