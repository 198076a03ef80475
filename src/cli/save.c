/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit save VM FILE`: starts a save job and watches it. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/job_wait.h"
#include "cli/stream_target.h"
#include "cli/vm.h"

#define STREAM_NAME "fd:save" /* what the VM calls the descriptor that it gets */
#define EXPLAIN_MS  1000      /* for a command to end after the save has failed */

static const struct cli_option options[] = {
    {"live", CLI_FLAG, NULL, "let the guest run: the image is that of one moment"},
    {"channels", CLI_REQUIRED, "N", "threads that write, 1 to 16 (default: 2; a stream: 1)"},
    {"direct", CLI_FLAG, NULL,
     "write past the page cache (O_DIRECT) or not at all;\n"
     "without, where the file system can"},
    {"cached", CLI_FLAG, NULL, "write through the page cache"},
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

/* --- Streams ----------------------------------------------------------------------------------- */

/* What needs a file is refused before anything is opened, started or asked of the VM. */
static struct error *check_stream(const struct cli_arguments *arguments,
				  const struct stream_target *target, uint64_t channels)
{
	static const char *const needs_file[] = {"direct", "cached", "base"};

	if (target->kind == STREAM_NONE)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(needs_file); i++)
		if (cli_has(arguments, needs_file[i]))
			return error_usage("--%s needs a file, and %s takes bytes only in their "
					   "order: leave it out",
					   needs_file[i], target->name);
	if (cli_has(arguments, "channels") && channels != 1)
		return error_usage("--channels %lu need a file, and %s takes bytes only in their "
				   "order: use 1",
				   (unsigned long)channels, target->name);
	if (target->kind == STREAM_COMMAND && cli_has(arguments, "no-wait"))
		return error_usage("--no-wait: the command of exec: has to be waited for");
	if (target->kind == STREAM_DESCRIPTOR && target->number == STDOUT_FILENO &&
	    cli_has(arguments, "json"))
		return error_usage("--json and %s both want the standard output", target->name);
	return NULL;
}

/* The VM has sent everything. Whoever interrupts us now means the command, too. */
static struct error *wait_for_command(struct child *child)
{
	AUTO_CLOSE int signals = -1;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (signals < 0)
		return error_system(errno, "cannot wait for signals");
	return child_wait(child, signals, -1);
}

/* Takes the name off that the VM knows the stream by, which nobody has given; whether it was there. */
static bool take_name_off(struct error **error)
{
	size_t length = strlen(STREAM_NAME ": ");
	struct error *named = *error;

	if (strncmp(error_message(named), STREAM_NAME ": ", length) != 0)
		return false;
	*error = error_new(error_code(named), "%s", error_message(named) + length);
	error_free(named);
	return true;
}

/*
 * What became of the command once the VM has done its part, or failed with @error. The status says
 * more than that the pipe broke.
 */
static struct error *finish_command(struct stream_target *target, struct error *error)
{
	AUTO_ERROR struct error *reason = NULL;
	bool named;

	if (!error)
		return target->child ? wait_for_command(target->child) : NULL;
	named = take_name_off(&error);
	if (target->child)
		reason = child_wait(target->child, -1, EXPLAIN_MS);
	if (reason && error_code(reason) == ECHILD)
		return error_prefix(error, "%s", error_message(reason));
	return named ? error_prefix(error, "%s", target->name) : error;
}

/* --- Saving ------------------------------------------------------------------------------------ */

static struct error *start_save(const struct cli_arguments *arguments, struct qmp_client *client,
				struct stream_target *target, uint64_t channels, json_t **started)
{
	char file[PATH_MAX] = STREAM_NAME, base[PATH_MAX];
	json_t *request;

	if (target->kind == STREAM_NONE) {
		TRY(absolute(arguments->positional[1], file));
	} else {
		TRY(stream_target_open(target));
		TRY(qmp_client_pass(client, target->fd, &STREAM_NAME[strlen("fd:")]));
		/* The VM's copy is the last one: its end is the end of the stream. */
		close_fd(&target->fd);
		channels = 1;
	}
	request = json_pack("{s:s, s:b, s:I}", "file", file, "live", cli_has(arguments, "live"),
			    "channels", (json_int_t)channels);
	if (cli_has(arguments, "direct") || cli_has(arguments, "cached"))
		json_object_set_new(request, "direct", json_boolean(cli_has(arguments, "direct")));
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

static void tell(const json_t *job, const struct stream_target *target)
{
	double paused_ms = (double)json_u64(job, "paused-ns") / NS_PER_MS;

	/* A command's output, or the stream itself, may go where ours goes. */
	if (target->kind != STREAM_NONE)
		fprintf(stderr,
			"saved to %s: %s of memory, %s sent; the guest stood still for %.1f ms\n",
			target->name, human(json_u64(job, "total-progress")),
			human(json_u64(job, "file-size")), paused_ms);
	else
		printf("saved %s: %s of memory, %s written, %s on disk; the guest stood still for "
		       "%.1f ms\n",
		       json_text(job, "file"), human(json_u64(job, "total-progress")),
		       human(json_u64(job, "stored")), human(json_u64(job, "file-allocated")),
		       paused_ms);
}

static struct error *save(const struct cli_arguments *arguments, struct stream_target *target,
			  uint64_t channels)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;
	AUTO_JSON json_t *job = NULL;
	bool wait = !cli_has(arguments, "no-wait");
	struct error *error;

	TRY(vm_connect(arguments->positional[0], &client));
	error = start_save(arguments, client, target, channels, &started);
	if (!error)
		error = wait ? job_wait(client, json_text(started, "job"), 0, draw, &job)
			     : job_find(client, json_text(started, "job"), &job);
	error = finish_command(target, error);
	if (job && cli_has(arguments, "json"))
		json_print(json_incref(job));
	else if (!error && wait)
		tell(job, target);
	else if (!error)
		printf("%s\n", json_text(started, "job"));
	return error;
}

static struct error *run_save(const struct cli_arguments *arguments, int *status)
{
	struct stream_target target;
	uint64_t channels = 0;
	struct error *error;

	TRY(error_prefix(number_parse(cli_value(arguments, "channels", "2"), UINT32_MAX, &channels),
			 "--channels"));
	if (cli_has(arguments, "direct") && cli_has(arguments, "cached"))
		return error_usage("--direct and --cached exclude each other: leave one out");
	TRY(stream_target_parse(arguments->positional[1], &target));
	TRY(check_stream(arguments, &target, channels));
	error = save(arguments, &target, channels);
	stream_target_close(&target);
	return error;
}

const struct cli_command cli_save = {
    .name = "save",
    .positionals = "VM FILE|exec:COMMAND|fd:N",
    .minimum = 2,
    .maximum = 2,
    .summary = "Save a VM into a snapshot file",
    .description =
	"Waits until the file is durable and in place; an old FILE is there until then. Without\n"
	"--live the guest stands still meanwhile. Interrupting this command does not end the\n"
	"save: 'godwit jobs' shows it and cancels it.\n"
	"A command (exec:'zstd -o FILE'), an inherited descriptor or a named pipe gets the same as "
	"a\n"
	"stream; --direct, --cached, --base and --channels need a file.",
    .options = options,
    .run = run_save,
};
