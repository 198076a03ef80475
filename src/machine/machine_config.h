/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rules that a machine's configuration must obey before anything is built from it. Pure: looks
 * at the configuration only, not at the host.
 */
#ifndef GODWIT_MACHINE_MACHINE_CONFIG_H
#define GODWIT_MACHINE_MACHINE_CONFIG_H

#include "machine/machine.h"

#define MACHINE_BLOCK_DEFAULT MIB(2) /* an elastic device's block unless its pages are larger */
#define MACHINE_DISTANCE_MIN  10  /* SLIT: a node's distance to itself (ACPI 6.5 section 5.2.17) */
#define MACHINE_DISTANCE_MAX  254 /* 255 means unreachable */

/*
 * Fills what was left to a default (the block sizes) and checks the rest: counts, sizes that are
 * multiples of their page or block, node numbers without gaps, unique ids, distances. A usage error
 * names the option, the value and what would do.
 */
struct error *machine_config_check(struct machine_config *config) MUST_CHECK;
/* The number of NUMA nodes that memory and elastic devices name, for a checked configuration. */
uint32_t machine_config_nodes(const struct machine_config *config);
/* Letters, digits, '.', '_' and '-', not starting with '.' or '-', at most @maximum characters. */
struct error *machine_identifier_check(const char *what, const char *text,
				       size_t maximum) MUST_CHECK;

#endif
