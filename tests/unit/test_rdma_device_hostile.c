/* SPDX-License-Identifier: BSD-2-Clause */
/* What an RDMA device refuses of its driver, and what a driver that means harm cannot do. */
#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "rdma_device.h"

#define CREATED struct guest *guest = *state

static int set_up(void **state)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	guest_create(guest);
	*state = guest;
	return 0;
}

static int tear_down(void **state)
{
	guest_destroy(*state);
	free(*state);
	return 0;
}

/* A queue pair that is its own peer. */
static void connect_to_itself(struct guest *guest)
{
	guest->qpn = make_qp(guest, TYPE_RC);
	bring_up(guest, guest, TYPE_RC);
}

/* --- Commands ---------------------------------------------------------------------------------- */

static void configuration_says_the_limits(void **state)
{
	CREATED;
	struct driver *driver = &guest->driver;

	assert_int_equal(driver_read_config(driver, 0, 6), 0x030201005452);
	assert_int_equal(driver_read_config(driver, 6, 2), 64);
	assert_int_equal(driver_read_config(driver, 8, 4), 1);
	assert_int_equal(driver_read_config(driver, 12, 4), 4096);
	assert_int_equal(driver_read_config(driver, 16, 8), 0x030201feff005450);
	assert_int_equal(driver_read_config(driver, 24, 4), 1025);
	assert_int_equal(driver_read_config(driver, 48, 4), 8192);
	assert_int_equal(driver_read_config(driver, 56, 4), 32);
	assert_int_equal(driver_read_config(driver, 72, 4), 131072);
	assert_int_equal(driver_read_config(driver, 80, 8), UINT64_MAX);
}

static void layout_of_queues_must_be_accepted(void **state)
{
	CREATED;
	struct driver_call call = {.driver = &guest->driver, .features = VIRTIO_FEATURE(32)};

	driver_set_status(&guest->driver, 0);
	event_loop_call(guest->driver.device->loop, driver_negotiate_on_loop, &call);
	assert_int_equal(guest->driver.device->status, 3);
	driver_set_status(&guest->driver, 0);
	guest_start(guest);
}

static void unknown_commands_are_not_supported(void **state)
{
	CREATED;

	for (uint32_t number = 0; number < 300; number += number < 25 ? 1 : 100) {
		new_command(guest, number);
		if (number < CREATE_PD || number > DELETE_GID)
			assert_int_equal(send_command(guest, 100, 100), EOPNOTSUPP);
	}
	new_command(guest, UINT32_MAX);
	assert_int_equal(send_command(guest, 100, 100), EOPNOTSUPP);
}

static void short_commands_are_invalid(void **state)
{
	CREATED;

	for (uint32_t number = CREATE_PD; number <= DELETE_GID; number++) {
		new_command(guest, number);
		if (number != CREATE_PD)
			assert_int_equal(send_command(guest, 8, 100), EINVAL);
	}
	/* No room for the number of what is made: then it is not made. */
	new_command(guest, CREATE_PD);
	assert_int_equal(send_command(guest, 8, 15), EINVAL);
}

static void expect_reset_for(struct guest *guest, const struct driver_buffer *buffers, size_t count)
{
	driver_offer(&guest->driver, CONTROL, buffers, count);
	driver_notify(&guest->driver, CONTROL);
	assert_true(driver_needs_reset(&guest->driver));
	driver_set_status(&guest->driver, 0);
	guest_start(guest);
}

static void commands_that_cannot_be_answered_need_a_reset(void **state)
{
	CREATED;
	const struct driver_buffer no_answer[] = {{REQUEST, 8, false}},
				   short_answer[] = {{REQUEST, 8, false}, {ANSWER, 7, true}},
				   no_request[] = {{ANSWER, 16, true}},
				   short_request[] = {{REQUEST, 7, false}, {ANSWER, 8, true}},
				   long_request[] = {{MIB(2), 131073, false}, {ANSWER, 8, true}};

	new_command(guest, CREATE_PD);
	expect_reset_for(guest, no_answer, 1);
	expect_reset_for(guest, short_answer, 2);
	expect_reset_for(guest, no_request, 1);
	expect_reset_for(guest, short_request, 2);
	expect_reset_for(guest, long_request, 2);
}

