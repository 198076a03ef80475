/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLS for connections of a migration: both ends show X.509 certificates, of an authority that both
 * trust. Files as QEMU's and libvirt's tools make them, in one folder:
 *
 *   ca-cert.pem                       the authority (or several)
 *   ca-crl.pem                        what it has revoked; need not be there
 *   server-cert.pem server-key.pem    the destination's
 *   client-cert.pem client-key.pem    the source's
 *
 * A client checks that the server's certificate is for the host that it wanted. TLS 1.3 alone: in
 * older versions guest memory that changes while it is sent could be taken for an attack.
 *
 * Threads: credentials may be shared; a session is used by at most one that sends and one that
 * receives, between which it has a lock that nobody holds while waiting.
 */
#ifndef GODWIT_MIGRATION_TRANSPORT_TLS_H
#define GODWIT_MIGRATION_TRANSPORT_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "base/error.h"

struct tls_credentials;
struct tls_session;

/*
 * Reads the files of @folder. @hostname: what the server's certificate must be for; NULL: any name.
 * (For a server without a meaning: any certificate of the authority will do.)
 */
struct error *tls_credentials_load(const char *folder, bool server, const char *hostname,
				   struct tls_credentials **credentials) MUST_CHECK;
/* All sessions must be gone. Accepts NULL. */
void tls_credentials_free(struct tls_credentials *credentials);
DEFINE_CLEANUP(tls_credentials, struct tls_credentials *, tls_credentials_free)
#define AUTO_TLS_CREDENTIALS AUTO(cleanup_tls_credentials)

/* @credentials and @fd, which is not owned, outlive it. */
struct error *tls_session_create(struct tls_credentials *credentials, int fd,
				 struct tls_session **session) MUST_CHECK;
/* Accepts NULL. */
void tls_session_free(struct tls_session *session);

/*
 * None of these waits. *@events: what to poll for before the call is repeated, with the same
 * arguments; 0: done. Errors have no prefix.
 */
struct error *tls_handshake(struct tls_session *session, short *events) MUST_CHECK;
/* Sends @size bytes, *@done of which (at first 0) were sent by earlier calls. */
struct error *tls_send(struct tls_session *session, const void *bytes, size_t size, size_t *done,
		       short *events) MUST_CHECK;
/* Takes 1 to @size bytes; *@got is 0 at the end, or when *@events is not 0. */
struct error *tls_receive(struct tls_session *session, void *bytes, size_t size, size_t *got,
			  short *events) MUST_CHECK;

#endif
