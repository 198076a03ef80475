/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads with a name, a modest stack and no signals: signals are the main thread's. */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include <pthread.h>

#include "base/error.h"

#define THREAD_STACK_SIZE (256 * 1024) /* bytes of address space; only what is touched counts */

/*
 * Starts @function(@context) with all signals blocked except those that report its own faults.
 * @name is cut to 15 characters. Join with pthread_join.
 */
struct error *thread_start(pthread_t *thread, const char *name, void *(*function)(void *),
			   void *context) MUST_CHECK;

#endif
