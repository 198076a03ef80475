/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handover, for the checker spin: all that can happen to a migration. The rules of both sides
 * are src/migration/handover_table.h itself, the one that the program is compiled of; what is
 * written here is the world around them:
 *
 *  - each direction of a connection is a queue; either side may find the connection broken at any
 *    moment, whatever is still in its queue (that is loss) or in the other's (that is delay), and
 *    the other side finds out later, at any moment;
 *  - the source may connect again, CONNECTS times, and that may break at any point too;
 *  - either host may die at any moment;
 *  - everything that a side does itself may fail, what does not end the migration FAILURES times;
 *  - an operator may decide, after a look at the other side, by the rules of docs/migration-handover.md
 *    ("What an operator must know"). He may be slow: what he saw is only as old as his side's state;
 *  - at some moment, or never, the world becomes calm: no more breaks, deaths and cancels, and a
 *    source that has no connection but needs one gets it.
 *
 * Every run ends, for each step uses up something, so "eventually" needs no assumption of fairness.
 *
 * tests/model/test_handover.py checks each property below, and that each BROKEN_... is found out. By
 * hand, and the story of what was found:
 *
 *	spin -a tests/model/handover.pml && cc -O2 -w -o pan pan.c && ./pan -a -N never_twice
 *	./pan -S -r handover.pml.trail
 */

#ifndef CONNECTS
#define CONNECTS 3
#endif
#ifndef FAILURES
#define FAILURES 2
#endif

mtype = { NO_EVENT
#define EVENT(name, ...) , EV_##name
#define S_STATE(name, ...) , S_##name
#define D_STATE(name, ...) , D_##name
#include "../../src/migration/handover_table.h"
}

/* What the two sides know, and what is under way between them. */
mtype s = S_COPYING;
mtype d = D_RECEIVING;
#ifdef BROKEN_OLD_CONNECTION_IS_READ
#define QUEUE 15
#else
#define QUEUE 3
#endif
chan to_s = [QUEUE] of { mtype };
chan to_d = [QUEUE] of { mtype };
bool s_link = true, d_link = true;
bool connecting;	/* the destination has answered a new connection, the source has not heard it */
byte connects = CONNECTS, failures = FAILURES;
bool s_alive = true, d_alive = true;
bool calm;

/* What is true of the guest; no side looks at these. */
bool s_runs = true, d_runs;
bool s_copy = true;	/* the source's memory is whole, as of when the guest last ran there */
bool d_state;		/* the destination has all devices, and pages but for those lacking */
bool d_whole;		/* ... and all pages */
bool s_old, d_old;	/* the guest has run at the other side since that copy was made */
bool forked;		/* an old copy was run */
bool refused;		/* an event did not fit */
bool go_sent, answered, go_heard, told_here; /* told_here: an operator had the destination run */
bool d_must_live;	/* the source died while the destination had a whole copy, the newest */
bool s_saw_d;		/* the operator has seen that the guest does not run there and never did */
bool d_saw_s;

#define S_GOOD (s_alive && s_copy && !s_old)
#define D_GOOD (d_alive && d_whole && !d_old)
/* Post-copy: what the destination lacks, the source has as it was when the guest ran there last. */
#define BOTH_GOOD (s_alive && d_alive && s_copy && d_state && !d_old)

/* ---- actions --------------------------------------------------------------------------------- */

/* What is sent into a closed connection is lost. The queues are never full: the checker would say. */
#define TO_D(event) if :: s_link && d_link -> to_d!event :: else fi
#define TO_S(event) if :: d_link && (s_link || connecting) -> to_s!event :: else fi

#define S_DO_NOTHING		skip
#define S_DO_RELEASE		skip
#define S_DO_SERVE_PAGES	skip
#define S_DO_STOP_VM		s_runs = false
#define S_DO_RESUME_VM		forked = forked || s_old; s_runs = true; d_old = true
#define S_DO_DISCARD		s_copy = false
#define S_DO_SEND_SWITCH_BEGIN	TO_D(EV_SWITCH_BEGIN)
#define S_DO_SEND_GO		go_sent = true; answered = false; TO_D(EV_GO)
#define S_DO_SEND_ABORT		TO_D(EV_ABORT)

#define D_DO_NOTHING		skip
#define D_DO_RELEASE		skip
#define D_DO_TAKE_OVER		skip
#define D_DO_HOLD_FAULTS	skip
#define D_DO_ASK_PAGES		skip
#define D_DO_START_VM		forked = forked || d_old; d_runs = true; s_old = true
#define D_DO_DISCARD		d_state = false; d_whole = false
#define D_DO_SEND_LOADED	TO_S(EV_LOADED)
#define D_DO_SEND_RUNNING	TO_S(EV_RUNNING)
#define D_DO_SEND_RUNNING_LACKING TO_S(EV_RUNNING_LACKING)
#define D_DO_SEND_REJECTED	TO_S(EV_REJECTED)

