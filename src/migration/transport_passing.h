/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors that go along with the bytes of a connection (SCM_RIGHTS, unix(7)), for transport.c:
 * what is to go with the next bytes, and what has come.
 *
 * Threads: attach, put and sent with who sends, the others with who receives. The peer controls what
 * comes, and how many; what is one too many ends the connection.
 */
#ifndef GODWIT_MIGRATION_TRANSPORT_PASSING_H
#define GODWIT_MIGRATION_TRANSPORT_PASSING_H

#include <sys/socket.h>

#include "migration/transport.h"

struct transport_passing;

struct transport_passing *transport_passing_create(void); /* NULL: no memory */
/* Closes what has come and was not taken. Accepts NULL. */
void transport_passing_free(struct transport_passing *passing);

void transport_passing_attach(struct transport_passing *passing, const int *fds, uint32_t count);
/* Puts what is attached into @message; sent: it has gone. */
void transport_passing_put(struct transport_passing *passing, struct msghdr *message);
void transport_passing_sent(struct transport_passing *passing);

/* Makes room in @message for what may come; get: keeps what has come. */
void transport_passing_room(struct transport_passing *passing, struct msghdr *message);
struct error *transport_passing_get(struct transport_passing *passing,
				    struct msghdr *message) MUST_CHECK;
/* As transport_take. */
uint32_t transport_passing_take(struct transport_passing *passing, int fds[TRANSPORT_PASSED_MAX]);

#endif
