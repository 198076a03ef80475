/* SPDX-License-Identifier: BSD-2-Clause */
/* Wires the control of a VM, control.h. Main loop only; nothing here can fail once it is open. */
#include "control/control.h"

#include <string.h>

#include "control/event_throttle.h"
#include "control/migrate_job.h"
#include "control/qmp_server.h"
#include "control/save_job.h"

static void emit_event(void *context, json_t *event)
{
	struct control *control = context;

	if (control->server)
		qmp_server_broadcast(control->server, event);
}

static void job_changed(void *context, const struct job *job)
{
	struct control *control = context;
	json_t *data =
	    json_pack("{s:s,s:s}", "id", job->id, "status", job_status_name(job->status));

	event_throttle_submit(control->throttle, "JOB_STATUS_CHANGE", data);
	json_decref(data);
}

void control_machine_event(void *context, const char *event, json_t *data)
{
	struct control *control = context;

	event_throttle_submit(control->throttle, event, data);
	if (control->machine && !control->closing &&
	    strcmp(event, "MEMORY_DEVICE_SIZE_CHANGE") == 0)
		resizer_update(control->resizer);
}

struct error *control_create(struct event_loop *loop, struct control **result)
{
	struct control *control = calloc(1, sizeof(*control));
	struct error *error;

	if (!control)
		return error_system(ENOMEM, "control");
	control->loop = loop;
	error = event_throttle_create(loop, emit_event, control, &control->throttle);
	if (!error)
		error = jobs_create(job_changed, control, &control->jobs);
	if (!error)
		error = resizer_create(loop, control->jobs, &control->resizer);
	if (error) {
		control_destroy(control);
		return error;
	}
	*result = control;
	return NULL;
}

struct error *control_open(struct control *control, struct machine *machine, const char *path)
{
	control->machine = machine;
	return qmp_server_create(control->loop, path, control_commands, control, &control->server);
}

struct error *control_open_handed(struct control *control, struct machine *machine, int fd)
{
	control->machine = machine;
	return qmp_server_adopt(control->loop, fd, control_commands, control, &control->server);
}

void control_listen(struct control *control)
{
	qmp_server_accept(control->server, true);
}

void control_set_process(struct control *control, struct control_process *process)
{
	control->process = process;
}

void control_close(struct control *control)
{
	control->closing = true;
	save_jobs_end(control->jobs);
	migrate_jobs_end(control->jobs);
	event_throttle_flush(control->throttle);
	qmp_server_destroy(TAKE_PTR(control->server));
	control->machine = NULL;
}

void control_destroy(struct control *control)
{
	if (!control)
		return;
	qmp_server_destroy(control->server);
	resizer_destroy(control->resizer);
	jobs_destroy(control->jobs);
	event_throttle_destroy(control->throttle);
	free(control);
}
