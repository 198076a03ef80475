/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtqueues with a driver that breaks the rules: one rule a test, and all small rings there are.
 */
#include "virtqueue_fixture.h"

#define PLAIN VIRTIO_F_VERSION_1 /* for enable: no further feature */

static void breaks_with(struct fixture *f, const struct buffer *buffers, uint16_t count,
			const char *reason)
{
	enable(f, VIRTIO_F_INDIRECT_DESC);
	offer(f, buffers, count);
	assert_breaks(f, reason);
	/* Not even a read section stays open: this would time out. */
	assert_int_equal(memory_region_unplug(f->map, f->elastic, 0, UNIT), 0);
}

static void a_buffer_outside_of_memory(void **state)
{
	breaks_with(*state, &(struct buffer){RAM_END, 8, 0}, 1, "outside");
}

static void a_buffer_that_ends_outside_of_memory(void **state)
{
	breaks_with(*state, &(struct buffer){RAM_END - 7, 8, 0}, 1, "outside");
}

static void a_buffer_that_wraps_around_the_address_space(void **state)
{
	breaks_with(*state, &(struct buffer){UINT64_MAX - 3, 8, WRITE}, 1, "outside");
}

static void a_buffer_in_unplugged_memory(void **state)
{
	breaks_with(*state, &(struct buffer){ELASTIC + UNIT, 8, WRITE}, 1, "unplugged");
}

static void a_buffer_that_ends_in_unplugged_memory(void **state)
{
	breaks_with(*state, &(struct buffer){ELASTIC + UNIT - 1, 2, WRITE}, 1, "unplugged");
}

static void an_empty_buffer(void **state)
{
	breaks_with(*state, &(struct buffer){BUFFERS, 0, 0}, 1, "empty");
}

static void a_readable_buffer_behind_a_writable_one(void **state)
{
	const struct buffer buffers[] = {{BUFFERS, 8, WRITE}, {BUFFERS, 8, 0}};

	breaks_with(*state, buffers, 2, "behind");
}

static void a_chain_of_more_than_4_gib(void **state)
{
	const struct buffer buffers[] = {{HUGE_ADDRESS, HUGE_SIZE, 0},
					 {HUGE_ADDRESS, HUGE_SIZE, WRITE}};

	breaks_with(*state, buffers, 2, "4 GiB");
}

static void more_buffers_than_the_device_takes(void **state)
{
	struct fixture *f = *state;
	const struct buffer buffers[] = {{BUFFERS, 8, 0}, {BUFFERS, 8, 0}, {BUFFERS, 8, 0}};

	f->chain.iov_max = 2;
	breaks_with(f, buffers, 3, "more buffers");
}

static void a_split_buffer_needs_room_for_both_parts(void **state)
{
	struct fixture *f = *state;

	f->chain.iov_max = 1;
	breaks_with(f, &(struct buffer){BORDER - 1, 2, 0}, 1, "more buffers");
}

static void a_head_outside_of_the_table(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	publish_split(f, SIZE);
	assert_breaks(f, "outside its table");
}

static void a_next_descriptor_outside_of_the_table(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	put_split(f, DESCRIPTORS, 0, &(struct buffer){BUFFERS, 8, NEXT}, 0xffff);
	publish_split(f, 0);
	assert_breaks(f, "outside its table");
}

static void a_chain_that_loops(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	put_split(f, DESCRIPTORS, 0, &(struct buffer){BUFFERS, 8, NEXT}, 1);
	put_split(f, DESCRIPTORS, 1, &(struct buffer){BUFFERS, 8, NEXT}, 0);
	publish_split(f, 0);
	assert_breaks(f, "loops");
}

static void an_indirect_table_that_loops(void **state)
{
	struct fixture *f = *state;

	put_split(f, TABLE, 0, &(struct buffer){BUFFERS, 8, NEXT}, 0);
	breaks_with(f, &(struct buffer){TABLE, 16, INDIRECT}, 1, "loops");
}

static void a_packed_chain_without_end(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	for (uint16_t i = 0; i < SIZE; i++)
		put_packed(f, DESCRIPTORS, i, &(struct buffer){BUFFERS, 8, 0}, 0, NEXT | 0x80);
	assert_breaks(f, "longer than the queue");
}

