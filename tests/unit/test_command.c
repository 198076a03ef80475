/* SPDX-License-Identifier: BSD-2-Clause */
/* How a command line becomes options and positionals, and what is said about one that does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/checked.h"
#include "cli/command.h"

static const struct cli_option options[] = {
    {"wait", CLI_FLAG, NULL, "wait"},
    {"timeout", CLI_REQUIRED, "SECONDS", "how long"},
    {"balloon", CLI_OPTIONAL, "SPEC", "a balloon"},
    {},
};
static const struct cli_command command = {
    .name = "test",
    .positionals = "VM [ID]",
    .minimum = 1,
    .maximum = 2,
    .summary = "Test",
    .options = options,
};
static const struct cli_command without_positionals = {
    .name = "bare",
    .positionals = "",
    .summary = "Test",
    .options = options,
};

static struct cli_arguments arguments;

/* Parses up to five words. */
#define PARSE(which, ...)                                                                          \
	({                                                                                         \
		const char *words_[] = {__VA_ARGS__};                                              \
		cli_parse(which, (int)ARRAY_SIZE(words_), (char **)words_, &arguments);            \
	})

static void check_refused(struct error *error, const char *message)
{
	assert_non_null(error);
	assert_string_equal(error_message(error), message);
	assert_int_equal(error_kind(error), ERROR_USAGE);
	error_free(error);
}

static void options_and_positionals_mix(void **state)
{
	assert_null(PARSE(&command, "--wait", "vm", "--timeout", "5", "id"));
	assert_true(cli_has(&arguments, "wait"));
	assert_string_equal(cli_value(&arguments, "timeout", ""), "5");
	assert_int_equal(arguments.positional_count, 2);
	assert_string_equal(arguments.positional[1], "id");
}

static void value_may_follow_an_equals_sign(void **state)
{
	assert_null(PARSE(&command, "--timeout=a=b", "vm"));
	assert_string_equal(cli_value(&arguments, "timeout", ""), "a=b");
}

static void value_may_look_like_an_option(void **state)
{
	assert_null(PARSE(&command, "--timeout", "--wait", "vm"));
	assert_string_equal(cli_value(&arguments, "timeout", ""), "--wait");
	assert_false(cli_has(&arguments, "wait"));
}

static void last_value_counts(void **state)
{
	assert_null(PARSE(&command, "vm", "--timeout=1", "--timeout=2"));
	assert_string_equal(cli_value(&arguments, "timeout", ""), "2");
}

static void repeated_options_keep_their_order(void **state)
{
	int cursor = 0;

	assert_null(PARSE(&command, "vm", "--timeout=1", "--timeout=2"));
	assert_string_equal(cli_next(&arguments, "timeout", &cursor)->value, "1");
	assert_string_equal(cli_next(&arguments, "timeout", &cursor)->value, "2");
	assert_null(cli_next(&arguments, "timeout", &cursor));
}

static void two_dashes_end_the_options(void **state)
{
	assert_null(PARSE(&command, "--", "--wait"));
	assert_string_equal(arguments.positional[0], "--wait");
}

static void optional_value_may_be_absent(void **state)
{
	assert_null(PARSE(&without_positionals, "--balloon", "--wait"));
	assert_true(cli_has(&arguments, "balloon"));
	assert_null(cli_value(&arguments, "balloon", NULL));
}

static void optional_value_follows_where_nothing_else_can(void **state)
{
	assert_null(PARSE(&without_positionals, "--balloon", "statistics=1"));
	assert_string_equal(cli_value(&arguments, "balloon", ""), "statistics=1");
	assert_null(PARSE(&command, "--balloon", "vm"));
	assert_null(cli_value(&arguments, "balloon", NULL));
}

static void unknown_option_suggests_the_nearest(void **state)
{
	check_refused(PARSE(&command, "--wiat", "vm"),
		      "unknown option '--wiat': did you mean --wait?");
	check_refused(PARSE(&command, "--time=3"),
		      "unknown option '--time': did you mean --timeout?");
	check_refused(PARSE(&command, "--quite-different"),
		      "unknown option '--quite-different': 'godwit help test' lists the options");
	check_refused(PARSE(&command, "-w"), "unknown option '-w': options are long, as --help");
}

static void missing_value_is_named(void **state)
{
	check_refused(PARSE(&command, "vm", "--timeout"),
		      "--timeout needs a value: --timeout SECONDS");
}

static void flag_with_a_value_is_refused(void **state)
{
	check_refused(PARSE(&command, "vm", "--wait=on"), "--wait takes no value");
}

static void number_of_positionals_is_checked(void **state)
{
	check_refused(PARSE(&command, "--wait"), "an argument is missing: godwit test VM [ID]");
	check_refused(PARSE(&command, "a", "b", "c"), "unexpected argument 'c': it takes VM [ID]");
}

static void help_needs_nothing_else(void **state)
{
	assert_null(PARSE(&command, "--help"));
	assert_true(arguments.help);
	assert_null(PARSE(&command, "-h"));
	assert_true(arguments.help);
}

static void seconds_are_checked(void **state)
{
	double seconds = 0;

	assert_null(PARSE(&command, "vm", "--timeout=2.5"));
	assert_null(cli_seconds(&arguments, "timeout", 1, &seconds));
	assert_true(seconds == 2.5);
	assert_null(PARSE(&command, "vm", "--timeout=soon"));
	check_refused(cli_seconds(&arguments, "timeout", 1, &seconds),
		      "--timeout: 'soon' is not a number of seconds");
	assert_null(PARSE(&command, "vm", "--timeout=nan"));
	check_refused(cli_seconds(&arguments, "timeout", 1, &seconds),
		      "--timeout: 'nan' is not a number of seconds");
}

static void nearest_word_is_not_far(void **state)
{
	const char *const words[] = {"resize", "resume", "reset", "run", NULL};

	assert_string_equal(cli_nearest("resiez", words), "resize");
	assert_string_equal(cli_nearest("rseet", words), "reset");
	assert_string_equal(cli_nearest("resu", words), "resume");
	assert_null(cli_nearest("migrate", words));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(options_and_positionals_mix),
	    cmocka_unit_test(value_may_follow_an_equals_sign),
	    cmocka_unit_test(value_may_look_like_an_option),
	    cmocka_unit_test(last_value_counts),
	    cmocka_unit_test(repeated_options_keep_their_order),
	    cmocka_unit_test(two_dashes_end_the_options),
	    cmocka_unit_test(optional_value_may_be_absent),
	    cmocka_unit_test(optional_value_follows_where_nothing_else_can),
	    cmocka_unit_test(unknown_option_suggests_the_nearest),
	    cmocka_unit_test(missing_value_is_named),
	    cmocka_unit_test(flag_with_a_value_is_refused),
	    cmocka_unit_test(number_of_positionals_is_checked),
	    cmocka_unit_test(help_needs_nothing_else),
	    cmocka_unit_test(seconds_are_checked),
	    cmocka_unit_test(nearest_word_is_not_far),
	};

	return cmocka_run_group_tests_name("command", tests, NULL, NULL);
}
