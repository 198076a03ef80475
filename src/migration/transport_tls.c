/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLS with GnuTLS, transport_tls.h.
 *
 * GnuTLS lets one thread send while another receives, but not when a key update or another message
 * of the protocol itself arrives, which a receiver may have to answer. The lock makes that harmless;
 * the socket is never waited for under it.
 *
 * The peer controls all that is received until its certificate was verified; GnuTLS parses it.
 */
#include "migration/transport_tls.h"

#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "migration/gnutls_library.h"

/* AEAD ciphers encrypt first and authenticate what they have encrypted. */
#define PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

struct tls_credentials {
	struct gnutls_library gnutls;
	gnutls_certificate_credentials_t certificates;
	bool server;
	char *hostname;
};

struct tls_session {
	const struct gnutls_library *gnutls; /* of the credentials */
	struct tls_credentials *credentials;
	gnutls_session_t session;
	pthread_mutex_t lock;
	int fd;
	bool handshaken;
};

/* --- Credentials ------------------------------------------------------------------------------- */

void tls_credentials_free(struct tls_credentials *credentials)
{
	if (!credentials)
		return;
	if (credentials->certificates)
		credentials->gnutls.certificate_free_credentials(credentials->certificates);
	free(credentials->hostname);
	free(credentials);
}

static struct error *file_path(const char *folder, const char *name, char **path)
{
	if (asprintf(path, "%s/%s", folder, name) < 0)
		return error_system(ENOMEM, "TLS");
	if (access(*path, R_OK) < 0)
		return error_system(errno, "TLS: cannot read '%s'", *path);
	return NULL;
}

static struct error *load_authority(struct tls_credentials *credentials, const char *folder)
{
	AUTO_FREE char *authority = NULL;
	AUTO_FREE char *revoked = NULL;
	int result;

	TRY(file_path(folder, "ca-cert.pem", &authority));
	result = credentials->gnutls.certificate_set_x509_trust_file(
	    credentials->certificates, authority, GNUTLS_X509_FMT_PEM);
	if (result <= 0)
		return error_new(EINVAL, "TLS: '%s' has no certificate: %s", authority,
				 credentials->gnutls.strerror(result));
	if (asprintf(&revoked, "%s/ca-crl.pem", folder) < 0)
		return error_system(ENOMEM, "TLS");
	if (access(revoked, F_OK) < 0)
		return NULL;
	result = credentials->gnutls.certificate_set_x509_crl_file(credentials->certificates,
								   revoked, GNUTLS_X509_FMT_PEM);
	return result < 0 ? error_new(EINVAL, "TLS: '%s': %s", revoked,
				      credentials->gnutls.strerror(result))
			  : NULL;
}

static struct error *load_own(struct tls_credentials *credentials, const char *folder)
{
	AUTO_FREE char *certificate = NULL;
	AUTO_FREE char *key = NULL;
	int result;

	TRY(file_path(folder, credentials->server ? "server-cert.pem" : "client-cert.pem",
		      &certificate));
	TRY(file_path(folder, credentials->server ? "server-key.pem" : "client-key.pem", &key));
	result = credentials->gnutls.certificate_set_x509_key_file(
	    credentials->certificates, certificate, key, GNUTLS_X509_FMT_PEM);
	return result < 0 ? error_new(EINVAL, "TLS: '%s' with '%s': %s", certificate, key,
				      credentials->gnutls.strerror(result))
			  : NULL;
}

struct error *tls_credentials_load(const char *folder, bool server, const char *hostname,
				   struct tls_credentials **result)
{
	AUTO_TLS_CREDENTIALS struct tls_credentials *credentials = calloc(1, sizeof(*credentials));

	if (!credentials)
		return error_system(ENOMEM, "TLS");
	credentials->server = server;
	if (hostname && !(credentials->hostname = strdup(hostname)))
		return error_system(ENOMEM, "TLS");
	TRY(gnutls_library_load(&credentials->gnutls));
	if (credentials->gnutls.certificate_allocate_credentials(&credentials->certificates) < 0)
		return error_system(ENOMEM, "TLS");
	TRY(load_authority(credentials, folder));
	TRY(load_own(credentials, folder));
	*result = TAKE_PTR(credentials);
	return NULL;
}

/* --- Sessions ---------------------------------------------------------------------------------- */

static ssize_t push(gnutls_transport_ptr_t context, const giovec_t *parts, int count)
{
	const struct tls_session *session = context;
	struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
	ssize_t sent = sendmsg(session->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0)
		session->gnutls->transport_set_errno(session->session, errno);
	return sent;
}

static ssize_t pull(gnutls_transport_ptr_t context, void *bytes, size_t size)
{
	const struct tls_session *session = context;
	ssize_t got = recv(session->fd, bytes, size, MSG_DONTWAIT);

	if (got < 0)
		session->gnutls->transport_set_errno(session->session, errno);
	return got;
}

void tls_session_free(struct tls_session *session)
{
	if (!session)
		return;
	if (session->session)
		session->gnutls->deinit(session->session);
	pthread_mutex_destroy(&session->lock);
	free(session);
}

struct error *tls_session_create(struct tls_credentials *credentials, int fd,
				 struct tls_session **result)
{
	struct tls_session *session = calloc(1, sizeof(*session));
	unsigned int flags = credentials->server ? GNUTLS_SERVER : GNUTLS_CLIENT;
	int failure;

