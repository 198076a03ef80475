/* SPDX-License-Identifier: BSD-2-Clause */
/* The one table of subcommands; each lives in a file of its name. */
#include "cli/command_table.h"

#include "cli/command.h"

const struct cli_command *const cli_commands[] = {
    &cli_run,	  &cli_list,   &cli_status,   &cli_top,	 &cli_memory, &cli_resize, &cli_pause,
    &cli_resume,  &cli_reset,  &cli_stop,     &cli_jobs, &cli_events, &cli_save,   &cli_restore,
    &cli_migrate, &cli_update, &cli_snapshot, &cli_qmp,	 &cli_help,   NULL,
};
