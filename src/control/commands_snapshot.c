/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about snapshots of the machine. Main loop; a client controls the arguments. */
#include "control/commands.h"
#include "control/control.h"
#include "control/save_job.h"
#include "machine/machine_restore.h"
#include "migration/ram_save.h"

#define CHANNELS 2 /* unless the client says otherwise */

struct error *command_godwit_save(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine_save_options options = {
	    .path = qmp_string(arguments, "file", NULL),
	    .direct = qmp_boolean(arguments, "direct", false),
	    .live = qmp_boolean(arguments, "live", false),
	    .base = qmp_string(arguments, "base", NULL),
	};
	uint64_t channels = qmp_size(arguments, "channels", CHANNELS);
	struct job *job;

	if (channels < 1 || channels > RAM_SAVE_CHANNELS_MAX)
		return error_usage("channels: %lu is not 1 to %d", (unsigned long)channels,
				   RAM_SAVE_CHANNELS_MAX);
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
	return NULL;
}