static void an_available_index_too_far_ahead(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	put_le16(at(f, DRIVER + 2), SIZE + 1);
	assert_breaks(f, "available index");
}

static void an_available_index_that_goes_back(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	put_le16(at(f, DRIVER + 2), 0xffff);
	assert_breaks(f, "available index");
}

static void an_indirect_descriptor_without_the_feature(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	offer(f, &(struct buffer){TABLE, 16, INDIRECT}, 1);
	assert_breaks(f, "without the feature");
}

static void an_indirect_table_of_no_entries(void **state)
{
	breaks_with(*state, &(struct buffer){TABLE, 0, INDIRECT}, 1, "invalid length");
}

static void an_indirect_table_of_half_an_entry(void **state)
{
	breaks_with(*state, &(struct buffer){TABLE, 24, INDIRECT}, 1, "invalid length");
}

static void an_indirect_table_longer_than_the_queue(void **state)
{
	breaks_with(*state, &(struct buffer){TABLE, (SIZE + 1) * 16, INDIRECT}, 1, "longer");
}

static void an_indirect_table_in_unplugged_memory(void **state)
{
	breaks_with(*state, &(struct buffer){ELASTIC + UNIT, 16, INDIRECT}, 1, "not in plugged");
}

static void an_indirect_table_across_two_regions(void **state)
{
	breaks_with(*state, &(struct buffer){BORDER - 16, 32, INDIRECT}, 1, "not in plugged");
}

static void an_indirect_table_in_an_indirect_table(void **state)
{
	struct fixture *f = *state;

	put_indirect(f, 0, &(struct buffer){TABLE, 16, INDIRECT}, true);
	breaks_with(f, &(struct buffer){TABLE, 16, INDIRECT}, 1, "another indirect");
}

static void an_indirect_descriptor_with_a_next_one(void **state)
{
	const struct buffer buffers[] = {{TABLE, 16, INDIRECT}, {BUFFERS, 8, 0}};

	breaks_with(*state, buffers, 2, "indirect descriptor");
}

static void an_indirect_descriptor_at_the_end_of_a_packed_chain(void **state)
{
	const struct buffer buffers[] = {{BUFFERS, 8, 0}, {TABLE, 16, INDIRECT}};

	breaks_with(*state, buffers, 2, "indirect descriptor");
}

static void more_chains_in_flight_than_entries(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[SIZE][IOV_MAX_FIXTURE];
	struct virtqueue_chain chains[SIZE];

	enable(f, PLAIN);
	for (int i = 0; i < SIZE; i++) {
		chains[i] = (struct virtqueue_chain){.iov = iov[i], .iov_max = IOV_MAX_FIXTURE};
		offer_one(f, 0);
		assert_int_equal(virtqueue_pop(&f->queue, &chains[i]), 1);
	}
	offer_one(f, 0); /* over one that is in use */
	assert_breaks(f, "in flight");
	for (int i = 0; i < SIZE; i++)
		virtqueue_discard(&f->queue, &chains[i]);
}

static void rings_that_are_unplugged_in_use(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.descriptors = ELASTIC + 0x000;
	f->queue.layout.driver = ELASTIC + 0x100;
	f->queue.layout.device = ELASTIC + 0x200;
	enable(f, PLAIN);
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
	assert_int_equal(memory_region_unplug(f->map, f->elastic, 0, UNIT), 0);
	assert_breaks(f, "no longer");
	virtqueue_notify(&f->queue);
	assert_false(virtqueue_notifications(&f->queue, true));
}

static void a_used_ring_that_is_unplugged_before_a_push(void **state)
{
	struct fixture *f = *state;
	uint64_t *area = f->packed ? &f->queue.layout.descriptors : &f->queue.layout.device;
	struct memory_span span;
	int section;

	*area = ELASTIC;
	enable(f, PLAIN);
	section = memory_read_begin(f->map);
	assert_true(memory_access(f->map, ELASTIC, 16, MEMORY_WRITE, &span));
	memory_read_end(f->map, section);
	if (f->packed) {
		put_le64(span.host, BUFFERS);
		put_le32(span.host + 8, 8);
		put_le16(span.host + 14, 0x80);
	} else {
		offer_one(f, 0);
	}
	assert_pops(f);
	/* As if the guest had unplugged it: a real unplug waits for the chain. */
	f->elastic->plugged[0] &= ~1ULL;
	virtqueue_push(&f->queue, &f->chain, 0);
	f->elastic->plugged[0] |= 1;
	assert_int_equal(f->queue.in_flight, 0);
	assert_breaks(f, "no longer");
}

