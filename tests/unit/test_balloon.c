/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-balloon: which memory goes back to the host, and how the guest is asked. */
#include <string.h>
#include <sys/mman.h>

#include "virtio/balloon.h"
#include "virtio_state.h"

#define F_STATS_VQ	 VIRTIO_FEATURE(1)
#define F_DEFLATE_ON_OOM VIRTIO_FEATURE(2)
#define F_PAGE_POISON	 VIRTIO_FEATURE(4)
#define F_REPORTING	 VIRTIO_FEATURE(5)

#define INFLATE	   0
#define DEFLATE	   1
#define STATISTICS 2

#define LIST 0x1000 /* where page numbers are */
#define FREE MIB(4) /* memory that the tests give away */
#define PAGE (FREE / 4096)

static void start(struct driver *driver, enum ram_backing kind, const char *options,
		  uint64_t features, uint32_t queues)
{
	struct ram_backing_options backing = {.backing = kind, .host_node = -1};
	char path[] = "/tmp/godwit-test-ram-XXXXXX";
	struct virtio_device *device;

	if (kind == RAM_BACKING_FILE) {
		close(mkstemp(path));
		backing.path = path;
	}
	driver_create_memory(driver, &backing);
	if (kind == RAM_BACKING_FILE) {
		assert_int_equal(ram_block_commit(driver->block, 0, RAM_SIZE), 0);
		unlink(path);
	}
	driver_no_error(virtio_balloon_create(options, &device));
	driver_add_device(driver, device);
	driver_start_queues(driver, features, queues);
	assert_int_equal(device->status, 0xf);
	memset(driver->ram + FREE, 0x5a, MIB(4));
}

static void start_simple(struct driver *driver)
{
	start(driver, RAM_BACKING_MEMFD, NULL, F_STATS_VQ | F_REPORTING, 0xf);
}

static bool resident(struct driver *driver, uint64_t address)
{
	unsigned char answer;

	assert_int_equal(mincore(driver->ram + address, 4096, &answer), 0);
	return answer & 1;
}

static void send_pages(struct driver *driver, uint16_t queue, const uint32_t *pages, size_t count)
{
	struct driver_buffer buffer = {LIST, (uint32_t)count * 4, false};

	for (size_t i = 0; i < count; i++)
		put_le32(driver->ram + LIST + i * 4, pages[i]);
	assert_int_equal(driver_request(driver, queue, &buffer, 1), 0);
}

/* A number of the report about the device, as in {"inflated": {"returned": …}}. */
static uint64_t reported(struct driver *driver, const char *group, const char *name)
{
	json_t *object = virtio_device_describe(driver->device);
	uint64_t value =
	    (uint64_t)json_integer_value(json_object_get(json_object_get(object, group), name));

	json_decref(object);
	return value;
}

static void inflated_pages_go_back(enum ram_backing kind)
{
	const uint32_t pages[] = {PAGE, PAGE + 1, PAGE + 2, PAGE + 9};
	struct driver driver;

	start(&driver, kind, NULL, 0, 0x3);
	send_pages(&driver, INFLATE, pages, 4);
	for (int i = 0; i < 12; i++)
		assert_int_equal(resident(&driver, FREE + i * 4096), i > 2 && i != 9);
	assert_int_equal(driver.ram[FREE + 4096], 0);
	assert_int_equal(driver.ram[FREE + 3 * 4096], 0x5a);
	driver_destroy(&driver);
}

static void test_inflated_pages_of_a_memfd_go_back(void **state)
{
	inflated_pages_go_back(RAM_BACKING_MEMFD);
}

static void test_inflated_pages_of_anonymous_memory_go_back(void **state)
{
	inflated_pages_go_back(RAM_BACKING_ANON);
}

