/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * File descriptors that a client of the control socket has sent along with its messages, as QEMU's
 * getfd takes them: first they wait without a name, then `getfd` gives the oldest one a name, by
 * which another command uses it. They belong to the connection and are closed with it. Main loop.
 */
#ifndef GODWIT_CONTROL_QMP_DESCRIPTORS_H
#define GODWIT_CONTROL_QMP_DESCRIPTORS_H

#include "base/error.h"

#define QMP_DESCRIPTORS_WAITING 4 /* without a name; more are closed at once */
#define QMP_DESCRIPTORS_NAMED	16

struct qmp_descriptors {
	int waiting[QMP_DESCRIPTORS_WAITING];
	unsigned int waiting_count;
	struct {
		char *name; /* NULL: free */
		int fd;
	} named[QMP_DESCRIPTORS_NAMED];
};

/* Takes @fd over. @descriptors is all zeros at first. */
void qmp_descriptors_add(struct qmp_descriptors *descriptors, int fd);
/* Names the oldest that waits, or closes it if that is refused; what had the name is closed. */
struct error *qmp_descriptors_name(struct qmp_descriptors *descriptors,
				   const char *name) MUST_CHECK;
/* Hands @name's over to the caller, in *@fd. */
struct error *qmp_descriptors_take(struct qmp_descriptors *descriptors, const char *name,
				   int *fd) MUST_CHECK;
/* Closes all. */
void qmp_descriptors_clear(struct qmp_descriptors *descriptors);

#endif
