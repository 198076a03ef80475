/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of running VMs: used once, found by others, and free again when their owner dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "control/run_directory.h"

static char directory[64];

static int set_up(void **state)
{
	strcpy(directory, "/tmp/godwit-test-XXXXXX");
	assert_non_null(mkdtemp(directory));
	setenv("GODWIT_RUN_DIR", directory, 1);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r '%s'", directory);
	return system(command);
}

static struct run_entry *claim(const char *name)
{
	struct run_entry *entry = NULL;
	struct error *error = run_entry_claim(name, &entry);

	if (error)
		fail_msg("%s", error_message(error));
	return entry;
}

static void check_refused(struct error *error, const char *part)
{
	assert_non_null(error);
	if (!strstr(error_message(error), part))
		fail_msg("'%s' does not hold '%s'", error_message(error), part);
	error_free(error);
}

static void touch(const char *path)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fclose(file);
}

static void name_is_used_once(void **state)
{
	struct run_entry *first = claim("vm"), *second = NULL;

	check_refused(run_entry_claim("vm", &second), "is running");
	run_entry_release(first);
	run_entry_release(claim("vm"));
}

static void name_goes_to_another_process_and_stays_used(void **state)
{
	struct run_entry *old = claim("vm"), *new = NULL;
	pid_t pid = 0;

	assert_null(run_entry_adopt("vm", dup(run_entry_lock(old)), &new));
	run_entry_own(new);
	run_entry_leave(old);
	run_entry_release(old);
	assert_true(run_directory_running("vm", &pid));
	assert_int_equal(pid, getpid());
	run_entry_release(new);
	assert_false(run_directory_running("vm", NULL));
}

static void name_stays_when_another_process_does_not_take_it(void **state)
{
	struct run_entry *old = claim("vm"), *new = NULL;

	assert_null(run_entry_adopt("vm", dup(run_entry_lock(old)), &new));
	run_entry_release(new);
	assert_true(run_directory_running("vm", NULL));
	check_refused(run_entry_adopt("vm", open("/dev/null", O_RDWR), &new),
		      "is not the file whose lock has come along");
	run_entry_release(old);
	assert_false(run_directory_running("vm", NULL));
}

static void owner_is_found_with_its_pid(void **state)
{
	struct run_entry *entry = claim("vm");
	pid_t pid = 0;

	assert_true(run_directory_running("vm", &pid));
	assert_int_equal(pid, getpid());
	run_entry_release(entry);
	assert_false(run_directory_running("vm", &pid));
}

static void listing_is_sorted_and_leaves_out_the_dead(void **state)
{
	struct run_entry *b = claim("b"), *a = claim("a");
	struct run_listing *listings;
	char path[128];
	size_t count;

	snprintf(path, sizeof(path), "%s/dead.pid", directory);
	touch(path);
	assert_null(run_directory_list(&listings, &count));
	assert_int_equal(count, 2);
	assert_string_equal(listings[0].name, "a");
	assert_string_equal(listings[1].name, "b");
	run_listings_free(listings, count);
	run_entry_release(a);
	run_entry_release(b);
}

static void socket_of_a_dead_vm_is_replaced(void **state)
{
	struct run_entry *entry;
	char path[128];

	/* A child claims the name and dies without a chance to clean up. */
	pid_t child = fork();

	if (child == 0) {
		entry = claim("vm");
		touch(run_entry_socket(entry));
		_exit(0);
	}
	waitpid(child, NULL, 0);
	snprintf(path, sizeof(path), "%s/vm.sock", directory);
	assert_int_equal(access(path, F_OK), 0);
	assert_false(run_directory_running("vm", NULL));
	entry = claim("vm");
	assert_int_equal(access(path, F_OK), -1);
	run_entry_release(entry);
}

static void names_that_leave_the_directory_are_refused(void **state)
{
	struct run_entry *entry = NULL;
	char *path = NULL;

	check_refused(run_entry_claim("../vm", &entry), "starts with '.'");
	check_refused(run_entry_claim("a/b", &entry), "use only letters");
	check_refused(run_entry_claim("", &entry), "empty");
	check_refused(run_directory_socket("..", &path), "starts with '.'");
	assert_false(run_directory_running("../vm", NULL));
}

static void path_too_long_for_a_socket_says_what_to_do(void **state)
{
	char *path = NULL;
	char deep[200];

	snprintf(deep, sizeof(deep), "%s/%0100d", directory, 0);
	setenv("GODWIT_RUN_DIR", deep, 1);
	check_refused(run_directory_socket("vm", &path), "GODWIT_RUN_DIR");
}

static void missing_directory_holds_no_vms(void **state)
{
	struct run_listing *listings;
	char missing[96];
	size_t count;

	snprintf(missing, sizeof(missing), "%s/missing", directory);
	setenv("GODWIT_RUN_DIR", missing, 1);
	assert_null(run_directory_list(&listings, &count));
	assert_int_equal(count, 0);
}

static void new_directory_is_for_its_owner_only(void **state)
{
	struct run_entry *entry;
	struct stat status;
	char made[96];

	snprintf(made, sizeof(made), "%s/made", directory);
	setenv("GODWIT_RUN_DIR", made, 1);
	entry = claim("vm");
	assert_int_equal(stat(made, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0700);
	run_entry_release(entry);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(name_is_used_once),
	    TEST(name_goes_to_another_process_and_stays_used),
	    TEST(name_stays_when_another_process_does_not_take_it),
	    TEST(owner_is_found_with_its_pid),
	    TEST(listing_is_sorted_and_leaves_out_the_dead),
	    TEST(socket_of_a_dead_vm_is_replaced),
	    TEST(names_that_leave_the_directory_are_refused),
	    TEST(path_too_long_for_a_socket_says_what_to_do),
	    TEST(missing_directory_holds_no_vms),
	    TEST(new_directory_is_for_its_owner_only),
	};

	return cmocka_run_group_tests_name("run_directory", tests, NULL, NULL);
}
