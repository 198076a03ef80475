/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The other end of machine_migrate.h: a machine that comes from another process. It begins without a
 * machine, whose configuration the source sends:
 *
 *	machine_incoming_accept	 waits for a source and what it says of the machine
 *	machine_incoming_config	 the configuration, which the caller may adapt to this host
 *	machine_create		 with config.incoming
 *	machine_incoming_start	 takes memory and states from here on, while the main loop runs
 *
 * or machine_incoming_refuse, which tells the source why not. Then it is the handover
 * (docs/migration-handover.md) that says when the guest goes on here, and what happens when something
 * breaks. A machine that nothing becomes of shuts down, "migration-failed", with exit status 1.
 *
 * Main thread; the machine tells with the event MIGRATION what becomes of it.
 */
#ifndef GODWIT_MACHINE_MACHINE_INCOMING_H
#define GODWIT_MACHINE_MACHINE_INCOMING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"
#include "migration/handover.h"
#include "migration/postcopy_destination.h"
#include "migration/receiver.h"

struct machine_incoming;

struct machine_incoming_options {
	const char *address; /* migration/transport.h */
	const char *tls;     /* a folder with certificates, or NULL */
	int cancel_fd;	     /* ends the wait when it becomes readable; -1: nothing does */
	/*
	 * It comes from the process that this one is to replace (machine_hand.h). Both have the
	 * eventfd: who reads its 1 is the one to let the guest run, whatever became of the
	 * connection. Taken over, also on error.
	 */
	bool update;
	int token_fd;
	/* The guest runs here; on the main loop. NULL: nobody wants to know. */
	void (*started)(void *context);
	/*
	 * The machine is to end while its guest waits for pages that cannot come: to be answered by
	 * ending the process at once, before a device takes for zeros what is not there. @error,
	 * borrowed, says what is lost. NULL: it ends as any other.
	 */
	void (*lost)(void *context, const struct error *error);
	/* Called when it listens, with where: "tcp:127.0.0.1:38211". NULL: nobody wants to know. */
	void (*listening)(void *context, const char *address);
	void *context;
};

struct error *machine_incoming_accept(const struct machine_incoming_options *options,
				      struct machine_incoming **incoming) MUST_CHECK;
/* One that was not started. Accepts NULL. */
void machine_incoming_close(struct machine_incoming *incoming);

/* Released with machine_config_clear in any case. `incoming` is set. */
struct error *machine_incoming_config(const struct machine_incoming *incoming,
				      struct machine_config *config) MUST_CHECK;
/* Tells the source why not. */
void machine_incoming_refuse(struct machine_incoming *incoming, const struct error *error);

/*
 * Takes @incoming over, unless it returns an error: what differs between this machine and what the
 * source described. Later errors are told by the shut-down.
 */
struct error *machine_incoming_start(struct machine *machine,
				     struct machine_incoming *incoming) MUST_CHECK;

/* Whether the machine's guest is still to come. False for one that did not come from elsewhere. */
bool machine_is_incoming(const struct machine *machine);
/* What the operator has seen on the other side, or, for --give-up before, that it is not wanted. */
struct error *machine_incoming_settle(struct machine *machine, bool resume_here) MUST_CHECK;

/* Waits for the source at @address, from now on, for the session whose connections broke. */
struct error *machine_incoming_recover(struct machine *machine, const char *address) MUST_CHECK;
/*
 * Whether the guest waits for pages that do not come because the connection is broken: then nothing
 * may be done to the machine that would have the main loop wait for its devices and processors.
 */
bool machine_incoming_is_cut(const struct machine *machine);
/* NULL, or why not, with what is lacking and what to do. */
struct error *machine_incoming_check(const struct machine *machine) MUST_CHECK;

struct machine_incoming_report {
	enum handover_state state;
	struct migration_received received;
	bool postcopy;	/* pages are lacking, or were: */
	bool listening; /* the connection is broken, and the source is waited for */
	struct postcopy_destination_progress brought;
	int64_t load_ns;   /* from SWITCH_BEGIN to LOADED; 0: not so far */
	int64_t resume_ns; /* from GO to RUNNING; likewise */
	char reason[256];  /* why it failed, or "" */
};
/* False when the machine did not come from elsewhere. */
bool machine_incoming_get_report(struct machine *machine, struct machine_incoming_report *report);

/*
 * For the machine's own use: it ends. True: its guest waits for pages that do not come, so that nobody
 * may wait for it, and machine_incoming_abandon will not return.
 */
bool machine_incoming_lose(struct machine *machine);
/* For the machine's own use: before it is destroyed. */
void machine_incoming_abandon(struct machine *machine);
/* For the machine's own use: ends it, as if this host had died if it is too late to say more. */
void machine_incoming_end(struct machine *machine);

#endif
