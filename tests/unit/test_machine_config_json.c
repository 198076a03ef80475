/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A configuration on its way through a snapshot: it comes back as it was, and what is missing,
 * unknown, of another type or out of range is refused by name.
 */
#include <string.h>

#include "base/checked.h"
#include "base/size.h"
#include "cmocka_prelude.h"
#include "machine/machine_config.h"
#include "machine/machine_config_json.h"

static struct machine_config made, got;

/* Every field has a value that is not the one that it has otherwise. */
static void make_config(void)
{
	struct machine_elastic *elastic = made.elastic;

	made.name = strdup("web");
	made.kernel = strdup("/boot/vmlinuz");
	made.initrd = strdup("/boot/initrd.img");
	made.cmdline = strdup("console=ttyS0 \"quoted\" \xc3\xa4");
	made.cpu = strdup("x86-64-v2,+aes");
	made.serial = strdup("file:/tmp/serial");
	made.cpus = 3;
	made.slots_limit = 77;
	made.on_crash = ON_CRASH_EXIT;
	made.no_reboot = true;
	made.memory[0] = (struct machine_memory){
	    .size = MIB(512), .backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1}};
	made.memory[1] = (struct machine_memory){.size = GIB(2),
						 .node = 1,
						 .backing = {.backing = RAM_BACKING_HUGETLB,
							     .page_size = GIB(1),
							     .host_node = 3,
							     .prealloc = true}};
	made.memory_count = 2;
	elastic[0] = (struct machine_elastic){
	    .id = "hot0",
	    .maximum = GIB(8),
	    .size = GIB(1),
	    .block = MIB(4),
	    .node = 1,
	    .backing = {.backing = RAM_BACKING_FILE, .path = malloc(4000), .host_node = -1},
	    .automatic = true,
	    .auto_minimum = MIB(64),
	    .auto_maximum = GIB(4)};
	memset(elastic[0].backing.path, 'x', 4000);
	elastic[0].backing.path[0] = '/';
	elastic[0].backing.path[3999] = '\0';
	elastic[1] =
	    (struct machine_elastic){.id = "hot1",
				     .maximum = MIB(64),
				     .block = MIB(2),
				     .backing = {.backing = RAM_BACKING_ANON, .host_node = -1}};
	made.elastic_count = 2;
	made.distance[0][1] = 15;
	made.distance[1][0] = 25;
	made.devices[0] = (struct machine_device_config){"disk", strdup("a.img,id=disk7")};
	made.devices[1] = (struct machine_device_config){"net", strdup("tap:t0")};
	made.device_count = 2;
	assert_no_error(machine_config_check(&made));
}

static int set_up(void **state)
{
	make_config();
	return 0;
}

static int tear_down(void **state)
{
	machine_config_clear(&made);
	machine_config_clear(&got);
	return 0;
}

static void assert_same_backing(const struct ram_backing_options *a,
				const struct ram_backing_options *b)
{
	assert_int_equal(a->backing, b->backing);
	assert_int_equal(a->page_size, b->page_size);
	assert_int_equal(a->host_node, b->host_node);
	assert_int_equal(a->prealloc, b->prealloc);
	assert_int_equal(!a->path, !b->path);
	if (a->path)
		assert_string_equal(a->path, b->path);
}

static void assert_same_elastic(const struct machine_elastic *a, const struct machine_elastic *b)
{
	assert_string_equal(a->id, b->id);
	assert_int_equal(a->maximum, b->maximum);
	assert_int_equal(a->size, b->size);
	assert_int_equal(a->block, b->block);
	assert_int_equal(a->node, b->node);
	assert_int_equal(a->automatic, b->automatic);
	assert_int_equal(a->auto_minimum, b->auto_minimum);
	assert_int_equal(a->auto_maximum, b->auto_maximum);
	assert_same_backing(&a->backing, &b->backing);
}

