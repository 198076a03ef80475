/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The list of a machine's parts, and saving and loading all of it (machine_state.h).
 *
 * The order of the list: interrupt controllers before the devices that hold their lines; a PCI
 * function before the device behind it, whose doorbells and interrupts need BAR and vectors;
 * elastic memory, which is a device, before the processors, for whom KVM looks up addresses of
 * guest memory; processors last, so that nothing that was raised while loading is left in their
 * local APICs but what was there when they were saved.
 *
 * Whoever made the sections controls every byte; each part checks its own.
 */
#include "machine/machine_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "machine/machine_private.h"
#include "machine/serial.h"

#define PCI_FUNCTIONS 256
/* machine, irqchip, clock, serial, rtc, pci-host; functions; devices and streams; processors */
#define PARTS_MAX                                                                                  \
	(6 + PCI_FUNCTIONS + 2 * (MACHINE_DEVICES_MAX + MACHINE_ELASTIC_MAX) + MACHINE_CPUS_MAX)

struct part_list {
	uint32_t count;
	struct state_part parts[PARTS_MAX];
};

/* --- The machine's own part -------------------------------------------------------------------- */

/* What the guest wants and the main loop has not seen yet would otherwise never happen. */
static void visit_requests(struct machine *machine, struct state *state)
{
	uint32_t requests =
	    __atomic_load_n(&machine->attention, __ATOMIC_ACQUIRE) & ATTENTION_GUEST;

	state_u32(state, "requests", &requests);
	state_check(state, !(requests & ~ATTENTION_GUEST), "requests", "are not a guest's");
	for (uint32_t bit = 1; state_loading(state) && bit && bit <= requests; bit <<= 1)
		if (requests & bit)
			machine_attract(machine, (enum machine_attention)bit);
}

static void machine_own_state(void *context, struct state *state)
{
	struct machine *machine = context;
	const struct layout *layout = &machine->layout;
	bool crashed = machine->state == MACHINE_CRASHED;

	state_same(state, "processors", machine->config.cpus);
	state_same(state, "end of low memory", layout->low_end);
	state_same(state, "end of high memory", layout->high_end);
	state_same(state, "elastic devices", machine->config.elastic_count);
	for (uint32_t i = 0; i < machine->config.elastic_count; i++)
		state_same(state, "elastic address", layout->elastic[i]);
	state_buffer(state, "generation", machine->generation, sizeof(machine->generation));
	state_bool(state, "crashed", &crashed);
	visit_requests(machine, state);
	if (state_loading(state))
		machine->state = crashed ? MACHINE_CRASHED : MACHINE_PAUSED;
}

/* --- The list ---------------------------------------------------------------------------------- */

static void add_part(struct part_list *list, const char *name,
		     void (*visit)(void *context, struct state *state), void *context)
{
	struct state_part *part = &list->parts[list->count++];

	*part = (struct state_part){.version = 1, .visit = visit, .context = context};
	snprintf(part->name, sizeof(part->name), "%s", name);
}

/* What is behind @function, if anything is. */
static struct virtio_device *device_behind(const struct machine *machine,
					   const struct pci_function *function)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		if (machine->devices[i].function == function)
			return machine->devices[i].device;
	return NULL;
}

static void add_function(struct machine *machine, struct part_list *list,
			 struct pci_function *function)
{
	struct virtio_device *device = device_behind(machine, function);
	struct state_part *part;
	char place[16], name[64];

	snprintf(place, sizeof(place), "0000:00:%02x.%x", function->devfn >> 3,
		 function->devfn & 7);
	snprintf(name, sizeof(name), "%s/pci", place);
	add_part(list, name, pci_function_state, function);
	if (!device)
		return;
	if (device->stream) {
		snprintf(name, sizeof(name), "%s/%s/stream", place, device->ops->type);
		add_part(list, name, NULL, device);
	}
	part = &list->parts[list->count++];
	virtio_device_state_part(device, part);
	snprintf(part->name, sizeof(part->name), "%s/%s", place, device->ops->type);
}

struct virtio_device *machine_state_stream(const struct state_part *part)
{
	return part->visit ? NULL : part->context;
}

static struct error *list_parts(struct machine *machine, struct part_list **result)
{
	struct part_list *list = calloc(1, sizeof(*list));

