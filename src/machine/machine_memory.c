/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory of a machine: RAM blocks, the regions they answer at, and the elastic devices.
 *
 * Runs on the main thread, except for the two handlers at the end of the section "Reports", which
 * come from a device's thread or a vCPU and only set a flag. The guest decides when they come; at
 * most one report waits per device.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/size.h"
#include "machine/machine_private.h"

/* --- Blocks ------------------------------------------------------------------------------------ */

/* Block @number of all: a new one, or that of another process. */
static struct error *make_block(struct machine *machine, uint32_t number, const char *name,
				const struct ram_backing_options *backing, uint64_t size,
				struct ram_block **block)
{
	struct machine_config *config = &machine->config;

	if (!config->adopted_count)
		return ram_block_create(name, backing, size, block);
	if (config->adopted_count != config->memory_count + config->elastic_count)
		return error_new(EBADMSG,
				 "%u descriptors of memory have come along, and the machine has %u "
				 "blocks",
				 config->adopted_count,
				 config->memory_count + config->elastic_count);
	return ram_block_adopt(name, backing, size, TAKE_FD(config->adopted[number]), block);
}

static struct ram_block *block_at(const struct machine *machine, uint32_t number)
{
	uint32_t boot = machine->config.memory_count;

	if (number < boot)
		return machine->memory[number];
	return number - boot < machine->config.elastic_count ? machine->elastic[number - boot].block
							     : NULL;
}

struct error *machine_memory_share(const struct machine *machine, int fds[MACHINE_BLOCKS_MAX],
				   uint32_t *count)
{
	const struct ram_block *block;

	for (*count = 0; (block = block_at(machine, *count)); (*count)++) {
		TRY(ram_block_check_shareable(block));
		fds[*count] = block->fd;
	}
	return NULL;
}

void machine_memory_own(const struct machine *machine)
{
	struct ram_block *block;

	for (uint32_t i = 0; (block = block_at(machine, i)); i++)
		ram_block_own(block);
}

/* --- Boot memory ------------------------------------------------------------------------------ */

static struct error *create_boot_memory(struct machine *machine)
{
	const struct layout *layout = &machine->layout;

	for (uint32_t i = 0; i < machine->config.memory_count; i++) {
		const struct machine_memory *memory = &machine->config.memory[i];
		struct error *error;
		char name[32];

		snprintf(name, sizeof(name), "memory%u", i);
		error = make_block(machine, i, name, &memory->backing, memory->size,
				   &machine->memory[i]);
		if (error)
			return error_prefix(error, "--memory");
		if (machine->config.lazy)
			ram_block_set_reserving(machine->memory[i]);
		/* Boot memory is certain from the start: no huge page may be missing later. */
		if (ram_block_commit(machine->memory[i], 0, memory->size)) {
			char text[SIZE_TEXT_MAX], backing[128];

			return error_new(
			    ENOMEM,
			    "--memory: this host has no room for %s of %s memory; free some, give "
			    "the pool more pages, or use less",
			    size_format(memory->size, text),
			    ram_backing_describe(&memory->backing, backing, sizeof(backing)));
		}
	}
	for (uint32_t i = 0; i < layout->ram_count; i++) {
		const struct layout_ram *ram = &layout->ram[i];
		struct memory_region *region;

		TRY(memory_map_add(machine->map, ram->address, ram->size,
				   machine->memory[ram->memory], ram->block_offset, 0, &region));
	}
	return NULL;
}

/* --- Elastic memory --------------------------------------------------------------------------- */

static struct error *create_elastic_memory(struct machine *machine)
{
	machine->elastic =
	    calloc(MAX(machine->config.elastic_count, 1U), sizeof(*machine->elastic));
	if (!machine->elastic)
		return error_system(ENOMEM, "elastic memory");
	for (uint32_t i = 0; i < machine->config.elastic_count; i++) {
		const struct machine_elastic *elastic = &machine->config.elastic[i];
		struct machine_elastic_state *state = &machine->elastic[i];
		struct error *error;

		state->machine = machine;
		error = make_block(machine, machine->config.memory_count + i, elastic->id,
				   &elastic->backing, elastic->maximum, &state->block);
		if (!error && machine->config.lazy)
			ram_block_set_reserving(state->block);
		if (!error)
			error = memory_map_add(machine->map, machine->layout.elastic[i],
					       elastic->maximum, state->block, 0, elastic->block,
					       &state->region);
		if (error)
			return error_prefix(error, "--elastic id=%s", elastic->id);
	}
	return NULL;
}

