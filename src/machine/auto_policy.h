/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How much elastic memory a guest should have: the decision, without any device, clock or thread.
 *
 * Input is what a stock balloon driver reports about itself once a second, and what the elastic
 * devices hold. The aim, in this order: the guest grows before it swaps or kills; it does not
 * oscillate; an idle one gives back. Growing is therefore quick and generous, shrinking slow and
 * small, and a band lies between the two in which nothing happens.
 *
 * The guest controls every number of a sample. The worst it can do is to get its own maximum or
 * minimum.
 */
#ifndef GODWIT_MACHINE_AUTO_POLICY_H
#define GODWIT_MACHINE_AUTO_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Used memory is what the guest cannot get back without swapping: total less available. More is
 * requested as soon as what is available falls below used/4, and never less than AUTO_GROW_RESERVE.
 * A quarter is what lets a guest whose use grows by 10 % a second wait for two samples and the
 * plugging (0.3 s per GiB measured).
 */
#define AUTO_GROW_DIVISOR 4
#define AUTO_GROW_RESERVE (128ULL << 20)
/*
 * Memory is taken back only beyond twice that reserve, so that use may rise by a fifth right after
 * a shrink before anything grows again: with less, a load that swings by a tenth made the guest
 * grow and shrink in turn.
 */
#define AUTO_SHRINK_DIVISOR 2
#define AUTO_SHRINK_RESERVE (256ULL << 20)
/*
 * Three seconds of the fastest recent growth are kept in reserve: one until the next sample, one
 * for the sample to arrive, one to plug. The memory of the fastest growth fades by an eighth with
 * each sample, so one burst holds its reserve for about ten seconds.
 */
#define AUTO_LEAD_SECONDS 3
#define AUTO_RATE_FADE	  8
/*
 * The least growth. A Linux guest adds memory in blocks of 128 MiB and pays the page array of the
 * whole block (2 MiB) even when only a part of it is plugged.
 */
#define AUTO_GROW_STEP (128ULL << 20)
/*
 * A Linux guest takes 1/64 (64 bytes a page) of all memory it adds from memory it already has, and
 * not from movable elastic memory: one step may need half of what is available, and all elastic
 * memory together a quarter of boot memory. Beyond that the guest's kernel would be starved by the
 * page array of memory that only its programs can use. With nothing available, half a gigabyte may
 * still be asked for: its 8 MiB come from reclaim, and waiting until some is available is hopeless.
 */
#define AUTO_MEMMAP_DIVISOR 64
#define AUTO_MEMMAP_STEP    2
#define AUTO_MEMMAP_BOOT    4
#define AUTO_MEMMAP_FREE    (512ULL << 20)
/* Taking back begins after so much calm, and goes on in steps so far apart: page cache needs time
 * to show use. */
#define AUTO_CALM_NS   (30LL * 1000000000)
#define AUTO_SHRINK_NS (10LL * 1000000000)
/* A step takes an eighth of what is too much, but at least this, so that the last gigabyte does not
 * take minutes. */
#define AUTO_SHRINK_FRACTION 8
/* Less than a memory block of the guest is not worth the work of emptying it: its page array stays. */
#define AUTO_SHRINK_LEAST (128ULL << 20)
#define AUTO_SHRINK_STEP  (256ULL << 20)
/* Swap traffic below this is the kernel's housekeeping; major faults above that are programs
 * waiting for disk. */
#define AUTO_SWAP_RATE	(1ULL << 20) /* bytes a second, each direction */
#define AUTO_FAULT_RATE 100	     /* a second */
/* A guest that was short and has been silent so long is too busy reclaiming to answer: it gets one
 * step. */
#define AUTO_SILENT_NS (3LL * 1000000000)

/* What the guest said. Counters count since the guest's boot; one that a guest does not report
 * stays 0. */
struct auto_sample {
	int64_t time_ns;	    /* CLOCK_MONOTONIC, on arrival; 0: none so far */
	uint64_t total, available;  /* bytes; available as in the guest's /proc/meminfo */
	uint64_t swap_in, swap_out; /* bytes */
	uint64_t major_faults;
	uint64_t oom_kills;
	uint64_t stalls; /* allocations that had to wait for reclaim */
};

