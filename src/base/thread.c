/* SPDX-License-Identifier: BSD-2-Clause */
/* Thread creation, see thread.h. */
#include "base/thread.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

struct error *thread_start(pthread_t *thread, const char *name, void *(*function)(void *),
			   void *context)
{
	sigset_t blocked, previous;
	pthread_attr_t attributes;
	char short_name[16];
	int failure;

	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	sigdelset(&blocked, SIGABRT);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK_SIZE);
	pthread_sigmask(SIG_BLOCK, &blocked, &previous); /* inherited by the new thread */
	failure = pthread_create(thread, &attributes, function, context);
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
	pthread_attr_destroy(&attributes);
	if (failure)
		return error_system(failure, "cannot start thread '%s'", name);
	snprintf(short_name, sizeof(short_name), "%.15s", name);
	pthread_setname_np(*thread, short_name);
	return NULL;
}
