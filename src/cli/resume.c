/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit resume VM`: lets a paused VM run. */
#include "cli/command_table.h"
#include "cli/vm.h"

static struct error *run_resume(const struct cli_arguments *arguments, int *status)
{
	return vm_execute(arguments->positional[0], "cont", NULL, NULL);
}

const struct cli_command cli_resume = {
    .name = "resume",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Let a paused VM run",
    .run = run_resume,
};
