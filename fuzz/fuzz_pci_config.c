/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI transport: sequences of configuration and BAR accesses on a virtio-rng function, with
 * memory behind it and a host that writes down doorbells and checks that what is taken away was
 * given.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fuzz_input.h"
#include "virtio/rng.h"
#include "virtio/virtio_pci.h"
#include "virtio_fuzz.h"

#define DOORBELLS_MAX 4

struct host {
	uint64_t bar_address;
	bool bar_enabled;
	uint64_t doorbells[DOORBELLS_MAX];
	unsigned int doorbell_count, bound;
	bool doorbells_work, irqfds_work;
};

static void bar_changed(void *context, struct pci_function *function, int bar, uint64_t address,
			uint64_t size, bool enabled)
{
	struct host *host = context;

	assert(enabled != host->bar_enabled);
	assert(enabled || address == host->bar_address);
	assert(address && address + size > address);
	host->bar_enabled = enabled;
	host->bar_address = address;
}

static bool add_doorbell(void *context, uint64_t address, int fd)
{
	struct host *host = context;

	if (!host->doorbells_work)
		return false;
	assert(host->doorbell_count < DOORBELLS_MAX);
	assert(host->bar_enabled && address >= host->bar_address);
	host->doorbells[host->doorbell_count++] = address;
	return true;
}

static void remove_doorbell(void *context, uint64_t address, int fd)
{
	struct host *host = context;

	assert(host->doorbell_count);
	assert(host->doorbells[--host->doorbell_count] == address);
}

static void send_msi(void *context, uint64_t address, uint32_t data)
{
}

static int bind_msi_fd(void *context, int fd, uint64_t address, uint32_t data, int *route)
{
	struct host *host = context;

	if (!host->irqfds_work)
		return -ENOSPC;
	if (*route < 0)
		host->bound++;
	*route = 1;
	return 0;
}

static void unbind_msi_fd(void *context, int fd, int route)
{
	struct host *host = context;

	assert(host->bound && route == 1);
	host->bound--;
}

static const struct pci_host_ops host_ops = {
    .bar_changed = bar_changed,
    .add_doorbell = add_doorbell,
    .remove_doorbell = remove_doorbell,
    .send_msi = send_msi,
    .bind_msi_fd = bind_msi_fd,
    .unbind_msi_fd = unbind_msi_fd,
};

static void stop_loop(void *context)
{
	event_loop_stop(context);
}

static void turn_loop(struct virtio_device *device)
{
	if (!event_loop_post(device->loop, stop_loop, device->loop))
		event_loop_run(device->loop);
}

/* The offsets in the BAR where something is, so that not every other access is to nothing. */
static uint64_t bar_offset(struct fuzz_input *input, uint8_t area)
{
	return (area & 7) * 0x1000ULL + (area & 8 ? fuzz_take16(input) : fuzz_take8(input));
}

/* What a driver does up to DRIVER_OK, so that the rest of the input meets a working device. */
static void start_driver(struct pci_function *function)
{
	static const struct {
		uint8_t offset, size;
		uint64_t value;
	} writes[] = {
	    {20, 1, 0},	   {20, 1, 1},	    {20, 1, 3},	     {8, 4, 1},	 {12, 4, 1},
	    {20, 1, 0xb},  {22, 2, 0},	    {24, 2, 8},	     {26, 2, 1}, {16, 2, 0},
	    {32, 8, 4096}, {40, 8, 0x2000}, {48, 8, 0x3000}, {28, 2, 1}, {20, 1, 0xf},
	};

	pci_function_config_write(function, 4, 2, 6);
	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++)
		pci_function_bar_write(function, 0, writes[i].offset, &writes[i].value,
				       writes[i].size);
}

static void step(struct virtio_fuzz *fuzz, struct pci_function *function,
		 struct virtio_device *device, struct fuzz_input *input)
{
	uint8_t move = fuzz_take8(input), bytes[64];
	uint32_t size = 1u << (move >> 4 & 3);
	uint64_t address;

	switch (move & 15) {
	case 0:
	case 1: /* as the host bridge passes them on: aligned, at most 4 bytes */
		size = size > 4 ? 4 : size;
		pci_function_config_write(function, fuzz_take8(input) & ~(size - 1), size,
					  fuzz_take32(input));
		break;
	case 2:
		size = size > 4 ? 4 : size;
		pci_function_config_read(function, fuzz_take16(input) & 0xfff & ~(size - 1), size);
		break;
	case 3:
	case 4:
	case 5:
		address = bar_offset(input, fuzz_take8(input));
		fuzz_take(input, bytes, size);
		pci_function_bar_write(function, 0, address, bytes, size);
		break;
	case 6:
	case 7:
		pci_function_bar_read(function, 0, bar_offset(input, fuzz_take8(input)), bytes,
				      size);
		break;
	case 8:
		pci_function_bar_write(function, 0, fuzz_take64(input), bytes, size);
		break;
	case 9:
		pci_function_set_bar_address(function, 0, fuzz_take64(input));
		break;
	case 10:
		pci_function_reset(function);
		break;
	case 11:
		start_driver(function);
		break;
	case 12:
		pci_function_msix_notify(function, fuzz_take8(input));
		break;
	case 13: /* rings and buffers */
		address = fuzz_take16(input) * 2ULL % 0x4000;
		memory_write_or_drop(fuzz->map, address, bytes, fuzz_take(input, bytes, 32));
		break;
	case 14:
		if (move & 16)
			virtio_device_quiesce(device);
		else
			virtio_device_resume(device);
		break;
	default:
		turn_loop(device);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};
	struct pci_function *function;
	struct virtio_device *device;
	struct virtio_fuzz fuzz;
	struct host host = {0};
	uint8_t control = fuzz_take8(&input);

	host.doorbells_work = control & 1;
	host.irqfds_work = control & 2;
	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_rng_create("rng", &device));
	device->map = fuzz.map;
	virtio_fuzz_check(virtio_pci_create(device, &function));
	function->host_ops = &host_ops;
	function->host = &host;
	pci_function_set_bar_address(function, 0, 0x4000000000);
	while (input.left)
		step(&fuzz, function, device, &input);
	turn_loop(device);
	virtio_pci_destroy(function);
	assert(!host.doorbell_count && !host.bound);
	virtio_device_destroy(device);
	virtio_fuzz_teardown(&fuzz);
	return 0;
}
