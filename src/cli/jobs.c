/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit jobs VM`: lists jobs, cancels and dismisses them. */
#include <string.h>

#include "cli/command_table.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"cancel", CLI_REQUIRED, "JOB", "cancel a job: an elastic device keeps what it has"},
    {"dismiss", CLI_REQUIRED, "JOB", "take a concluded job off the list"},
    {"json", CLI_FLAG, NULL, "print JSON"},
    {},
};

static void print_jobs(json_t *jobs)
{
	struct table table;
	json_t *job;
	size_t index;

	table_start(&table, "JOB", "TYPE", "STATUS", "PROGRESS", "DEVICE", ">PLUGGED", ">REQUESTED",
		    "REASON", NULL);
	json_array_foreach (jobs, index, job) {
		const char *error = json_text(job, "error");
		char bar[BAR_WIDTH_MAX + 1];

		table_row(
		    &table, json_text(job, "id"), json_text(job, "type"), json_text(job, "status"),
		    bar_format(json_u64(job, "current-progress"), json_u64(job, "total-progress"),
			       22, bar),
		    json_text(job, "device"), human(json_u64(job, "plugged")),
		    human(json_u64(job, "requested")), *error ? error : json_text(job, "reason"));
	}
	table_print(&table, stdout, "");
}

static struct error *run_jobs(const struct cli_arguments *arguments, int *status)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	const char *cancel = cli_value(arguments, "cancel", NULL);
	const char *dismiss = cli_value(arguments, "dismiss", NULL);
	AUTO_JSON json_t *jobs = NULL;

	TRY(vm_connect(arguments->positional[0], &client));
	if (cancel)
		TRY(qmp_client_execute(client, "job-cancel", json_pack("{s:s}", "id", cancel),
				       NULL));
	if (dismiss)
		TRY(qmp_client_execute(client, "job-dismiss", json_pack("{s:s}", "id", dismiss),
				       NULL));
	if (cancel || dismiss)
		return NULL;
	TRY(qmp_client_execute(client, "query-jobs", NULL, &jobs));
	if (cli_has(arguments, "json"))
		json_print(json_incref(jobs));
	else
		print_jobs(jobs);
	return NULL;
}

const struct cli_command cli_jobs = {
    .name = "jobs",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "List the jobs of a VM, or cancel one",
    .options = options,
    .run = run_jobs,
};
