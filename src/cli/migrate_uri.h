/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where `godwit migrate` sends a VM to. Commands and inherited descriptors are this process's: it
 * starts the ones and passes the others, and the VM knows all of them as descriptors.
 */
#ifndef GODWIT_CLI_MIGRATE_URI_H
#define GODWIT_CLI_MIGRATE_URI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/child.h"
#include "control/qmp_client.h"

#define MIGRATE_URI_MAX 15 /* data connections of fd: and exec:, which are passed */

struct migrate_uri {
	const char *given;
	char text[1024]; /* for the VM */
	uint32_t count;	 /* of commands */
	struct child *children[MIGRATE_URI_MAX + 1];
};

/* Starts and passes what is needed for @channels data connections, and one more for @postcopy. */
struct error *migrate_uri_open(struct migrate_uri *uri, const char *given, uint32_t channels,
			       bool postcopy, struct qmp_client *client) MUST_CHECK;
/* Ends the commands that have not ended. */
void migrate_uri_close(struct migrate_uri *uri);

#endif
