/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handlers of the command table in commands.c, by file. Each is a qmp_command.run whose context
 * is a struct control; commands.c and docs/control.md say what they take and give.
 */
#ifndef GODWIT_CONTROL_COMMANDS_H
#define GODWIT_CONTROL_COMMANDS_H

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

#define DECLARE_COMMAND(name)                                                                      \
	struct error *command_##name(void *context, json_t *arguments, json_t **result) MUST_CHECK

/* commands.c */
DECLARE_COMMAND(query_commands);
DECLARE_COMMAND(query_version);
DECLARE_COMMAND(getfd);
DECLARE_COMMAND(closefd);

/* commands_machine.c */
DECLARE_COMMAND(query_status);
DECLARE_COMMAND(query_name);
DECLARE_COMMAND(query_cpus_fast);
DECLARE_COMMAND(stop);
DECLARE_COMMAND(cont);
DECLARE_COMMAND(system_reset);
DECLARE_COMMAND(system_powerdown);
DECLARE_COMMAND(quit);
DECLARE_COMMAND(godwit_devices);
DECLARE_COMMAND(godwit_statistics);

/* commands_memory.c */
DECLARE_COMMAND(query_memory_devices);
DECLARE_COMMAND(query_memory_size_summary);
DECLARE_COMMAND(qom_get);
DECLARE_COMMAND(qom_set);
DECLARE_COMMAND(godwit_resize);
DECLARE_COMMAND(godwit_memory);

/* commands_balloon.c */
DECLARE_COMMAND(query_balloon);
DECLARE_COMMAND(balloon);
/* {"total-memory", "available-memory", …}, what the guest last said about itself; NULL if it said
 * nothing. */
json_t *balloon_statistics_describe(struct machine *machine);

/* commands_snapshot.c */
DECLARE_COMMAND(godwit_save);
DECLARE_COMMAND(godwit_restore);

/* commands_migrate.c */
DECLARE_COMMAND(godwit_migrate);
DECLARE_COMMAND(godwit_migrate_limit);
DECLARE_COMMAND(godwit_migrate_recover);
DECLARE_COMMAND(godwit_migrate_settle);
DECLARE_COMMAND(godwit_migrate_start_postcopy);
DECLARE_COMMAND(godwit_migration);

/* update.c */
DECLARE_COMMAND(godwit_update);

/* commands_jobs.c */
DECLARE_COMMAND(query_jobs);
DECLARE_COMMAND(job_cancel);
DECLARE_COMMAND(job_dismiss);

#undef DECLARE_COMMAND

#endif
