/* SPDX-License-Identifier: BSD-2-Clause */
/* A configuration to JSON and back, machine_config_json.h. Pure. */
#include "machine/machine_config_json.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "machine/machine_config.h"

static const char *const device_kinds[] = {"disk", "net", "vsock", "console", "rng", "balloon"};
static const char *const crash_actions[] = {
    [ON_CRASH_PAUSE] = "pause", [ON_CRASH_RESET] = "reset", [ON_CRASH_EXIT] = "exit"};

/* --- Writing ----------------------------------------------------------------------------------- */

static json_t *backing_to_json(const struct ram_backing_options *backing)
{
	char text[512];

	return json_pack("{s:s, s:i, s:b}", "backing",
			 ram_backing_describe(backing, text, sizeof(text)), "host-node",
			 backing->host_node, "prealloc", backing->prealloc);
}

static json_t *memory_to_json(const struct machine_memory *memory)
{
	return json_pack("{s:I, s:i, s:o}", "size", (json_int_t)memory->size, "node",
			 (int)memory->node, "memory", backing_to_json(&memory->backing));
}

static json_t *elastic_to_json(const struct machine_elastic *elastic)
{
	json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:i, s:o}", "id", elastic->id, "max",
				   (json_int_t)elastic->maximum, "size", (json_int_t)elastic->size,
				   "block", (json_int_t)elastic->block, "node", (int)elastic->node,
				   "memory", backing_to_json(&elastic->backing));

	if (elastic->automatic)
		json_object_set_new(object, "auto",
				    json_pack("[I, I]", (json_int_t)elastic->auto_minimum,
					      (json_int_t)elastic->auto_maximum));
	return object;
}

static json_t *distances_to_json(const struct machine_config *config)
{
	json_t *array = json_array();

	for (int a = 0; a < MACHINE_NODES_MAX; a++)
		for (int b = 0; b < MACHINE_NODES_MAX; b++)
			if (config->distance[a][b])
				json_array_append_new(
				    array, json_pack("[i, i, i]", a, b, config->distance[a][b]));
	return array;
}

json_t *machine_config_to_json(const struct machine_config *config)
{
	json_t *memory = json_array(), *elastic = json_array(), *devices = json_array();

	for (uint32_t i = 0; i < config->memory_count; i++)
		json_array_append_new(memory, memory_to_json(&config->memory[i]));
	for (uint32_t i = 0; i < config->elastic_count; i++)
		json_array_append_new(elastic, elastic_to_json(&config->elastic[i]));
	for (uint32_t i = 0; i < config->device_count; i++)
		json_array_append_new(devices,
				      json_pack("{s:s, s:s}", "kind", config->devices[i].kind,
						"options", config->devices[i].text));
	return json_pack("{s:s, s:s, s:s*, s:s*, s:i, s:o, s:o, s:o, s:o, s:s, s:s, s:b, s:i}",
			 "name", config->name, "kernel", config->kernel, "initrd", config->initrd,
			 "cmdline", config->cmdline, "cpus", (int)config->cpus, "memory", memory,
			 "elastic", elastic, "distances", distances_to_json(config), "devices",
			 devices, "serial", config->serial, "on-crash",
			 crash_actions[config->on_crash], "no-reboot", config->no_reboot, "slots",
			 (int)config->slots_limit);
}

/* --- Reading ----------------------------------------------------------------------------------- */

/* Unpacks strictly; the error says what was wrong in @what. */
#define UNPACK(what, json, ...)                                                                    \
	do {                                                                                       \
		json_error_t problem_;                                                             \
		if (json_unpack_ex((json_t *)(json), &problem_, JSON_STRICT, __VA_ARGS__))         \
			return error_new(EINVAL, "%s: %s", what, problem_.text);                   \
	} while (0)

static struct error *copy_text(char **to, const char *from)
{
	if (!from)
		return NULL;
	*to = strdup(from);
	return *to ? NULL : error_system(ENOMEM, "configuration");
}

static struct error *backing_from_json(const json_t *json, struct ram_backing_options *backing)
{
	AUTO_OPTIONS struct options *options = NULL;
	AUTO_FREE char *text = NULL;
	const char *kind;
	int node, prealloc;

	UNPACK("memory", json, "{s:s, s:i, s:b}", "backing", &kind, "host-node", &node, "prealloc",
	       &prealloc);
	if (strchr(kind, ','))
		return error_new(EINVAL, "memory: backing '%s' has a comma", kind);
	if (asprintf(&text, "backing=%s", kind) < 0)
		return error_system(ENOMEM, "configuration");
	TRY(options_parse(text, NULL, &options));
	TRY(ram_backing_options_take(options, backing));
	backing->host_node = node < 0 ? -1 : MIN(node, 63);
	backing->prealloc = prealloc;
	return options_finish(options);
}

static struct error *size_from(const char *name, json_int_t number, uint64_t *size)
{
	if (number < 0)
		return error_new(EINVAL, "%s is negative", name);
	*size = (uint64_t)number;
	return NULL;
}

static struct error *node_from(int number, uint32_t *node)
{
	if (number < 0 || number >= MACHINE_NODES_MAX)
		return error_new(EINVAL, "node %d is not 0 to %d", number, MACHINE_NODES_MAX - 1);
	*node = (uint32_t)number;
	return NULL;
}

static struct error *memory_from_json(const json_t *json, struct machine_config *config)
{
	struct machine_memory *memory = &config->memory[config->memory_count];
	const json_t *backing;
	json_int_t size;
	int node;