	if (!list)
		return error_system(ENOMEM, "state of the machine");
	add_part(list, "machine", machine_own_state, machine);
	kvm_vm_irqchip_part(machine->vm, &list->parts[list->count++]);
	kvm_vm_clock_part(machine->vm, &list->parts[list->count++]);
	add_part(list, "serial", machine_serial_state, machine);
	add_part(list, "rtc", rtc_state, machine->rtc);
	add_part(list, "pci-host", pci_host_state, machine->pci);
	for (uint32_t devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
		struct pci_function *function = pci_host_function(machine->pci, (uint8_t)devfn);

		if (function)
			add_function(machine, list, function);
	}
	for (uint32_t i = 0; i < kvm_vcpus_count(machine->vcpus); i++)
		kvm_vcpus_state_part(machine->vcpus, i, &list->parts[list->count++]);
	*result = list;
	return NULL;
}

/* --- Saving and loading ------------------------------------------------------------------------ */

static struct error *save_part(const struct state_part *part, bool describe,
			       machine_state_section_handler handler, void *context)
{
	AUTO_STATE struct state *state = NULL;

	if (machine_state_stream(part))
		return handler(context, part, NULL);
	state = state_save_begin(describe);
	TRY(state_visit(state, part));
	return handler(context, part, state);
}

struct error *machine_state_save(struct machine *machine, bool describe,
				 machine_state_section_handler handler, void *context)
{
	AUTO_FREE struct part_list *list = NULL;

	if (machine->state != MACHINE_PAUSED && machine->state != MACHINE_CRASHED)
		return error_new(EBUSY,
				 "the machine is %s: its state stands still only while it "
				 "is paused",
				 machine_state_name(machine->state));
	TRY(list_parts(machine, &list));
	for (uint32_t i = 0; i < list->count; i++)
		TRY(save_part(&list->parts[i], describe, handler, context));
	return NULL;
}

struct error *machine_state_list(struct machine *machine,
				 struct error *(*handler)(void *context,
							  const struct state_part *part),
				 void *context)
{
	AUTO_FREE struct part_list *list = NULL;

	TRY(list_parts(machine, &list));
	for (uint32_t i = 0; i < list->count; i++)
		TRY(handler(context, &list->parts[i]));
	return NULL;
}

static const struct machine_state_section *
find_section(const struct machine_state_section *sections, size_t count,
	     const struct state_part *part, size_t *matches)
{
	const struct machine_state_section *found = NULL;

	*matches = 0;
	for (size_t i = 0; i < count; i++)
		if (sections[i].instance == part->instance &&
		    !strcmp(sections[i].name, part->name)) {
			found = &sections[i];
			++*matches;
		}
	return found;
}

static bool has_part(const struct part_list *list, const struct machine_state_section *section)
{
	for (uint32_t i = 0; i < list->count; i++)
		if (list->parts[i].instance == section->instance &&
		    !strcmp(list->parts[i].name, section->name))
			return true;
	return false;
}

static struct error *check_sections(const struct part_list *list,
				    const struct machine_state_section *sections, size_t count)
{
	size_t matches;

	for (uint32_t i = 0; i < list->count; i++) {
		const struct state_part *part = &list->parts[i];

		if (!find_section(sections, count, part, &matches))
			return error_new(0,
					 "there is no state for %s %" PRIu32
					 ": the saved machine had no such device",
					 part->name, part->instance);
		if (matches > 1)
			return error_new(0, "there is state for %s %" PRIu32 " %zu times",
					 part->name, part->instance, matches);
	}
	for (size_t i = 0; i < count; i++)
		if (!has_part(list, &sections[i]))
			return error_new(0,
					 "there is state for %s %" PRIu32
					 ", and this machine has no such device",
					 sections[i].name, sections[i].instance);
	return NULL;
}

static struct error *load_part(const struct state_part *part,
			       const struct machine_state_section *section)
{
	struct virtio_device *device = machine_state_stream(part);
	AUTO_STATE struct state *state = NULL;

	if (device)
		return section->bytes ? error_prefix(device->stream->load(device, section->bytes,
									  section->size, true),
						     "%s", part->name)
				      : NULL;
	state = state_load_begin(section->bytes, section->size, section->version);
	return state_visit(state, part);
}

struct error *machine_state_load(struct machine *machine,
				 const struct machine_state_section *sections, size_t count)
{
	AUTO_FREE struct part_list *list = NULL;

	if (machine->begun)
		return error_new(EBUSY, "state can only be loaded into a machine that was never "
					"started");
	TRY(list_parts(machine, &list));
	TRY(check_sections(list, sections, count));
	machine->begun = true;
	machine_devices_quiesce(machine);
	for (uint32_t i = 0; i < list->count; i++) {
		size_t matches;
		const struct machine_state_section *section =
		    find_section(sections, count, &list->parts[i], &matches);

		TRY(load_part(&list->parts[i], section));
	}
	/* Input for the serial port waited, lest it interrupt before there are processors. */
	machine_attract(machine, ATTENTION_SERIAL);
	return NULL;
}
