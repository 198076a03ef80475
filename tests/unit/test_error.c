/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages for a person: what they quote may come from a peer, and stays text on one line. */
#include "cmocka_prelude.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

#define HOSTILE	 "a\033]0;owned\007b\nc\177"
#define HARMLESS "a?]0;owned?b?c?"

static void test_message_quotes_without_control_characters(void **unused)
{
	AUTO_ERROR struct error *error = error_new(EINVAL, "'%s'", HOSTILE);

	assert_string_equal(error_message(error), "'" HARMLESS "'");
}

static void test_prefix_quotes_without_control_characters(void **unused)
{
	AUTO_ERROR struct error *error = error_prefix(error_usage("no"), "%s", HOSTILE);

	assert_string_equal(error_message(error), HARMLESS ": no");
}

static void test_other_languages_stay(void **unused)
{
	AUTO_ERROR struct error *error = error_system(ENOENT, "/töne/音");

	assert_string_equal(error_message(error), "/töne/音: No such file or directory");
}

static void test_log_line_is_one_line(void **unused)
{
	int ends[2], old = dup(STDERR_FILENO);
	char line[256] = "";

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
	log_error("'%s'", HOSTILE);
	assert_int_equal(dup2(old, STDERR_FILENO), STDERR_FILENO);
	close(old);
	close(ends[1]);
	assert_true(read(ends[0], line, sizeof(line) - 1) > 0);
	close(ends[0]);
	assert_string_equal(line, "godwit error: '" HARMLESS "'\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_message_quotes_without_control_characters),
	    cmocka_unit_test(test_prefix_quotes_without_control_characters),
	    cmocka_unit_test(test_other_languages_stay),
	    cmocka_unit_test(test_log_line_is_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
