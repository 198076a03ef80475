/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit save VM FILE`: starts a save job and watches it. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/job_wait.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"live", CLI_FLAG, NULL, "let the guest run: the image is that of one moment"},
    {"channels", CLI_REQUIRED, "N", "threads that write, 1 to 16 (default: 2)"},
    {"direct", CLI_FLAG, NULL, "write past the page cache (O_DIRECT)"},
    {"base", CLI_REQUIRED, "FILE", "write only what is not in this snapshot already"},
    {"no-wait", CLI_FLAG, NULL, "print the job's id and return at once"},
    {"json", CLI_FLAG, NULL, "print the job as JSON"},
    {},
};

/* The VM's process has a working folder of its own. */
static struct error *absolute(const char *path, char result[PATH_MAX])
{
	char folder[PATH_MAX];
	int length;

	if (*path == '/')
		length = snprintf(result, PATH_MAX, "%s", path);
	else if (!getcwd(folder, sizeof(folder)))
		return error_system(errno, "cannot tell the current folder");
	else
		length = snprintf(result, PATH_MAX, "%s/%s", folder, path);
	return length < PATH_MAX ? NULL
				 : error_new(ENAMETOOLONG, "the name '%s' is too long", path);
}

static void draw(const json_t *job, bool last)
{
	char bar[BAR_WIDTH_MAX + 1];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(
	    stderr, "\r%s %s of %s, %s written\033[K%s",
	    bar_format(json_u64(job, "current-progress"), json_u64(job, "total-progress"), 40, bar),
	    human(json_u64(job, "current-progress")), human(json_u64(job, "total-progress")),
	    human(json_u64(job, "stored")), last ? "\n" : "");
}

static struct error *start_save(const struct cli_arguments *arguments, struct qmp_client *client,
				json_t **started)
{
	char file[PATH_MAX], base[PATH_MAX];
	uint64_t channels = 0;
	json_t *request;

	TRY(absolute(arguments->positional[1], file));
	TRY(error_prefix(number_parse(cli_value(arguments, "channels", "2"), UINT32_MAX, &channels),
			 "--channels"));
	request =
	    json_pack("{s:s, s:b, s:b, s:I}", "file", file, "live", cli_has(arguments, "live"),
		      "direct", cli_has(arguments, "direct"), "channels", (json_int_t)channels);
	if (cli_has(arguments, "base")) {
		struct error *error = absolute(cli_value(arguments, "base", NULL), base);

		if (error) {
			json_decref(request);
			return error;
		}
		json_object_set_new(request, "base", json_string(base));
	}
	return qmp_client_execute(client, "godwit-save", request, started);
}

static void tell(const json_t *job)
{
	printf(
	    "saved %s: %s of memory, %s written, %s on disk; the guest stood still for %.1f ms\n",
	    json_text(job, "file"), human(json_u64(job, "total-progress")),
	    human(json_u64(job, "stored")), human(json_u64(job, "file-allocated")),
	    (double)json_u64(job, "paused-ns") / NS_PER_MS);
}

static struct error *run_save(const struct cli_arguments *arguments, int *status)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;
	AUTO_JSON json_t *job = NULL;
	bool wait = !cli_has(arguments, "no-wait");
	struct error *error;

	TRY(vm_connect(arguments->positional[0], &client));
	TRY(start_save(arguments, client, &started));
	error = wait ? job_wait(client, json_text(started, "job"), 0, draw, &job)
		     : job_find(client, json_text(started, "job"), &job);
	if (job && cli_has(arguments, "json"))
		json_print(json_incref(job));
	else if (!error && wait)
		tell(job);
	else if (!error)
		printf("%s\n", json_text(started, "job"));
	return error;
}

const struct cli_command cli_save = {
    .name = "save",
    .positionals = "VM FILE",
    .minimum = 2,
    .maximum = 2,
    .summary = "Save a VM into a snapshot file",
    .description =
	"Waits until the file is durable and in place; an old FILE is there until then. Without\n"
	"--live the guest stands still meanwhile. Interrupting this command does not end the\n"
	"save: 'godwit jobs' shows it and cancels it.",
    .options = options,
    .run = run_save,
};
