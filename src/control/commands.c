/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one table of commands. Names without a prefix have QEMU's meaning and shape (qapi/ of QEMU
 * 10), so that its clients work; what only godwit has starts with "godwit-". docs/control.md
 * describes each, and a test keeps it complete.
 */
#include "control/commands.h"

#include <unistd.h>

#include "control/control.h"
#include "control/qmp_server.h"

const struct qmp_command control_commands[] = {
    {"query-version", command_query_version, {}},
    {"query-commands", command_query_commands, {}},

    {"getfd", command_getfd, {{"fdname", QMP_STRING, false}}},
    {"closefd", command_closefd, {{"fdname", QMP_STRING, false}}},

    {"query-status", command_query_status, {}},
    {"query-name", command_query_name, {}},
    {"query-cpus-fast", command_query_cpus_fast, {}},
    {"stop", command_stop, {}},
    {"cont", command_cont, {}},
    {"system_reset", command_system_reset, {}},
    {"system_powerdown", command_system_powerdown, {}},
    {"quit", command_quit, {}},

    {"query-memory-devices", command_query_memory_devices, {}},
    {"query-memory-size-summary", command_query_memory_size_summary, {}},
    {"qom-get", command_qom_get, {{"path", QMP_STRING, false}, {"property", QMP_STRING, false}}},
    {"qom-set",
     command_qom_set,
     {{"path", QMP_STRING, false}, {"property", QMP_STRING, false}, {"value", QMP_ANY, false}}},

    {"query-balloon", command_query_balloon, {}},
    {"balloon", command_balloon, {{"value", QMP_SIZE, false}}},

    {"query-jobs", command_query_jobs, {}},
    {"job-cancel", command_job_cancel, {{"id", QMP_STRING, false}}},
    {"job-dismiss", command_job_dismiss, {{"id", QMP_STRING, false}}},

    {"godwit-resize",
     command_godwit_resize,
     {{"id", QMP_STRING, false}, {"size", QMP_SIZE, false}, {"job-id", QMP_STRING, true}}},
    {"godwit-save",
     command_godwit_save,
     {{"file", QMP_STRING, false},
      {"channels", QMP_SIZE, true},
      {"direct", QMP_BOOLEAN, true},
      {"live", QMP_BOOLEAN, true},
      {"base", QMP_STRING, true},
      {"job-id", QMP_STRING, true}}},
    {"godwit-restore", command_godwit_restore, {}},
    {"godwit-migrate",
     command_godwit_migrate,
     {{"uri", QMP_STRING, false},
      {"channels", QMP_SIZE, true},
      {"max-downtime", QMP_SIZE, true},
      {"auto-converge", QMP_BOOLEAN, true},
      {"share-memory", QMP_BOOLEAN, true},
      {"bandwidth", QMP_SIZE, true},
      {"tls", QMP_STRING, true},
      {"tls-name", QMP_STRING, true},
      {"compress", QMP_STRING, true},
      {"mode", QMP_STRING, true},
      {"stalled-rounds", QMP_SIZE, true},
      {"job-id", QMP_STRING, true}}},
    {"godwit-migrate-limit",
     command_godwit_migrate_limit,
     {{"bandwidth", QMP_SIZE, true}, {"max-downtime", QMP_SIZE, true}}},
    {"godwit-migrate-start-postcopy", command_godwit_migrate_start_postcopy, {}},
    {"godwit-migrate-recover", command_godwit_migrate_recover, {{"uri", QMP_STRING, false}}},
    {"godwit-migrate-settle", command_godwit_migrate_settle, {{"action", QMP_STRING, false}}},
    {"godwit-migration", command_godwit_migration, {}},
    {"godwit-update",
     command_godwit_update,
     {{"binary", QMP_STRING, false}, {"job-id", QMP_STRING, true}}},
    {"godwit-memory", command_godwit_memory, {}},
    {"godwit-devices", command_godwit_devices, {}},
    {"godwit-statistics", command_godwit_statistics, {}},
    {},
};

/* [{name, arguments}]: QEMU's shape, plus what each command takes. */
struct error *command_query_commands(void *context, json_t *arguments, json_t **result)
{
	*result = json_pack("[{s:s,s:[]}]", "name", "qmp_capabilities", "arguments");
	for (const struct qmp_command *command = control_commands; command->name; command++) {
		json_t *list = json_array();

		for (int i = 0; i < QMP_ARGUMENTS_MAX && command->arguments[i].name; i++) {
			const struct qmp_argument *argument = &command->arguments[i];

			json_array_append_new(list,
					      json_pack("{s:s,s:s,s:b}", "name", argument->name,
							"type", qmp_type_name(argument->type),
							"optional", argument->optional));
		}
		json_array_append_new(
		    *result, json_pack("{s:s,s:o}", "name", command->name, "arguments", list));
	}
	return NULL;
}

struct error *command_query_version(void *context, json_t *arguments, json_t **result)
{
	*result = qmp_version();
	return NULL;
}

static struct error *descriptors_of_client(const struct control *control,
					   struct qmp_descriptors **descriptors)
{
	*descriptors = qmp_server_descriptors(control->server);
	return *descriptors ? NULL : error_new(EINVAL, "there is no connection");
}

struct error *command_getfd(void *context, json_t *arguments, json_t **result)
{
	struct qmp_descriptors *descriptors;

	TRY(descriptors_of_client(context, &descriptors));
	return qmp_descriptors_name(descriptors, qmp_string(arguments, "fdname", NULL));
}

struct error *command_closefd(void *context, json_t *arguments, json_t **result)
{
	struct qmp_descriptors *descriptors;
	AUTO_CLOSE int fd = -1;

	TRY(descriptors_of_client(context, &descriptors));
	return qmp_descriptors_take(descriptors, qmp_string(arguments, "fdname", NULL), &fd);
}
