/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit resize VM ID SIZE`: asks for another size of an elastic device; with --wait, watches the
 * job. */
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/job_wait.h"
#include "cli/vm.h"

#define TIMEOUT_SECONDS 60

static const struct cli_option options[] = {
    {"wait", CLI_FLAG, NULL, "wait until the guest has that size, with a progress bar"},
    {"timeout", CLI_REQUIRED, "SECONDS",
     "with --wait: give up after so long (default: 60);\nthe job goes on"},
    {"json", CLI_FLAG, NULL, "print the job as JSON"},
    {},
};

static void draw(const json_t *job, bool last)
{
	char bar[BAR_WIDTH_MAX + 1];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(
	    stderr, "\r%s %s of %s, %s\033[K%s",
	    bar_format(json_u64(job, "current-progress"), json_u64(job, "total-progress"), 40, bar),
	    human(json_u64(job, "plugged")), human(json_u64(job, "requested")),
	    json_text(job, "reason"), last ? "\n" : "");
}

/* What to do about each reason for which a resize does not get done. */
static const char *advice(const char *reason)
{
	static const struct {
		const char *reason, *advice;
	} table[] = {
	    {"busy", "the host has no memory or slots to give: free some, or ask for less"},
	    {"guest-out-of-memory",
	     "the guest cannot use more: see its kernel log, or ask for less"},
	    {"no-driver", "the guest has not loaded the virtio_mem driver"},
	    {"guest-refuses", "memory is in use there: free some in the guest, or ask for less"},
	    {"pending", "the guest is still at work: wait longer with --timeout"},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (strcmp(table[i].reason, reason) == 0)
			return table[i].advice;
	return "see 'godwit jobs'";
}

/* Watches job @id until it ends; *@job is its last description. */
static struct error *wait_job(struct qmp_client *client, const char *id, double timeout,
			      json_t **job)
{
	struct error *error =
	    job_wait(client, id, MAX((int64_t)(timeout * NS_PER_SECOND), 1LL), draw, job);
	const char *reason;

	if (!error || error_code(error) != ETIMEDOUT)
		return error;
	error_free(error);
	reason = json_text(*job, "reason");
	return error_new(ETIMEDOUT,
			 "%s has %s of %s after %g seconds: %s: %s; the job goes on, "
			 "'godwit jobs' shows it",
			 json_text(*job, "device"), human(json_u64(*job, "plugged")),
			 human(json_u64(*job, "requested")), timeout, reason, advice(reason));
}

static struct error *run_resize(const struct cli_arguments *arguments, int *status)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;
	AUTO_JSON json_t *job = NULL;
	struct error *error = NULL;
	uint64_t size = 0;
	double timeout;

	TRY(size_parse(arguments->positional[2], &size));
	if (size > INT64_MAX)
		return error_usage("'%s' is too large a size", arguments->positional[2]);
	TRY(cli_seconds(arguments, "timeout", TIMEOUT_SECONDS, &timeout));
	if (cli_has(arguments, "timeout") && !cli_has(arguments, "wait"))
		return error_usage("--timeout is for --wait: add it");
	TRY(vm_connect(arguments->positional[0], &client));
	TRY(qmp_client_execute(
	    client, "godwit-resize",
	    json_pack("{s:s,s:I}", "id", arguments->positional[1], "size", (json_int_t)size),
	    &started));
	if (cli_has(arguments, "wait"))
		error = wait_job(client, json_text(started, "job"), timeout, &job);
	else
		error = job_find(client, json_text(started, "job"), &job);
	if (job && cli_has(arguments, "json"))
		json_print(json_incref(job));
	else if (!error && !cli_has(arguments, "wait"))
		printf("%s\n", json_text(started, "job"));
	return error;
}

const struct cli_command cli_resize = {
    .name = "resize",
    .positionals = "VM ID SIZE",
    .minimum = 3,
    .maximum = 3,
    .summary = "Change the size of an elastic device",
    .description = "Prints the id of the job and returns at once, unless --wait is given. A newer "
		   "request for\n"
		   "the same device replaces the job.",
    .options = options,
    .run = run_resize,
};
