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

/* The context of every command. Handlers may use the members; only control.c changes them. */
struct control {
	struct event_loop *loop;
	struct machine *machine; /* NULL before control_open */
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
/* Sends what is waiting (for up to a second), closes the socket, ends the jobs. */
void control_close(struct control *control);
/* Accepts NULL. */
void control_destroy(struct control *control);

/* The command table (commands.c). Its context is the struct control. */
extern const struct qmp_command control_commands[];

#endif
