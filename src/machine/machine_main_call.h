/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How threads of a migration have something done on the machine's main loop, and wait for it; and how
 * the main loop gets rid of them while they wait: it abandons the calls, and those that are still on
 * their way do nothing.
 *
 * Threads: main_call and main_calls_post from any but the main loop's; the rest from that.
 */
#ifndef GODWIT_MACHINE_MACHINE_MAIN_CALL_H
#define GODWIT_MACHINE_MACHINE_MAIN_CALL_H

#include <stdbool.h>

#include "base/event_loop.h"

struct main_calls_shared;

struct main_calls {
	struct main_calls_shared *shared; /* lives until the last call has arrived */
};

struct error *main_calls_init(struct main_calls *calls, struct event_loop *loop) MUST_CHECK;
/* No call does anything from now on, and nobody waits for one. Idempotent. */
void main_calls_abandon(struct main_calls *calls);
/* Once nobody can call any more; abandoned or not. Accepts one that was not initialised. */
void main_calls_destroy(struct main_calls *calls);

/* Runs @run on the main loop and waits for its end. False: abandoned, perhaps before it ran. */
bool main_call(struct main_calls *calls, void (*run)(void *context), void *context);
/* The same without waiting. */
void main_calls_post(struct main_calls *calls, void (*run)(void *context), void *context);

#endif
