/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that is a VM, for `godwit run` and `godwit restore`: main loop, control socket,
 * signals. The main thread runs the main loop, on which all of these live.
 *
 * SIGTERM and SIGINT press the guest's power button; a second one, or one while the guest cannot
 * react (paused, crashed), ends the VM at once. A process that an update has put in the place of
 * another gets them from the keeper as well (cli/keeper.h), and one that came both ways counts
 * once. When an update takes the machine from the first process, that becomes the keeper. The
 * process stays small: one malloc arena, memory that was freed goes back to the kernel.
 */
#include "cli/vm_process.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <termios.h>

#include "base/log.h"
#include "cli/keeper.h"
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
	struct event_source *keeper_source;
	uint32_t asked;		    /* how often the VM was asked to end */
	uint32_t direct, by_keeper; /* signals, by the way that they came */
	const char *pid_file;	    /* once written */
	struct control_process shared;
	struct termios terminal; /* as it was at first */
	bool has_terminal;
};

static const char *const log_levels[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARNING] = "warning",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

static void limit_own_memory(void)
{
	mallopt(M_ARENA_MAX, 1);
	/* Larger buffers (JSON of a big answer) are mapped, and unmapped when freed. */
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	mallopt(M_TRIM_THRESHOLD, 64 * 1024);
	mallopt(M_TOP_PAD, 4 * 1024);
}

/* @count: of those that came the same way. */
static void take_signal(struct vm_process *process, unsigned int number, uint32_t *count)
{
	AUTO_ERROR struct error *error = machine_migrate_check_end(process->machine);

	if (error) {
		log_error("signal %u: %s", number, error_message(error));
		return;
	}
	if (++*count <= process->asked)
		return;
	process->asked++;
	if (process->asked == 1 && machine_state(process->machine) == MACHINE_RUNNING) {
		log_info(
		    "signal %u: pressing the guest's power button; another one ends it at once",
		    number);
		machine_powerdown(process->machine);
	} else {
		log_info("signal %u: ending the VM", number);
		machine_shutdown(process->machine, false, "host-signal");
	}
}

static void signal_arrived(void *context, uint32_t events)
{
	struct vm_process *process = context;
	struct signalfd_siginfo info;

	if (read(process->signal_fd, &info, sizeof(info)) == sizeof(info))
		take_signal(process, info.ssi_signo, &process->direct);
}

static void keeper_speaks(void *context, uint32_t events)
{
	struct vm_process *process = context;
	unsigned char number;
	ssize_t size = read(process->shared.keeper_fd, &number, 1);

	if (size > 0) {
		take_signal(process, number, &process->by_keeper);
	} else if (!size) {
		log_error("the process that was started at first is dead: ending the VM");
		event_source_remove(TAKE_PTR(process->keeper_source));
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

static struct error *take_name(struct vm_process *process, const struct vm_process_plan *plan)
{
	if (!plan->handed)
		return run_entry_claim(plan->config->name, &process->entry);
	process->shared.keeper_fd = TAKE_FD(plan->handed->keeper_fd);
	return run_entry_adopt(plan->config->name, TAKE_FD(plan->handed->name_fd), &process->entry);
}

static struct error *open_control(struct vm_process *process, const struct vm_process_plan *plan)
{
	process->shared.name_fd = run_entry_lock(process->entry);
	control_set_process(process->control, &process->shared);
	if (!plan->handed)
		return control_open(process->control, process->machine,
				    run_entry_socket(process->entry));
	TRY(control_open_handed(process->control, process->machine,
				TAKE_FD(plan->handed->socket_fd)));
	/* Nothing of it is read yet: there is one reader at a time. */
	return event_loop_add(process->loop, process->shared.keeper_fd, 0, keeper_speaks, process,
			      &process->keeper_source);
}

void vm_process_take_over(struct vm_process *process)
{
	run_entry_own(process->entry);
	control_listen(process->control);
	event_source_set_events(process->keeper_source, EPOLLIN);
}

static struct error *process_begin(struct vm_process *process, const struct vm_process_plan *plan,
				   const sigset_t *signals)
{
	TRY(take_name(process, plan));
	TRY(event_loop_create(&process->loop));
	TRY(control_create(process->loop, &process->control));
	TRY(machine_create(plan->config, process->loop, control_machine_event, process->control,
			   &process->machine));
	TRY(watch_signals(process, signals));
	TRY(open_control(process, plan));
	if (plan->pid_file) {
		TRY(write_pid_file(plan->pid_file));
		process->pid_file = plan->pid_file;
	}
	if (plan->process)
		*plan->process = process;
	return plan->start(process->machine, plan->context);
}

static void process_end(struct vm_process *process)
{
	if (process->control)
		control_close(process->control);
	event_source_remove(process->signal_source);
	event_source_remove(process->keeper_source);
	close_fd(&process->signal_fd);
	machine_destroy(process->machine);
	control_destroy(process->control);
	event_loop_destroy(process->loop);
	run_entry_release(process->entry);
	close_fd(&process->shared.keeper_fd);
	close_fd(&process->shared.keep_fds[0]);
}

/* The machine is another process's. Whoever was first stays. */
static int keep_watch(struct vm_process *process)
{
	int status;

	if (process->shared.keep_fds[1] < 0)
		return 0;
	malloc_trim(0);
	status = keeper_run(process->shared.keep_fds[1]);
	if (process->has_terminal && tcgetpgrp(STDIN_FILENO) == getpgrp())
		tcsetattr(STDIN_FILENO, TCSANOW, &process->terminal);
	return status;
}

struct error *vm_process_run(const struct vm_process_plan *plan, int *status)
{
	struct vm_process process = {
	    .signal_fd = -1,
	    .shared = {.keeper_fd = -1,
		       .keep_fds = {-1, -1},
		       .log_level = log_levels[plan->log_level]},
	};
	struct error *error;
	sigset_t signals;

	process.has_terminal = tcgetattr(STDIN_FILENO, &process.terminal) == 0;
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
	if (process.shared.left)
		run_entry_leave(process.entry);
	process_end(&process);
	if (process.shared.left)
		*status = keep_watch(&process);
	close_fd(&process.shared.keep_fds[1]);
	if (process.pid_file)
		unlink(process.pid_file);
	return error;
}