static void what_is_not_there_is_not_found(void **state)
{
	static const uint32_t commands[] = {DESTROY_PD, DESTROY_CQ, QUERY_SRQ,	DESTROY_SRQ,
					    QUERY_QP,	DESTROY_QP, DESTROY_MR, DESTROY_MW};
	static const uint32_t numbers[] = {0, 1, 2, 255, 1024, 0xffffff, UINT32_MAX};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		for (size_t j = 0; j < ARRAY_SIZE(numbers); j++) {
			if (commands[i] == DESTROY_CQ && numbers[j] == guest->cqn)
				continue;
			assert_int_equal(simple_command(guest, commands[i], numbers[j]), ENOENT);
		}
	put_le32(new_command(guest, MODIFY_SRQ) + 8, 1);
	assert_int_equal(send_command(guest, 16, 8), ENOENT);
	put_le32(new_command(guest, CREATE_MW) + 8, guest->pd + 1);
	assert_int_equal(send_command(guest, 16, 16), ENOENT);
}

/* A region is no window, nor the other way round. */
static void keys_are_of_what_they_were_made_for(void **state)
{
	CREATED;
	uint8_t *request = new_command(guest, CREATE_MW);
	uint32_t window;

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 1);
	window = make(guest, 16);
	assert_int_equal(simple_command(guest, DESTROY_MW, guest->key), ENOENT);
	assert_int_equal(simple_command(guest, DESTROY_MR, window), ENOENT);
	request = new_command(guest, EXTEND_MR);
	put_le32(request + 8, window);
	assert_int_equal(send_command(guest, 16, 8), ENOENT);
	assert_int_equal(simple_command(guest, DESTROY_MW, window), 0);
	assert_int_equal(simple_command(guest, DESTROY_MW, window), ENOENT);
	assert_int_equal(simple_command(guest, DESTROY_MR, guest->key), 0);
	assert_int_equal(simple_command(guest, DESTROY_MR, guest->key), ENOENT);
}

static void what_is_used_is_busy(void **state)
{
	CREATED;

	guest->qpn = make_qp(guest, TYPE_RC);
	assert_int_equal(simple_command(guest, DESTROY_PD, guest->pd), EBUSY);
	assert_int_equal(simple_command(guest, DESTROY_CQ, guest->cqn), EBUSY);
	assert_int_equal(simple_command(guest, DESTROY_QP, guest->qpn), 0);
	assert_int_equal(simple_command(guest, DESTROY_CQ, guest->cqn), 0);
	assert_int_equal(simple_command(guest, DESTROY_MR, guest->key), 0);
	assert_int_equal(simple_command(guest, DESTROY_PD, guest->pd), 0);
}

static void numbers_are_not_given_away_again_soon(void **state)
{
	CREATED;
	uint32_t first = make_qp(guest, TYPE_RC);

	assert_int_equal(simple_command(guest, DESTROY_QP, first), 0);
	guest->next = MIB(2);
	assert_int_not_equal(make_qp(guest, TYPE_RC), first);
}

/* A field of a command that is otherwise right. */
struct field {
	uint32_t offset, value;
	uint32_t status;
};

static void limits_that_a_shared_queue_cannot_reach_are_invalid(void **state)
{
	static const uint32_t limits[] = {SLOTS, UINT32_MAX, SLOTS - 1};
	CREATED;
	struct queue queue = new_queue(guest, SLOTS, RECEIVE_STRIDE);
	uint8_t *request;

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		request = new_command(guest, CREATE_SRQ);
		put_le32(request + 8, guest->pd);
		put_le32(request + 12, SLOTS);
		put_le32(request + 16, RECEIVE_STRIDE);
		put_le32(request + 20, RECEIVE_SGE);
		put_le32(request + 24, limits[i]);
		put_le32(request + 28, 1);
		put_run(request + 32, queue.address, queue_size(&queue));
		assert_int_equal(send_command(guest, 48, 16), limits[i] < SLOTS ? 0 : EINVAL);
	}
	guest->srqn = answered(guest);
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		request = new_command(guest, MODIFY_SRQ);
		put_le32(request + 8, guest->srqn);
		put_le32(request + 12, limits[i]);
		assert_int_equal(send_command(guest, 16, 8), limits[i] < SLOTS ? 0 : EINVAL);
	}
}

