/* SPDX-License-Identifier: BSD-2-Clause */
/* The RDMA device goes on in another one, with the guest's memory; its peer, which does not move, notices nothing. */
#include "device_stream.h"
#include "rdma_device.h"

#define AT	 0x20000U		    /* of the other guest's data */
#define FIRST_PD (8U + 1 + 6 + 64 * 16 + 4) /* in the stream: its number, its command, its events */

static void save_device(struct virtio_device *device, struct state *state, struct stream *stream)
{
	struct state_part part;

	virtio_device_quiesce(device);
	/* Before it stands still there is nothing to say. */
	driver_no_error(device->stream->save(device, false, stream_keep, NULL));
	*stream = stream_save(device);
	virtio_device_state_part(device, &part);
	driver_no_error(state_visit(state, &part));
}

/* A device for @guest that is not in use, and does not have the port yet. */
static struct virtio_device *another(struct guest *guest)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 9, 9, 9};
	struct virtio_rdma_port port;
	struct virtio_device *device;
	char text[32];

	snprintf(text, sizeof(text), "%u.%u.%u.%u", guest->address[12], guest->address[13],
		 guest->address[14], guest->address[15]);
	driver_no_error(virtio_rdma_udp_port_open(text, true, &port));
	driver_no_error(virtio_rdma_create("rdma", mac, &port, &device));
	driver_add_device(&guest->driver, device);
	virtio_device_quiesce(device);
	return device;
}

/* Loads in pieces of @piece bytes. */
static struct error *load_device(struct virtio_device *device, const struct state *state,
				 const struct stream *stream, size_t piece)
{
	AUTO_STATE struct state *loaded = NULL;
	struct state_part part;
	size_t size;
	const void *bytes = state_bytes(state, &size);

	for (size_t at = 0; at < stream->size; at += piece)
		TRY(device->stream->load(device, stream->bytes + at, MIN(piece, stream->size - at),
					 false));
	TRY(device->stream->load(device, NULL, 0, true));
	loaded = state_load_begin(bytes, size, 1);
	virtio_device_state_part(device, &part);
	return state_visit(loaded, &part);
}

/* Where the driver has taken completions does not change. */
static void move_with(struct guest *guest, bool copy)
{
	struct virtio_device *device, *old = guest->driver.device;
	AUTO_STATE struct state *state = state_save_begin(false);
	struct stream stream;

	save_device(old, state, &stream);
	virtio_device_release(old);
	device = another(guest);
	driver_no_error(load_device(device, state, &stream, 1000));
	driver_no_error(virtio_device_take_over(device));
	if (copy)
		virtio_device_new_generation(device);
	virtio_device_destroy(old);
	virtio_device_resume(device);
	free(stream.bytes);
}

static void move(struct guest *guest)
{
	move_with(guest, false);
}

static void work_goes_on_at_either_end(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	for (int i = 0; i < 6; i++) {
		put_remote(new_work(&guests[0], WR_WRITE, 3 * i, 0, 100000), DATA + AT,
			   guests[1].key);
		post_work(&guests[0]);
		if (i % 2)
			move(&guests[i / 2 % 2]);
		put_remote(new_work(&guests[0], WR_READ, 3 * i + 1, AT, 70000), DATA + 3,
			   guests[1].key);
		post_work(&guests[0]);
		post_receive(&guests[1], &guests[1].rq, 77, AT + 1000, 5000);
		new_work(&guests[0], WR_SEND, 3 * i + 2, 0, 5000);
		post_work(&guests[0]);
		move(&guests[i / 2 % 2]);
		for (int j = 0; j < 3; j++)
			expect(&guests[0], 3 * i + j, 0);
		expect(&guests[1], 77, 0);
		assert_memory_equal(at(&guests[0], DATA + AT), at(&guests[1], DATA + 3), 70000);
		assert_memory_equal(at(&guests[1], DATA + AT + 1000), at(&guests[0], DATA), 5000);
	}
	guests_destroy(guests);
}

/* More than the engine holds, some of which it has. */
static void long_queues_go_on(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	for (uint64_t i = 0; i < SLOTS - 1; i++) {
		put_remote(new_work(&guests[0], WR_WRITE, i, 0, 3000), DATA + AT, guests[1].key);
		add_element(&guests[0], &guests[0].sq);
	}
	virtio_device_quiesce(guests[1].driver.device);
	kick(&guests[0], 1, guests[0].qpn);
	move(&guests[0]);
	virtio_device_resume(guests[1].driver.device);
	for (uint64_t i = 0; i < SLOTS - 1; i++)
		expect(&guests[0], i, 0);
	guests_destroy(guests);
}