/* What is printed tells the story of a trail; a test compares it with the program's table. */
#define TEXT(...) #__VA_ARGS__
#define S_RULE(state, event, next, first, second) \
	:: s == S_##state && event_s == EV_##event -> \
		printf(TEXT(S state event: next first second)); printf("\n"); \
		S_DO_##first; S_DO_##second; s = S_##next;
#define D_RULE(state, event, next, first, second) \
	:: d == D_##state && event_d == EV_##event -> \
		printf(TEXT(D state event: next first second)); printf("\n"); \
		D_DO_##first; D_DO_##second; d = D_##next;

/* The checker tells which rules no run ever used, but not inside a d_step. */
#ifdef COUNT_RULES
#define AT_ONCE atomic
#else
#define AT_ONCE d_step
#endif

/* ---- what may happen next -------------------------------------------------------------------- */

#define S_CANCELS (s == S_COPYING || s == S_SWITCHING)
#define S_CONNECTS (s == S_UNDECIDED || s == S_SERVING_CUT || s == S_STAYED)
#define D_FAILS (d == D_RECEIVING || d == D_LOADING)
#define D_GIVES_UP (D_FAILS || d == D_LOADED || d == D_LOADED_LACKING || d == D_HELD || d == D_HELD_LACKING)
#define D_TAKES (d == D_STARTING || d == D_STARTING_CUT || d == D_STARTING_LACKING || d == D_STARTING_LACKING_CUT)
#define D_LACKS (d == D_LOADED_LACKING || d == D_STARTING_LACKING || d == D_STARTING_LACKING_CUT || \
		 d == D_REJECTING_LACKING || d == D_HELD_LACKING || d == D_RUNNING_LACKING || d == D_RUNNING_LACKING_CUT)
#define D_STANDS (d == D_HELD || d == D_HELD_LACKING || d == D_DISCARDED)

/*
 * What an operator must have seen. At a source that is undecided: the destination's process says
 * that it holds the guest or has discarded it, or it ended without having run it. LOADED is not
 * enough: GO may be on its way to it still.
 */
#ifdef BROKEN_OPERATOR_TRUSTS_LOADED
#define D_IS_SAFE ((d_alive && (D_STANDS || d == D_LOADED || d == D_LOADED_LACKING)) || (!d_alive && !s_old))
#else
#define D_IS_SAFE ((d_alive && D_STANDS) || (!d_alive && !s_old))
#endif
/* At a destination that holds the guest: the source is undecided, or ended and had not resumed it. */
#ifdef BROKEN_OPERATOR_TRUSTS_SILENCE
#define S_IS_SAFE ((s_alive && s == S_UNDECIDED) || !s_alive)
#else
#define S_IS_SAFE ((s_alive && s == S_UNDECIDED) || (!s_alive && !d_old))
#endif

