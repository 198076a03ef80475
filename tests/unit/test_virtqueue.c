/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtqueues with a driver that keeps the rules: order, wrapping, indirect tables, both event
 * suppressions. */
#include "virtqueue_fixture.h"

#define PLAIN VIRTIO_F_VERSION_1 /* for enable: no further feature */

static void an_empty_queue_gives_nothing(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
	assert_false(virtqueue_has_chain(&f->queue));
}

static void a_queue_that_is_not_enabled_gives_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
}

static void a_chain_has_the_buffers_of_the_driver(void **state)
{
	struct fixture *f = *state;
	const struct buffer buffers[] = {
	    {BUFFERS, 16, 0}, {BUFFERS + 0x100, 1, 0}, {BUFFERS + 0x200, 512, WRITE}};

	enable(f, PLAIN);
	offer(f, buffers, 3);
	assert_pops(f);
	assert_int_equal(f->chain.out_count, 2);
	assert_int_equal(f->chain.out_size, 17);
	assert_int_equal(f->chain.in_count, 1);
	assert_int_equal(f->chain.in_size, 512);
	assert_ptr_equal(f->chain.iov[1].iov_base, at(f, BUFFERS + 0x100));
	assert_ptr_equal(virtqueue_chain_in(&f->chain)->iov_base, at(f, BUFFERS + 0x200));
	virtqueue_discard(&f->queue, &f->chain);
}

static void the_driver_sees_what_was_pushed(void **state)
{
	struct fixture *f = *state;
	uint32_t written;
	uint16_t head, id;

	enable(f, PLAIN);
	offer_one(f, WRITE);
	assert_pops(f);
	virtqueue_push(&f->queue, &f->chain, 0);
	assert_true(take_used(f, 1, &id, &written));
	head = offer_one(f, WRITE);
	assert_pops(f);
	assert_false(take_used(f, 1, &id, &written));
	virtqueue_push(&f->queue, &f->chain, 33);
	assert_true(take_used(f, 1, &id, &written));
	assert_int_equal(id, head);
	assert_int_equal(written, 33);
	assert_false(take_used(f, 1, &id, &written));
}

static void chains_complete_in_any_order(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[3][IOV_MAX_FIXTURE];
	struct virtqueue_chain chains[3];
	uint16_t heads[3], id;
	uint32_t written;

	enable(f, PLAIN);
	for (int i = 0; i < 3; i++) {
		chains[i] = (struct virtqueue_chain){.iov = iov[i], .iov_max = IOV_MAX_FIXTURE};
		heads[i] = offer_one(f, WRITE);
		assert_int_equal(virtqueue_pop(&f->queue, &chains[i]), 1);
	}
	assert_int_equal(f->queue.in_flight, 3);
	for (int i = 2; i >= 0; i--)
		virtqueue_push(&f->queue, &chains[i], (uint32_t)i);
	for (int i = 2; i >= 0; i--) {
		assert_true(take_used(f, 1, &id, &written));
		assert_int_equal(id, heads[i]);
		assert_int_equal(written, i);
	}
	assert_int_equal(f->queue.in_flight, 0);
}

static void chains_pushed_together_arrive_together(void **state)
{
	struct fixture *f = *state;
	const uint32_t lengths[2] = {1, 2};
	struct iovec iov[2][IOV_MAX_FIXTURE];
	struct virtqueue_chain chains[2];
	uint32_t written;
	uint16_t id;

	enable(f, PLAIN);
	for (int i = 0; i < 2; i++) {
		chains[i] = (struct virtqueue_chain){.iov = iov[i], .iov_max = IOV_MAX_FIXTURE};
		offer_one(f, WRITE);
		assert_int_equal(virtqueue_pop(&f->queue, &chains[i]), 1);
	}
	virtqueue_push_many(&f->queue, chains, lengths, 2);
	for (uint32_t i = 1; i <= 2; i++) {
		assert_true(take_used(f, 1, &id, &written));
		assert_int_equal(written, i);
	}
	assert_int_equal(f->queue.in_flight, 0);
}

