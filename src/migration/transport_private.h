/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of transport.h share: transport.c has connections, transport_address.c their names,
 * transport_connect.c and transport_listen.c how they come about. */
#ifndef GODWIT_MIGRATION_TRANSPORT_PRIVATE_H
#define GODWIT_MIGRATION_TRANSPORT_PRIVATE_H

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/child.h"
#include "migration/transport.h"

/* Makes @transport the other end of @child, which it ends when it is closed. */
void transport_set_child(struct transport *transport, struct child *child);
/* Fills in the address of a UNIX socket; @path is not too long (transport_address_parse). */
void transport_unix_address(const char *path, struct sockaddr_un *address);
/* What @address resolves to; freed with freeaddrinfo. @flags: AI_PASSIVE or 0. */
struct error *transport_resolve(const struct transport_address *address, int flags,
				struct addrinfo **found) MUST_CHECK;

#endif