active proctype world()
{
	mtype event_s, event_d, was_s, was_d;

	do
	:: atomic {
		event_s = NO_EVENT; event_d = NO_EVENT; was_s = s; was_d = d;
		if
		/* The sides' own work. */
		:: s_alive && s == S_COPYING -> event_s = EV_SWITCH
		:: s_alive && S_CANCELS && !calm -> event_s = EV_CANCEL
		:: s_alive && S_CANCELS && !calm -> event_s = EV_FAILED
		:: d_alive && d == D_LOADING -> d_state = true; d_whole = true; event_d = EV_ALL_LOADED
		:: d_alive && d == D_LOADING -> d_state = true; event_d = EV_LOADED_BUT_PAGES
		:: d_alive && D_FAILS && !calm -> event_d = EV_FAILED
		/* A late failure of work that is no longer needed. */
		:: s_alive && s == S_STAYED && !calm && failures > 0 -> failures--; event_s = EV_FAILED
		:: d_alive && d == D_DISCARDED && !calm && failures > 0 -> failures--; event_d = EV_FAILED
		:: d_alive && D_TAKES -> event_d = EV_TAKEN
		:: d_alive && D_TAKES && !calm && failures > 0 -> failures--; event_d = EV_FAILED
		/* The last page: sent by the source, or on its way here since before. */
		:: d_alive && D_LACKS && s_copy -> d_whole = true; event_d = EV_ALL_PAGES

		/* Messages arrive, in order. */
		:: s_alive && s_link && len(to_s) > 0 -> to_s?event_s;
			if :: event_s == EV_RUNNING || event_s == EV_RUNNING_LACKING || event_s == EV_REJECTED -> answered = true :: else fi
		:: d_alive && d_link && len(to_d) > 0 -> to_d?event_d;
			if :: event_d == EV_GO -> go_heard = true :: else fi

		/* The connection breaks, as one side sees it; when calm, only after the other closed it. */
		:: s_alive && s_link && (!calm || (!d_link && len(to_s) == 0)) ->
			s_link = false; event_s = EV_LINK_LOST;
#ifndef BROKEN_OLD_CONNECTION_IS_READ
			do :: to_s?_ :: len(to_s) == 0 -> break od
#endif
		:: d_alive && d_link && (!calm || (!s_link && !connecting && len(to_d) == 0)) ->
			d_link = false; event_d = EV_LINK_LOST;
#ifndef BROKEN_OLD_CONNECTION_IS_READ
			do :: to_d?_ :: len(to_d) == 0 -> break od
#endif

		/* A new connection: the destination has closed the old one and answers, then the source hears. */
		:: s_alive && d_alive && !s_link && !d_link && !connecting && S_CONNECTS && (connects > 0 || calm) ->
			if :: connects > 0 -> connects-- :: else fi;
			connecting = true; d_link = true; event_d = EV_LINK_UP
		:: s_alive && connecting && d_link && S_CONNECTS -> connecting = false; s_link = true; event_s = EV_LINK_UP
		:: connecting && (!calm || !d_link || !S_CONNECTS || !s_alive) ->
			connecting = false;
			do :: to_s?_ :: len(to_s) == 0 -> break od

		/* A host dies. */
		:: s_alive && !calm -> d_must_live = D_GOOD; s_alive = false; s_runs = false; s_link = false;
			printf("S dies\n")
		:: d_alive && !calm -> d_alive = false; d_runs = false; d_link = false; printf("D dies\n")

		/* An operator looks at the other side, and decides. */
		:: s_alive && s == S_UNDECIDED && !s_saw_d && D_IS_SAFE -> s_saw_d = true; printf("S operator looks at D\n")
		:: s_alive && s == S_UNDECIDED && s_saw_d -> event_s = EV_RESUME_HERE; d_saw_s = false
		:: s_alive && s == S_UNDECIDED && d == D_RUNNING -> event_s = EV_GIVE_UP
		:: s_alive && s == S_UNDECIDED && !d_alive && s_old -> event_s = EV_GIVE_UP
		:: s_alive && s == S_SERVING_CUT && (d == D_RUNNING || !d_alive) -> event_s = EV_GIVE_UP
		:: d_alive && d == D_HELD && !d_saw_s && S_IS_SAFE -> d_saw_s = true; printf("D operator looks at S\n")
		:: d_alive && d == D_HELD && d_saw_s -> told_here = true; event_d = EV_RESUME_HERE; s_saw_d = false
		:: d_alive && D_GIVES_UP && s_alive && s != S_GONE && !calm -> event_d = EV_GIVE_UP

		:: !calm -> calm = true
		:: else -> break
		fi;
		AT_ONCE {
			if
			:: event_s == NO_EVENT
#ifdef BROKEN_RESUMES_AFTER_GO
			S_RULE(GO_SENT, LINK_LOST, STAYED, RESUME_VM, NOTHING)
#endif
#ifdef BROKEN_WAITS_BEFORE_GO
			S_RULE(SWITCHING, LINK_LOST, UNDECIDED, NOTHING, NOTHING)
#endif
#ifdef BROKEN_DISCARDS_AT_GO
			S_RULE(SWITCHING, LOADED, GO_SENT, SEND_GO, DISCARD)
#endif
#ifdef BROKEN_FORGETS_PAGES
			S_RULE(GO_SENT, RUNNING_LACKING, GONE, DISCARD, NOTHING)
#endif
#ifdef BROKEN_RESUMES_OLD_COPY
			S_RULE(SERVING, LINK_LOST, STAYED, RESUME_VM, NOTHING)
#endif
#ifdef BROKEN_TELLS_BEFORE_RESUMING
			S_RULE(SWITCHING, CANCEL, UNDECIDED, SEND_ABORT, NOTHING)
#endif
#ifdef BROKEN_WAITS_WHEN_REJECTED
			S_RULE(GO_SENT, REJECTED, GO_SENT, NOTHING, NOTHING)
#endif
#ifdef BROKEN_SOURCE_OBEYS_NOBODY
			S_RULE(UNDECIDED, RESUME_HERE, UNDECIDED, NOTHING, NOTHING)
#endif
#ifdef BROKEN_ASKS_NOT
			S_RULE(UNDECIDED, LINK_UP, GO_SENT, SEND_GO, NOTHING)
#endif
#ifdef BROKEN_HAS_A_USELESS_RULE
			S_RULE(GONE, SWITCH, GONE, NOTHING, NOTHING)
#endif
#define S_GOES(state, event, next, first, second) S_RULE(state, event, next, first, second)
#include "../../src/migration/handover_table.h"
			:: else -> refused = true
			fi;
			if
			:: event_d == NO_EVENT
#ifdef BROKEN_RUNS_BEFORE_GO
			D_RULE(LOADED, LINK_LOST, RUNNING, START_VM, NOTHING)
#endif
#ifdef BROKEN_DISCARDS_WHOLE_COPY
			D_RULE(LOADED, LINK_LOST, DISCARDED, DISCARD, NOTHING)
#endif
#ifdef BROKEN_DESTINATION_OBEYS_NOBODY
			D_RULE(HELD, RESUME_HERE, HELD, NOTHING, NOTHING)
#endif
#ifdef BROKEN_ANSWERS_NOTHING
			D_RULE(HELD, LINK_UP, LOADED, NOTHING, NOTHING)
#endif
#ifdef BROKEN_REJECTS_AND_RUNS
			D_RULE(STARTING, FAILED, STARTING_CUT, SEND_REJECTED, NOTHING)
#endif
#ifdef BROKEN_SAYS_WHOLE_TOO_EARLY
			D_RULE(STARTING_LACKING, TAKEN, RUNNING_LACKING, START_VM, SEND_RUNNING)
#endif
#ifdef BROKEN_IS_SILENT_WHEN_ASKED
			D_RULE(RUNNING, LINK_UP, RUNNING, NOTHING, NOTHING)
#endif
#define D_GOES(state, event, next, first, second) D_RULE(state, event, next, first, second)
#include "../../src/migration/handover_table.h"
			:: else -> refused = true
			fi;
#ifndef BROKEN_OPERATOR_ACTS_ON_AN_OLD_LOOK
			/* What was seen holds only as long as the side where it is to be used does not move. */
			if :: s != was_s -> s_saw_d = false :: else fi;
			if :: d != was_d -> d_saw_s = false :: else fi;
#endif
			event_s = NO_EVENT; event_d = NO_EVENT; was_s = S_COPYING; was_d = D_RECEIVING
		}
	}
	od
}