static void the_ring_goes_round_many_times(void **state)
{
	struct fixture *f = *state;
	struct buffer buffers[SIZE] = {
	    {BUFFERS, 8, 0}, {BUFFERS, 8, 0}, {BUFFERS, 8, WRITE}, {BUFFERS, 8, WRITE}};

	enable(f, PLAIN);
	f->queue.next_avail = f->packed ? 0 : 65000; /* the indexes wrap as well */
	f->queue.next_used = f->queue.next_avail;
	f->available = f->used = f->queue.next_avail;
	put_le16(at(f, DRIVER + 2), f->packed ? 0 : f->available);
	put_le16(at(f, DEVICE + 2), f->packed ? 0 : f->used);
	for (uint32_t round = 0; round < 2000; round++) {
		uint16_t count = round % SIZE + 1, head = offer(f, buffers, count), id;
		uint32_t written;

		assert_pops(f);
		assert_int_equal(f->chain.out_count + f->chain.in_count, count);
		virtqueue_push(&f->queue, &f->chain, MIN(round, f->chain.in_size));
		assert_true(take_used(f, count, &id, &written));
		assert_int_equal(id, head);
		assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
	}
	assert_int_equal(f->queue.chains, 2000);
}

static void a_chain_put_back_comes_again(void **state)
{
	struct fixture *f = *state;
	struct buffer buffers[3] = {{BUFFERS, 8, 0}, {BUFFERS, 8, 0}, {BUFFERS, 8, WRITE}};

	enable(f, PLAIN);
	for (int i = 0; i < 20; i++) {
		uint16_t head = offer(f, buffers, 3), id;
		uint32_t written;

		for (int again = 0; again < 3; again++) {
			assert_pops(f);
			assert_int_equal(f->chain.id, head);
			virtqueue_unpop(&f->queue, &f->chain);
			assert_int_equal(f->queue.in_flight, 0);
		}
		assert_pops(f);
		virtqueue_push(&f->queue, &f->chain, 0);
		assert_true(take_used(f, 3, &id, &written));
	}
	assert_int_equal(f->queue.chains, 20);
}

static void an_indirect_table_is_followed(void **state)
{
	struct fixture *f = *state;
	struct buffer indirect = {TABLE, 3 * 16, INDIRECT};

	enable(f, VIRTIO_F_INDIRECT_DESC);
	put_indirect(f, 0, &(struct buffer){BUFFERS, 10, 0}, false);
	put_indirect(f, 1, &(struct buffer){BUFFERS + 0x100, 20, WRITE}, false);
	put_indirect(f, 2, &(struct buffer){BUFFERS + 0x200, 30, WRITE}, true);
	offer(f, &indirect, 1);
	assert_pops(f);
	assert_int_equal(f->chain.out_size, 10);
	assert_int_equal(f->chain.in_size, 50);
	assert_int_equal(f->chain.descriptors, 1);
	virtqueue_discard(&f->queue, &f->chain);
}

static void an_indirect_table_may_be_unaligned(void **state)
{
	struct fixture *f = *state;
	struct buffer indirect = {TABLE + 3, 16, INDIRECT};

	enable(f, VIRTIO_F_INDIRECT_DESC);
	put_indirect(f, 0, &(struct buffer){BUFFERS, 10, 0}, true);
	memmove(at(f, TABLE + 3), at(f, TABLE), 16);
	offer(f, &indirect, 1);
	assert_pops(f);
	assert_int_equal(f->chain.out_size, 10);
	virtqueue_discard(&f->queue, &f->chain);
}

static void a_chain_may_end_in_an_indirect_table(void **state)
{
	struct fixture *f = *state;
	const struct buffer buffers[2] = {{BUFFERS, 8, 0}, {TABLE, 16, INDIRECT}};

	enable(f, VIRTIO_F_INDIRECT_DESC);
	put_indirect(f, 0, &(struct buffer){BUFFERS, 10, WRITE}, true);
	offer(f, buffers, 2);
	assert_pops(f);
	assert_int_equal(f->chain.out_size, 8);
	assert_int_equal(f->chain.in_size, 10);
	virtqueue_discard(&f->queue, &f->chain);
}

static void a_buffer_across_two_regions_becomes_two(void **state)
{
	struct fixture *f = *state;
	struct buffer buffer = {BORDER - 10, 30, 0};

	enable(f, PLAIN);
	offer(f, &buffer, 1);
	assert_pops(f);
	assert_int_equal(f->chain.out_count, 2);
	assert_int_equal(f->chain.out_size, 30);
	assert_ptr_equal(f->chain.iov[0].iov_base, at(f, BORDER - 10));
	assert_int_equal(f->chain.iov[0].iov_len, 10);
	assert_ptr_equal(f->chain.iov[1].iov_base, at(f, BORDER));
	assert_int_equal(f->chain.iov[1].iov_len, 20);
	virtqueue_discard(&f->queue, &f->chain);
}