static void queues_that_cannot_be_are_invalid(void **state)
{
	static const struct field fields[] = {
	    {28, 0, EINVAL},	      {28, 1, EINVAL},		{28, 3, EINVAL},
	    {28, 16384, EINVAL},      {28, 128, EINVAL},	{32, 0, EINVAL},
	    {32, 256, EINVAL},	      {32, 600, EINVAL},	{32, 2048, EINVAL},
	    {36, 0, EINVAL},	      {36, 33, EINVAL},		{36, UINT32_MAX, EINVAL},
	    {40, 513, EINVAL},	      {40, UINT32_MAX, EINVAL}, {44, 0, EINVAL},
	    {44, 65, EINVAL},	      {48, 64, EINVAL},		{52, 0, EINVAL},
	    {52, 33, EINVAL},	      {56, 0, EINVAL},		{56, 3, EINVAL},
	    {56, UINT32_MAX, EINVAL}, {60, 0, EINVAL},		{60, 2, EINVAL},
	    {60, UINT32_MAX, EINVAL}, {12, 0, EOPNOTSUPP},	{12, 5, EOPNOTSUPP},
	    {16, 1, ENOENT},	      {20, 1, ENOENT},		{24, 1, EINVAL},
	    {8, 1, ENOENT},	      {64, 32, EINVAL},		{72, 33151, EINVAL},
	};
	CREATED;
	uint8_t *request;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		guest->next = MIB(2);
		request = new_command(guest, CREATE_QP);
		qp_request(guest, TYPE_RC, request);
		put_le32(request + fields[i].offset, fields[i].value);
		if (send_command(guest, 96, 16) != fields[i].status)
			fail_msg("offset %u, value %u: %u", fields[i].offset, fields[i].value,
				 get_le32(at(guest, ANSWER)));
	}
	/* Nothing is left of them. */
	assert_int_equal(simple_command(guest, DESTROY_CQ, guest->cqn), 0);
}

static void queue_outside_of_memory_is_refused(void **state)
{
	CREATED;
	uint8_t *request = new_command(guest, CREATE_CQ);

	put_le32(request + 8, 64);
	put_le32(request + 12, 2);
	put_run(request + 16, MIB(2), 384);
	put_run(request + 32, RAM_SIZE - 2048, 4096);
	assert_int_equal(send_command(guest, 48, 16), EFAULT);
	put_run(request + 32, UINT64_MAX - 4095 + 64, 4032);
	assert_int_equal(send_command(guest, 48, 16), EINVAL);
	put_run(request + 32, UINT64_MAX - 4095 - 4096, 4096);
	put_le64(request + 32, (UINT64_MAX - 8191) & ~UINT64_C(63));
	assert_int_equal(send_command(guest, 48, 16), EFAULT);
}

static void regions_that_cannot_be_are_invalid(void **state)
{
	static const struct field fields[] = {
	    {8, 0, ENOENT},	 {12, 0x20, EINVAL}, {12, 2, EINVAL},	       {16, 0, EOPNOTSUPP},
	    {16, 4, EOPNOTSUPP}, {20, 2, EINVAL},    {20, UINT32_MAX, EINVAL}, {32, 0, EINVAL},
	    {32, 4095, EINVAL},	 {40, 1, EINVAL},    {56, 0, EINVAL},	       {24, 0, 0},
	    {16, 2, EINVAL},	 {16, 3, EINVAL},
	};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		uint8_t *request = new_command(guest, CREATE_MR);

		put_le32(request + 8, guest->pd);
		put_le32(request + 12, 1);
		put_le32(request + 16, 1);
		put_le32(request + 20, 1);
		put_le64(request + 24, DATA);
		put_le64(request + 32, 4096);
		put_run(request + 48, DATA, 4096);
		put_le32(request + fields[i].offset, fields[i].value);
		if (send_command(guest, 64, 16) != fields[i].status)
			fail_msg("offset %u, value %u: %u", fields[i].offset, fields[i].value,
				 get_le32(at(guest, ANSWER)));
	}
}

