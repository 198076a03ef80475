/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Resize jobs, resize_job.h. Main loop only; the device's own state is read through
 * virtio_mem_status. The guest controls when and whether a job gets anywhere. Progress counts bytes
 * from where the device stood when the job began.
 */
#include "control/resize_job.h"

#include <string.h>

#include "base/checked.h"
#include "base/clock.h"

/* The machine tells of changes of the size; of a new reason nobody does, so look this often while
 * jobs run. */
#define POLL_NS (100 * NS_PER_MS)

struct resize_job {
	struct job job; /* first: job_ops get this */
	struct virtio_device *device;
	uint64_t start, target; /* bytes plugged */
	uint64_t plugged;	/* as last seen */
	enum virtio_mem_reason reason;
};

struct resizer {
	struct jobs *jobs;
	struct event_timer *timer;
};

static struct resize_job *to_resize_job(struct job *job)
{
	return CONTAINER_OF(job, struct resize_job, job);
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* Takes over what the device says now. */
static void resize_job_look(struct resize_job *resize, const struct virtio_mem_status *status)
{
	uint64_t total = distance(resize->start, resize->target);
	uint64_t left = distance(status->plugged, resize->target);

	resize->plugged = status->plugged;
	resize->reason = status->reason;
	/* A guest may also move the other way (a reboot starts from nothing); that is no progress.
	 */
	job_set_progress(&resize->job, total - MIN(left, total), total);
}

static struct error *resize_job_cancel(struct job *job)
{
	struct resize_job *resize = to_resize_job(job);
	struct virtio_mem_status status;
	struct error *error;

	virtio_mem_status(resize->device, &status);
	resize_job_look(resize, &status);
	/* What is plugged is always a size that may be requested. */
	error = virtio_mem_request(resize->device, status.plugged);
	job_conclude(job, error ? error_message(error) : "cancelled");
	error_free(error);
	return NULL;
}

static void resize_job_describe(struct job *job, json_t *object)
{
	struct resize_job *resize = to_resize_job(job);
	const char *reason = virtio_mem_reason_name(resize->reason);

	json_object_set_new(object, "device", json_string(resize->device->id));
	json_object_set_new(object, "requested", json_integer((json_int_t)resize->target));
	json_object_set_new(object, "plugged", json_integer((json_int_t)resize->plugged));
	json_object_set_new(object, "reason", json_string(reason));
}

static void resize_job_destroy(struct job *job)
{
	free(to_resize_job(job));
}

static const struct job_ops resize_job_ops = {
    .type = "resize",
    .cancel = resize_job_cancel,
    .describe = resize_job_describe,
    .destroy = resize_job_destroy,
};

/* Ends the job if it is over. */
static void resize_job_update(struct resize_job *resize)
{
	struct virtio_mem_status status;

	virtio_mem_status(resize->device, &status);
	resize_job_look(resize, &status);
	if (status.requested != resize->target)
		job_conclude(&resize->job, "replaced: the device was asked for another size");
	else if (status.plugged == resize->target)
		job_conclude(&resize->job, NULL);
}

void resizer_update(struct resizer *resizer)
{
	bool running = false;

	for (struct job *job = jobs_first(resizer->jobs); job; job = job->next) {
		if (job->ops != &resize_job_ops || job->status == JOB_CONCLUDED)
			continue;
		resize_job_update(to_resize_job(job));
		running |= job->status != JOB_CONCLUDED;
	}
	if (running)
		event_timer_arm(resizer->timer, POLL_NS);
}

static void timer_expired(void *context)
{
	resizer_update(context);
}

struct error *resizer_create(struct event_loop *loop, struct jobs *jobs, struct resizer **result)
{
	struct resizer *resizer = calloc(1, sizeof(*resizer));
	struct error *error;

	if (!resizer)
		return error_system(ENOMEM, "resize jobs");
	resizer->jobs = jobs;
	error = event_timer_create(loop, timer_expired, resizer, &resizer->timer);
	if (error) {
		free(resizer);
		return error;
	}
	*result = resizer;
	return NULL;
}

void resizer_destroy(struct resizer *resizer)
{
	if (!resizer)
		return;
	event_timer_destroy(resizer->timer);
	free(resizer);
}

/* The job that runs for @device, or NULL. */
static struct job *find_running(struct resizer *resizer, const struct virtio_device *device)
{
	for (struct job *job = jobs_first(resizer->jobs); job; job = job->next)
		if (job->ops == &resize_job_ops && job->status != JOB_CONCLUDED &&
		    to_resize_job(job)->device == device)
			return job;
	return NULL;
}

struct error *resizer_start(struct resizer *resizer, struct virtio_device *device, uint64_t size,
			    const char *id, struct job **job)
{
	struct job *earlier = find_running(resizer, device);
	struct virtio_mem_status before, after;
	struct resize_job *resize;
	struct error *error;

	resize = calloc(1, sizeof(*resize));
	if (!resize)
		return error_system(ENOMEM, "resize job");
	virtio_mem_status(device, &before);
	resize->device = device;
	resize->start = before.plugged;
	resize->target = size;
	error = virtio_mem_request(device, size);
	if (error) {
		free(resize);
		return error;
	}
	error = job_start(resizer->jobs, &resize->job, &resize_job_ops, id, device->id);
	if (error) {
		error_free(virtio_mem_request(device, before.requested));
		free(resize);
		return error;
	}
	if (earlier)
		job_conclude(earlier, "replaced: the device was asked for another size");
	virtio_mem_status(device, &after);
	resize_job_look(resize, &after);
	*job = &resize->job;
	resizer_update(resizer);
	return NULL;
}
