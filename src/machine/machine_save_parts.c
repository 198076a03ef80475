/* SPDX-License-Identifier: BSD-2-Clause */
/* What a snapshot says of a machine, machine_save_parts.h. The guest controls what is plugged. */
#include "machine/machine_save_parts.h"

#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "machine/machine_config_json.h"
#include "machine/machine_config_paths.h"
#include "machine/machine_private.h"
#include "machine/machine_state.h"
#include "migration/state_collect.h"
#include "snapshot/snapshot_parts.h"

static struct error *keep_bytes(void *context, const void *bytes, size_t size)
{
	return state_collector_add(context, 0, bytes, size, false);
}

static struct error *collect_stream(struct virtio_device *device, struct state_collector *collector)
{
	struct error *error = device->stream->save(device, true, keep_bytes, collector);

	if (device->stream->end_save)
		device->stream->end_save(device);
	TRY(error);
	return state_collector_add(collector, 0, NULL, 0, true);
}

/* What stands in front of the memory has to be there as a whole, and is bounded. */
static struct error *add_stream(struct snapshot_head *head, const struct state_part *part)
{
	AUTO_STATE_COLLECTOR struct state_collector *collector = NULL;
	const void *bytes;
	size_t size;

	TRY(state_collector_create(1, SNAPSHOT_SECTIONS_SIZE_MAX, &collector));
	TRY(error_prefix(collect_stream(machine_state_stream(part), collector), "%s", part->name));
	bytes = state_collector_bytes(collector, 0, &size);
	return snapshot_head_add_bytes(head, part->name, part->instance, part->version, bytes,
				       size);
}

static struct error *add_part(void *context, const struct state_part *part,
			      const struct state *state)
{
	struct snapshot_head *head = context;

	if (!state)
		return add_stream(head, part);
	return snapshot_head_add_section(head, part->name, part->instance, part->version, state);
}

static struct error *visit_part(struct snapshot_head *head, const struct state_part *part)
{
	AUTO_STATE struct state *state = state_save_begin(true);

	TRY(state_visit(state, part));
	return add_part(head, part, state);
}

static struct error *add_configuration(const struct machine *machine, struct snapshot_head *head)
{
	AUTO_FREE char *folder = getcwd(NULL, 0); /* fails when it was removed */
	json_t *json = machine_config_to_json(&machine->config);
	AUTO_FREE char *text = NULL;

	if (json && folder)
		machine_config_paths_from(json, folder);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!text)
		return error_new(EINVAL, "a name or an option of the machine is not UTF-8 text, as "
					 "its configuration in a snapshot must be");
	return snapshot_head_add_bytes(head, MACHINE_CONFIG_SECTION, 0, 1, text, strlen(text));
}

static struct error *add_memory_layout(const struct machine *machine, struct snapshot_head *head)
{
	AUTO_FREE struct snapshot_memory *memory = calloc(1, sizeof(*memory));
	struct state_part part = {.name = SNAPSHOT_SECTION_MEMORY,
				  .version = SNAPSHOT_MEMORY_VERSION,
				  .visit = snapshot_memory_state,
				  .context = memory};
	const struct memory_region *region;

	if (!memory)
		return error_system(ENOMEM, "memory layout");
	for (region = memory_map_first(machine->map); region; region = region->next) {
		struct snapshot_range *range = &memory->ranges[memory->count];

		if (memory->count == SNAPSHOT_RANGES_MAX)
			return error_new(E2BIG,
					 "the machine's memory is in more than %d ranges of "
					 "addresses, which is what a snapshot holds",
					 SNAPSHOT_RANGES_MAX);
		memory->count++;
		snprintf(range->block, sizeof(range->block), "%s", region->block->name);
		range->address = region->address;
		range->offset = region->block_offset;
		range->size = region->size;
	}
	return visit_part(head, &part);
}

static struct error *add_plugged(const struct machine *machine, struct snapshot_head *head)
{
	const struct memory_region *region;
	uint32_t instance = 0;

	for (region = memory_map_first(machine->map); region; region = region->next) {
		struct snapshot_plugged plugged = {
		    .size = region->size, .unit = region->unit, .bits = region->plugged};
		struct state_part part = {.name = SNAPSHOT_SECTION_PLUGGED,
					  .instance = instance,
					  .version = SNAPSHOT_PLUGGED_VERSION,
					  .visit = snapshot_plugged_state,
					  .context = &plugged};

		if (!region->unit)
			continue;
		snprintf(plugged.block, sizeof(plugged.block), "%s", region->block->name);
		TRY(visit_part(head, &part));
		instance++;
	}
	return NULL;
}

struct error *machine_save_parts(struct machine *machine, struct snapshot_head *head)
{
	TRY(add_configuration(machine, head));
	TRY(add_memory_layout(machine, head));
	TRY(add_plugged(machine, head));
	return machine_state_save(machine, true, add_part, head);
}
