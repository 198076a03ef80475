/* SPDX-License-Identifier: BSD-2-Clause */
/* The ACPI tables: found, whole, and readable by ACPICA's disassembler. */
#include "cmocka_prelude.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/acpi.h"

static uint8_t area[LAYOUT_ACPI_SIZE];

static void build(struct machine_config *config)
{
	struct acpi_options options = {.config = config,
				       .generation = (const uint8_t *)"sixteen bytes id"};
	struct layout layout;

	memset(area, 0, sizeof(area));
	options.layout = &layout;
	assert_no_error(layout_plan(config, 40, &layout));
	assert_no_error(acpi_build(&options, area));
}

/* Two nodes and one of elastic memory alone, with @cpus processors. */
static struct machine_config *numa_config(uint32_t cpus)
{
	static struct machine_config config;

	config = (struct machine_config){.cpus = cpus, .memory_count = 2, .elastic_count = 1};
	config.memory[0] = (struct machine_memory){.size = MIB(512), .backing = {.host_node = -1}};
	config.memory[1] =
	    (struct machine_memory){.size = MIB(512), .node = 1, .backing = {.host_node = -1}};
	config.elastic[0] = (struct machine_elastic){
	    .maximum = GIB(1), .block = MIB(2), .node = 2, .backing = {.host_node = -1}};
	return &config;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
	uint8_t total = 0;

	while (size--)
		total += *bytes++;
	return total;
}

static uint8_t *at(uint64_t address)
{
	assert_in_range(address, LAYOUT_ACPI_START, LAYOUT_ACPI_START + sizeof(area) - 36);
	return area + (address - LAYOUT_ACPI_START);
}

/* The table called @signature, or NULL. */
static uint8_t *table(const char *signature)
{
	uint8_t *xsdt = at(get_le64(area + 24));

	if (!strcmp(signature, "DSDT"))
		return at(get_le64(table("FACP") + 140));
	for (uint32_t i = 36; i < get_le32(xsdt + 4); i += 8)
		if (!memcmp(at(get_le64(xsdt + i)), signature, 4))
			return at(get_le64(xsdt + i));
	return NULL;
}

static void the_root_pointer_is_where_linux_looks(void **state)
{
	build(numa_config(1));
	assert_memory_equal(area, "RSD PTR ", 8);
	assert_int_equal(sum(area, 20), 0);
	assert_int_equal(sum(area, 36), 0);
}

static void every_table_has_a_right_checksum(void **state)
{
	static const char *const names[] = {"FACP", "DSDT", "APIC", "MCFG", "SRAT", "SLIT"};

	build(numa_config(64));
	assert_int_equal(sum(at(get_le64(area + 24)), get_le32(at(get_le64(area + 24)) + 4)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint8_t *found = table(names[i]);

		assert_non_null(found);
		assert_int_equal(sum(found, get_le32(found + 4)), 0);
	}
}

static void one_node_needs_no_affinity_tables(void **state)
{
	struct machine_config *config = numa_config(2);

	config->memory_count = 1;
	config->elastic[0].node = 0;
	build(config);
	assert_null(table("SRAT"));
	assert_null(table("SLIT"));
}

static void elastic_memory_is_hot_pluggable_in_its_node(void **state)
{
	struct layout layout;
	uint8_t *srat, *entry;

	build(numa_config(2));
	assert_no_error(layout_plan(numa_config(2), 40, &layout));
	srat = table("SRAT");
	entry = srat + get_le32(srat + 4) - 40; /* the last */
	assert_int_equal(entry[0], 1);
	assert_int_equal(get_le32(entry + 2), 2);
	assert_int_equal(get_le64(entry + 8), layout.elastic[0]);
	assert_int_equal(get_le64(entry + 16), GIB(1));
	assert_int_equal(get_le32(entry + 28), 3);
}

static void the_generation_id_has_a_page_of_its_own(void **state)
{
	uint8_t *page;

	build(numa_config(64));
	page = area + (PLATFORM_GENERATION_ADDRESS - LAYOUT_ACPI_START);
	assert_int_equal(PLATFORM_GENERATION_ADDRESS % 4096, 0);
	assert_memory_equal(page, "sixteen bytes id", PLATFORM_GENERATION_SIZE);
	for (size_t i = PLATFORM_GENERATION_SIZE; i < 4096; i++)
		assert_int_equal(page[i], 0);
}

static void given_distances_replace_the_default(void **state)
{
	struct machine_config *config = numa_config(1);
	uint8_t *slit;

	config->distance[0][2] = 42;
	build(config);
	slit = table("SLIT");
	assert_int_equal(get_le64(slit + 36), 3);
	assert_memory_equal(slit + 44, "\x0a\x14\x2a\x14\x0a\x14\x14\x14\x0a", 9);
}

static void every_processor_has_a_local_apic(void **state)
{
	uint8_t *madt;

	build(numa_config(64));
	madt = table("APIC");
	assert_int_equal(get_le32(madt + 4), 44 + 64 * 8 + 12);
	for (uint32_t cpu = 0; cpu < 64; cpu++)
		assert_int_equal(madt[44 + cpu * 8 + 3], cpu);
}

static void acpica_disassembles_every_table(void **state)
{
	static const char *const names[] = {"FACP", "DSDT", "APIC", "MCFG", "SRAT", "SLIT"};
	char folder[] = "/tmp/test_acpi.XXXXXX";
	char path[128], command[512];

	if (system("iasl -v >/dev/null 2>&1"))
		skip();
	assert_non_null(mkdtemp(folder));
	build(numa_config(4));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint8_t *found = table(names[i]);
		FILE *file;

		snprintf(path, sizeof(path), "%s/%s.aml", folder, names[i]);
		file = fopen(path, "wb");
		assert_non_null(file);
		assert_int_equal(fwrite(found, get_le32(found + 4), 1, file), 1);
		assert_int_equal(fclose(file), 0);
		/* The disassembler ends well even when it complains, so its words count. */
		snprintf(command, sizeof(command),
			 "iasl -d %s >%s/log 2>&1 && test -s %s/%s.dsl && "
			 "! grep -iE 'error|warning|invalid|checksum.*should' %s/log %s/%s.dsl",
			 path, folder, folder, names[i], folder, folder, names[i]);
		if (system(command))
			fail_msg("iasl -d %s: see %s", path, folder);
	}
	snprintf(command, sizeof(command), "rm -r %s", folder);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_root_pointer_is_where_linux_looks),
	    cmocka_unit_test(every_table_has_a_right_checksum),
	    cmocka_unit_test(one_node_needs_no_affinity_tables),
	    cmocka_unit_test(elastic_memory_is_hot_pluggable_in_its_node),
	    cmocka_unit_test(the_generation_id_has_a_page_of_its_own),
	    cmocka_unit_test(given_distances_replace_the_default),
	    cmocka_unit_test(every_processor_has_a_local_apic),
	    cmocka_unit_test(acpica_disassembles_every_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
