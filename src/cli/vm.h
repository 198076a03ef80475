/* SPDX-License-Identifier: BSD-2-Clause */
/* Finding running VMs and talking to them, for subcommands. */
#ifndef GODWIT_CLI_VM_H
#define GODWIT_CLI_VM_H

#include "cli/command.h"
#include "cli/output.h"
#include "control/qmp_client.h"
#include "control/run_directory.h"

#define VM_VIEW_TIMEOUT_NS (2LL * 1000000000) /* for an answer, in views of many VMs */

/*
 * Connects to the VM named @name, waiting at most @timeout_ns for each answer; an error says which VMs there are
 * when it does not run.
 */
struct error *vm_connect_within(const char *name, int64_t timeout_ns,
				struct qmp_client **client) MUST_CHECK;
/* The same with a time-out that suits commands that take long. */
struct error *vm_connect(const char *name, struct qmp_client **client) MUST_CHECK;
/* Connects to VM @name, runs one command and hangs up. @arguments is owned by the call. */
struct error *vm_execute(const char *name, const char *command, json_t *arguments,
			 json_t **result) MUST_CHECK;

#endif
