/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job behind `godwit migrate` and `godwit update`: lasts until the guest, and all of its
 * memory, is at the destination (the VM then ends) or it is certain that it stays here. A
 * migration that is UNDECIDED is a job that runs and that `godwit migrate --resume-here` or
 * `--give-up` ends. Main loop only.
 *
 * Each change of what becomes of the guest is an event MIGRATION with the job's own description
 * and its `status`: completed, failed, undecided; postcopy-active and postcopy-paused while the
 * guest runs there and its memory follows.
 */
#ifndef GODWIT_CONTROL_MIGRATE_JOB_H
#define GODWIT_CONTROL_MIGRATE_JOB_H

#include "control/control.h"
#include "machine/machine_migrate.h"

struct update;

/*
 * Starts a migration of the machine and a job for it; @id as in job_start. @update: the process
 * that it goes to (update.h), taken over also on error, or NULL. On an error nothing has changed.
 */
struct error *migrate_job_start(struct control *control, struct update *update,
				const struct machine_migrate_options *options, const char *id,
				struct job **job) MUST_CHECK;
/* The migration of the job that runs, or NULL. */
struct machine_migrate *migrate_job_current(const struct jobs *jobs);
/* The description of the newest migration, or NULL. A new reference. */
json_t *migrate_job_describe(const struct jobs *jobs);
/* Ends the migrations that run and waits for them; before the machine is destroyed. */
void migrate_jobs_end(struct jobs *jobs);

#endif