	if (!session)
		return error_system(ENOMEM, "TLS");
	pthread_mutex_init(&session->lock, NULL);
	session->gnutls = &credentials->gnutls;
	session->credentials = credentials;
	session->fd = fd;
	/* Each session is used once: tickets to go on with it would only be in the way. */
	failure = session->gnutls->init(
	    &session->session, flags | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL);
	if (failure >= 0)
		failure = session->gnutls->priority_set_direct(session->session, PRIORITIES, NULL);
	if (failure >= 0)
		failure = session->gnutls->credentials_set(session->session, GNUTLS_CRD_CERTIFICATE,
							   credentials->certificates);
	if (failure < 0) {
		tls_session_free(session);
		return error_new(ENOMEM, "TLS: %s", credentials->gnutls.strerror(failure));
	}
	if (credentials->server)
		session->gnutls->certificate_server_set_request(session->session,
								GNUTLS_CERT_REQUIRE);
	session->gnutls->handshake_set_timeout(session->session, 0); /* whoever polls has one */
	session->gnutls->transport_set_ptr(session->session, session);
	session->gnutls->transport_set_vec_push_function(session->session, push);
	session->gnutls->transport_set_pull_function(session->session, pull);
	*result = session;
	return NULL;
}

static struct error *verify(struct tls_session *session)
{
	const struct tls_credentials *credentials = session->credentials;
	const char *purpose =
	    credentials->server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
	gnutls_typed_vdata_st data[] = {
	    {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)(uintptr_t)purpose},
	    {.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)credentials->hostname},
	};
	gnutls_datum_t text = {};
	unsigned int status = 0;
	struct error *error;
	int result = session->gnutls->certificate_verify_peers(
	    session->session, data, credentials->hostname && !credentials->server ? 2 : 1, &status);

	if (result < 0)
		return error_new(EACCES, "TLS: the other end has no valid certificate: %s",
				 session->gnutls->strerror(result));
	if (!status)
		return NULL;
	result = session->gnutls->certificate_verification_status_print(status, GNUTLS_CRT_X509,
									&text, 0);
	error = error_new(EACCES, "TLS: the certificate of the other end is refused: %s",
			  result < 0 ? "it is not valid" : (char *)text.data);
	(*session->gnutls->free)(text.data);
	/* Or it would only see the connection end. */
	session->gnutls->alert_send(session->session, GNUTLS_AL_FATAL, GNUTLS_A_BAD_CERTIFICATE);
	return error;
}

static short wanted(const struct tls_session *session)
{
	return session->gnutls->record_get_direction(session->session) ? POLLOUT : POLLIN;
}

static struct error *failed(const struct tls_session *session, int result)
{
	if (result == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return error_new(
		    ECONNRESET, "TLS: the other end says: %s",
		    session->gnutls->alert_get_name(session->gnutls->alert_get(session->session)));
	if (result == GNUTLS_E_PREMATURE_TERMINATION || result == GNUTLS_E_PUSH_ERROR ||
	    result == GNUTLS_E_PULL_ERROR)
		return error_new(ECONNRESET, "the other end has closed the connection");
	return error_new(EPROTO, "TLS: %s", session->gnutls->strerror(result));
}

static bool again(int result)
{
	return result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED;
}

struct error *tls_handshake(struct tls_session *session, short *events)
{
	int result;

	*events = 0;
	if (session->handshaken)
		return NULL;
	do
		result = session->gnutls->handshake(session->session);
	while (result < 0 && !again(result) && !session->gnutls->error_is_fatal(result));
	if (again(result)) {
		*events = wanted(session);
		return NULL;
	}
	if (result < 0)
		return failed(session, result);
	TRY(verify(session));
	session->handshaken = true;
	return NULL;
}

struct error *tls_send(struct tls_session *session, const void *bytes, size_t size, size_t *done,
		       short *events)
{
	*events = 0;
	while (*done < size) {
		ssize_t sent;

		pthread_mutex_lock(&session->lock);
		sent = session->gnutls->record_send(session->session,
						    (const uint8_t *)bytes + *done, size - *done);
		pthread_mutex_unlock(&session->lock);
		if (sent >= 0)
			*done += (size_t)sent;
		else if (again((int)sent)) {
			*events = POLLOUT;
			return NULL;
		} else
			return failed(session, (int)sent);
	}
	return NULL;
}

struct error *tls_receive(struct tls_session *session, void *bytes, size_t size, size_t *got,
			  short *events)
{
	ssize_t result;

	*events = 0;
	*got = 0;
	do {
		pthread_mutex_lock(&session->lock);
		result = session->gnutls->record_recv(session->session, bytes, size);
		pthread_mutex_unlock(&session->lock);
	} while (result < 0 && !again((int)result) &&
		 !session->gnutls->error_is_fatal((int)result));
	if (result >= 0)
		*got = (size_t)result;
	else if (again((int)result))
		*events = POLLIN;
	/* Protocols over this have an end of their own, so that nobody need say good-bye. */
	else if (result != GNUTLS_E_PREMATURE_TERMINATION)
		return failed(session, (int)result);
	return NULL;
}
