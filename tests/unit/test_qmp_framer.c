/* SPDX-License-Identifier: BSD-2-Clause */
/* Where one QMP message ends and the next begins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/qmp_framer.h"

struct messages {
	char text[8][64];
	int count;
};

static void keep(void *context, const char *text, size_t size)
{
	struct messages *messages = context;

	assert_true(size < 64);
	memcpy(messages->text[messages->count], text, size);
	messages->text[messages->count++][size] = '\0';
}

static void feed(struct qmp_framer *framer, const char *text, struct messages *messages)
{
	assert_int_equal(qmp_framer_feed(framer, text, strlen(text), keep, messages), 0);
}

static void object_ends_at_its_bracket_without_newline(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};

	feed(&framer, "{\"a\":{}}{\"b\":[1]}", &messages);
	assert_int_equal(messages.count, 2);
	assert_string_equal(messages.text[0], "{\"a\":{}}");
	assert_string_equal(messages.text[1], "{\"b\":[1]}");
	qmp_framer_clear(&framer);
}

static void message_may_come_byte_by_byte(void **state)
{
	const char *text = " \r\n{\"a\": \"x\"}";
	struct qmp_framer framer = {};
	struct messages messages = {};

	for (size_t i = 0; i < strlen(text); i++)
		assert_int_equal(qmp_framer_feed(&framer, text + i, 1, keep, &messages), 0);
	assert_int_equal(messages.count, 1);
	assert_string_equal(messages.text[0], "{\"a\": \"x\"}");
	qmp_framer_clear(&framer);
}

static void brackets_and_quotes_in_strings_do_not_count(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};

	feed(&framer, "{\"a\":\"}\\\"}\\\\\"}", &messages);
	assert_int_equal(messages.count, 1);
	assert_string_equal(messages.text[0], "{\"a\":\"}\\\"}\\\\\"}");
	qmp_framer_clear(&framer);
}

static void garbage_ends_at_the_newline(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};

	feed(&framer, "hello {}\n{}", &messages);
	assert_int_equal(messages.count, 2);
	assert_string_equal(messages.text[0], "hello {}\n");
	assert_string_equal(messages.text[1], "{}");
	qmp_framer_clear(&framer);
}

static void stray_closing_bracket_is_garbage(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};

	feed(&framer, "}\n{}", &messages);
	assert_int_equal(messages.count, 2);
	assert_string_equal(messages.text[1], "{}");
	qmp_framer_clear(&framer);
}

static void byte_ff_drops_what_was_begun(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};

	feed(&framer, "{\"a\": \"open\xff{}", &messages);
	assert_int_equal(messages.count, 1);
	assert_string_equal(messages.text[0], "{}");
	qmp_framer_clear(&framer);
}

static void endless_message_is_refused(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};
	char block[4096];
	int result = 0;

	memset(block, '[', sizeof(block));
	for (int i = 0; i <= QMP_MESSAGE_MAX / 4096 && !result; i++)
		result = qmp_framer_feed(&framer, block, sizeof(block), keep, &messages);
	assert_int_equal(result, -EMSGSIZE);
	assert_true(framer.capacity <= QMP_MESSAGE_MAX);
	qmp_framer_clear(&framer);
}

static void large_buffer_is_given_back_after_its_message(void **state)
{
	struct qmp_framer framer = {};
	struct messages messages = {};
	size_t size = 100000;
	char *text = malloc(size);

	memset(text, ' ', size);
	text[0] = '[';
	assert_int_equal(qmp_framer_feed(&framer, text, size, keep, &messages), 0);
	assert_true(framer.capacity >= size);
	feed(&framer, "\xff", &messages);
	assert_true(framer.capacity < size);
	free(text);
	qmp_framer_clear(&framer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(object_ends_at_its_bracket_without_newline),
	    cmocka_unit_test(message_may_come_byte_by_byte),
	    cmocka_unit_test(brackets_and_quotes_in_strings_do_not_count),
	    cmocka_unit_test(garbage_ends_at_the_newline),
	    cmocka_unit_test(stray_closing_bracket_is_garbage),
	    cmocka_unit_test(byte_ff_drops_what_was_begun),
	    cmocka_unit_test(endless_message_is_refused),
	    cmocka_unit_test(large_buffer_is_given_back_after_its_message),
	};

	return cmocka_run_group_tests_name("qmp_framer", tests, NULL, NULL);
}
