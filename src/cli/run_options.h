/* SPDX-License-Identifier: BSD-2-Clause */
/* The options of `godwit run`, and how they become a machine's configuration. */
#ifndef GODWIT_CLI_RUN_OPTIONS_H
#define GODWIT_CLI_RUN_OPTIONS_H

#include "base/log.h"
#include "cli/command.h"
#include "machine/machine.h"

extern const struct cli_option run_options[];

/*
 * Fills *@config, which is released with machine_config_clear in any case, and checks it
 * (machine_config_check). A usage error names the option and what would do.
 */
struct error *run_options_read(const struct cli_arguments *arguments,
			       struct machine_config *config) MUST_CHECK;
/* --log */
struct error *run_options_log_level(const struct cli_arguments *arguments,
				    enum log_level *level) MUST_CHECK;

#endif
