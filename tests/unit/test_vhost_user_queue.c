/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rings of a back-end (vhost_user/queue.h): malformed ones, where they go on, what is done again, what the log
 * says. The device's thread has the session; nothing is asked of it while a test uses the queue.
 */
#include <fcntl.h>

#include "vhost_user/queue.h"
#include "vhost_user_pair.h"

#include "base/bytes.h"

#define INDIRECT (1ULL << 28)
#define EVENT	 (1ULL << 29)
#define VERSION	 (1ULL << 32)
#define PACKED	 (1ULL << 34)

#define SIZE  8U
#define TABLE 0x1000U
#define AVAIL 0x2000U
#define USED  0x3000U
#define DATA  0x10000U

struct fixture {
	struct pair pair;
	uint8_t *ram;
	int kick, call;
	struct vhost_user_inflight inflight;
	int inflight_fd;
	uint8_t *inflight_bytes;
	struct vhost_user_queue queue;
	struct vhost_user_chain chain;
	struct iovec iov[16];
	uint64_t addresses[16];
};

static void begin_session(struct fixture *fixture, uint64_t features, bool tracked)
{
	struct vhost_user_back_end_options options = device_options(&fixture->pair.device);

	options.features = features | VERSION;
	pair_begin(&fixture->pair, NULL, &options);
	fixture->kick = eventfd(0, EFD_CLOEXEC);
	fixture->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fixture->ram =
	    mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->pair.ram, 0);
	assert_true(fixture->ram != MAP_FAILED);
	fixture->chain = (struct vhost_user_chain){
	    .iov = fixture->iov, .addresses = fixture->addresses, .max = 16};
	assert_no_error(vhost_user_front_end_set_features(fixture->pair.front, options.features));
	fixture->inflight_fd = -1;
	if (!tracked)
		return;
	assert_no_error(vhost_user_front_end_get_inflight(
	    fixture->pair.front, 1, SIZE, &fixture->inflight, &fixture->inflight_fd));
	fixture->inflight_bytes = mmap(NULL, fixture->inflight.size, PROT_READ | PROT_WRITE,
				       MAP_SHARED, fixture->inflight_fd, 0);
	assert_true(fixture->inflight_bytes != MAP_FAILED);
}

static struct error *start(struct fixture *fixture, uint32_t base)
{
	struct vhost_user_ring_setup setup = {.size = SIZE,
					      .base = base,
					      .descriptor = TABLE,
					      .available = AVAIL,
					      .used = USED,
					      .kick = fixture->kick,
					      .call = fixture->call,
					      .error = -1};

	if (fixture->inflight_fd >= 0)
		assert_no_error(vhost_user_front_end_set_inflight(
		    fixture->pair.front, &fixture->inflight, fixture->inflight_fd));
	assert_no_error(
	    vhost_user_front_end_begin_memory(fixture->pair.front, fixture->pair.memory));
	assert_no_error(vhost_user_front_end_start_ring(fixture->pair.front, 0, &setup));
	return vhost_user_queue_begin(&fixture->queue, fixture->pair.device.back, 0);
}

static void finish(struct fixture *fixture)
{
	vhost_user_queue_end(&fixture->queue);
	if (fixture->inflight_fd >= 0) {
		munmap(fixture->inflight_bytes, fixture->inflight.size);
		close(fixture->inflight_fd);
	}
	munmap(fixture->ram, RAM_SIZE);
	close(fixture->kick);
	close(fixture->call);
	pair_end(&fixture->pair);
}

static void put_descriptor(struct fixture *fixture, uint32_t table, unsigned int index,
			   uint64_t address, uint32_t size, uint16_t third, uint16_t fourth)
{
	uint8_t *entry = fixture->ram + table + (size_t)16 * index;

	put_le64(entry, address);
	put_le32(entry + 8, size);
	put_le16(entry + 12, third);
	put_le16(entry + 14, fourth);
}

/* Split: makes @head available. */
static void offer(struct fixture *fixture, uint16_t head)
{
	uint16_t index = get_le16(fixture->ram + AVAIL + 2);

	put_le16(fixture->ram + AVAIL + 4 + 2 * (index % SIZE), head);
	put_le16(fixture->ram + AVAIL + 2, (uint16_t)(index + 1));
}

static void assert_broken(struct fixture *fixture, const char *reason)
{
	assert_int_equal(vhost_user_queue_pop(&fixture->queue, &fixture->chain), -EINVAL);
	if (!strstr(fixture->queue.broken, reason))
		fail_msg("'%s' does not say '%s'", fixture->queue.broken, reason);
	assert_int_equal(vhost_user_queue_pop(&fixture->queue, &fixture->chain), -EINVAL);
}

