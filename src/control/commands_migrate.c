/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about moving the machine to another host. Main loop; a client controls the arguments. */
#include <limits.h>
#include <string.h>

#include "base/checked.h"
#include "control/commands.h"
#include "control/control.h"
#include "control/migrate_job.h"
#include "control/qmp_server.h"
#include "machine/machine_incoming.h"

/* --- Addresses --------------------------------------------------------------------------------- */

/* The descriptors that "fd:NAME+fd:NAME" stands for, as numbers, which are the caller's. */
struct descriptors {
	int fds[TRANSPORT_FDS_MAX];
	uint32_t count;
	char text[TRANSPORT_FDS_MAX * 16];
};

static void close_all(struct descriptors *descriptors)
{
	while (descriptors->count)
		close_fd(&descriptors->fds[--descriptors->count]);
}

static struct error *take_one(struct qmp_descriptors *named, const char *name, size_t length,
			      struct descriptors *descriptors)
{
	AUTO_FREE char *copy = strndup(name, length);

	if (!copy)
		return error_system(ENOMEM, "fd");
	if (descriptors->count == TRANSPORT_FDS_MAX)
		return error_usage("uri: more than %d descriptors", TRANSPORT_FDS_MAX);
	TRY(qmp_descriptors_take(named, copy, &descriptors->fds[descriptors->count]));
	descriptors->count++;
	return NULL;
}

static struct error *take_descriptors(const struct control *control, const char *text,
				      struct descriptors *descriptors)
{
	struct qmp_descriptors *named = qmp_server_descriptors(control->server);
	size_t used = 0;

	if (!named)
		return error_new(EINVAL, "fd:%s: there is no connection", text);
	for (;;) {
		size_t length = strcspn(text, "+");

		TRY(take_one(named, text, length, descriptors));
		if (!text[length])
			break;
		text += length + 1;
		if (strncmp(text, "fd:", 3) == 0)
			text += 3;
	}
	for (uint32_t i = 0; i < descriptors->count; i++)
		used += (size_t)snprintf(descriptors->text + used, sizeof(descriptors->text) - used,
					 "%s%d", i ? "+" : "fd:", descriptors->fds[i]);
	return NULL;
}

/* --- Migrating --------------------------------------------------------------------------------- */

static struct error *read_mode(json_t *arguments, struct machine_migrate_options *options)
{
	static const char *const modes[] = {
	    [MACHINE_MIGRATE_PRECOPY] = "precopy",
	    [MACHINE_MIGRATE_POSTCOPY] = "postcopy",
	    [MACHINE_MIGRATE_HYBRID] = "hybrid",
	};
	const char *mode = qmp_string(arguments, "mode", "precopy");
	uint64_t rounds = qmp_size(arguments, "stalled-rounds", MACHINE_MIGRATE_STALLED);
	size_t i = 0;

	while (i < ARRAY_SIZE(modes) && strcmp(mode, modes[i]) != 0)
		i++;
	if (i == ARRAY_SIZE(modes))
		return error_usage("mode: '%s' is none of 'precopy', 'postcopy', 'hybrid'", mode);
	options->mode = (enum machine_migrate_mode)i;
	if (options->mode != MACHINE_MIGRATE_HYBRID && json_object_get(arguments, "stalled-rounds"))
		return error_usage("stalled-rounds: is for the mode 'hybrid'");
	options->stalled_rounds = (uint32_t)MIN(rounds, (uint64_t)UINT32_MAX);
	return NULL;
}

static struct error *check_address(const char *address)
{
	if (strncmp(address, "exec:", 5) == 0)
		return error_usage("uri: a VM runs no commands: start it once for each connection, "
				   "send its sockets with 'getfd', and migrate to fd:NAME+fd:NAME "
				   "('godwit migrate' does all that)");
	return NULL;
}

static struct error *read_options(json_t *arguments, struct machine_migrate_options *options)
{
	const char *compress = qmp_string(arguments, "compress", "none");
	uint64_t channels = qmp_size(arguments, "channels", MACHINE_MIGRATE_CHANNELS);
	uint64_t downtime = qmp_size(arguments, "max-downtime", MACHINE_MIGRATE_DOWNTIME_MS);

	if (strcmp(compress, "none") != 0 && strcmp(compress, "zstd") != 0)
		return error_usage("compress: '%s' is neither 'none' nor 'zstd'", compress);
	TRY(check_address(options->address));
	TRY(read_mode(arguments, options));
	options->zstd = strcmp(compress, "zstd") == 0;
	options->channels = (uint32_t)MIN(channels, (uint64_t)UINT32_MAX);
	options->downtime_ms = (uint32_t)MIN(downtime, (uint64_t)UINT32_MAX);
	options->bandwidth = qmp_size(arguments, "bandwidth", 0);
	options->share_memory = qmp_boolean(arguments, "share-memory", false);
	options->auto_converge = qmp_boolean(arguments, "auto-converge", false);
	options->tls = qmp_string(arguments, "tls", NULL);
	options->tls_name = qmp_string(arguments, "tls-name", NULL);
	return NULL;
}

