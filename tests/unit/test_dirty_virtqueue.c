/* SPDX-License-Identifier: BSD-2-Clause */
/* What virtqueues mark in the log of writes: all that the driver may find changed, and no more. */
#include "virtqueue_fixture.h"

#include "base/bitmap.h"
#include "memory/dirty_log.h"

#define PAGE	0x1000ULL
#define RING(f) ((f)->packed ? DESCRIPTORS : DEVICE) /* that the device writes on a push */

/* Collects from the first 64 KiB, afresh: bit n is page n. */
static uint64_t collect(struct fixture *f)
{
	struct dirty_log *log = memory_map_dirty_log(f->map);
	uint64_t pages = 0;

	assert_null(dirty_log_collect(log, f->blocks[0], &pages));
	assert_null(dirty_log_before_copy(log, f->blocks[0], 0, BORDER / PAGE));
	return pages;
}

/* Pops a chain with a writable buffer of four pages, with the log on and empty. */
static void begin(struct fixture *f)
{
	struct buffer buffer = {BUFFERS, 4 * PAGE, WRITE};

	enable(f, VIRTIO_F_VERSION_1);
	offer(f, &buffer, 1);
	assert_pops(f);
	assert_null(dirty_log_start(memory_map_dirty_log(f->map)));
	collect(f);
}

static uint64_t page_bit(uint64_t address)
{
	return 1ULL << (address / PAGE);
}

static uint64_t buffer_bits(uint64_t pages)
{
	return ((1ULL << pages) - 1) << (BUFFERS / PAGE);
}

static void a_push_marks_what_was_written_and_the_ring(void **state)
{
	struct fixture *f = *state;

	begin(f);
	virtqueue_push(&f->queue, &f->chain, PAGE + 1);
	assert_int_equal(collect(f), buffer_bits(2) | page_bit(RING(f)));
}

/* The index is on one page, the entries on the next. */
static void a_used_ring_over_a_page_border_is_marked_on_both_sides(void **state)
{
	struct fixture *f = *state;

	f->queue.layout.device = DEVICE + PAGE - 4;
	begin(f);
	virtqueue_push(&f->queue, &f->chain, 0);
	assert_int_equal(collect(f), page_bit(DEVICE) | page_bit(DEVICE + PAGE));
	virtqueue_notifications(&f->queue, true);
	assert_int_equal(collect(f), page_bit(DEVICE));
}

static void a_push_marks_what_was_copied_beyond_its_length(void **state)
{
	struct fixture *f = *state;

	begin(f);
	assert_true(virtqueue_chain_write(&f->chain, 3 * PAGE, "a", 1));
	assert_int_equal(collect(f), 0);
	virtqueue_push(&f->queue, &f->chain, 0);
	assert_int_equal(collect(f), buffer_bits(4) | page_bit(RING(f)));
}

static void a_failed_copy_marks_nothing(void **state)
{
	struct fixture *f = *state;

	begin(f);
	assert_false(virtqueue_chain_write(&f->chain, 4 * PAGE, "a", 1));
	virtqueue_discard(&f->queue, &f->chain);
	assert_int_equal(collect(f), 0);
}

static void a_chain_that_was_written_directly_is_marked_when_it_is_dropped(void **state)
{
	struct fixture *f = *state;

	begin(f);
	memset(virtqueue_chain_in(&f->chain)->iov_base, 1, 1);
	virtqueue_discard(&f->queue, &f->chain);
	assert_int_equal(collect(f), buffer_bits(4));
}

static void who_knows_what_was_written_says_so(void **state)
{
	struct fixture *f = *state;

	begin(f);
	memset(virtqueue_chain_in(&f->chain)->iov_base, 1, 1);
	virtqueue_chain_wrote(&f->chain, 1);
	virtqueue_unpop(&f->queue, &f->chain);
	assert_int_equal(collect(f), buffer_bits(1));
	/* Popped again it has nothing left of that. */
	assert_pops(f);
	virtqueue_unpop(&f->queue, &f->chain);
	assert_int_equal(collect(f), 0);
}

static void a_readable_buffer_is_never_marked(void **state)
{
	struct fixture *f = *state;

	begin(f);
	virtqueue_push(&f->queue, &f->chain, 0);
	offer_one(f, 0);
	assert_pops(f);
	collect(f);
	virtqueue_push(&f->queue, &f->chain, 0);
	assert_int_equal(collect(f), page_bit(RING(f)));
}

static void asking_for_notifications_marks_where_it_is_asked(void **state)
{
	struct fixture *f = *state;

	enable(f, VIRTIO_F_EVENT_IDX);
	assert_null(dirty_log_start(memory_map_dirty_log(f->map)));
	collect(f);
	virtqueue_notifications(&f->queue, true);
	assert_int_equal(collect(f), page_bit(DEVICE));
}

static void a_chain_that_was_popped_before_the_start_is_marked(void **state)
{
	struct fixture *f = *state;
	struct buffer buffer = {BUFFERS, PAGE, WRITE};

	enable(f, VIRTIO_F_VERSION_1);
	offer(f, &buffer, 1);
	assert_pops(f);
	memset(virtqueue_chain_in(&f->chain)->iov_base, 1, 1);
	assert_null(dirty_log_start(memory_map_dirty_log(f->map)));
	collect(f);
	virtqueue_push(&f->queue, &f->chain, 1);
	assert_int_equal(collect(f), buffer_bits(1) | page_bit(RING(f)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_push_marks_what_was_written_and_the_ring),
	    SPLIT(a_used_ring_over_a_page_border_is_marked_on_both_sides),
	    BOTH(a_push_marks_what_was_copied_beyond_its_length),
	    BOTH(a_failed_copy_marks_nothing),
	    BOTH(a_chain_that_was_written_directly_is_marked_when_it_is_dropped),
	    BOTH(who_knows_what_was_written_says_so),
	    BOTH(a_readable_buffer_is_never_marked),
	    BOTH(asking_for_notifications_marks_where_it_is_asked),
	    BOTH(a_chain_that_was_popped_before_the_start_is_marked),
	};

	return cmocka_run_group_tests_name("dirty_virtqueue", tests, NULL, NULL);
}