/* All automatic elastic devices together, in bytes. */
struct auto_limits {
	uint64_t minimum, maximum; /* of elastic memory */
	uint64_t boot;		   /* memory that the guest has without it */
	uint64_t block;		   /* steps are multiples of it; a power of two */
};

struct auto_elastic {
	uint64_t requested, plugged; /* bytes */
	bool blocked; /* the last growth was refused by the host or the guest and is not done */
};

enum auto_action { AUTO_HOLD, AUTO_GROW, AUTO_SHRINK };

enum auto_reason {
	AUTO_NO_STATISTICS, /* hold: the guest has not reported yet */
	AUTO_WAITING,	    /* hold: nothing new since the last decision */
	AUTO_IN_BAND,	    /* hold: as much as it needs */
	AUTO_NOT_CALM,	    /* hold: too much, but not for long enough */
	AUTO_SHRINKING,	    /* hold: the guest has not given back what was asked for before */
	AUTO_AT_LIMIT,	    /* hold: would grow, but is at its maximum */
	AUTO_MEMMAP_LIMIT,  /* hold: would grow, but boot memory cannot describe more */
	AUTO_BLOCKED,	    /* hold: would grow, but the host or the guest refuses more */
	AUTO_BELOW_MINIMUM, /* grow to the minimum */
	AUTO_LOW,	    /* grow: available memory is below the reserve */
	AUTO_FAST, /* grow: at this rate the reserve is gone before the next steps take effect */
	AUTO_SWAPPING,	    /* grow: the guest swaps and has little available */
	AUTO_STALLING,	    /* grow: allocations wait for reclaim and little is available */
	AUTO_OOM_KILL,	    /* grow: the guest has killed a process */
	AUTO_SILENT,	    /* grow: short of memory at its last word, and silent since */
	AUTO_ABOVE_MAXIMUM, /* shrink to the maximum */
	AUTO_GUEST_OOM,	    /* shrink: the guest could not plug it; the driver only tries again when
			       asked anew */
	AUTO_IDLE,	    /* shrink: calm and more than the reserve */
};
const char *auto_action_name(enum auto_action action);
/* "low-available", … as in logs and events. */
const char *auto_reason_name(enum auto_reason reason);

/* What the policy remembers between calls. All zero at the start and after a reset of the guest. */
struct auto_state {
	struct auto_sample last;
	uint64_t rate;		/* bytes a second: the fastest recent growth of used memory */
	int64_t calm_since_ns;	/* no sign of pressure since */
	int64_t last_shrink_ns; /* 0: never */
	bool tight;		/* the last sample asked for growth */
	bool silence_answered;
};

struct auto_decision {
	enum auto_action action;
	enum auto_reason reason;
	uint64_t target; /* elastic bytes to request; the present request for AUTO_HOLD */
	uint64_t used;	 /* bytes, of the sample decided on */
	uint64_t wanted; /* bytes of total memory that use and reserve ask for */
	uint64_t total, available;
};

/*
 * Decides. @sample is the newest one (the same again if nothing new arrived), @now_ns the present
 * (CLOCK_MONOTONIC). Fills all of *decision.
 */
void auto_decide(struct auto_state *state, const struct auto_limits *limits,
		 const struct auto_elastic *elastic, const struct auto_sample *sample,
		 int64_t now_ns, struct auto_decision *decision);

/* One device's share. */
struct auto_share {
	uint64_t minimum, maximum, block; /* bytes; minimum and maximum are multiples of block */
	uint64_t requested;		  /* bytes: before, and after auto_spread */
};

/*
 * Spreads a change of the sum of requests to @target over the devices in proportion to the room
 * each has, so that NUMA nodes stay balanced. Growth is rounded up to whole blocks, shrinking down.
 */
void auto_spread(struct auto_share *shares, uint32_t count, uint64_t target);

#endif
