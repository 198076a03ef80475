/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Builds the ACPI tables, once per boot on the main thread. Only the configuration is input.
 *
 * Hardware-reduced, because that spares the guest the PIC, the PIT and the power-management timer,
 * all of which cost exits at boot. With one NUMA node there is no SRAT: Linux takes the highest
 * address in an SRAT for the most memory that could ever be, and reserves 64 MiB of bounce buffers
 * if that is above 4 GiB.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/machine_config.h"

/* Generated from dsdt.asl; the array in it is not declared static or const. */
static const
#include "dsdt.hex"

#define TABLE_HEADER_SIZE 36
#define RSDP_SIZE	  36
#define FADT_SIZE	  276
#define TABLES_MAX	  8

/* Generic addresses (5.2.3.2). */
#define GAS_SYSTEM_IO	1
#define GAS_ACCESS_BYTE 1

/* FADT (5.2.9). */
#define FADT_DSDT	      40
#define FADT_BOOT_ARCH	      109
#define FADT_FLAGS	      112
#define FADT_RESET_REGISTER   116
#define FADT_RESET_VALUE      128
#define FADT_MINOR	      131
#define FADT_X_DSDT	      140
#define FADT_SLEEP_CONTROL    244
#define FADT_SLEEP_STATUS     256
#define FADT_HYPERVISOR	      268
#define BOOT_ARCH_NO_VGA      (1 << 2) /* nor a keyboard controller: bit 1 stays clear */
#define FLAG_WBINVD	      (1U << 0)
#define FLAG_POWER_BUTTON     (1U << 4) /* no fixed-hardware button */
#define FLAG_SLEEP_BUTTON     (1U << 5)
#define FLAG_RTC_NO_WAKE      (1U << 6)
#define FLAG_RESET_REGISTER   (1U << 10)
#define FLAG_HEADLESS	      (1U << 12)
#define FLAG_HARDWARE_REDUCED (1U << 20)

#define MADT_LAPIC_SIZE	   8
#define MADT_IOAPIC_SIZE   12
#define SRAT_CPU_SIZE	   16
#define SRAT_MEMORY_SIZE   40
#define SRAT_ENABLED	   1
#define SRAT_HOT_PLUGGABLE 2
#define DISTANCE_LOCAL	   10
#define DISTANCE_REMOTE	   20

    /* Tables are appended one after the other; `overflow` is looked at once, at the end. */
    struct acpi_area {
	uint8_t *bytes;
	uint32_t used, limit;
	bool overflow;
	uint8_t scratch[FADT_SIZE];  /* where writes go once there was no room */
	uint64_t tables[TABLES_MAX]; /* guest addresses, for the XSDT */
	uint32_t table_count;
};

static uint8_t acpi_checksum(const uint8_t *bytes, size_t size)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	return (uint8_t)-sum;
}

/* @size zeroed bytes at the end of the table in progress; never NULL. @size is at most
 * sizeof(scratch). */
static uint8_t *acpi_append(struct acpi_area *area, uint32_t size)
{
	uint8_t *at = area->bytes + area->used;

	if (size > area->limit - area->used) {
		area->overflow = true;
		at = area->scratch;
	} else {
		area->used += size;
	}
	memset(at, 0, size);
	return at;
}

/* Begins a table of @size bytes, header included, at the next 16-byte boundary; returns its start.
 */
static uint8_t *acpi_begin(struct acpi_area *area, const char *signature, uint8_t revision,
			   uint32_t size)
{
	uint32_t pad = -area->used & 15;
	uint8_t *table;

	acpi_append(area, pad);
	table = acpi_append(area, size);
	memcpy(table, signature, 4);
	table[8] = revision;
	memcpy(table + 10, "GODWIT", 6);
	memcpy(table + 16, "GODWITVM", 8);
	put_le32(table + 24, 1);
	memcpy(table + 28, "GDWT", 4);
	put_le32(table + 32, 1);
	return table;
}

static uint64_t acpi_address(const struct acpi_area *area, const uint8_t *table)
{
	return LAYOUT_ACPI_START + (uint64_t)(table - area->bytes);
}

/* Ends the table that began at @table: length, checksum, and a place in the XSDT if @listed. */
static void acpi_end(struct acpi_area *area, uint8_t *table, bool listed)
{
	uint32_t size;

	if (area->overflow)
		return;
	size = (uint32_t)(area->bytes + area->used - table);
	put_le32(table + 4, size);
	table[9] = 0;
	table[9] = acpi_checksum(table, size);
	if (listed)
		area->tables[area->table_count++] = acpi_address(area, table);
}

