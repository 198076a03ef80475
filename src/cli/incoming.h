/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit run --incoming URI`: a VM that comes from another host. */
#ifndef GODWIT_CLI_INCOMING_H
#define GODWIT_CLI_INCOMING_H

#include "cli/command.h"

/* As run of cli_run, with --incoming among @arguments. */
struct error *incoming_run(const struct cli_arguments *arguments, int *status) MUST_CHECK;

#endif
