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

	sigaction(SIGINT, &action, NULL);
}

struct error *interrupt_pass(struct qmp_client *client, const char *id)
{
	AUTO_ERROR struct error *error = NULL;

	if (!interrupted)
		return NULL;
	interrupted = 0;
	error = qmp_client_execute(client, "job-cancel", json_pack("{s:s}", "id", id), NULL);
	if (!error)
		return NULL;
	if (error_code(error) == ECONNRESET || error_code(error) == EPIPE)
		return TAKE_PTR(error);
	fprintf(stderr, "\ngodwit: %s; once more ends this command alone\n", error_message(error));
	return NULL;
}
