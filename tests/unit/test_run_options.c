/* SPDX-License-Identifier: BSD-2-Clause */
/* From `godwit run`'s options to a machine's configuration, and what each mistake is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/checked.h"
#include "cli/command_table.h"
#include "cli/run_options.h"

#define BASIC "--kernel", "/boot/k", "--memory", "512M"

static struct machine_config config;
static struct cli_arguments arguments;

/* Reads up to a dozen words into `config`. */
static struct error *read_words(const char **words, size_t count)
{
	machine_config_clear(&config);
	assert_null(cli_parse(&cli_run, (int)count, (char **)words, &arguments));
	return run_options_read(&arguments, &config);
}

#define READ(...)                                                                                  \
	({                                                                                         \
		const char *words_[] = {__VA_ARGS__};                                              \
		read_words(words_, ARRAY_SIZE(words_));                                            \
	})

static void check_works(struct error *error)
{
	if (error)
		fail_msg("%s", error_message(error));
}

static void check_refused(struct error *error, const char *message)
{
	assert_non_null(error);
	assert_string_equal(error_message(error), message);
	assert_int_equal(error_kind(error), ERROR_USAGE);
	error_free(error);
}

static int tear_down(void **state)
{
	machine_config_clear(&config);
	return 0;
}

static void least_command_line_has_defaults(void **state)
{
	check_works(READ(BASIC));
	assert_string_equal(config.kernel, "/boot/k");
	assert_int_equal(config.cpus, 1);
	assert_int_equal(config.memory[0].size, MIB(512));
	assert_int_equal(config.memory[0].backing.backing, RAM_BACKING_MEMFD);
	assert_int_equal(config.memory[0].backing.host_node, -1);
	assert_string_equal(config.serial, "tty");
	assert_int_equal(config.on_crash, ON_CRASH_PAUSE);
	assert_int_equal(strncmp(config.name, "vm-", 3), 0);
	assert_null(config.initrd);
}

static void console_takes_the_terminal_from_the_serial_port(void **state)
{
	check_works(READ(BASIC, "--console", "tty"));
	assert_string_equal(config.serial, "null");
	assert_string_equal(config.devices[0].kind, "console");
	check_refused(READ(BASIC, "--console", "tty", "--serial", "tty"),
		      "only one of --serial and --console can be tty: give the others pty, null, "
		      "file:PATH or unix:PATH");
}

static void memory_of_two_nodes(void **state)
{
	check_works(READ("--kernel", "k", "--memory", "1G,node=1,backing=anon,prealloc=on",
			 "--memory", "512M,node=0,backing=hugetlb-2M"));
	assert_int_equal(config.memory_count, 2);
	assert_int_equal(config.memory[0].node, 1);
	assert_true(config.memory[0].backing.prealloc);
	assert_int_equal(config.memory[1].backing.backing, RAM_BACKING_HUGETLB);
}

static void elastic_device_in_full(void **state)
{
	const struct machine_elastic *elastic = &config.elastic[0];

	check_works(READ(BASIC, "--elastic",
			 "id=hot0,max=4G,size=1G,block=4M,node=0,backing=memfd,auto=512M..2G"));
	assert_string_equal(elastic->id, "hot0");
	assert_int_equal(elastic->maximum, GIB(4));
	assert_int_equal(elastic->size, GIB(1));
	assert_int_equal(elastic->block, MIB(4));
	assert_true(elastic->automatic);
	assert_int_equal(elastic->auto_minimum, MIB(512));
	assert_int_equal(elastic->auto_maximum, GIB(2));
}

static void elastic_block_defaults_to_two_mebibytes_or_the_page(void **state)
{
	check_works(
	    READ(BASIC, "--elastic", "id=a,max=4G", "--elastic", "id=b,max=4G,backing=hugetlb-1G"));
	assert_int_equal(config.elastic[0].block, MIB(2));
	assert_int_equal(config.elastic[1].block, GIB(1));
}

static void mistakes_in_elastic_are_named(void **state)
{
	check_refused(
	    READ(BASIC, "--elastic", "max=1G"),
	    "--elastic: 'max=1G' gives no id: add id=NAME, by which 'godwit resize' knows it");
	check_refused(READ(BASIC, "--elastic", "id=a"),
		      "--elastic: 'id=a' gives no max: add max=SIZE, the most it may ever hold");
	check_refused(READ(BASIC, "--elastic", "id=a/b,max=1G"),
		      "--elastic: id 'a/b': use only letters, digits, '.', '_' and '-'");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,block=3M"),
		      "--elastic 'a': block=3M is not a power of two");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,block=0"),
		      "--elastic: block=0 is not a power of two");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,block=2M,backing=hugetlb-1G"),
		      "--elastic 'a': block=2M is smaller than a page of the backing, 1G");
	check_refused(READ(BASIC, "--elastic", "id=a,max=3M"),
		      "--elastic 'a': max 3M is not a multiple of the block size 2M: 4M would be");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,size=2G"),
		      "--elastic 'a': size=2G is larger than max=1G");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,auto=1G"),
		      "--elastic: auto=1G is not a range: write auto=MIN..MAX, as auto=0..4G");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G,auto=0..2G"),
		      "--elastic 'a': auto=0..2G goes beyond max=: raise max= or lower auto=");
	check_refused(READ(BASIC, "--elastic", "id=a,max=4G,auto=2G..1G"),
		      "--elastic 'a': auto=2G..1G: the minimum is larger than the maximum");
	check_refused(READ(BASIC, "--elastic", "id=a,max=1G", "--elastic", "id=a,max=1G"),
		      "--elastic: id 'a' is given twice");
}

