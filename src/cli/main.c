/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The `godwit` program: finds the subcommand, runs it, turns its error into one line and an exit
 * status: 0, 1 for a failure, 2 when the command line is wrong.
 */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "control/version.h"

static int report(struct error *error, const char *command)
{
	int status = error_kind(error) == ERROR_USAGE ? 2 : 1;

	fprintf(stderr, "godwit%s%s: %s\n", command ? " " : "", command ?: "",
		error_message(error));
	error_free(error);
	return status;
}

static struct error *unknown_command(const char *name)
{
	const char *names[64];
	const char *nearest;
	size_t count = 0;

	for (const struct cli_command *const *command = cli_commands; *command && count < 63;
	     command++)
		names[count++] = (*command)->name;
	names[count] = NULL;
	nearest = cli_nearest(name, names);
	if (nearest)
		return error_usage("unknown subcommand '%s': did you mean '%s'?", name, nearest);
	return error_usage("unknown subcommand '%s': 'godwit help' lists them", name);
}

static int run_command(const struct cli_command *command, int argc, char **argv)
{
	struct cli_arguments arguments; /* some KiB, once */
	struct error *error = NULL;
	int status = 0;

	if (command->actions && argc && argv[0][0] != '-') {
		error = cli_find_action(command, argv[0], &command);
		if (error)
			return report(error, command->name);
		argc--;
		argv++;
	}
	error = cli_parse(command, argc, argv, &arguments);
	if (!error && arguments.help) {
		cli_print_help(command);
		return 0;
	}
	if (!error)
		error = command->run(&arguments, &status);
	if (error)
		return report(error, command->name);
	if (fflush(stdout) != 0)
		return report(error_system(errno, "cannot write to standard output"),
			      command->name);
	return status;
}

int main(int argc, char **argv)
{
	const struct cli_command *command;

	if (argc < 2)
		return report(error_usage("a subcommand is missing: 'godwit help' lists them"),
			      NULL);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		cli_print_overview();
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("godwit %s\n", GODWIT_VERSION);
		return 0;
	}
	command = cli_find_command(argv[1]);
	if (!command)
		return report(unknown_command(argv[1]), NULL);
	return run_command(command, argc - 2, argv + 2);
}
