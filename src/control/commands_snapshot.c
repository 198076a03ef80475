/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about snapshots of the machine. Main loop; a client controls the arguments. */
#include <string.h>

#include "control/commands.h"
#include "control/control.h"
#include "control/qmp_server.h"
#include "control/save_job.h"
#include "machine/machine_restore.h"
#include "migration/ram_save.h"

#define CHANNELS 2 /* unless the client says otherwise */

/* The stream that a file "fd:NAME" stands for; NULL for a file. */
static struct error *open_stream(const struct control *control, const char *file,
				 struct channel **stream)
{
	struct qmp_descriptors *descriptors = qmp_server_descriptors(control->server);
	int fd;

	if (strncmp(file, "exec:", 5) == 0)
		return error_usage("%s: a VM runs no commands: start it, send its pipe with "
				   "'getfd', and save to fd:NAME ('godwit save' does all that)",
				   file);
	if (strncmp(file, "fd:", 3) != 0)
		return NULL;
	if (!descriptors)
		return error_new(EINVAL, "%s: there is no connection", file);
	TRY(qmp_descriptors_take(descriptors, file + 3, &fd));
	return channel_open(fd, CHANNEL_WRITE, file, stream);
}

struct error *command_godwit_save(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine_save_options options = {
	    .path = qmp_string(arguments, "file", NULL),
	    .direct = SNAPSHOT_DIRECT_AUTO,
	    .live = qmp_boolean(arguments, "live", false),
	    .base = qmp_string(arguments, "base", NULL),
	};
	uint64_t channels;
	struct job *job;

	if (json_object_get(arguments, "direct"))
		options.direct = qmp_boolean(arguments, "direct", false) ? SNAPSHOT_DIRECT_ON
									 : SNAPSHOT_DIRECT_OFF;
	TRY(open_stream(control, options.path, &options.stream));
	channels = qmp_size(arguments, "channels", options.stream ? 1 : CHANNELS);
	if (channels < 1 || channels > RAM_SAVE_CHANNELS_MAX) {
		channel_close(options.stream);
		return error_usage("channels: %lu is not 1 to %d", (unsigned long)channels,
				   RAM_SAVE_CHANNELS_MAX);
	}
	options.channels = (uint32_t)channels;
	TRY(save_job_start(control->jobs, control->machine, &options,
			   qmp_string(arguments, "job-id", NULL), &job));
	*result = json_pack("{s:s}", "job", job->id);
	return NULL;
}

struct error *command_godwit_restore(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine_restore_report report;

	if (!machine_restore_report(control->machine, &report)) {
		*result = json_pack("{s:b}", "restored", false);
		return NULL;
	}
	*result = json_pack("{s:b, s:b, s:b, s:I, s:I, s:I, s:I}", "restored", true, "clone",
			    report.clone, "resident", report.resident_ns != 0, "total",
			    (json_int_t)report.total, "done", (json_int_t)report.done, "asked",
			    (json_int_t)report.asked, "started-ns", (json_int_t)report.started_ns);
	if (report.resident_ns)
		json_object_set_new(*result, "resident-ns",
				    json_integer((json_int_t)report.resident_ns));
	if (report.answer)
		json_object_set_new(*result, "answer", json_string(report.answer));
	if (report.answer_ns)
		json_object_set_new(*result, "answer-ns",
				    json_integer((json_int_t)report.answer_ns));
	return NULL;
}
