/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices of back-ends that are taken along: what the back-end writes is logged, memory may
 * come later, the back-end has a state of its own. */
#include "vhost_user_setup.h"

#include "memory/dirty_log.h"
#include "memory/userfault.h"

static void test_back_end_that_does_not_log_is_not_moved(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);
	struct virtio_device *device;

	setup->disk.options.protocol &= ~VHOST_USER_PROTOCOL_LOG_SHMFD;
	disk_listen(&setup->disk);
	driver_no_error(add_device(setup, ""));
	device = setup->driver.device;
	driver_no_error(device->ops->movable(device, VIRTIO_MOVE_STOPPED));
	assert_refused(device->ops->movable(device, VIRTIO_MOVE_LOGGED),
		       "which does not log what it writes (LOG_SHMFD)");
	end(setup);
}

/* --- What the back-end writes ------------------------------------------------------------------ */

/* The pages of boot memory written since the last time; or of elastic memory. */
static uint64_t *collect(struct setup *setup, const struct ram_block *block)
{
	uint64_t *pages = calloc(dirty_log_words(block), 8);

	assert_non_null(pages);
	driver_no_error(dirty_log_collect(memory_map_dirty_log(setup->driver.map), block, pages));
	return pages;
}

static void assert_written(struct setup *setup, const struct ram_block *block, uint64_t address,
			   bool written)
{
	uint64_t *pages = collect(setup, block);

	assert_int_equal(bitmap_test(pages, address / 4096), written);
	free(pages);
}

static struct setup *begin_logging(const char *options)
{
	struct setup *setup = begin(options);

	driver_start(&setup->driver, 0);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	read_sector(setup, 0, 1);
	write_watch_stop(&setup->driver.watch);
	dirty_log_stop(memory_map_dirty_log(setup->driver.map));
	read_sector(setup, 0, 2);
	driver_no_error(dirty_log_start(memory_map_dirty_log(setup->driver.map)));
	free(collect(setup, setup->driver.block));
	free(collect(setup, setup->hot_block));
	return setup;
}

static void end_logging(struct setup *setup)
{
	dirty_log_stop(memory_map_dirty_log(setup->driver.map));
	read_sector(setup, 0, 3);
	end(setup);
}

static void test_pages_that_the_back_end_writes_are_logged(void **state)
{
	struct setup *setup = begin_logging("");

	assert_written(setup, setup->driver.block, STATUS, false);
	offer(setup, 0, 0, 5, HOT_ADDRESS + MIB(3) + 4096);
	answered(setup, 0);
	assert_written(setup, setup->hot_block, MIB(3) + 4096, true);
	assert_written(setup, setup->hot_block, MIB(3) + 4096, false);
	{
		uint64_t *pages = collect(setup, setup->driver.block);

		assert_true(bitmap_test(pages, STATUS / 4096));
		assert_true(bitmap_test(pages, setup->driver.queues[0].used / 4096));
		assert_false(bitmap_test(pages, HEADER / 4096));
		free(pages);
	}
	end_logging(setup);
}

static void test_rings_that_start_later_are_logged(void **state)
{
	struct setup *setup = begin_logging("");

	virtio_device_quiesce(setup->driver.device);
	virtio_device_resume(setup->driver.device);
	offer(setup, 0, 0, 5, DATA);
	answered(setup, 0);
	assert_written(setup, setup->driver.block, DATA, true);
	driver_set_status(&setup->driver, 0); /* which resets the back-end as well */
	driver_start(&setup->driver, 0);
	offer(setup, 0, 0, 5, DATA);
	answered(setup, 0);
	assert_written(setup, setup->driver.block, DATA, true);
	end_logging(setup);
}

static void test_all_counts_as_written_when_the_back_end_dies(void **state)
{
	struct setup *setup = begin_logging("");

	disk_die(&setup->disk);
	wait_connected(setup, false);
	wait_connected(setup, true);
	assert_written(setup, setup->hot_block, MIB(2), true);
	assert_written(setup, setup->hot_block, MIB(6), false); /* unplugged */
	offer(setup, 0, 0, 5, DATA);
	answered(setup, 0);
	assert_written(setup, setup->driver.block, DATA, true);
	end_logging(setup);
}

static void test_back_end_that_does_not_log_waits_while_others_do(void **state)
{
	struct setup *setup = begin_logging("");
	char text[256] = "";

	__atomic_store_n(&setup->disk.options.protocol,
			 setup->disk.options.protocol & ~VHOST_USER_PROTOCOL_LOG_SHMFD,
			 __ATOMIC_RELEASE);
	disk_die(&setup->disk);
	wait_connected(setup, false);
	for (int i = 0; !strstr(text, "does not log what it writes"); i++) {
		assert_true(i < DISK_WAIT_MS);
		usleep(1000);
		trouble_of(setup, text);
	}
	dirty_log_stop(memory_map_dirty_log(setup->driver.map));
	wait_connected(setup, true);
	end_logging(setup);
}

