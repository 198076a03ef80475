/* SPDX-License-Identifier: BSD-2-Clause */
/* The devices at fixed ports, as a driver sees them. */
#include "cmocka_prelude.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "kvm/io_bus.h"
#include "machine/platform.h"
#include "machine/power.h"
#include "machine/rtc.h"
#include "machine/serial.h"

struct fixture {
	struct io_bus *bus;
	struct serial *serial;
	struct rtc *rtc;
	struct power *power;
	char output[64];
	size_t output_size;
	bool line;
	unsigned int input_wanted;
	int request; /* enum power_request, -1: none */
};

static void output(void *context, uint8_t byte)
{
	struct fixture *f = context;

	assert_in_range(f->output_size, 0, sizeof(f->output) - 2);
	f->output[f->output_size++] = (char)byte;
}

static void input_wanted(void *context)
{
	((struct fixture *)context)->input_wanted++;
}

static void interrupt(void *context, bool level)
{
	struct fixture *f = context;

	assert_int_not_equal(f->line, level);
	f->line = level;
}

static void request(void *context, enum power_request what)
{
	((struct fixture *)context)->request = (int)what;
}

static const struct serial_ops serial_ops = {
    .output = output, .input_wanted = input_wanted, .interrupt = interrupt};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->request = -1;
	assert_no_error(io_bus_create(&f->bus));
	assert_no_error(serial_create(f->bus, &serial_ops, f, &f->serial));
	assert_no_error(rtc_create(f->bus, &f->rtc));
	assert_no_error(power_create(f->bus, request, f, &f->power));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	power_destroy(f->power);
	rtc_destroy(f->rtc);
	serial_destroy(f->serial);
	io_bus_destroy(f->bus);
	free(f);
	return 0;
}

static void out(struct fixture *f, uint16_t port, uint8_t value)
{
	assert_true(io_bus_write(f->bus, port, &value, 1));
}

static uint8_t in(struct fixture *f, uint16_t port)
{
	uint8_t value;

	assert_true(io_bus_read(f->bus, port, &value, 1));
	return value;
}

#define COM(reg) (PLATFORM_SERIAL_PORT + (reg))

static void written_bytes_come_out(void **state)
{
	struct fixture *f = *state;

	for (const char *text = "hello"; *text; text++) {
		assert_true(in(f, COM(5)) & 0x20);
		out(f, COM(0), (uint8_t)*text);
	}
	assert_string_equal(f->output, "hello");
	assert_false(f->line);
}

static void the_divisor_is_not_output(void **state)
{
	struct fixture *f = *state;

	out(f, COM(3), 0x83);
	out(f, COM(0), 1);
	out(f, COM(1), 2);
	assert_int_equal(in(f, COM(0)), 1);
	assert_int_equal(in(f, COM(1)), 2);
	out(f, COM(3), 0x03);
	assert_int_equal(f->output_size, 0);
	assert_int_equal(in(f, COM(1)), 0);
}

static void input_raises_the_line_until_it_is_read(void **state)
{
	struct fixture *f = *state;

	out(f, COM(2), 0x01);
	out(f, COM(1), 0x01);
	assert_int_equal(serial_input(f->serial, (const uint8_t *)"ab", 2), 2);
	assert_true(f->line);
	assert_int_equal(in(f, COM(2)), 0xc4);
	assert_int_equal(in(f, COM(0)), 'a');
	assert_true(f->line);
	assert_int_equal(in(f, COM(0)), 'b');
	assert_false(f->line);
	assert_int_equal(in(f, COM(2)), 0xc1);
}

static void input_waits_when_the_fifo_is_full(void **state)
{
	const uint8_t bytes[20] = {0};
	struct fixture *f = *state;

	out(f, COM(2), 0x01);
	assert_int_equal(serial_input(f->serial, bytes, sizeof(bytes)), 16);
	for (int i = 0; i < 15; i++)
		in(f, COM(0));
	assert_int_equal(f->input_wanted, 0);
	in(f, COM(0));
	assert_int_equal(f->input_wanted, 1);
	assert_int_equal(serial_input(f->serial, bytes, 4), 4);
}

static void an_empty_transmitter_is_told_once(void **state)
{
	struct fixture *f = *state;

	out(f, COM(1), 0x02);
	assert_true(f->line);
	assert_int_equal(in(f, COM(2)), 0x02);
	assert_false(f->line);
	out(f, COM(0), 'x');
	assert_true(f->line);
	out(f, COM(1), 0x00);
	assert_false(f->line);
}

static void loopback_returns_what_is_sent(void **state)
{
	struct fixture *f = *state;

	/* As Linux's driver probes. */
	out(f, COM(4), 0x1a);
	assert_int_equal(in(f, COM(6)) & 0xf0, 0x90);
	out(f, COM(0), 'q');
	assert_int_equal(in(f, COM(5)) & 0x01, 0x01);
	assert_int_equal(in(f, COM(0)), 'q');
	assert_int_equal(f->output_size, 0);
	out(f, COM(7), 0x5a);
	assert_int_equal(in(f, COM(7)), 0x5a);
}

