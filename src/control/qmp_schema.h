/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a command's arguments look like, declared beside the command, and the one check that
 * enforces it: handlers find every required argument present, of its type, and nothing else.
 */
#ifndef GODWIT_CONTROL_QMP_SCHEMA_H
#define GODWIT_CONTROL_QMP_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum qmp_type {
	QMP_STRING,
	QMP_SIZE, /* a whole number from 0 to 2^63 - 1: bytes, mostly */
	QMP_BOOLEAN,
	QMP_ARRAY,
	QMP_ANY,
};

struct qmp_argument {
	const char *name; /* NULL ends a list */
	enum qmp_type type;
	bool optional;
};

#define QMP_ARGUMENTS_MAX 12

/* A usage error that names the argument which is missing, unknown or of another type. */
struct error *qmp_arguments_check(const struct qmp_argument *schema, json_t *arguments) MUST_CHECK;

/* "string", "size" … */
const char *qmp_type_name(enum qmp_type type);

/* For handlers, after the check: the value of @name, or the default when it is absent. */
const char *qmp_string(json_t *arguments, const char *name, const char *missing);
uint64_t qmp_size(json_t *arguments, const char *name, uint64_t missing);
bool qmp_boolean(json_t *arguments, const char *name, bool missing);

#endif