/* What a back-end could do that means harm: mark everything, where memory is and where none is. */
static void test_marks_where_no_memory_is_are_nothing(void **state)
{
	struct setup *setup = begin_logging("");
	uint64_t *pages;

	__atomic_store_n(&setup->disk.mark_all, true, __ATOMIC_RELEASE);
	offer(setup, 0, 0, 5, DATA);
	answered(setup, 0);
	pages = collect(setup, setup->hot_block);
	assert_int_equal(bitmap_count_range(pages, 0, HOT_SIZE / 4096), MIB(4) / 4096);
	free(pages);
	pages = collect(setup, setup->driver.block);
	assert_int_equal(bitmap_count_range(pages, 0, RAM_SIZE / 4096), RAM_SIZE / 4096);
	free(pages);
	end_logging(setup);
}

/* --- Memory that comes while the guest runs ---------------------------------------------------- */

/* Nothing is missing here: it is about who is given what, and when. */
static struct userfault *begin_missing(struct setup *setup)
{
	struct userfault *userfault = NULL;
	struct error *error = userfault_create(1, &userfault);

	if (error) { /* no privilege for it here */
		error_free(error);
		end(setup);
		skip();
	}
	virtio_device_memory_comes(setup->driver.device, userfault);
	return userfault;
}

static void test_back_end_that_can_wait_for_pages_works_at_once(void **state)
{
	struct setup *setup = begin(",postcopy=slots");
	struct userfault *userfault = begin_missing(setup);

	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	assert_true(vhost_user_back_end_in_postcopy(setup->disk.back));
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	offer(setup, 0, 0, 5, HOT_ADDRESS + MIB(3));
	answered(setup, 0);
	disk_die(&setup->disk); /* its successor is told the same */
	disk_wait(&setup->disk.sessions, 2);
	read_sector(setup, 0, 2);
	assert_true(vhost_user_back_end_in_postcopy(setup->disk.back));
	virtio_device_memory_comes(setup->driver.device, NULL);
	assert_false(vhost_user_back_end_in_postcopy(setup->disk.back));
	read_sector(setup, 0, 3);
	end(setup);
	userfault_destroy(userfault);
}

static void test_table_of_a_back_end_that_waits_for_pages_stays_as_it_is(void **state)
{
	struct setup *setup = begin("");
	struct userfault *userfault = begin_missing(setup);

	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), -EBUSY);
	virtio_device_memory_comes(setup->driver.device, NULL);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	read_sector(setup, 0, 2);
	end(setup);
	userfault_destroy(userfault);
}

static void test_back_end_that_cannot_wait_for_pages_works_when_all_are_there(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);
	struct userfault *userfault;

	setup->disk.options.protocol &= ~VHOST_USER_PROTOCOL_PAGEFAULT;
	disk_listen(&setup->disk);
	driver_no_error(add_device(setup, ""));
	userfault = begin_missing(setup);
	driver_start(&setup->driver, 0);
	offer(setup, 0, 0, 5, DATA);
	usleep(20000);
	assert_int_equal(setup->disk.taken, 0);
	assert_int_equal(status_of(setup).slots_used, 0); /* it has no memory */
	virtio_device_memory_comes(setup->driver.device, NULL);
	answered(setup, 0);
	end(setup);
	userfault_destroy(userfault);
}

/* --- Memory that is watched for writes ---------------------------------------------------------- */

static void test_device_that_is_held_rests_beside_all_else(void **state)
{
	struct setup *setup = begin("");
	struct virtio_device *device = setup->driver.device;

	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	virtio_device_quiesce(device);
	virtio_device_hold(device, true);
	virtio_device_resume(device);
	assert_false(setup->disk.rings[0].running);
	virtio_device_quiesce(device); /* paused meanwhile */
	virtio_device_hold(device, false);
	assert_false(setup->disk.rings[0].running);
	virtio_device_resume(device);
	read_sector(setup, 0, 2);
	virtio_device_hold(device, true);
	driver_set_status(&setup->driver, 0);
	driver_start(&setup->driver, 0); /* the driver begins anew */
	assert_false(setup->disk.rings[0].running);
	virtio_device_hold(device, false);
	read_sector(setup, 0, 3);
	end(setup);
}

/* --- The back-end's own state ------------------------------------------------------------------- */

#define STATE_SIZE (200U << 10) /* more than a pipe holds */

struct own_state {
	uint8_t bytes[STATE_SIZE];
	size_t size;
	int fd;
	pthread_t thread;
	bool refuse, began;
};

static struct own_state own; /* of the one back-end at a time */

static void *give_own(void *context)
{
	size_t done = 0;

	while (done < STATE_SIZE) {
		ssize_t count = write(own.fd, own.bytes + done, STATE_SIZE - done);

		if (count <= 0)
			break;
		done += (size_t)count;
	}
	close(own.fd);
	return NULL;
}