static void copies_cross_buffers_and_stay_inside(void **state)
{
	struct fixture *f = *state;
	const struct buffer buffers[] = {{BUFFERS, 2, 0},
					 {BUFFERS + 0x100, 3, 0},
					 {BUFFERS + 0x200, 2, WRITE},
					 {BUFFERS + 0x300, 2, WRITE}};
	char text[6] = {0};

	enable(f, PLAIN);
	memcpy(at(f, BUFFERS), "ab", 2);
	memcpy(at(f, BUFFERS + 0x100), "cdeX", 4);
	offer(f, buffers, 4);
	assert_pops(f);
	assert_true(virtqueue_chain_read(&f->chain, 1, text, 4));
	assert_string_equal(text, "bcde");
	assert_false(virtqueue_chain_read(&f->chain, 1, text, 5));
	assert_false(virtqueue_chain_read(&f->chain, UINT64_MAX, text, 2));
	assert_true(virtqueue_chain_write(&f->chain, 1, "XY", 2));
	assert_int_equal(*at(f, BUFFERS + 0x201), 'X');
	assert_int_equal(*at(f, BUFFERS + 0x300), 'Y');
	assert_false(virtqueue_chain_write(&f->chain, 0, "12345", 5));
	virtqueue_discard(&f->queue, &f->chain);
}

static void a_packed_ring_may_have_any_size(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.size = 3;
	enable(f, PLAIN);
	for (int i = 0; i < 20; i++) {
		uint32_t written;
		uint16_t id;

		offer_one(f, WRITE);
		assert_pops(f);
		virtqueue_push(&f->queue, &f->chain, 1);
		assert_true(take_used(f, 1, &id, &written));
	}
}

/* Pushes @count chains of one buffer and asks for an interrupt once. */
static void push_and_notify(struct fixture *f, int count)
{
	for (int i = 0; i < count; i++) {
		uint32_t written;
		uint16_t id;

		offer_one(f, WRITE);
		assert_pops(f);
		virtqueue_push(&f->queue, &f->chain, 0);
		assert_true(take_used(f, 1, &id, &written));
	}
	virtqueue_notify(&f->queue);
}

static void a_push_interrupts(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	push_and_notify(f, 2);
	assert_int_equal(f->interrupts, 1);
}

static void without_a_push_nothing_interrupts(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	virtqueue_notify(&f->queue);
	push_and_notify(f, 1);
	virtqueue_notify(&f->queue);
	assert_int_equal(f->interrupts, 1);
}

static void a_driver_that_wants_none_is_not_interrupted(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	put_le16(at(f, f->packed ? DRIVER + 2 : DRIVER), 1);
	push_and_notify(f, 1);
	assert_int_equal(f->interrupts, 0);
}

/*
 * Every start, batch and event index near the wrap: an interrupt is due exactly if the entry that
 * the index names is among those of the batch.
 */
static void split_event_indexes_are_right_at_the_wrap(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	for (int start = -6; start <= 6; start++) {
		for (int batch = 0; batch <= SIZE; batch++) {
			for (int event = -8; event <= 8; event++) {
				bool expected = event >= 0 && event < batch;

				f->queue.next_avail = f->queue.next_used = (uint16_t)start;
				f->queue.signalled_used = (uint16_t)start;
				f->available = f->used = (uint16_t)start;
				put_le16(at(f, DEVICE + 2), (uint16_t)start);
				put_le16(at(f, DRIVER + 2), (uint16_t)start);
				put_le16(at(f, DRIVER + 4 + 2 * SIZE), (uint16_t)(start + event));
				f->interrupts = 0;
				push_and_notify(f, batch);
				assert_int_equal(f->interrupts, expected);
			}
		}
	}
}

static void packed_event_positions_are_right_at_the_wrap(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	put_le16(at(f, DRIVER + 2), 2); /* the position counts */
	for (int start = 0; start < 2 * SIZE; start++) {
		for (int batch = 0; batch <= SIZE; batch++) {
			/* A driver asks for a position it has not seen used, at most a turn ahead.
			 */
			for (int event = 0; event < SIZE; event++) {
				int position = start + event;
				bool wrap = position / SIZE % 2 == 0;

				f->next = f->used = f->queue.next_avail = f->queue.next_used =
				    (uint16_t)(start % SIZE);
				f->wrap = f->used_wrap = f->queue.avail_wrap = f->queue.used_wrap =
				    start < SIZE;
				f->queue.signalled_used =
				    (uint16_t)(start % SIZE | (start < SIZE ? 0x8000 : 0));
				put_le16(at(f, DRIVER),
					 (uint16_t)(position % SIZE | (wrap ? 0x8000 : 0)));
				f->interrupts = 0;
				push_and_notify(f, batch);
				assert_int_equal(f->interrupts, event < batch);
			}
		}
	}
}

