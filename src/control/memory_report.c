/* SPDX-License-Identifier: BSD-2-Clause */
/* The reports of memory_report.h. Main loop only; reading the host's numbers is slow and says so.
 */
#include "control/memory_report.h"

#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "virtio/vhost_user_device.h"

#define MEASURE_SHARE  20		   /* a measurement may take 1/20 of the time */
#define MEASURE_MIN_NS (NS_PER_SECOND / 5) /* and several clients share one */
#define BLOCKS_MAX     (MACHINE_NODES_MAX + MACHINE_ELASTIC_MAX)

/* The distinct RAM blocks of the map; returns how many. */
static size_t collect_blocks(struct machine *machine, struct ram_block *blocks[BLOCKS_MAX])
{
	struct memory_region *region = memory_map_first(machine_memory_map(machine));
	size_t count = 0;

	for (; region; region = region->next) {
		size_t i = 0;

		while (i < count && blocks[i] != region->block)
			i++;
		if (i == count && count < BLOCKS_MAX)
			blocks[count++] = region->block;
	}
	return count;
}

static struct error *measure_now(struct machine *machine, struct memory_measure *measure)
{
	struct process_range ranges[BLOCKS_MAX];
	struct ram_block *blocks[BLOCKS_MAX];
	size_t count = collect_blocks(machine, blocks);
	int64_t start = clock_monotonic_ns();

	measure->resident = measure->shared = 0;
	for (size_t i = 0; i < count; i++) {
		ranges[i].start = (uintptr_t)blocks[i]->host;
		ranges[i].size = blocks[i]->size;
		measure->resident += ram_block_resident(blocks[i]);
		measure->shared += ram_block_shared(blocks[i]);
	}
	TRY(process_memory_read(ranges, count, &measure->vmm));
	measure->taken_ns = clock_monotonic_ns();
	measure->cost_ns = measure->taken_ns - start;
	return NULL;
}

struct error *memory_totals_read(struct machine *machine, struct memory_measure *measure,
				 struct memory_totals *totals)
{
	const struct machine_config *config = machine_configuration(machine);
	int64_t age = clock_monotonic_ns() - measure->taken_ns;

	memset(totals, 0, sizeof(*totals));
	for (uint32_t i = 0; i < config->memory_count; i++)
		totals->boot += config->memory[i].size;
	for (uint32_t i = 0; machine_elastic_at(machine, i); i++) {
		struct virtio_mem_status status;

		virtio_mem_status(machine_elastic_at(machine, i), &status);
		totals->requested += status.requested;
		totals->plugged += status.plugged;
		totals->maximum += status.maximum;
	}
	if (!measure->taken_ns || age > MAX(measure->cost_ns * MEASURE_SHARE, MEASURE_MIN_NS))
		TRY(measure_now(machine, measure));
	totals->resident = measure->resident;
	totals->shared = measure->shared;
	totals->vmm = measure->vmm;
	return NULL;
}

json_t *process_memory_describe(const struct process_memory *memory)
{
	return json_pack("{s:I,s:I,s:I,s:I}", "resident", (json_int_t)memory->resident,
			 "proportional", (json_int_t)memory->proportional, "private",
			 (json_int_t)memory->private, "page-tables",
			 (json_int_t)memory->page_tables);
}

struct virtio_device *memory_region_device(struct machine *machine,
					   const struct memory_region *region)
{
	struct virtio_device *device;

	for (uint32_t i = 0; (device = machine_elastic_at(machine, i)) != NULL; i++) {
		struct virtio_mem_status status;

		virtio_mem_status(device, &status);
		if (status.address == region->address)
			return device;
	}
	return NULL;
}

static void describe_elastic(json_t *object, const struct virtio_mem_status *status)
{
	json_object_set_new(object, "node", json_integer(status->node));
	json_object_set_new(object, "requested", json_integer((json_int_t)status->requested));
	json_object_set_new(object, "block-size", json_integer((json_int_t)status->block_size));
	json_object_set_new(object, "reason", json_string(virtio_mem_reason_name(status->reason)));
}

