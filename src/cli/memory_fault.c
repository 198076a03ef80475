/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end of a process whose memory is gone, memory_fault.h. A signal handler, on whichever thread
 * touched the memory: it only writes and exits.
 */
#include "cli/memory_fault.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* Set before the handler is there; a handler is given nothing else. */
static const char *reason;

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* nobody hears it */
}

static void memory_gone(int signal_number, siginfo_t *info, void *context)
{
	/* Broken memory of the host is another matter. */
	if (info->si_code != BUS_ADRERR) {
		signal(signal_number, SIG_DFL); /* and touch it again */
		return;
	}
	say("godwit: memory that the guest needs is gone, the VM ends: ");
	say(reason);
	say("\n");
	_exit(1);
}

void memory_fault_watch(const char *why)
{
	struct sigaction action = {.sa_sigaction = memory_gone, .sa_flags = SA_SIGINFO};

	reason = why;
	sigaction(SIGBUS, &action, NULL);
}
