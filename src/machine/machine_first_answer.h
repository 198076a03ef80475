/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * When a guest first answers: what a restore is for. Which answer is the user's to name:
 *
 *	console:TEXT	the guest says TEXT (1 to 255 bytes, one line) on its serial port or a console
 *	vsock:PORT	a program in the guest listens at PORT and takes a connection, which is made
 *			as any program of the host would, again and again until one succeeds, and
 *			ended at once
 *
 * Threads: the main loop's, but what the guest says is looked at where it is written.
 */
#ifndef GODWIT_MACHINE_MACHINE_FIRST_ANSWER_H
#define GODWIT_MACHINE_MACHINE_FIRST_ANSWER_H

#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"

struct machine_first_answer;

/* A usage error unless @text names an answer. */
struct error *machine_first_answer_check(const char *text) MUST_CHECK;
/*
 * Watches @machine, whose guest does not run yet, for the answer that @text names (copied). @told is
 * called on the main loop once, when it has come. An error: @text names none, or @machine has no
 * sockets for it.
 */
struct error *machine_first_answer_create(struct machine *machine, const char *text,
					  void (*told)(void *context), void *context,
					  struct machine_first_answer **answer) MUST_CHECK;
/* The guest runs: begins to call it, where that is needed. */
void machine_first_answer_begin(struct machine_first_answer *answer);
/* The guest does not run any more, and its devices may be gone. Accepts NULL. */
void machine_first_answer_destroy(struct machine_first_answer *answer);

/* When it came, in nanoseconds of clock_monotonic_ns; 0: not yet. */
int64_t machine_first_answer_time(const struct machine_first_answer *answer);
/* What was asked for. */
const char *machine_first_answer_name(const struct machine_first_answer *answer);

#endif
