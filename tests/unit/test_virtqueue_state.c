/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a queue: one that is loaded goes on where the saved one stopped, also where its
 * indexes wrap, and what cannot be is refused.
 */
#include "base/state.h"
#include "virtqueue_fixture.h"

#define OFFSET_SIZE	   2 /* of fields in the state of an enabled queue */
#define OFFSET_DESCRIPTORS 4
#define OFFSET_DRIVER	   12
#define OFFSET_DEVICE	   20
#define OFFSET_AVAILABLE   28
#define OFFSET_USED	   30
#define OFFSET_SIGNALLED   34
#define STATE_SIZE	   37

static struct error *visit(struct fixture *f, struct state *state)
{
	virtqueue_state(&f->queue, f->map,
			VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) |
			    (f->packed ? VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) : 0),
			state);
	return state_finish(state);
}

static void save(struct fixture *f, uint8_t bytes[STATE_SIZE])
{
	AUTO_STATE struct state *state = state_save_begin(false);
	size_t size;

	assert_null(visit(f, state));
	memcpy(bytes, state_bytes(state, &size), STATE_SIZE);
	assert_int_equal(size, STATE_SIZE);
}

/* Into a new queue of the same memory. */
static struct error *load(struct fixture *f, const uint8_t bytes[STATE_SIZE])
{
	AUTO_STATE struct state *state = state_load_begin(bytes, STATE_SIZE, 1);

	f->queue = (struct virtqueue){0};
	virtqueue_init(&f->queue, &f->device, 0, SIZE);
	return visit(f, state);
}

static void use_once(struct fixture *f)
{
	uint32_t written;
	uint16_t id, head = offer_one(f, WRITE);

	assert_pops(f);
	virtqueue_push(&f->queue, &f->chain, 7);
	virtqueue_notify(&f->queue);
	assert_true(take_used(f, 1, &id, &written));
	assert_int_equal(id, head);
	assert_int_equal(written, 7);
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
}

static void enable_at_the_wrap(struct fixture *f)
{
	enable(f, VIRTIO_F_EVENT_IDX);
	if (f->packed)
		return; /* four chains are a turn */
	f->queue.next_avail = f->queue.next_used = f->queue.signalled_used = 0xfff8;
	f->available = f->used = 0xfff8;
	put_le16(at(f, DRIVER + 2), f->available);
	put_le16(at(f, DEVICE + 2), f->used);
}

static void it_goes_on_at_every_position(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[STATE_SIZE];

	enable_at_the_wrap(f);
	for (int i = 0; i < 24; i++) {
		use_once(f);
		save(f, bytes);
		assert_null(load(f, bytes));
	}
	assert_false(f->queue.broken);
}

static void what_was_offered_is_not_forgotten(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[STATE_SIZE];
	uint32_t written;
	uint16_t id;

	enable_at_the_wrap(f);
	for (int i = 0; i < 7; i++)
		use_once(f);
	offer_one(f, WRITE);
	offer_one(f, WRITE);
	save(f, bytes);
	assert_null(load(f, bytes));
	for (int i = 0; i < 2; i++) {
		assert_pops(f);
		virtqueue_push(&f->queue, &f->chain, 1);
		assert_true(take_used(f, 1, &id, &written));
	}
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 0);
}

static void the_event_index_goes_on(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[STATE_SIZE];
	uint16_t event;

	enable_at_the_wrap(f);
	use_once(f);
	save(f, bytes);
	assert_null(load(f, bytes));
	/* The driver wants to hear of the second chain from here. */
	event = f->packed ? f->used + 1 + 0x8000 : f->used + 1;
	put_le16(at(f, f->packed ? DRIVER : DRIVER + 4 + SIZE * 2), event);
	if (f->packed)
		put_le16(at(f, DRIVER + 2), 2);
	f->interrupts = 0;
	use_once(f);
	assert_int_equal(f->interrupts, 0);
	use_once(f);
	assert_int_equal(f->interrupts, 1);
}

static void chains_in_flight_cannot_be_saved(void **state)
{
	AUTO_STATE struct state *saved = state_save_begin(false);
	struct fixture *f = *state;
	struct error *error;

	enable(f, VIRTIO_F_EVENT_IDX);
	offer_one(f, WRITE);
	assert_pops(f);
	error = visit(f, saved);
	assert_non_null(strstr(error_message(error), "in flight"));
	error_free(error);
	virtqueue_discard(&f->queue, &f->chain);
}

static void assert_refused(struct fixture *f, const uint8_t *bytes, const char *words)
{
	struct error *error = load(f, bytes);

	assert_non_null(error);
	if (!strstr(error_message(error), words))
		fail_msg("'%s' does not say '%s'", error_message(error), words);
	error_free(error);
	assert_false(f->queue.enabled);
}

static void what_a_driver_could_not_set_is_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t good[STATE_SIZE], bytes[STATE_SIZE];

#define REFUSED(offset, value, words)                                                              \
	do {                                                                                       \
		memcpy(bytes, good, STATE_SIZE);                                                   \
		put_be16(bytes + (offset), value);                                                 \
		assert_refused(f, bytes, words);                                                   \
	} while (0)
	enable(f, VIRTIO_F_EVENT_IDX);
	save(f, good);
	REFUSED(OFFSET_SIZE, 0, "size");
	REFUSED(OFFSET_SIZE, SIZE * 2, "size");
	if (!f->packed)
		REFUSED(OFFSET_SIZE, 3, "size");
	REFUSED(OFFSET_DESCRIPTORS + 6, DESCRIPTORS + 8, "descriptors");
	REFUSED(OFFSET_DRIVER + 6, DRIVER + 1, "driver area");
	REFUSED(OFFSET_DEVICE + 6, DEVICE + 2, "device area");
	REFUSED(OFFSET_USED, 1, "used wrap");
	REFUSED(OFFSET_AVAILABLE, 1, "used wrap");
	if (f->packed) {
		REFUSED(OFFSET_AVAILABLE, SIZE, "next available");
		REFUSED(OFFSET_USED, SIZE, "next used");
		REFUSED(OFFSET_SIGNALLED, SIZE, "signalled used");
	}
	assert_null(load(f, good));
}

static void rings_outside_of_memory_break_the_queue_when_used(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[STATE_SIZE];

	enable(f, VIRTIO_F_EVENT_IDX);
	save(f, bytes);
	put_be64(bytes + OFFSET_DESCRIPTORS, UINT64_MAX - 15);
	put_be64(bytes + OFFSET_DRIVER, UINT64_MAX - 3);
	assert_null(load(f, bytes));
	assert_breaks(f, "no longer in plugged memory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(it_goes_on_at_every_position),
	    BOTH(what_was_offered_is_not_forgotten),
	    BOTH(the_event_index_goes_on),
	    BOTH(chains_in_flight_cannot_be_saved),
	    BOTH(what_a_driver_could_not_set_is_refused),
	    BOTH(rings_outside_of_memory_break_the_queue_when_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