static void acpi_put_port(uint8_t *gas, uint64_t port)
{
	gas[0] = GAS_SYSTEM_IO;
	gas[1] = 8;
	gas[3] = GAS_ACCESS_BYTE;
	put_le64(gas + 4, port);
}

static uint64_t acpi_add_dsdt(struct acpi_area *area)
{
	uint8_t *table;

	acpi_append(area, -area->used & 15);
	if (sizeof(dsdt_aml_code) > area->limit - area->used) {
		area->overflow = true;
		return 0;
	}
	table = area->bytes + area->used;
	memcpy(table, dsdt_aml_code, sizeof(dsdt_aml_code)); /* with its checksum */
	area->used += sizeof(dsdt_aml_code);
	return acpi_address(area, table);
}

static void acpi_add_fadt(struct acpi_area *area, uint64_t dsdt)
{
	uint8_t *table = acpi_begin(area, "FACP", 6, FADT_SIZE);

	put_le32(table + FADT_DSDT, (uint32_t)dsdt);
	put_le64(table + FADT_X_DSDT, dsdt);
	put_le16(table + FADT_BOOT_ARCH, BOOT_ARCH_NO_VGA);
	put_le32(table + FADT_FLAGS, FLAG_WBINVD | FLAG_POWER_BUTTON | FLAG_SLEEP_BUTTON |
					 FLAG_RTC_NO_WAKE | FLAG_RESET_REGISTER | FLAG_HEADLESS |
					 FLAG_HARDWARE_REDUCED);
	acpi_put_port(table + FADT_SLEEP_CONTROL, PLATFORM_POWER_PORT);
	acpi_put_port(table + FADT_SLEEP_STATUS, PLATFORM_POWER_PORT + 1);
	acpi_put_port(table + FADT_RESET_REGISTER, PLATFORM_POWER_PORT + 2);
	table[FADT_RESET_VALUE] = PLATFORM_RESET_VALUE;
	table[FADT_MINOR] = 3;
	memcpy(table + FADT_HYPERVISOR, "GODWIT", 6);
	acpi_end(area, table, true);
}

static void acpi_add_madt(struct acpi_area *area, const struct machine_config *config)
{
	uint8_t *table = acpi_begin(area, "APIC", 5, TABLE_HEADER_SIZE + 8);
	uint8_t *entry;

	/* Flags (offset 40) stay 0: there is no PIC that would have to be silenced. */
	put_le32(table + TABLE_HEADER_SIZE, LAYOUT_LAPIC);
	for (uint32_t cpu = 0; cpu < config->cpus; cpu++) {
		entry = acpi_append(area, MADT_LAPIC_SIZE);
		entry[0] = 0;
		entry[1] = MADT_LAPIC_SIZE;
		entry[2] = (uint8_t)cpu;
		entry[3] = (uint8_t)cpu; /* local APIC id */
		put_le32(entry + 4, 1);	 /* enabled */
	}
	entry = acpi_append(area, MADT_IOAPIC_SIZE);
	entry[0] = 1;
	entry[1] = MADT_IOAPIC_SIZE;
	put_le32(entry + 4, LAYOUT_IOAPIC);
	acpi_end(area, table, true);
}

static void acpi_add_mcfg(struct acpi_area *area)
{
	uint8_t *table = acpi_begin(area, "MCFG", 1, TABLE_HEADER_SIZE + 8 + 16);

	/* Segment 0, buses 0 to 0. */
	put_le64(table + TABLE_HEADER_SIZE + 8, LAYOUT_ECAM_START);
	acpi_end(area, table, true);
}

static void acpi_add_srat_memory(struct acpi_area *area, uint32_t node, uint64_t address,
				 uint64_t size, uint32_t flags)
{
	uint8_t *entry = acpi_append(area, SRAT_MEMORY_SIZE);

	entry[0] = 1;
	entry[1] = SRAT_MEMORY_SIZE;
	put_le32(entry + 2, node);
	put_le64(entry + 8, address);
	put_le64(entry + 16, size);
	put_le32(entry + 28, flags);
}

