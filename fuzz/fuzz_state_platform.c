/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State of the devices at fixed ports from a file: any bytes are refused, or saved again alike; and
 * the devices answer their ports afterwards in either case.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "fuzz_input.h"
#include "machine/pci_host.h"
#include "machine/platform.h"
#include "machine/rtc.h"
#include "machine/serial.h"

#define DEVICES 3

static void output(void *context, uint8_t byte)
{
}

static void input_wanted(void *context)
{
}

static void interrupt(void *context, bool level)
{
	bool *line = context;

	assert(*line != level);
	*line = level;
}

static const struct serial_ops serial_ops = {
    .output = output, .input_wanted = input_wanted, .interrupt = interrupt};

static void must(struct error *error)
{
	assert(!error);
}

static void load(const struct state_part *part, struct fuzz_input *input)
{
	uint8_t bytes[256];
	size_t size = fuzz_take(input, bytes, fuzz_take8(input));
	struct state *state = state_load_begin(bytes, size, 1);
	struct error *error = state_visit(state, part);

	state_free(state);
	if (!error) {
		size_t again;
		const void *saved;

		state = state_save_begin(false);
		must(state_visit(state, part));
		saved = state_bytes(state, &again);
		assert(again == size && !memcmp(saved, bytes, size));
		state_free(state);
	}
	error_free(error);
}

static void drive(struct io_bus *bus, struct serial *serial, struct fuzz_input *input)
{
	static const uint16_t ports[] = {PLATFORM_SERIAL_PORT, PLATFORM_RTC_PORT,
					 PLATFORM_PCI_PORT};
	static const uint16_t sizes[] = {PLATFORM_SERIAL_SIZE, PLATFORM_RTC_SIZE,
					 PLATFORM_PCI_PORT_SIZE};

	while (input->left) {
		uint8_t what = fuzz_take8(input), value = fuzz_take8(input);
		uint32_t device = (what >> 1) % DEVICES;
		uint16_t port = (uint16_t)(ports[device] + (what >> 3) % sizes[device]);

		if (what & 1)
			io_bus_write(bus, port, &value, 1);
		else
			io_bus_read(bus, port, &value, 1);
		if (what == 0xff)
			serial_input(serial, &value, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};
	struct pci_host_options options = {.window_start = 1ULL << 32, .window_size = 1ULL << 30};
	struct state_part parts[DEVICES] = {
	    {.name = "serial", .version = 1, .visit = serial_state},
	    {.name = "rtc", .version = 1, .visit = rtc_state},
	    {.name = "pci-host", .version = 1, .visit = pci_host_state},
	};
	struct io_bus *pio, *mmio;
	struct pci_host *pci;
	struct serial *serial;
	struct rtc *rtc;
	bool line = false;

	must(io_bus_create(&pio));
	must(io_bus_create(&mmio));
	options.pio = pio;
	options.mmio = mmio;
	must(serial_create(pio, &serial_ops, &line, &serial));
	must(rtc_create(pio, &rtc));
	must(pci_host_create(&options, &pci));
	parts[0].context = serial;
	parts[1].context = rtc;
	parts[2].context = pci;
	load(&parts[fuzz_take8(&input) % DEVICES], &input);
	drive(pio, serial, &input);
	pci_host_destroy(pci);
	rtc_destroy(rtc);
	serial_destroy(serial);
	io_bus_destroy(mmio);
	io_bus_destroy(pio);
	return 0;
}
