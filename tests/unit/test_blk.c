/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk on real files: what each request does to the file and answers. */
#include "blk_fixture.h"

static void test_read_returns_what_the_file_holds(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	fill(&disk, 7 * 512, 4096, 0x5a);
	assert_int_equal(disk_request(&disk, T_IN, 7, 4096), S_OK);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(disk.driver.ram[DATA + i], 0x5a);
	disk_end(&disk);
}

static void test_a_read_reports_data_and_status_as_written(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	put_header(&disk, T_IN, 0);
	assert_int_equal(driver_request(&disk.driver, 0, buffers, 3), 513);
	disk_end(&disk);
}

static void test_write_reaches_the_file_and_nothing_beside(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	memset(disk.driver.ram + DATA, 0x77, 8192);
	assert_int_equal(disk_request(&disk, T_OUT, 16, 8192), S_OK);
	assert_int_equal(uniform(&disk, 0, 8192), 0);
	assert_int_equal(uniform(&disk, 8192, 8192), 0x77);
	assert_int_equal(uniform(&disk, 16384, 8192), 0);
	disk_end(&disk);
}

static void test_any_layout_of_header_data_and_status_works(void **state)
{
	/* Header in three pieces with the start of the data behind it; 1024 bytes of data. */
	struct driver_buffer out[] = {
	    {HEADER, 3, false},	      {HEADER + 3, 12, false}, {DATA, 1 + 100, false},
	    {DATA + 101, 924, false}, {STATUS, 1, true},
	};
	/* Data and status in one buffer, data in odd pieces. */
	struct driver_buffer in[] = {
	    {HEADER, 16, false},
	    {DATA, 1, true},
	    {DATA + 1, 510, true},
	    {DATA + 511, 514, true},
	};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	put_header(&disk, T_OUT, 3);
	disk.driver.ram[DATA] = disk.driver.ram[HEADER + 15];
	memset(disk.driver.ram + DATA + 1, 0x33, 1024);
	driver_request(&disk.driver, 0, out, 5);
	assert_int_equal(disk.driver.ram[STATUS], S_OK);
	assert_int_equal(uniform(&disk, 3 * 512, 1024), 0x33);

	put_header(&disk, T_IN, 3);
	memset(disk.driver.ram + DATA, 0xff, 1025);
	driver_request(&disk.driver, 0, in, 4);
	assert_int_equal(disk.driver.ram[DATA], 0x33);
	assert_int_equal(disk.driver.ram[DATA + 1023], 0x33);
	assert_int_equal(disk.driver.ram[DATA + 1024], S_OK);
	disk_end(&disk);
}

static void test_the_last_sector_is_reachable_and_the_next_is_not(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, T_IN, DISK_SIZE / 512 - 1, 512), S_OK);
	assert_int_equal(disk_request(&disk, T_IN, DISK_SIZE / 512, 512), S_IOERR);
	assert_int_equal(disk_request(&disk, T_IN, DISK_SIZE / 512 - 1, 1024), S_IOERR);
	assert_int_equal(disk_request(&disk, T_OUT, DISK_SIZE / 512 - 1, 1024), S_IOERR);
	disk_end(&disk);
}

static void test_a_sector_number_that_overflows_is_refused(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, T_IN, UINT64_MAX, 512), S_IOERR);
	assert_int_equal(disk_request(&disk, T_IN, UINT64_MAX / 512 + 1, 512), S_IOERR);
	disk_end(&disk);
}

static void test_a_length_that_is_no_multiple_of_a_sector_is_refused(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, T_IN, 0, 513), S_IOERR);
	assert_int_equal(disk_request(&disk, T_OUT, 0, 100), S_IOERR);
	disk_end(&disk);
}

static void test_an_unknown_request_is_unsupported(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, 42, 0, 0), S_UNSUPP);
	disk_end(&disk);
}