static void acpi_add_srat(struct acpi_area *area, const struct acpi_options *options)
{
	const struct machine_config *config = options->config;
	const struct layout *layout = options->layout;
	uint8_t *table = acpi_begin(area, "SRAT", 3, TABLE_HEADER_SIZE + 12);

	put_le32(table + TABLE_HEADER_SIZE, 1); /* reserved, must be 1 */
	for (uint32_t cpu = 0; cpu < config->cpus; cpu++) {
		uint8_t *entry = acpi_append(area, SRAT_CPU_SIZE);

		entry[0] = 0;
		entry[1] = SRAT_CPU_SIZE;
		entry[2] = (uint8_t)layout_cpu_node(config, cpu); /* the upper bytes stay 0 */
		entry[3] = (uint8_t)cpu;
		put_le32(entry + 4, SRAT_ENABLED);
	}
	for (uint32_t i = 0; i < layout->ram_count; i++)
		acpi_add_srat_memory(area, config->memory[layout->ram[i].memory].node,
				     layout->ram[i].address, layout->ram[i].size, SRAT_ENABLED);
	/* Without these a node of elastic memory alone would not exist for the guest. */
	for (uint32_t i = 0; i < config->elastic_count; i++)
		acpi_add_srat_memory(area, config->elastic[i].node, layout->elastic[i],
				     config->elastic[i].maximum, SRAT_ENABLED | SRAT_HOT_PLUGGABLE);
	acpi_end(area, table, true);
}

static void acpi_add_slit(struct acpi_area *area, const struct machine_config *config)
{
	uint8_t *table = acpi_begin(area, "SLIT", 1, TABLE_HEADER_SIZE + 8);
	uint32_t nodes = machine_config_nodes(config);

	put_le64(table + TABLE_HEADER_SIZE, nodes);
	for (uint32_t from = 0; from < nodes; from++) {
		uint8_t *row = acpi_append(area, nodes);

		for (uint32_t to = 0; to < nodes; to++)
			row[to] = config->distance[from][to]
				      ?: (from == to ? DISTANCE_LOCAL : DISTANCE_REMOTE);
	}
	acpi_end(area, table, true);
}

static uint64_t acpi_add_xsdt(struct acpi_area *area)
{
	uint8_t *table = acpi_begin(area, "XSDT", 1, TABLE_HEADER_SIZE);
	uint64_t address = acpi_address(area, table);

	for (uint32_t i = 0; i < area->table_count; i++)
		put_le64(acpi_append(area, 8), area->tables[i]);
	acpi_end(area, table, false);
	return address;
}

static void acpi_put_rsdp(uint8_t *rsdp, uint64_t xsdt)
{
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "GODWIT", 6);
	rsdp[15] = 2; /* revision: with the fields from offset 20 */
	rsdp[8] = acpi_checksum(rsdp, 20);
	put_le32(rsdp + 20, RSDP_SIZE);
	put_le64(rsdp + 24, xsdt);
	rsdp[32] = acpi_checksum(rsdp, RSDP_SIZE);
}

struct error *acpi_build(const struct acpi_options *options, uint8_t *bytes)
{
	struct acpi_area area = {.bytes = bytes,
				 .limit = PLATFORM_GENERATION_ADDRESS - LAYOUT_ACPI_START};
	uint8_t *rsdp = acpi_append(&area, RSDP_SIZE);
	uint8_t *numbers = bytes + (PLATFORM_ACPI_CONFIG - LAYOUT_ACPI_START);

	acpi_add_fadt(&area, acpi_add_dsdt(&area));
	acpi_add_madt(&area, options->config);
	acpi_add_mcfg(&area);
	if (machine_config_nodes(options->config) > 1) {
		acpi_add_srat(&area, options);
		acpi_add_slit(&area, options->config);
	}
	acpi_put_rsdp(rsdp, acpi_add_xsdt(&area));
	put_le64(numbers, options->layout->pci64_start);
	put_le64(numbers + 8, options->layout->pci64_size);
	if (options->generation)
		memcpy(bytes + (PLATFORM_GENERATION_ADDRESS - LAYOUT_ACPI_START),
		       options->generation, PLATFORM_GENERATION_SIZE);
	if (area.overflow)
		return error_new(ENOSPC, "the ACPI tables do not fit into %u bytes", area.limit);
	return NULL;
}

struct error *acpi_write(const struct acpi_options *options, struct memory_map *map)
{
	AUTO_FREE uint8_t *area = calloc(1, LAYOUT_ACPI_SIZE);

	if (!area)
		return error_system(ENOMEM, "ACPI tables");
	TRY(acpi_build(options, area));
	if (!memory_write(map, LAYOUT_ACPI_START, area, LAYOUT_ACPI_SIZE))
		return error_new(EFAULT, "guest memory has no room for the ACPI tables");
	return NULL;
}
