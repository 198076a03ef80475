/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The devices of a machine: those at fixed places, and the virtio devices on the PCI bus, each with
 * a thread of its own.
 *
 * Runs on the main thread. An operator decides which devices there are; the guest has no part in
 * what fails here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine_private.h"
#include "machine/serial.h"
#include "virtio/virtio_pci.h"

/* --- Fixed places -------------------------------------------------------------------------------
 */

struct error *machine_platform_create(struct machine *machine)
{
	struct pci_host_options options = {
	    .pio = machine->vm->pio,
	    .mmio = machine->vm->mmio,
	    .vm = machine->vm,
	    .window_start = machine->layout.pci64_start,
	    .window_size = machine->layout.pci64_size,
	};

	TRY(power_create(machine->vm->pio, machine_power_request, machine, &machine->power));
	TRY(rtc_create(machine->vm->pio, &machine->rtc));
	TRY(machine_serial_create(machine));
	return pci_host_create(&options, &machine->pci);
}

void machine_platform_destroy(struct machine *machine)
{
	pci_host_destroy(TAKE_PTR(machine->pci));
	machine_serial_destroy(machine);
	rtc_destroy(TAKE_PTR(machine->rtc));
	power_destroy(TAKE_PTR(machine->power));
}

/* --- The PCI bus --------------------------------------------------------------------------------
 */

static bool id_taken(const struct machine *machine, const char *id)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		if (!strcmp(machine->devices[i].device->id, id))
			return true;
	return false;
}

struct error *machine_plug(struct machine *machine, struct virtio_device *device)
{
	struct machine_device *devices, *entry;

	if (id_taken(machine, device->id)) {
		struct error *error = error_usage(
		    "two devices have the id '%s'; give one of them another id=", device->id);

		virtio_device_destroy(device);
		return error;
	}
	devices = reallocarray(machine->devices, machine->device_count + 1, sizeof(*devices));
	if (!devices) {
		virtio_device_destroy(device);
		return error_system(ENOMEM, "device");
	}
	machine->devices = devices;
	entry =
	    &devices[machine->device_count++]; /* machine_devices_destroy cleans up from here on */
	*entry = (struct machine_device){.device = device};
	device->map = machine->map;
	if (device->ops->realize)
		TRY(error_prefix(device->ops->realize(device), "device '%s'", device->id));
	TRY(virtio_pci_create(device, &entry->function));
	TRY(pci_host_add(machine->pci, entry->function));
	return event_loop_start_thread(device->loop, device->id);
}

struct error *machine_devices_create(struct machine *machine)
{
	static const struct machine_device_config always_rng = {.kind = "rng", .text = NULL};
	static const struct machine_device_config auto_balloon = {.kind = "balloon", .text = NULL};
	const struct machine_config *config = &machine->config;
	bool rng = false, balloon = false, automatic = false;

	for (uint32_t i = 0; i < config->device_count; i++) {
		struct virtio_device *device;
		uint32_t index = 0;

		for (uint32_t j = 0; j < i; j++)
			index += !strcmp(config->devices[j].kind, config->devices[i].kind);
		TRY(device_table_create(machine, &config->devices[i], index, &device));
		TRY(machine_plug(machine, device));
		rng |= device->ops->id == VIRTIO_ID_RNG;
		balloon |= device->ops->id == VIRTIO_ID_BALLOON;
	}
	for (uint32_t i = 0; i < config->elastic_count; i++)
		automatic |= config->elastic[i].automatic;
	/* A kernel without a source of randomness may wait for it at boot. */
	if (!rng) {
		struct virtio_device *device;

		TRY(device_table_create(machine, &always_rng, 0, &device));
		TRY(machine_plug(machine, device));
	}
	/* The statistics that auto= goes by come from the guest's balloon driver. */
	if (automatic && !balloon) {
		struct virtio_device *device;

		TRY(device_table_create(machine, &auto_balloon, 0, &device));
		TRY(machine_plug(machine, device));
	}
	return machine_reclaim_create(machine);
}

void machine_devices_destroy(struct machine *machine)
{
	machine_reclaim_destroy(machine);
	/* All threads first: one device's thread may use what another part of the machine still
	 * needs. */
	for (uint32_t i = 0; i < machine->device_count; i++)
		event_loop_join(machine->devices[i].device->loop);
	for (uint32_t i = machine->device_count; i-- > 0;) {
		struct machine_device *entry = &machine->devices[i];

		if (entry->function) {
			pci_host_remove(machine->pci, entry->function);
			virtio_pci_destroy(entry->function);
		}
		virtio_device_destroy(entry->device);
	}
	machine->device_count = 0;
	free(TAKE_PTR(machine->devices));
}

static void system_reset_on_loop(void *context)
{
	struct virtio_device *device = context;

	device->ops->system_reset(device);
}

void machine_devices_reset(struct machine *machine)
{
	pci_host_reset(machine->pci);
	/* Only now that no device holds guest memory any more can elastic devices take theirs back.
	 */
	for (uint32_t i = 0; i < machine->device_count; i++) {
		struct virtio_device *device = machine->devices[i].device;

		if (device->ops->system_reset)
			event_loop_call(device->loop, system_reset_on_loop, device);
	}
	serial_reset(machine->serial);
	kvm_vm_reset_interrupts(machine->vm);
}

void machine_devices_quiesce(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		virtio_device_quiesce(machine->devices[i].device);
}

void machine_devices_resume(struct machine *machine)
{
	for (uint32_t i = machine->device_count; i-- > 0;)
		virtio_device_resume(machine->devices[i].device);
}

struct error *machine_check_movable(const struct machine *machine, enum virtio_move how)
{
	for (uint32_t i = 0; i < machine->device_count; i++) {
		struct virtio_device *device = machine->devices[i].device;

		if (device->ops->movable)
			TRY(device->ops->movable(device, how));
	}
	return NULL;
}

void machine_devices_hold(struct machine *machine, bool hold)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		virtio_device_hold(machine->devices[i].device, hold);
}

void machine_memory_comes(const struct machine *machine, struct userfault *userfault)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		virtio_device_memory_comes(machine->devices[i].device, userfault);
}

struct error *machine_check_present(const struct machine *machine)
{
	for (uint32_t i = 0; i < machine->device_count; i++) {
		const struct virtio_device *device = machine->devices[i].device;

		if (__atomic_load_n(&device->absent, __ATOMIC_ACQUIRE))
			return error_new(ENOENT,
					 "the back-end of '%s' is not there: start it first",
					 device->id);
	}
	return NULL;
}

struct error *machine_take_over(struct machine *machine)
{
	struct error *error = NULL;

	for (uint32_t i = 0; i < machine->device_count && !error; i++)
		error = virtio_device_take_over(machine->devices[i].device);
	for (uint32_t i = 0; i < machine->device_count && error; i++)
		virtio_device_release(machine->devices[i].device);
	if (!error)
		machine_memory_own(machine);
	return error;
}
