/* SPDX-License-Identifier: BSD-2-Clause */
/* Migration jobs, migrate_job.h. The migration itself has threads; everything here is on the main loop. */
#include "control/migrate_job.h"

#include <string.h>

#include "base/checked.h"
#include "control/event_throttle.h"
#include "control/update.h"

struct migrate_job {
	struct job job; /* first: job_ops get this */
	struct control *control;
	struct machine_migrate *migrate; /* NULL once it is over */
	struct update *update;		 /* NULL: it goes elsewhere */
	char *address;
	uint32_t channels;
	uint32_t told;				  /* progress.changes, by the last event */
	struct machine_migrate_progress progress; /* as last seen */
};

static struct migrate_job *to_migrate_job(struct job *job)
{
	return CONTAINER_OF(job, struct migrate_job, job);
}

static void migrate_job_look(struct migrate_job *migrate)
{
	if (!migrate->migrate)
		return;
	machine_migrate_get_progress(migrate->migrate, &migrate->progress);
	if (migrate->job.status == JOB_RUNNING)
		job_set_progress(&migrate->job, migrate->progress.done, migrate->progress.total);
}

static void set(json_t *object, const char *name, int64_t number)
{
	json_object_set_new(object, name, json_integer((json_int_t)number));
}

/* What post-copy does is called as in QEMU's MigrationStatus. */
static const char *phase_name(const struct machine_migrate_progress *progress)
{
	static const char *const names[] = {
	    [PRECOPY_WAITING] = "waiting",
	    [PRECOPY_FIRST] = "first",
	    [PRECOPY_AGAIN] = "again",
	    [PRECOPY_READY] = "ready",
	};

	if (!progress->postcopy || progress->state == HANDOVER_S_STAYED)
		return names[progress->precopy.phase];
	if (progress->connecting || progress->state == HANDOVER_S_REJOINING ||
	    progress->state == HANDOVER_S_ASKING)
		return "postcopy-recover";
	if (progress->state == HANDOVER_S_SERVING_CUT || progress->state == HANDOVER_S_UNDECIDED)
		return "postcopy-paused";
	return "postcopy-active";
}

static const char *mode_name(enum machine_migrate_mode mode)
{
	static const char *const names[] = {
	    [MACHINE_MIGRATE_PRECOPY] = "precopy",
	    [MACHINE_MIGRATE_POSTCOPY] = "postcopy",
	    [MACHINE_MIGRATE_HYBRID] = "hybrid",
	};

	return names[mode];
}

static json_t *describe_downtime(const struct machine_downtime *downtime)
{
	return json_pack(
	    "{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "stop-ns", (json_int_t)downtime->stop_ns,
	    "states-ns", (json_int_t)downtime->states_ns, "pages-ns",
	    (json_int_t)downtime->pages_ns, "load-ns", (json_int_t)downtime->load_ns, "confirm-ns",
	    (json_int_t)downtime->confirm_ns, "resume-ns", (json_int_t)downtime->resume_ns,
	    "total-ns", (json_int_t)downtime->total_ns);
}

static void describe_progress(const struct machine_migrate_progress *progress, json_t *object)
{
	const struct precopy_progress *precopy = &progress->precopy;

	json_object_set_new(object, "state", json_string(handover_state_name(progress->state)));
	json_object_set_new(object, "state-text",
			    json_string(handover_state_text(progress->state)));
	json_object_set_new(object, "phase", json_string(phase_name(progress)));
	json_object_set_new(object, "mode", json_string(mode_name(progress->mode)));
	if (progress->postcopy) {
		set(object, "postcopy-pages", (int64_t)progress->postcopy_pages);
		set(object, "lacking-pages", (int64_t)progress->postcopy_left);
		set(object, "requests", (int64_t)progress->requests);
		set(object, "requested-pages", (int64_t)progress->requested_pages);
	}
	set(object, "round", precopy->round);
	set(object, "sent", (int64_t)progress->sent);
	set(object, "pages", (int64_t)progress->pages);
	set(object, "zero-pages", (int64_t)progress->zero_pages);
	set(object, "compressed-pages", (int64_t)progress->compressed_pages);
	set(object, "state-bytes", (int64_t)progress->state_bytes);
	set(object, "bandwidth", (int64_t)progress->bandwidth);
	set(object, "max-downtime-ns", progress->max_downtime_ns);
	set(object, "send-rate", (int64_t)precopy->send_rate);
	set(object, "write-rate", (int64_t)precopy->write_rate);
	if (precopy->downtime_ns >= 0)
		set(object, "expected-downtime-ns", precopy->downtime_ns);
	if (precopy->time_ns >= 0)
		set(object, "expected-time-ns", precopy->time_ns);
	if (precopy->speed < 1) {
		json_object_set_new(object, "guest-speed-percent",
				    json_integer(MAX((json_int_t)(precopy->speed * 100), 1LL)));
		json_object_set_new(object, "guest-slowed", json_string(progress->slowed));
	}
	if (*progress->why)
		json_object_set_new(object, "why", json_string(progress->why));
	set(object, "elapsed-ns", progress->elapsed_ns);
	json_object_set_new(object, "downtime", describe_downtime(&progress->downtime));
}

/* The end comes through migrate_job_done. Refused once GO was sent. */
static struct error *migrate_job_cancel(struct job *job)
{
	return machine_migrate_cancel(to_migrate_job(job)->migrate);
}

