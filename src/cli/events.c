/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit events VM`: prints what happens, as it happens. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/command_table.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"json", CLI_FLAG, NULL, "print each event as QMP sends it, one a line"},
    {"count", CLI_REQUIRED, "N", "end after N events"},
    {"timeout", CLI_REQUIRED, "SECONDS", "end after so long (default: when the VM ends)"},
    {},
};

static void print_event(const json_t *event)
{
	json_t *timestamp = json_object_get(event, "timestamp");
	time_t seconds = (time_t)json_u64(timestamp, "seconds");
	json_t *data = json_object_get(event, "data");
	AUTO_FREE char *text = data ? json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	struct tm local;
	char clock[16];

	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&seconds, &local));
	printf("%s.%03d %s%s%s\n", clock, (int)(json_u64(timestamp, "microseconds") / 1000),
	       json_text(event, "event"), text ? " " : "", text ?: "");
}

static struct error *run_events(const struct cli_arguments *arguments, int *status)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	const char *count_text = cli_value(arguments, "count", NULL);
	long count = -1;
	int64_t deadline;
	double timeout;

	TRY(cli_seconds(arguments, "timeout", 0, &timeout));
	if (count_text) {
		char *end;

		count = strtol(count_text, &end, 10);
		if (*end || end == count_text || count < 1)
			return error_usage("--count: '%s' is not a number of events", count_text);
	}
	deadline = clock_monotonic_ns() + (int64_t)(timeout * NS_PER_SECOND);
	TRY(vm_connect(arguments->positional[0], &client));
	while (count != 0) {
		AUTO_JSON json_t *event = NULL;
		int64_t left = cli_has(arguments, "timeout") ? deadline - clock_monotonic_ns() : -1;
		struct error *error;

		if (cli_has(arguments, "timeout") && left <= 0)
			return NULL;
		error = qmp_client_next_event(client, left, &event);
		if (error && error_code(error) == ECONNRESET) {
			error_free(error);
			return NULL; /* the VM has ended: so has the stream */
		}
		TRY(error);
		if (!event)
			return NULL;
		if (cli_has(arguments, "json")) {
			json_dumpf(event, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			print_event(event);
		}
		if (fflush(stdout) != 0)
			return error_system(errno, "cannot write to standard output");
		count--;
	}
	return NULL;
}

const struct cli_command cli_events = {
    .name = "events",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Print the events of a VM as they happen",
    .options = options,
    .run = run_events,
};