static void region_whose_addresses_wrap_is_invalid(void **state)
{
	CREATED;
	uint8_t *request = new_command(guest, CREATE_MR);

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 1);
	put_le32(request + 16, 1);
	put_le64(request + 24, UINT64_MAX - 4094);
	put_le64(request + 32, 4096);
	assert_int_equal(send_command(guest, 48, 16), EINVAL);
}

/* A list that is refused leaves the one before as it was. */
static void extension_is_whole_or_nothing(void **state)
{
	CREATED;
	uint8_t *request = new_command(guest, CREATE_MR);
	uint32_t key;

	connect_to_itself(guest);
	request = new_command(guest, CREATE_MR);
	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 7);
	put_le32(request + 16, 1);
	put_le32(request + 20, 1);
	put_le64(request + 24, 0x1000);
	put_le64(request + 32, 8192);
	put_run(request + 48, DATA + 0x3000, 4096);
	key = make(guest, 64);
	request = new_command(guest, EXTEND_MR);
	put_le32(request + 8, key);
	put_le32(request + 12, 2);
	/* Right behind the last one, which grows; then one byte too much. */
	put_run(request + 16, DATA + 0x4000, 4096);
	put_run(request + 32, DATA + 0x9000, 1);
	assert_int_equal(send_command(guest, 48, 8), EINVAL);
	put_le32(request + 12, 1);
	put_run(request + 16, DATA + 0x9000, 4096);
	assert_int_equal(send_command(guest, 32, 8), 0);
	memcpy(at(guest, DATA), "there", 5);
	put_remote(new_work(guest, WR_WRITE, 1, 0, 5), 0x1000 + 4096, key);
	post_work(guest);
	expect(guest, 1, 0);
	assert_memory_equal(at(guest, DATA + 0x9000), "there", 5);
}

static void host_memory_that_lists_take_is_limited(void **state)
{
	CREATED;
	uint8_t *request = new_command(guest, CREATE_MR);
	uint32_t key, status = 0, commands = 0;
	const struct driver_buffer buffers[] = {{MIB(2), 131072, false}, {ANSWER, 8, true}};

	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 1);
	put_le32(request + 16, 1);
	put_le64(request + 32, UINT64_C(1) << 40);
	key = make(guest, 48);
	put_le32(at(guest, MIB(2)), EXTEND_MR);
	put_le32(at(guest, MIB(2)) + 8, key);
	put_le32(at(guest, MIB(2)) + 12, 8191);
	for (uint32_t i = 0; i < 8191; i++)
		put_run(at(guest, MIB(2)) + 16 + i * 16, DATA + i % 2 * 8, 1);
	for (; !status && commands < 1000; commands++) {
		driver_request(&guest->driver, CONTROL, buffers, 2);
		status = get_le32(at(guest, ANSWER));
	}
	assert_int_equal(status, ENOMEM);
	assert_in_range(commands, 400, 600);
	assert_int_equal(simple_command(guest, DESTROY_MR, key), 0);
	assert_int_not_equal(make_mr(guest, DATA, 4096, 1), 0);
}

static void objects_are_limited(void **state)
{
	CREATED;
	uint32_t made = 1;

	for (new_command(guest, CREATE_PD); !send_command(guest, 8, 16); made++)
		assert_true(made <= 256);
	assert_int_equal(get_le32(at(guest, ANSWER)), ENOMEM);
	assert_int_equal(made, 256);
}