static void test_adjacent_pages_in_any_direction_go_back(void **state)
{
	const uint32_t pages[] = {PAGE + 5, PAGE + 4, PAGE + 3, PAGE + 6, PAGE + 100, PAGE + 99};
	struct driver driver;

	start_simple(&driver);
	send_pages(&driver, INFLATE, pages, 6);
	assert_int_equal(reported(&driver, "inflated", "returned"), 6 * 4096);
	assert_true(resident(&driver, FREE + 2 * 4096));
	assert_true(resident(&driver, FREE + 7 * 4096));
	assert_true(resident(&driver, FREE + 98 * 4096));
	driver_destroy(&driver);
}

static void test_pages_that_are_not_memory_are_ignored(void **state)
{
	const uint32_t pages[] = {RAM_SIZE / 4096, UINT32_MAX, RAM_SIZE / 4096 - 1, 0x80000};
	struct driver driver;

	start_simple(&driver);
	send_pages(&driver, INFLATE, pages, 4);
	assert_false(driver_needs_reset(&driver));
	assert_int_equal(reported(&driver, "inflated", "returned"), 4096);
	assert_int_equal(reported(&driver, "inflated", "not-memory"), 3 * 4096);
	driver_destroy(&driver);
}

static void test_a_run_across_the_end_of_memory_returns_what_is_memory(void **state)
{
	const uint32_t last = RAM_SIZE / 4096;
	const uint32_t pages[] = {last - 2, last - 1, last, last + 1};
	struct driver driver;

	start_simple(&driver);
	send_pages(&driver, INFLATE, pages, 4);
	assert_int_equal(reported(&driver, "inflated", "returned"), 2 * 4096);
	assert_int_equal(reported(&driver, "inflated", "not-memory"), 2 * 4096);
	driver_destroy(&driver);
}

static void test_deflating_touches_nothing(void **state)
{
	const uint32_t pages[] = {PAGE, PAGE + 1};
	struct driver driver;

	start_simple(&driver);
	send_pages(&driver, DEFLATE, pages, 2);
	assert_int_equal(driver.ram[FREE], 0x5a);
	assert_int_equal(driver.ram[FREE + 4096], 0x5a);
	driver_destroy(&driver);
}

static void test_committed_memory_is_kept(void **state)
{
	const uint32_t pages[] = {PAGE};
	struct driver driver;

	start(&driver, RAM_BACKING_FILE, NULL, 0, 0x3);
	send_pages(&driver, INFLATE, pages, 1);
	assert_int_equal(driver.ram[FREE], 0x5a);
	assert_int_equal(reported(&driver, "inflated", "kept"), 4096);
	driver_destroy(&driver);
}

static void test_committed_memory_is_released_if_the_user_wants(void **state)
{
	const uint32_t pages[] = {PAGE};
	struct driver driver;

	start(&driver, RAM_BACKING_FILE, "committed=release", 0, 0x3);
	send_pages(&driver, INFLATE, pages, 1);
	assert_int_equal(driver.ram[FREE], 0);
	driver_destroy(&driver);
}

static void test_a_page_list_of_odd_length_needs_a_reset(void **state)
{
	struct driver_buffer buffer = {LIST, 6, false};
	struct driver driver;

	start_simple(&driver);
	driver_offer(&driver, INFLATE, &buffer, 1);
	driver_notify(&driver, INFLATE);
	assert_true(driver_needs_reset(&driver));
	driver_destroy(&driver);
}

static void test_an_endless_page_list_needs_a_reset(void **state)
{
	struct driver_buffer buffer = {FREE, KIB(256) + 4, false};
	struct driver driver;

	start_simple(&driver);
	driver_offer(&driver, INFLATE, &buffer, 1);
	driver_notify(&driver, INFLATE);
	assert_true(driver_needs_reset(&driver));
	assert_int_equal(driver.ram[FREE], 0x5a);
	driver_destroy(&driver);
}

static void report(struct driver *driver, uint16_t queue, uint64_t address, uint32_t size)
{
	struct driver_buffer buffer = {address, size, true};

	driver_request(driver, queue, &buffer, 1);
}

