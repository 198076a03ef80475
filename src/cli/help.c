/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit help [SUBCOMMAND [ACTION]]`. */
#include "cli/command.h"
#include "cli/command_table.h"

static struct error *run_help(const struct cli_arguments *arguments, int *status)
{
	const struct cli_command *command;

	if (!arguments->positional_count) {
		cli_print_overview();
		return NULL;
	}
	command = cli_find_command(arguments->positional[0]);
	if (!command)
		return error_usage("unknown subcommand '%s': 'godwit help' lists them",
				   arguments->positional[0]);
	if (arguments->positional_count > 1 && !command->actions)
		return error_usage("unexpected argument '%s': %s has no actions",
				   arguments->positional[1], command->name);
	if (arguments->positional_count > 1)
		TRY(cli_find_action(command, arguments->positional[1], &command));
	cli_print_help(command);
	return NULL;
}

const struct cli_command cli_help = {
    .name = "help",
    .positionals = "[SUBCOMMAND [ACTION]]",
    .maximum = 2,
    .summary = "Show this, or what a subcommand takes",
    .run = run_help,
};