static void every_field_comes_back(void **state)
{
	json_t *json = machine_config_to_json(&made);

	assert_no_error(machine_config_from_json(json, &got));
	json_decref(json);
	assert_string_equal(got.name, made.name);
	assert_string_equal(got.kernel, made.kernel);
	assert_string_equal(got.initrd, made.initrd);
	assert_string_equal(got.cmdline, made.cmdline);
	assert_string_equal(got.cpu, made.cpu);
	assert_string_equal(got.serial, made.serial);
	assert_int_equal(got.cpus, made.cpus);
	assert_int_equal(got.slots_limit, made.slots_limit);
	assert_int_equal(got.on_crash, made.on_crash);
	assert_int_equal(got.no_reboot, made.no_reboot);
	assert_memory_equal(got.distance, made.distance, sizeof(got.distance));
	assert_int_equal(got.memory_count, 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(got.memory[i].size, made.memory[i].size);
		assert_int_equal(got.memory[i].node, made.memory[i].node);
		assert_same_backing(&got.memory[i].backing, &made.memory[i].backing);
	}
	assert_int_equal(got.elastic_count, 2);
	for (int i = 0; i < 2; i++)
		assert_same_elastic(&got.elastic[i], &made.elastic[i]);
	assert_int_equal(got.device_count, 2);
	for (int i = 0; i < 2; i++) {
		assert_string_equal(got.devices[i].kind, made.devices[i].kind);
		assert_string_equal(got.devices[i].text, made.devices[i].text);
	}
}

static void what_is_optional_may_be_missing(void **state)
{
	json_t *json;

	free(made.initrd);
	free(made.cmdline);
	free(made.cpu);
	made.initrd = made.cmdline = made.cpu = NULL;
	json = machine_config_to_json(&made);
	assert_no_error(machine_config_from_json(json, &got));
	json_decref(json);
	assert_null(got.initrd);
	assert_null(got.cmdline);
	assert_null(got.cpu);
}

static void text_that_is_not_utf_8_is_not_lost_silently(void **state)
{
	memcpy(made.devices[0].text, "\xff", 1);
	assert_null(machine_config_to_json(&made));
	memcpy(made.devices[0].text, "a", 1);
	memcpy(made.kernel, "\xff", 1);
	assert_null(machine_config_to_json(&made));
}

/* --- Mutations -------------------------------------------------------------------------------- */

/* Values that are no value of another type; which of them to use is the caller's. */
static json_t *value_of_another_type(const json_t *old)
{
	return json_is_object(old) ? json_string("object") : json_object();
}

/* Expects a refusal that contains @name, or none if that is NULL. */
static void expect(json_t *whole, const char *name)
{
	struct error *error = machine_config_from_json(whole, &got);

	machine_config_clear(&got);
	if (!name) {
		assert_no_error(error);
		return;
	}
	if (!error)
		fail_msg("'%s' was changed and nobody noticed", name);
	if (!strstr(error_message(error), name))
		fail_msg("'%s' does not say '%s'", error_message(error), name);
	error_free(error);
}

static void mutate(json_t *whole, json_t *part);

/* In an object each field goes missing, gets another type, and gets a neighbour that is unknown. */
static void mutate_object(json_t *whole, json_t *object)
{
	static const char *const optional[] = {"initrd", "cmdline", "cpu", "auto"};
	const char *name;
	json_t *copy = json_copy(object), *value;

	json_object_foreach (copy, name, value) {
		bool may_miss = false;

		for (size_t i = 0; i < ARRAY_SIZE(optional); i++)
			may_miss |= strcmp(name, optional[i]) == 0;
		json_object_del(object, name);
		expect(whole, may_miss ? NULL : name);
		json_object_set_new(object, name, value_of_another_type(value));
		expect(whole, name);
		json_object_set_new(object, name, json_null());
		expect(whole, name);
		json_object_set(object, name, value);
		mutate(whole, value);
	}
	json_object_set_new(object, "colour", json_true());
	expect(whole, "'colour' is unknown");
	json_object_del(object, "colour");
	json_decref(copy);
}

static void mutate(json_t *whole, json_t *part)
{
	json_t *item;
	size_t index;

	if (json_is_object(part))
		mutate_object(whole, part);
	json_array_foreach (part, index, item) {
		json_t *old = json_incref(item);

		json_array_set_new(part, index, value_of_another_type(old));
		expect(whole, "is not");
		json_array_set_new(part, index, json_array());
		expect(whole, "is not");
		json_array_set(part, index, old);
		mutate(whole, old);
		json_decref(old);
	}
}

static void each_field_is_needed_of_its_type_and_known(void **state)
{
	json_t *json = machine_config_to_json(&made);

	mutate(json, json);
	expect(json, NULL); /* the test has put everything back */
	json_decref(json);
	json = json_array();
	expect(json, "is not an object");
	json_decref(json);
}

/* The value at a path like "memory.0.size". */
static json_t *find(json_t *json, const char *path, json_t **parent, char *last, size_t size)
{
	while (*path) {
		size_t length = strcspn(path, ".");

		snprintf(last, size, "%.*s", (int)length, path);
		*parent = json;
		json = json_is_array(json) ? json_array_get(json, (size_t)atoi(last))
					   : json_object_get(json, last);
		path += length + (path[length] == '.');
	}
	return json;
}

