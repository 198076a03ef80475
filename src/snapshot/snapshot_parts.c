/* SPDX-License-Identifier: BSD-2-Clause */
/* Sections that tools understand, snapshot_parts.h. What is loaded comes from a file. */
#include "snapshot/snapshot_parts.h"

#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"

#define LIMIT_4G GIB(4)

static void name_state(struct state *state, const char *length_field, const char *field,
		       char name[SNAPSHOT_NAME_MAX + 1])
{
	uint32_t length = (uint32_t)strnlen(name, SNAPSHOT_NAME_MAX);

	length = state_count(state, length_field, length, SNAPSHOT_NAME_MAX);
	state_buffer(state, field, name, length);
	name[length] = '\0';
	state_check(state, length && strlen(name) == length, field, "is no name");
}

void snapshot_memory_state(void *context, struct state *state)
{
	struct snapshot_memory *memory = context;
	uint64_t end = 0;

	memory->count = state_count(state, "ranges", memory->count, SNAPSHOT_RANGES_MAX);
	for (uint32_t i = 0; i < memory->count; i++) {
		struct snapshot_range *range = &memory->ranges[i];
		uint64_t range_end = 0, block_end;

		name_state(state, "block-length", "block", range->block);
		state_u64(state, "address", &range->address);
		state_u64(state, "offset", &range->offset);
		state_u64(state, "size", &range->size);
		state_check(state,
			    range->size && is_aligned(range->size, SNAPSHOT_PAGE_SIZE) &&
				is_aligned(range->address, SNAPSHOT_PAGE_SIZE) &&
				is_aligned(range->offset, SNAPSHOT_PAGE_SIZE),
			    "size", "is of a range that is not whole pages");
		state_check(state,
			    checked_add(range->address, range->size, &range_end) &&
				checked_add(range->offset, range->size, &block_end),
			    "size", "goes beyond 64 bits");
		if (!state_check(state, range->address >= end, "size",
				 "is of a range below the end of the one before"))
			return;
		end = range_end;
	}
}

void snapshot_plugged_state(void *context, struct state *state)
{
	struct snapshot_plugged *plugged = context;

	name_state(state, "block-length", "block", plugged->block);
	state_u64(state, "size", &plugged->size);
	state_u64(state, "unit", &plugged->unit);
	if (!state_check(state,
			 is_power_of_two(plugged->unit) && plugged->unit >= SNAPSHOT_PAGE_SIZE &&
			     plugged->size && plugged->size <= SNAPSHOT_RAM_MAX &&
			     is_aligned(plugged->size, plugged->unit),
			 "unit", "does not divide the size of the block"))
		return;
	if (!state_expect(state, "size", bitmap_words(plugged->size / plugged->unit) * 8))
		return;
	if (state_loading(state)) {
		plugged->bits = bitmap_create(plugged->size / plugged->unit);
		if (!plugged->bits) {
			state_fail(state, error_new(ENOMEM, "no memory for the plugged bitmap"));
			return;
		}
	}
	state_bitmap(state, "plugged", plugged->bits, plugged->size / plugged->unit);
}

/* --- Of a file --------------------------------------------------------------------------------- */

static void add_range(struct snapshot_memory *memory, const char *block, uint64_t address,
		      uint64_t offset, uint64_t size)
{
	struct snapshot_range *range = &memory->ranges[memory->count++];

	*range = (struct snapshot_range){.address = address, .offset = offset, .size = size};
	snprintf(range->block, sizeof(range->block), "%s", block);
}

/*
 * QEMU's pc and q35 (QEMU: hw/i386/pc_piix.c, pc_q35.c): boot memory up to the PCI hole, the rest
 * from 4 GiB on. The option max-ram-below-4g would change that; a file does not tell.
 */
static struct error *assume_memory(const struct snapshot_file *file, struct snapshot_memory *memory)
{
	bool pc = strncmp(file->machine, "pc-i440fx-", 10) == 0;
	bool q35 = strncmp(file->machine, "pc-q35-", 7) == 0;
	const struct snapshot_block *ram = snapshot_file_block(file, "pc.ram");
	uint64_t low;

	if ((!pc && !q35) || !ram)
		return error_new(ENOTSUP,
				 "%s does not say where its memory is (machine '%s'): take its "
				 "blocks one by one, with --raw",
				 file->path, file->machine);
	if (pc)
		low = ram->size >= 0xe0000000 ? 0xc0000000 : 0xe0000000;
	else
		low = ram->size >= 0xb0000000 ? 0x80000000 : 0xb0000000;
	memory->count = 0;
	add_range(memory, ram->name, 0, 0, MIN(ram->size, low));
	if (ram->size > low)
		add_range(memory, ram->name, LIMIT_4G, low, ram->size - low);
	return NULL;
}

struct error *snapshot_file_memory(const struct snapshot_file *file, struct snapshot_memory *memory,
				   bool *assumed)
{
	struct state_part part = {.name = SNAPSHOT_SECTION_MEMORY,
				  .version = SNAPSHOT_MEMORY_VERSION,
				  .visit = snapshot_memory_state,
				  .context = memory};

	*assumed = file->foreign;
	if (file->foreign)
		return assume_memory(file, memory);
	TRY(snapshot_file_load(file, &part));
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct snapshot_range *range = &memory->ranges[i];
		const struct snapshot_block *block = snapshot_file_block(file, range->block);

		if (!block || !range_contains(0, block->size, range->offset, range->size))
			return error_new(EBADMSG,
					 "%s: section %s: the range at 0x%" PRIx64
					 " is in block %s, which does not have it",
					 file->path, part.name, range->address, range->block);
	}
	return NULL;
}

struct error *snapshot_block_plugged(const struct snapshot_block *block,
				     struct snapshot_plugged *plugged)
{
	const struct snapshot_file *file = block->file;

	memset(plugged, 0, sizeof(*plugged));
	for (uint32_t i = 0; i < file->section_count; i++) {
		struct state_part part = {.name = SNAPSHOT_SECTION_PLUGGED,
					  .instance = file->sections[i].instance,
					  .version = SNAPSHOT_PLUGGED_VERSION,
					  .visit = snapshot_plugged_state,
					  .context = plugged};
		struct error *error;

		if (file->foreign || strcmp(file->sections[i].name, part.name) != 0)
			continue;
		error = snapshot_file_load(file, &part);
		if (!error && strcmp(plugged->block, block->name) == 0 &&
		    plugged->size != block->size)
			error = error_new(EBADMSG, "%s: section %s: block %s has another size",
					  file->path, part.name, block->name);
		if (!error && strcmp(plugged->block, block->name) == 0)
			return NULL;
		free(plugged->bits);
		memset(plugged, 0, sizeof(*plugged));
		TRY(error);
	}
	return NULL;
}