static void test_a_request_without_status_needs_a_reset(void **state)
{
	struct driver_buffer buffers[] = {{HEADER, 16, false}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	put_header(&disk, T_FLUSH, 0);
	driver_offer(&disk.driver, 0, buffers, 1);
	driver_notify(&disk.driver, 0);
	assert_true(driver_needs_reset(&disk.driver));
	disk_end(&disk);
}

static void test_a_request_with_half_a_header_needs_a_reset(void **state)
{
	struct driver_buffer buffers[] = {{HEADER, 15, false}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	driver_offer(&disk.driver, 0, buffers, 2);
	driver_notify(&disk.driver, 0);
	assert_true(driver_needs_reset(&disk.driver));
	disk_end(&disk);
}

static void test_a_reset_makes_a_broken_device_work_again(void **state)
{
	struct driver_buffer buffers[] = {{HEADER, 15, false}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	driver_offer(&disk.driver, 0, buffers, 2);
	driver_notify(&disk.driver, 0);
	driver_set_status(&disk.driver, 0);
	driver_start(&disk.driver, F_FLUSH);
	assert_int_equal(disk_request(&disk, T_IN, 0, 512), S_OK);
	disk_end(&disk);
}

static void test_flush_succeeds(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, T_FLUSH, 0, 0), S_OK);
	disk_end(&disk);
}

static void test_get_id_returns_the_serial_padded(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",serial=abc", F_FLUSH);
	memset(disk.driver.ram + DATA, 0xff, 20);
	assert_int_equal(disk_request(&disk, T_GET_ID, 0, 20), S_OK);
	assert_memory_equal(disk.driver.ram + DATA, "abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	disk_end(&disk);
}

static void test_get_id_with_another_length_is_refused(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(disk_request(&disk, T_GET_ID, 0, 19), S_IOERR);
	disk_end(&disk);
}

static void test_readonly_refuses_writes_and_offers_ro(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",readonly=on", F_FLUSH | F_RO);
	fill(&disk, 0, 4096, 0x44);
	assert_true(disk.driver.device->features & F_RO);
	assert_int_equal(disk.driver.device->features & (F_DISCARD | F_WRITE_ZEROES), 0);
	assert_int_equal(disk_request(&disk, T_IN, 0, 4096), S_OK);
	assert_int_equal(disk.driver.ram[DATA], 0x44);
	assert_int_equal(disk_request(&disk, T_OUT, 0, 512), S_IOERR);
	assert_int_equal(disk_request(&disk, T_FLUSH, 0, 0), S_OK);
	assert_int_equal(uniform(&disk, 0, 4096), 0x44);
	disk_end(&disk);
}

static void test_the_tail_of_an_odd_file_reads_as_zeros(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, 1000, "", F_FLUSH);
	fill(&disk, 0, 1000, 0x22);
	assert_int_equal(driver_read_config(&disk.driver, 0, 8), 2);
	memset(disk.driver.ram + DATA, 0xff, 1024);
	assert_int_equal(disk_request(&disk, T_IN, 0, 1024), S_OK);
	assert_int_equal(disk.driver.ram[DATA + 999], 0x22);
	for (int i = 1000; i < 1024; i++)
		assert_int_equal(disk.driver.ram[DATA + i], 0);
	disk_end(&disk);
}

static void test_reading_where_the_file_was_truncated_fails(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(ftruncate(disk.fd, 4096), 0);
	assert_int_equal(disk_request(&disk, T_IN, 0, 4096), S_OK);
	assert_int_equal(disk_request(&disk, T_IN, 8, 4096), S_IOERR);
	disk_end(&disk);
}

static void test_a_full_file_system_is_an_error_of_the_request_only(void **state)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_device *device;
	struct disk disk = {0};

	/* A sealed memfd refuses to grow: the write past its new end fails. */
	disk.fd = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	snprintf(disk.path, sizeof(disk.path), "/proc/self/fd/%d", disk.fd);
	assert_int_equal(ftruncate(disk.fd, DISK_SIZE), 0);
	driver_no_error(disk_try(&disk, ""));
	device = disk.driver.device;
	driver_create_memory(&disk.driver, &backing);
	driver_add_device(&disk.driver, device);
	driver_start(&disk.driver, F_FLUSH);
	assert_int_equal(ftruncate(disk.fd, 4096), 0);
	assert_int_equal(fcntl(disk.fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	assert_int_equal(disk_request(&disk, T_OUT, 8, 4096), S_IOERR);
	assert_int_equal(disk_request(&disk, T_OUT, 0, 4096), S_OK);
	driver_destroy(&disk.driver);
	close(disk.fd);
}

static void test_direct_io_bounces_misaligned_buffers(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA + 1, MIB(1), false}, {STATUS, 1, true}};
	struct error *error;
	struct disk disk = {0};

	disk_create_file(&disk, DISK_SIZE);
	error = disk_try(&disk, ",direct=on");
	if (error) { /* not every file system has it */
		error_free(error);
		close(disk.fd);
		unlink(disk.path);
		skip();
	}
	virtio_device_destroy(disk.driver.device);
	disk_open(&disk, ",direct=on");
	driver_start(&disk.driver, F_FLUSH);
	memset(disk.driver.ram + DATA + 1, 0x66, MIB(1));
	/* Several at once: they take turns with the buffer. */
	for (int i = 0; i < 4; i++) {
		put_header(&disk, T_OUT, 0);
		put_le64(disk.driver.ram + HEADER + 8, 4096 / 512);
		driver_offer(&disk.driver, 0, buffers, 3);
	}
	driver_notify(&disk.driver, 0);
	for (int i = 0; i < 4; i++)
		driver_wait(&disk.driver, 0, NULL);
	assert_int_equal(disk.driver.ram[STATUS], S_OK);
	assert_int_equal(uniform(&disk, 4096, MIB(1)), 0x66);
	memset(disk.driver.ram + DATA, 0, MIB(2));
	put_header(&disk, T_IN, 4096 / 512);
	buffers[1].writable = true;
	assert_int_equal(driver_request(&disk.driver, 0, buffers, 3), MIB(1) + 1);
	assert_int_equal(disk.driver.ram[STATUS], S_OK);
	assert_int_equal(disk.driver.ram[DATA], 0);
	for (uint64_t i = 0; i < MIB(1); i++)
		assert_int_equal(disk.driver.ram[DATA + 1 + i], 0x66);
	assert_int_equal(disk.driver.ram[DATA + 1 + MIB(1)], 0);
	disk_end(&disk);
}