/* Its kick was taken before, and will not come again. */
static void work_that_the_engine_has_not_is_found(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 3000), DATA + AT, guests[1].key);
	add_element(&guests[0], &guests[0].sq);
	move(&guests[0]);
	expect(&guests[0], 1, 0);
	guests_destroy(guests);
}

/* A second pair of each guest shares a receive queue; there are windows and fast regions too. */
static void objects_of_every_kind_go_on(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct guest *guest = &guests[1];
	uint32_t fast, window, given;
	struct queue shared;
	uint8_t *request = new_command(guest, CREATE_SRQ), *work;

	shared = new_queue(guest, SLOTS, RECEIVE_STRIDE);
	put_le32(request + 8, guest->pd);
	put_le32(request + 12, SLOTS);
	put_le32(request + 16, RECEIVE_STRIDE);
	put_le32(request + 20, RECEIVE_SGE);
	put_le32(request + 28, 1);
	put_run(request + 32, shared.address, queue_size(&shared));
	guest->srqn = make(guest, 48);
	put_le32(new_command(guest, MODIFY_SRQ) + 8, guest->srqn);
	put_le32(at(guest, REQUEST) + 12, 7);
	assert_int_equal(send_command(guest, 16, 8), 0);
	request = new_command(guest, CREATE_MR);
	put_le32(request + 8, guest->pd);
	put_le32(request + 16, 3);
	put_le32(request + 40, 4);
	fast = make(guest, 48);
	request = new_command(guest, CREATE_MW);
	put_le32(request + 8, guest->pd);
	put_le32(request + 12, 2);
	window = make(guest, 16);
	/* The region gets a page, whose address is in the guest's memory. */
	put_le64(at(guest, OBJECTS - 8), DATA);
	work = new_work(guest, WR_REG_MR, 1, 0, 0);
	put_le64(work + 24, DATA);
	put_le64(work + 32, 4096);
	put_le64(work + 40, OBJECTS - 8);
	put_le32(work + 48, 1);
	put_le32(work + 52, 12);
	put_le32(work + 56, fast | 9);
	put_le32(work + 60, EVERY_RIGHT);
	post_work(guest);
	expect(guest, 1, 0);
	work = new_work(guest, WR_BIND_MW, 2, 0, 0);
	put_le64(work + 24, DATA + 8192);
	put_le64(work + 32, 100);
	put_le32(work + 40, guest->key);
	put_le32(work + 44, window);
	put_le32(work + 48, window | 5);
	put_le32(work + 52, 2);
	post_work(guest);
	expect(guest, 2, 0);
	move(guest);
	assert_int_equal(simple_command(guest, QUERY_SRQ, guest->srqn), 0);
	assert_int_equal(get_le32(at(guest, ANSWER) + 8), 7);
	put_remote(new_work(&guests[0], WR_WRITE, 3, 0, 4096), DATA, fast | 9);
	post_work(&guests[0]);
	expect(&guests[0], 3, 0);
	assert_memory_equal(at(guest, DATA), at(&guests[0], DATA), 4096);
	put_remote(new_work(&guests[0], WR_WRITE, 4, 0, 100), DATA + 8192, window | 5);
	post_work(&guests[0]);
	expect(&guests[0], 4, 0);
	assert_memory_equal(at(guest, DATA + 8192), at(&guests[0], DATA), 100);
	/* Numbers that were given are not given again. */
	request = new_command(guest, CREATE_PD);
	given = make(guest, 8);
	assert_int_equal(given, guest->pd + 1);
	assert_int_equal(simple_command(guest, DESTROY_PD, guest->pd), EBUSY);
	guests_destroy(guests);
}

static void events_that_were_not_told_are(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	virtio_device_quiesce(guests[0].driver.device);
	__atomic_store_n(index_of(&guests[0], &guests[0].cq, 8), 2, __ATOMIC_SEQ_CST);
	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 100), DATA + AT, guests[1].key);
	add_element(&guests[0], &guests[0].sq);
	virtio_device_resume(guests[0].driver.device);
	kick(&guests[0], 1, guests[0].qpn);
	move(&guests[0]);
	expect_event(&guests[0], 0x100, guests[0].cqn);
	expect(&guests[0], 1, 0);
	guests_destroy(guests);
}

/* Another machine may have gone on with them. */
static void connections_of_a_copy_fail_and_say_so(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);

	post_receive(&guests[0], &guests[0].rq, 55, AT, 100);
	move_with(&guests[0], true);
	expect_event(&guests[0], 1, guests[0].qpn);
	assert_int_equal(qp_state(&guests[0]), STATE_ERR);
	expect(&guests[0], 55, 5);
	put_remote(new_work(&guests[0], WR_WRITE, 1, 0, 100), DATA + AT, guests[1].key);
	post_work(&guests[0]);
	expect(&guests[0], 1, 5);
	guests_destroy(guests);
}