static void after_a_whole_turn_without_notify_the_next_one_interrupts(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	if (f->packed)
		put_le16(at(f, DRIVER + 2), 2);
	/* An event index that no batch of this test contains. */
	put_le16(at(f, f->packed ? DRIVER : DRIVER + 4 + 2 * SIZE), f->packed ? 3 : 0x8000);
	f->queue.signalled_used = f->packed ? 0x8000 : 1;
	for (int i = 0; i < 2 * SIZE; i++) {
		uint32_t written;
		uint16_t id;

		offer_one(f, WRITE);
		assert_pops(f);
		virtqueue_push(&f->queue, &f->chain, 0);
		assert_true(take_used(f, 1, &id, &written));
	}
	virtqueue_notify(&f->queue);
	assert_int_equal(f->interrupts, 1);
}

static void enabling_notifications_tells_of_chains_that_came_meanwhile(void **state)
{
	struct fixture *f = *state;

	enable(f, PLAIN);
	assert_false(virtqueue_notifications(&f->queue, false));
	assert_false(virtqueue_notifications(&f->queue, true));
	offer_one(f, 0);
	assert_true(virtqueue_notifications(&f->queue, true));
}

static void disabling_notifications_is_written_to_the_ring(void **state)
{
	struct fixture *f = *state;
	uint64_t flags = f->packed ? DEVICE + 2 : DEVICE;

	enable(f, PLAIN);
	virtqueue_notifications(&f->queue, false);
	assert_int_equal(get_le16(at(f, flags)), 1);
	virtqueue_notifications(&f->queue, true);
	assert_int_equal(get_le16(at(f, flags)), 0);
}

static void with_event_indexes_the_next_chain_is_asked_for(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	push_and_notify(f, 3);
	assert_false(virtqueue_notifications(&f->queue, true));
	if (f->packed) {
		assert_int_equal(get_le16(at(f, DEVICE)), 3 | 0x8000);
		assert_int_equal(get_le16(at(f, DEVICE + 2)), 2);
	} else {
		assert_int_equal(get_le16(at(f, DEVICE + 4 + 8 * SIZE)), 3);
	}
}

static void a_reset_queue_starts_anew(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	push_and_notify(f, 3);
	virtqueue_reset(&f->queue);
	assert_false(f->queue.enabled);
	assert_int_equal(f->queue.layout.size, SIZE);
	assert_int_equal(f->queue.layout.descriptors, 0);
	assert_int_equal(f->queue.next_avail, 0);
	assert_int_equal(f->queue.chains, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(an_empty_queue_gives_nothing),
	    BOTH(a_queue_that_is_not_enabled_gives_nothing),
	    BOTH(a_chain_has_the_buffers_of_the_driver),
	    BOTH(the_driver_sees_what_was_pushed),
	    BOTH(chains_complete_in_any_order),
	    BOTH(chains_pushed_together_arrive_together),
	    BOTH(the_ring_goes_round_many_times),
	    BOTH(a_chain_put_back_comes_again),
	    BOTH(an_indirect_table_is_followed),
	    BOTH(an_indirect_table_may_be_unaligned),
	    SPLIT(a_chain_may_end_in_an_indirect_table),
	    BOTH(a_buffer_across_two_regions_becomes_two),
	    BOTH(copies_cross_buffers_and_stay_inside),
	    PACKED(a_packed_ring_may_have_any_size),
	    BOTH(a_push_interrupts),
	    BOTH(without_a_push_nothing_interrupts),
	    BOTH(a_driver_that_wants_none_is_not_interrupted),
	    SPLIT(split_event_indexes_are_right_at_the_wrap),
	    PACKED(packed_event_positions_are_right_at_the_wrap),
	    BOTH(after_a_whole_turn_without_notify_the_next_one_interrupts),
	    BOTH(enabling_notifications_tells_of_chains_that_came_meanwhile),
	    BOTH(disabling_notifications_is_written_to_the_ring),
	    BOTH(with_event_indexes_the_next_chain_is_asked_for),
	    BOTH(a_reset_queue_starts_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
