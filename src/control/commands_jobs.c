/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands on jobs. Main loop; a client controls the arguments, whose types the schema has checked.
 */
#include "control/commands.h"
#include "control/control.h"

struct error *command_query_jobs(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	resizer_update(control->resizer);
	*result = jobs_describe(control->jobs);
	return NULL;
}

struct error *command_job_cancel(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct job *job;

	TRY(jobs_find(control->jobs, qmp_string(arguments, "id", ""), &job));
	return job_cancel(job);
}

struct error *command_job_dismiss(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct job *job;

	TRY(jobs_find(control->jobs, qmp_string(arguments, "id", ""), &job));
	return job_dismiss(job);
}
