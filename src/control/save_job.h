/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job behind `godwit save`: lasts until the file is durable and in place, or the save has
 * failed or was cancelled; then the file is what it was before. Main loop only.
 */
#ifndef GODWIT_CONTROL_SAVE_JOB_H
#define GODWIT_CONTROL_SAVE_JOB_H

#include "control/jobs.h"
#include "machine/machine_save.h"

/*
 * Starts a save of @machine and a job for it; @id as in job_start. Takes @options->stream over. On
 * an error nothing has changed.
 */
struct error *save_job_start(struct jobs *jobs, struct machine *machine,
			     const struct machine_save_options *options, const char *id,
			     struct job **job) MUST_CHECK;
/* Cancels the saves that run and waits for them; before the machine is destroyed. */
void save_jobs_end(struct jobs *jobs);

#endif