static void connections_of_a_copy_that_moves_before_it_runs_fail_too(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct virtio_device *old = guests[0].driver.device, *copy, *device;
	AUTO_STATE struct state *first = state_save_begin(false);
	AUTO_STATE struct state *second = state_save_begin(false);
	struct stream stream;

	save_device(old, first, &stream);
	virtio_device_release(old);
	copy = another(&guests[0]);
	driver_no_error(load_device(copy, first, &stream, STREAM_MAX));
	virtio_device_new_generation(copy);
	free(stream.bytes);
	save_device(copy, second, &stream);
	device = another(&guests[0]);
	driver_no_error(load_device(device, second, &stream, STREAM_MAX));
	free(stream.bytes);
	driver_no_error(virtio_device_take_over(device));
	virtio_device_destroy(old);
	virtio_device_destroy(copy);
	virtio_device_resume(device);
	expect_event(&guests[0], 1, guests[0].qpn);
	assert_int_equal(qp_state(&guests[0]), STATE_ERR);
	guests_destroy(guests);
}

static void datagrams_of_a_copy_go_on(void **state)
{
	struct guest *guests = guests_create(TYPE_UD);

	move_with(&guests[0], true);
	assert_int_equal(qp_state(&guests[0]), STATE_RTS);
	guests_destroy(guests);
}

/* --- Refusing ---------------------------------------------------------------------------------- */

static void expect_no_load(struct guest *guest, const struct state *state,
			   const struct stream *stream, const char *why)
{
	struct virtio_device *device = another(guest);
	AUTO_ERROR struct error *error = load_device(device, state, stream, STREAM_MAX);

	assert_non_null(error);
	if (!strstr(error_message(error), why))
		fail_msg("'%s' is not in '%s'", why, error_message(error));
	virtio_device_destroy(device);
}

static void cut_off_and_changed_states_are_refused(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct virtio_device *old = guests[0].driver.device;
	AUTO_STATE struct state *saved = state_save_begin(false);
	struct stream stream;
	size_t whole;

	save_device(old, saved, &stream);
	whole = stream.size;
	for (stream.size = 0; stream.size < whole; stream.size += 17)
		expect_no_load(&guests[0], saved, &stream, " ");
	stream.size = whole + 1;
	stream.bytes[whole] = 0;
	expect_no_load(&guests[0], saved, &stream, "left over");
	stream.size = whole;
	stream.bytes[7]++;
	expect_no_load(&guests[0], saved, &stream, "version");
	stream.bytes[7]--;
	for (size_t i = 0; i < whole; i += 3) {
		struct virtio_device *device = another(&guests[0]);
		uint8_t was = stream.bytes[i];

		stream.bytes[i] ^= (uint8_t)(1 + i % 255);
		error_free(load_device(device, saved, &stream, STREAM_MAX));
		virtio_device_destroy(device);
		stream.bytes[i] = was;
	}
	free(stream.bytes);
	guests[0].driver.device = old;
	virtio_device_resume(old);
	guests_destroy(guests);
}

/* They would be in the list of those that have some after they are gone. */
static void events_of_objects_that_have_none_are_refused(void **state)
{
	struct guest *guests = guests_create(TYPE_RC);
	struct virtio_device *old = guests[0].driver.device;
	AUTO_STATE struct state *saved = state_save_begin(false);
	struct stream stream;

	save_device(old, saved, &stream);
	assert_int_equal(get_be32(stream.bytes + FIRST_PD), guests[0].pd);
	stream.bytes[FIRST_PD + 4 + 8] = 0x80;
	expect_no_load(&guests[0], saved, &stream, "events");
	free(stream.bytes);
	guests[0].driver.device = old;
	virtio_device_resume(old);
	guests_destroy(guests);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(work_goes_on_at_either_end),
	    cmocka_unit_test(long_queues_go_on),
	    cmocka_unit_test(work_that_the_engine_has_not_is_found),
	    cmocka_unit_test(objects_of_every_kind_go_on),
	    cmocka_unit_test(events_that_were_not_told_are),
	    cmocka_unit_test(connections_of_a_copy_fail_and_say_so),
	    cmocka_unit_test(connections_of_a_copy_that_moves_before_it_runs_fail_too),
	    cmocka_unit_test(datagrams_of_a_copy_go_on),
	    cmocka_unit_test(cut_off_and_changed_states_are_refused),
	    cmocka_unit_test(events_of_objects_that_have_none_are_refused),
	};

	/* 77: skipped, for meson. */
	return port_is_free() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
