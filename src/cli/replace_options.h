/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options that replace what belongs to a host in a configuration that came from elsewhere, from a
 * snapshot or another host: --name, --kernel, --initrd, --serial, --disk, --net, --fs, --vhost-user,
 * --vsock, --console, --paused.
 */
#ifndef GODWIT_CLI_REPLACE_OPTIONS_H
#define GODWIT_CLI_REPLACE_OPTIONS_H

#include "cli/command.h"
#include "machine/machine.h"

/* @source is where it came from, for messages: "the snapshot". Not checked as a whole yet. */
struct error *replace_options(const struct cli_arguments *arguments, const char *source,
			      struct machine_config *config) MUST_CHECK;

#endif
