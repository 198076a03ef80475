/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control of one running VM: joins the machine's events, the jobs and the QMP socket. Main loop
 * only.
 *
 * Order: control_create, machine_create with control_machine_event as its handler, control_open; at
 * the end control_close, which delivers the last events, before machine_destroy, then
 * control_destroy.
 */
#ifndef GODWIT_CONTROL_CONTROL_H
#define GODWIT_CONTROL_CONTROL_H

#include "base/event_loop.h"
#include "control/jobs.h"
#include "control/memory_report.h"
#include "control/qmp_dispatch.h"
#include "control/resize_job.h"
#include "machine/machine.h"

struct event_throttle;
struct qmp_server;

/*
 * What belongs to the process beside the machine, and goes to the one that an update puts in its
 * place (update.h). The owner's of the control; lives as long.
 */
struct control_process {
	int name_fd; /* has the lock of the VM's name */
	/*
	 * A process that was started by an update has the one that the first of them has become
	 * over it (cli/keeper.h): what that one says comes here, and the end means that it is
	 * dead. -1: this is the first.
	 */
	int keeper_fd;
	int keep_fds[2];       /* of the first: the ends that it is to keep, to read and to write */
	const char *log_level; /* as --log takes it */
	bool left;	       /* an update is done: the machine is another process's */
};

/* The context of every command. Handlers may use the members; only control.c changes them. */
struct control {
	struct event_loop *loop;
	struct machine *machine;	 /* NULL before control_open */
	struct control_process *process; /* NULL: it cannot be updated */
	struct jobs *jobs;
	struct resizer *resizer;
	struct event_throttle *throttle;
	struct qmp_server *server;     /* NULL while closed */
	struct memory_measure measure; /* of the host's memory, for reports */
	bool closing;
};

struct error *control_create(struct event_loop *loop, struct control **control) MUST_CHECK;
/* A machine_event_handler whose context is the struct control. */
void control_machine_event(void *context, const char *event, json_t *data);
/* Listens at @path for commands to @machine. */
struct error *control_open(struct control *control, struct machine *machine,
			   const char *path) MUST_CHECK;
/* The same with the socket of the process before this one: listens from control_listen on. */
struct error *control_open_handed(struct control *control, struct machine *machine,
				  int fd) MUST_CHECK;
void control_listen(struct control *control);
/* Lets the machine be updated: from control_open to control_close. */
void control_set_process(struct control *control, struct control_process *process);
/* Sends what is waiting (for up to a second), closes the socket, ends the jobs. */
void control_close(struct control *control);
/* Accepts NULL. */
void control_destroy(struct control *control);

/* The command table (commands.c). Its context is the struct control. */
extern const struct qmp_command control_commands[];

#endif
