/* SPDX-License-Identifier: BSD-2-Clause */
/* A configuration to JSON and back, machine_config_json.h. Pure. */
#include "machine/machine_config_json.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/checked.h"
#include "machine/machine_config.h"

static const char *const device_kinds[] = {"disk",    "net", "vsock",	   "console", "rng",
					   "balloon", "fs",  "vhost-user", "rdma"};
static const char *const crash_actions[] = {
    [ON_CRASH_PAUSE] = "pause", [ON_CRASH_RESET] = "reset", [ON_CRASH_EXIT] = "exit"};

/* --- Writing ----------------------------------------------------------------------------------- */

static json_t *backing_to_json(const struct ram_backing_options *backing)
{
	char text[PATH_MAX + 8];

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

static json_t *distance_to_json(const struct machine_config *config, int index)
{
	int a = index / MACHINE_NODES_MAX, b = index % MACHINE_NODES_MAX;

	return json_pack("[i, i, i]", a, b, config->distance[a][b]);
}

/* Adds @item to the list that *@array is; without one of them there is no list. */
static void append(json_t **array, json_t *item)
{
	if (*array && item && json_array_append(*array, item) == 0) {
		json_decref(item);
		return;
	}
	json_decref(item);
	json_decref(*array);
	*array = NULL;
}

json_t *machine_config_to_json(const struct machine_config *config)
{
	json_t *memory = json_array(), *elastic = json_array(), *distances = json_array();
	json_t *devices = json_array();

	for (uint32_t i = 0; i < config->memory_count; i++)
		append(&memory, memory_to_json(&config->memory[i]));
	for (uint32_t i = 0; i < config->elastic_count; i++)
		append(&elastic, elastic_to_json(&config->elastic[i]));
	for (int i = 0; i < MACHINE_NODES_MAX * MACHINE_NODES_MAX; i++)
		if (config->distance[i / MACHINE_NODES_MAX][i % MACHINE_NODES_MAX])
			append(&distances, distance_to_json(config, i));
	for (uint32_t i = 0; i < config->device_count; i++)
		append(&devices, json_pack("{s:s, s:s}", "kind", config->devices[i].kind, "options",
					   config->devices[i].text));
	/* Takes over the lists, and fails if one is not there. */
	return json_pack(
	    "{s:s, s:s, s:s*, s:s*, s:s*, s:i, s:o, s:o, s:o, s:o, s:s, s:s, s:b, s:i}", "name",
	    config->name, "kernel", config->kernel, "initrd", config->initrd, "cmdline",
	    config->cmdline, "cpu", config->cpu, "cpus", (int)config->cpus, "memory", memory,
	    "elastic", elastic, "distances", distances, "devices", devices, "serial",
	    config->serial, "on-crash", crash_actions[config->on_crash], "no-reboot",
	    config->no_reboot, "slots", (int)config->slots_limit);
}

/* --- Reading ----------------------------------------------------------------------------------- */

enum field_type { FIELD_END, FIELD_TEXT, FIELD_NUMBER, FIELD_BOOLEAN, FIELD_LIST, FIELD_OBJECT };

struct field {
	const char *name;
	enum field_type type;
	bool optional;
};

static bool is_of_type(const json_t *value, enum field_type type)
{
	switch (type) {
	case FIELD_TEXT:
		return json_is_string(value);
	case FIELD_NUMBER:
		return json_is_integer(value);
	case FIELD_BOOLEAN:
		return json_is_boolean(value);
	case FIELD_LIST:
		return json_is_array(value);
	case FIELD_OBJECT:
		return json_is_object(value);
	case FIELD_END:
		break;
	}
	return false;
}

static const struct field *find_field(const struct field *fields, const char *name)
{
	for (; fields->type; fields++)
		if (strcmp(fields->name, name) == 0)
			return fields;
	return NULL;
}

/* An object with exactly these fields, each of its type; what is optional may be missing. */
static struct error *check_fields(const json_t *json, const struct field *fields)
{
	static const char *const types[] = {
	    [FIELD_TEXT] = "text",
	    [FIELD_NUMBER] = "a whole number",
	    [FIELD_BOOLEAN] = "true or false",
	    [FIELD_LIST] = "a list",
	    [FIELD_OBJECT] = "an object",
	};
	const char *name;
	json_t *value;

	if (!json_is_object(json))
		return error_new(EINVAL, "is not an object");
	json_object_foreach ((json_t *)json, name, value) {
		const struct field *field = find_field(fields, name);

		if (!field)
			return error_new(EINVAL, "'%.64s' is unknown", name);
		if (!is_of_type(value, field->type))
			return error_new(EINVAL, "'%s' is not %s", name, types[field->type]);
	}
	for (; fields->type; fields++)
		if (!fields->optional && !json_object_get(json, fields->name))
			return error_new(EINVAL, "'%s' is missing", fields->name);
	return NULL;
}

/* The getters are for objects that check_fields has seen. NULL for text that is not there. */
static const char *text_of(const json_t *json, const char *name)
{
	return json_string_value(json_object_get(json, name));
}

static bool boolean_of(const json_t *json, const char *name)
{
	return json_is_true(json_object_get(json, name));
}

static struct error *check_number(const char *name, json_int_t number, json_int_t minimum,
				  json_int_t maximum)
{
	if (number < minimum || number > maximum)
		return error_new(EINVAL,
				 "'%s' is %" JSON_INTEGER_FORMAT ", not %" JSON_INTEGER_FORMAT
				 " to %" JSON_INTEGER_FORMAT,
				 name, number, minimum, maximum);
	return NULL;
}

static struct error *number_of(const json_t *json, const char *name, json_int_t minimum,
			       json_int_t maximum, json_int_t *number)
{
	*number = json_integer_value(json_object_get(json, name));
	return check_number(name, *number, minimum, maximum);
}

static struct error *size_of(const json_t *json, const char *name, uint64_t *size)
{
	json_int_t number;

	TRY(number_of(json, name, 0, INT64_MAX, &number));
	*size = (uint64_t)number;
	return NULL;
}

static struct error *node_of(const json_t *json, uint32_t *node)
{
	json_int_t number;

	TRY(number_of(json, "node", 0, MACHINE_NODES_MAX - 1, &number));
	*node = (uint32_t)number;
	return NULL;
}

static struct error *copy_text(const json_t *json, const char *name, char **to)
{
	const char *text = text_of(json, name);

	if (!text)
		return NULL;
	*to = strdup(text);
	return *to ? NULL : error_system(ENOMEM, "configuration");
}

static struct error *backing_from_json(const json_t *json, struct ram_backing_options *backing)
{
	static const struct field fields[] = {
	    {"backing", FIELD_TEXT}, {"host-node", FIELD_NUMBER}, {"prealloc", FIELD_BOOLEAN}, {}};
	AUTO_OPTIONS struct options *options = NULL;
	AUTO_FREE char *text = NULL;
	json_int_t node;

	TRY(check_fields(json, fields));
	TRY(number_of(json, "host-node", -1, 63, &node));
	if (strchr(text_of(json, "backing"), ','))
		return error_new(EINVAL, "'backing' has a comma");
	if (asprintf(&text, "backing=%s", text_of(json, "backing")) < 0)
		return error_system(ENOMEM, "configuration");
	TRY(options_parse(text, NULL, &options));
	TRY(ram_backing_options_take(options, backing));
	backing->host_node = (int)node;
	backing->prealloc = boolean_of(json, "prealloc");
	return options_finish(options);
}

static struct error *memory_from_json(const json_t *json, struct machine_config *config)
{
	static const struct field fields[] = {
	    {"size", FIELD_NUMBER}, {"node", FIELD_NUMBER}, {"memory", FIELD_OBJECT}, {}};
	struct machine_memory *memory = &config->memory[config->memory_count];

	if (config->memory_count == MACHINE_NODES_MAX)
		return error_new(EINVAL, "is one more than %d", MACHINE_NODES_MAX);
	config->memory_count++; /* from here on machine_config_clear releases the backing */
	TRY(check_fields(json, fields));
	TRY(size_of(json, "size", &memory->size));
	TRY(node_of(json, &memory->node));
	return backing_from_json(json_object_get(json, "memory"), &memory->backing);
}

static struct error *auto_from_json(const json_t *range, struct machine_elastic *elastic)
{
	const json_t *minimum = json_array_get(range, 0), *maximum = json_array_get(range, 1);

	if (json_array_size(range) != 2 || !json_is_integer(minimum) || !json_is_integer(maximum))
		return error_new(EINVAL, "'auto' is not two whole numbers");
	TRY(check_number("auto", json_integer_value(minimum), 0, INT64_MAX));
	TRY(check_number("auto", json_integer_value(maximum), 0, INT64_MAX));
	elastic->automatic = true;
	elastic->auto_minimum = (uint64_t)json_integer_value(minimum);
	elastic->auto_maximum = (uint64_t)json_integer_value(maximum);
	return NULL;
}

static struct error *elastic_from_json(const json_t *json, struct machine_config *config)
{
	static const struct field fields[] = {{"id", FIELD_TEXT},	  {"max", FIELD_NUMBER},
					      {"size", FIELD_NUMBER},	  {"block", FIELD_NUMBER},
					      {"node", FIELD_NUMBER},	  {"memory", FIELD_OBJECT},
					      {"auto", FIELD_LIST, true}, {}};
	struct machine_elastic *elastic = &config->elastic[config->elastic_count];
	const json_t *range = json_object_get(json, "auto");

	if (config->elastic_count == MACHINE_ELASTIC_MAX)
		return error_new(EINVAL, "is one more than %d", MACHINE_ELASTIC_MAX);
	config->elastic_count++;
	TRY(check_fields(json, fields));
	TRY(machine_identifier_check("'id'", text_of(json, "id"), sizeof(elastic->id) - 1));
	snprintf(elastic->id, sizeof(elastic->id), "%s", text_of(json, "id"));
	TRY(size_of(json, "max", &elastic->maximum));
	TRY(size_of(json, "size", &elastic->size));
	TRY(size_of(json, "block", &elastic->block));
	TRY(node_of(json, &elastic->node));
	TRY(backing_from_json(json_object_get(json, "memory"), &elastic->backing));
	return range ? auto_from_json(range, elastic) : NULL;
}

static struct error *distance_from_json(const json_t *json, struct machine_config *config)
{
	static const json_int_t maximum[] = {MACHINE_NODES_MAX - 1, MACHINE_NODES_MAX - 1,
					     UINT8_MAX};
	json_int_t numbers[3];

	if (json_array_size(json) != 3)
		return error_new(EINVAL, "is not three whole numbers");
	for (size_t i = 0; i < 3; i++) {
		if (!json_is_integer(json_array_get(json, i)))
			return error_new(EINVAL, "is not three whole numbers");
		numbers[i] = json_integer_value(json_array_get(json, i));
		TRY(check_number(i < 2 ? "node" : "distance", numbers[i], 0, maximum[i]));
	}
	config->distance[numbers[0]][numbers[1]] = (uint8_t)numbers[2];
	return NULL;
}

static struct error *device_from_json(const json_t *json, struct machine_config *config)
{
	static const struct field fields[] = {{"kind", FIELD_TEXT}, {"options", FIELD_TEXT}, {}};
	struct machine_device_config *device = &config->devices[config->device_count];

	if (config->device_count == MACHINE_DEVICES_MAX)
		return error_new(EINVAL, "is one more than %d", MACHINE_DEVICES_MAX);
	TRY(check_fields(json, fields));
	for (size_t i = 0; i < ARRAY_SIZE(device_kinds); i++)
		if (strcmp(text_of(json, "kind"), device_kinds[i]) == 0)
			device->kind = device_kinds[i];
	if (!device->kind)
		return error_new(EINVAL, "'kind' is '%.64s', and there is no such device",
				 text_of(json, "kind"));
	config->device_count++;
	return copy_text(json, "options", &device->text);
}

static struct error *each(const json_t *json, const char *name, struct machine_config *config,
			  struct error *(*read)(const json_t *, struct machine_config *))
{
	const json_t *array = json_object_get(json, name);

	for (size_t i = 0; i < json_array_size(array); i++)
		TRY(error_prefix(read(json_array_get(array, i), config), "%s %zu", name, i));
	return NULL;
}

static struct error *crash_action_from_json(const json_t *json, enum machine_on_crash *action)
{
	const char *text = text_of(json, "on-crash");

	for (size_t i = 0; i < ARRAY_SIZE(crash_actions); i++) {
		if (strcmp(text, crash_actions[i]) == 0) {
			*action = (enum machine_on_crash)i;
			return NULL;
		}
	}
	return error_new(EINVAL, "'on-crash' is '%.64s', not pause, reset or exit", text);
}

struct error *machine_config_from_json(const json_t *json, struct machine_config *config)
{
	static const struct field fields[] = {
	    {"name", FIELD_TEXT},	   {"kernel", FIELD_TEXT},  {"initrd", FIELD_TEXT, true},
	    {"cmdline", FIELD_TEXT, true}, {"cpus", FIELD_NUMBER},  {"cpu", FIELD_TEXT, true},
	    {"memory", FIELD_LIST},	   {"elastic", FIELD_LIST}, {"distances", FIELD_LIST},
	    {"devices", FIELD_LIST},	   {"serial", FIELD_TEXT},  {"on-crash", FIELD_TEXT},
	    {"no-reboot", FIELD_BOOLEAN},  {"slots", FIELD_NUMBER}, {}};
	json_int_t cpus, slots;

	memset(config, 0, sizeof(*config));
	TRY(check_fields(json, fields));
	TRY(number_of(json, "cpus", 1, MACHINE_CPUS_MAX, &cpus));
	TRY(number_of(json, "slots", 0, INT32_MAX, &slots));
	config->cpus = (uint32_t)cpus;
	config->slots_limit = (uint32_t)slots;
	config->no_reboot = boolean_of(json, "no-reboot");
	TRY(crash_action_from_json(json, &config->on_crash));
	TRY(copy_text(json, "name", &config->name));
	TRY(copy_text(json, "kernel", &config->kernel));
	TRY(copy_text(json, "initrd", &config->initrd));
	TRY(copy_text(json, "cmdline", &config->cmdline));
	TRY(copy_text(json, "serial", &config->serial));
	TRY(copy_text(json, "cpu", &config->cpu));
	TRY(each(json, "memory", config, memory_from_json));
	TRY(each(json, "elastic", config, elastic_from_json));
	TRY(each(json, "distances", config, distance_from_json));
	TRY(each(json, "devices", config, device_from_json));
	return machine_config_check(config);
}