static void test_reported_ranges_go_back(void **state)
{
	struct driver driver;

	start_simple(&driver);
	report(&driver, 3, FREE, MIB(2));
	assert_false(resident(&driver, FREE));
	assert_false(resident(&driver, FREE + MIB(2) - 4096));
	assert_true(resident(&driver, FREE + MIB(2)));
	driver_destroy(&driver);
}

static void test_reporting_works_at_the_queue_number_of_the_specification(void **state)
{
	struct driver driver;

	start(&driver, RAM_BACKING_MEMFD, NULL, F_STATS_VQ | F_REPORTING, 0x17);
	report(&driver, 4, FREE, MIB(2));
	assert_false(resident(&driver, FREE));
	driver_destroy(&driver);
}

static void test_reporting_works_without_a_statistics_queue(void **state)
{
	struct driver driver;

	start(&driver, RAM_BACKING_MEMFD, NULL, F_REPORTING, 0x7);
	report(&driver, 2, FREE, MIB(2));
	assert_false(resident(&driver, FREE));
	driver_destroy(&driver);
}

static void test_parts_of_pages_in_a_report_are_kept(void **state)
{
	struct driver driver;

	start_simple(&driver);
	report(&driver, 3, FREE + 100, 3 * 4096);
	assert_int_equal(driver.ram[FREE + 100], 0x5a);
	assert_int_equal(driver.ram[FREE + 4096], 0);
	assert_int_equal(driver.ram[FREE + 2 * 4096], 0);
	assert_int_equal(driver.ram[FREE + 3 * 4096], 0x5a);
	driver_destroy(&driver);
}

/* Starts with a poison value, which must be written before DRIVER_OK. */
static void start_poisoned(struct driver *driver, uint32_t poison)
{
	start_simple(driver);
	driver_set_status(driver, 0);
	driver_write_config(driver, 12, 4, poison);
	driver_start_queues(driver, F_STATS_VQ | F_REPORTING | F_PAGE_POISON, 0xf);
}

static void test_reported_pages_that_must_keep_a_poison_value_are_left_alone(void **state)
{
	struct driver driver;

	start_poisoned(&driver, 0xaaaaaaaa);
	report(&driver, 3, FREE, MIB(2));
	assert_int_equal(driver.ram[FREE], 0x5a);
	driver_destroy(&driver);
}

static void test_reported_pages_with_poison_zero_go_back(void **state)
{
	struct driver driver;

	start_poisoned(&driver, 0);
	report(&driver, 3, FREE, MIB(2));
	assert_int_equal(driver.ram[FREE], 0);
	driver_destroy(&driver);
}

static void test_the_poison_value_cannot_change_while_the_driver_runs(void **state)
{
	struct driver driver;

	start_poisoned(&driver, 0xaaaaaaaa);
	driver_write_config(&driver, 12, 4, 0);
	assert_int_equal(driver_read_config(&driver, 12, 4), 0xaaaaaaaa);
	driver_destroy(&driver);
}

static void test_the_target_is_announced(void **state)
{
	struct driver driver;

	start_simple(&driver);
	virtio_balloon_set_target(driver.device, MIB(1) + 5);
	assert_int_equal(driver_read_config(&driver, 0, 4), 256);
	assert_int_equal(driver.config_interrupts, 1);
	driver_destroy(&driver);
}

static void test_the_size_that_the_driver_writes_is_told(void **state)
{
	struct driver driver;

	start_simple(&driver);
	driver_write_config(&driver, 4, 4, 77);
	assert_int_equal(virtio_balloon_size(driver.device), 77 * 4096);
	/* Byte by byte as well. */
	driver_write_config(&driver, 5, 1, 1);
	assert_int_equal(virtio_balloon_size(driver.device), (256 + 77) * 4096);
	/* The target is not the driver's to write. */
	driver_write_config(&driver, 0, 4, 99);
	assert_int_equal(driver_read_config(&driver, 0, 4), 0);
	driver_destroy(&driver);
}