static void test_a_batch_of_requests_completes_each_once(void **state)
{
	struct disk disk = {0};
	uint64_t seen = 0;

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	for (int i = 0; i < 64; i++)
		fill(&disk, i * 4096, 4096, (uint8_t)i);
	put_header(&disk, T_IN, 0);
	for (int i = 0; i < 64; i++) {
		struct driver_buffer buffers[] = {
		    {HEADER + 0x100 + i * 16, 16, false},
		    {DATA + i * 4096, 4096, true},
		    {STATUS + i, 1, true},
		};
		uint8_t *raw = disk.driver.ram + buffers[0].address;

		put_le32(raw, T_IN);
		put_le64(raw + 8, (uint64_t)i * 8);
		driver_offer(&disk.driver, 0, buffers, 3);
	}
	driver_notify(&disk.driver, 0);
	for (int i = 0; i < 64; i++) {
		uint16_t head;

		assert_int_equal(driver_wait(&disk.driver, 0, &head), 4097);
		seen ^= 1ULL << (head / 3);
	}
	assert_true(seen == UINT64_MAX);
	for (int i = 0; i < 64; i++) {
		assert_int_equal(disk.driver.ram[STATUS + i], S_OK);
		assert_int_equal(disk.driver.ram[DATA + i * 4096 + 4095], i);
	}
	disk_end(&disk);
}

static void test_each_queue_of_several_works(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",queues=4", F_FLUSH | F_MQ);
	assert_true(disk.driver.device->features & F_MQ);
	assert_int_equal(driver_read_config(&disk.driver, 34, 2), 4);
	for (uint16_t i = 0; i < 4; i++) {
		put_header(&disk, T_IN, i);
		assert_int_equal(driver_request(&disk.driver, i, buffers, 3), 513);
		assert_int_equal(disk.driver.ram[STATUS], S_OK);
	}
	disk_end(&disk);
}

static void test_quiesce_completes_what_is_in_flight_and_resume_goes_on(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA, MIB(2), true}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",queues=2", F_FLUSH | F_MQ);
	put_header(&disk, T_IN, 0);
	for (int i = 0; i < 16; i++)
		driver_offer(&disk.driver, 0, buffers, 3);
	driver_notify(&disk.driver, 0);
	virtio_device_quiesce(disk.driver.device);
	assert_int_equal(disk.driver.device->queues[0].ring.in_flight, 0);
	assert_int_equal(get_le16(disk.driver.ram + disk.driver.queues[0].used + 2), 16);
	driver_offer(&disk.driver, 0, buffers, 3);
	driver_notify(&disk.driver, 0);
	assert_int_equal(get_le16(disk.driver.ram + disk.driver.queues[0].used + 2), 16);
	virtio_device_resume(disk.driver.device);
	for (int i = 0; i < 17; i++)
		driver_wait(&disk.driver, 0, NULL);
	disk_end(&disk);
}

