/* SPDX-License-Identifier: BSD-2-Clause */
/* What a QMP client gets for what it sends: negotiation, ids, errors, arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/checked.h"
#include "control/qmp_dispatch.h"

static struct error *run_echo(void *context, json_t *arguments, json_t **result)
{
	*result = json_pack("{s:s,s:I,s:b}", "text", qmp_string(arguments, "text", "none"), "size",
			    (json_int_t)qmp_size(arguments, "size", 7), "flag",
			    qmp_boolean(arguments, "flag", true));
	return NULL;
}

static struct error *run_nothing(void *context, json_t *arguments, json_t **result)
{
	return NULL;
}

static struct error *run_no_device(void *context, json_t *arguments, json_t **result)
{
	*result = json_object(); /* must not leak */
	return error_new(ENODEV, "there is no device");
}

static const struct qmp_command commands[] = {
    {"echo",
     run_echo,
     {{"text", QMP_STRING, false}, {"size", QMP_SIZE, true}, {"flag", QMP_BOOLEAN, true}}},
    {"nothing", run_nothing, {}},
    {"no-device", run_no_device, {}},
    {},
};

static struct qmp_session negotiated = {.negotiated = true};

/* Sends @text and checks the answer, written as JSON in any order of keys. */
static void check(struct qmp_session *session, const char *text, const char *expected)
{
	json_t *response = qmp_dispatch(commands, NULL, session, text, strlen(text));
	json_t *wanted = json_loads(expected, 0, NULL);
	char *shown = json_dumps(response, JSON_SORT_KEYS);

	assert_non_null(wanted);
	if (!json_equal(response, wanted))
		fail_msg("%s answered %s, not %s", text, shown, expected);
	free(shown);
	json_decref(response);
	json_decref(wanted);
}

/* The description of the error that answers @text. */
static void check_error(const char *text, const char *class, const char *description)
{
	json_t *response = qmp_dispatch(commands, NULL, &negotiated, text, strlen(text));
	json_t *error = json_object_get(response, "error");

	assert_non_null(error);
	assert_string_equal(json_string_value(json_object_get(error, "class")), class);
	assert_string_equal(json_string_value(json_object_get(error, "desc")), description);
	json_decref(response);
}

