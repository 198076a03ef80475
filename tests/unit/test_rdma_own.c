/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a device needs of the engine: queues that its user keeps, bytes in a work request, regions that a
 * work request registers, datagrams to any own address.
 */
#include "rdma_network.h"

#define READ_AT	 0
#define WRITE_AT 0x10000

struct own {
	struct network *network;
	struct node *a, *b;
	/* Of the queue pair of @b. */
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_completion list[16];
	bool solicited[16];
	uint32_t count, room, sent;
	uint32_t receives; /* that are left */
};

static bool add(void *context, const struct godwit_rdma_completion *completion, bool solicited)
{
	struct own *own = context;

	if (own->count == own->room)
		return false;
	own->solicited[own->count] = solicited;
	own->list[own->count++] = *completion;
	return true;
}

static bool take(void *context, struct godwit_rdma_receive_work *work,
		 struct godwit_rdma_segment *segments)
{
	struct own *own = context;

	if (!own->receives)
		return false;
	work->id = own->receives--;
	work->segment_count = 1;
	segments[0] = segment_of(own->b, WRITE_AT, 100);
	return true;
}

static void sent(void *context)
{
	((struct own *)context)->sent++;
}

/* Two engines; the queue pair of @b has queues of the test's own. */
static struct own *own_create(enum godwit_rdma_service service)
{
	struct own *own = calloc(1, sizeof(*own));
	struct godwit_rdma_completions_options completions = {.add = add, .context = own};
	struct godwit_rdma_pair_options options;
	struct godwit_rdma_attributes attributes = default_attributes(1024);

	assert_non_null(own);
	own->network = network_create(1);
	own->a = &own->network->nodes[0];
	own->b = &own->network->nodes[1];
	own->room = ARRAY_SIZE(own->list);
	assert_int_equal(
	    godwit_rdma_completions_create(own->b->engine, &completions, &own->completions), 0);
	options = pair_options(own->a, service);
	assert_int_equal(godwit_rdma_pair_create(own->a->domain, &options, &own->a->pair), 0);
	options = pair_options(own->b, service);
	options.send = options.receive = own->completions;
	options.receives = (struct godwit_rdma_receives){take, own};
	options.sent = sent;
	options.context = own;
	assert_int_equal(godwit_rdma_pair_create(own->b->domain, &options, &own->b->pair), 0);
	bring_up(own->a, own->a->pair, own->b, godwit_rdma_pair_number(own->b->pair), service,
		 attributes);
	bring_up(own->b, own->b->pair, own->a, godwit_rdma_pair_number(own->a->pair), service,
		 attributes);
	return own;
}

static void own_destroy(struct own *own)
{
	assert_int_equal(godwit_rdma_pair_destroy(own->b->pair), 0);
	own->b->pair = NULL;
	assert_int_equal(godwit_rdma_completions_destroy(own->completions), 0);
	network_destroy(own->network);
	free(own);
}

/* --- Queues ------------------------------------------------------------------------------------ */

static void completions_go_to_their_user(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};

	own->receives = 2;
	post(own->a, work, READ_AT, 10);
	work.flags = GODWIT_RDMA_SOLICITED;
	post(own->a, work, READ_AT, 20);
	network_run(own->network);
	assert_int_equal(own->count, 2);
	assert_int_equal(own->list[0].id, 2);
	assert_int_equal(own->list[0].bytes, 10);
	assert_false(own->solicited[0]);
	assert_int_equal(own->list[1].id, 1);
	assert_true(own->solicited[1]);
	assert_memory_equal(own->a->memory + READ_AT, own->b->memory + WRITE_AT, 20);
	own_destroy(own);
}

static void user_without_room_fails_the_pair(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};

	own->receives = 2;
	own->room = 1;
	post(own->a, work, READ_AT, 10);
	post(own->a, work, READ_AT, 10);
	network_run(own->network);
	assert_int_equal(own->count, 1);
	assert_int_equal(own->b->events[GODWIT_RDMA_EVENT_COMPLETIONS_OVERRUN], 1);
	assert_int_equal(godwit_rdma_pair_state(own->b->pair), GODWIT_RDMA_ERROR);
	own_destroy(own);
}

static void receives_are_taken_when_there_are_some(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};

	post(own->a, work, READ_AT, 10);
	for (int i = 0; i < 50; i++)
		assert_true(network_step(own->network));
	assert_int_equal(own->count, 0);
	own->receives = 1;
	network_run(own->network);
	assert_int_equal(own->count, 1);
	expect_status(own->a, GODWIT_RDMA_SUCCESS);
	own_destroy(own);
}

