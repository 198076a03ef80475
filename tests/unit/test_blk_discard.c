/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk on real files: what discard and write zeroes do to the storage. */
#include "blk_fixture.h"

static void test_discard_gives_storage_back(void **state)
{
	struct disk disk = {0};
	uint64_t before;

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_DISCARD);
	fill(&disk, 0, MIB(4), 0x11);
	before = allocated(&disk);
	put_range(&disk, 0, MIB(1) / 512, MIB(2) / 512, 0);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 16), S_OK);
	assert_true(allocated(&disk) <= before - MIB(2) + KIB(64));
	assert_int_equal(uniform(&disk, MIB(1), MIB(2)), 0);
	assert_int_equal(uniform(&disk, 0, MIB(1)), 0x11);
	assert_int_equal(uniform(&disk, MIB(3), MIB(1)), 0x11);
	disk_end(&disk);
}

static void test_discard_takes_several_ranges(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_DISCARD);
	fill(&disk, 0, MIB(4), 0x11);
	put_range(&disk, 0, 0, 8, 0);
	put_range(&disk, 1, 16, 0, 0);
	put_range(&disk, 2, 24, 8, 0);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 48), S_OK);
	assert_int_equal(uniform(&disk, 0, 4096), 0);
	assert_int_equal(uniform(&disk, 4096, 8192), 0x11);
	assert_int_equal(uniform(&disk, 12288, 4096), 0);
	disk_end(&disk);
}

static void test_discard_beyond_the_end_is_refused_and_does_nothing(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_DISCARD);
	fill(&disk, 0, DISK_SIZE, 0x11);
	put_range(&disk, 0, 0, 8, 0);
	put_range(&disk, 1, DISK_SIZE / 512 - 1, 2, 0);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 32), S_IOERR);
	assert_int_equal(uniform(&disk, 0, DISK_SIZE), 0x11);
	disk_end(&disk);
}

static void test_discard_with_a_flag_is_unsupported(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_DISCARD);
	put_range(&disk, 0, 0, 8, 1);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 16), S_UNSUPP);
	disk_end(&disk);
}

static void test_discard_with_too_many_ranges_is_refused(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_DISCARD);
	memset(disk.driver.ram + DATA, 0, 17 * 16);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 17 * 16), S_IOERR);
	disk_end(&disk);
}

static void test_discard_that_was_not_negotiated_is_unsupported(void **state)
{
	struct disk disk = {0};

	disk_start(&disk, DISK_SIZE, "", F_FLUSH);
	put_range(&disk, 0, 0, 8, 0);
	assert_int_equal(disk_request(&disk, T_DISCARD, 0, 16), S_UNSUPP);
	disk_end(&disk);
}

static void test_write_zeroes_without_unmap_keeps_storage(void **state)
{
	struct disk disk = {0};
	uint64_t before;

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_WRITE_ZEROES);
	fill(&disk, 0, MIB(4), 0x11);
	before = allocated(&disk);
	put_range(&disk, 0, MIB(1) / 512, MIB(2) / 512, 0);
	assert_int_equal(disk_request(&disk, T_WRITE_ZEROES, 0, 16), S_OK);
	assert_int_equal(uniform(&disk, MIB(1), MIB(2)), 0);
	assert_int_equal(uniform(&disk, MIB(3), MIB(1)), 0x11);
	assert_true(allocated(&disk) + KIB(64) >= before);
	disk_end(&disk);
}

static void test_write_zeroes_with_unmap_gives_storage_back(void **state)
{
	struct disk disk = {0};
	uint64_t before;

	disk_start(&disk, DISK_SIZE, "", F_FLUSH | F_WRITE_ZEROES);
	fill(&disk, 0, MIB(4), 0x11);
	before = allocated(&disk);
	put_range(&disk, 0, MIB(1) / 512, MIB(2) / 512, 1);
	assert_int_equal(disk_request(&disk, T_WRITE_ZEROES, 0, 16), S_OK);
	assert_int_equal(uniform(&disk, MIB(1), MIB(2)), 0);
	assert_true(allocated(&disk) <= before - MIB(2) + KIB(64));
	disk_end(&disk);
}

static void test_discard_off_keeps_storage_even_with_unmap(void **state)
{
	struct disk disk = {0};
	uint64_t before;

	disk_start(&disk, DISK_SIZE, ",discard=off", F_FLUSH | F_WRITE_ZEROES);
	assert_int_equal(disk.driver.device->features & F_DISCARD, 0);
	fill(&disk, 0, MIB(4), 0x11);
	before = allocated(&disk);
	put_range(&disk, 0, MIB(1) / 512, MIB(2) / 512, 1);
	assert_int_equal(disk_request(&disk, T_WRITE_ZEROES, 0, 16), S_OK);
	assert_int_equal(uniform(&disk, MIB(1), MIB(2)), 0);
	assert_true(allocated(&disk) + KIB(64) >= before);
	disk_end(&disk);
}

/* tmpfs has no FALLOC_FL_ZERO_RANGE. */
static void test_write_zeroes_works_where_the_file_system_cannot_zero(void **state)
{
	struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {DATA, 16, false}, {STATUS, 1, true}};
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_device *device;
	struct disk disk = {0};

	disk.fd = memfd_create("disk", MFD_CLOEXEC);
	snprintf(disk.path, sizeof(disk.path), "/proc/self/fd/%d", disk.fd);
	assert_int_equal(ftruncate(disk.fd, MIB(40)), 0);
	driver_no_error(disk_try(&disk, ""));
	device = disk.driver.device;
	driver_create_memory(&disk.driver, &backing);
	driver_add_device(&disk.driver, device);
	driver_start(&disk.driver, F_FLUSH | F_WRITE_ZEROES);
	fill(&disk, 0, MIB(40), 0x11);
	/* More than one write of zeros takes. */
	put_header(&disk, T_WRITE_ZEROES, 0);
	put_range(&disk, 0, 1, MIB(38) / 512, 0);
	driver_request(&disk.driver, 0, buffers, 3);
	assert_int_equal(disk.driver.ram[STATUS], S_OK);
	assert_int_equal(uniform(&disk, 0, 512), 0x11);
	assert_int_equal(uniform(&disk, 512, MIB(38)), 0);
	assert_int_equal(uniform(&disk, MIB(38) + 512, MIB(2) - 512), 0x11);
	driver_destroy(&disk.driver);
	close(disk.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_discard_gives_storage_back),
	    cmocka_unit_test(test_discard_takes_several_ranges),
	    cmocka_unit_test(test_discard_beyond_the_end_is_refused_and_does_nothing),
	    cmocka_unit_test(test_discard_with_a_flag_is_unsupported),
	    cmocka_unit_test(test_discard_with_too_many_ranges_is_refused),
	    cmocka_unit_test(test_discard_that_was_not_negotiated_is_unsupported),
	    cmocka_unit_test(test_write_zeroes_without_unmap_keeps_storage),
	    cmocka_unit_test(test_write_zeroes_with_unmap_gives_storage_back),
	    cmocka_unit_test(test_discard_off_keeps_storage_even_with_unmap),
	    cmocka_unit_test(test_write_zeroes_works_where_the_file_system_cannot_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
