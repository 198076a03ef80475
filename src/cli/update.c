/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit update VM`: has the VM go on in a process of another program, and tells what became of
 * it.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/command_table.h"
#include "cli/interrupt.h"
#include "cli/vm.h"

#define LOOK_NS (100 * NS_PER_MS) /* whether somebody has interrupted this */

static const struct cli_option options[] = {
    {"binary", CLI_REQUIRED, "PATH", "the new godwit (default: the one that runs this command)"},
    {"json", CLI_FLAG, NULL, "print the update as JSON"},
    {},
};

/* As the VM's process finds it, which may be in another folder. */
static struct error *find_binary(const struct cli_arguments *arguments, char path[PATH_MAX])
{
	const char *given = cli_value(arguments, "binary", "/proc/self/exe");

	if (!realpath(given, path))
		return error_system(errno, "--binary %s", given);
	return NULL;
}

/* The last event about the job; the VM's process may end with it. */
static struct error *await_word(struct qmp_client *client, const char *job, json_t **word)
{
	for (;;) {
		AUTO_JSON json_t *event = NULL;
		json_t *data;

		interrupt_pass(client, job);
		TRY(error_prefix(qmp_client_next_event(client, LOOK_NS, &event),
				 "the VM has not said what became of it"));
		if (!event)
			continue;
		data = json_object_get(event, "data");
		if (strcmp(json_text(event, "event"), "MIGRATION") != 0 ||
		    strcmp(json_text(data, "job"), job) != 0)
			continue;
		*word = json_incref(data);
		if (strcmp(json_text(data, "status"), "completed") == 0)
			return NULL;
		return error_new(ECANCELED, "%s", json_text(data, "reason"));
	}
}

static double ms(const json_t *object, const char *key)
{
	return (double)json_u64(object, key) / NS_PER_MS;
}

static void tell(const char *name, const json_t *word)
{
	const json_t *downtime = json_object_get(word, "downtime");

	printf("%s goes on in process %d, %s: %.1f s; the guest stood still for %.1f ms\n", name,
	       (int)json_u64(word, "pid"), json_text(word, "uri"),
	       (double)json_u64(word, "elapsed-ns") / NS_PER_SECOND, ms(downtime, "total-ns"));
	printf("  stopped %.1f ms, states %.1f, sent %.1f, loaded %.1f, confirmed %.1f (of which "
	       "resumed %.1f)\n",
	       ms(downtime, "stop-ns"), ms(downtime, "states-ns"), ms(downtime, "pages-ns"),
	       ms(downtime, "load-ns"), ms(downtime, "confirm-ns"), ms(downtime, "resume-ns"));
}

static struct error *update(const char *name, const char *binary, json_t **word)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;

	TRY(vm_connect(name, &client));
	interrupt_begin();
	TRY(qmp_client_execute(client, "godwit-update", json_pack("{s:s}", "binary", binary),
			       &started));
	return await_word(client, json_text(started, "job"), word);
}

static struct error *run_update(const struct cli_arguments *arguments, int *status)
{
	const char *name = arguments->positional[0];
	AUTO_JSON json_t *word = NULL, *statistics = NULL;
	char binary[PATH_MAX];

	TRY(find_binary(arguments, binary));
	TRY(update(name, binary, &word));
	/* Answered by the new process. */
	TRY(vm_execute(name, "godwit-statistics", NULL, &statistics));
	json_object_set(word, "pid", json_object_get(statistics, "pid"));
	if (cli_has(arguments, "json"))
		json_print(json_incref(word));
	else
		tell(name, word);
	return NULL;
}

const struct cli_command cli_update = {
    .name = "update",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Let a running VM go on in a new godwit",
    .description =
	"The VM goes on in a process of another program file, with its memory, disks, networks,\n"
	"consoles, name and control socket, which are handed over and not copied; the guest\n"
	"stands still for a moment. When anything fails it goes on as before. The process that\n"
	"was started at first stays until the VM ends, passes signals on to it, and has its exit\n"
	"status. Connections to the control socket are closed, and those of the guest's sockets\n"
	"(vsock) are reset. Ctrl-C cancels the update as long as the VM can stay as it was.",
    .options = options,
    .run = run_update,
};
