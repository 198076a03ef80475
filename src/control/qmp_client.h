/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A QMP client that waits: what the command line uses to talk to running VMs. One thread a client.
 */
#ifndef GODWIT_CONTROL_QMP_CLIENT_H
#define GODWIT_CONTROL_QMP_CLIENT_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

#define QMP_CLIENT_TIMEOUT_NS                                                                      \
	(60LL * 1000000000) /* for an answer; a reset of a large guest takes seconds */

struct qmp_client;

/*
 * Connects to the socket at @path, reads the greeting and negotiates. No answer may take longer than @timeout_ns,
 * here and later.
 */
struct error *qmp_client_connect(const char *path, int64_t timeout_ns,
				 struct qmp_client **client) MUST_CHECK;
/* Accepts NULL. */
void qmp_client_close(struct qmp_client *client);
DEFINE_CLEANUP(qmp_client, struct qmp_client *, qmp_client_close)
#define AUTO_QMP_CLIENT AUTO(cleanup_qmp_client)

/*
 * Runs @command with @arguments (owned by the call; NULL: none) and puts what it returned into
 * *@result (owned by the caller; @result NULL drops it). The VM's refusal is an error with the VM's
 * message.
 */
struct error *qmp_client_execute(struct qmp_client *client, const char *command, json_t *arguments,
				 json_t **result) MUST_CHECK;
/* Hands a copy of @fd over to the VM, which knows it as "fd:@name" on this connection. */
struct error *qmp_client_pass(struct qmp_client *client, int fd, const char *name) MUST_CHECK;
/*
 * The next event, among those that came while waiting for answers and those to come, within
 * @timeout_ns (-1: for ever). *@event is owned by the caller, and NULL when the time is over. An
 * error of code ECONNRESET: the VM closed the connection.
 */
struct error *qmp_client_next_event(struct qmp_client *client, int64_t timeout_ns,
				    json_t **event) MUST_CHECK;

DEFINE_CLEANUP(json, json_t *, json_decref)
#define AUTO_JSON AUTO(cleanup_json)

#endif
