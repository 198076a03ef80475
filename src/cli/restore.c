/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit restore FILE`: a VM goes on from a snapshot. Its configuration is in the file; options
 * replace what belongs to this host: names, sockets, paths.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/memory_fault.h"
#include "cli/replace_options.h"
#include "cli/run_options.h"
#include "cli/stream_target.h"
#include "cli/vm.h"
#include "cli/vm_process.h"
#include "machine/machine_config.h"
#include "machine/machine_first_answer.h"
#include "machine/machine_restore.h"
#include "migration/ram_load.h"
#include "migration/ram_share.h"
#include "snapshot/snapshot_receive.h"

static const struct cli_option options[] = {
    {"lazy", CLI_FLAG, NULL, "let the guest run at once and bring memory meanwhile"},
    {"clone", CLI_FLAG, NULL,
     "share the file's pages with other clones, copying what is\nwritten to"},
    {"verify", CLI_REQUIRED, "WHEN", "a clone's pages: meanwhile (default), first or never"},
    {"channels", CLI_REQUIRED, "N", "threads that read, 1 to 16 (default: 2)"},
    {"direct", CLI_FLAG, NULL,
     "read past the page cache (O_DIRECT) or not at all;\n"
     "without, where the file system can"},
    {"cached", CLI_FLAG, NULL, "read through the page cache"},
    {"base", CLI_REQUIRED, "FILE", "where the snapshot's base is now"},
    {"first-answer", CLI_REQUIRED, "WHAT",
     "report when the guest first says a text\n"
     "(console:TEXT) or takes a connection (vsock:PORT)"},
    {"name", CLI_REQUIRED, "NAME", "another name for the VM"},
    {"kernel", CLI_REQUIRED, "FILE", "where the kernel is now, for the next reset"},
    {"initrd", CLI_REQUIRED, "FILE", "where the initial RAM disk is now"},
    {"disk", CLI_REQUIRED, "SPEC",
     "instead of the disk with the same id=ID, or the\n"
     "first, second … one"},
    {"net", CLI_REQUIRED, "SPEC", "instead of a network interface, likewise"},
    {"fs", CLI_REQUIRED, "SPEC", "instead of a shared folder, likewise"},
    {"vhost-user", CLI_REQUIRED, "SPEC", "instead of another device of a back-end, likewise"},
    {"vsock", CLI_REQUIRED, "SPEC", "instead of --vsock"},
    {"console", CLI_REQUIRED, "SPEC", "instead of --console"},
    {"serial", CLI_REQUIRED, "SPEC", "instead of --serial"},
    {"paused", CLI_FLAG, NULL, "do not let the guest go on yet; 'godwit resume' does"},
    {"log", CLI_REQUIRED, "LEVEL", "error, warning (default), info or debug"},
    {"pid-file", CLI_REQUIRED, "FILE", "write the process id to FILE"},
    {},
};

static struct error *read_config(const struct cli_arguments *arguments,
				 const struct snapshot_file *file, struct machine_config *config)
{
	TRY(machine_restore_config(file, config));
	TRY(replace_options(arguments, "the snapshot", config));
	config->lazy = cli_has(arguments, "lazy");
	if (cli_has(arguments, "clone"))
		machine_restore_clone_config(config);
	return machine_config_check(config);
}

/* --- Restoring --------------------------------------------------------------------------------- */

struct restore {
	struct snapshot_file *file; /* until the machine takes it over */
	struct machine_restore_options options;
	bool drawn;
};

static void draw(void *context, uint64_t done, uint64_t total)
{
	struct restore *restore = context;
	char bar[BAR_WIDTH_MAX + 1];

	restore->drawn = true;
	fprintf(stderr, "\r%s %s of %s\033[K", bar_format(done, total, 40, bar), human(done),
		human(total));
}

/* Signals wait for the main loop, which does not run yet. */
static bool cancelled(void *context)
{
	sigset_t pending;

	return sigpending(&pending) == 0 &&
	       (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM));
}

static void lost(void *context, const struct error *error)
{
	log_error("memory that the guest needs cannot be brought, the VM ends: %s",
		  error_message(error));
	_exit(1);
}

static struct error *start(struct machine *machine, void *context)
{
	struct restore *restore = context;
	struct machine_restore_report report;
	struct error *error;

	if (restore->options.clone)
		memory_fault_watch("it is a clone, and the file that it shares pages with has been "
				   "cut off, or its disk cannot be read");
	error = machine_restore(machine, TAKE_PTR(restore->file), &restore->options);
	if (restore->drawn)
		fputs("\r\033[K", stderr);
	if (error)
		return error;
	if (machine_restore_report(machine, &report))
		log_info("restored: first instruction after %.1f ms",
			 (double)report.started_ns / NS_PER_MS);
	return NULL;
}

/* What does not go together, by name. */
static struct error *check_clone(const struct cli_arguments *arguments,
				 struct machine_restore_options *restore)
{
	static const char *const whens[] = {
	    [MACHINE_VERIFY_MEANWHILE] = "meanwhile",
	    [MACHINE_VERIFY_FIRST] = "first",
	    [MACHINE_VERIFY_NEVER] = "never",
	};
	const char *when = cli_value(arguments, "verify", NULL);
	size_t i = 0;

	if (when && !restore->clone)
		return error_usage("--verify is for a --clone: others are always verified as they "
				   "are read");
	if (!restore->clone)
		return NULL;
	if (restore->lazy)
		return error_usage(
		    "--lazy is needless with --clone, which brings nothing before it "
		    "is needed: leave it out");
	if (restore->direct == SNAPSHOT_DIRECT_ON)
		return error_usage("--direct reads past the page cache, and a --clone shares it: "
				   "leave one out");
	if (cli_has(arguments, "base"))
		return error_usage("--base: a snapshot with a base cannot be cloned; make one file "
				   "of it with 'godwit snapshot flatten'");
	while (when && i < ARRAY_SIZE(whens) && strcmp(when, whens[i]) != 0)
		i++;
	if (i == ARRAY_SIZE(whens))
		return error_usage("--verify: '%s' is not meanwhile, first or never", when);
	restore->verify = (enum machine_verify)i;
	return NULL;
}

/* A stream comes once, in its order. */
static struct error *open_stream(const struct cli_arguments *arguments, struct channel *channel,
				 int *signals, struct snapshot_file **file)
{
	static const char *const needs_file[] = {"lazy", "clone", "direct", "cached", "base"};
	struct error *error;

	for (size_t i = 0; i < ARRAY_SIZE(needs_file); i++)
		if (cli_has(arguments, needs_file[i])) {
			channel_close(channel);
			return error_usage("--%s needs a file, and %s is a stream: leave it out, "
					   "or make a file of it with 'godwit snapshot convert'",
					   needs_file[i], arguments->positional[0]);
		}
	if (strcmp(cli_value(arguments, "channels", "1"), "1") != 0) {
		channel_close(channel);
		return error_usage("--channels needs a file, and %s is a stream: use 1",
				   arguments->positional[0]);
	}
	error = *signals < 0 ? vm_process_catch_signals(signals) : NULL;
	if (error) {
		channel_close(channel);
		return error;
	}
	channel_cancel_when(channel, *signals);
	return snapshot_receive(channel, false, file);
}

/*
 * @signals: what the signals that end a VM make readable from now on, which is closed after the file.
 * A stream may be waited for, and its command must end with us. Opening a named pipe waits too, which a
 * signal ends as it ends any program.
 */
static struct error *open_file(const struct cli_arguments *arguments, int *signals,
			       struct snapshot_file **file)
{
	struct snapshot_open_options open_options = {.base = cli_value(arguments, "base", NULL)};
	struct channel *channel = NULL;

	if (strncmp(arguments->positional[0], "exec:", 5) == 0)
		TRY(vm_process_catch_signals(signals));
	TRY(stream_source_open(arguments->positional[0], &channel));
	if (channel)
		return open_stream(arguments, channel, signals, file);
	TRY(snapshot_file_open(arguments->positional[0], &open_options, file));
	return cli_has(arguments, "clone") ? ram_share_supports(*file) : NULL;
}

static enum snapshot_direct wanted_direct(const struct cli_arguments *arguments)
{
	if (cli_has(arguments, "direct"))
		return SNAPSHOT_DIRECT_ON;
	return cli_has(arguments, "cached") ? SNAPSHOT_DIRECT_OFF : SNAPSHOT_DIRECT_AUTO;
}

static struct error *run_restore(const struct cli_arguments *arguments, int *status)
{
	AUTO_FREE struct machine_config *config = calloc(1, sizeof(*config));
	struct restore restore = {
	    .options = {.lazy = cli_has(arguments, "lazy"),
			.direct = wanted_direct(arguments),
			.clone = cli_has(arguments, "clone"),
			.first_answer = cli_value(arguments, "first-answer", NULL),
			.cancelled = cancelled,
			.lost = lost,
			.context = &restore}};
	struct vm_process_plan plan = {
	    .config = config,
	    .log_level = LOG_LEVEL_WARNING,
	    .pid_file = cli_value(arguments, "pid-file", NULL),
	    .start = start,
	    .context = &restore,
	};
	AUTO_CLOSE int signals = -1;
	uint64_t channels = 0;
	struct error *error;

	if (!config)
		return error_system(ENOMEM, "configuration");
	TRY(error_prefix(number_parse(cli_value(arguments, "channels", "2"), UINT32_MAX, &channels),
			 "--channels"));
	if (channels < 1 || channels > RAM_LOAD_CHANNELS_MAX)
		return error_usage("--channels: %lu is not 1 to %d", (unsigned long)channels,
				   RAM_LOAD_CHANNELS_MAX);
	if (restore.options.lazy && restore.options.direct == SNAPSHOT_DIRECT_ON)
		return error_usage("--direct is for a restore that is not --lazy: leave one out");
	if (cli_has(arguments, "direct") && cli_has(arguments, "cached"))
		return error_usage("--direct and --cached exclude each other: leave one out");
	TRY(check_clone(arguments, &restore.options));
	if (restore.options.first_answer)
		TRY(error_prefix(machine_first_answer_check(restore.options.first_answer),
				 "--first-answer"));
	restore.options.channels = (uint32_t)channels;
	if (isatty(STDERR_FILENO))
		restore.options.progress = draw;
	TRY(run_options_log_level(arguments, &plan.log_level));
	error = open_file(arguments, &signals, &restore.file);
	if (!error)
		error = read_config(arguments, restore.file, config);
	if (!error)
		error = vm_process_run(&plan, status);
	else
		machine_config_clear(config);
	snapshot_file_close(restore.file);
	return error;
}

const struct cli_command cli_restore = {
    .name = "restore",
    .positionals = "FILE|exec:COMMAND|fd:N",
    .minimum = 1,
    .maximum = 1,
    .summary = "Let a VM go on from a snapshot file",
    .description = "As with 'godwit run', the VM lives as long as this process. It goes on where\n"
		   "it was saved; its disks must hold what they held then. The guest is told\n"
		   "that it is a copy (VM generation id). A command (exec:'zstd -dc FILE'), an\n"
		   "inherited descriptor, a named pipe or a file may bring a stream that 'godwit\n"
		   "save' has sent.",
    .options = options,
    .run = run_restore,
};