/* ---- what is promised ------------------------------------------------------------------------ */

/* The guest never runs on both sides. */
ltl never_twice { [] !(s_runs && d_runs) }
/* Nor does one side run a copy from before the guest ran at the other: its story never forks. */
ltl never_forks { [] !forked }
/* While no host has died nothing is lost: a whole copy, the newest, is at one side; in post-copy the
 * destination has the newest state and the source the pages that lack. */
ltl copy_lives { [] ((s_alive && d_alive) -> (S_GOOD || D_GOOD || BOTH_GOOD)) }
/* Until it has run the guest, the death of the destination's host costs nothing. */
ltl destination_may_die { [] ((s_alive && !d_alive && !s_old) -> S_GOOD) }
/* Once it has all, the death of the source's host costs nothing: nobody frees that copy. */
ltl source_may_die { [] ((d_must_live && d_alive) -> D_GOOD) }
/* The destination runs only after GO, or on an operator's word. */
ltl go_comes_first { [] (d_runs -> (go_heard || told_here)) }
/* Nobody knows only between GO sent and its answer. */
ltl window_is_small { [] ((s_alive && (s == S_UNDECIDED || s == S_ASKING)) -> (go_sent && !answered)) }
/* A source that has not sent GO does not stay stopped. */
ltl source_resumes { [] ((s_alive && s == S_SWITCHING) -> <> (!s_alive || s_runs || s == S_GO_SENT)) }
/* A source that was rejected does not stay stopped. */
ltl rejected_resumes { [] ((s_alive && s == S_GO_SENT) -> <> (!s_alive || s_runs || s == S_UNDECIDED || s == S_SERVING || s == S_SERVING_CUT || s == S_GONE)) }
/* Where a host has died, an operator settles it with one command. */
ltl operator_settles_source { [] ((s_alive && !d_alive && s == S_UNDECIDED) -> <> (!s_alive || s_runs || s == S_GONE)) }
ltl operator_settles_destination { [] ((d_alive && !s_alive && d == D_HELD && !d_old) -> <> (!d_alive || d_runs)) }
/* In a calm world connecting again settles it: in the end one side runs the guest, for good. */
ltl recover_settles { [] ((calm && s_alive && d_alive) -> <> [] (s_runs != d_runs)) }
/* And the other side has freed its memory; a destination that runs has all pages. */
ltl nothing_is_left { [] ((calm && s_alive && d_alive) -> <> [] ((s == S_GONE && d == D_RUNNING && d_whole) || (s == S_STAYED && d == D_DISCARDED))) }
/* Nothing that happens in a world like this is a breach of the protocol. */
ltl nothing_is_refused { [] !refused }