static void test_reset_leaves_nothing_in_flight(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA, MIB(2), true}, {STATUS, 1, true}};
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",queues=2", F_FLUSH | F_MQ);
	put_header(&disk, T_IN, 0);
	for (int i = 0; i < 16; i++)
		driver_offer(&disk.driver, 0, buffers, 3);
	driver_notify(&disk.driver, 0);
	driver_set_status(&disk.driver, 0);
	assert_int_equal(disk.driver.device->queues[0].ring.in_flight, 0);
	memset(disk.driver.ram + DATA, 0xab, MIB(2));
	usleep(20000);
	for (uint64_t i = 0; i < MIB(2); i++)
		assert_int_equal(disk.driver.ram[DATA + i], 0xab);
	disk_end(&disk);
}

static void test_the_cache_mode_follows_the_specification(void **state)
{
	struct disk disk = {0};

	/* Toggling without flush: starts write-through. */
	disk_start(&disk, DISK_SIZE, "", F_CONFIG_WCE);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 0);
	driver_set_status(&disk.driver, 0);
	driver_start(&disk.driver, F_CONFIG_WCE | F_FLUSH);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 1);
	driver_write_config(&disk.driver, 32, 1, 0);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 0);
	memset(disk.driver.ram + DATA, 0x78, 512);
	assert_int_equal(disk_request(&disk, T_OUT, 0, 512), S_OK);
	assert_int_equal(uniform(&disk, 0, 512), 0x78);
	disk_end(&disk);
}

static void test_write_through_cannot_be_turned_off_by_the_guest(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, ",cache=writethrough", F_WRITE_ZEROES);
	assert_int_equal(disk.driver.device->features & F_CONFIG_WCE, 0);
	driver_write_config(&disk.driver, 32, 1, 1);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 0);
	put_range(&disk, 0, 0, 8, 0);
	assert_int_equal(disk_request(&disk, T_WRITE_ZEROES, 0, 16), S_OK);
	disk_end(&disk);
}

static void test_the_configuration_describes_the_disk(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	assert_int_equal(driver_read_config(&disk.driver, 0, 8), DISK_SIZE / 512);
	assert_int_equal(driver_read_config(&disk.driver, 12, 4), 254);
	assert_int_equal(driver_read_config(&disk.driver, 20, 4), 512);
	assert_int_equal(driver_read_config(&disk.driver, 36, 4), GIB(1) / 512);
	assert_int_equal(driver_read_config(&disk.driver, 40, 4), 16);
	disk_end(&disk);
}

static void refused(struct disk *disk, const char *options, const char *message)
{
	struct error *error = disk_try(disk, options);

	assert_non_null(error);
	if (!strstr(error_message(error), message))
		fail_msg("'%s' does not contain '%s'", error_message(error), message);
	error_free(error);
}

static void test_a_file_in_use_for_writing_is_refused_by_name(void **state)
{
	struct disk disk = {0};
	struct virtio_device *device;

	disk_create_file(&disk, DISK_SIZE);
	driver_no_error(disk_try(&disk, ""));
	device = disk.driver.device;
	refused(&disk, "", disk.path);
	refused(&disk, ",readonly=on", "in use");
	virtio_device_destroy(device);
	driver_no_error(disk_try(&disk, ""));
	virtio_device_destroy(disk.driver.device);
	close(disk.fd);
	unlink(disk.path);
}

static void test_readers_share_a_file(void **state)
{
	struct disk disk = {0};
	struct virtio_device *first;

	disk_create_file(&disk, DISK_SIZE);
	driver_no_error(disk_try(&disk, ",readonly=on"));
	first = disk.driver.device;
	driver_no_error(disk_try(&disk, ",readonly=on"));
	refused(&disk, "", "in use");
	virtio_device_destroy(disk.driver.device);
	virtio_device_destroy(first);
	close(disk.fd);
	unlink(disk.path);
}

static void test_what_is_no_disk_is_refused(void **state)
{
	struct disk disk = {.path = "/dev/null"};

	refused(&disk, "", "neither a regular file nor a block device");
	strcpy(disk.path, "/nonexistent/disk");
	refused(&disk, "", "/nonexistent/disk");
	disk_create_file(&disk, 0);
	refused(&disk, "", "is empty");
	close(disk.fd);
	unlink(disk.path);
}

static void test_wrong_options_are_refused_by_name(void **state)
{
	struct disk disk = {0};

	disk_create_file(&disk, DISK_SIZE);
	refused(&disk, ",cache=none", "none");
	refused(&disk, ",queues=0", "queues");
	refused(&disk, ",queues=65", "queues");
	refused(&disk, ",serial=123456789012345678901", "serial");
	refused(&disk, ",frobnicate=on", "frobnicate");
	refused(&disk, ",readonly=on,discard=on", "discard=on");
	close(disk.fd);
	unlink(disk.path);
}

