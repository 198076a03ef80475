/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Handover: who runs the guest while it moves. Two state machines, the source's and the
 * destination's, that never both run it and never both give it up, whatever happens to the
 * connection or to either host; the same for pre-copy, post-copy and hybrid migrations.
 *
 * Pure: events in, actions out; no I/O, no clock, no allocation, nothing global. The rules are data
 * (handover_table.h); tests/model/handover.pml is made of the same table and is explored by a
 * checker; docs/migration-handover.md explains them and what is promised.
 *
 * What the caller owes:
 *  - Messages of one connection arrive in order, once, or not at all. After LINK_LOST nothing of
 *    that connection is read or sent any more; a new one is LINK_UP, after LINK_LOST of the old one.
 *    All connections of a migration count as one: when a data connection breaks, all are closed.
 *    A silent peer is LINK_LOST after a time that the caller chooses.
 *  - The actions of a rule are carried out in their order, each finished before the next and all
 *    before the next event. What cannot fail at that point has been made sure before: memory and
 *    threads exist, and RESUME_HERE is passed on only once the locks of disks could be taken.
 *  - LOADED_BUT_PAGES and ALL_LOADED are true: memory, devices and processors are loaded and
 *    nothing but TAKE_OVER can fail any more.
 *  - A source that is connected again (LINK_UP) waits for the destination's message; the
 *    destination's LINK_UP comes first: it answers the hello.
 *
 * Refused events change nothing. A refused message of the peer is a breach of the protocol: close
 * the connection, which is LINK_LOST. A refused event of the side itself is a mistake of the caller.
 *
 * Threads: one thread at a time, the one that owns the migration.
 */
#ifndef GODWIT_MIGRATION_HANDOVER_H
#define GODWIT_MIGRATION_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>

enum handover_side {
	HANDOVER_SOURCE,
	HANDOVER_DESTINATION,
};

/* Both sides' states, the source's first. */
enum handover_state {
#define S_STATE(name, ...) HANDOVER_S_##name,
#define D_STATE(name, ...) HANDOVER_D_##name,
#include "migration/handover_table.h"
	HANDOVER_STATES,
};

enum handover_event {
#define EVENT(name, ...) HANDOVER_EVENT_##name,
#include "migration/handover_table.h"
	HANDOVER_EVENTS,
};

enum handover_class {
	HANDOVER_TO_SOURCE,	 /* a message that the destination sends */
	HANDOVER_TO_DESTINATION, /* a message that the source sends */
	HANDOVER_LINK,		 /* the connection */
	HANDOVER_SELF,		 /* the side's own work */
	HANDOVER_OPERATOR,
};

enum handover_action {
#define ACTION(name, ...) HANDOVER_##name,
#include "migration/handover_table.h"
	HANDOVER_ACTIONS,
};

/* The guest, as far as one side is concerned. */
enum handover_guest {
	HANDOVER_GUEST_RUNS,	/* it runs here, or may: an operator may pause it */
	HANDOVER_GUEST_STOPPED, /* it does not run, and may yet */
	HANDOVER_GUEST_NEVER,	/* it never runs here again */
};

enum handover_verdict {
	HANDOVER_FOREIGN, /* refused: this side has no such event */
	HANDOVER_NEVER,	  /* refused: cannot happen in this state */
	HANDOVER_TELLS,	  /* refused: @why says to a person why, and what to do */
	HANDOVER_GOES,
};

#define HANDOVER_RULE_ACTIONS 2

/* What an event does in a state. */
struct handover_rule {
	enum handover_verdict verdict;
	enum handover_state next; /* if GOES */
	enum handover_action
	    actions[HANDOVER_RULE_ACTIONS]; /* in order; unused: HANDOVER_NOTHING */
	const char *why;		    /* if TELLS */
};

struct handover {
	enum handover_side side;
	enum handover_state state;
};

/* At the start a source copies and a destination receives, and they are connected. */
void handover_init(struct handover *handover, enum handover_side side);
/*
 * An event: goes to the next state if its rule allows, else changes nothing. Returns the rule,
 * which lives for ever; the caller carries out its actions.
 */
const struct handover_rule *handover_take(struct handover *handover, enum handover_event event);
/* The same without taking it: to see whether an operator's wish will be granted. */
const struct handover_rule *handover_rule(enum handover_state state, enum handover_event event);

enum handover_side handover_side_of(enum handover_state state);
enum handover_guest handover_guest(enum handover_state state);
/* Whether memory of the guest is needed in this state: as the guest, a copy, or pages to send. */
bool handover_keeps_memory(enum handover_state state);
/* Nothing is left to do: the guest runs here, or nothing of it is here. */
bool handover_is_over(enum handover_state state);
/* An operator is asked for a decision, if the connection cannot be had again. */
bool handover_needs_operator(enum handover_state state);

/* "UNDECIDED", as in the table; the name is the same on no other state of that side. */
const char *handover_state_name(enum handover_state state);
/* A sentence about the state, for a person; without a full stop. */
const char *handover_state_text(enum handover_state state);
/* "RUNNING", as in the table. */
const char *handover_event_name(enum handover_event event);
const char *handover_event_text(enum handover_event event);
enum handover_class handover_event_class(enum handover_event event);
const char *handover_action_name(enum handover_action action);
const char *handover_action_text(enum handover_action action);
/*
 * Why @event is refused in @state, as a sentence without a full stop, into @text: the rule's own
 * words, or the event and the state by name. Cut at @size; "" if it is not refused.
 */
void handover_refusal(enum handover_state state, enum handover_event event, char *text,
		      size_t size);

#endif
