/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power, reset and crash ports (power.h). Stateless: a write becomes a request to the machine, on
 * the vCPU's thread.
 */
#include "machine/power.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "machine/platform.h"

/* Offsets from PLATFORM_POWER_PORT, as the FADT says. */
#define SLEEP_CONTROL 0
#define RESET	      2

/* Sleep control register (ACPI 6.4 section 4.8.3.7). */
#define SLEEP_ENABLE	 0x20
#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE_MASK	 7

#define KEYBOARD_RESET 0xfe

#define PANIC_PANICKED	   0x01
#define PANIC_CRASH_LOADED 0x02

struct power {
	struct io_bus *bus;
	void (*request)(void *context, enum power_request what);
	void *context;
};

static void power_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct power *power = context;
	uint8_t value = *(const uint8_t *)data;

	if (offset == SLEEP_CONTROL && (value & SLEEP_ENABLE) &&
	    (value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == PLATFORM_SLEEP_TYPE_OFF)
		power->request(power->context, POWER_OFF);
	else if (offset == RESET && value == PLATFORM_RESET_VALUE)
		power->request(power->context, POWER_RESET);
}

static void keyboard_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct power *power = context;

	if (*(const uint8_t *)data == KEYBOARD_RESET)
		power->request(power->context, POWER_RESET);
}

/* Zeros: no sleep status; and a keyboard controller ready for a command, for which Linux waits
 * before a reset. */
static void read_zeros(void *context, uint64_t offset, void *data, uint32_t size)
{
	memset(data, 0, size);
}

static void panic_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	memset(data, 0, size);
	*(uint8_t *)data = PANIC_PANICKED | PANIC_CRASH_LOADED; /* the events it takes */
}

static void panic_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct power *power = context;
	uint8_t value = *(const uint8_t *)data;

	if (value & PANIC_PANICKED)
		power->request(power->context, POWER_PANICKED);
	else if (value & PANIC_CRASH_LOADED)
		power->request(power->context, POWER_CRASH_LOADED);
}

static const struct {
	uint64_t port, size;
	struct io_handler io;
	const char *name;
} power_ports[] = {
    {PLATFORM_POWER_PORT, PLATFORM_POWER_SIZE, {read_zeros, power_write}, "power control"},
    {PLATFORM_KEYBOARD_PORT, 1, {read_zeros, keyboard_write}, "keyboard controller"},
    {PLATFORM_PANIC_PORT, 1, {panic_read, panic_write}, "pvpanic"},
};

#define POWER_PORTS (sizeof(power_ports) / sizeof(power_ports[0]))

struct error *power_create(struct io_bus *bus,
			   void (*request)(void *context, enum power_request what), void *context,
			   struct power **result)
{
	struct power *power = calloc(1, sizeof(*power));
	struct error *error = NULL;

	if (!power)
		return error_system(ENOMEM, "power control");
	power->bus = bus;
	power->request = request;
	power->context = context;
	for (size_t i = 0; i < POWER_PORTS && !error; i++)
		error = io_bus_add(bus, power_ports[i].port, power_ports[i].size,
				   &power_ports[i].io, power, power_ports[i].name);
	if (error) {
		power_destroy(power);
		return error;
	}
	*result = power;
	return NULL;
}

void power_destroy(struct power *power)
{
	if (!power)
		return;
	for (size_t i = 0; i < POWER_PORTS; i++)
		io_bus_remove(power->bus, power_ports[i].port);
	free(power);
}