static void migrate_job_details(struct job *job, json_t *object)
{
	struct migrate_job *migrate = to_migrate_job(job);

	migrate_job_look(migrate);
	set(object, "current-progress", (int64_t)job->current);
	set(object, "total-progress", (int64_t)job->total);
	json_object_set_new(object, "uri", json_string(migrate->address));
	set(object, "channels", migrate->channels);
	describe_progress(&migrate->progress, object);
}

static void migrate_job_destroy(struct job *job)
{
	struct migrate_job *migrate = to_migrate_job(job);

	machine_migrate_destroy(migrate->migrate);
	update_free(migrate->update);
	free(migrate->address);
	free(migrate);
}

static const struct job_ops migrate_job_ops = {
    .type = "migrate",
    .cancel = migrate_job_cancel,
    .describe = migrate_job_details,
    .destroy = migrate_job_destroy,
};

static const struct job_ops update_job_ops = {
    .type = "update",
    .cancel = migrate_job_cancel,
    .describe = migrate_job_details,
    .destroy = migrate_job_destroy,
};

static bool is_migrate_job(const struct job *job)
{
	return job->ops == &migrate_job_ops || job->ops == &update_job_ops;
}

static void emit(struct migrate_job *migrate, const char *status, const char *reason)
{
	json_t *data = json_pack("{s:s, s:s, s:s*}", "status", status, "job", migrate->job.id,
				 "reason", reason);

	migrate_job_details(&migrate->job, data);
	event_throttle_submit(migrate->control->throttle, "MIGRATION", data);
	json_decref(data);
}

/* It may have changed again since. */
static void migrate_job_changed(void *context)
{
	struct migrate_job *migrate = context;
	const struct machine_migrate_progress *progress = &migrate->progress;
	const char *reason = NULL, *status = NULL;

	migrate_job_look(migrate);
	if (*progress->recover_error)
		reason = progress->recover_error;
	/* The processes know what elsewhere an operator has to look at. */
	if (migrate->update) {
		if (progress->state == HANDOVER_S_UNDECIDED)
			update_decide(migrate->update, migrate->migrate);
		return;
	}
	if (progress->changes == migrate->told)
		return;
	migrate->told = progress->changes;
	if (progress->state == HANDOVER_S_UNDECIDED)
		status = "undecided";
	else if (progress->state == HANDOVER_S_SERVING)
		status = "postcopy-active";
	else if (progress->state == HANDOVER_S_SERVING_CUT)
		status = "postcopy-paused";
	if (status)
		emit(migrate, status, reason);
}

static void migrate_job_released(void *context)
{
	const struct migrate_job *migrate = context;

	update_released(migrate->update);
}

static void migrate_job_done(void *context, struct error *error)
{
	struct migrate_job *migrate = context;

	migrate_job_look(migrate);
	machine_migrate_destroy(TAKE_PTR(migrate->migrate));
	if (migrate->update)
		error = update_end(migrate->update, error);
	job_conclude(&migrate->job, error ? error_message(error) : NULL);
	emit(migrate, error ? "failed" : "completed", migrate->job.error);
	error_free(error);
}

struct error *migrate_job_start(struct control *control, struct update *update,
				const struct machine_migrate_options *given, const char *id,
				struct job **job)
{
	const struct job_ops *ops = update ? &update_job_ops : &migrate_job_ops;
	struct migrate_job *migrate = calloc(1, sizeof(*migrate));
	struct machine_migrate_options options = *given;
	struct error *error;

	if (!migrate) {
		update_free(update);
		return error_system(ENOMEM, "migration job");
	}
	migrate->control = control;
	migrate->update = update;
	options.released = migrate_job_released;
	migrate->channels = options.channels;
	migrate->address = strdup(options.label ?: options.address);
	error = migrate->address ? NULL : error_system(ENOMEM, "migration job");
	/* First what may refuse the id: a migration that has started may have used its descriptors. */
	if (!error)
		error = job_start(control->jobs, &migrate->job, ops, id, NULL);
	if (error) {
		migrate_job_destroy(&migrate->job);
		return error;
	}
	error = machine_migrate_start(control->machine, &options, migrate_job_done,
				      migrate_job_changed, migrate, &migrate->migrate);
	if (error) {
		job_conclude(&migrate->job, error_message(error));
		error_free(job_dismiss(&migrate->job));
		return error;
	}
	migrate_job_look(migrate);
	*job = &migrate->job;
	return NULL;
}

static struct job *newest(const struct jobs *jobs)
{
	struct job *job = jobs_first(jobs);

	while (job && !is_migrate_job(job))
		job = job->next;
	return job;
}

struct machine_migrate *migrate_job_current(const struct jobs *jobs)
{
	struct job *job = newest(jobs);

	return job ? to_migrate_job(job)->migrate : NULL;
}

json_t *migrate_job_describe(const struct jobs *jobs)
{
	struct job *job = newest(jobs);
	json_t *object;

	if (!job)
		return NULL;
	object = json_pack("{s:s, s:s}", "job", job->id, "status", job_status_name(job->status));
	if (job->error)
		json_object_set_new(object, "error", json_string(job->error));
	migrate_job_details(job, object);
	return object;
}

void migrate_jobs_end(struct jobs *jobs)
{
	for (struct job *job = jobs_first(jobs); job; job = job->next)
		if (is_migrate_job(job) && to_migrate_job(job)->migrate) {
			machine_migrate_destroy(TAKE_PTR(to_migrate_job(job)->migrate));
			job_conclude(job, "the machine has ended");
		}
}
