/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A shell command at the other end of a pipe, as in `exec:zstd -o FILE`, or of a socket. It runs as `sh -c` with
 * this process's folder, environment and standard error, and with no signal blocked or ignored.
 *
 * In a foreground job of a terminal it stays in that job, so that Ctrl-C reaches it and it may ask
 * for a password; else it has a process group of its own, all of which child_end ends.
 *
 * Threads: one at a time.
 */
#ifndef GODWIT_BASE_CHILD_H
#define GODWIT_BASE_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

enum child_pipe {
	CHILD_READS,  /* its standard input is the pipe; output is this process's */
	CHILD_WRITES, /* its standard output is the pipe; input is empty */
	CHILD_BOTH,   /* both are one end of a pair of stream sockets */
};

struct child;

/* Starts @command. *@fd is this side of the pipe, and the caller's. */
struct error *child_start(const char *command, enum child_pipe direction, int *fd,
			  struct child **child) MUST_CHECK;
/*
 * Waits until it has ended; this side of the pipe must be closed. An error of code ECHILD tells how
 * it failed, if it did, one of EPIPE that it could not write; ECANCELED: @cancel_fd (-1: none) became
 * readable first; ETIMEDOUT: @timeout_ms (-1: no limit) passed.
 */
struct error *child_wait(struct child *child, int cancel_fd, int timeout_ms) MUST_CHECK;
/* Ends it unless it has ended: SIGTERM, and after two seconds SIGKILL. Accepts NULL. */
void child_end(struct child *child);
DEFINE_CLEANUP(child, struct child *, child_end)
#define AUTO_CHILD AUTO(cleanup_child)

#endif