static void receives_are_flushed_when_the_pair_fails_and_later(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_attributes attributes = {.state = GODWIT_RDMA_ERROR};

	own->receives = 3;
	godwit_rdma_pair_receives_wait(own->b->pair);
	assert_int_equal(own->count, 0);
	assert_int_equal(godwit_rdma_pair_modify(own->b->pair, &attributes, GODWIT_RDMA_SET_STATE),
			 0);
	assert_int_equal(own->count, 3);
	own->receives = 1;
	godwit_rdma_pair_receives_wait(own->b->pair);
	assert_int_equal(own->count, 4);
	assert_int_equal(own->list[3].status, GODWIT_RDMA_FLUSHED);
	assert_true(own->solicited[3]);
	own_destroy(own);
}

static void shared_receives_may_be_the_users_too(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_shared_options options = {.receives = {take, own}};
	struct godwit_rdma_pair_options pair = pair_options(own->b, GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_attributes attributes = default_attributes(1024);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND};
	struct godwit_rdma_shared *shared;

	assert_int_equal(godwit_rdma_shared_create(own->b->domain, &options, &shared), 0);
	assert_int_equal(godwit_rdma_pair_destroy(own->b->pair), 0);
	pair.shared = shared;
	pair.number = 0x777;
	assert_int_equal(godwit_rdma_pair_create(own->b->domain, &pair, &own->b->pair), 0);
	bring_up(own->b, own->b->pair, own->a, godwit_rdma_pair_number(own->a->pair),
		 GODWIT_RDMA_RELIABLE, attributes);
	assert_int_equal(godwit_rdma_pair_modify(own->a->pair, &(struct godwit_rdma_attributes){0},
						 GODWIT_RDMA_SET_STATE),
			 0);
	bring_up(own->a, own->a->pair, own->b, 0x777, GODWIT_RDMA_RELIABLE, attributes);
	own->receives = 1;
	post(own->a, work, READ_AT, 10);
	network_run(own->network);
	assert_int_equal(only_completion(own->b).id, 1);
	assert_int_equal(godwit_rdma_pair_destroy(own->b->pair), 0);
	own->b->pair = NULL;
	assert_int_equal(godwit_rdma_shared_destroy(shared), 0);
	assert_int_equal(godwit_rdma_completions_destroy(own->completions), 0);
	network_destroy(own->network);
	free(own);
}

static void each_work_request_that_is_done_is_told(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, own->a, WRITE_AT);

	assert_int_equal(post_at(own->b, work, READ_AT, 8), 0);
	assert_int_equal(own->sent, 0);
	post(own->b, work, READ_AT, 8);
	network_run(own->network);
	assert_int_equal(own->sent, 2);
	assert_int_equal(own->count, 1);
	own_destroy(own);
}

/* --- Bytes in a work request ------------------------------------------------------------------- */

static void bytes_are_those_of_the_time_of_posting(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, own->b, WRITE_AT);
	char text[] = "as it was";

	work.bytes = text;
	work.byte_count = sizeof(text);
	work.flags = GODWIT_RDMA_SIGNALED;
	assert_int_equal(godwit_rdma_pair_send(own->a->pair, &work), 0);
	memset(text, 0, sizeof(text));
	network_run(own->network);
	expect_status(own->a, GODWIT_RDMA_SUCCESS);
	assert_string_equal((char *)own->b->memory + WRITE_AT, "as it was");
	own_destroy(own);
}

static void bytes_have_room_for_the_segments_of_the_queue(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_WRITE, own->b, WRITE_AT);
	uint8_t bytes[65] = {1};

	work.bytes = bytes;
	work.byte_count = 65;
	assert_int_equal(godwit_rdma_pair_send(own->a->pair, &work), -EINVAL);
	work.byte_count = 64;
	assert_int_equal(godwit_rdma_pair_send(own->a->pair, &work), 0);
	network_run(own->network);
	own_destroy(own);
}

static void bytes_cannot_be_read_into(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_work work = remote_work(GODWIT_RDMA_READ, own->b, WRITE_AT);
	uint8_t bytes[8] = {0};

	work.bytes = bytes;
	work.byte_count = sizeof(bytes);
	assert_int_equal(godwit_rdma_pair_send(own->a->pair, &work), 0);
	network_run(own->network);
	expect_status(own->a, GODWIT_RDMA_LOCAL_OPERATION);
	own_destroy(own);
}

/* --- Registration ------------------------------------------------------------------------------ */

#define BY_WORK_KEY 0x40000U

static int registered(void *context, const struct godwit_rdma_work *work)
{
	return work->register_data[0] == 1 && work->register_data[1] == 2 ? 0 : -EINVAL;
}

static struct godwit_rdma_region *by_work(struct own *own)
{
	struct godwit_rdma_region_options options = {
	    .memory = {node_span, node_wrote, own->b, registered},
	    .by_work = true,
	    .key = BY_WORK_KEY};
	struct godwit_rdma_region *region;