static void put_statistic(struct driver *driver, int index, uint16_t tag, uint64_t value)
{
	put_le16(driver->ram + LIST + index * 10, tag);
	put_le64(driver->ram + LIST + index * 10 + 2, value);
}

static void offer_statistics(struct driver *driver, uint32_t size)
{
	struct driver_buffer buffer = {LIST, size, false};

	driver_offer(driver, STATISTICS, &buffer, 1);
	driver_notify(driver, STATISTICS);
}

static void test_statistics_are_read_in_any_order_and_unknown_ones_skipped(void **state)
{
	struct virtio_balloon_statistics statistics;
	struct driver driver;

	start_simple(&driver);
	virtio_balloon_statistics(driver.device, &statistics);
	assert_int_equal(statistics.updated_ns, 0);
	put_statistic(&driver, 0, 6, 12345);
	put_statistic(&driver, 1, 999, 1);
	put_statistic(&driver, 2, 15, 42);
	put_statistic(&driver, 3, 5, UINT64_MAX);
	offer_statistics(&driver, 45); /* the last is cut off */
	virtio_balloon_statistics(driver.device, &statistics);
	assert_true(statistics.updated_ns > 0);
	assert_int_equal(statistics.present, 1 << 6 | 1 << 15 | 1 << 5);
	assert_int_equal(statistics.value[BALLOON_AVAILABLE], 12345);
	assert_int_equal(statistics.value[BALLOON_DIRECT_RECLAIMS], 42);
	assert_true(statistics.value[BALLOON_TOTAL] == UINT64_MAX);
	driver_destroy(&driver);
}

static void test_the_buffer_is_given_back_only_to_ask_again(void **state)
{
	struct virtio_balloon_statistics statistics;
	struct driver driver;

	start_simple(&driver);
	put_statistic(&driver, 0, 4, 1);
	offer_statistics(&driver, 10);
	usleep(50000);
	assert_false(driver_used(&driver, STATISTICS));
	virtio_balloon_set_interval(driver.device, 20);
	for (uint64_t i = 2; i < 10; i++) {
		driver_wait(&driver, STATISTICS, NULL);
		put_statistic(&driver, 0, 4, i);
		offer_statistics(&driver, 10);
		virtio_balloon_statistics(driver.device, &statistics);
		assert_int_equal(statistics.value[BALLOON_FREE], i);
	}
	driver_destroy(&driver);
}

static void test_a_waiting_statistics_buffer_holds_up_no_unplug(void **state)
{
	struct driver driver;
	json_t *object;

	start_simple(&driver);
	put_statistic(&driver, 0, 4, 1);
	offer_statistics(&driver, 10);
	object = virtio_device_describe(driver.device);
	assert_int_equal(driver.device->queues[STATISTICS].ring.in_flight, 0);
	json_decref(object);
	driver_destroy(&driver);
}

static void test_a_reset_forgets_statistics_and_size(void **state)
{
	struct virtio_balloon_statistics statistics;
	struct driver driver;

	start_simple(&driver);
	put_statistic(&driver, 0, 4, 1);
	offer_statistics(&driver, 10);
	driver_write_config(&driver, 4, 4, 77);
	driver_set_status(&driver, 0);
	virtio_balloon_statistics(driver.device, &statistics);
	assert_int_equal(statistics.updated_ns, 0);
	assert_int_equal(virtio_balloon_size(driver.device), 0);
	driver_destroy(&driver);
}

static void test_features_follow_the_options(void **state)
{
	struct virtio_device *device;

	driver_no_error(virtio_balloon_create(NULL, &device));
	assert_int_equal(device->features & 0xffff,
			 F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING);
	virtio_device_destroy(device);
	driver_no_error(virtio_balloon_create("reporting=off,deflate-on-oom=off", &device));
	assert_int_equal(device->features & 0xffff, F_STATS_VQ);
	virtio_device_destroy(device);
}

