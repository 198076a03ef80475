/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rounds of a pre-copy migration: memory is sent while the guest runs and writes to it, then what
 * it has written since, and so on, until the rest is small enough to be sent while it stands still.
 * When that is, how long it will take, and why it does not come about: nothing here does I/O or looks
 * at a clock of its own, so all of it can be tested with one that is made up.
 *
 * How fast the rest will go is what the last rounds that were long enough have shown, in pages with
 * content: of pages of zeros nearly nothing is sent, and how many of them there will be nobody knows.
 * That errs on the side of a downtime that is shorter than allowed. Where the rest halves with each
 * round more, it goes on for a few, so that the guest stands still for much less than is allowed; but
 * not for one that writes so much in one of them that the rest is too large again.
 *
 * Threads: precopy_run is one thread's; the rest is for any.
 */
#ifndef GODWIT_MIGRATION_PRECOPY_H
#define GODWIT_MIGRATION_PRECOPY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* What is sent beside memory while the guest stands still, before it is known better. */
#define PRECOPY_FIXED_NS (5 * 1000000LL)

struct precopy_progress;

struct precopy_ops {
	/*
	 * Adds what was written since the last time to what is to be sent, and begins a round.
	 * *@pages: how many pages of it are to be sent now, *@written: how many were new.
	 */
	struct error *(*collect)(void *context, uint64_t *pages, uint64_t *written);
	/* Sends all that was collected. */
	struct error *(*send)(void *context);
	/* Pages with content that were sent so far. */
	uint64_t (*sent)(void *context);
	int64_t (*now)(void *context); /* monotonic, ns */
	/*
	 * Makes the guest write @factor, 0 to 1, of what it writes now; for precopy_slow_guests only, and
	 * may be NULL then. Returns the share of its time that it keeps.
	 */
	double (*slow)(void *context, double factor);
	/* Whether to give up; what is returned then is an error of code ECANCELED. NULL: never. */
	bool (*stopping)(void *context);
	/*
	 * Whether to stop here although the rest is not small, because something else brings it
	 * (post-copy). Asked behind each collection, with what is known then. NULL: never.
	 */
	bool (*suffices)(void *context, const struct precopy_progress *progress);
};

enum precopy_phase {
	PRECOPY_WAITING, /* nothing is sent yet */
	PRECOPY_FIRST,	 /* all of memory, once */
	PRECOPY_AGAIN,	 /* what was written since */
	PRECOPY_READY,	 /* the rest is small enough */
};

struct precopy_progress {
	enum precopy_phase phase;
	uint32_t round;		  /* that runs, from 1 */
	uint64_t remaining_pages; /* at the beginning of the round */
	uint64_t scheduled_pages; /* of all rounds, this one included */
	uint64_t send_rate;	  /* bytes of pages a second; 0: not known yet */
	uint64_t write_rate;	  /* that the guest writes to, in pages, bytes a second */
	int64_t downtime_ns;	  /* expected if the guest were stopped now; -1: not known yet */
	int64_t time_ns;	  /* until the switch, expected; -1: not known, or never */
	uint32_t stalled;	  /* rounds in a row that did not make the rest smaller */
	double speed; /* the share of its time that the slowest processor keeps; 1: not slowed */
};

struct precopy {
	const struct precopy_ops *ops;
	void *context;
	int64_t collected_ns; /* when the last collection was */
	bool bursts;	      /* what was allowed became too much: the next that is will do */
	pthread_mutex_t lock; /* guards the next ones */
	int64_t max_downtime_ns;
	bool slows_guests;
	struct precopy_progress progress;
};

void precopy_init(struct precopy *precopy, const struct precopy_ops *ops, void *context,
		  int64_t max_downtime_ns);
void precopy_clear(struct precopy *precopy);

/*
 * Sends memory until the rest, which was collected and not sent yet, is expected to take no longer
 * than allowed.
 */
struct error *precopy_run(struct precopy *precopy) MUST_CHECK;

/*
 * Slows a guest down that writes too fast for the rest to become smaller (ops->slow), each round so much
 * that it should halve in the next. Before precopy_run.
 */
void precopy_slow_guests(struct precopy *precopy);
/* Another limit, from the next round on. */
void precopy_set_max_downtime(struct precopy *precopy, int64_t max_downtime_ns);
int64_t precopy_max_downtime(struct precopy *precopy);
void precopy_get_progress(struct precopy *precopy, struct precopy_progress *progress);
/*
 * Why it takes so long, as a sentence without a full stop for a person, into @text, cut at @size; ""
 * while it gets on.
 */
void precopy_explain(const struct precopy_progress *progress, int64_t max_downtime_ns, char *text,
		     size_t size);

#endif