/* The state of @disk's device is not for one with @options, on a file of @size bytes. */
static void assert_not_for(struct disk *disk, uint64_t size, const char *options, const char *words)
{
	struct disk other;
	struct saved_state saved;

	disk_create_file(&other, size);
	disk_open(&other, options);
	virtio_device_quiesce(disk->driver.device);
	virtio_device_quiesce(other.driver.device);
	saved = save_device(disk->driver.device);
	assert_refused(other.driver.device, &saved, words);
	free(saved.bytes);
	disk_end(&other);
}

static void a_state_is_for_the_same_disk(void **state)
{
	struct disk disk;

	disk_start(&disk, DISK_SIZE, ",serial=one", F_FLUSH);
	assert_not_for(&disk, DISK_SIZE + 512, ",serial=one", "sectors");
	assert_not_for(&disk, DISK_SIZE, ",serial=two", "serial");
	assert_not_for(&disk, DISK_SIZE, ",serial=one,readonly=on", "read-only");
	assert_not_for(&disk, DISK_SIZE, ",serial=one,cache=writethrough", "feature bits 9,");
	disk_end(&disk);
}

static void the_cache_mode_goes_along(void **state)
{
	struct virtio_device *fresh;
	struct disk disk;
	char text[96];

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_CONFIG_WCE);
	driver_write_config(&disk.driver, 32, 1, 0);
	snprintf(text, sizeof(text), "%s,lock=off", disk.path);
	driver_no_error(virtio_blk_create(text, &fresh));
	move_to_device(&disk.driver, fresh);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 0);
	driver_write_config(&disk.driver, 32, 1, 1);
	assert_int_equal(driver_read_config(&disk.driver, 32, 1), 1);
	disk_end(&disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_read_returns_what_the_file_holds),
	    cmocka_unit_test(test_a_read_reports_data_and_status_as_written),
	    cmocka_unit_test(test_write_reaches_the_file_and_nothing_beside),
	    cmocka_unit_test(test_any_layout_of_header_data_and_status_works),
	    cmocka_unit_test(test_the_last_sector_is_reachable_and_the_next_is_not),
	    cmocka_unit_test(test_a_sector_number_that_overflows_is_refused),
	    cmocka_unit_test(test_a_length_that_is_no_multiple_of_a_sector_is_refused),
	    cmocka_unit_test(test_an_unknown_request_is_unsupported),
	    cmocka_unit_test(test_a_request_without_status_needs_a_reset),
	    cmocka_unit_test(test_a_request_with_half_a_header_needs_a_reset),
	    cmocka_unit_test(test_a_reset_makes_a_broken_device_work_again),
	    cmocka_unit_test(test_flush_succeeds),
	    cmocka_unit_test(test_get_id_returns_the_serial_padded),
	    cmocka_unit_test(test_get_id_with_another_length_is_refused),
	    cmocka_unit_test(test_readonly_refuses_writes_and_offers_ro),
	    cmocka_unit_test(test_the_tail_of_an_odd_file_reads_as_zeros),
	    cmocka_unit_test(test_reading_where_the_file_was_truncated_fails),
	    cmocka_unit_test(test_a_full_file_system_is_an_error_of_the_request_only),
	    cmocka_unit_test(test_direct_io_bounces_misaligned_buffers),
	    cmocka_unit_test(test_a_batch_of_requests_completes_each_once),
	    cmocka_unit_test(test_each_queue_of_several_works),
	    cmocka_unit_test(test_quiesce_completes_what_is_in_flight_and_resume_goes_on),
	    cmocka_unit_test(test_reset_leaves_nothing_in_flight),
	    cmocka_unit_test(test_the_cache_mode_follows_the_specification),
	    cmocka_unit_test(test_write_through_cannot_be_turned_off_by_the_guest),
	    cmocka_unit_test(test_the_configuration_describes_the_disk),
	    cmocka_unit_test(test_a_file_in_use_for_writing_is_refused_by_name),
	    cmocka_unit_test(test_readers_share_a_file),
	    cmocka_unit_test(test_what_is_no_disk_is_refused),
	    cmocka_unit_test(test_wrong_options_are_refused_by_name),
	    cmocka_unit_test(a_state_is_for_the_same_disk),
	    cmocka_unit_test(the_cache_mode_goes_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
