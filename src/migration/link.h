/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The connections of one migration: the main one, over which both ends talk, one or more data
 * connections, which carry memory and states of devices from the source to the destination
 * (sender.h, receiver.h), and if wanted one for pages that the guest waits for.
 *
 *	migration_link_open	understands the address; a destination listens from here on
 *	migration_link_connect	a source: connects, and is connected when it returns
 *	migration_link_accept	a destination: waits for a source, for all its connections
 *	migration_link_send, migration_link_receive
 *
 * Sessions: a source invents a random id, which each of its connections names. A destination takes the
 * first main connection that makes sense, then only connections of its session; others are refused and
 * cannot hold anything up: at most 32 that have not said who they are, 10 seconds each, the eldest of
 * which gives way. With TLS nobody is listened to who has no certificate.
 *
 * What breaks stays broken: to go on with a session whose connections were lost, make another link
 * with `resume`.
 *
 * Threads: open, connect, accept, close from one; then any may send, one receives; cancel from any.
 * Errors: code ECANCELED after cancel; ECONNRESET or ETIMEDOUT when the other end is gone.
 */
#ifndef GODWIT_MIGRATION_LINK_H
#define GODWIT_MIGRATION_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "migration/transport.h"
#include "migration/wire.h"

enum migration_side { MIGRATION_SOURCE, MIGRATION_DESTINATION };

struct migration_link_options {
	const char
	    *address;	   /* transport.h; numbers of descriptors, names are the caller's matter */
	uint32_t channels; /* source: data connections, 1 to WIRE_CHANNELS_MAX */
	bool postcopy;	   /* source: with a connection for requested pages */
	const char *tls;   /* a folder with certificates (transport_tls.h), or NULL */
	const char
	    *tls_name; /* source: what the destination's is for; NULL: the host of a tcp: address */
	uint32_t timeout_ms; /* for connections of a session that has begun; 0: 30 s */
	/* The session to go on with, WIRE_SESSION_SIZE bytes, or NULL. Source: as many channels. */
	const uint8_t *resume;
};

struct migration_link;

struct error *migration_link_open(enum migration_side side,
				  const struct migration_link_options *options,
				  struct migration_link **link) MUST_CHECK;
/* Closes everything, without a word. Nobody may be using it. Accepts NULL. */
void migration_link_close(struct migration_link *link);
DEFINE_CLEANUP(migration_link, struct migration_link *, migration_link_close)
#define AUTO_MIGRATION_LINK AUTO(cleanup_migration_link)

/* Where a destination listens ("tcp:127.0.0.1:38211"), else the address as it was given. */
const char *migration_link_address(const struct migration_link *link);

/*
 * Each of these takes over all descriptors of an fd: address, also on error: what is left of them is
 * closed with the link.
 */
struct error *migration_link_connect(struct migration_link *link) MUST_CHECK;
/*
 * Waits for a source for ever; one that does not make all its connections is forgotten. Listens to
 * nobody any more when it returns without an error.
 */
struct error *migration_link_accept(struct migration_link *link) MUST_CHECK;
/* Makes all of these fail, and everything that uses a connection, now and from now on. */
void migration_link_cancel(struct migration_link *link);

/*
 * From now on each wait of migration_link_send and _receive for the other end is at most @ms long; 0:
 * for ever, as at first.
 */
void migration_link_set_timeout(struct migration_link *link, uint32_t ms);

/* After connect or accept. */
enum migration_side migration_link_side(const struct migration_link *link);
const uint8_t *migration_link_session(const struct migration_link *link);
uint32_t migration_link_channels(const struct migration_link *link);
bool migration_link_has_postcopy(const struct migration_link *link);
/* Data connection @index; @index == channels is the one for requested pages. For sender.c … */
struct transport *migration_link_data(const struct migration_link *link, uint32_t index);

/* Sends @message, whole. A type that this side may not send is our mistake. */
struct error *migration_link_send(struct migration_link *link,
				  const struct migration_message *message) MUST_CHECK;
/* Descriptors that go along with messages: transport_attach, _expect and _take of the main connection. */
struct error *migration_link_attach(struct migration_link *link, const int *fds,
				    uint32_t count) MUST_CHECK;
void migration_link_expect(struct migration_link *link);
uint32_t migration_link_take(struct migration_link *link, int fds[TRANSPORT_PASSED_MAX]);
/* A message without more than its type. */
struct error *migration_link_send_type(struct migration_link *link,
				       enum migration_message_type type) MUST_CHECK;
/* REFUSE or ABORT with @text, cut to what fits, without control characters. */
struct error *migration_link_send_text(struct migration_link *link,
				       enum migration_message_type type,
				       const char *text) MUST_CHECK;
/* @words of a bitmap of @block from word @first on, in as many messages as it takes. */
struct error *migration_link_send_bitmap(struct migration_link *link,
					 enum migration_message_type type, uint16_t block,
					 uint64_t first, const uint64_t *words,
					 uint64_t count) MUST_CHECK;
/*
 * Waits for a message, which is valid until the next call. The peer may send @message by the
 * protocol's types, but whether it makes sense now, and numbers of blocks and devices, are the
 * caller's to check.
 */
struct error *migration_link_receive(struct migration_link *link,
				     struct migration_message *message) MUST_CHECK;

/*
 * For tests, and for whoever has the connections already: takes over @main and the @channels (and one
 * more with @postcopy) at @data, also on error.
 */
struct error *migration_link_assemble(enum migration_side side, struct transport *main,
				      struct transport **data, uint32_t channels, bool postcopy,
				      struct migration_link **link) MUST_CHECK;

#endif
