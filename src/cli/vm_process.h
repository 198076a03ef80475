/* SPDX-License-Identifier: BSD-2-Clause */
/* The process that is a VM, from its configuration to its end. */
#ifndef GODWIT_CLI_VM_PROCESS_H
#define GODWIT_CLI_VM_PROCESS_H

#include "base/error.h"
#include "base/log.h"
#include "machine/machine.h"

/*
 * From now on SIGTERM, SIGINT and SIGHUP wait, until the VM has a main loop to take them, and
 * SIGPIPE is ignored. For who must wait for something before vm_process_run: *@fd, which is readable
 * once one of them has come, and reads none.
 */
struct error *vm_process_catch_signals(int *fd) MUST_CHECK;

/*
 * Of the process that an update puts this one in the place of, each taken over: descriptors of
 * what it had.
 */
struct vm_process_handed {
	int name_fd, socket_fd; /* run_directory.h, control.h */
	int keeper_fd;		/* cli/keeper.h */
};

struct vm_process_plan {
	struct machine_config *config; /* released by vm_process_run, also on error */
	enum log_level log_level;
	const char *pid_file; /* NULL: none */
	/* Puts something into the machine that was just created, and lets it run. */
	struct error *(*start)(struct machine *machine, void *context);
	void *context;
	struct vm_process_handed *handed; /* NULL: this process is the first of its name */
	/*
	 * Called with the process before `start`: vm_process_take_over is to be called when the
	 * guest runs here.
	 */
	struct vm_process **process;
};

struct vm_process;
/* The name and the control socket are this process's. On the main loop. */
void vm_process_take_over(struct vm_process *process);

/* Returns when the VM has ended; *@status is then the exit status. An error: it did not start. */
struct error *vm_process_run(const struct vm_process_plan *plan, int *status) MUST_CHECK;

#endif