	assert_int_equal(godwit_rdma_region_create(own->b->domain, &options, &region), 0);
	return region;
}

static struct godwit_rdma_work registration(uint32_t key)
{
	return (struct godwit_rdma_work){.operation = GODWIT_RDMA_REGISTER,
					 .flags = GODWIT_RDMA_SIGNALED,
					 .bind_key = key,
					 .bind_address = 0x5000,
					 .bind_size = 100,
					 .bind_access = EVERYTHING,
					 .register_data = {1, 2}};
}

/* What becomes of @work of @b, which fails the pair if it is not GODWIT_RDMA_SUCCESS. */
static void expect_work(struct own *own, struct godwit_rdma_work work,
			enum godwit_rdma_status status)
{
	own->count = 0;
	assert_int_equal(godwit_rdma_pair_send(own->b->pair, &work), 0);
	network_run(own->network);
	assert_int_equal(own->count, 1);
	assert_int_equal(own->list[0].status, status);
	own->count = 0;
}

/* A write of @a to the region of @b. */
static void expect_write(struct own *own, uint64_t address, uint32_t key,
			 enum godwit_rdma_status status)
{
	struct godwit_rdma_work work = {
	    .operation = GODWIT_RDMA_WRITE, .remote_address = address, .remote_key = key};

	post(own->a, work, READ_AT, 8);
	network_run(own->network);
	expect_status(own->a, status);
}