static void changes_that_cannot_be_are_invalid(void **state)
{
	static const struct {
		uint32_t mask;
		uint8_t state;
		uint32_t offset;
		uint8_t value;
		uint32_t status;
	} changes[] = {
	    {MASK_RTR, STATE_RTR, 17, 0, EINVAL},
	    {MASK_RTR, STATE_RTR, 17, 6, EINVAL},
	    {MASK_RTR, STATE_RTR, 21, 32, EINVAL},
	    {MASK_RTR, STATE_RTR, 23, 129, EINVAL},
	    {MASK_RTR, STATE_RTR, 43, 1, EINVAL},
	    {MASK_RTR, STATE_RTR, 35, 1, EINVAL},
	    {MASK_RTR, STATE_RTR, 70, 2, EADDRNOTAVAIL},
	    {MASK_RTR, STATE_RTR, 70, 64, EADDRNOTAVAIL},
	    {MASK_RTR, STATE_RTR, 70, 255, EADDRNOTAVAIL},
	    {MASK_RTR & ~(1U << 8), STATE_RTR, 0, 0, EINVAL},
	    {MASK_RTR | 1U << 14, STATE_RTR, 0, 0, EINVAL},
	    {MASK_RTR | 1U << 31, STATE_RTR, 0, 0, EINVAL},
	    {1, STATE_RTS, 0, 0, EINVAL},
	    {1, 5, 0, 0, EINVAL},
	    {1, 7, 0, 0, EINVAL},
	    {1, 255, 0, 0, EINVAL},
	    {1U << 8, 0, 0, 0, EINVAL},
	    {MASK_RTR, STATE_RTR, 0, 0, 0},
	};
	CREATED;

	guest->qpn = make_qp(guest, TYPE_RC);
	assert_int_equal(modify(guest, guest, 0, MASK_INIT, STATE_INIT), 0);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		uint8_t *request =
		    modification(guest, guest, guest->qpn, changes[i].mask, changes[i].state);

		if (changes[i].offset)
			request[changes[i].offset] = changes[i].value;
		if (send_command(guest, 80, 8) != changes[i].status)
			fail_msg("change %zu: %u", i, get_le32(at(guest, ANSWER)));
	}
	assert_int_equal(qp_state(guest), STATE_RTR);
	assert_int_equal(at(guest, ANSWER)[17], 3);
	assert_memory_equal(at(guest, ANSWER) + 48, guest->address, 16);
}

/* --- Queues ------------------------------------------------------------------------------------ */

/* What becomes of a work request that cannot be: the pair fails, and what is posted behind is flushed. */
static void expect_refused(struct guest *guest, uint32_t status)
{
	post_work(guest);
	expect(guest, 1, status);
	assert_int_equal(qp_state(guest), STATE_ERR);
	new_work(guest, WR_SEND, 2, 0, 8);
	post_work(guest);
	expect(guest, 2, 5);
	assert_int_equal(simple_command(guest, DESTROY_QP, guest->qpn), 0);
}

static void work_requests_that_cannot_be_fail(void **state)
{
	static const struct {
		uint32_t opcode, offset, value, status;
	} requests[] = {
	    {10, 0, 0, 2},
	    {33, 0, 0, 2},
	    {UINT32_MAX, 0, 0, 2},
	    {WR_WRITE, 196, 5, 2},
	    {WR_WRITE, 196, UINT32_MAX, 2},
	    {WR_SEND, 220, 1, 4},
	    {WR_SEND, 216, DATA_SIZE + 1, 4},
	    {WR_SEND, 208, 0, 4},
	    {WR_CAS, 216, 4, 1},
	    {WR_FADD, 216, 16, 1},
	    {WR_LOCAL_INV, 20, 0xffffffff, 2},
	    {WR_BIND_MW, 44, 0x12345, 6},
	    {WR_REG_MR, 56, 0x12345, 2},
	};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		uint8_t *work;

		guest->next = MIB(2);
		connect_to_itself(guest);
		work = new_work(guest, requests[i].opcode, 1, 0, 8);
		if (requests[i].offset)
			put_le32(work + requests[i].offset, requests[i].value);
		expect_refused(guest, requests[i].status);
	}
}

static void inline_data_longer_than_agreed_fails(void **state)
{
	static const uint32_t lengths[] = {SEND_INLINE + 1, 65536, UINT32_MAX};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint8_t *work;

		guest->next = MIB(2);
		connect_to_itself(guest);
		work = new_work(guest, WR_SEND, 1, 0, 8);
		put_le32(work + 16, SIGNALED | INLINE);
		put_le32(work + 184, lengths[i]);
		expect_refused(guest, 2);
	}
}