static void *take_own(void *context)
{
	ssize_t count;

	own.size = 0;
	while ((count = read(own.fd, own.bytes + own.size, STATE_SIZE - own.size)) > 0)
		own.size += (size_t)count;
	close(own.fd);
	return NULL;
}

static struct error *transfer_own(void *context, bool save, int fd)
{
	own.fd = fd;
	own.began = !pthread_create(&own.thread, NULL, save ? give_own : take_own, NULL);
	return own.began ? NULL : error_new(EAGAIN, "no thread");
}

static struct error *check_own(void *context)
{
	if (own.began)
		pthread_join(own.thread, NULL);
	own.began = false;
	return own.refuse ? error_new(EINVAL, "not mine") : NULL;
}

struct kept {
	uint8_t *bytes;
	size_t size;
};

static struct error *keep(void *context, const void *bytes, size_t size)
{
	struct kept *kept = context;

	kept->bytes = realloc(kept->bytes, kept->size + size);
	assert_non_null(kept->bytes);
	memcpy(kept->bytes + kept->size, bytes, size);
	kept->size += size;
	return NULL;
}

static struct setup *begin_stateful(struct vhost_user_back_end_ops *ops)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	own = (struct own_state){.fd = -1};
	for (size_t i = 0; i < STATE_SIZE; i++)
		own.bytes[i] = (uint8_t)(i * 7919 >> 3);
	*ops = disk_ops;
	ops->transfer_state = transfer_own;
	ops->check_state = check_own;
	setup->disk.options.ops = ops;
	disk_listen(&setup->disk);
	driver_no_error(add_kind(setup, "disk", ""));
	return setup;
}

static struct error *load_pieces(struct virtio_device *device, const struct kept *kept)
{
	size_t done = 0, piece = 70000;

	for (; done + piece < kept->size; done += piece)
		TRY(device->stream->load(device, kept->bytes + done, piece, false));
	TRY(device->stream->load(device, kept->bytes + done, kept->size - done, false));
	return device->stream->load(device, NULL, 0, true);
}

static void test_state_of_a_back_end_goes_to_another(void **state)
{
	struct vhost_user_back_end_ops ops;
	struct setup *setup = begin_stateful(&ops);
	struct virtio_device *device = setup->driver.device;
	struct kept kept = {0};
	uint8_t *before;

	driver_no_error(device->ops->movable(device, VIRTIO_MOVE_STOPPED));
	driver_no_error(device->ops->movable(device, VIRTIO_MOVE_LOGGED));
	virtio_device_quiesce(device);
	driver_no_error(device->stream->save(device, false, keep, &kept));
	assert_int_equal(kept.size, 0); /* while the guest runs there is nothing to say */
	driver_no_error(device->stream->save(device, true, keep, &kept));
	assert_int_equal(kept.size, STATE_SIZE);
	before = malloc(STATE_SIZE);
	memcpy(before, own.bytes, STATE_SIZE);
	memset(own.bytes, 0, STATE_SIZE);
	driver_no_error(load_pieces(device, &kept));
	assert_int_equal(own.size, STATE_SIZE);
	assert_memory_equal(own.bytes, before, STATE_SIZE);
	own.refuse = true;
	assert_refused(load_pieces(device, &kept), "the transfer of its state has failed");
	assert_refused(device->stream->save(device, true, keep, &kept),
		       "the transfer of its state has failed");
	free(before);
	free(kept.bytes);
	end(setup);
}

static void test_state_is_not_loaded_by_a_back_end_that_takes_none(void **state)
{
	struct setup *setup = begin("");
	struct virtio_device *device = setup->driver.device;
	struct kept kept = {0};

	virtio_device_quiesce(device);
	driver_no_error(device->stream->save(device, true, keep, &kept));
	assert_int_equal(kept.size, 0);
	driver_no_error(device->stream->load(device, NULL, 0, true));
	assert_refused(device->stream->load(device, "state", 5, false),
		       "cannot take over the state of another one (DEVICE_STATE)");
	end(setup);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_back_end_that_does_not_log_is_not_moved),
	    cmocka_unit_test(test_pages_that_the_back_end_writes_are_logged),
	    cmocka_unit_test(test_rings_that_start_later_are_logged),
	    cmocka_unit_test(test_all_counts_as_written_when_the_back_end_dies),
	    cmocka_unit_test(test_back_end_that_does_not_log_waits_while_others_do),
	    cmocka_unit_test(test_marks_where_no_memory_is_are_nothing),
	    cmocka_unit_test(test_back_end_that_can_wait_for_pages_works_at_once),
	    cmocka_unit_test(test_table_of_a_back_end_that_waits_for_pages_stays_as_it_is),
	    cmocka_unit_test(test_back_end_that_cannot_wait_for_pages_works_when_all_are_there),
	    cmocka_unit_test(test_device_that_is_held_rests_beside_all_else),
	    cmocka_unit_test(test_state_of_a_back_end_goes_to_another),
	    cmocka_unit_test(test_state_is_not_loaded_by_a_back_end_that_takes_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