/* A chain of two that breaks a rule. */
static void malformed(uint64_t features, void (*make)(struct fixture *fixture), const char *reason)
{
	struct fixture fixture = {0};

	begin_session(&fixture, features, false);
	assert_no_error(start(&fixture, 0));
	make(&fixture);
	assert_broken(&fixture, reason);
	finish(&fixture);
}

static void make_loop(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 16, 1, 0);
	offer(fixture, 0);
}

static void test_loop(void **unused)
{
	malformed(0, make_loop, "loops");
}

static void make_index_outside(struct fixture *fixture)
{
	offer(fixture, SIZE);
}

static void test_index_outside(void **unused)
{
	malformed(0, make_index_outside, "outside its table");
}

static void make_too_far(struct fixture *fixture)
{
	put_le16(fixture->ram + AVAIL + 2, SIZE + 1);
}

static void test_index_too_far(void **unused)
{
	malformed(0, make_too_far, "further ahead");
}

static void make_outside(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, RAM_SIZE - 8, 16, 0, 0);
	offer(fixture, 0);
}

static void test_buffer_outside_of_memory(void **unused)
{
	malformed(0, make_outside, "outside of the memory");
}

static void make_wrapping(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, UINT64_MAX - 7, 16, 0, 0);
	offer(fixture, 0);
}

static void test_buffer_that_wraps(void **unused)
{
	malformed(0, make_wrapping, "outside of the memory");
}

static void make_behind(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 16, 3, 1);
	put_descriptor(fixture, TABLE, 1, DATA, 16, 0, 0);
	offer(fixture, 0);
}

static void test_readable_behind_writable(void **unused)
{
	malformed(0, make_behind, "behind a writable");
}

static void make_indirect(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 32, 4, 0);
	put_descriptor(fixture, DATA, 0, DATA, 32, 4, 0);
	offer(fixture, 0);
}

static void test_indirect_without_the_feature(void **unused)
{
	malformed(0, make_indirect, "without the feature");
}

static void test_indirect_in_indirect(void **unused)
{
	malformed(INDIRECT, make_indirect, "refers to another");
}

static void make_odd_table(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 40, 4, 0);
	offer(fixture, 0);
}

static void test_indirect_table_of_odd_length(void **unused)
{
	malformed(INDIRECT, make_odd_table, "invalid length");
}

static void make_many(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 16 * 17, 4, 0);
	for (uint16_t i = 0; i < 17; i++)
		put_descriptor(fixture, DATA, i, DATA, 16, i < 16, (uint16_t)(i + 1));
	offer(fixture, 0);
}

static void test_more_buffers_than_the_device_takes(void **unused)
{
	malformed(INDIRECT, make_many, "more buffers");
}

static void make_huge(struct fixture *fixture)
{
	put_descriptor(fixture, TABLE, 0, DATA, 16, 1, 1);
	put_descriptor(fixture, TABLE, 1, DATA, UINT32_MAX, 0, 0);
	offer(fixture, 0);
}

static void test_more_than_4_gib(void **unused)
{
	malformed(0, make_huge, "4 GiB");
}

static void make_packed_endless(struct fixture *fixture)
{
	for (unsigned int i = 0; i < SIZE; i++)
		put_descriptor(fixture, TABLE, i, DATA, 16, 0, 0x8001);
}

static void test_packed_chain_without_end(void **unused)
{
	malformed(PACKED, make_packed_endless, "longer than");
}

static void test_packed_ring_goes_on_outside(void **unused)
{
	struct fixture fixture = {0};

	begin_session(&fixture, PACKED, true);
	assert_error_with(start(&fixture, SIZE), "goes on at 8 and 0");
	finish(&fixture);
}

static void test_buffer_over_two_pieces_of_memory(void **unused)
{
	struct vhost_user_range two[] = {{HOT_GUEST, 2 * HOT_UNIT}};
	struct fixture fixture = {0};

	begin_session(&fixture, 0, false);
	/* The first half is there from the start, the other comes later: two mappings. */
	two[0].size = HOT_UNIT;
	assert_no_error(start(&fixture, 0));
	assert_no_error(vhost_user_front_end_change_memory(fixture.pair.front, NULL, 0, two, 1));
	two[0].guest_address += HOT_UNIT;
	assert_no_error(vhost_user_front_end_change_memory(fixture.pair.front, NULL, 0, two, 1));
	put_descriptor(&fixture, TABLE, 0, HOT_GUEST + HOT_UNIT - 16, 48, 2, 0);
	offer(&fixture, 0);
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
	assert_int_equal(fixture.chain.in_count, 2);
	assert_int_equal(fixture.chain.in_size, 48);
	assert_int_equal(fixture.iov[0].iov_len, 16);
	assert_int_equal(fixture.iov[1].iov_len, 32);
	assert_int_equal(fixture.addresses[1], HOT_GUEST + HOT_UNIT);
	vhost_user_queue_push(&fixture.queue, &fixture.chain, 48);
	finish(&fixture);
}

