/* SPDX-License-Identifier: BSD-2-Clause */
/* Where memory lies in the guest's address space. */
#include "cmocka_prelude.h"
#include <string.h>

#include "base/checked.h"
#include "machine/layout.h"

static void boot(struct machine_config *config, uint64_t size, uint32_t node)
{
	config->memory[config->memory_count++] =
	    (struct machine_memory){.size = size, .node = node, .backing = {.host_node = -1}};
}

static void elastic(struct machine_config *config, uint64_t maximum, uint64_t block)
{
	config->elastic[config->elastic_count++] = (struct machine_elastic){
	    .maximum = maximum, .block = block, .backing = {.host_node = -1}};
}

static void small_memory_lies_below_the_hole(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;

	boot(&config, MIB(512), 0);
	assert_no_error(layout_plan(&config, 40, &layout));
	assert_int_equal(layout.ram_count, 1);
	assert_int_equal(layout.low_end, MIB(512));
	assert_int_equal(layout.high_end, GIB(4));
}

static void large_memory_goes_on_above_the_hole(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;

	boot(&config, GIB(8), 0);
	assert_no_error(layout_plan(&config, 40, &layout));
	assert_int_equal(layout.ram_count, 2);
	assert_int_equal(layout.ram[0].size, GIB(3));
	assert_int_equal(layout.ram[1].address, GIB(4));
	assert_int_equal(layout.ram[1].size, GIB(5));
	assert_int_equal(layout.ram[1].block_offset, GIB(3));
	assert_int_equal(layout.ram[1].memory, 0);
}

static void nodes_fill_low_then_high_memory_in_order(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;

	boot(&config, GIB(2), 0);
	boot(&config, GIB(2), 1);
	boot(&config, GIB(1), 2);
	assert_no_error(layout_plan(&config, 40, &layout));
	assert_int_equal(layout.ram_count, 4);
	assert_int_equal(layout.ram[1].address, GIB(2));
	assert_int_equal(layout.ram[1].size, GIB(1));
	assert_int_equal(layout.ram[1].memory, 1);
	assert_int_equal(layout.ram[2].address, GIB(4));
	assert_int_equal(layout.ram[2].memory, 1);
	assert_int_equal(layout.ram[2].block_offset, GIB(1));
	assert_int_equal(layout.ram[3].address, GIB(5));
	assert_int_equal(layout.ram[3].memory, 2);
}

static void elastic_regions_are_aligned_and_never_adjacent(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;
	uint64_t end;

	boot(&config, GIB(4), 0);
	elastic(&config, GIB(1), MIB(2));
	elastic(&config, GIB(4), GIB(4));
	elastic(&config, MIB(64), MIB(2));
	assert_no_error(layout_plan(&config, 40, &layout));
	end = layout.high_end;
	for (uint32_t i = 0; i < config.elastic_count; i++) {
		assert_true(layout.elastic[i] > end);
		assert_true(is_aligned(layout.elastic[i], GIB(1)));
		assert_true(is_aligned(layout.elastic[i], config.elastic[i].block));
		end = layout.elastic[i] + config.elastic[i].maximum;
	}
	assert_true(layout.pci64_start >= end);
	assert_true(layout.pci64_start + layout.pci64_size <= 1ULL << 40);
}

static void what_does_not_fit_is_refused_with_its_sizes(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;

	boot(&config, GIB(1), 0);
	elastic(&config, TIB(1), MIB(2));
	assert_error_with(layout_plan(&config, 40, &layout), "1G of boot memory and 1T of elastic");
	assert_no_error(layout_plan(&config, 46, &layout));
	config.elastic[0].maximum = UINT64_MAX - MIB(2) + 1;
	assert_error_with(layout_plan(&config, 52, &layout), "do not fit");
}

static void too_little_to_boot_from_is_refused(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout layout;

	boot(&config, MIB(1), 0);
	assert_error_with(layout_plan(&config, 40, &layout), "at least 2M");
}

static void the_boot_map_has_no_elastic_memory_and_no_overlap(void **state)
{
	struct machine_config config = {.cpus = 1};
	struct layout_range ranges[LAYOUT_RANGES_MAX];
	struct layout layout;
	uint32_t count;
	uint64_t ram = 0;

	boot(&config, GIB(6), 0);
	elastic(&config, GIB(1), MIB(2));
	assert_no_error(layout_plan(&config, 40, &layout));
	count = layout_boot_ranges(&layout, ranges);
	for (uint32_t i = 0; i < count; i++) {
		assert_false(
		    ranges_overlap(ranges[i].address, ranges[i].size, layout.elastic[0], GIB(1)));
		if (i)
			assert_true(ranges[i].address >=
				    ranges[i - 1].address + ranges[i - 1].size);
		if (ranges[i].type == LAYOUT_RAM)
			ram += ranges[i].size;
	}
	/* All but what is reserved below 1 MiB. */
	assert_int_equal(ram, GIB(6) - KIB(384));
}

static void processors_go_to_nodes_with_boot_memory(void **state)
{
	struct machine_config config = {.cpus = 5};

	boot(&config, GIB(1), 0);
	boot(&config, GIB(1), 2);
	elastic(&config, GIB(1), MIB(2));
	config.elastic[0].node = 1;
	assert_int_equal(layout_cpu_nodes(&config), 2);
	assert_int_equal(layout_cpu_node(&config, 0), 0);
	assert_int_equal(layout_cpu_node(&config, 2), 0);
	assert_int_equal(layout_cpu_node(&config, 3), 2);
	assert_int_equal(layout_cpu_node(&config, 4), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(small_memory_lies_below_the_hole),
	    cmocka_unit_test(large_memory_goes_on_above_the_hole),
	    cmocka_unit_test(nodes_fill_low_then_high_memory_in_order),
	    cmocka_unit_test(elastic_regions_are_aligned_and_never_adjacent),
	    cmocka_unit_test(what_does_not_fit_is_refused_with_its_sizes),
	    cmocka_unit_test(too_little_to_boot_from_is_refused),
	    cmocka_unit_test(the_boot_map_has_no_elastic_memory_and_no_overlap),
	    cmocka_unit_test(processors_go_to_nodes_with_boot_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