/* --- Reports ---------------------------------------------------------------------------------- */

static void report_size(struct machine_elastic_state *state)
{
	struct virtio_mem_status status;
	char path[64];

	virtio_mem_status(state->device, &status);
	if (status.plugged == state->reported_size)
		return;
	state->reported_size = status.plugged;
	snprintf(path, sizeof(path), "/machine/peripheral/%s", state->device->id);
	machine_emit(state->machine, "MEMORY_DEVICE_SIZE_CHANGE",
		     json_pack("{s:s, s:I, s:s}", "id", state->device->id, "size",
			       (json_int_t)status.plugged, "qom-path", path));
}

static void report_attempts(struct machine_elastic_state *state)
{
	uint64_t address = __atomic_load_n(&state->attempted_address, __ATOMIC_RELAXED);
	uint64_t reads, writes;

	kvm_slots_region_attempts(state->machine->slots, state->region, &reads, &writes);
	machine_emit(state->machine, "MEMORY_UNPLUGGED_ACCESS",
		     json_pack("{s:s, s:I, s:I, s:I}", "id", state->device->id, "address",
			       (json_int_t)address, "reads", (json_int_t)reads, "writes",
			       (json_int_t)writes));
}

void machine_memory_report(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->config.elastic_count; i++) {
		struct machine_elastic_state *state = &machine->elastic[i];

		if (__atomic_exchange_n(&state->changed, false, __ATOMIC_ACQ_REL))
			report_size(state);
		if (__atomic_exchange_n(&state->attempted, false, __ATOMIC_ACQ_REL))
			report_attempts(state);
	}
}

/* On the device's thread. */
static void elastic_changed(void *context)
{
	struct machine_elastic_state *state = context;

	if (!__atomic_exchange_n(&state->changed, true, __ATOMIC_ACQ_REL))
		machine_attract(state->machine, ATTENTION_ELASTIC);
}

/* On a vCPU's thread, at most once a second and region. */
static void elastic_attempted(void *context, struct memory_region *region, uint64_t address,
			      bool write)
{
	struct machine *machine = context;

	for (uint32_t i = 0; i < machine->config.elastic_count; i++) {
		struct machine_elastic_state *state = &machine->elastic[i];

		if (state->region != region)
			continue;
		__atomic_store_n(&state->attempted_address, address, __ATOMIC_RELAXED);
		if (!__atomic_exchange_n(&state->attempted, true, __ATOMIC_ACQ_REL))
			machine_attract(machine, ATTENTION_ELASTIC);
	}
}

/* --- Life ------------------------------------------------------------------------------------- */

struct error *machine_memory_create(struct machine *machine)
{
	TRY(memory_map_create(&machine->map));
	TRY(kvm_slots_create(machine->vm, machine->map, machine->config.slots_limit,
			     &machine->slots));
	TRY(create_boot_memory(machine));
	TRY(create_elastic_memory(machine));
	kvm_slots_set_attempt_handler(machine->slots, elastic_attempted, machine);
	return NULL;
}

struct error *machine_memory_plug_elastic(struct machine *machine)
{
	for (uint32_t i = 0; i < machine->config.elastic_count; i++) {
		const struct machine_elastic *elastic = &machine->config.elastic[i];
		struct machine_elastic_state *state = &machine->elastic[i];
		struct virtio_mem_options options = {
		    .id = elastic->id,
		    .region = state->region,
		    .node = (uint16_t)elastic->node,
		    .requested = elastic->size,
		};

		TRY(virtio_mem_create(&options, machine->map, &state->device));
		virtio_mem_set_handler(state->device, elastic_changed, state);
		TRY(machine_plug(machine, state->device));
	}
	return NULL;
}

void machine_memory_destroy(struct machine *machine)
{
	kvm_slots_destroy(TAKE_PTR(machine->slots));
	memory_map_destroy(TAKE_PTR(machine->map));
	for (uint32_t i = 0; machine->elastic && i < machine->config.elastic_count; i++)
		ram_block_destroy(TAKE_PTR(machine->elastic[i].block));
	for (uint32_t i = 0; i < machine->config.memory_count; i++)
		ram_block_destroy(TAKE_PTR(machine->memory[i]));
	free(TAKE_PTR(machine->elastic));
}
