/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtual machine generation id (Microsoft, "Virtual Machine Generation ID"; Linux's
 * drivers/virt/vmgenid.c): 16 random bytes in guest memory that are others in every copy of a
 * machine. A reset keeps them, and so does moving a machine, of which there is one before and after.
 *
 * Main thread. The guest may overwrite its copy, which harms itself alone.
 */
#include <errno.h>
#include <sys/random.h>

#include "machine/machine_private.h"

struct error *machine_generation_create(struct machine *machine)
{
	/* At most 256 bytes come at once or not at all. */
	if (getrandom(machine->generation, sizeof(machine->generation), 0) < 0)
		return error_system(errno, "cannot make a generation id");
	return NULL;
}

struct error *machine_new_generation(struct machine *machine)
{
	TRY(machine_generation_create(machine));
	if (!memory_write(machine->map, PLATFORM_GENERATION_ADDRESS, machine->generation,
			  sizeof(machine->generation)))
		return error_new(EFAULT, "guest memory has no room for the generation id");
	for (uint32_t i = 0; i < machine->device_count; i++)
		virtio_device_new_generation(machine->devices[i].device);
	kvm_vm_pulse_irq(machine->vm, PLATFORM_GENERATION_GSI);
	return NULL;
}