static void operations_that_datagrams_cannot_fail(void **state)
{
	static const uint32_t opcodes[] = {WR_WRITE, WR_READ, WR_CAS, WR_SEND_INV, WR_BIND_MW, 99};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++) {
		guest->next = MIB(2);
		guest->qpn = make_qp(guest, TYPE_UD);
		bring_up(guest, guest, TYPE_UD);
		new_work(guest, opcodes[i], 1, 0, 8);
		expect_refused(guest, 2);
	}
}

/* Indices out of range are masked: what is posted then is what lies there. */
static void wild_indices_stay_in_the_queue(void **state)
{
	static const uint32_t indices[] = {64, 65, 1000, 0x80000000, UINT32_MAX};
	CREATED;

	for (size_t i = 0; i < ARRAY_SIZE(indices); i++) {
		guest->next = MIB(2);
		connect_to_itself(guest);
		*index_of(guest, &guest->sq, 128) = indices[i];
		*index_of(guest, &guest->rq, 128) = indices[i];
		*index_of(guest, &guest->cq, 256) = guest->cq.own + 256 * indices[i];
		kick(guest, 1, guest->qpn);
		kick(guest, 2, guest->qpn);
		/* Elements of zeros are writes without data. */
		assert_in_range(qp_state(guest), STATE_RTS, STATE_ERR);
		assert_int_equal(simple_command(guest, DESTROY_QP, guest->qpn), 0);
		driver_set_status(&guest->driver, 0);
		guest_start(guest);
	}
}

static void receive_with_too_many_segments_has_none(void **state)
{
	CREATED;

	connect_to_itself(guest);
	post_receive(guest, &guest->rq, 7, 0, 100);
	put_le32(element(guest, &guest->rq, 0) + 28, 5);
	new_work(guest, WR_SEND, 8, 0, 8);
	post_work(guest);
	expect(guest, 7, 1);
}

static void queues_that_go_with_their_memory_fail_the_pair(void **state)
{
	CREATED;
	struct memory_region *region = NULL;
	struct ram_block *block;
	static const struct ram_backing_options memory = {.backing = RAM_BACKING_ANON,
							  .host_node = -1};
	uint8_t *request;

	/* A CQ whose elements lie in memory that is unplugged later. */
	driver_set_status(&guest->driver, 0);
	driver_no_error(ram_block_create("more", &memory, MIB(4), &block));
	driver_no_error(
	    memory_map_add(guest->driver.map, GIB(1), MIB(4), block, 0, MIB(2), &region));
	assert_int_equal(memory_region_plug(guest->driver.map, region, 0, MIB(2)), 0);
	guest_start(guest);
	request = new_command(guest, CREATE_CQ);
	guest->cq = new_queue(guest, 64, 64);
	put_le32(request + 8, 64);
	put_le32(request + 12, 2);
	put_run(request + 16, guest->cq.address, 384);
	put_run(request + 32, GIB(1), 4096);
	guest->cqn = make(guest, 48);
	connect_to_itself(guest);
	assert_int_equal(memory_region_unplug(guest->driver.map, region, 0, MIB(2)), 0);
	put_remote(new_work(guest, WR_WRITE, 1, 0, 8), DATA, guest->key);
	post_work(guest);
	expect_event(guest, 0, guest->cqn);
	assert_int_equal(qp_state(guest), STATE_ERR);
	virtio_device_destroy(guest->driver.device);
	guest->driver.device = NULL;
	driver_check_log(&guest->driver);
	memory_map_destroy(guest->driver.map);
	ram_block_destroy(block);
	ram_block_destroy(guest->driver.block);
	guest_create(guest);
}

static void kicks_for_nobody_are_forgotten(void **state)
{
	CREATED;
	const struct driver_buffer odd = {KICKS, 13, false}, empty = {KICKS, 1, false};

	for (uint32_t kind = 0; kind < 5; kind++) {
		kick(guest, kind, 0);
		kick(guest, kind, 1);
		kick(guest, kind, UINT32_MAX);
	}
	driver_request(&guest->driver, KICK, &odd, 1);
	driver_request(&guest->driver, KICK, &empty, 1);
	assert_false(driver_needs_reset(&guest->driver));
}

