/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit stop VM`: presses the power button and waits, or ends the VM at once. */
#include <string.h>

#include "base/clock.h"
#include "cli/command_table.h"
#include "cli/vm.h"

#define TIMEOUT_SECONDS 60

static const struct cli_option options[] = {
    {"force", CLI_FLAG, NULL, "end the VM at once, without asking the guest"},
    {"timeout", CLI_REQUIRED, "SECONDS", "how long to wait for the guest (default: 60)"},
    {},
};

/* Waits until VM @name has ended; the pid file's lock says so, whatever happened to the connection.
 */
static struct error *wait_gone(const char *name, double timeout)
{
	int64_t deadline = clock_monotonic_ns() + (int64_t)(timeout * NS_PER_SECOND);
	const struct timespec pause = {.tv_nsec = 20 * NS_PER_MS};

	while (run_directory_running(name, NULL)) {
		if (clock_monotonic_ns() > deadline)
			return error_new(
			    ETIMEDOUT,
			    "%s still runs after %g seconds: the guest may not react to its "
			    "power button; --force ends it",
			    name, timeout);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static struct error *run_stop(const struct cli_arguments *arguments, int *status)
{
	const char *name = arguments->positional[0];
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *state = NULL;
	double timeout;

	TRY(cli_seconds(arguments, "timeout", TIMEOUT_SECONDS, &timeout));
	TRY(vm_connect(name, &client));
	if (cli_has(arguments, "force")) {
		TRY(qmp_client_execute(client, "quit", NULL, NULL));
		return wait_gone(name, timeout);
	}
	TRY(qmp_client_execute(client, "query-status", NULL, &state));
	if (!json_is_true(json_object_get(state, "running")))
		return error_new(
		    EBUSY,
		    "%s is %s and cannot react to its power button: 'godwit resume' it "
		    "first, or use --force",
		    name, json_text(state, "status"));
	TRY(qmp_client_execute(client, "system_powerdown", NULL, NULL));
	return wait_gone(name, timeout);
}

const struct cli_command cli_stop = {
    .name = "stop",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Shut a VM down and wait until it has ended",
    .options = options,
    .run = run_stop,
};