static void mistakes_in_memory_are_named(void **state)
{
	check_refused(READ("--kernel", "k"),
		      "--memory is missing: give the size of boot memory, as 512M");
	check_refused(READ("--kernel", "k", "--memory", "node=0"),
		      "--memory: 'node=0' gives no size: begin with it, as 512M");
	check_refused(READ("--kernel", "k", "--memory", "1000"),
		      "--memory: size 1000 is not a multiple of the page size 4K: 4K would be");
	check_refused(READ("--kernel", "k", "--memory", "3M,backing=hugetlb"),
		      "--memory: size 3M is not a multiple of the page size 2M: 4M would be");
	check_refused(READ("--kernel", "k", "--memory", "0"), "--memory: the size is zero");
	check_refused(
	    READ("--kernel", "k", "--memory", "1G,node=1"),
	    "NUMA node 0 has no memory but a higher one has: number the nodes from 0 without "
	    "gaps");
	check_refused(READ("--kernel", "k", "--memory", "1G,node=8"),
		      "--memory: node: '8' is too large: at most 7");
}

static void kernel_must_be_given(void **state)
{
	check_refused(READ("--memory", "512M"), "--kernel is missing: give the kernel to boot");
}

static void number_of_processors_is_checked(void **state)
{
	check_works(READ(BASIC, "--cpus", "64"));
	check_refused(READ(BASIC, "--cpus", "0"), "--cpus 0: 1 to 64 are possible");
	check_refused(READ(BASIC, "--cpus", "65"), "--cpus 65: 1 to 64 are possible");
	check_refused(READ(BASIC, "--cpus", "four"), "--cpus: 'four' is not a whole number");
}

static void distance_counts_in_both_directions(void **state)
{
	check_works(READ("--kernel", "k", "--memory", "1G", "--memory", "1G,node=1",
			 "--numa-distance", "0,1,31"));
	assert_int_equal(config.distance[0][1], 31);
	assert_int_equal(config.distance[1][0], 31);
	check_works(READ("--kernel", "k", "--memory", "1G", "--memory", "1G,node=1",
			 "--numa-distance", "0,1,31", "--numa-distance", "1,0,41"));
	assert_int_equal(config.distance[0][1], 31);
	assert_int_equal(config.distance[1][0], 41);
}

static void mistakes_in_distances_are_named(void **state)
{
	check_refused(READ(BASIC, "--numa-distance", "0,1"),
		      "--numa-distance: '0,1' is not A,B,N: two node numbers and a distance");
	check_refused(READ(BASIC, "--numa-distance", "0,1,9"),
		      "--numa-distance: '0,1,9': a distance is 10 to 254");
	check_refused(READ(BASIC, "--numa-distance", "0,1,20"),
		      "--numa-distance 0,1,20: the machine has 1 node");
	check_refused(READ("--kernel", "k", "--memory", "1G", "--memory", "1G,node=1",
			   "--numa-distance", "0,1,31", "--numa-distance", "0,1,32"),
		      "--numa-distance: the distance from 0 to 1 is given twice");
}

static void devices_keep_their_order(void **state)
{
	check_works(
	    READ(BASIC, "--disk", "/a", "--net", "tap:t", "--disk", "/b,readonly=on", "--balloon"));
	assert_int_equal(config.device_count, 4);
	assert_string_equal(config.devices[1].kind, "net");
	assert_string_equal(config.devices[2].text, "/b,readonly=on");
	assert_string_equal(config.devices[3].text, "");
}

static void words_outside_of_a_choice_are_refused(void **state)
{
	enum log_level level;

	check_refused(READ(BASIC, "--on-crash", "cry"),
		      "--on-crash: 'cry' is none of pause, reset, exit");
	check_works(READ(BASIC, "--log", "debug"));
	assert_null(run_options_log_level(&arguments, &level));
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	check_works(READ(BASIC, "--log", "loud"));
	check_refused(run_options_log_level(&arguments, &level),
		      "--log: 'loud' is none of error, warning, info, debug");
}

static void name_must_be_plain(void **state)
{
	check_refused(READ(BASIC, "--name", "../x"),
		      "--name '../x' starts with '.': start with a letter or a digit");
	check_refused(READ(BASIC, "--name", "a b"),
		      "--name 'a b': use only letters, digits, '.', '_' and '-'");
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(least_command_line_has_defaults),
	    TEST(console_takes_the_terminal_from_the_serial_port),
	    TEST(memory_of_two_nodes),
	    TEST(elastic_device_in_full),
	    TEST(elastic_block_defaults_to_two_mebibytes_or_the_page),
	    TEST(mistakes_in_elastic_are_named),
	    TEST(mistakes_in_memory_are_named),
	    TEST(kernel_must_be_given),
	    TEST(number_of_processors_is_checked),
	    TEST(distance_counts_in_both_directions),
	    TEST(mistakes_in_distances_are_named),
	    TEST(devices_keep_their_order),
	    TEST(words_outside_of_a_choice_are_refused),
	    TEST(name_must_be_plain),
	};

	return cmocka_run_group_tests_name("run_options", tests, NULL, NULL);
}
