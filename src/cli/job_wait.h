/* SPDX-License-Identifier: BSD-2-Clause */
/* Watching a job of a VM until it ends. */
#ifndef GODWIT_CLI_JOB_WAIT_H
#define GODWIT_CLI_JOB_WAIT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "control/qmp_client.h"

/* Job @id as query-jobs describes it: a new reference in *@job. */
struct error *job_find(struct qmp_client *client, const char *id, json_t **job) MUST_CHECK;

/*
 * Looks at job @id ten times a second until it has ended, and has @draw show each look (@last: the
 * last one). *@job, NULL at first, is its last description. An error tells why the job failed; one
 * of code ETIMEDOUT that it still runs after @timeout_ns (0: waits for ever).
 */
struct error *job_wait(struct qmp_client *client, const char *id, int64_t timeout_ns,
		       void (*draw)(const json_t *job, bool last), json_t **job) MUST_CHECK;

#endif
