/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job behind `godwit resize`: an elastic device was asked for a size; the job lasts until the
 * guest has plugged or unplugged its way there. It does not end by itself when the guest cannot or
 * will not: it says why
 * ("reason") and goes on, because the guest may free memory later; the operator cancels or asks for
 * something else.
 */
#ifndef GODWIT_CONTROL_RESIZE_JOB_H
#define GODWIT_CONTROL_RESIZE_JOB_H

#include "base/event_loop.h"
#include "control/jobs.h"
#include "machine/machine.h"

struct resizer;

struct error *resizer_create(struct event_loop *loop, struct jobs *jobs,
			     struct resizer **resizer) MUST_CHECK;
/* Before the jobs are destroyed; accepts NULL. */
void resizer_destroy(struct resizer *resizer);
/*
 * Requests @size bytes of @device and starts a job; a job that runs for the same device concludes
 * with "replaced". @id as in job_start. On an error nothing has changed.
 */
struct error *resizer_start(struct resizer *resizer, struct virtio_device *device, uint64_t size,
			    const char *id, struct job **job) MUST_CHECK;
/* Looks at all resize jobs: call when something may have changed. A timer does too while one runs.
 */
void resizer_update(struct resizer *resizer);

#endif
