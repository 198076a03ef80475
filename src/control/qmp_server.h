/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The Unix socket of a VM: any number of clients up to a limit, each a QMP session. Main loop only.
 */
#ifndef GODWIT_CONTROL_QMP_SERVER_H
#define GODWIT_CONTROL_QMP_SERVER_H

#include <jansson.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "control/qmp_descriptors.h"
#include "control/qmp_dispatch.h"

#define QMP_CLIENTS_MAX 64
#define QMP_OUTPUT_MAX	(1024 * 1024) /* bytes waiting for one client before it is dropped */

struct qmp_server;

/* Listens at @path, which must not exist. @commands and @context are for qmp_dispatch and outlive
 * the server. */
struct error *qmp_server_create(struct event_loop *loop, const char *path,
				const struct qmp_command *commands, void *context,
				struct qmp_server **server) MUST_CHECK;
/*
 * The same with the socket @fd, taken over also on error, where another process listened: nobody is
 * accepted before qmp_server_accept.
 */
struct error *qmp_server_adopt(struct event_loop *loop, int fd, const struct qmp_command *commands,
			       void *context, struct qmp_server **server) MUST_CHECK;
/* Whether who connects is accepted, or waits. NULL: nothing to do. */
void qmp_server_accept(struct qmp_server *server, bool accept);
/* The socket that it listens at, which stays the server's; -1 for NULL. */
int qmp_server_socket(const struct qmp_server *server);
/* Gives clients up to a second to take what waits for them, then closes; accepts NULL. Not from a
 * command. */
void qmp_server_destroy(struct qmp_server *server);
/* Sends @event to every client that negotiated. */
void qmp_server_broadcast(struct qmp_server *server, json_t *event);
/*
 * In a command: what the client that sent it has sent along. NULL when no client did (@server may be
 * NULL: it was the fuzzer).
 */
struct qmp_descriptors *qmp_server_descriptors(const struct qmp_server *server);
/* How many are connected; 0 for NULL. */
uint32_t qmp_server_clients(const struct qmp_server *server);

#endif
