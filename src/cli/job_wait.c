/* SPDX-License-Identifier: BSD-2-Clause */
/* See job_wait.h. The VM may end meanwhile: that is an error of the next request. */
#include "cli/job_wait.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/output.h"

#define POLL_NS (100 * NS_PER_MS)

struct error *job_find(struct qmp_client *client, const char *id, json_t **job)
{
	AUTO_JSON json_t *jobs = NULL;
	json_t *item;
	size_t index;

	TRY(qmp_client_execute(client, "query-jobs", NULL, &jobs));
	json_array_foreach (jobs, index, item) {
		if (strcmp(json_text(item, "id"), id) == 0) {
			*job = json_incref(item);
			return NULL;
		}
	}
	return error_new(ENOENT, "job '%s' is gone: somebody dismissed it", id);
}

struct error *job_wait(struct qmp_client *client, const char *id, int64_t timeout_ns,
		       void (*draw)(const json_t *job, bool last), json_t **job)
{
	int64_t deadline = clock_monotonic_ns() + timeout_ns;
	const struct timespec pause = {.tv_nsec = POLL_NS};

	for (;;) {
		bool concluded, late = timeout_ns && clock_monotonic_ns() > deadline;

		json_decref(*job);
		*job = NULL;
		TRY(job_find(client, id, job));
		concluded = strcmp(json_text(*job, "status"), "concluded") == 0;
		draw(*job, concluded || late);
		if (concluded && !*json_text(*job, "error"))
			return NULL;
		if (concluded)
			return error_new(ECANCELED, "%s", json_text(*job, "error"));
		if (late)
			return error_new(ETIMEDOUT, "job '%s' still runs", id);
		nanosleep(&pause, NULL);
	}
}
