/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit run --incoming URI`: waits for a source, makes the machine that it describes, with what
 * belongs to this host replaced, and runs the main loop, on which the guest arrives.
 *
 * Signals end the wait. From when there is a machine they are the VM's (vm_process.c).
 */
#include "cli/incoming.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/size.h"
#include "cli/replace_options.h"
#include "cli/run_options.h"
#include "cli/vm_process.h"
#include "machine/machine_config.h"
#include "machine/machine_hand.h"
#include "machine/machine_incoming.h"
#include "virtio/handed.h"

/* What the source says, and nobody here can say otherwise. */
static struct error *check_options(const struct cli_arguments *arguments)
{
	static const char *const others[] = {"cmdline",	  "cpus",  "cpu",	   "memory",
					     "elastic",	  "rng",   "balloon",	   "on-crash",
					     "no-reboot", "slots", "numa-distance"};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (cli_has(arguments, others[i]))
			return error_usage("--%s comes from the source with --incoming: leave it "
					   "out",
					   others[i]);
	return NULL;
}

static struct error *start(struct machine *machine, void *context)
{
	struct machine_incoming **incoming = context;

	TRY(machine_incoming_start(machine, *incoming));
	*incoming = NULL; /* the machine's */
	return NULL;
}

/* Not by the usual way: a device might take zeros for what is not there. */
static void lost(void *context, const struct error *error)
{
	log_error("the VM ends, and its guest is lost: %s", error_message(error));
	_exit(1);
}

/*
 * --- An update ---------------------------------------------------------------------------------
 */

/* What comes from the process that is to be replaced, each until somebody takes it over. */
struct taking {
	json_t *machine;
	struct vm_process_handed process;
	int token_fd;
	struct vm_process *self; /* once there is one */
};

static struct error *take_document(const char *number, struct taking *taking)
{
	uint64_t fd;

	TRY(number_parse(number, INT32_MAX, &fd));
	TRY(machine_hand_read((int)fd, &taking->machine));
	taking->process.name_fd = handed_take(taking->machine, "name");
	taking->process.socket_fd = handed_take(taking->machine, "socket");
	taking->process.keeper_fd = handed_take(taking->machine, "keeper");
	taking->token_fd = handed_take(taking->machine, "token");
	if (taking->process.name_fd < 0 || taking->process.socket_fd < 0 ||
	    taking->process.keeper_fd < 0 || taking->token_fd < 0)
		return error_new(EBADMSG, "not all descriptors have come along");
	return NULL;
}

static void started(void *context)
{
	struct taking *taking = context;

	if (taking->machine)
		vm_process_take_over(taking->self);
}

static void listening(void *context, const char *address)
{
	log_info("waiting for a VM at %s", address);
}

static struct error *read_config(const struct cli_arguments *arguments,
				 const struct machine_incoming *incoming, json_t *handed,
				 struct machine_config *config)
{
	TRY(machine_incoming_config(incoming, config));
	TRY(replace_options(arguments, "the source", config));
	config->handed = json_incref(handed);
	return machine_config_check(config);
}

static struct error *run(const struct cli_arguments *arguments, struct machine_incoming **incoming,
			 struct vm_process_plan *plan, json_t *handed, int *status)
{
	struct error *error = read_config(arguments, *incoming, handed, plan->config);

	if (error)
		machine_config_clear(plan->config);
	else
		error = vm_process_run(plan, status);
	/* It knows the reason before this process has ended. */
	if (error && *incoming)
		machine_incoming_refuse(*incoming, error);
	return error;
}

struct error *incoming_run(const struct cli_arguments *arguments, int *status)
{
	AUTO_FREE struct machine_config *config = calloc(1, sizeof(*config));
	struct taking taking = {.token_fd = -1};
	struct machine_incoming_options options = {
	    .address = cli_value(arguments, "incoming", NULL),
	    .tls = cli_value(arguments, "tls", NULL),
	    .listening = listening,
	    .lost = lost,
	    .started = started,
	    .context = &taking,
	};
	const char *document = cli_value(arguments, "take-over", NULL);
	struct machine_incoming *incoming = NULL;
	struct vm_process_plan plan = {
	    .config = config,
	    .log_level = LOG_LEVEL_WARNING,
	    .pid_file = cli_value(arguments, "pid-file", NULL),
	    .start = start,
	    .context = &incoming,
	    .handed = document ? &taking.process : NULL,
	    .process = &taking.self,
	};
	AUTO_CLOSE int signals = -1;
	struct error *error;

	if (!config)
		return error_system(ENOMEM, "configuration");
	TRY(check_options(arguments));
	TRY(run_options_log_level(arguments, &plan.log_level));
	log_set_level(plan.log_level);
	TRY(vm_process_catch_signals(&signals));
	options.cancel_fd = signals;
	if (document)
		TRY(error_prefix(take_document(document, &taking), "--take-over"));
	options.update = document;
	options.token_fd = TAKE_FD(taking.token_fd);
	TRY(error_prefix(machine_incoming_accept(&options, &incoming), "--incoming"));
	error = run(arguments, &incoming, &plan, taking.machine, status);
	machine_incoming_close(incoming);
	json_decref(taking.machine);
	return error;
}