	if (config->memory_count == MACHINE_NODES_MAX)
		return error_new(EINVAL, "more than %d of memory", MACHINE_NODES_MAX);
	config->memory_count++; /* from here on machine_config_clear releases the backing */
	UNPACK("memory", json, "{s:I, s:i, s:o}", "size", &size, "node", &node, "memory", &backing);
	TRY(size_from("size", size, &memory->size));
	TRY(node_from(node, &memory->node));
	return backing_from_json(backing, &memory->backing);
}

static struct error *elastic_from_json(const json_t *json, struct machine_config *config)
{
	struct machine_elastic *elastic = &config->elastic[config->elastic_count];
	json_int_t maximum, size, block, automatic[2];
	const json_t *backing, *range = NULL;
	const char *id;
	int node;

	if (config->elastic_count == MACHINE_ELASTIC_MAX)
		return error_new(EINVAL, "more than %d elastic devices", MACHINE_ELASTIC_MAX);
	config->elastic_count++;
	UNPACK("elastic", json, "{s:s, s:I, s:I, s:I, s:i, s:o, s?o}", "id", &id, "max", &maximum,
	       "size", &size, "block", &block, "node", &node, "memory", &backing, "auto", &range);
	TRY(machine_identifier_check("id", id, sizeof(elastic->id) - 1));
	snprintf(elastic->id, sizeof(elastic->id), "%s", id);
	TRY(size_from("max", maximum, &elastic->maximum));
	TRY(size_from("size", size, &elastic->size));
	TRY(size_from("block", block, &elastic->block));
	TRY(node_from(node, &elastic->node));
	TRY(backing_from_json(backing, &elastic->backing));
	if (!range)
		return NULL;
	UNPACK("auto", range, "[I, I]", &automatic[0], &automatic[1]);
	elastic->automatic = true;
	TRY(size_from("auto", automatic[0], &elastic->auto_minimum));
	return size_from("auto", automatic[1], &elastic->auto_maximum);
}

static struct error *distance_from_json(const json_t *json, struct machine_config *config)
{
	int a, b, distance;

	UNPACK("distances", json, "[i, i, i]", &a, &b, &distance);
	if (a < 0 || a >= MACHINE_NODES_MAX || b < 0 || b >= MACHINE_NODES_MAX || distance < 0 ||
	    distance > UINT8_MAX)
		return error_new(EINVAL, "distances: [%d, %d, %d] is out of range", a, b, distance);
	config->distance[a][b] = (uint8_t)distance;
	return NULL;
}

static struct error *device_from_json(const json_t *json, struct machine_config *config)
{
	struct machine_device_config *device = &config->devices[config->device_count];
	const char *kind, *text;

	if (config->device_count == MACHINE_DEVICES_MAX)
		return error_new(EINVAL, "more than %d devices", MACHINE_DEVICES_MAX);
	UNPACK("devices", json, "{s:s, s:s}", "kind", &kind, "options", &text);
	for (size_t i = 0; i < ARRAY_SIZE(device_kinds); i++)
		if (strcmp(kind, device_kinds[i]) == 0)
			device->kind = device_kinds[i];
	if (!device->kind)
		return error_new(EINVAL, "there is no device of the kind '%s'", kind);
	config->device_count++;
	return copy_text(&device->text, text);
}

static struct error *each(const json_t *array, const char *name, struct machine_config *config,
			  struct error *(*read)(const json_t *, struct machine_config *))
{
	if (!json_is_array(array))
		return error_new(EINVAL, "%s is not a list", name);
	for (size_t i = 0; i < json_array_size(array); i++)
		TRY(error_prefix(read(json_array_get(array, i), config), "%s %zu", name, i));
	return NULL;
}

struct error *machine_config_from_json(const json_t *json, struct machine_config *config)
{
	const char *name, *kernel, *initrd = NULL, *cmdline = NULL, *serial, *on_crash;
	const json_t *memory, *elastic, *distances, *devices;
	int cpus, no_reboot, slots;
	bool known = false;

	memset(config, 0, sizeof(*config));
	UNPACK("configuration", json,
	       "{s:s, s:s, s?s, s?s, s:i, s:o, s:o, s:o, s:o, s:s, s:s, s:b, s:i}", "name", &name,
	       "kernel", &kernel, "initrd", &initrd, "cmdline", &cmdline, "cpus", &cpus, "memory",
	       &memory, "elastic", &elastic, "distances", &distances, "devices", &devices, "serial",
	       &serial, "on-crash", &on_crash, "no-reboot", &no_reboot, "slots", &slots);
	if (cpus < 1 || slots < 0)
		return error_new(EINVAL, "configuration: %d processors, %d slots", cpus, slots);
	config->cpus = (uint32_t)cpus;
	config->slots_limit = (uint32_t)slots;
	config->no_reboot = no_reboot;
	for (size_t i = 0; i < ARRAY_SIZE(crash_actions); i++) {
		if (strcmp(on_crash, crash_actions[i]) == 0) {
			config->on_crash = (enum machine_on_crash)i;
			known = true;
		}
	}
	if (!known)
		return error_new(EINVAL, "configuration: on-crash '%s' is not known", on_crash);
	TRY(copy_text(&config->name, name));
	TRY(copy_text(&config->kernel, kernel));
	TRY(copy_text(&config->initrd, initrd));
	TRY(copy_text(&config->cmdline, cmdline));
	TRY(copy_text(&config->serial, serial));
	TRY(each(memory, "memory", config, memory_from_json));
	TRY(each(elastic, "elastic", config, elastic_from_json));
	TRY(each(distances, "distances", config, distance_from_json));
	TRY(each(devices, "devices", config, device_from_json));
	return machine_config_check(config);
}
