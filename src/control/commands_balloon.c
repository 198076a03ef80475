/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands on the balloon. QEMU counts what the guest has left ("actual"), not what is in the
 * balloon. Main loop; the guest says what is in it, a client how much it wants.
 */
#include "base/checked.h"
#include "control/commands.h"
#include "control/control.h"
#include "virtio/balloon.h"

/* The balloon, or an error of code ENXIO (DeviceNotActive, as QEMU answers). */
static struct error *find_balloon(struct machine *machine, struct virtio_device **device)
{
	*device = machine_device_of_type(machine, "virtio-balloon");
	return *device ? NULL
		       : error_new(ENXIO, "this machine has no balloon: start it with --balloon");
}

/* Boot memory and what is plugged, in bytes. */
static uint64_t memory_size(struct machine *machine)
{
	struct memory_region *region = memory_map_first(machine_memory_map(machine));
	uint64_t total = 0;

	for (; region; region = region->next)
		total += region->unit ? memory_region_plugged_size(region) : region->size;
	return total;
}

struct error *command_query_balloon(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	uint64_t total = memory_size(control->machine), inside;
	struct virtio_device *device;

	TRY(find_balloon(control->machine, &device));
	inside = virtio_balloon_size(device);
	*result = json_pack("{s:I}", "actual", (json_int_t)(total - MIN(inside, total)));
	return NULL;
}

struct error *command_balloon(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	uint64_t total = memory_size(control->machine);
	uint64_t value = qmp_size(arguments, "value", 0);
	struct virtio_device *device;

	TRY(find_balloon(control->machine, &device));
	if (!value)
		return error_usage(
		    "argument 'value' must be the bytes that the guest keeps, not zero");
	virtio_balloon_set_target(device, total - MIN(value, total));
	return NULL;
}

json_t *balloon_statistics_describe(struct machine *machine)
{
	struct virtio_device *device = machine_device_of_type(machine, "virtio-balloon");
	struct virtio_balloon_statistics statistics;
	json_t *object;

	if (!device)
		return NULL;
	virtio_balloon_statistics(device, &statistics);
	if (!statistics.updated_ns)
		return NULL;
	object = json_object();
	for (int i = 0; i < BALLOON_STATISTICS; i++)
		if (statistics.present >> i & 1)
			json_object_set_new(object, virtio_balloon_statistic_name(i),
					    json_integer((json_int_t)statistics.value[i]));
	return object;
}
