/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ctrl-C of a command that watches a job of a VM: once, it cancels the job and stays to tell what became of
 * it; a second time it ends the command, and leaves the job to itself.
 */
#ifndef GODWIT_CLI_INTERRUPT_H
#define GODWIT_CLI_INTERRUPT_H

#include "control/qmp_client.h"

/* From now on, before the job begins. */
void interrupt_begin(void);
/*
 * Cancels job @id when that was asked for since the last call; a refusal is told on standard error, and
 * the job goes on. That the VM has ended is left to be found out by what comes next.
 */
void interrupt_pass(struct qmp_client *client, const char *id);

#endif
