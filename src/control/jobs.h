/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Jobs: long operations that were started by a command which returned at once. Each has an id, a
 * status, a progress, and at its end either success or an error for a person. The words are QEMU's
 * (qapi/job.json); a job here is created, running, then concluded, and stays listed until it is
 * dismissed or newer ones need its place. Main loop only.
 */
#ifndef GODWIT_CONTROL_JOBS_H
#define GODWIT_CONTROL_JOBS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define JOBS_MAX   128 /* listed at once; concluded ones make room, oldest first */
#define JOB_ID_MAX 63  /* characters */

enum job_status { JOB_CREATED, JOB_RUNNING, JOB_CONCLUDED };
const char *job_status_name(enum job_status status);

struct jobs;
struct job;

struct job_ops {
	const char *type; /* "resize" */
	/* The operator wants it to end. Must conclude the job, now or soon, or say why not. NULL: it
	 * cannot be cancelled. */
	struct error *(*cancel)(struct job *job);
	/* Adds the job's own facts to its description. NULL: none. */
	void (*describe)(struct job *job, json_t *object);
	/* Releases what the job owns, the job itself included. */
	void (*destroy)(struct job *job);
};

/* Embedded in a concrete job. Written through the functions below only. */
struct job {
	const struct job_ops *ops;
	struct jobs *jobs;
	struct job *next; /* older */
	char id[JOB_ID_MAX + 1];
	enum job_status status;
	uint64_t current, total;      /* progress, in whatever unit the job has */
	bool failed;		      /* concluded without success */
	char *error;		      /* why, valid UTF-8; NULL also when there was no memory */
	int64_t started_ns, ended_ns; /* CLOCK_REALTIME; ended: 0 while it runs */
};

/* @changed, with @context, hears of each change of a status: JOB_STATUS_CHANGE. */
struct error *jobs_create(void (*changed)(void *context, const struct job *job), void *context,
			  struct jobs **jobs) MUST_CHECK;
/* Destroys all jobs without cancelling them; accepts NULL. */
void jobs_destroy(struct jobs *jobs);

/*
 * Lists @job, zeroed but for what its owner put around it, as created and then running. @id NULL:
 * one is made from the type, @subject (may be NULL) and a number. On an error (id in use or
 * malformed, too many run) the caller still owns the job.
 */
struct error *job_start(struct jobs *jobs, struct job *job, const struct job_ops *ops,
			const char *id, const char *subject) MUST_CHECK;
void job_set_progress(struct job *job, uint64_t current, uint64_t total);
/* Ends the job; @reason NULL is success. The job stays listed, and may be freed by the next
 * job_start. */
void job_conclude(struct job *job, const char *reason);

/* NULL past the end; newest first. */
struct job *jobs_first(const struct jobs *jobs);
/* An error of code ENODEV when there is none. */
struct error *jobs_find(const struct jobs *jobs, const char *id, struct job **job) MUST_CHECK;
/* Refused when the job has concluded or cannot be cancelled. */
struct error *job_cancel(struct job *job) MUST_CHECK;
/* Takes a concluded job off the list and frees it. */
struct error *job_dismiss(struct job *job) MUST_CHECK;
/* [{id, type, status, current-progress, total-progress, error?, started, …}], oldest first. */
json_t *jobs_describe(const struct jobs *jobs);

#endif
