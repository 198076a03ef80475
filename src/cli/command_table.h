/* SPDX-License-Identifier: BSD-2-Clause */
/* The subcommands, for the table. */
#ifndef GODWIT_CLI_COMMAND_TABLE_H
#define GODWIT_CLI_COMMAND_TABLE_H

struct cli_command;

extern const struct cli_command cli_run, cli_list, cli_status, cli_top, cli_memory, cli_resize,
    cli_pause, cli_resume, cli_reset, cli_stop, cli_jobs, cli_events, cli_save, cli_restore,
    cli_migrate, cli_update, cli_snapshot, cli_qmp, cli_help;

#endif
