/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP without the socket: one JSON text in, one response out (QEMU, docs/interop/qmp-spec). Knows
 * the negotiation of capabilities, ids, error classes and the command table that it is given.
 */
#ifndef GODWIT_CONTROL_QMP_DISPATCH_H
#define GODWIT_CONTROL_QMP_DISPATCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "control/qmp_schema.h"

struct qmp_command {
	const char *name; /* NULL ends a table */
	/*
	 * @arguments obeys the schema. *@result, NULL at first, becomes the response's "return"
	 * (owned; NULL is
	 * {}). An error's code ENODEV gives the class DeviceNotFound, ENXIO DeviceNotActive, others
	 * GenericError.
	 */
	struct error *(*run)(void *context, json_t *arguments, json_t **result);
	struct qmp_argument arguments[QMP_ARGUMENTS_MAX];
};

/* One connection's state. */
struct qmp_session {
	bool negotiated; /* qmp_capabilities was sent: commands are taken, events are given */
};

/* {"QMP": {"version": …, "capabilities": []}} */
json_t *qmp_greeting(void);
/* {"qemu": {"major", "minor", "micro"}, "package"}; the shape that clients parse, with godwit's own
 * numbers. */
json_t *qmp_version(void);
/*
 * Answers one message of a client. Never NULL except when memory is short. @commands does not hold
 * qmp_capabilities, which belongs to the session.
 */
json_t *qmp_dispatch(const struct qmp_command *commands, void *context, struct qmp_session *session,
		     const char *text, size_t size);
/* {"event": @name, "data": @data, "timestamp": …}; @data is borrowed and may be NULL. */
json_t *qmp_event(const char *name, json_t *data);

#endif