static void long_kicks_need_a_reset(void **state)
{
	CREATED;
	const struct driver_buffer buffer = {MIB(2), 520, false};

	driver_offer(&guest->driver, KICK, &buffer, 1);
	driver_notify(&guest->driver, KICK);
	assert_true(driver_needs_reset(&guest->driver));
}

/* Of this process, in microseconds. */
static int64_t processor_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
	       usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/* Nobody takes the packet, and nobody looks whether it is there. */
static void packets_for_a_device_that_needs_a_reset_keep_nobody_busy(void **state)
{
	CREATED;
	const struct driver_buffer buffer = {MIB(2), 520, false};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(GODWIT_RDMA_UDP_PORT)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int64_t before;

	driver_offer(&guest->driver, KICK, &buffer, 1);
	driver_notify(&guest->driver, KICK);
	assert_true(driver_needs_reset(&guest->driver));
	memcpy(&to.sin_addr, guest->address + 12, 4);
	assert_int_equal(sendto(fd, "", 1, 0, (const struct sockaddr *)&to, sizeof(to)), 1);
	before = processor_time();
	usleep(300000);
	assert_in_range(processor_time() - before, 0, 100000);
	close(fd);
}

static void short_event_buffers_need_a_reset(void **state)
{
	CREATED;
	const struct driver_buffer buffer = {BUFFERS, 15, true};

	/* Behind the eight good ones. */
	driver_offer(&guest->driver, EVENTS, &buffer, 1);
	driver_notify(&guest->driver, EVENTS);
	for (uint32_t i = 0; i < 9; i++) {
		struct queue cq;
		uint32_t cqn = make_cq(guest, &cq, 2);
		uint8_t *request = new_command(guest, CREATE_QP);

		qp_request(guest, TYPE_UD, request);
		put_le32(request + 16, cqn);
		guest->qpn = make(guest, 96);
		bring_up(guest, guest, TYPE_UD);
		__atomic_store_n(index_of(guest, &cq, 8), 2, __ATOMIC_SEQ_CST);
		new_work(guest, WR_SEND, 1, 0, 8);
		post_work(guest);
	}
	for (int i = 0; !driver_needs_reset(&guest->driver) && i < WAIT_MAX_MS; i++)
		usleep(1000);
	assert_true(driver_needs_reset(&guest->driver));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(configuration_says_the_limits),
	    TEST(layout_of_queues_must_be_accepted),
	    TEST(unknown_commands_are_not_supported),
	    TEST(short_commands_are_invalid),
	    TEST(commands_that_cannot_be_answered_need_a_reset),
	    TEST(what_is_not_there_is_not_found),
	    TEST(keys_are_of_what_they_were_made_for),
	    TEST(what_is_used_is_busy),
	    TEST(numbers_are_not_given_away_again_soon),
	    TEST(limits_that_a_shared_queue_cannot_reach_are_invalid),
	    TEST(queues_that_cannot_be_are_invalid),
	    TEST(queue_outside_of_memory_is_refused),
	    TEST(regions_that_cannot_be_are_invalid),
	    TEST(region_whose_addresses_wrap_is_invalid),
	    TEST(extension_is_whole_or_nothing),
	    TEST(host_memory_that_lists_take_is_limited),
	    TEST(objects_are_limited),
	    TEST(changes_that_cannot_be_are_invalid),
	    TEST(work_requests_that_cannot_be_fail),
	    TEST(inline_data_longer_than_agreed_fails),
	    TEST(operations_that_datagrams_cannot_fail),
	    TEST(wild_indices_stay_in_the_queue),
	    TEST(receive_with_too_many_segments_has_none),
	    TEST(queues_that_go_with_their_memory_fail_the_pair),
	    TEST(kicks_for_nobody_are_forgotten),
	    TEST(long_kicks_need_a_reset),
	    TEST(packets_for_a_device_that_needs_a_reset_keep_nobody_busy),
	    TEST(short_event_buffers_need_a_reset),
	};

	/* 77: skipped, for meson. */
	return port_is_free() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
