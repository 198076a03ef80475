/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that is a VM, for `godwit run` and `godwit restore`: main loop, control socket,
 * signals. The main thread runs the main loop, on which all of these live.
 *
 * SIGTERM and SIGINT press the guest's power button; a second one, or one while the guest cannot
 * react (paused, crashed), ends the VM at once. The process stays small: one malloc arena, memory
 * that was freed goes back to the kernel.
 */
#include "cli/vm_process.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/log.h"
#include "control/control.h"
#include "control/run_directory.h"
#include "machine/machine_migrate.h"

/* Each member is released in reverse order by process_end. */
struct vm_process {
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
	struct vm_process *process = context;
	AUTO_ERROR struct error *error = NULL;
	struct signalfd_siginfo info;

	if (read(process->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	error = machine_migrate_check_end(process->machine);
	if (error) {
		log_error("signal %u: %s", info.ssi_signo, error_message(error));
	} else if (!process->asked && machine_state(process->machine) == MACHINE_RUNNING) {
		log_info(
		    "signal %u: pressing the guest's power button; another one ends it at once",
		    info.ssi_signo);
		process->asked = true;
		machine_powerdown(process->machine);
	} else {
		log_info("signal %u: ending the VM", info.ssi_signo);
		machine_shutdown(process->machine, false, "host-signal");
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

struct error *vm_process_catch_signals(int *fd)
{
	sigset_t set;

	TRY(block_signals(&set));
	*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *fd < 0 ? error_system(errno, "cannot watch for signals") : NULL;
}

static struct error *watch_signals(struct vm_process *process, const sigset_t *set)
{
	process->signal_fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (process->signal_fd < 0)
		return error_system(errno, "cannot watch for signals");
	return event_loop_add(process->loop, process->signal_fd, EPOLLIN, signal_arrived, process,
			      &process->signal_source);
}

static struct error *write_pid_file(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || dprintf(fd, "%d\n", getpid()) < 0)
		return error_system(errno, "--pid-file %s", path);
	return NULL;
}

static struct error *process_begin(struct vm_process *process, const struct vm_process_plan *plan,
				   const sigset_t *signals)
{
	TRY(run_entry_claim(plan->config->name, &process->entry));
	TRY(event_loop_create(&process->loop));
	TRY(control_create(process->loop, &process->control));
	TRY(machine_create(plan->config, process->loop, control_machine_event, process->control,
			   &process->machine));
	TRY(watch_signals(process, signals));
	TRY(control_open(process->control, process->machine, run_entry_socket(process->entry)));
	if (plan->pid_file) {
		TRY(write_pid_file(plan->pid_file));
		process->pid_file = plan->pid_file;
	}
	return plan->start(process->machine, plan->context);
}

static void process_end(struct vm_process *process)
{
	if (process->control)
		control_close(process->control);
	event_source_remove(process->signal_source);
	close_fd(&process->signal_fd);
	machine_destroy(process->machine);
	control_destroy(process->control);
	event_loop_destroy(process->loop);
	if (process->pid_file)
		unlink(process->pid_file);
	run_entry_release(process->entry);
}

struct error *vm_process_run(const struct vm_process_plan *plan, int *status)
{
	struct vm_process process = {.signal_fd = -1};
	struct error *error;
	sigset_t signals;

	limit_own_memory();
	log_set_level(plan->log_level);
	log_set_name(plan->config->name);
	error = block_signals(&signals);
	if (!error)
		error = process_begin(&process, plan, &signals);
	machine_config_clear(plan->config);
	if (!error) {
		malloc_trim(0);
		event_loop_run(process.loop);
		*status = machine_exit_status(process.machine);
	}
	process_end(&process);
	return error;
}