static void a_reset_lowers_the_line(void **state)
{
	struct fixture *f = *state;

	out(f, COM(1), 0x01);
	serial_input(f->serial, (const uint8_t *)"a", 1);
	serial_reset(f->serial);
	assert_false(f->line);
	assert_int_equal(in(f, COM(5)), 0x60);
}

static uint8_t cmos(struct fixture *f, uint8_t index)
{
	out(f, PLATFORM_RTC_PORT, index);
	return in(f, PLATFORM_RTC_PORT + 1);
}

static void set_cmos(struct fixture *f, uint8_t index, uint8_t value)
{
	out(f, PLATFORM_RTC_PORT, index);
	out(f, PLATFORM_RTC_PORT + 1, value);
}

static int decimal(uint8_t bcd)
{
	return (bcd >> 4) * 10 + (bcd & 15);
}

static time_t rtc_time(struct fixture *f)
{
	struct tm tm = {.tm_sec = decimal(cmos(f, 0)),
			.tm_min = decimal(cmos(f, 2)),
			.tm_hour = decimal(cmos(f, 4)),
			.tm_mday = decimal(cmos(f, 7)),
			.tm_mon = decimal(cmos(f, 8)) - 1,
			.tm_year = decimal(cmos(f, 9)) + decimal(cmos(f, 0x32)) * 100 - 1900};

	return timegm(&tm);
}

static void the_clock_is_ready_and_shows_the_hosts_time(void **state)
{
	struct fixture *f = *state;

	assert_false(cmos(f, 10) & 0x80); /* no update in progress: this is what Linux waits for */
	assert_true(cmos(f, 13) & 0x80);
	assert_in_range(rtc_time(f) - time(NULL) + 2, 0, 4);
}

static void the_clock_can_be_set(void **state)
{
	struct fixture *f = *state;

	set_cmos(f, 11, 0x82);
	set_cmos(f, 0x32, 0x20);
	set_cmos(f, 9, 0x01);
	set_cmos(f, 8, 0x02);
	set_cmos(f, 7, 0x03);
	set_cmos(f, 4, 0x04);
	set_cmos(f, 2, 0x05);
	set_cmos(f, 0, 0x06);
	set_cmos(f, 11, 0x02);
	assert_in_range(rtc_time(f) - 981173106, 0, 2);
}

static void an_impossible_date_does_no_harm(void **state)
{
	struct fixture *f = *state;

	for (int index = 0; index < 128; index++)
		for (int value = 0; value < 256; value += 51)
			set_cmos(f, (uint8_t)index, (uint8_t)value);
	for (int index = 0; index < 256; index++)
		cmos(f, (uint8_t)index);
}

static void cmos_memory_keeps_what_is_written(void **state)
{
	struct fixture *f = *state;

	set_cmos(f, 0x40, 0x77);
	assert_int_equal(cmos(f, 0x40), 0x77);
	assert_int_equal(cmos(f, 0xc0), 0x77); /* bit 7 is not part of the index */
}

static void the_sleep_type_of_off_powers_off(void **state)
{
	struct fixture *f = *state;

	out(f, PLATFORM_POWER_PORT, 0x20 | 3 << 2);
	out(f, PLATFORM_POWER_PORT, 5 << 2);
	assert_int_equal(f->request, -1);
	out(f, PLATFORM_POWER_PORT, 0x20 | 5 << 2);
	assert_int_equal(f->request, POWER_OFF);
}

static void both_reset_ports_reset(void **state)
{
	struct fixture *f = *state;

	out(f, PLATFORM_POWER_PORT + 2, PLATFORM_RESET_VALUE);
	assert_int_equal(f->request, POWER_RESET);
	f->request = -1;
	/* Linux waits for the controller's input buffer to be empty first. */
	assert_int_equal(in(f, 0x64) & 0x02, 0);
	out(f, 0x64, 0xfe);
	assert_int_equal(f->request, POWER_RESET);
}

static void pvpanic_tells_of_crashes(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, PLATFORM_PANIC_PORT), 3);
	out(f, PLATFORM_PANIC_PORT, 1);
	assert_int_equal(f->request, POWER_PANICKED);
	out(f, PLATFORM_PANIC_PORT, 2);
	assert_int_equal(f->request, POWER_CRASH_LOADED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(written_bytes_come_out),
	    TEST(the_divisor_is_not_output),
	    TEST(input_raises_the_line_until_it_is_read),
	    TEST(input_waits_when_the_fifo_is_full),
	    TEST(an_empty_transmitter_is_told_once),
	    TEST(loopback_returns_what_is_sent),
	    TEST(a_reset_lowers_the_line),
	    TEST(the_clock_is_ready_and_shows_the_hosts_time),
	    TEST(the_clock_can_be_set),
	    TEST(an_impossible_date_does_no_harm),
	    TEST(cmos_memory_keeps_what_is_written),
	    TEST(the_sleep_type_of_off_powers_off),
	    TEST(both_reset_ports_reset),
	    TEST(pvpanic_tells_of_crashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
