/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-console between a driver and a client of its socket. */
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio/console.h"
#include "virtio_state.h"

#define INPUT  0
#define OUTPUT 1

struct fixture {
	struct driver driver;
	char directory[32], path[64];
	int client;
};

static int setup(void **state)
{
	static const struct ram_backing_options memory = {.backing = RAM_BACKING_ANON,
							  .host_node = -1};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = 5};
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_device *device;
	struct chardev *backend;
	char text[80];

	log_set_level(LOG_LEVEL_ERROR);
	strcpy(f->directory, "/tmp/console-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/x", f->directory);
	snprintf(text, sizeof(text), "unix:%s", f->path);
	driver_no_error(chardev_create(text, &backend));
	driver_create_memory(&f->driver, &memory);
	driver_no_error(virtio_console_create("console", backend, &device));
	driver_add_device(&f->driver, device);
	f->client = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(f->client, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(f->client, (struct sockaddr *)&address, sizeof(address)), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_destroy(&f->driver);
	close(f->client);
	rmdir(f->directory);
	free(f);
	return 0;
}

static void type(struct fixture *f, const char *text)
{
	assert_int_equal(write(f->client, text, strlen(text)), strlen(text));
}

static void offer_input(struct fixture *f, uint64_t address, uint32_t size)
{
	driver_offer(&f->driver, INPUT, &(struct driver_buffer){address, size, true}, 1);
	driver_notify(&f->driver, INPUT);
}

static void output_reaches_the_client(void **state)
{
	struct fixture *f = *state;
	const struct driver_buffer buffers[] = {{0x1000, 3, false}, {0x2000, 2, false}};
	char text[8] = {0};

	driver_start(&f->driver, 0);
	memcpy(f->driver.ram + 0x1000, "abc", 3);
	memcpy(f->driver.ram + 0x2000, "de", 2);
	assert_int_equal(driver_request(&f->driver, OUTPUT, buffers, 2), 0);
	assert_int_equal(recv(f->client, text, 5, MSG_WAITALL), 5);
	assert_string_equal(text, "abcde");
}

static void input_fills_the_buffers_there_are(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->driver, 0);
	offer_input(f, 0x1000, 4);
	offer_input(f, 0x2000, 100);
	type(f, "abcdefg");
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 4);
	assert_memory_equal(f->driver.ram + 0x1000, "abcd", 4);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 3);
	assert_memory_equal(f->driver.ram + 0x2000, "efg", 3);
}

static void input_waits_for_buffers(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->driver, 0);
	type(f, "abcdefg");
	usleep(20000);
	offer_input(f, 0x1000, 4);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 4);
	offer_input(f, 0x2000, 4);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 3);
	assert_memory_equal(f->driver.ram + 0x2000, "efg", 3);
}

static void input_before_the_driver_is_kept(void **state)
{
	struct fixture *f = *state;

	type(f, "early");
	usleep(20000);
	driver_start(&f->driver, 0);
	offer_input(f, 0x1000, 100);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 5);
}

static void input_waits_while_the_device_is_quiesced(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->driver, 0);
	offer_input(f, 0x1000, 100);
	virtio_device_quiesce(f->driver.device);
	type(f, "abc");
	usleep(20000);
	assert_false(driver_used(&f->driver, INPUT));
	virtio_device_resume(f->driver.device);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 3);
}

static void a_readable_input_buffer_needs_a_reset(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->driver, 0);
	driver_offer(&f->driver, INPUT, &(struct driver_buffer){0x1000, 8, false}, 1);
	type(f, "abc");
	for (int i = 0; i < WAIT_MAX_MS && !driver_needs_reset(&f->driver); i++)
		usleep(1000);
	assert_true(driver_needs_reset(&f->driver));
	/* The input is not lost with it. */
	driver_set_status(&f->driver, 0);
	driver_start(&f->driver, 0);
	offer_input(f, 0x1000, 100);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 3);
}

static void a_writable_output_buffer_needs_a_reset(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->driver, 0);
	driver_offer(&f->driver, OUTPUT, &(struct driver_buffer){0x1000, 8, true}, 1);
	driver_notify(&f->driver, OUTPUT);
	assert_true(driver_needs_reset(&f->driver));
}

static void a_socket_has_no_size(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->driver.device->features & 1, 0);
	assert_int_equal(driver_read_config(&f->driver, 4, 4), 1);
}

static void input_that_waits_goes_along(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *fresh;
	struct chardev *backend;

	driver_start(&f->driver, 0);
	type(f, "hello");
	offer_input(f, 0x1000, 2);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 2);
	driver_no_error(chardev_create("null", &backend));
	driver_no_error(virtio_console_create("console", backend, &fresh));
	move_to_device(&f->driver, fresh);
	offer_input(f, 0x2000, 100);
	assert_int_equal(driver_wait(&f->driver, INPUT, NULL), 3);
	assert_memory_equal(f->driver.ram + 0x2000, "llo", 3);
}

static void offer_size(void *context)
{
	struct virtio_device *device = context;

	device->features |= 1; /* as with a terminal */
}

static void a_terminal_may_be_followed_by_something_else(void **state)
{
	struct fixture *f = *state;
	struct virtio_device *fresh;
	struct chardev *backend;

	event_loop_call(f->driver.device->loop, offer_size, f->driver.device);
	driver_start(&f->driver, 1);
	driver_no_error(chardev_create("null", &backend));
	driver_no_error(virtio_console_create("console", backend, &fresh));
	move_to_device(&f->driver, fresh);
	assert_int_equal(fresh->driver_features & 1, 1);
	assert_int_equal(driver_read_config(&f->driver, 0, 4), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(output_reaches_the_client),
	    TEST(input_fills_the_buffers_there_are),
	    TEST(input_waits_for_buffers),
	    TEST(input_before_the_driver_is_kept),
	    TEST(input_waits_while_the_device_is_quiesced),
	    TEST(a_readable_input_buffer_needs_a_reset),
	    TEST(a_writable_output_buffer_needs_a_reset),
	    TEST(a_socket_has_no_size),
	    TEST(input_that_waits_goes_along),
	    TEST(a_terminal_may_be_followed_by_something_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
