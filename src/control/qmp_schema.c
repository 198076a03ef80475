/* SPDX-License-Identifier: BSD-2-Clause */
/* The argument check of qmp_schema.h. A peer controls the arguments; the schema is ours. Main loop.
 */
#include "control/qmp_schema.h"

#include <string.h>

const char *qmp_type_name(enum qmp_type type)
{
	static const char *const names[] = {
	    [QMP_STRING] = "string", [QMP_SIZE] = "size", [QMP_BOOLEAN] = "boolean",
	    [QMP_ARRAY] = "array",   [QMP_ANY] = "any",
	};

	return names[type];
}

static struct error *check_type(const struct qmp_argument *argument, json_t *value)
{
	switch (argument->type) {
	case QMP_STRING:
		if (!json_is_string(value))
			return error_usage("argument '%s' must be a string", argument->name);
		break;
	case QMP_SIZE:
		if (!json_is_integer(value))
			return error_usage("argument '%s' must be a whole number", argument->name);
		if (json_integer_value(value) < 0)
			return error_usage("argument '%s' must not be negative", argument->name);
		break;
	case QMP_BOOLEAN:
		if (!json_is_boolean(value))
			return error_usage("argument '%s' must be true or false", argument->name);
		break;
	case QMP_ARRAY:
		if (!json_is_array(value))
			return error_usage("argument '%s' must be an array", argument->name);
		break;
	case QMP_ANY:
		break;
	}
	return NULL;
}

static const struct qmp_argument *find_argument(const struct qmp_argument *schema, const char *name)
{
	for (int i = 0; i < QMP_ARGUMENTS_MAX && schema[i].name; i++)
		if (strcmp(schema[i].name, name) == 0)
			return &schema[i];
	return NULL;
}

struct error *qmp_arguments_check(const struct qmp_argument *schema, json_t *arguments)
{
	const char *name;
	json_t *value;

	json_object_foreach (arguments, name, value) {
		const struct qmp_argument *argument = find_argument(schema, name);

		if (!argument)
			return error_usage("argument '%.64s' is unexpected", name);
		TRY(check_type(argument, value));
	}
	for (int i = 0; i < QMP_ARGUMENTS_MAX && schema[i].name; i++)
		if (!schema[i].optional && !json_object_get(arguments, schema[i].name))
			return error_usage("argument '%s' is missing", schema[i].name);
	return NULL;
}

const char *qmp_string(json_t *arguments, const char *name, const char *missing)
{
	return json_string_value(json_object_get(arguments, name)) ?: missing;
}

uint64_t qmp_size(json_t *arguments, const char *name, uint64_t missing)
{
	json_t *value = json_object_get(arguments, name);

	return value ? (uint64_t)json_integer_value(value) : missing;
}

bool qmp_boolean(json_t *arguments, const char *name, bool missing)
{
	json_t *value = json_object_get(arguments, name);

	return value ? json_is_true(value) : missing;
}