/* --- Doing again ------------------------------------------------------------------------------- */

static void test_split_requests_are_done_again_in_order(void **unused)
{
	struct vhost_user_inflight_queue left;
	struct fixture fixture = {0};
	uint16_t heads[SIZE], count;

	begin_session(&fixture, 0, true);
	for (uint16_t i = 0; i < SIZE; i++) {
		put_descriptor(&fixture, TABLE, i, DATA + i, 1, 2, 0);
		offer(&fixture, (uint16_t)(SIZE - 1 - i));
	}
	/* A predecessor took 7, 6, 5, 4, gave back 6, and died. */
	assert_no_error(
	    vhost_user_inflight_begin_split(&left, fixture.inflight_bytes, SIZE, 0, heads, &count));
	for (uint16_t i = 7; i >= 4; i--)
		vhost_user_inflight_take_split(&left, i);
	vhost_user_inflight_give_split(&left, 6);
	put_le16(fixture.ram + USED + 2, 1);
	assert_no_error(start(&fixture, 1));
	for (unsigned int i = 0; i < 7; i++) {
		static const uint16_t order[] = {7, 5, 4, 3, 2, 1, 0};

		assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
		assert_int_equal(fixture.chain.id, order[i]);
		vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
	}
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 0);
	assert_int_equal(get_le16(fixture.ram + USED + 2), 8);
	assert_int_equal(vhost_user_queue_base(&fixture.queue), 8);
	finish(&fixture);
}

/* Packed: the driver's descriptor of one buffer, in the first turn of the ring. */
static void offer_packed(struct fixture *fixture, unsigned int index, uint16_t id)
{
	put_descriptor(fixture, TABLE, index, DATA + id, 1, id, 0x0082);
}

static void test_packed_requests_are_done_again_in_order(void **unused)
{
	struct vhost_user_inflight_request requests[SIZE];
	struct vhost_user_inflight_queue left;
	struct fixture fixture = {0};
	uint16_t used = 0, count, entries[3];
	bool wrap = true;

	begin_session(&fixture, PACKED, true);
	for (uint16_t i = 0; i < 5; i++)
		offer_packed(&fixture, i, (uint16_t)(i + 100));
	/* A predecessor took three, gave back the second (in the first place), and died. */
	assert_no_error(vhost_user_inflight_begin_packed(&left, fixture.inflight_bytes, SIZE,
							 fixture.ram + TABLE, &used, &wrap,
							 requests, &count));
	for (uint16_t i = 0; i < 3; i++)
		assert_true(vhost_user_inflight_take_packed(
		    &left,
		    &(struct vhost_user_inflight_descriptor){DATA + 100 + i, 1, (uint16_t)(i + 100),
							     0x0082},
		    1, &entries[i]));
	vhost_user_inflight_give_packed(&left, entries[1]);
	put_descriptor(&fixture, TABLE, 0, DATA, 1, 101, 0x8082);
	assert_no_error(start(&fixture, 0x80018001));
	for (unsigned int i = 0; i < 4; i++) {
		static const uint16_t order[] = {100, 102, 103, 104};

		assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
		assert_int_equal(fixture.chain.id, order[i]);
		assert_int_equal(fixture.addresses[0], DATA + order[i]);
		vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
		assert_int_equal(get_le16(fixture.ram + TABLE + 16 * (i + 1) + 12), order[i]);
	}
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 0);
	assert_int_equal(vhost_user_queue_base(&fixture.queue), 0x80058005);
	finish(&fixture);
}

static void test_after_an_orderly_end_a_ring_begins_anywhere(void **unused)
{
	struct fixture fixture = {0};

	begin_session(&fixture, 0, true);
	put_descriptor(&fixture, TABLE, 0, DATA, 1, 2, 0);
	offer(&fixture, 0);
	assert_no_error(start(&fixture, 0));
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
	vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
	vhost_user_queue_end(&fixture.queue);
	/* The guest was reset, and has a new ring in the same place. */
	memset(fixture.ram + AVAIL, 0, 0x2000);
	assert_no_error(vhost_user_queue_begin(&fixture.queue, fixture.pair.device.back, 0));
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 0);
	offer(&fixture, 0);
	assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
	vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
	finish(&fixture);
}

