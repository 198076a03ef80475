/* SPDX-License-Identifier: BSD-2-Clause */
/* The devices at fixed ports, on their way to another machine. */
#include "cmocka_prelude.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kvm/io_bus.h"
#include "machine/pci_host.h"
#include "machine/platform.h"
#include "machine/rtc.h"
#include "machine/serial.h"
#include "state_travel.h"

/* A bus with all of them, of which a test moves one. */
struct world {
	struct io_bus *pio, *mmio;
	struct serial *serial;
	struct rtc *rtc;
	struct pci_host *pci;
	bool line;
};

static void output(void *context, uint8_t byte)
{
}

static void input_wanted(void *context)
{
}

static void interrupt(void *context, bool level)
{
	struct world *world = context;

	assert_int_not_equal(world->line, level);
	world->line = level;
}

static const struct serial_ops serial_ops = {
    .output = output, .input_wanted = input_wanted, .interrupt = interrupt};

static void *create(void)
{
	struct world *world = calloc(1, sizeof(*world));
	struct pci_host_options options = {.window_start = 0x100000000, .window_size = 0x10000000};

	assert_non_null(world);
	assert_no_error(io_bus_create(&world->pio));
	assert_no_error(io_bus_create(&world->mmio));
	options.pio = world->pio;
	options.mmio = world->mmio;
	assert_no_error(serial_create(world->pio, &serial_ops, world, &world->serial));
	assert_no_error(rtc_create(world->pio, &world->rtc));
	assert_no_error(pci_host_create(&options, &world->pci));
	return world;
}

static void destroy(void *device)
{
	struct world *world = device;

	pci_host_destroy(world->pci);
	rtc_destroy(world->rtc);
	serial_destroy(world->serial);
	io_bus_destroy(world->mmio);
	io_bus_destroy(world->pio);
	free(world);
}

static void visit_serial(void *device, struct state *state)
{
	serial_state(((struct world *)device)->serial, state);
}

static void visit_rtc(void *device, struct state *state)
{
	rtc_state(((struct world *)device)->rtc, state);
}

static void visit_pci_host(void *device, struct state *state)
{
	pci_host_state(((struct world *)device)->pci, state);
}

static const struct travel serial_travel = {visit_serial, create, destroy};
static const struct travel rtc_travel = {visit_rtc, create, destroy};
static const struct travel pci_host_travel = {visit_pci_host, create, destroy};

static void out(struct world *world, uint16_t port, uint8_t value)
{
	assert_true(io_bus_write(world->pio, port, &value, 1));
}

static uint8_t in(struct world *world, uint16_t port)
{
	uint8_t value;

	assert_true(io_bus_read(world->pio, port, &value, 1));
	return value;
}

static struct world *moved(const struct travel *travel, struct world *world)
{
	struct world *copy = create();
	size_t size;
	uint8_t *bytes = travel_save(travel, world, &size);

	assert_no_error(travel_load(travel, copy, bytes, size));
	free(bytes);
	return copy;
}

#define SERIAL PLATFORM_SERIAL_PORT

/* FIFO on, interrupts on, input that wrapped around the FIFO and is half read, an overrun. */
static struct world *busy_serial(void)
{
	struct world *world = create();

	out(world, SERIAL + 2, 0x81);
	out(world, SERIAL + 1, 0x0d);
	out(world, SERIAL + 4, 0x0b);
	out(world, SERIAL + 7, 0x5a);
	assert_int_equal(serial_input(world->serial, (const uint8_t *)"0123456789abcdef", 16), 16);
	for (char c = '0'; c <= '9'; c++)
		assert_int_equal(in(world, SERIAL), c);
	assert_int_equal(serial_input(world->serial, (const uint8_t *)"ghijk", 5), 5);
	out(world, SERIAL + 3, 0x80);
	out(world, SERIAL, 1);
	out(world, SERIAL + 1, 2);
	out(world, SERIAL + 3, 0x03);
	return world;
}

static void every_field_of_the_serial_port_travels(void **state)
{
	struct world *world = busy_serial();

	assert_state_travels(&serial_travel, world);
	destroy(world);
}

static void input_that_was_not_read_comes_in_order(void **state)
{
	struct world *world = busy_serial(), *copy = moved(&serial_travel, world);

	assert_int_equal(in(copy, SERIAL + 7), 0x5a);
	for (char c = 'a'; c <= 'k'; c++)
		assert_int_equal(in(copy, SERIAL), c);
	assert_int_equal(in(copy, SERIAL + 5) & 1, 0);
	destroy(world);
	destroy(copy);
}

static void a_line_that_was_raised_is_raised_again(void **state)
{
	struct world *world = busy_serial(), *copy = moved(&serial_travel, world);

	assert_true(world->line);
	assert_true(copy->line);
	while (in(copy, SERIAL + 5) & 1)
		in(copy, SERIAL);
	assert_false(copy->line);
	destroy(world);
	destroy(copy);
}

#define CMOS PLATFORM_RTC_PORT

/* 2031-07-09 21:43, twelve hours, binary; memory byte 0x40 used, and the index left there. */
static struct world *set_rtc(void)
{
	static const uint8_t set[][2] = {{11, 0x84}, {0, 5},  {2, 43},	{4, 0x89},  {7, 9},
					 {8, 7},     {9, 31}, {50, 20}, {11, 0x04}, {0x40, 0xa5}};
	struct world *world = create();

	for (size_t i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
		out(world, CMOS, set[i][0]);
		out(world, CMOS + 1, set[i][1]);
	}
	return world;
}

static void every_field_of_the_clock_travels(void **state)
{
	struct world *world = set_rtc();

	assert_state_travels(&rtc_travel, world);
	destroy(world);
}

static void the_time_that_was_set_goes_on(void **state)
{
	struct world *world = set_rtc(), *copy = moved(&rtc_travel, world);

	assert_int_equal(in(copy, CMOS + 1), 0xa5);
	out(copy, CMOS, 9);
	assert_int_equal(in(copy, CMOS + 1), 31);
	out(copy, CMOS, 4);
	assert_int_equal(in(copy, CMOS + 1), 0x89);
	destroy(world);
	destroy(copy);
}

static void the_address_of_the_configuration_ports_travels(void **state)
{
	struct world *world = create();
	const uint32_t address = 0x80000000, ids = 0x00081b36;
	struct world *copy;
	uint32_t value;

	io_bus_write(world->pio, PLATFORM_PCI_PORT, &address, 4);
	assert_state_travels(&pci_host_travel, world);
	copy = moved(&pci_host_travel, world);
	io_bus_read(copy->pio, PLATFORM_PCI_PORT + 4, &value, 4);
	assert_int_equal(value, ids);
	destroy(world);
	destroy(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_field_of_the_serial_port_travels),
	    cmocka_unit_test(input_that_was_not_read_comes_in_order),
	    cmocka_unit_test(a_line_that_was_raised_is_raised_again),
	    cmocka_unit_test(every_field_of_the_clock_travels),
	    cmocka_unit_test(the_time_that_was_set_goes_on),
	    cmocka_unit_test(the_address_of_the_configuration_ports_travels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
