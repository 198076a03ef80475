/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors are values that carry a message for a person: what was refused, why, what to do.
 *
 * A function that can fail for a reason worth telling returns `struct error *`: NULL is success,
 * anything else is owned by the caller, who returns it, adds context to it, or frees it. Creating
 * an error never fails: when memory is short a static one is returned, which error_free ignores.
 * Data paths, where a message would be thrown away, return 0 or a negative errno instead. Errors
 * are not shared between threads without a hand-over of ownership.
 *
 * A message is one line and has no control characters, whatever names it quotes: those of a peer, a
 * file or a guest must neither drive the terminal that shows them nor forge lines of a log.
 */
#ifndef GODWIT_BASE_ERROR_H
#define GODWIT_BASE_ERROR_H

#include <stdarg.h>

#include "base/cleanup.h"

#define MUST_CHECK   __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

struct error;

/* The three kinds of rule 4 that reach a person; a guest's misbehaviour is never one of these. */
enum error_kind {
	ERROR_USAGE,   /* the command line or a request is wrong: exit status 2 */
	ERROR_FAILURE, /* the operation failed or was refused: exit status 1 */
};

/* A failure with the message. @code is a positive errno, or 0 when none fits. */
struct error *error_new(int code, const char *format, ...) PRINTF(2, 3) MUST_CHECK;
/* As error_new, followed by ": " and the text of the system's error @code. */
struct error *error_system(int code, const char *format, ...) PRINTF(2, 3) MUST_CHECK;
/* A mistake in what the user asked for. */
struct error *error_usage(const char *format, ...) PRINTF(1, 2) MUST_CHECK;
/* Puts "<context>: " in front of the message of @error and returns it (NULL stays NULL). */
struct error *error_prefix(struct error *error, const char *format, ...) PRINTF(2, 3) MUST_CHECK;

const char *error_message(const struct error *error);
int error_code(const struct error *error);
enum error_kind error_kind(const struct error *error);
void error_free(struct error *error);

/* Puts '?' in the place of each control character of ASCII. */
void text_make_printable(char *text);

DEFINE_CLEANUP(error, struct error *, error_free)
#define AUTO_ERROR AUTO(cleanup_error)

/* Returns the error of @expression from the calling function if there is one. */
#define TRY(expression)                                                                            \
	do {                                                                                       \
		struct error *try_error_ = (expression);                                           \
		if (try_error_)                                                                    \
			return try_error_;                                                         \
	} while (0)

#endif