static void set(json_t *json, const char *path, json_t *value)
{
	json_t *parent = NULL;
	char last[32] = "";

	assert_non_null(find(json, path, &parent, last, sizeof(last)));
	if (json_is_array(parent))
		json_array_set_new(parent, (size_t)atoi(last), value);
	else
		json_object_set_new(parent, last, value);
}

static void numbers_out_of_range_are_refused(void **state)
{
	static const struct {
		const char *path;
		json_int_t value;
		const char *message;
	} cases[] = {
	    {"cpus", 0, "'cpus' is 0, not 1 to 64"},
	    {"cpus", 65, "'cpus'"},
	    {"cpus", (1LL << 32) + 1, "'cpus'"},
	    {"slots", -1, "'slots' is -1"},
	    {"slots", 1LL << 32, "'slots'"},
	    {"memory.0.size", -4096, "memory 0: 'size'"},
	    {"memory.0.size", 4097, "multiple"},
	    {"memory.0.size", 0, "zero"},
	    {"memory.0.node", MACHINE_NODES_MAX, "memory 0: 'node'"},
	    {"memory.0.node", 1LL << 32, "memory 0: 'node'"},
	    {"memory.1.memory.host-node", 64, "memory 1: 'host-node'"},
	    {"memory.1.memory.host-node", -2, "memory 1: 'host-node'"},
	    {"elastic.0.max", -1, "elastic 0: 'max'"},
	    {"elastic.0.size", INT64_MIN, "elastic 0: 'size'"},
	    {"elastic.0.size", GIB(9), "larger than max"},
	    {"elastic.0.block", 3, "not a power of two"},
	    {"elastic.0.node", -1, "elastic 0: 'node'"},
	    {"elastic.0.auto.0", -1, "elastic 0: 'auto'"},
	    {"elastic.0.auto.1", GIB(9), "goes beyond max"},
	    {"distances.0.0", MACHINE_NODES_MAX, "distances 0: 'node'"},
	    {"distances.0.1", -1, "distances 0: 'node'"},
	    {"distances.0.2", 256, "distances 0: 'distance'"},
	    {"distances.0.2", 5, "--numa-distance"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *json = machine_config_to_json(&made);

		set(json, cases[i].path, json_integer(cases[i].value));
		expect(json, cases[i].message);
		json_decref(json);
	}
}

static void words_that_are_not_known_are_refused(void **state)
{
	static const struct {
		const char *path, *value, *message;
	} cases[] = {
	    {"name", "../web", "--name"},
	    {"name", "", "--name"},
	    {"on-crash", "explode", "'on-crash' is 'explode'"},
	    {"devices.0.kind", "gpu", "devices 0: 'kind' is 'gpu'"},
	    {"elastic.0.id", "a/b", "elastic 0: 'id'"},
	    {"elastic.0.id", "an-id-that-is-longer-than-any-may-be", "elastic 0: 'id'"},
	    {"elastic.0.id", "hot1", "given twice"},
	    {"memory.0.memory.backing", "tape", "'tape' is not known"},
	    {"memory.0.memory.backing", "anon,prealloc=on", "'backing' has a comma"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *json = machine_config_to_json(&made);

		set(json, cases[i].path, json_string(cases[i].value));
		expect(json, cases[i].message);
		json_decref(json);
	}
}

static void lists_that_are_too_long_are_refused(void **state)
{
	static const struct {
		const char *name;
		int maximum;
	} lists[] = {{"memory", MACHINE_NODES_MAX},
		     {"elastic", MACHINE_ELASTIC_MAX},
		     {"devices", MACHINE_DEVICES_MAX}};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		json_t *json = machine_config_to_json(&made);
		json_t *list = json_object_get(json, lists[i].name);
		char message[64];

		snprintf(message, sizeof(message), "%s %d: is one more than %d", lists[i].name,
			 lists[i].maximum, lists[i].maximum);
		while (json_array_size(list) < (size_t)lists[i].maximum + 1)
			json_array_append(list, json_array_get(list, 1));
		expect(json, message);
		json_decref(json);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(every_field_comes_back),
	    TEST(what_is_optional_may_be_missing),
	    TEST(text_that_is_not_utf_8_is_not_lost_silently),
	    TEST(each_field_is_needed_of_its_type_and_known),
	    TEST(numbers_out_of_range_are_refused),
	    TEST(words_that_are_not_known_are_refused),
	    TEST(lists_that_are_too_long_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
