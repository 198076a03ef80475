/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the process that an operator or a supervisor has started becomes when an update puts
 * another in its place: it has nothing of the machine any more, and stays until the machine has
 * ended, whose exit status is its own. Signals that it gets it passes on, and when it is killed
 * the machine ends, too.
 */
#ifndef GODWIT_CLI_KEEPER_H
#define GODWIT_CLI_KEEPER_H

#include "base/error.h"

/*
 * Waits for the end of all processes that this one has started, and of those that they have. @fd:
 * numbers of signals are written to it. The signals in question are blocked (vm_process.c).
 * Returns the exit status; ends this process by the same signal when the machine's was ended by
 * one.
 */
int keeper_run(int fd);

#endif
