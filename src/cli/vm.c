/* SPDX-License-Identifier: BSD-2-Clause */
/* Connecting to VMs, vm.h. One thread. */
#include "cli/vm.h"

#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"

#define START_NS (10 * NS_PER_SECOND) /* how long a machine may take to listen */

/* Why @name cannot be found, with a suggestion. */
static struct error *not_running(const char *name)
{
	struct run_listing *listings = NULL;
	const char *nearest = NULL;
	struct error *error;
	size_t count = 0;

	TRY(run_directory_list(&listings, &count));
	if (!count) {
		error = error_new(
		    ENOENT, "no VM named '%s' is running: none is, start one with 'godwit run'",
		    name);
	} else {
		const char **names = calloc(count + 1, sizeof(*names));

		/* It may have started since. */
		for (size_t i = 0, used = 0; names && i < count; i++)
			if (strcmp(listings[i].name, name) != 0)
				names[used++] = listings[i].name;
		if (names)
			nearest = cli_nearest(name, names);
		if (nearest)
			error = error_new(ENOENT, "no VM named '%s' is running: did you mean '%s'?",
					  name, nearest);
		else
			error = error_new(
			    ENOENT,
			    "no VM named '%s' is running: 'godwit list' shows those that are",
			    name);
		free(names);
	}
	run_listings_free(listings, count);
	return error;
}

struct error *vm_connect_within(const char *name, int64_t timeout_ns, struct qmp_client **client)
{
	const struct timespec pause = {.tv_nsec = 20 * NS_PER_MS};
	int64_t deadline = clock_monotonic_ns() + MIN(timeout_ns, START_NS);
	AUTO_FREE char *path = NULL;

	TRY(run_directory_socket(name, &path));
	for (;;) {
		struct error *error;

		if (!run_directory_running(name, NULL))
			return not_running(name);
		error = qmp_client_connect(path, timeout_ns, client);
		/* A machine has its name a moment before it listens. */
		if (!error || (error_code(error) != ENOENT && error_code(error) != ECONNREFUSED) ||
		    clock_monotonic_ns() > deadline)
			return error_prefix(error, "%s", name);
		error_free(error);
		nanosleep(&pause, NULL);
	}
}

struct error *vm_connect(const char *name, struct qmp_client **client)
{
	return vm_connect_within(name, QMP_CLIENT_TIMEOUT_NS, client);
}

struct error *vm_execute(const char *name, const char *command, json_t *arguments, json_t **result)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	struct error *error = vm_connect(name, &client);

	if (error) {
		json_decref(arguments);
		return error;
	}
	return qmp_client_execute(client, command, arguments, result);
}
