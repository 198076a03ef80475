/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit reset VM`: as the reset button. */
#include "cli/command_table.h"
#include "cli/vm.h"

static struct error *run_reset(const struct cli_arguments *arguments, int *status)
{
	return vm_execute(arguments->positional[0], "system_reset", NULL, NULL);
}

const struct cli_command cli_reset = {
    .name = "reset",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Reset a VM: it boots again",
    .description =
	"The guest is not asked: what it has not written is lost. Elastic memory is unplugged and\n"
	"requested again, so that the booting kernel gets its size back.",
    .run = run_reset,
};
