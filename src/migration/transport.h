/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection of a migration: a stream socket, whatever is behind it, with TLS or without.
 *
 *   tcp:HOST:PORT    IPv4 or IPv6 ("tcp:[::1]:4444"); to listen, HOST may be empty: every address
 *   unix:PATH
 *   vsock:CID:PORT   to listen, CID may be empty: every one
 *   fd:NUMBER        a stream socket that was handed to this process; "fd:7+fd:8": one a connection
 *   exec:COMMAND     a shell command whose input and output are the connection; one a connection,
 *                    told apart by $GODWIT_CHANNEL ("main", "0", "1" …, "postcopy")
 *
 * Sockets block; a thread that waits is woken by transport_cancel. Nothing is allocated by sending
 * and receiving, but by GnuTLS where there is TLS.
 *
 * Threads: one that sends and one that receives; cancel from any. Errors begin with the connection's
 * name; code ECANCELED after transport_cancel, ECONNRESET when the other end has gone, ETIMEDOUT.
 */
#ifndef GODWIT_MIGRATION_TRANSPORT_H
#define GODWIT_MIGRATION_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "migration/transport_tls.h"

#define TRANSPORT_FDS_MAX 66 /* main, 64 data, requested pages */

enum transport_kind {
	TRANSPORT_TCP,
	TRANSPORT_UNIX,
	TRANSPORT_VSOCK,
	TRANSPORT_FD,
	TRANSPORT_EXEC,
};

struct transport_address {
	enum transport_kind kind;
	char *text; /* as it was given */
	char *host; /* TCP; may be empty. UNIX: the path; EXEC: the command */
	char *port; /* TCP: a number or a service */
	unsigned int vsock_cid, vsock_port;
	uint32_t fd_count;
	int fds[TRANSPORT_FDS_MAX]; /* -1: a connection has taken it over */
	bool owns_fds;		    /* those that are left are closed by free; false at first */
};

/* @listening: for transport_listen, and so what is empty has a meaning. */
struct error *transport_address_parse(const char *text, bool listening,
				      struct transport_address **address) MUST_CHECK;
/* Accepts NULL. */
void transport_address_free(struct transport_address *address);
DEFINE_CLEANUP(transport_address, struct transport_address *, transport_address_free)
#define AUTO_TRANSPORT_ADDRESS AUTO(cleanup_transport_address)

struct transport;

/* A connection over the socket @fd, which it takes over, also on error. @name is for messages. */
struct error *transport_adopt(int fd, const char *name, struct transport **transport) MUST_CHECK;
/*
 * Connects to @address: its @number-th connection (from 0: the main one), which messages and
 * commands call @label. Waits at most @timeout_ms, and ends when @cancel_fd becomes readable. The
 * descriptor of an fd: address becomes the transport's own, and is closed on error.
 */
struct error *transport_connect(struct transport_address *address, uint32_t number,
				const char *label, int cancel_fd, int timeout_ms,
				struct transport **transport) MUST_CHECK;
/* Closes without a word; a command is ended. Nobody may be using it. Accepts NULL. */
void transport_close(struct transport *transport);
DEFINE_CLEANUP(transport, struct transport *, transport_close)
#define AUTO_TRANSPORT AUTO(cleanup_transport)

/* "tcp:10.0.0.2:4444, data connection 3" */
const char *transport_name(const struct transport *transport);
/* Another name; nobody else may be using it. */
struct error *transport_rename(struct transport *transport, const char *name) MUST_CHECK;
/* To be watched for events only. */
int transport_fd(const struct transport *transport);

/* From now on each wait for the other end is at most @ms long; 0: for ever, as at first. */
void transport_set_timeout(struct transport *transport, uint32_t ms);

/*
 * Begins TLS (transport_tls.h): to be called once, by the client at any time before it sends, by the
 * server before it receives. The handshake is the first thing that follows.
 */
struct error *transport_start_tls(struct transport *transport,
				  struct tls_credentials *credentials) MUST_CHECK;
/* The handshake, waiting for it. Nothing to do without TLS. */
struct error *transport_handshake(struct transport *transport) MUST_CHECK;
/* One step of it without waiting: *@events is 0 when it is done, else what to poll for. */
struct error *transport_try_handshake(struct transport *transport, short *events) MUST_CHECK;

/* Sends all @count parts, which are used up. */
struct error *transport_send(struct transport *transport, struct iovec *parts,
			     size_t count) MUST_CHECK;
/*
 * Receives into @parts, in their order, which are used up: at least @minimum bytes, and more where
 * they are there already. *@got: how many; 0 at the end of the connection, which is an error within
 * @minimum, after the first byte.
 */
struct error *transport_receive(struct transport *transport, struct iovec *parts, size_t count,
				size_t minimum, size_t *got) MUST_CHECK;
/* As much as is there without waiting, perhaps nothing (*@got is 0); the end is an error here. */
struct error *transport_try_receive(struct transport *transport, void *bytes, size_t size,
				    size_t *got) MUST_CHECK;

/*
 * Descriptors that go along, on UNIX sockets without TLS. The next transport_send sends @count of
 * @fds, at most TRANSPORT_PASSED_MAX, with its first byte; they stay the caller's, and open until then.
 */
#define TRANSPORT_PASSED_MAX 128
struct error *transport_attach(struct transport *transport, const int *fds,
			       uint32_t count) MUST_CHECK;
/* From now on descriptors that come along are kept for transport_take; else they are closed. */
void transport_expect(struct transport *transport);
/* Those that have come, in their order, into @fds, which become the caller's; how many. */
uint32_t transport_take(struct transport *transport, int fds[TRANSPORT_PASSED_MAX]);

/* Makes all of these fail from now on, also those that wait. */
void transport_cancel(struct transport *transport);

/* --- Listening --------------------------------------------------------------------------------- */

struct transport_listener;

/* For TCP, UNIX and VSOCK; others have nothing to listen on. A socket that was left behind is
 * replaced; the path is removed by close. */
struct error *transport_listen(const struct transport_address *address,
			       struct transport_listener **listener) MUST_CHECK;
/* Accepts NULL. */
void transport_listener_close(struct transport_listener *listener);
DEFINE_CLEANUP(transport_listener, struct transport_listener *, transport_listener_close)
#define AUTO_TRANSPORT_LISTENER AUTO(cleanup_transport_listener)
/* Readable when somebody comes. */
int transport_listener_fd(const struct transport_listener *listener);
/* Where it listens, with the port that the system chose: "tcp:127.0.0.1:38211". */
const char *transport_listener_name(const struct transport_listener *listener);
/* Who has come; *@transport is NULL when nobody has. Never waits. */
struct error *transport_accept(struct transport_listener *listener,
			       struct transport **transport) MUST_CHECK;

#endif
