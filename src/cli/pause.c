/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit pause VM`: stops the processors and quiesces the devices. */
#include "cli/command_table.h"
#include "cli/vm.h"

static struct error *run_pause(const struct cli_arguments *arguments, int *status)
{
	return vm_execute(arguments->positional[0], "stop", NULL, NULL);
}

const struct cli_command cli_pause = {
    .name = "pause",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Pause a VM until 'godwit resume'",
    .run = run_pause,
};
