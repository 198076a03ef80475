/* SPDX-License-Identifier: BSD-2-Clause */
/* cmocka and what it wants included before it. */
#ifndef GODWIT_TESTS_CMOCKA_PRELUDE_H
#define GODWIT_TESTS_CMOCKA_PRELUDE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"

/* Fails the test with the message of @expression's error, if it has one. */
#define assert_no_error(expression)                                                                \
	do {                                                                                       \
		AUTO_ERROR struct error *assert_error_ = (expression);                             \
		if (assert_error_)                                                                 \
			fail_msg("%s", error_message(assert_error_));                              \
	} while (0)

/* Fails the test unless @expression is an error whose message contains @text. */
#define assert_error_with(expression, text)                                                        \
	do {                                                                                       \
		AUTO_ERROR struct error *assert_error_ = (expression);                             \
		assert_non_null(assert_error_);                                                    \
		if (!strstr(error_message(assert_error_), text))                                   \
			fail_msg("'%s' does not say '%s'", error_message(assert_error_), text);    \
	} while (0)

#endif
