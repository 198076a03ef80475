/* SPDX-License-Identifier: BSD-2-Clause */
/* What a source says of its machine, as a destination reads it. */
#include "cmocka_prelude.h"

#include <string.h>

#include "machine/machine_description.h"

#define CONFIGURATION                                                                              \
	"{\"name\":\"web\",\"kernel\":\"/"                                                         \
	"k\",\"cpus\":1,\"memory\":[{\"size\":67108864,\"node\":0,"                                \
	"\"memory\":{\"backing\":\"memfd\",\"host-node\":-1,\"prealloc\":false}}],\"elastic\":[]," \
	"\"distances\":[],\"devices\":[],\"serial\":\"null\",\"on-crash\":\"pause\","              \
	"\"no-reboot\":false,\"slots\":0}"
#define WHOLE                                                                                      \
	"{\"version\":1,\"configuration\":" CONFIGURATION ",\"memory\":[],"                        \
	"\"states\":[{\"name\":\"cpu\",\"instance\":3,\"version\":2}],\"cpuid\":[]}"

static struct error *understand(const char *text, struct machine_description **description)
{
	*description = NULL;
	return machine_description_read(text, strlen(text), description);
}

static void whole_one_is_understood(void **state)
{
	AUTO_MACHINE_DESCRIPTION struct machine_description *description = NULL;
	struct machine_config config;
	uint32_t instance, version;
	const char *name;

	assert_no_error(understand(WHOLE, &description));
	assert_int_equal(machine_description_states(description), 1);
	machine_description_state(description, 0, &name, &instance, &version);
	assert_string_equal(name, "cpu");
	assert_int_equal(instance, 3);
	assert_int_equal(version, 2);
	assert_no_error(machine_description_config(description, &config));
	assert_string_equal(config.name, "web");
	assert_int_equal(config.memory[0].size, 64 << 20);
	machine_config_clear(&config);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *text, *says;
	} wrong[] = {
	    {"", "the description of the machine: "},
	    {"[]", "'version' is not a whole number"},
	    {"{\"version\":\"1\"}", "'version' is not a whole number"},
	    {"{\"version\":3}", "version 3, and 1 and 2 are understood"},
	    {"{\"version\":2}", "'descriptors' is not 1 to"},
	    {"{\"version\":2,\"descriptors\":0}", "'descriptors' is not 1 to"},
	    {"{\"version\":2,\"descriptors\":73}", "'descriptors' is not 1 to 72"},
	    {"{\"version\":1}", "'configuration' is not an object"},
	    {"{\"version\":1,\"configuration\":{}}", "'memory' is not a list"},
	    {"{\"version\":1,\"configuration\":{},\"memory\":{}}", "'memory' is not a list"},
	    {"{\"version\":1,\"configuration\":{},\"memory\":[]}", "'states' is not a list"},
	    {"{\"version\":1,\"configuration\":{},\"memory\":[],\"states\":[]}",
	     "'cpuid' is not a list"},
	    {"{\"version\":1,\"version\":1}", "duplicate"},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct machine_description *description;

		assert_error_with(understand(wrong[i].text, &description), wrong[i].says);
		assert_null(description);
	}
}

static void too_many_entries_are_refused(void **state)
{
	char text[4096] = "{\"version\":1,\"configuration\":{},\"memory\":[1";
	struct machine_description *description;

	for (int i = 0; i < 500; i++)
		strcat(text, ",1");
	strcat(text, "],\"states\":[],\"cpuid\":[]}");
	assert_error_with(understand(text, &description), "'memory' has 501 entries");
}

static void configuration_is_checked_when_it_is_taken(void **state)
{
	AUTO_MACHINE_DESCRIPTION struct machine_description *description = NULL;
	struct machine_config config;

	assert_no_error(understand("{\"version\":1,\"configuration\":{\"name\":7},\"memory\":[],"
				   "\"states\":[],\"cpuid\":[]}",
				   &description));
	assert_error_with(machine_description_config(description, &config),
			  "the configuration of the machine: 'name' is not text");
	machine_config_clear(&config);
}

static void words_of_the_peer_are_made_harmless(void **state)
{
	char text[MACHINE_PEER_TEXT], flood[2000];
	struct migration_message message = {.type = MIGRATION_ABORT};

	message.text = "a\033[2Jb\n\xff";
	message.size = strlen(message.text);
	assert_string_equal(machine_peer_text(&message, text), "a?[2Jb??");
	memset(flood, 'x', sizeof(flood));
	message.text = flood;
	message.size = sizeof(flood);
	assert_int_equal(strlen(machine_peer_text(&message, text)), MACHINE_PEER_TEXT - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(whole_one_is_understood),
	    cmocka_unit_test(what_is_wrong_is_named),
	    cmocka_unit_test(too_many_entries_are_refused),
	    cmocka_unit_test(configuration_is_checked_when_it_is_taken),
	    cmocka_unit_test(words_of_the_peer_are_made_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
