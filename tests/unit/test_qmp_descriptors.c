/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors that came over a control connection: named in their order, used once, never leaked. */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "control/qmp_descriptors.h"

static int some_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void test_names_go_to_the_oldest(void **unused)
{
	struct qmp_descriptors descriptors = {};
	int first = some_fd(), second = some_fd(), fd;

	qmp_descriptors_add(&descriptors, first);
	qmp_descriptors_add(&descriptors, second);
	assert_no_error(qmp_descriptors_name(&descriptors, "a"));
	assert_no_error(qmp_descriptors_name(&descriptors, "b"));
	assert_no_error(qmp_descriptors_take(&descriptors, "a", &fd));
	assert_int_equal(fd, first);
	assert_error_with(qmp_descriptors_take(&descriptors, "a", &fd), "has the name 'a'");
	close(first);
	qmp_descriptors_clear(&descriptors);
	assert_false(is_open(second));
}

static void test_a_name_that_is_taken_changes_hands(void **unused)
{
	struct qmp_descriptors descriptors = {};
	int first = some_fd(), second = some_fd(), fd;

	qmp_descriptors_add(&descriptors, first);
	assert_no_error(qmp_descriptors_name(&descriptors, "a"));
	qmp_descriptors_add(&descriptors, second);
	assert_no_error(qmp_descriptors_name(&descriptors, "a"));
	assert_false(is_open(first));
	assert_no_error(qmp_descriptors_take(&descriptors, "a", &fd));
	assert_int_equal(fd, second);
	close(second);
	qmp_descriptors_clear(&descriptors);
}

static void test_what_cannot_be_named(void **unused)
{
	struct qmp_descriptors descriptors = {};

	assert_error_with(qmp_descriptors_name(&descriptors, "a"), "no file descriptor came");
	qmp_descriptors_add(&descriptors, some_fd());
	assert_error_with(qmp_descriptors_name(&descriptors, "1"), "begin with a digit");
	assert_error_with(qmp_descriptors_name(&descriptors, ""), "must not be empty");
	qmp_descriptors_clear(&descriptors);
}

static void test_what_was_refused_a_name_does_not_get_the_next_one(void **unused)
{
	struct qmp_descriptors descriptors = {};
	int first = some_fd(), second = some_fd(), fd;

	qmp_descriptors_add(&descriptors, first);
	assert_error_with(qmp_descriptors_name(&descriptors, "1"), "begin with a digit");
	assert_false(is_open(first));
	qmp_descriptors_add(&descriptors, second);
	assert_no_error(qmp_descriptors_name(&descriptors, "a"));
	assert_no_error(qmp_descriptors_take(&descriptors, "a", &fd));
	assert_int_equal(fd, second);
	close(fd);
	qmp_descriptors_clear(&descriptors);
}

static void test_there_are_bounds(void **unused)
{
	struct qmp_descriptors descriptors = {};
	int last = -1;
	char name[8];

	for (int i = 0; i <= QMP_DESCRIPTORS_WAITING; i++)
		qmp_descriptors_add(&descriptors, last = some_fd());
	assert_false(is_open(last));
	for (int i = 0; i < QMP_DESCRIPTORS_NAMED; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		qmp_descriptors_add(&descriptors, some_fd());
		assert_no_error(qmp_descriptors_name(&descriptors, name));
	}
	assert_error_with(qmp_descriptors_name(&descriptors, "more"), "have names already");
	qmp_descriptors_clear(&descriptors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names_go_to_the_oldest),
	    cmocka_unit_test(test_a_name_that_is_taken_changes_hands),
	    cmocka_unit_test(test_what_cannot_be_named),
	    cmocka_unit_test(test_what_was_refused_a_name_does_not_get_the_next_one),
	    cmocka_unit_test(test_there_are_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