static void test_inflight_buffer_of_another_ring_is_refused(void **unused)
{
	struct fixture fixture = {0};

	begin_session(&fixture, 0, true);
	put_le16(fixture.inflight_bytes + 8, 1);
	put_le16(fixture.inflight_bytes + 10, 4);
	assert_error_with(start(&fixture, 0), "ring 0: the in-flight buffer has version 1 and 4");
	vhost_user_queue_end(&fixture.queue);
	assert_int_equal(get_le16(fixture.inflight_bytes + 8), 1);
	finish(&fixture);
}

/* --- Log and interrupts ------------------------------------------------------------------------ */

static void test_what_is_written_is_in_the_log(void **unused)
{
	static const uint64_t kinds[] = {0, PACKED};

	for (unsigned int i = 0; i < 2; i++) {
		struct fixture fixture = {0};
		uint8_t *bits;
		int log;

		begin_session(&fixture, kinds[i], false);
		log = memory_file(4096);
		bits = mmap(NULL, 4096, PROT_READ, MAP_SHARED, log, 0);
		assert_no_error(start(&fixture, kinds[i] ? 0x80008000 : 0));
		assert_no_error(vhost_user_front_end_start_log(fixture.pair.front, log, 0, 4096));
		assert_no_error(vhost_user_queue_refresh(&fixture.queue));
		if (kinds[i])
			offer_packed(&fixture, 0, 7);
		else
			put_descriptor(&fixture, TABLE, 0, DATA + 7, 1, 2, 0), offer(&fixture, 0);
		assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
		assert_false(bits[DATA / 4096 / 8]);
		vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
		assert_int_equal(bits[DATA / 4096 / 8], 1 << DATA / 4096 % 8);
		assert_int_equal(bits[0], kinds[i] ? 1 << TABLE / 4096 : 1 << USED / 4096);
		munmap(bits, 4096);
		close(log);
		finish(&fixture);
	}
}

static void test_driver_is_interrupted_where_it_asked(void **unused)
{
	struct fixture fixture = {0};
	eventfd_t count;

	begin_session(&fixture, EVENT, false);
	assert_no_error(start(&fixture, 0));
	for (uint16_t i = 0; i < 4; i++) {
		put_descriptor(&fixture, TABLE, i, DATA, 1, 2, 0);
		offer(&fixture, i);
	}
	put_le16(fixture.ram + AVAIL + 4 + 2 * SIZE, 2); /* the third */
	for (uint16_t i = 0; i < 4; i++) {
		assert_int_equal(vhost_user_queue_pop(&fixture.queue, &fixture.chain), 1);
		vhost_user_queue_push(&fixture.queue, &fixture.chain, 1);
		vhost_user_queue_notify(&fixture.queue);
		/* The first tells whoever may have missed one. */
		assert_int_equal(eventfd_read(fixture.call, &count), i == 0 || i == 2 ? 0 : -1);
	}
	assert_false(vhost_user_queue_notifications(&fixture.queue, true));
	assert_int_equal(get_le16(fixture.ram + USED + 4 + 8 * SIZE), 4);
	finish(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_loop),
	    cmocka_unit_test(test_index_outside),
	    cmocka_unit_test(test_index_too_far),
	    cmocka_unit_test(test_buffer_outside_of_memory),
	    cmocka_unit_test(test_buffer_that_wraps),
	    cmocka_unit_test(test_readable_behind_writable),
	    cmocka_unit_test(test_indirect_without_the_feature),
	    cmocka_unit_test(test_indirect_in_indirect),
	    cmocka_unit_test(test_indirect_table_of_odd_length),
	    cmocka_unit_test(test_more_buffers_than_the_device_takes),
	    cmocka_unit_test(test_more_than_4_gib),
	    cmocka_unit_test(test_packed_chain_without_end),
	    cmocka_unit_test(test_packed_ring_goes_on_outside),
	    cmocka_unit_test(test_buffer_over_two_pieces_of_memory),
	    cmocka_unit_test(test_split_requests_are_done_again_in_order),
	    cmocka_unit_test(test_packed_requests_are_done_again_in_order),
	    cmocka_unit_test(test_after_an_orderly_end_a_ring_begins_anywhere),
	    cmocka_unit_test(test_inflight_buffer_of_another_ring_is_refused),
	    cmocka_unit_test(test_what_is_written_is_in_the_log),
	    cmocka_unit_test(test_driver_is_interrupted_where_it_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