static json_t *describe_region(struct machine *machine, const struct memory_region *region,
			       bool block_seen, uint32_t boot_index)
{
	struct virtio_device *device = memory_region_device(machine, region);
	uint64_t plugged = region->unit ? memory_region_plugged_size(region) : region->size;
	uint64_t reads = 0, writes = 0;
	char backing[256];
	json_t *object;

	kvm_slots_region_attempts(machine_slots(machine), region, &reads, &writes);
	object =
	    json_pack("{s:s,s:s,s:I,s:I,s:I,s:s,s:I,s:I,s:I}", "id",
		      device ? device->id : region->block->name, "kind",
		      device ? "elastic" : "boot", "address", (json_int_t)region->address, "size",
		      (json_int_t)region->size, "plugged", (json_int_t)plugged, "backing",
		      ram_backing_describe(&region->block->options, backing, sizeof(backing)),
		      "page-size", (json_int_t)region->block->page_size, "unplugged-reads",
		      (json_int_t)reads, "unplugged-writes", (json_int_t)writes);
	/* A block on both sides of the hole below 4 GiB counts once, with its first region. */
	json_object_set_new(
	    object, "resident",
	    block_seen ? json_null() : json_integer((json_int_t)ram_block_resident(region->block)));
	json_object_set_new(object, "shared",
			    block_seen ? json_null()
				       : json_integer((json_int_t)ram_block_shared(region->block)));
	if (device) {
		struct virtio_mem_status status;

		virtio_mem_status(device, &status);
		describe_elastic(object, &status);
	} else {
		const struct machine_config *config = machine_configuration(machine);

		if (boot_index < config->memory_count)
			json_object_set_new(object, "node",
					    json_integer(config->memory[boot_index].node));
	}
	return object;
}

json_t *memory_regions_describe(struct machine *machine)
{
	struct memory_region *region = memory_map_first(machine_memory_map(machine));
	struct ram_block *seen[BLOCKS_MAX];
	size_t seen_count = 0;
	json_t *list = json_array();

	/* Boot blocks first appear in the order of the configuration's entries (layout.h). */
	for (; region; region = region->next) {
		size_t index = 0;

		while (index < seen_count && seen[index] != region->block)
			index++;
		json_array_append_new(
		    list, describe_region(machine, region, index < seen_count, (uint32_t)index));
		if (index == seen_count && seen_count < BLOCKS_MAX)
			seen[seen_count++] = region->block;
	}
	return list;
}

json_t *memory_elastic_describe(struct machine *machine)
{
	struct virtio_device *device;
	json_t *list = json_array();

	for (uint32_t i = 0; (device = machine_elastic_at(machine, i)) != NULL; i++) {
		struct virtio_mem_status status;
		json_t *object;

		virtio_mem_status(device, &status);
		object = json_pack(
		    "{s:s,s:I,s:I,s:I}", "id", device->id, "address", (json_int_t)status.address,
		    "plugged", (json_int_t)status.plugged, "maximum", (json_int_t)status.maximum);
		describe_elastic(object, &status);
		json_array_append_new(list, object);
	}
	return list;
}

json_t *memory_slots_describe(struct machine *machine)
{
	const struct machine_config *config = machine_configuration(machine);
	struct kvm_slots_statistics statistics;

	kvm_slots_statistics(machine_slots(machine), &statistics);
	return json_pack(
	    "{s:i,s:i,s:i,s:i,s:I,s:I,s:I,s:I,s:I}", "maximum", (int)statistics.slots_max, "limit",
	    (int)config->slots_limit, "plugged", (int)statistics.slots_plugged, "zero",
	    (int)statistics.slots_zero, "merges", (json_int_t)statistics.merges, "refused",
	    (json_int_t)statistics.refused, "unplugged-reads", (json_int_t)statistics.absent_reads,
	    "unplugged-writes", (json_int_t)statistics.absent_writes, "emulation-failures",
	    (json_int_t)statistics.emulation_failures);
}

json_t *memory_back_ends_describe(struct machine *machine)
{
	struct virtio_device *device;
	json_t *list = json_array();

	for (uint32_t i = 0; (device = machine_device(machine, i)) != NULL; i++) {
		struct vhost_user_device_status status;

		if (!vhost_user_device_status(device, &status))
			continue;
		json_array_append_new(
		    list, json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:b}", "id", device->id,
				    "socket", status.socket, "connected", status.connected, "slots",
				    (json_int_t)status.slots_used, "maximum",
				    (json_int_t)status.slots_max, "excess",
				    (json_int_t)status.excess, "exact", !status.excess));
	}
	return list;
}