static void refuses(struct fixture *f, const char *reason)
{
	assert_int_equal(try_enable(f, VIRTIO_FEATURE(VIRTIO_F_VERSION_1)), -EINVAL);
	assert_false(f->queue.enabled);
	assert_non_null(strstr(f->device.last_violation, reason));
}

static void a_queue_of_no_entries_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.size = 0;
	refuses(f, "size");
}

static void a_queue_larger_than_offered_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.size = 2 * SIZE;
	refuses(f, "size");
}

static void a_split_queue_of_three_entries_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.size = 3;
	refuses(f, "size");
}

static void misaligned_descriptors_are_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.descriptors += 8;
	refuses(f, "misaligned");
}

static void a_misaligned_driver_area_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.driver += 1;
	refuses(f, "misaligned");
}

static void a_misaligned_device_area_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.device += 2;
	refuses(f, "misaligned");
}

static void a_ring_that_ends_outside_of_memory_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.descriptors = RAM_END - 16;
	refuses(f, "plugged");
}

static void a_ring_that_wraps_around_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.descriptors = UINT64_MAX - 15;
	refuses(f, "plugged");
}

static void a_ring_that_ends_in_unplugged_memory_is_refused(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.descriptors = ELASTIC + UNIT - 16;
	refuses(f, "plugged");
}

/* Buffers of all kinds that matter to a queue of two. */
static const uint64_t addresses[] = {BUFFERS, TABLE, RAM_END - 4, UINT64_MAX - 4};
static const uint32_t sizes[] = {0, 8, 32, UINT32_MAX};

static struct buffer nth_buffer(unsigned int n)
{
	return (struct buffer){
	    .address = addresses[n % 4], .size = sizes[n / 4 % 4], .flags = (uint16_t)(n / 16 % 8)};
}

#define BUFFER_KINDS (4 * 4 * 8)

/* Pops; whatever comes is inside memory and bounded. Returns whether a chain came. */
static bool pop_anything(struct fixture *f)
{
	int result = virtqueue_pop(&f->queue, &f->chain);
	uint64_t size = 0;

	assert_true(result == 1 || result == -EINVAL);
	if (result < 0)
		return false;
	assert_in_range(f->chain.out_count + f->chain.in_count, 1, 4);
	for (int i = 0; i < f->chain.out_count + f->chain.in_count; i++) {
		const uint8_t *start = f->chain.iov[i].iov_base;

		assert_true(range_contains((uintptr_t)f->blocks[0]->host, BORDER, (uintptr_t)start,
					   f->chain.iov[i].iov_len) ||
			    range_contains((uintptr_t)f->blocks[1]->host, RAM_END - BORDER,
					   (uintptr_t)start, f->chain.iov[i].iov_len));
		size += f->chain.iov[i].iov_len;
	}
	assert_int_equal(size, f->chain.out_size + f->chain.in_size);
	virtqueue_push(&f->queue, &f->chain, (uint32_t)f->chain.in_size);
	return true;
}

static void restart(struct fixture *f)
{
	uint8_t layout_size = f->queue.layout.size;

	virtqueue_reset(&f->queue);
	f->device.status = 0;
	f->queue.layout = (struct virtqueue_layout){
	    .size = layout_size, .descriptors = DESCRIPTORS, .driver = DRIVER, .device = DEVICE};
	enable(f, VIRTIO_F_INDIRECT_DESC);
}

