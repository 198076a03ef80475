/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dispatcher of qmp_dispatch.h. Runs on the main loop (and alone in the fuzzer). A peer
 * controls the text and its nesting, which jansson bounds; nothing of it is kept but the id, which
 * goes back.
 */
#include "control/qmp_dispatch.h"

#include <string.h>

#include "base/clock.h"
#include "control/version.h"

json_t *qmp_version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", GODWIT_VERSION_MAJOR, "minor",
			 GODWIT_VERSION_MINOR, "micro", GODWIT_VERSION_MICRO, "package",
			 "godwit-" GODWIT_VERSION);
}

json_t *qmp_greeting(void)
{
	return json_pack("{s:{s:o,s:[]}}", "QMP", "version", qmp_version(), "capabilities");
}

json_t *qmp_event(const char *name, json_t *data)
{
	int64_t now = clock_realtime_ns();
	json_t *event = json_pack("{s:s,s:{s:I,s:I}}", "event", name, "timestamp", "seconds",
				  (json_int_t)(now / NS_PER_SECOND), "microseconds",
				  (json_int_t)(now % NS_PER_SECOND / 1000));

	if (event && data)
		json_object_set(event, "data", data);
	return event;
}

/*
 * A string for a response. A message may quote what a client sent, cut at any byte; what is not
 * UTF-8 then shows as '?'.
 */
static json_t *text_value(const char *text)
{
	json_t *value = json_string(text);
	AUTO_FREE char *copy = NULL;

	if (value)
		return value;
	copy = strdup(text);
	for (char *byte = copy; byte && *byte; byte++)
		if ((unsigned char)*byte >= 0x80)
			*byte = '?';
	return json_string(copy ?: "out of memory");
}

static json_t *error_response(const char *class, const char *description)
{
	return json_pack("{s:{s:s,s:o}}", "error", "class", class, "desc", text_value(description));
}

static json_t *generic_error(const char *description)
{
	return error_response("GenericError", description);
}

/* The response for @error, which is freed. */
static json_t *error_to_response(struct error *error)
{
	const char *class = "GenericError";
	json_t *response;

	if (error_code(error) == ENODEV)
		class = "DeviceNotFound";
	else if (error_code(error) == ENXIO)
		class = "DeviceNotActive";
	response = error_response(class, error_message(error));
	error_free(error);
	return response;
}

/* Refuses a message that is not {"execute": string, "arguments"?: object, "id"?: any}. */
static struct error *check_request(json_t *request)
{
	const char *key;
	json_t *value;

	if (!json_is_object(request))
		return error_usage("QMP input must be a JSON object");
	json_object_foreach (request, key, value) {
		if (strcmp(key, "execute") == 0) {
			if (!json_is_string(value))
				return error_usage("QMP input member 'execute' must be a string");
		} else if (strcmp(key, "arguments") == 0) {
			if (!json_is_object(value))
				return error_usage(
				    "QMP input member 'arguments' must be an object");
		} else if (strcmp(key, "exec-oob") == 0) {
			return error_usage("out-of-band commands are not offered: use 'execute'");
		} else if (strcmp(key, "id") != 0) {
			return error_usage("QMP input member '%.64s' is unexpected", key);
		}
	}
	if (!json_object_get(request, "execute"))
		return error_usage("QMP input lacks member 'execute'");
	return NULL;
}

static json_t *negotiate(struct qmp_session *session, json_t *arguments)
{
	static const struct qmp_argument schema[QMP_ARGUMENTS_MAX] = {{"enable", QMP_ARRAY, true}};
	struct error *error;

	if (session->negotiated)
		return error_response(
		    "CommandNotFound",
		    "Capabilities negotiation is already complete, command ignored");
	error = qmp_arguments_check(schema, arguments);
	if (!error && json_array_size(json_object_get(arguments, "enable")))
		error = error_usage("no capability is offered, so none can be enabled");
	if (error)
		return error_to_response(error);
	session->negotiated = true;
	return json_pack("{s:{}}", "return");
}

static json_t *execute(const struct qmp_command *commands, void *context,
		       struct qmp_session *session, const char *name, json_t *arguments)
{
	const struct qmp_command *command = commands;
	AUTO_FREE char *message = NULL;
	json_t *result = NULL;
	struct error *error;

	if (strcmp(name, "qmp_capabilities") == 0)
		return negotiate(session, arguments);
	if (!session->negotiated)
		return error_response("CommandNotFound", "Expecting capabilities negotiation with "
							 "'qmp_capabilities'");
	while (command->name && strcmp(command->name, name) != 0)
		command++;
	if (!command->name) {
		if (asprintf(&message, "The command %.64s has not been found", name) < 0)
			message = NULL;
		return error_response("CommandNotFound",
				      message ?: "The command has not been found");
	}
	error = qmp_arguments_check(command->arguments, arguments);
	if (!error)
		error = command->run(context, arguments, &result);
	if (error) {
		json_decref(result);
		return error_to_response(error_prefix(error, "%s", name));
	}
	return json_pack("{s:o}", "return", result ?: json_object());
}

json_t *qmp_dispatch(const struct qmp_command *commands, void *context, struct qmp_session *session,
		     const char *text, size_t size)
{
	json_error_t parse_error;
	json_t *request =
	    json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &parse_error);
	json_t *response, *arguments, *id;
	struct error *error;

	if (!request) {
		AUTO_FREE char *message = NULL;

		if (asprintf(&message, "JSON parse error, %s", parse_error.text) < 0)
			message = NULL;
		return generic_error(message ?: "JSON parse error");
	}
	error = check_request(request);
	if (error) {
		response = error_to_response(error);
	} else {
		arguments = json_object_get(request, "arguments");
		arguments = arguments ? json_incref(arguments) : json_object();
		response =
		    execute(commands, context, session,
			    json_string_value(json_object_get(request, "execute")), arguments);
		json_decref(arguments);
	}
	id = json_object_get(request, "id");
	if (response && id)
		json_object_set(response, "id", id);
	json_decref(request);
	return response;
}
