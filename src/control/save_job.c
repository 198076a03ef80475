/* SPDX-License-Identifier: BSD-2-Clause */
/* Save jobs, save_job.h. The save itself has a thread; everything here is on the main loop. */
#include "control/save_job.h"

#include <string.h>

#include "base/checked.h"

struct save_job {
	struct job job;		   /* first: job_ops get this */
	struct machine_save *save; /* NULL once it is over */
	char *file;
	bool live;
	struct machine_save_progress progress; /* as last seen */
};

static struct save_job *to_save_job(struct job *job)
{
	return CONTAINER_OF(job, struct save_job, job);
}

static void save_job_look(struct save_job *save)
{
	if (!save->save)
		return;
	machine_save_progress(save->save, &save->progress);
	if (save->job.status == JOB_RUNNING)
		job_set_progress(&save->job, save->progress.done, save->progress.total);
}

/* The end comes through save_job_done. */
static struct error *save_job_cancel(struct job *job)
{
	machine_save_cancel(to_save_job(job)->save);
	return NULL;
}

static void save_job_describe(struct job *job, json_t *object)
{
	struct save_job *save = to_save_job(job);

	save_job_look(save);
	json_object_set_new(object, "current-progress", json_integer((json_int_t)job->current));
	json_object_set_new(object, "total-progress", json_integer((json_int_t)job->total));
	json_object_set_new(object, "file", json_string(save->file));
	json_object_set_new(object, "live", json_boolean(save->live));
	json_object_set_new(object, "stored", json_integer((json_int_t)save->progress.stored));
	json_object_set_new(object, "waited", json_integer((json_int_t)save->progress.waited));
	json_object_set_new(object, "paused-ns",
			    json_integer((json_int_t)save->progress.paused_ns));
	if (save->progress.file_size) {
		json_object_set_new(object, "file-size",
				    json_integer((json_int_t)save->progress.file_size));
		json_object_set_new(object, "file-allocated",
				    json_integer((json_int_t)save->progress.file_allocated));
	}
}

static void save_job_destroy(struct job *job)
{
	struct save_job *save = to_save_job(job);

	machine_save_destroy(save->save);
	free(save->file);
	free(save);
}

static const struct job_ops save_job_ops = {
    .type = "save",
    .cancel = save_job_cancel,
    .describe = save_job_describe,
    .destroy = save_job_destroy,
};

static void save_job_done(void *context, struct error *error)
{
	struct save_job *save = context;

	save_job_look(save);
	machine_save_destroy(TAKE_PTR(save->save));
	job_conclude(&save->job, error ? error_message(error) : NULL);
	error_free(error);
}

struct error *save_job_start(struct jobs *jobs, struct machine *machine,
			     const struct machine_save_options *options, const char *id,
			     struct job **job)
{
	struct save_job *save = calloc(1, sizeof(*save));
	char *file = strdup(options->path);
	struct error *error;

	if (!save || !file) {
		free(save);
		free(file);
		channel_close(options->stream);
		return error_system(ENOMEM, "save job");
	}
	save->live = options->live;
	save->file = file;
	error = machine_save_start(machine, options, save_job_done, save, &save->save);
	if (!error)
		error = job_start(jobs, &save->job, &save_job_ops, id, NULL);
	if (error) {
		save_job_destroy(&save->job);
		return error;
	}
	save_job_look(save);
	*job = &save->job;
	return NULL;
}

void save_jobs_end(struct jobs *jobs)
{
	for (struct job *job = jobs_first(jobs); job; job = job->next)
		if (job->ops == &save_job_ops && to_save_job(job)->save) {
			machine_save_destroy(TAKE_PTR(to_save_job(job)->save));
			job_conclude(job, "the machine has ended");
		}
}
