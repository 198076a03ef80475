/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit run`: one process is one VM. The main thread runs the main loop, on which the machine's
 * control, the socket and the signals live.
 *
 * SIGTERM and SIGINT press the guest's power button; a second one, or one while the guest cannot
 * react (paused, crashed), ends the VM at once. The process stays small: one malloc arena, memory
 * that was freed goes back to the kernel.
 */
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/log.h"
#include "cli/command.h"
#include "cli/command_table.h"
#include "cli/run_options.h"
#include "control/control.h"
#include "control/run_directory.h"

/* What one run holds; each member is released in reverse order by run_end. */
struct run {
	struct run_entry *entry;
	struct event_loop *loop;
	struct control *control;
	struct machine *machine;
	int signal_fd;
	struct event_source *signal_source;
	bool asked;	      /* a signal has pressed the power button */
	const char *pid_file; /* once written */
};

static void limit_own_memory(void)
{
	mallopt(M_ARENA_MAX, 1);
	/* Larger buffers (JSON of a big answer) are mapped, and unmapped when freed. */
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	mallopt(M_TRIM_THRESHOLD, 64 * 1024);
	mallopt(M_TOP_PAD, 4 * 1024);
}

static void signal_arrived(void *context, uint32_t events)
{
	struct run *run = context;
	struct signalfd_siginfo info;

	if (read(run->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (!run->asked && machine_state(run->machine) == MACHINE_RUNNING) {
		log_info(
		    "signal %u: pressing the guest's power button; another one ends it at once",
		    info.ssi_signo);
		run->asked = true;
		machine_powerdown(run->machine);
	} else {
		log_info("signal %u: ending the VM", info.ssi_signo);
		machine_shutdown(run->machine, false, "host-signal");
	}
}

/* Takes over SIGTERM, SIGINT and SIGHUP; before any thread starts, so that all inherit it. */
static struct error *block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	signal(SIGPIPE, SIG_IGN); /* writes report EPIPE */
	return sigprocmask(SIG_BLOCK, set, NULL) < 0 ? error_system(errno, "cannot block signals")
						     : NULL;
}

static struct error *watch_signals(struct run *run, const sigset_t *set)
{
	run->signal_fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0)
		return error_system(errno, "cannot watch for signals");
	return event_loop_add(run->loop, run->signal_fd, EPOLLIN, signal_arrived, run,
			      &run->signal_source);
}

static struct error *write_pid_file(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || dprintf(fd, "%d\n", getpid()) < 0)
		return error_system(errno, "--pid-file %s", path);
	return NULL;
}

static struct error *run_begin(struct run *run, struct machine_config *config,
			       const sigset_t *signals, const char *pid_file)
{
	TRY(run_entry_claim(config->name, &run->entry));
	TRY(event_loop_create(&run->loop));
	TRY(control_create(run->loop, &run->control));
	TRY(machine_create(config, run->loop, control_machine_event, run->control, &run->machine));
	TRY(watch_signals(run, signals));
	TRY(control_open(run->control, run->machine, run_entry_socket(run->entry)));
	if (pid_file) {
		TRY(write_pid_file(pid_file));
		run->pid_file = pid_file;
	}
	return machine_start(run->machine);
}

static void run_end(struct run *run)
{
	if (run->control)
		control_close(run->control);
	event_source_remove(run->signal_source);
	close_fd(&run->signal_fd);
	machine_destroy(run->machine);
	control_destroy(run->control);
	event_loop_destroy(run->loop);
	if (run->pid_file)
		unlink(run->pid_file);
	run_entry_release(run->entry);
}

static struct error *run_vm(const struct cli_arguments *arguments, int *status)
{
	struct run run = {.signal_fd = -1};
	/* 10 KiB that are not needed on the stack for the life of the VM */
	struct machine_config *config = calloc(1, sizeof(*config));
	enum log_level level = LOG_LEVEL_WARNING;
	struct error *error;
	sigset_t signals;

	limit_own_memory();
	if (!config)
		return error_system(ENOMEM, "configuration");
	error = run_options_log_level(arguments, &level);
	if (!error)
		error = run_options_read(arguments, config);
	if (!error)
		error = block_signals(&signals);
	if (!error) {
		log_set_level(level);
		log_set_name(config->name);
		error = run_begin(&run, config, &signals, cli_value(arguments, "pid-file", NULL));
	}
	machine_config_clear(config);
	free(config);
	if (!error) {
		malloc_trim(0);
		event_loop_run(run.loop);
		*status = machine_exit_status(run.machine);
	}
	run_end(&run);
	return error;
}

const struct cli_command cli_run = {
    .name = "run",
    .positionals = "",
    .summary = "Run a virtual machine",
    .description =
	"The VM lives as long as this process. SIGTERM and SIGINT press its power button, a\n"
	"second one ends it. On a terminal (tty) Ctrl-A x ends it.",
    .options = run_options,
    .run = run_vm,
};
