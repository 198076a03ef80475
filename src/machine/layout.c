/* SPDX-License-Identifier: BSD-2-Clause */
/* Arithmetic of the guest physical address map (layout.h). Runs once, on the main thread; only an
 * operator's sizes are input. */
#include "machine/layout.h"

#include <string.h>

#include "base/checked.h"
#include "base/size.h"

/*
 * A guest with this much boot memory or more may use memory blocks of 2 GiB (Linux,
 * probe_memory_block_size), and whatever part of an elastic region is outside whole blocks is lost
 * to it.
 */
#define LARGE_BLOCK_BOOT_MEMORY GIB(64)

static void layout_add_ram(struct layout *layout, uint64_t address, uint64_t size, uint64_t offset,
			   uint32_t memory)
{
	layout->ram[layout->ram_count++] = (struct layout_ram){
	    .address = address, .size = size, .block_offset = offset, .memory = memory};
}

/* Boot memory: entries in order, below the hole first. Returns its sum, or fails on overflow. */
static MUST_USE bool layout_place_ram(const struct machine_config *config, struct layout *layout,
				      uint64_t *total)
{
	uint64_t low = 0, high = LAYOUT_4G;

	*total = 0;
	for (uint32_t i = 0; i < config->memory_count; i++) {
		uint64_t size = config->memory[i].size;
		uint64_t below = MIN(size, LAYOUT_LOW_MAX - low);

		if (!checked_add(*total, size, total))
			return false;
		if (below) {
			layout_add_ram(layout, low, below, 0, i);
			low += below;
		}
		if (size > below) {
			layout_add_ram(layout, high, size - below, below, i);
			if (!checked_add(high, size - below, &high))
				return false;
		}
	}
	layout->low_end = low;
	layout->high_end = high;
	/* Pieces above the hole were appended between pieces below it only in order of entries, so
	 * sort. */
	for (uint32_t i = 1; i < layout->ram_count; i++)
		for (uint32_t j = i; j > 0 && layout->ram[j].address < layout->ram[j - 1].address;
		     j--) {
			struct layout_ram swap = layout->ram[j];

			layout->ram[j] = layout->ram[j - 1];
			layout->ram[j - 1] = swap;
		}
	return true;
}

/*
 * Elastic regions: aligned so that a guest's memory blocks and huge pages fit, with at least one
 * alignment unit between neighbours. A gap keeps a guest's slip past one end from landing in
 * another device's memory.
 */
static MUST_USE bool layout_place_elastic(const struct machine_config *config, uint64_t boot_memory,
					  struct layout *layout, uint64_t *end, uint64_t *total)
{
	uint64_t floor = boot_memory >= LARGE_BLOCK_BOOT_MEMORY ? GIB(2) : GIB(1);
	uint64_t at = layout->high_end;

	*total = 0;
	for (uint32_t i = 0; i < config->elastic_count; i++) {
		const struct machine_elastic *elastic = &config->elastic[i];
		uint64_t alignment = MAX(floor, elastic->block); /* a block is a page or more */

		if (!checked_add(at, 1, &at) || !checked_align_up(at, alignment, &at) ||
		    !checked_add(*total, elastic->maximum, total))
			return false;
		layout->elastic[i] = at;
		if (!checked_add(at, elastic->maximum, &at))
			return false;
	}
	*end = at;
	return true;
}

static struct error *layout_too_large(uint64_t boot, uint64_t elastic, uint32_t physical_bits)
{
	char boot_text[SIZE_TEXT_MAX], elastic_text[SIZE_TEXT_MAX], limit_text[SIZE_TEXT_MAX];

	return error_usage(
	    "%s of boot memory and %s of elastic memory do not fit into the %s that guests can "
	    "address on this host (%u bits); use smaller --memory or --elastic max=",
	    size_format(boot, boot_text), size_format(elastic, elastic_text),
	    size_format(1ULL << physical_bits, limit_text), physical_bits);
}

struct error *layout_plan(const struct machine_config *config, uint32_t physical_bits,
			  struct layout *layout)
{
	uint64_t limit, end = 0, boot = 0, elastic = 0, start = 0;

	memset(layout, 0, sizeof(*layout));
	/* More than 52 bits do not exist; fewer than 36 would not reach past the hole. */
	if (physical_bits < 36 || physical_bits > 52)
		return error_new(EINVAL,
				 "guests have %u bits of physical addresses on this host; 36 to 52 "
				 "are supported",
				 physical_bits);
	limit = 1ULL << physical_bits;
	if (!layout_place_ram(config, layout, &boot) ||
	    !layout_place_elastic(config, boot, layout, &end, &elastic) ||
	    !checked_align_up(end, LAYOUT_PCI64_MIN, &start) || start >= limit)
		return layout_too_large(boot, elastic, physical_bits);
	if (layout->low_end < LAYOUT_HIGH_START + MIB(1))
		return error_usage("--memory: a machine needs at least 2M of memory to boot from");
	layout->pci64_start = start;
	layout->pci64_size = MIN(LAYOUT_PCI64_MAX, limit - start);
	return NULL;
}

uint32_t layout_boot_ranges(const struct layout *layout,
			    struct layout_range ranges[LAYOUT_RANGES_MAX])
{
	uint32_t count = 0;

	ranges[count++] = (struct layout_range){0, LAYOUT_BIOS_START, LAYOUT_RAM};
	ranges[count++] = (struct layout_range){
	    LAYOUT_BIOS_START, LAYOUT_HIGH_START - LAYOUT_BIOS_START, LAYOUT_RESERVED};
	ranges[count++] = (struct layout_range){LAYOUT_HIGH_START,
						layout->low_end - LAYOUT_HIGH_START, LAYOUT_RAM};
	/* Linux uses ECAM only where the firmware reserves it. */
	ranges[count++] =
	    (struct layout_range){LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, LAYOUT_RESERVED};
	ranges[count++] =
	    (struct layout_range){LAYOUT_KVM_START, LAYOUT_4G - LAYOUT_KVM_START, LAYOUT_RESERVED};
	if (layout->high_end > LAYOUT_4G)
		ranges[count++] =
		    (struct layout_range){LAYOUT_4G, layout->high_end - LAYOUT_4G, LAYOUT_RAM};
	return count;
}

static uint32_t layout_boot_node_mask(const struct machine_config *config)
{
	uint32_t mask = 0;

	for (uint32_t i = 0; i < config->memory_count; i++)
		mask |= 1U << config->memory[i].node;
	return mask;
}

uint32_t layout_cpu_nodes(const struct machine_config *config)
{
	return (uint32_t)__builtin_popcount(layout_boot_node_mask(config));
}

uint32_t layout_cpu_node(const struct machine_config *config, uint32_t cpu)
{
	uint32_t mask = layout_boot_node_mask(config);
	uint32_t skip = cpu * layout_cpu_nodes(config) / config->cpus;

	while (skip--)
		mask &= mask - 1; /* drops the lowest node */
	return (uint32_t)__builtin_ctz(mask);
}