static void region_by_work_has_nothing_at_first(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);

	expect_write(own, 0, BY_WORK_KEY, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

static void registration_gives_a_region_its_bytes(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);

	expect_work(own, registration(BY_WORK_KEY + 3), GODWIT_RDMA_SUCCESS);
	assert_int_equal(godwit_rdma_region_key(region), BY_WORK_KEY + 3);
	expect_write(own, 0x5000 + 92, BY_WORK_KEY + 3, GODWIT_RDMA_SUCCESS);
	assert_memory_equal(own->b->memory + 92, own->a->memory + READ_AT, 8);
	expect_write(own, 0x5000 + 93, BY_WORK_KEY + 3, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

static void region_is_registered_again_only_after_invalidation(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);
	struct godwit_rdma_work invalidation = {.operation = GODWIT_RDMA_INVALIDATE,
						.flags = GODWIT_RDMA_SIGNALED,
						.invalidate = BY_WORK_KEY};

	expect_work(own, registration(BY_WORK_KEY), GODWIT_RDMA_SUCCESS);
	expect_work(own, invalidation, GODWIT_RDMA_SUCCESS);
	expect_work(own, registration(BY_WORK_KEY + 1), GODWIT_RDMA_SUCCESS);
	expect_work(own, registration(BY_WORK_KEY + 2), GODWIT_RDMA_LOCAL_OPERATION);
	assert_int_equal(godwit_rdma_region_key(region), BY_WORK_KEY + 1);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

static void registration_that_the_user_refuses_fails(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);
	struct godwit_rdma_work work = registration(BY_WORK_KEY);

	work.register_data[1] = 3;
	expect_work(own, work, GODWIT_RDMA_LOCAL_OPERATION);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

static void other_regions_cannot_be_registered(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);

	expect_work(own, registration(godwit_rdma_region_key(own->b->region)),
		    GODWIT_RDMA_LOCAL_OPERATION);
	own_destroy(own);
}

static void peer_invalidates_a_region_by_work(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.flags = GODWIT_RDMA_WITH_INVALIDATE,
					.invalidate = BY_WORK_KEY};

	expect_work(own, registration(BY_WORK_KEY), GODWIT_RDMA_SUCCESS);
	own->receives = 1;
	post(own->a, work, READ_AT, 8);
	network_run(own->network);
	expect_status(own->a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(own->list[0].invalidated, BY_WORK_KEY);
	expect_write(own, 0x5000, BY_WORK_KEY, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

static void peer_cannot_invalidate_what_is_not_for_it(void **state)
{
	struct own *own = own_create(GODWIT_RDMA_RELIABLE);
	struct godwit_rdma_region *region = by_work(own);
	struct godwit_rdma_work work = registration(BY_WORK_KEY);

	work.bind_access = GODWIT_RDMA_LOCAL_WRITE;
	expect_work(own, work, GODWIT_RDMA_SUCCESS);
	work = (struct godwit_rdma_work){.operation = GODWIT_RDMA_SEND,
					 .flags = GODWIT_RDMA_WITH_INVALIDATE,
					 .invalidate = BY_WORK_KEY};
	own->receives = 1;
	post(own->a, work, READ_AT, 8);
	network_run(own->network);
	expect_status(own->a, GODWIT_RDMA_REMOTE_ACCESS);
	assert_int_equal(godwit_rdma_region_destroy(region), 0);
	own_destroy(own);
}

/* --- Datagrams --------------------------------------------------------------------------------- */

#define ANYWHERE 0x99U

/* Two engines; the queue pair of @b has number ANYWHERE, and no address of its own. */
static struct network *datagrams_create(void)
{
	static const uint32_t masks[] = {SET_INIT(GODWIT_RDMA_DATAGRAM),
					 SET_RTR(GODWIT_RDMA_DATAGRAM),
					 SET_RTS(GODWIT_RDMA_DATAGRAM)};
	struct network *network = network_create(1);
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_attributes attributes = default_attributes(1024);
	struct godwit_rdma_pair_options options = pair_options(a, GODWIT_RDMA_DATAGRAM);

	assert_int_equal(godwit_rdma_pair_create(a->domain, &options, &a->pair), 0);
	bring_up(a, a->pair, b, 0, GODWIT_RDMA_DATAGRAM, attributes);
	options = pair_options(b, GODWIT_RDMA_DATAGRAM);
	options.number = ANYWHERE;
	assert_int_equal(godwit_rdma_pair_create(b->domain, &options, &b->pair), 0);
	for (int i = 0; i < 3; i++) {
		attributes.state = GODWIT_RDMA_INIT + i;
		assert_int_equal(godwit_rdma_pair_modify(b->pair, &attributes, masks[i]), 0);
	}
	return network;
}

static void datagrams_come_to_any_own_address(void **state)
{
	struct network *network = datagrams_create();
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_work work = {
	    .operation = GODWIT_RDMA_SEND, .queue_key = 0x1234, .destination_pair = ANYWHERE};

	memcpy(work.destination, b->address, 16);
	post_receive(b, 7, WRITE_AT, 100);
	post(a, work, READ_AT, 10);
	network_run(network);
	expect_status(a, GODWIT_RDMA_SUCCESS);
	assert_int_equal(only_completion(b).id, 7);
	network_destroy(network);
}

static void datagrams_to_others_are_forgotten(void **state)
{
	struct network *network = datagrams_create();
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_work work = {
	    .operation = GODWIT_RDMA_SEND, .queue_key = 0x1234, .destination_pair = ANYWHERE};
	struct godwit_rdma_counters counters;

	memcpy(work.destination, b->address, 16);
	work.destination[14] = 1;
	post_receive(b, 7, WRITE_AT, 100);
	post(a, work, READ_AT, 10);
	network_run(network);
	assert_int_equal(b->count, 0);
	godwit_rdma_get_counters(b->engine, &counters);
	assert_int_equal(counters.stray, 1);
	network_destroy(network);
}

static void datagrams_leave_from_the_address_that_is_asked_for(void **state)
{
	struct network *network = datagrams_create();
	struct node *a = &network->nodes[0], *b = &network->nodes[1];
	struct godwit_rdma_work work = {.operation = GODWIT_RDMA_SEND,
					.queue_key = 0x1234,
					.destination_pair = godwit_rdma_pair_number(a->pair)};

	memcpy(work.destination, a->address, 16);
	memcpy(work.source, b->address, 16);
	work.source[14] = 7;
	post_receive(a, 7, WRITE_AT, 100);
	post(b, work, READ_AT, 10);
	network_run(network);
	assert_int_equal(only_completion(a).source, ANYWHERE);
	/* The IPv4 header that precedes it. */
	assert_memory_equal(a->memory + WRITE_AT + 20 + 12, work.source + 12, 4);
	network_destroy(network);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(completions_go_to_their_user),
	    cmocka_unit_test(user_without_room_fails_the_pair),
	    cmocka_unit_test(receives_are_taken_when_there_are_some),
	    cmocka_unit_test(receives_are_flushed_when_the_pair_fails_and_later),
	    cmocka_unit_test(shared_receives_may_be_the_users_too),
	    cmocka_unit_test(each_work_request_that_is_done_is_told),
	    cmocka_unit_test(bytes_are_those_of_the_time_of_posting),
	    cmocka_unit_test(bytes_have_room_for_the_segments_of_the_queue),
	    cmocka_unit_test(bytes_cannot_be_read_into),
	    cmocka_unit_test(region_by_work_has_nothing_at_first),
	    cmocka_unit_test(registration_gives_a_region_its_bytes),
	    cmocka_unit_test(region_is_registered_again_only_after_invalidation),
	    cmocka_unit_test(registration_that_the_user_refuses_fails),
	    cmocka_unit_test(other_regions_cannot_be_registered),
	    cmocka_unit_test(peer_invalidates_a_region_by_work),
	    cmocka_unit_test(peer_cannot_invalidate_what_is_not_for_it),
	    cmocka_unit_test(datagrams_come_to_any_own_address),
	    cmocka_unit_test(datagrams_to_others_are_forgotten),
	    cmocka_unit_test(datagrams_leave_from_the_address_that_is_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