static void commands_wait_for_negotiation(void **state)
{
	struct qmp_session session = {};

	check(&session, "{\"execute\":\"nothing\"}",
	      "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"Expecting capabilities "
	      "negotiation with 'qmp_capabilities'\"}}");
	check(&session, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	check(&session, "{\"execute\":\"nothing\"}", "{\"return\":{}}");
}

static void negotiating_twice_is_refused(void **state)
{
	check_error("{\"execute\":\"qmp_capabilities\"}", "CommandNotFound",
		    "Capabilities negotiation is already complete, command ignored");
}

static void unknown_capability_is_refused(void **state)
{
	struct qmp_session session = {};

	check(&session, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
	      "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no capability is offered, so none "
	      "can "
	      "be enabled\"}}");
	assert_false(session.negotiated);
}

static void id_of_any_type_comes_back(void **state)
{
	check(&negotiated, "{\"execute\":\"nothing\",\"id\":[1,{\"a\":null}]}",
	      "{\"return\":{},\"id\":[1,{\"a\":null}]}");
	check(&negotiated, "{\"execute\":\"gone\",\"id\":0}",
	      "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"The command gone has not been "
	      "found\"},\"id\":0}");
}

static void arguments_reach_the_command(void **state)
{
	check(&negotiated,
	      "{\"execute\":\"echo\",\"arguments\":{\"text\":\"x\",\"size\":5,\"flag\":false}}",
	      "{\"return\":{\"text\":\"x\",\"size\":5,\"flag\":false}}");
}

static void absent_optional_arguments_have_defaults(void **state)
{
	check(&negotiated, "{\"execute\":\"echo\",\"arguments\":{\"text\":\"x\"}}",
	      "{\"return\":{\"text\":\"x\",\"size\":7,\"flag\":true}}");
}

static void missing_argument_is_named(void **state)
{
	check_error("{\"execute\":\"echo\"}", "GenericError", "echo: argument 'text' is missing");
}

static void unknown_argument_is_named(void **state)
{
	check_error("{\"execute\":\"nothing\",\"arguments\":{\"surprise\":1}}", "GenericError",
		    "nothing: argument 'surprise' is unexpected");
}

static void argument_of_another_type_is_named(void **state)
{
	check_error("{\"execute\":\"echo\",\"arguments\":{\"text\":1}}", "GenericError",
		    "echo: argument 'text' must be a string");
	check_error("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"size\":1.5}}",
		    "GenericError", "echo: argument 'size' must be a whole number");
	check_error("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"size\":-1}}",
		    "GenericError", "echo: argument 'size' must not be negative");
	check_error("{\"execute\":\"echo\",\"arguments\":{\"text\":\"\",\"flag\":0}}",
		    "GenericError", "echo: argument 'flag' must be true or false");
}

static void error_code_gives_the_class(void **state)
{
	check_error("{\"execute\":\"no-device\"}", "DeviceNotFound",
		    "no-device: there is no device");
}

static void text_that_is_not_json_is_an_error(void **state)
{
	json_t *response = qmp_dispatch(commands, NULL, &negotiated, "nonsense", 8);
	const char *description =
	    json_string_value(json_object_get(json_object_get(response, "error"), "desc"));

	assert_int_equal(strncmp(description, "JSON parse error", 16), 0);
	json_decref(response);
}

static void text_that_is_not_utf8_gets_an_answer(void **state)
{
	json_t *response = qmp_dispatch(commands, NULL, &negotiated, "{\"\xe4\":1}", 7);

	assert_non_null(json_object_get(response, "error"));
	json_decref(response);
}

static void name_cut_inside_a_character_gets_an_answer(void **state)
{
	/* 63 bytes, then one of two: the message quotes 64. */
	check_error(
	    "{\"execute\":"
	    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa4\"}",
	    "CommandNotFound",
	    "The command aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa? has "
	    "not been found");
}

static void request_of_another_shape_is_refused(void **state)
{
	check_error("[]", "GenericError", "QMP input must be a JSON object");
	check_error("7", "GenericError", "QMP input must be a JSON object");
	check_error("{}", "GenericError", "QMP input lacks member 'execute'");
	check_error("{\"execute\":1}", "GenericError",
		    "QMP input member 'execute' must be a string");
	check_error("{\"execute\":\"nothing\",\"arguments\":[]}", "GenericError",
		    "QMP input member 'arguments' must be an object");
	check_error("{\"execute\":\"nothing\",\"more\":1}", "GenericError",
		    "QMP input member 'more' is unexpected");
}

static void event_has_a_timestamp(void **state)
{
	json_t *data = json_pack("{s:i}", "x", 1);
	json_t *event = qmp_event("STOP", data);
	json_t *timestamp = json_object_get(event, "timestamp");

	assert_true(json_integer_value(json_object_get(timestamp, "seconds")) > 1700000000);
	assert_true(json_integer_value(json_object_get(timestamp, "microseconds")) < 1000000);
	assert_ptr_equal(json_object_get(event, "data"), data);
	json_decref(event);
	json_decref(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(commands_wait_for_negotiation),
	    cmocka_unit_test(negotiating_twice_is_refused),
	    cmocka_unit_test(unknown_capability_is_refused),
	    cmocka_unit_test(id_of_any_type_comes_back),
	    cmocka_unit_test(arguments_reach_the_command),
	    cmocka_unit_test(absent_optional_arguments_have_defaults),
	    cmocka_unit_test(missing_argument_is_named),
	    cmocka_unit_test(unknown_argument_is_named),
	    cmocka_unit_test(argument_of_another_type_is_named),
	    cmocka_unit_test(error_code_gives_the_class),
	    cmocka_unit_test(text_that_is_not_json_is_an_error),
	    cmocka_unit_test(text_that_is_not_utf8_gets_an_answer),
	    cmocka_unit_test(name_cut_inside_a_character_gets_an_answer),
	    cmocka_unit_test(request_of_another_shape_is_refused),
	    cmocka_unit_test(event_has_a_timestamp),
	};

	return cmocka_run_group_tests_name("qmp_dispatch", tests, NULL, NULL);
}
