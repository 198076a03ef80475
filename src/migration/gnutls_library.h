/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GnuTLS, loaded when the first connection asks for TLS.
 *
 * With the libraries that it stands on it would hold about 1.5 MiB of each machine's memory, and
 * few machines are ever moved; so the program is not linked with it. The types and constants are
 * those of its own header; a function gnutls_NAME is called as library->NAME.
 */
#ifndef GODWIT_MIGRATION_GNUTLS_LIBRARY_H
#define GODWIT_MIGRATION_GNUTLS_LIBRARY_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "base/error.h"

/* All that transport_tls.c uses. `free` is a variable: what it points to frees. */
#define GNUTLS_SYMBOLS(SYMBOL)                                                                     \
	SYMBOL(alert_get)                                                                          \
	SYMBOL(alert_get_name)                                                                     \
	SYMBOL(alert_send)                                                                         \
	SYMBOL(certificate_allocate_credentials)                                                   \
	SYMBOL(certificate_free_credentials)                                                       \
	SYMBOL(certificate_server_set_request)                                                     \
	SYMBOL(certificate_set_x509_crl_file)                                                      \
	SYMBOL(certificate_set_x509_key_file)                                                      \
	SYMBOL(certificate_set_x509_trust_file)                                                    \
	SYMBOL(certificate_verification_status_print)                                              \
	SYMBOL(certificate_verify_peers)                                                           \
	SYMBOL(credentials_set)                                                                    \
	SYMBOL(deinit)                                                                             \
	SYMBOL(error_is_fatal)                                                                     \
	SYMBOL(free)                                                                               \
	SYMBOL(handshake)                                                                          \
	SYMBOL(handshake_set_timeout)                                                              \
	SYMBOL(init)                                                                               \
	SYMBOL(priority_set_direct)                                                                \
	SYMBOL(record_get_direction)                                                               \
	SYMBOL(record_recv)                                                                        \
	SYMBOL(record_send)                                                                        \
	SYMBOL(strerror)                                                                           \
	SYMBOL(transport_set_errno)                                                                \
	SYMBOL(transport_set_ptr)                                                                  \
	SYMBOL(transport_set_pull_function)                                                        \
	SYMBOL(transport_set_vec_push_function)

struct gnutls_library {
#define GNUTLS_MEMBER(name) typeof(gnutls_##name) *name;
	GNUTLS_SYMBOLS(GNUTLS_MEMBER)
#undef GNUTLS_MEMBER
};

/*
 * Fills @library. What was loaded stays until the process ends, however often this is called.
 * ENOENT, naming what is missing, where the host has no GnuTLS, or one that is too old.
 */
struct error *gnutls_library_load(struct gnutls_library *library) MUST_CHECK;

#endif
