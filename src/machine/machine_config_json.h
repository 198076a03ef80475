/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine's configuration as JSON, for the section "godwit/config" of snapshots and streams.
 * Reading trusts nothing: what is missing, of another type, too long or not allowed is refused by
 * name. Paths are as the user gave them (machine_config_paths.h makes them absolute).
 */
#ifndef GODWIT_MACHINE_MACHINE_CONFIG_JSON_H
#define GODWIT_MACHINE_MACHINE_CONFIG_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

/* A new reference; NULL when a text is not UTF-8 (so a file's name may be) or memory is short. */
json_t *machine_config_to_json(const struct machine_config *config);
/* Fills *@config, which is released with machine_config_clear in any case, and checks it. */
struct error *machine_config_from_json(const json_t *json,
				       struct machine_config *config) MUST_CHECK;

#endif
