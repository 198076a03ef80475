/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI tables (specification 6.4, hardware-reduced): what the guest learns of processors, interrupt
 * controllers, PCI, NUMA and the power buttons. They lie in the reserved area below 1 MiB, where
 * Linux also finds them without help.
 */
#ifndef GODWIT_MACHINE_ACPI_H
#define GODWIT_MACHINE_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/layout.h"
#include "memory/memory_map.h"

#define ACPI_RSDP_ADDRESS LAYOUT_ACPI_START

struct acpi_options {
	const struct machine_config *config;
	const struct layout *layout;
	const uint8_t *generation; /* PLATFORM_GENERATION_SIZE bytes; NULL: zeros */
};

/*
 * Fills @area, LAYOUT_ACPI_SIZE bytes for guest address LAYOUT_ACPI_START, with all tables, the
 * root pointer first. An error if they do not fit, which no allowed configuration causes.
 */
struct error *acpi_build(const struct acpi_options *options, uint8_t *area) MUST_CHECK;
/* The same into guest memory. Before the guest runs. */
struct error *acpi_write(const struct acpi_options *options, struct memory_map *map) MUST_CHECK;

#endif
