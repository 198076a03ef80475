/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest physical address map, decided once from the configuration. Pure: nothing here allocates
 * or calls the system.
 *
 *   0                 boot data, then RAM up to 640 KiB
 *   0xA0000           reserved; ACPI tables from 0xE0000, generation id at 0xFE000
 *   1 MiB             RAM, --memory entries in order, up to 3 GiB
 *   3 GiB             window for 32-bit BARs
 *   0xE0000000        PCI configuration space (ECAM), bus 0
 *   0xFEC00000        I/O APIC, local APICs at 0xFEE00000, KVM's own pages below 4 GiB
 *   4 GiB             RAM that did not fit below
 *   next              one region for each elastic device, never two adjacent
 *   next              window for 64-bit BARs
 */
#ifndef GODWIT_MACHINE_LAYOUT_H
#define GODWIT_MACHINE_LAYOUT_H

#include "machine/machine.h"
#include "machine/platform.h"

/* Boot data, in RAM below 640 KiB; free for the guest once it has read it. */
#define LAYOUT_BOOT_GDT		0x500ULL
#define LAYOUT_BOOT_START_INFO	0x6000ULL /* PVH: start info, module list, memory map; one page */
#define LAYOUT_BOOT_PARAMS	0x7000ULL /* Linux boot protocol: "zero page" */
#define LAYOUT_BOOT_STACK	0x9000ULL /* grows down */
#define LAYOUT_BOOT_PAGE_TABLES 0x9000ULL /* six pages */
#define LAYOUT_BOOT_CMDLINE	0x20000ULL
#define LAYOUT_BOOT_CMDLINE_MAX 0x10000ULL

#define LAYOUT_BIOS_START 0xa0000ULL /* reserved up to 1 MiB */
#define LAYOUT_ACPI_START 0xe0000ULL /* where Linux also searches for the root pointer */
#define LAYOUT_ACPI_SIZE  0x20000ULL
#define LAYOUT_HIGH_START 0x100000ULL /* 1 MiB: where kernels may go */

#define LAYOUT_LOW_MAX	   GIB(3)
#define LAYOUT_PCI32_START ((uint64_t)PLATFORM_PCI32_START)
#define LAYOUT_PCI32_SIZE  ((uint64_t)PLATFORM_PCI32_SIZE)
#define LAYOUT_ECAM_START  ((uint64_t)PLATFORM_ECAM_START)
#define LAYOUT_ECAM_SIZE   ((uint64_t)PLATFORM_ECAM_SIZE) /* one bus */
#define LAYOUT_KVM_START                                                                           \
	0xfffbc000ULL /* from here to 4 GiB: pages that KVM uses on Intel hosts (vm.c) */
#define LAYOUT_IOAPIC	 0xfec00000ULL
#define LAYOUT_LAPIC	 0xfee00000ULL
#define LAYOUT_4G	 GIB(4)
#define LAYOUT_PCI64_MAX GIB(64)
#define LAYOUT_PCI64_MIN GIB(1)

/* A piece of one --memory entry. */
struct layout_ram {
	uint64_t address, size; /* bytes */
	uint64_t block_offset;	/* bytes into the entry's RAM block */
	uint32_t memory;	/* index into machine_config.memory */
};

struct layout {
	struct layout_ram
	    ram[MACHINE_NODES_MAX + 1]; /* ascending; one entry may lie on both sides of the hole */
	uint32_t ram_count;
	uint64_t low_end;		       /* end of RAM below the hole */
	uint64_t high_end;		       /* end of RAM above 4 GiB; 4 GiB if there is none */
	uint64_t elastic[MACHINE_ELASTIC_MAX]; /* address of each elastic device's region */
	uint64_t pci64_start, pci64_size;
};

/*
 * Places what @config asks for, which machine_config_check has accepted, below 2^@physical_bits. An
 * error names the sizes when it does not fit.
 */
struct error *layout_plan(const struct machine_config *config, uint32_t physical_bits,
			  struct layout *layout) MUST_CHECK;

/* How many NUMA nodes have boot memory; the processors are dealt to these in equal runs. */
uint32_t layout_cpu_nodes(const struct machine_config *config);
/* The NUMA node of processor @cpu. */
uint32_t layout_cpu_node(const struct machine_config *config, uint32_t cpu);

/* The numbers of the e820 and of PVH's memory map alike. */
enum layout_range_type { LAYOUT_RAM = 1, LAYOUT_RESERVED = 2 };

struct layout_range {
	uint64_t address, size;
	enum layout_range_type type;
};

#define LAYOUT_RANGES_MAX 8
/* The memory map that a guest is told at boot; returns how many of @ranges are filled. Elastic
 * memory is not in it. */
uint32_t layout_boot_ranges(const struct layout *layout,
			    struct layout_range ranges[LAYOUT_RANGES_MAX]);

#endif