struct error *command_godwit_migrate(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine_migrate_options options = {.address = qmp_string(arguments, "uri", NULL)};
	struct descriptors descriptors = {};
	struct error *error = NULL;
	struct job *job;

	options.label = options.address;
	TRY(read_options(arguments, &options));
	if (strncmp(options.address, "fd:", 3) == 0) {
		error = take_descriptors(control, options.address + 3, &descriptors);
		options.address = descriptors.text;
	}
	if (!error)
		error = migrate_job_start(control, NULL, &options,
					  qmp_string(arguments, "job-id", NULL), &job);
	if (error) {
		close_all(&descriptors);
		return error;
	}
	*result = json_pack("{s:s}", "job", job->id);
	return NULL;
}

static struct error *current(const struct control *control, struct machine_migrate **migrate)
{
	*migrate = migrate_job_current(control->jobs);
	return *migrate ? NULL : error_new(ENOENT, "no migration is under way");
}

struct error *command_godwit_migrate_limit(void *context, json_t *arguments, json_t **result)
{
	struct machine_migrate_progress progress;
	struct machine_migrate *migrate;
	uint64_t downtime = qmp_size(arguments, "max-downtime", 0);

	TRY(current(context, &migrate));
	if (json_object_get(arguments, "max-downtime") &&
	    (!downtime || downtime > MACHINE_MIGRATE_DOWNTIME_MAX))
		return error_usage("max-downtime: %lu is not 1 to %d milliseconds",
				   (unsigned long)downtime, MACHINE_MIGRATE_DOWNTIME_MAX);
	machine_migrate_get_progress(migrate, &progress);
	machine_migrate_limit(migrate, qmp_size(arguments, "bandwidth", progress.bandwidth),
			      (uint32_t)downtime);
	return NULL;
}

struct error *command_godwit_migrate_start_postcopy(void *context, json_t *arguments,
						    json_t **result)
{
	struct machine_migrate *migrate;

	TRY(current(context, &migrate));
	return machine_migrate_start_postcopy(migrate);
}

static struct error *recover(struct control *control, const char *address)
{
	struct machine_migrate *migrate = migrate_job_current(control->jobs);
	struct machine_incoming_report report;

	if (migrate)
		return machine_migrate_recover(migrate, address);
	if (machine_incoming_get_report(control->machine, &report) &&
	    !handover_is_over(report.state))
		return machine_incoming_recover(control->machine, address);
	return error_new(ENOENT, "no migration is under way: nothing is to be recovered");
}

/* At a source: connects to @uri. At a destination: waits there. */
struct error *command_godwit_migrate_recover(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	const char *address = qmp_string(arguments, "uri", "");
	struct descriptors descriptors = {};
	struct error *error = NULL;

	TRY(check_address(address));
	if (strncmp(address, "fd:", 3) == 0) {
		error = take_descriptors(control, address + 3, &descriptors);
		address = descriptors.text;
	}
	if (!error)
		error = recover(control, address);
	if (error)
		close_all(&descriptors);
	return error;
}

struct error *command_godwit_migrate_settle(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	const char *action = qmp_string(arguments, "action", "");
	struct machine_migrate *migrate = migrate_job_current(control->jobs);
	bool resume_here = strcmp(action, "resume-here") == 0;
	struct machine_incoming_report report;

	if (!resume_here && strcmp(action, "give-up") != 0)
		return error_usage("action: '%s' is neither 'resume-here' nor 'give-up'", action);
	if (migrate)
		return machine_migrate_settle(migrate, resume_here);
	if (machine_incoming_get_report(control->machine, &report) &&
	    !handover_is_over(report.state))
		return machine_incoming_settle(control->machine, resume_here);
	return error_new(ENOENT, "no migration is under way: nothing is to be settled");
}

static json_t *describe_incoming(const struct machine_incoming_report *report)
{
	json_t *object = json_pack(
	    "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
	    handover_state_name(report->state), "state-text", handover_state_text(report->state),
	    "round", (json_int_t)report->received.round, "received",
	    (json_int_t)report->received.bytes, "pages", (json_int_t)report->received.pages,
	    "zero-pages", (json_int_t)report->received.zero_pages, "state-bytes",
	    (json_int_t)report->received.state_bytes, "load-ns", (json_int_t)report->load_ns,
	    "resume-ns", (json_int_t)report->resume_ns);

	if (report->postcopy) {
		const struct postcopy_destination_progress *brought = &report->brought;

		json_object_set_new(object, "postcopy-pages",
				    json_integer((json_int_t)brought->total));
		json_object_set_new(object, "lacking-pages",
				    json_integer((json_int_t)brought->lacking));
		json_object_set_new(object, "dropped-pages",
				    json_integer((json_int_t)brought->dropped));
		json_object_set_new(object, "waits", json_integer((json_int_t)brought->asked));
		json_object_set_new(object, "requests",
				    json_integer((json_int_t)brought->requests));
	}
	if (report->listening)
		json_object_set_new(object, "listening", json_true());
	if (*report->reason)
		json_object_set_new(object, "reason", json_string(report->reason));
	return object;
}

/* {incoming?, outgoing?}: what is known of either; a machine may have come and go again. */
struct error *command_godwit_migration(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct machine_incoming_report report;
	json_t *outgoing = migrate_job_describe(control->jobs);

	*result = json_object();
	if (machine_incoming_get_report(control->machine, &report))
		json_object_set_new(*result, "incoming", describe_incoming(&report));
	if (outgoing)
		json_object_set_new(*result, "outgoing", outgoing);
	return NULL;
}
