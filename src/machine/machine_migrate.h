/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moving a machine to another process, which waits for it (machine_incoming.h): by pre-copy, its
 * memory is sent while the guest runs, the rest and the states of devices and processors while it
 * stands still for a moment; then the other process lets it go on, and this one ends. By post-copy,
 * the guest goes on there before its memory has come: pages that it touches are sent at once, all
 * others behind them, and this process ends when all are there.
 *
 * docs/migration-handover.md says who runs the guest when something breaks. In one case nobody but
 * an operator can tell: the migration is then UNDECIDED, the guest stands still here, and
 * machine_migrate_settle ends it, or machine_migrate_recover. When the connection breaks while the
 * destination lacks pages, only machine_migrate_recover helps.
 *
 * Main thread. The work is done by threads of the migration's own, which ask the main loop for what
 * concerns the machine as a whole.
 */
#ifndef GODWIT_MACHINE_MACHINE_MIGRATE_H
#define GODWIT_MACHINE_MACHINE_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"
#include "migration/handover.h"
#include "migration/precopy.h"

#define MACHINE_MIGRATE_DOWNTIME_MS  300
#define MACHINE_MIGRATE_CHANNELS     2
#define MACHINE_MIGRATE_DOWNTIME_MAX (60 * 1000) /* ms */
#define MACHINE_MIGRATE_STALLED	     2		 /* rounds */
#define MACHINE_MIGRATE_STALLED_MAX  1000

enum machine_migrate_mode {
	MACHINE_MIGRATE_PRECOPY,
	MACHINE_MIGRATE_POSTCOPY, /* the guest moves at once, its memory follows */
	MACHINE_MIGRATE_HYBRID,	  /* pre-copy, until it does not get on or somebody says so */
};

struct machine_migrate_options {
	const char *address;  /* migration/transport.h */
	uint32_t channels;    /* data connections, 1 to WIRE_CHANNELS_MAX */
	uint32_t downtime_ms; /* that the guest may stand still */
	uint64_t bandwidth;   /* bytes a second; 0: no limit */
	bool share_memory;    /* hand memory to a process on this host by descriptor */
	bool auto_converge;   /* slow a guest down that writes too fast */
	const char *tls;      /* a folder with certificates, or NULL */
	const char *tls_name; /* what the destination's is for; NULL: the host of a tcp: address */
	bool zstd;	      /* compress pages */
	enum machine_migrate_mode mode;
	uint32_t stalled_rounds; /* hybrid: without gain, behind which it is post-copy's; not 0 */
	/*
	 * With share_memory: all that belongs to the machine was handed over (machine_hand_share),
	 * and this process is left without a word when it goes on there. @released: called when
	 * the devices are the other's, on the main loop.
	 */
	bool update;
	void (*released)(void *context);
	const char *label; /* how the address is called in messages; NULL: as it is */
};

/* How long each part of the downtime took; 0: not so far. */
struct machine_downtime {
	int64_t stop_ns;    /* processors and devices came to rest */
	int64_t states_ns;  /* their states were collected */
	int64_t pages_ns;   /* the last pages and the states were sent, disks synced */
	int64_t load_ns;    /* until the destination had loaded all and said so */
	int64_t confirm_ns; /* from GO to RUNNING: one round trip, and: */
	int64_t resume_ns;  /* the destination took disks over, announced the guest, let it run */
	int64_t total_ns;   /* from the stop until RUNNING, or until the guest went on here */
};

struct machine_migrate_progress {
	enum handover_state state;
	struct precopy_progress precopy;
	uint64_t total, done; /* bytes of memory to be sent, so far and foreseen; sent */
	uint64_t sent;	      /* bytes on all data connections */
	uint64_t pages, zero_pages, compressed_pages, state_bytes;
	uint64_t bandwidth;
	int64_t max_downtime_ns;
	int64_t elapsed_ns;
	uint32_t changes; /* grows whenever `changed` is called for */
	struct machine_downtime downtime;
	char why[256];	    /* why it takes so long, or ""; precopy.h */
	const char *slowed; /* of a guest that is, which processors, in words */
	enum machine_migrate_mode mode;
	/* Once post-copy has begun: */
	bool postcopy, connecting;
	uint64_t postcopy_pages,
	    postcopy_left;		    /* that the destination lacked at first; not yet sent */
	uint64_t requests, requested_pages; /* of the destination; sent because of them */
	char recover_error[256];	    /* why the last attempt to connect anew failed, or "" */
};

struct machine_migrate;

/* NULL, or why machine_migrate_start would refuse it now. */
struct error *machine_migrate_check(const struct machine *machine,
				    const struct machine_migrate_options *options) MUST_CHECK;
/*
 * Begins a migration. @done is called once, on the main loop, when it is over: with NULL when the
 * guest is the destination's (the machine then shuts down, "migrated"), else with the reason why it
 * stayed (handed over). @changed, which may be NULL, is called when something else has become of it:
 * it is UNDECIDED, SERVING, SERVING_CUT, or an attempt to connect anew failed.
 */
struct error *machine_migrate_start(struct machine *machine,
				    const struct machine_migrate_options *options,
				    void (*done)(void *context, struct error *error),
				    void (*changed)(void *context), void *context,
				    struct machine_migrate **migrate) MUST_CHECK;
/* Of a hybrid one: the guest moves now. */
struct error *machine_migrate_start_postcopy(struct machine_migrate *migrate) MUST_CHECK;
/*
 * Connects anew, to @address, where the destination waits for it. Returns at once; `changed` is called
 * when that failed.
 */
struct error *machine_migrate_recover(struct machine_migrate *migrate,
				      const char *address) MUST_CHECK;
/* NULL, or why the machine must not end now: the guest runs elsewhere and needs what is here. */
struct error *machine_migrate_check_end(const struct machine *machine) MUST_CHECK;
/* Makes it end soon, with the guest here; refused once that is not for this side to say. */
struct error *machine_migrate_cancel(struct machine_migrate *migrate) MUST_CHECK;
/* What the operator has seen on the other side: docs/migration-handover.md. */
struct error *machine_migrate_settle(struct machine_migrate *migrate, bool resume_here) MUST_CHECK;
/* Other limits from now on; 0: none, or as it is. */
void machine_migrate_limit(struct machine_migrate *migrate, uint64_t bandwidth,
			   uint32_t downtime_ms);
void machine_migrate_get_progress(struct machine_migrate *migrate,
				  struct machine_migrate_progress *progress);
/*
 * Ends it, as if this host had died if it is too late to say more, and waits; @done is not called
 * any more. Accepts NULL.
 */
void machine_migrate_destroy(struct machine_migrate *migrate);

#endif
