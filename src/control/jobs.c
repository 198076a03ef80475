/* SPDX-License-Identifier: BSD-2-Clause */
/* The list of jobs, jobs.h. Main loop only. Clients control ids and how many are asked for; both
 * are bounded. */
#include "control/jobs.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "machine/machine_config.h"

struct jobs {
	struct job *first; /* newest */
	uint32_t count;
	uint64_t started; /* so far, for ids */
	void (*changed)(void *context, const struct job *job);
	void *context;
};

const char *job_status_name(enum job_status status)
{
	static const char *const names[] = {
	    [JOB_CREATED] = "created",
	    [JOB_RUNNING] = "running",
	    [JOB_CONCLUDED] = "concluded",
	};

	return names[status];
}

struct error *jobs_create(void (*changed)(void *context, const struct job *job), void *context,
			  struct jobs **result)
{
	struct jobs *jobs = calloc(1, sizeof(*jobs));

	if (!jobs)
		return error_system(ENOMEM, "jobs");
	jobs->changed = changed;
	jobs->context = context;
	*result = jobs;
	return NULL;
}

/* Takes @job off the list and frees it. */
static void job_remove(struct job *job)
{
	struct jobs *jobs = job->jobs;
	struct job **link = &jobs->first;

	while (*link != job)
		link = &(*link)->next;
	*link = job->next;
	jobs->count--;
	free(job->error);
	job->ops->destroy(job);
}

void jobs_destroy(struct jobs *jobs)
{
	if (!jobs)
		return;
	while (jobs->first)
		job_remove(jobs->first);
	free(jobs);
}

static void job_set_status(struct job *job, enum job_status status)
{
	job->status = status;
	job->jobs->changed(job->jobs->context, job);
}

/* Removes the oldest concluded job; false if all run. */
static bool jobs_make_room(struct jobs *jobs)
{
	struct job *oldest = NULL;

	for (struct job *job = jobs->first; job; job = job->next)
		if (job->status == JOB_CONCLUDED)
			oldest = job;
	if (!oldest)
		return false;
	job_remove(oldest);
	return true;
}

static struct job *find_job(const struct jobs *jobs, const char *id)
{
	for (struct job *job = jobs->first; job; job = job->next)
		if (strcmp(job->id, id) == 0)
			return job;
	return NULL;
}

struct error *job_start(struct jobs *jobs, struct job *job, const struct job_ops *ops,
			const char *id, const char *subject)
{
	if (id) {
		TRY(machine_identifier_check("job id", id, JOB_ID_MAX));
		if (find_job(jobs, id))
			return error_new(
			    EEXIST, "job id '%s' is in use: choose another, or dismiss that job",
			    id);
		snprintf(job->id, sizeof(job->id), "%s", id);
	} else {
		do {
			snprintf(job->id, sizeof(job->id), "%s%s%s-%" PRIu64, ops->type,
				 subject ? "-" : "", subject ?: "", ++jobs->started);
		} while (find_job(jobs, job->id));
	}
	if (jobs->count >= JOBS_MAX && !jobs_make_room(jobs))
		return error_new(EBUSY, "%d jobs are running: wait for one, or cancel one",
				 JOBS_MAX);
	job->ops = ops;
	job->jobs = jobs;
	job->started_ns = clock_realtime_ns();
	job->next = jobs->first;
	jobs->first = job;
	jobs->count++;
	job_set_status(job, JOB_CREATED);
	job_set_status(job, JOB_RUNNING);
	return NULL;
}

void job_set_progress(struct job *job, uint64_t current, uint64_t total)
{
	job->current = current;
	job->total = total;
}

/* A copy of @text, where all but ASCII is '?' if it is not UTF-8, as names of files need not be. */
static char *copy_as_utf8(const char *text)
{
	char *copy = strdup(text);
	json_t *string = json_string(text);

	for (char *byte = copy; byte && !string && *byte; byte++)
		if (*byte & 0x80)
			*byte = '?';
	json_decref(string);
	return copy;
}

void job_conclude(struct job *job, const char *reason)
{
	if (job->status == JOB_CONCLUDED)
		return;
	job->ended_ns = clock_realtime_ns();
	job->failed = reason != NULL;
	if (reason)
		job->error = copy_as_utf8(reason);
	else
		job->current = job->total;
	job_set_status(job, JOB_CONCLUDED);
}

struct job *jobs_first(const struct jobs *jobs)
{
	return jobs->first;
}

struct error *jobs_find(const struct jobs *jobs, const char *id, struct job **job)
{
	*job = find_job(jobs, id);
	return *job ? NULL : error_new(ENODEV, "there is no job '%.63s'", id);
}

struct error *job_cancel(struct job *job)
{
	if (job->status == JOB_CONCLUDED)
		return error_new(EINVAL, "job '%s' has concluded already", job->id);
	if (!job->ops->cancel)
		return error_new(ENOTSUP, "a job of type %s cannot be cancelled", job->ops->type);
	return job->ops->cancel(job);
}

struct error *job_dismiss(struct job *job)
{
	if (job->status != JOB_CONCLUDED)
		return error_new(EBUSY, "job '%s' is %s: cancel it first", job->id,
				 job_status_name(job->status));
	job_remove(job);
	return NULL;
}

static json_t *job_describe(struct job *job)
{
	json_t *object =
	    json_pack("{s:s,s:s,s:s,s:I,s:I,s:f}", "id", job->id, "type", job->ops->type, "status",
		      job_status_name(job->status), "current-progress", (json_int_t)job->current,
		      "total-progress", (json_int_t)job->total, "started",
		      (double)job->started_ns / (double)NS_PER_SECOND);

	if (object && job->failed)
		json_object_set_new(object, "error",
				    json_string(job->error ?: "no memory to say why"));
	if (object && job->ended_ns)
		json_object_set_new(
		    object, "seconds",
		    json_real((double)(job->ended_ns - job->started_ns) / (double)NS_PER_SECOND));
	if (object && job->ops->describe)
		job->ops->describe(job, object);
	return object;
}

json_t *jobs_describe(const struct jobs *jobs)
{
	json_t *list = json_array();

	for (struct job *job = jobs->first; job; job = job->next)
		json_array_insert_new(list, 0, job_describe(job));
	return list;
}
