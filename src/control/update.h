/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The other side of an update: a process of the new program, which this one starts and which goes
 * on with the machine. It inherits what it needs, by descriptor, and its place in the world:
 * control group, namespaces, limits, environment.
 *
 * Which of the two runs the guest is the handover's to say. Where the connection breaks behind the
 * last word nobody need look: both have an eventfd, the token, and who reads the 1 that is in it
 * runs the guest. A process that did not get so far is killed. Main loop only.
 */
#ifndef GODWIT_CONTROL_UPDATE_H
#define GODWIT_CONTROL_UPDATE_H

#include "control/control.h"
#include "machine/machine_migrate.h"

struct update;

/* The migration's connections broke behind the last word: ends it, one way or the other. */
void update_decide(struct update *update, struct machine_migrate *migrate);
/* The devices are the new process's. */
void update_released(struct update *update);
/*
 * The migration is over. Without an @error this process is to end with everything left as it is,
 * else it goes on as if nothing had been. Returns @error, taken over, with what became of the new
 * process.
 */
struct error *update_end(struct update *update, struct error *error) MUST_CHECK;
/* Kills the process unless the machine is its. Accepts NULL. */
void update_free(struct update *update);

#endif