/* Every table of two descriptors, with every link, from every head. */
static void every_small_split_ring_is_bounded(void **state)
{
	struct fixture *f = *state;
	unsigned int good = 0, bad = 0;

	f->queue.layout.size = 2;
	put_split(f, TABLE, 0, &(struct buffer){BUFFERS, 8, NEXT}, 1);
	put_split(f, TABLE, 1, &(struct buffer){BUFFERS, 8, WRITE}, 0);
	for (unsigned int first = 0; first < BUFFER_KINDS * 3; first++) {
		for (unsigned int second = 0; second < BUFFER_KINDS; second++) {
			struct buffer buffers[2] = {nth_buffer(first % BUFFER_KINDS),
						    nth_buffer(second)};

			restart(f);
			put_split(f, DESCRIPTORS, 0, &buffers[0], first / BUFFER_KINDS);
			put_split(f, DESCRIPTORS, 1, &buffers[1], second % 3);
			put_le16(at(f, DRIVER + 2), 1);
			put_le16(at(f, DRIVER + 4), second % 5 ? 0 : 1);
			*(pop_anything(f) ? &good : &bad) += 1;
		}
	}
	assert_true(good > 1000 && bad > 1000);
}

static void every_small_packed_ring_is_bounded(void **state)
{
	struct fixture *f = *state;
	unsigned int good = 0, bad = 0;

	f->queue.layout.size = 2;
	put_packed(f, TABLE, 0, &(struct buffer){BUFFERS, 8, 0}, 0, 0);
	put_packed(f, TABLE, 1, &(struct buffer){BUFFERS, 8, 0}, 0, WRITE);
	for (unsigned int first = 0; first < BUFFER_KINDS; first++) {
		for (unsigned int second = 0; second < BUFFER_KINDS; second++) {
			struct buffer buffers[2] = {nth_buffer(first), nth_buffer(second)};

			restart(f);
			for (uint16_t i = 0; i < 2; i++)
				put_packed(f, DESCRIPTORS, i, &buffers[i], 0xabcd,
					   buffers[i].flags | 0x80);
			*(pop_anything(f) ? &good : &bad) += 1;
		}
	}
	assert_true(good > 1000 && bad > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_buffer_outside_of_memory),
	    BOTH(a_buffer_that_ends_outside_of_memory),
	    BOTH(a_buffer_that_wraps_around_the_address_space),
	    BOTH(a_buffer_in_unplugged_memory),
	    BOTH(a_buffer_that_ends_in_unplugged_memory),
	    BOTH(an_empty_buffer),
	    BOTH(a_readable_buffer_behind_a_writable_one),
	    BOTH(a_chain_of_more_than_4_gib),
	    BOTH(more_buffers_than_the_device_takes),
	    BOTH(a_split_buffer_needs_room_for_both_parts),
	    SPLIT(a_head_outside_of_the_table),
	    SPLIT(a_next_descriptor_outside_of_the_table),
	    SPLIT(a_chain_that_loops),
	    SPLIT(an_indirect_table_that_loops),
	    PACKED(a_packed_chain_without_end),
	    SPLIT(an_available_index_too_far_ahead),
	    SPLIT(an_available_index_that_goes_back),
	    BOTH(an_indirect_descriptor_without_the_feature),
	    BOTH(an_indirect_table_of_no_entries),
	    BOTH(an_indirect_table_of_half_an_entry),
	    BOTH(an_indirect_table_longer_than_the_queue),
	    BOTH(an_indirect_table_in_unplugged_memory),
	    BOTH(an_indirect_table_across_two_regions),
	    BOTH(an_indirect_table_in_an_indirect_table),
	    BOTH(an_indirect_descriptor_with_a_next_one),
	    PACKED(an_indirect_descriptor_at_the_end_of_a_packed_chain),
	    BOTH(more_chains_in_flight_than_entries),
	    BOTH(rings_that_are_unplugged_in_use),
	    BOTH(a_used_ring_that_is_unplugged_before_a_push),
	    BOTH(a_queue_of_no_entries_is_refused),
	    BOTH(a_queue_larger_than_offered_is_refused),
	    SPLIT(a_split_queue_of_three_entries_is_refused),
	    BOTH(misaligned_descriptors_are_refused),
	    BOTH(a_misaligned_driver_area_is_refused),
	    BOTH(a_misaligned_device_area_is_refused),
	    BOTH(a_ring_that_ends_outside_of_memory_is_refused),
	    BOTH(a_ring_that_wraps_around_is_refused),
	    BOTH(a_ring_that_ends_in_unplugged_memory_is_refused),
	    SPLIT(every_small_split_ring_is_bounded),
	    PACKED(every_small_packed_ring_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
