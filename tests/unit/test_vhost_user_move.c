/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices of back-ends that are taken along: what the back-end writes is logged. */
#include "vhost_user_setup.h"

#include "memory/dirty_log.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_back_end_that_does_not_log_is_not_moved),
	    cmocka_unit_test(test_pages_that_the_back_end_writes_are_logged),
	    cmocka_unit_test(test_rings_that_start_later_are_logged),
	    cmocka_unit_test(test_all_counts_as_written_when_the_back_end_dies),
	    cmocka_unit_test(test_back_end_that_does_not_log_waits_while_others_do),
	    cmocka_unit_test(test_marks_where_no_memory_is_are_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
