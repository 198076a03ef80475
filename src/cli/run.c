/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit run`: one process is one VM. */
#include "cli/command.h"
#include "cli/command_table.h"
#include "cli/incoming.h"
#include "cli/run_options.h"
#include "cli/vm_process.h"

static struct error *start(struct machine *machine, void *context)
{
	return machine_start(machine);
}

static struct error *run_vm(const struct cli_arguments *arguments, int *status)
{
	/* 10 KiB that are not needed on the stack for the life of the VM */
	AUTO_FREE struct machine_config *config = calloc(1, sizeof(*config));
	struct vm_process_plan plan = {
	    .config = config,
	    .log_level = LOG_LEVEL_WARNING,
	    .pid_file = cli_value(arguments, "pid-file", NULL),
	    .start = start,
	};
	struct error *error;

	if (cli_has(arguments, "incoming"))
		return incoming_run(arguments, status);
	if (cli_has(arguments, "tls"))
		return error_usage("--tls is for --incoming: give both or neither");
	if (cli_has(arguments, "take-over"))
		return error_usage(
		    "--take-over is for --incoming, and for 'godwit update' to give");
	if (!config)
		return error_system(ENOMEM, "configuration");
	error = run_options_log_level(arguments, &plan.log_level);
	if (!error)
		error = run_options_read(arguments, config);
	if (!error)
		return vm_process_run(&plan, status);
	machine_config_clear(config);
	return error;
}

const struct cli_command cli_run = {
    .name = "run",
    .positionals = "",
    .summary = "Run a virtual machine",
    .description =
	"The VM lives as long as this process. SIGTERM and SIGINT press its power button, a\n"
	"second one ends it. On a terminal (tty) Ctrl-A x ends it. With --incoming the VM is one\n"
	"that runs on another host and moves here.",
    .options = run_options,
    .run = run_vm,
};
