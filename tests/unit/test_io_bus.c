/* SPDX-License-Identifier: BSD-2-Clause */
/* Who answers at an address, while ranges come and go. */
#include "cmocka_prelude.h"
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "kvm/io_bus.h"

struct port {
	uint64_t offset;
	uint32_t size;
	uint8_t value;
};

static void port_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct port *port = context;

	port->offset = offset;
	port->size = size;
	memset(data, port->value, size);
}

static void port_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct port *port = context;

	port->offset = offset;
	port->size = size;
	port->value = *(const uint8_t *)data;
}

static const struct io_handler port_io = {.read = port_read, .write = port_write};

static int setup(void **state)
{
	struct io_bus *bus = NULL;

	assert_no_error(io_bus_create(&bus));
	*state = bus;
	return 0;
}

static int teardown(void **state)
{
	io_bus_destroy(*state);
	return 0;
}

static void an_access_reaches_its_range_with_an_offset(void **state)
{
	struct port low = {.value = 1}, high = {.value = 2};
	uint8_t data[4];

	assert_no_error(io_bus_add(*state, 0x200, 8, &port_io, &high, "high"));
	assert_no_error(io_bus_add(*state, 0x100, 8, &port_io, &low, "low"));
	assert_true(io_bus_read(*state, 0x204, data, 4));
	assert_int_equal(data[3], 2);
	assert_int_equal(high.offset, 4);
	assert_int_equal(high.size, 4);
	data[0] = 9;
	assert_true(io_bus_write(*state, 0x107, data, 1));
	assert_int_equal(low.value, 9);
	assert_int_equal(low.offset, 7);
}

static void an_access_past_the_end_of_a_range_is_nobodys(void **state)
{
	struct port port = {.value = 1};
	uint8_t data[8] = {0};

	assert_no_error(io_bus_add(*state, 0x100, 4, &port_io, &port, "port"));
	assert_false(io_bus_read(*state, 0x102, data, 4));
	assert_int_equal(data[0], 0xff);
	assert_false(io_bus_read(*state, 0x104, data, 1));
	assert_false(io_bus_write(*state, 0xff, data, 1));
	assert_false(io_bus_read(*state, UINT64_MAX, data, 8));
}

static void an_access_of_an_odd_size_is_nobodys(void **state)
{
	struct port port = {.value = 1};
	uint8_t data[3] = {0};

	assert_no_error(io_bus_add(*state, 0x100, 4, &port_io, &port, "port"));
	assert_false(io_bus_read(*state, 0x100, data, 3));
	assert_int_equal(data[2], 0xff);
}

static void ranges_must_not_overlap(void **state)
{
	struct port port = {0};

	assert_no_error(io_bus_add(*state, 0x100, 0x10, &port_io, &port, "first"));
	assert_error_with(io_bus_add(*state, 0x10f, 1, &port_io, &port, "second"), "first");
	assert_error_with(io_bus_add(*state, 0xf0, 0x11, &port_io, &port, "second"), "first");
	assert_error_with(io_bus_add(*state, 0xf0, 0x100, &port_io, &port, "second"), "first");
	assert_error_with(io_bus_add(*state, UINT64_MAX, 2, &port_io, &port, "second"), "wraps");
	assert_no_error(io_bus_add(*state, 0x110, 0x10, &port_io, &port, "second"));
	assert_no_error(io_bus_add(*state, 0xf0, 0x10, &port_io, &port, "third"));
}

static void a_removed_range_no_longer_answers(void **state)
{
	struct port port = {0};
	uint8_t data;

	assert_no_error(io_bus_add(*state, 0x100, 1, &port_io, &port, "one"));
	assert_no_error(io_bus_add(*state, 0x101, 1, &port_io, &port, "two"));
	io_bus_remove(*state, 0x100);
	io_bus_remove(*state, 0x5000); /* nobody is there */
	assert_false(io_bus_read(*state, 0x100, &data, 1));
	assert_true(io_bus_read(*state, 0x101, &data, 1));
	assert_no_error(io_bus_add(*state, 0x100, 1, &port_io, &port, "one"));
	assert_true(io_bus_read(*state, 0x100, &data, 1));
}

struct reader {
	struct io_bus *bus;
	bool stop;
	uint64_t wrong;
};

/* The range at 0x1000 is always there and must always be found, whatever moves below it. */
static void *read_on(void *context)
{
	struct reader *reader = context;
	uint8_t data;

	while (!__atomic_load_n(&reader->stop, __ATOMIC_RELAXED))
		if (!io_bus_read(reader->bus, 0x1000, &data, 1) || data != 7)
			reader->wrong++;
	return NULL;
}

static void readers_find_their_range_while_others_change(void **state)
{
	struct port fixed = {.value = 7}, moving = {.value = 8};
	struct reader reader = {.bus = *state};
	pthread_t thread;

	assert_no_error(io_bus_add(*state, 0x1000, 1, &port_io, &fixed, "fixed"));
	assert_int_equal(pthread_create(&thread, NULL, read_on, &reader), 0);
	for (int i = 0; i < 20000; i++) {
		assert_no_error(io_bus_add(*state, i % 7, 1, &port_io, &moving, "moving"));
		io_bus_remove(*state, i % 7);
	}
	__atomic_store_n(&reader.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(reader.wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(an_access_reaches_its_range_with_an_offset, setup,
					    teardown),
	    cmocka_unit_test_setup_teardown(an_access_past_the_end_of_a_range_is_nobodys, setup,
					    teardown),
	    cmocka_unit_test_setup_teardown(an_access_of_an_odd_size_is_nobodys, setup, teardown),
	    cmocka_unit_test_setup_teardown(ranges_must_not_overlap, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_removed_range_no_longer_answers, setup, teardown),
	    cmocka_unit_test_setup_teardown(readers_find_their_range_while_others_change, setup,
					    teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