static void test_wrong_options_are_refused_by_name(void **state)
{
	static const char *const texts[] = {"frobnicate=on", "statistics=-1", "reporting=maybe",
					    "committed=perhaps"};
	struct virtio_device *device;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct error *error = virtio_balloon_create(texts[i], &device);

		assert_non_null(error);
		assert_non_null(
		    strstr(error_message(error), (const char *[]){"frobnicate", "statistics",
								  "reporting", "committed"}[i]));
		error_free(error);
	}
}

static void test_a_loaded_balloon_asks_for_statistics_again(void **state)
{
	struct virtio_device *fresh;
	struct driver driver;

	start_simple(&driver);
	virtio_balloon_set_interval(driver.device, 60000);
	put_statistic(&driver, 0, 4, 1);
	offer_statistics(&driver, 10);
	driver_no_error(virtio_balloon_create(NULL, &fresh));
	move_to_device(&driver, fresh);
	assert_false(driver_used(&driver, STATISTICS));
	virtio_balloon_set_interval(driver.device, 10);
	driver_wait(&driver, STATISTICS, NULL);
	assert_false(driver_used(&driver, STATISTICS));
	driver_destroy(&driver);
}

static void test_a_loaded_balloon_takes_reports(void **state)
{
	struct driver_buffer report = {FREE, MIB(1), true};
	struct virtio_device *fresh;
	struct driver driver;

	start_simple(&driver);
	driver_no_error(virtio_balloon_create(NULL, &fresh));
	move_to_device(&driver, fresh);
	driver_request(&driver, 3, &report, 1);
	assert_false(resident(&driver, FREE));
	assert_true(resident(&driver, FREE + MIB(1)));
	driver_destroy(&driver);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_inflated_pages_of_a_memfd_go_back),
	    cmocka_unit_test(test_inflated_pages_of_anonymous_memory_go_back),
	    cmocka_unit_test(test_adjacent_pages_in_any_direction_go_back),
	    cmocka_unit_test(test_pages_that_are_not_memory_are_ignored),
	    cmocka_unit_test(test_a_run_across_the_end_of_memory_returns_what_is_memory),
	    cmocka_unit_test(test_deflating_touches_nothing),
	    cmocka_unit_test(test_committed_memory_is_kept),
	    cmocka_unit_test(test_committed_memory_is_released_if_the_user_wants),
	    cmocka_unit_test(test_a_page_list_of_odd_length_needs_a_reset),
	    cmocka_unit_test(test_an_endless_page_list_needs_a_reset),
	    cmocka_unit_test(test_reported_ranges_go_back),
	    cmocka_unit_test(test_reporting_works_at_the_queue_number_of_the_specification),
	    cmocka_unit_test(test_reporting_works_without_a_statistics_queue),
	    cmocka_unit_test(test_parts_of_pages_in_a_report_are_kept),
	    cmocka_unit_test(test_reported_pages_that_must_keep_a_poison_value_are_left_alone),
	    cmocka_unit_test(test_reported_pages_with_poison_zero_go_back),
	    cmocka_unit_test(test_the_poison_value_cannot_change_while_the_driver_runs),
	    cmocka_unit_test(test_the_target_is_announced),
	    cmocka_unit_test(test_the_size_that_the_driver_writes_is_told),
	    cmocka_unit_test(test_statistics_are_read_in_any_order_and_unknown_ones_skipped),
	    cmocka_unit_test(test_the_buffer_is_given_back_only_to_ask_again),
	    cmocka_unit_test(test_a_waiting_statistics_buffer_holds_up_no_unplug),
	    cmocka_unit_test(test_a_reset_forgets_statistics_and_size),
	    cmocka_unit_test(test_features_follow_the_options),
	    cmocka_unit_test(test_wrong_options_are_refused_by_name),
	    cmocka_unit_test(test_a_loaded_balloon_asks_for_statistics_again),
	    cmocka_unit_test(test_a_loaded_balloon_takes_reports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
