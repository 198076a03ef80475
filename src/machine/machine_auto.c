/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Joins automatic elastic memory (auto_memory.h) to the machine: which devices take part, and where
 * its decisions are told. Main loop.
 */
#include "base/checked.h"
#include "machine/machine_private.h"

static void decided(void *context, json_t *decision)
{
	machine_emit(context, "ELASTIC_AUTO_DECISION", json_incref(decision));
}

struct error *machine_auto_create(struct machine *machine)
{
	const struct machine_config *config = &machine->config;
	struct auto_memory_device devices[MACHINE_ELASTIC_MAX];
	struct auto_memory_options options = {
	    .loop = machine->loop,
	    .balloon = machine_device_of_type(machine, "virtio-balloon"),
	    .devices = devices,
	    .handler = decided,
	    .context = machine,
	};

	for (uint32_t i = 0; i < config->elastic_count; i++)
		if (config->elastic[i].automatic)
			devices[options.count++] = (struct auto_memory_device){
			    .device = machine->elastic[i].device,
			    .minimum = config->elastic[i].auto_minimum,
			    .maximum = config->elastic[i].auto_maximum,
			};
	for (uint32_t i = 0; i < config->memory_count; i++)
		options.boot += config->memory[i].size;
	if (!options.count)
		return NULL;
	TRY(auto_memory_create(&options, &machine->auto_memory));
	auto_memory_pause(machine->auto_memory, true); /* until the guest runs */
	return NULL;
}
