/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-rng: what a request gets, and what is not a request. */
#include "virtio/rng.h"
#include "virtio_driver.h"

static int setup(void **state)
{
	static const struct ram_backing_options memory = {.backing = RAM_BACKING_ANON,
							  .host_node = -1};
	struct driver *driver = calloc(1, sizeof(*driver));
	struct virtio_device *device;

	log_set_level(LOG_LEVEL_ERROR);
	driver_create_memory(driver, &memory);
	driver_no_error(virtio_rng_create("rng", &device));
	driver_add_device(driver, device);
	driver_start(driver, 0);
	*state = driver;
	return 0;
}

static int teardown(void **state)
{
	driver_destroy(*state);
	free(*state);
	return 0;
}

static bool is_filled(const uint8_t *bytes, size_t size)
{
	size_t zeros = 0;

	for (size_t i = 0; i < size; i++)
		zeros += !bytes[i];
	return zeros < size / 8;
}

static void a_request_is_filled(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer buffers[] = {{0x1000, 100, true}, {0x2000, 100, true}};

	assert_int_equal(driver_request(driver, 0, buffers, 2), 200);
	assert_true(is_filled(driver->ram + 0x1000, 100));
	assert_true(is_filled(driver->ram + 0x2000, 100));
	assert_int_equal(driver->ram[0x1000 + 100] | driver->ram[0x2000 + 100], 0);
}

static void a_long_request_gets_a_bounded_amount(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer buffer = {0x10000, MIB(1), true};

	assert_int_equal(driver_request(driver, 0, &buffer, 1), VIRTIO_RNG_REQUEST_MAX);
	assert_true(is_filled(driver->ram + 0x10000, VIRTIO_RNG_REQUEST_MAX));
	assert_int_equal(driver->ram[0x10000 + VIRTIO_RNG_REQUEST_MAX], 0);
}

static void a_readable_request_needs_a_reset(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer buffers[] = {{0x1000, 8, false}, {0x2000, 8, true}};

	driver_offer(driver, 0, buffers, 2);
	driver_notify(driver, 0);
	assert_true(driver_needs_reset(driver));
	assert_false(driver_used(driver, 0));
}

static void after_a_reset_it_works_again(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer bad = {0x1000, 8, false}, good = {0x1000, 64, true};

	driver_offer(driver, 0, &bad, 1);
	driver_notify(driver, 0);
	driver_set_status(driver, 0);
	driver_start(driver, 0);
	assert_int_equal(driver_request(driver, 0, &good, 1), 64);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(a_request_is_filled),
	    TEST(a_long_request_gets_a_bounded_amount),
	    TEST(a_readable_request_needs_a_reset),
	    TEST(after_a_reset_it_works_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
