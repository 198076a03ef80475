/* SPDX-License-Identifier: BSD-2-Clause */
/* See interrupt.h. The handler only notes the signal, and is gone when the second one comes. */
#include "cli/interrupt.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>

/* A handler cannot be told a context. */
static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	interrupted = 1;
}

void interrupt_begin(void)
{
	const struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	struct sigaction before;

	/* Who ignores it was started in the background by a shell, and is not meant. */
	if (sigaction(SIGINT, NULL, &before) < 0 || before.sa_handler == SIG_IGN)
		return;
	sigaction(SIGINT, &action, NULL);
}

void interrupt_pass(struct qmp_client *client, const char *id)
{
	AUTO_ERROR struct error *error = NULL;

	if (!interrupted)
		return;
	interrupted = 0;
	error = qmp_client_execute(client, "job-cancel", json_pack("{s:s}", "id", id), NULL);
	if (error && error_code(error) != ECONNRESET && error_code(error) != EPIPE)
		fprintf(stderr, "\ngodwit: %s; once more ends this command alone\n",
			error_message(error));
}
