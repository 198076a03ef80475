/* SPDX-License-Identifier: BSD-2-Clause */
/* Text that goes by in pieces is found exactly where it is. */
#include <stdlib.h>
#include <string.h>

#include "base/text_search.h"
#include "cmocka_prelude.h"

static void it_is_found_across_pieces(void **unused)
{
	struct text_search search;

	text_search_init(&search, "login:");
	assert_false(text_search_feed(&search, "web lo", 6));
	assert_false(text_search_feed(&search, "", 0));
	assert_false(text_search_feed(&search, "gin", 3));
	assert_true(text_search_feed(&search, ": x", 3));
	assert_false(text_search_feed(&search, "login", 5));
	assert_true(text_search_feed(&search, ":", 1));
}

static void the_longest_text_is_found(void **unused)
{
	struct text_search search;
	char text[TEXT_SEARCH_MAX + 1];

	memset(text, 'x', TEXT_SEARCH_MAX);
	text[TEXT_SEARCH_MAX] = '\0';
	text_search_init(&search, text);
	assert_false(text_search_feed(&search, text, TEXT_SEARCH_MAX - 1));
	assert_true(text_search_feed(&search, "x", 1));
	assert_true(text_search_feed(&search, "x", 1));
	assert_false(text_search_feed(&search, "y", 1));
	assert_false(text_search_feed(&search, text, TEXT_SEARCH_MAX - 1));
}

/* Texts of two letters are full of their own beginnings. */
static void it_ends_where_it_ends(void **unused)
{
	srand(1);
	for (int round = 0; round < 2000; round++) {
		char text[12] = {0}, bytes[200];
		size_t length = 1 + (size_t)rand() % (sizeof(text) - 1);
		struct text_search search;

		for (size_t i = 0; i < length; i++)
			text[i] = (char)('a' + rand() % 2);
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (char)('a' + rand() % 2);
		text_search_init(&search, text);
		for (size_t i = 0; i < sizeof(bytes); i++) {
			bool ends =
			    i + 1 >= length && memcmp(bytes + i + 1 - length, text, length) == 0;

			assert_int_equal(text_search_feed(&search, bytes + i, 1), ends);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_is_found_across_pieces),
	    cmocka_unit_test(the_longest_text_is_found),
	    cmocka_unit_test(it_ends_where_it_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
