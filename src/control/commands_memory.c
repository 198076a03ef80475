/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands on memory: the elastic devices in QEMU's words (query-memory-devices, qom-set
 * requested-size) and in our own. Main loop; a client controls the arguments, whose types the
 * schema has checked.
 */
#include "control/commands.h"

#include <string.h>

#include "control/control.h"
#include "control/memory_report.h"

#define QOM_PERIPHERAL "/machine/peripheral/"

/* The device named @id; an error of code ENODEV names those that exist. */
static struct error *find_elastic(struct machine *machine, const char *id,
				  struct virtio_device **device)
{
	char known[256] = "";

	*device = machine_elastic(machine, id);
	if (*device)
		return NULL;
	for (uint32_t i = 0; machine_elastic_at(machine, i); i++) {
		size_t used = strlen(known);

		snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "",
			 machine_elastic_at(machine, i)->id);
	}
	if (!known[0])
		return error_new(ENODEV,
				 "there is no elastic device '%.32s': this machine has none; "
				 "start it with --elastic",
				 id);
	return error_new(ENODEV, "there is no elastic device '%.32s': this machine has %s", id,
			 known);
}

/* Refuses to resize by hand what resizes itself: the next decision would undo it. */
static struct error *check_manual(struct machine *machine, const char *id)
{
	const struct machine_config *config = machine_configuration(machine);

	for (uint32_t i = 0; i < config->elastic_count; i++)
		if (config->elastic[i].automatic && strcmp(config->elastic[i].id, id) == 0)
			return error_new(
			    EBUSY,
			    "'%s' follows the guest's need by itself (auto=): start the "
			    "machine without auto= to resize it by hand",
			    id);
	return NULL;
}

struct error *command_query_memory_devices(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct virtio_device *device;

	*result = json_array();
	for (uint32_t i = 0; (device = machine_elastic_at(control->machine, i)) != NULL; i++) {
		struct virtio_mem_status status;
		char memdev[64];

		virtio_mem_status(device, &status);
		snprintf(memdev, sizeof(memdev), "/objects/%s", device->id);
		json_array_append_new(
		    *result,
		    json_pack("{s:s,s:{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:s}}", "type", "virtio-mem",
			      "data", "id", device->id, "memaddr", (json_int_t)status.address,
			      "requested-size", (json_int_t)status.requested, "size",
			      (json_int_t)status.plugged, "max-size", (json_int_t)status.maximum,
			      "block-size", (json_int_t)status.block_size, "node", (int)status.node,
			      "memdev", memdev));
	}
	return NULL;
}

struct error *command_query_memory_size_summary(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine *machine = control->machine;
	const struct machine_config *config = machine_configuration(machine);
	uint64_t base = 0, plugged = 0;

	for (uint32_t i = 0; i < config->memory_count; i++)
		base += config->memory[i].size;
	for (uint32_t i = 0; machine_elastic_at(machine, i); i++) {
		struct virtio_mem_status status;

		virtio_mem_status(machine_elastic_at(machine, i), &status);
		plugged += status.plugged;
	}
	*result = json_pack("{s:I,s:I}", "base-memory", (json_int_t)base, "plugged-memory",
			    (json_int_t)plugged);
	return NULL;
}

/* The elastic device that @path names, as /machine/peripheral/ID or, as QEMU allows, just ID. */
static struct error *resolve_path(struct machine *machine, const char *path,
				  struct virtio_device **device)
{
	const char *id = path;

	if (strncmp(path, QOM_PERIPHERAL, strlen(QOM_PERIPHERAL)) == 0)
		id = path + strlen(QOM_PERIPHERAL);
	return find_elastic(machine, id, device);
}

struct error *command_qom_get(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	const char *property = qmp_string(arguments, "property", "");
	struct virtio_mem_status status;
	struct virtio_device *device;
	uint64_t value;

	TRY(resolve_path(control->machine, qmp_string(arguments, "path", ""), &device));
	virtio_mem_status(device, &status);
	if (strcmp(property, "size") == 0)
		value = status.plugged;
	else if (strcmp(property, "requested-size") == 0)
		value = status.requested;
	else if (strcmp(property, "block-size") == 0)
		value = status.block_size;
	else if (strcmp(property, "memaddr") == 0)
		value = status.address;
	else if (strcmp(property, "node") == 0)
		value = status.node;
	else
		return error_usage("property '%.64s' is unknown: known are size, requested-size, "
				   "block-size, memaddr, node",
				   property);
	*result = json_integer((json_int_t)value);
	return NULL;
}

struct error *command_qom_set(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	const char *property = qmp_string(arguments, "property", "");
	json_t *value = json_object_get(arguments, "value");
	struct virtio_device *device;
	struct job *job;

	TRY(resolve_path(control->machine, qmp_string(arguments, "path", ""), &device));
	if (strcmp(property, "requested-size") != 0)
		return error_usage("property '%.64s' cannot be set: only requested-size can",
				   property);
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return error_usage("argument 'value' must be a whole number of bytes");
	TRY(check_manual(control->machine, device->id));
	return resizer_start(control->resizer, device, (uint64_t)json_integer_value(value), NULL,
			     &job);
}

struct error *command_godwit_resize(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct virtio_device *device;
	struct job *job;

	TRY(find_elastic(control->machine, qmp_string(arguments, "id", ""), &device));
	TRY(check_manual(control->machine, device->id));
	TRY(resizer_start(control->resizer, device, qmp_size(arguments, "size", 0),
			  qmp_string(arguments, "job-id", NULL), &job));
	*result = json_pack("{s:s}", "job", job->id);
	return NULL;
}

struct error *command_godwit_memory(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct memory_totals totals;

	control->measure.taken_ns = 0; /* an operator who asks for the map wants it as it is now */
	TRY(memory_totals_read(control->machine, &control->measure, &totals));
	*result =
	    json_pack("{s:o,s:o,s:o,s:I,s:o,s:{s:I,s:I,s:I,s:I,s:I,s:I}}", "regions",
		      memory_regions_describe(control->machine), "slots",
		      memory_slots_describe(control->machine), "back-ends",
		      memory_back_ends_describe(control->machine), "reclaimed",
		      (json_int_t)machine_reclaimed(control->machine), "vmm",
		      process_memory_describe(&totals.vmm), "summary", "boot",
		      (json_int_t)totals.boot, "requested", (json_int_t)totals.requested, "plugged",
		      (json_int_t)totals.plugged, "maximum", (json_int_t)totals.maximum, "resident",
		      (json_int_t)totals.resident, "shared", (json_int_t)totals.shared);
	return NULL;
}
