/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rules of the handover, as data: every state of both sides with every event that the side can
 * see. Included several times, each time with other macros: handover.c makes its table of it,
 * tests/model/handover.pml the model that a checker explores. There is no second copy of a rule.
 *
 * What may be defined before the inclusion; what is not is left out, and all are undefined at the end:
 *
 *	S_STATE(name, guest, memory, text)   a state of the source; guest: RUNS, STOPPED (and could run
 *	D_STATE(…)                           again) or NEVER (runs here again); memory: KEPT or FREED
 *	EVENT(name, class, text)             class: TO_SOURCE and TO_DESTINATION are messages of the
 *	                                     peer; LINK; SELF is the side's own work; OPERATOR
 *	ACTION(name, text)
 *	S_GOES(state, event, next, first, second), D_GOES(…)
 *	                                     the event leads to a state; actions in this order, or NOTHING
 *	S_TELLS(state, event, text), D_TELLS(…)
 *	                                     the event is refused; the text says why and what to do
 *	S_NEVER(state, event), D_NEVER(…)    the event is refused: who sent it breaks the protocol
 *
 * Lacking: the destination has the state of all devices but not all pages (post-copy). Cut: without
 * a connection. docs/migration-handover.md tells the same as prose.
 */
/* clang-format off */
#ifndef S_STATE
#define S_STATE(...)
#endif
#ifndef D_STATE
#define D_STATE(...)
#endif
#ifndef EVENT
#define EVENT(...)
#endif
#ifndef ACTION
#define ACTION(...)
#endif
#ifndef S_GOES
#define S_GOES(...)
#endif
#ifndef D_GOES
#define D_GOES(...)
#endif
#ifndef S_TELLS
#define S_TELLS(...)
#endif
#ifndef D_TELLS
#define D_TELLS(...)
#endif
#ifndef S_NEVER
#define S_NEVER(...)
#endif
#ifndef D_NEVER
#define D_NEVER(...)
#endif

/* ---- states ---------------------------------------------------------------------------------- */

S_STATE(COPYING, RUNS, KEPT, "the guest runs here while its memory is copied")
S_STATE(SWITCHING, STOPPED, KEPT, "the guest is stopped; the last of it is on its way")
S_STATE(GO_SENT, STOPPED, KEPT, "the destination has it all and was told to go; its answer is awaited")
S_STATE(UNDECIDED, STOPPED, KEPT, "the connection broke before the destination's answer came: whether it runs the guest is not known here")
S_STATE(ASKING, STOPPED, KEPT, "connected again; the destination is asked whether it runs the guest")
S_STATE(SERVING, NEVER, KEPT, "the guest runs at the destination, which still fetches pages from here")
S_STATE(SERVING_CUT, NEVER, KEPT, "the guest runs at the destination, which still needs pages from here, but the connection is broken")
S_STATE(REJOINING, NEVER, KEPT, "connected again; the destination is about to say which pages it still needs")
S_STATE(STAYED, RUNS, KEPT, "the migration is over; the guest runs here")
S_STATE(GONE, NEVER, FREED, "the migration is over; the guest is the destination's")

D_STATE(RECEIVING, STOPPED, KEPT, "memory arrives; the guest runs at the source")
D_STATE(LOADING, STOPPED, KEPT, "the guest is stopped at the source; the last of it arrives and is loaded")
D_STATE(LOADED, STOPPED, KEPT, "all is here and loaded; the source's word to go is awaited")
D_STATE(LOADED_LACKING, STOPPED, KEPT, "all but pages is here and loaded; the source's word to go is awaited")
D_STATE(STARTING, STOPPED, KEPT, "told to go; disks and networks are taken over")
D_STATE(STARTING_CUT, STOPPED, KEPT, "told to go; disks and networks are taken over; there is no connection")
D_STATE(STARTING_LACKING, STOPPED, KEPT, "told to go while pages are still at the source; disks and networks are taken over")
D_STATE(STARTING_LACKING_CUT, STOPPED, KEPT, "told to go while pages are still at the source, but the connection broke: will hold the guest")
D_STATE(REJECTING, STOPPED, KEPT, "could not take over disks or networks; the source was told to go on")
D_STATE(REJECTING_LACKING, STOPPED, KEPT, "could not take over disks or networks; the source was told to go on; pages are still there")
D_STATE(HELD, STOPPED, KEPT, "the connection broke while the guest stood still on both sides; a complete copy is held here")
D_STATE(HELD_LACKING, STOPPED, KEPT, "the connection broke while the guest stood still on both sides; the copy here lacks pages")
D_STATE(RUNNING_LACKING, RUNS, KEPT, "the guest runs here and fetches pages from the source")
D_STATE(RUNNING_LACKING_CUT, RUNS, KEPT, "the guest runs here but for what waits for pages of the source; the connection is broken")
D_STATE(RUNNING, RUNS, KEPT, "the migration is over; the guest runs here")
D_STATE(DISCARDED, NEVER, FREED, "the migration is over; the guest never ran here")

/* ---- events ---------------------------------------------------------------------------------- */

EVENT(SWITCH_BEGIN, TO_DESTINATION, "the guest is stopped, its last state follows")
EVENT(GO, TO_DESTINATION, "the source has given the guest up unless it is told REJECTED")
EVENT(ABORT, TO_DESTINATION, "the guest stays at the source")
EVENT(LOADED, TO_SOURCE, "all is here and loaded (in post-copy: all but pages), and I do not run")
EVENT(RUNNING, TO_SOURCE, "I run and have all pages")
EVENT(RUNNING_LACKING, TO_SOURCE, "I run and still need pages")
EVENT(REJECTED, TO_SOURCE, "I do not run, and shall not unless told to go once more")
EVENT(LINK_LOST, LINK, "the connection broke, was closed, or was silent for too long")
EVENT(LINK_UP, LINK, "connected again")
EVENT(SWITCH, SELF, "the source's time to switch has come")
EVENT(ALL_LOADED, SELF, "everything is here and loaded")
EVENT(LOADED_BUT_PAGES, SELF, "everything but pages is here and loaded")
EVENT(ALL_PAGES, SELF, "the last page that was lacking is here")
EVENT(TAKEN, SELF, "disks and networks are taken over")
EVENT(FAILED, SELF, "what this side was doing failed")
EVENT(CANCEL, OPERATOR, "cancel the migration")
EVENT(RESUME_HERE, OPERATOR, "run the guest here: the other side does not, will not and did not")
EVENT(GIVE_UP, OPERATOR, "give up what is here: the other side has the guest")

/* ---- actions --------------------------------------------------------------------------------- */

ACTION(NOTHING, "")
ACTION(STOP_VM, "stop the processors and devices")
ACTION(RELEASE, "give back the locks of disks")
ACTION(TAKE_OVER, "take the locks of disks, get networks ready; answers with TAKEN or FAILED")
ACTION(RESUME_VM, "take the locks of disks again where they were given back, and run the guest")
ACTION(START_VM, "run the guest")
ACTION(SERVE_PAGES, "send the pages that the destination asks for, and all others")
ACTION(HOLD_FAULTS, "keep who touches a lacking page waiting")
ACTION(ASK_PAGES, "tell the source all pages that are lacking")
ACTION(DISCARD, "free the guest's memory here")
ACTION(SEND_SWITCH_BEGIN, "tell the destination")
ACTION(SEND_GO, "tell the destination")
ACTION(SEND_ABORT, "tell the destination")
ACTION(SEND_LOADED, "tell the source")
ACTION(SEND_RUNNING, "tell the source")
ACTION(SEND_RUNNING_LACKING, "tell the source")
ACTION(SEND_REJECTED, "tell the source")

/* ---- the source ------------------------------------------------------------------------------ */

/* Until GO is sent nothing can run at the destination: any trouble leaves the guest here. */
S_GOES(COPYING, SWITCH, SWITCHING, STOP_VM, SEND_SWITCH_BEGIN)
S_GOES(COPYING, REJECTED, STAYED, NOTHING, NOTHING)
S_GOES(COPYING, LINK_LOST, STAYED, NOTHING, NOTHING)
S_GOES(COPYING, FAILED, STAYED, SEND_ABORT, NOTHING)
S_GOES(COPYING, CANCEL, STAYED, SEND_ABORT, NOTHING)
S_TELLS(COPYING, RESUME_HERE, "the guest runs here: cancel the migration to keep it here")
S_TELLS(COPYING, GIVE_UP, "the guest runs here and the destination does not have it yet: stop the guest to end it")
S_NEVER(COPYING, LOADED) S_NEVER(COPYING, RUNNING) S_NEVER(COPYING, RUNNING_LACKING) S_NEVER(COPYING, LINK_UP)

/* The guest runs again before the destination is told: it frees a copy when it hears ABORT. */
S_GOES(SWITCHING, LOADED, GO_SENT, RELEASE, SEND_GO)
S_GOES(SWITCHING, REJECTED, STAYED, RESUME_VM, NOTHING)
S_GOES(SWITCHING, LINK_LOST, STAYED, RESUME_VM, NOTHING)
S_GOES(SWITCHING, FAILED, STAYED, RESUME_VM, SEND_ABORT)
S_GOES(SWITCHING, CANCEL, STAYED, RESUME_VM, SEND_ABORT)
S_TELLS(SWITCHING, RESUME_HERE, "the guest is about to move: cancel the migration to keep it here")
S_TELLS(SWITCHING, GIVE_UP, "the destination does not have the guest yet: wait, or cancel the migration")
S_NEVER(SWITCHING, RUNNING) S_NEVER(SWITCHING, RUNNING_LACKING) S_NEVER(SWITCHING, LINK_UP) S_NEVER(SWITCHING, SWITCH)

/* The one window in which nobody can know: from here to the answer. */
S_GOES(GO_SENT, RUNNING, GONE, DISCARD, NOTHING)
S_GOES(GO_SENT, RUNNING_LACKING, SERVING, SERVE_PAGES, NOTHING)
S_GOES(GO_SENT, REJECTED, STAYED, RESUME_VM, SEND_ABORT)
S_GOES(GO_SENT, LINK_LOST, UNDECIDED, NOTHING, NOTHING)
S_TELLS(GO_SENT, CANCEL, "the destination was told to go: it is too late to cancel, wait for its answer")
S_TELLS(GO_SENT, RESUME_HERE, "the destination was told to go and may run the guest: wait for its answer")
S_TELLS(GO_SENT, GIVE_UP, "the destination was told to go: wait for its answer")
S_NEVER(GO_SENT, LOADED) S_NEVER(GO_SENT, LINK_UP) S_NEVER(GO_SENT, SWITCH) S_NEVER(GO_SENT, FAILED)

S_GOES(UNDECIDED, LINK_UP, ASKING, NOTHING, NOTHING)
S_GOES(UNDECIDED, RESUME_HERE, STAYED, RESUME_VM, NOTHING)
S_GOES(UNDECIDED, GIVE_UP, GONE, DISCARD, NOTHING)
S_TELLS(UNDECIDED, CANCEL, "the destination may run the guest: recover the connection, or look there and then resume here or give up")
S_NEVER(UNDECIDED, LOADED) S_NEVER(UNDECIDED, RUNNING) S_NEVER(UNDECIDED, RUNNING_LACKING)
S_NEVER(UNDECIDED, REJECTED) S_NEVER(UNDECIDED, LINK_LOST) S_NEVER(UNDECIDED, SWITCH) S_NEVER(UNDECIDED, FAILED)

/* A destination that holds the guest says LOADED: GO never arrived, or could not be followed. */
S_GOES(ASKING, LOADED, GO_SENT, SEND_GO, NOTHING)
S_GOES(ASKING, RUNNING, GONE, DISCARD, NOTHING)
S_GOES(ASKING, RUNNING_LACKING, SERVING, SERVE_PAGES, NOTHING)
S_GOES(ASKING, REJECTED, STAYED, RESUME_VM, SEND_ABORT)
S_GOES(ASKING, LINK_LOST, UNDECIDED, NOTHING, NOTHING)
S_TELLS(ASKING, CANCEL, "the destination may run the guest: wait for its answer")
S_TELLS(ASKING, RESUME_HERE, "the destination may run the guest: wait for its answer")
S_TELLS(ASKING, GIVE_UP, "the destination may not have the guest: wait for its answer")
S_NEVER(ASKING, LINK_UP) S_NEVER(ASKING, SWITCH) S_NEVER(ASKING, FAILED)

/* The guest has run there: what is here is old as a whole, and needed until the last page is there. */
S_GOES(SERVING, RUNNING, GONE, DISCARD, NOTHING)
S_GOES(SERVING, LINK_LOST, SERVING_CUT, NOTHING, NOTHING)
S_TELLS(SERVING, CANCEL, "the guest runs at the destination: it is too late to cancel")
S_TELLS(SERVING, RESUME_HERE, "the guest runs at the destination, what is here is old: migrate it back from there")
S_TELLS(SERVING, GIVE_UP, "the destination still needs pages from here: wait until it has them")
S_NEVER(SERVING, LOADED) S_NEVER(SERVING, RUNNING_LACKING) S_NEVER(SERVING, REJECTED)
S_NEVER(SERVING, LINK_UP) S_NEVER(SERVING, SWITCH) S_NEVER(SERVING, FAILED)

S_GOES(SERVING_CUT, LINK_UP, REJOINING, NOTHING, NOTHING)
S_GOES(SERVING_CUT, GIVE_UP, GONE, DISCARD, NOTHING)
S_TELLS(SERVING_CUT, CANCEL, "the guest runs at the destination: recover the connection, it needs pages from here")
S_TELLS(SERVING_CUT, RESUME_HERE, "the guest has run at the destination, what is here is old: recover the connection")
S_NEVER(SERVING_CUT, LOADED) S_NEVER(SERVING_CUT, RUNNING) S_NEVER(SERVING_CUT, RUNNING_LACKING)
S_NEVER(SERVING_CUT, REJECTED) S_NEVER(SERVING_CUT, LINK_LOST) S_NEVER(SERVING_CUT, SWITCH) S_NEVER(SERVING_CUT, FAILED)

S_GOES(REJOINING, RUNNING, GONE, DISCARD, NOTHING)
S_GOES(REJOINING, RUNNING_LACKING, SERVING, SERVE_PAGES, NOTHING)
S_GOES(REJOINING, LINK_LOST, SERVING_CUT, NOTHING, NOTHING)
S_TELLS(REJOINING, CANCEL, "the guest runs at the destination: it is too late to cancel")
S_TELLS(REJOINING, RESUME_HERE, "the guest has run at the destination, what is here is old")
S_TELLS(REJOINING, GIVE_UP, "the destination may still need pages from here: wait for its answer")
S_NEVER(REJOINING, LOADED) S_NEVER(REJOINING, REJECTED) S_NEVER(REJOINING, LINK_UP)
S_NEVER(REJOINING, SWITCH) S_NEVER(REJOINING, FAILED)

/* LOADED and REJECTED may have crossed an ABORT. One who holds a copy is told as soon as can be. */
S_GOES(STAYED, LOADED, STAYED, NOTHING, NOTHING)
S_GOES(STAYED, REJECTED, STAYED, NOTHING, NOTHING)
S_GOES(STAYED, LINK_LOST, STAYED, NOTHING, NOTHING)
S_GOES(STAYED, LINK_UP, STAYED, SEND_ABORT, NOTHING)
S_GOES(STAYED, FAILED, STAYED, NOTHING, NOTHING)
S_TELLS(STAYED, RUNNING, "the destination says that it runs the guest, which was resumed here by hand: stop one of them now, both write to the same disks")
S_TELLS(STAYED, RUNNING_LACKING, "the destination says that it runs the guest, which was resumed here by hand: stop the one there now, both write to the same disks")
S_TELLS(STAYED, CANCEL, "the migration is over: the guest runs here")
S_TELLS(STAYED, RESUME_HERE, "the guest runs here already")
S_TELLS(STAYED, GIVE_UP, "the guest runs here: stop it to end it")
S_NEVER(STAYED, SWITCH)

S_GOES(GONE, LINK_LOST, GONE, NOTHING, NOTHING)
S_TELLS(GONE, CANCEL, "the migration is over: the guest is the destination's")
S_TELLS(GONE, RESUME_HERE, "the guest's memory is no longer here")
S_TELLS(GONE, GIVE_UP, "the guest was given up already")
S_NEVER(GONE, LOADED) S_NEVER(GONE, RUNNING) S_NEVER(GONE, RUNNING_LACKING) S_NEVER(GONE, REJECTED)
S_NEVER(GONE, LINK_UP) S_NEVER(GONE, SWITCH) S_NEVER(GONE, FAILED)

/* ---- the destination ------------------------------------------------------------------------- */

/* What is not complete is of no use to anybody: the guest lives at the source. */
D_GOES(RECEIVING, SWITCH_BEGIN, LOADING, NOTHING, NOTHING)
D_GOES(RECEIVING, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(RECEIVING, LINK_LOST, DISCARDED, DISCARD, NOTHING)
D_GOES(RECEIVING, FAILED, DISCARDED, SEND_REJECTED, DISCARD)
D_GOES(RECEIVING, GIVE_UP, DISCARDED, SEND_REJECTED, DISCARD)
D_TELLS(RECEIVING, RESUME_HERE, "the guest runs at the source and is not complete here")
D_NEVER(RECEIVING, GO) D_NEVER(RECEIVING, LINK_UP) D_NEVER(RECEIVING, ALL_LOADED)
D_NEVER(RECEIVING, LOADED_BUT_PAGES) D_NEVER(RECEIVING, ALL_PAGES) D_NEVER(RECEIVING, TAKEN)

D_GOES(LOADING, ALL_LOADED, LOADED, SEND_LOADED, NOTHING)
D_GOES(LOADING, LOADED_BUT_PAGES, LOADED_LACKING, SEND_LOADED, NOTHING)
D_GOES(LOADING, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(LOADING, LINK_LOST, DISCARDED, DISCARD, NOTHING)
D_GOES(LOADING, FAILED, DISCARDED, SEND_REJECTED, DISCARD)
D_GOES(LOADING, GIVE_UP, DISCARDED, SEND_REJECTED, DISCARD)
D_TELLS(LOADING, RESUME_HERE, "the guest is not complete here: the source goes on with it when the connection breaks")
D_NEVER(LOADING, SWITCH_BEGIN) D_NEVER(LOADING, GO) D_NEVER(LOADING, LINK_UP)
D_NEVER(LOADING, ALL_PAGES) D_NEVER(LOADING, TAKEN)

/*
 * A complete copy is freed only when the source or the operator says so: the source's host may have
 * died. Whether that is so cannot be seen from here.
 */
D_GOES(LOADED, GO, STARTING, TAKE_OVER, NOTHING)
D_GOES(LOADED, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(LOADED, LINK_LOST, HELD, NOTHING, NOTHING)
D_GOES(LOADED, GIVE_UP, DISCARDED, SEND_REJECTED, DISCARD)
D_TELLS(LOADED, RESUME_HERE, "the source is connected and decides: wait for it, or end its process")
D_NEVER(LOADED, SWITCH_BEGIN) D_NEVER(LOADED, LINK_UP) D_NEVER(LOADED, ALL_LOADED) D_NEVER(LOADED, LOADED_BUT_PAGES)
D_NEVER(LOADED, ALL_PAGES) D_NEVER(LOADED, TAKEN) D_NEVER(LOADED, FAILED)

D_GOES(LOADED_LACKING, GO, STARTING_LACKING, TAKE_OVER, NOTHING)
D_GOES(LOADED_LACKING, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(LOADED_LACKING, LINK_LOST, HELD_LACKING, NOTHING, NOTHING)
D_GOES(LOADED_LACKING, ALL_PAGES, LOADED, NOTHING, NOTHING)
D_GOES(LOADED_LACKING, GIVE_UP, DISCARDED, SEND_REJECTED, DISCARD)
D_TELLS(LOADED_LACKING, RESUME_HERE, "the source is connected and decides: wait for it")
D_NEVER(LOADED_LACKING, SWITCH_BEGIN) D_NEVER(LOADED_LACKING, LINK_UP) D_NEVER(LOADED_LACKING, ALL_LOADED)
D_NEVER(LOADED_LACKING, LOADED_BUT_PAGES) D_NEVER(LOADED_LACKING, TAKEN) D_NEVER(LOADED_LACKING, FAILED)

/* GO was heard: the guest runs here, with or without a connection, if it is complete. */
D_GOES(STARTING, TAKEN, RUNNING, START_VM, SEND_RUNNING)
D_GOES(STARTING, FAILED, REJECTING, SEND_REJECTED, NOTHING)
D_GOES(STARTING, LINK_LOST, STARTING_CUT, NOTHING, NOTHING)
D_TELLS(STARTING, RESUME_HERE, "the guest is about to run here")
D_TELLS(STARTING, GIVE_UP, "the guest is about to run here")
D_NEVER(STARTING, SWITCH_BEGIN) D_NEVER(STARTING, GO) D_NEVER(STARTING, ABORT) D_NEVER(STARTING, LINK_UP)
D_NEVER(STARTING, ALL_LOADED) D_NEVER(STARTING, LOADED_BUT_PAGES) D_NEVER(STARTING, ALL_PAGES)

D_GOES(STARTING_CUT, TAKEN, RUNNING, START_VM, NOTHING)
D_GOES(STARTING_CUT, FAILED, HELD, NOTHING, NOTHING)
D_GOES(STARTING_CUT, LINK_UP, STARTING, NOTHING, NOTHING)
D_TELLS(STARTING_CUT, RESUME_HERE, "the guest is about to run here")
D_TELLS(STARTING_CUT, GIVE_UP, "the guest is about to run here")
D_NEVER(STARTING_CUT, SWITCH_BEGIN) D_NEVER(STARTING_CUT, GO) D_NEVER(STARTING_CUT, ABORT) D_NEVER(STARTING_CUT, LINK_LOST)
D_NEVER(STARTING_CUT, ALL_LOADED) D_NEVER(STARTING_CUT, LOADED_BUT_PAGES) D_NEVER(STARTING_CUT, ALL_PAGES)

/*
 * With pages lacking and nobody to bring them the guest would stand still at once, and its only
 * whole copy, the source's, be old. So it is held.
 */
D_GOES(STARTING_LACKING, TAKEN, RUNNING_LACKING, START_VM, SEND_RUNNING_LACKING)
D_GOES(STARTING_LACKING, FAILED, REJECTING_LACKING, SEND_REJECTED, NOTHING)
D_GOES(STARTING_LACKING, LINK_LOST, STARTING_LACKING_CUT, NOTHING, NOTHING)
D_GOES(STARTING_LACKING, ALL_PAGES, STARTING, NOTHING, NOTHING)
D_TELLS(STARTING_LACKING, RESUME_HERE, "the guest is about to run here")
D_TELLS(STARTING_LACKING, GIVE_UP, "the guest is about to run here")
D_NEVER(STARTING_LACKING, SWITCH_BEGIN) D_NEVER(STARTING_LACKING, GO) D_NEVER(STARTING_LACKING, ABORT)
D_NEVER(STARTING_LACKING, LINK_UP) D_NEVER(STARTING_LACKING, ALL_LOADED) D_NEVER(STARTING_LACKING, LOADED_BUT_PAGES)

D_GOES(STARTING_LACKING_CUT, TAKEN, HELD_LACKING, RELEASE, NOTHING)
D_GOES(STARTING_LACKING_CUT, FAILED, HELD_LACKING, NOTHING, NOTHING)
D_GOES(STARTING_LACKING_CUT, LINK_UP, STARTING_LACKING, NOTHING, NOTHING)
D_GOES(STARTING_LACKING_CUT, ALL_PAGES, STARTING_CUT, NOTHING, NOTHING)
D_TELLS(STARTING_LACKING_CUT, RESUME_HERE, "pages are still at the source: recover the connection")
D_TELLS(STARTING_LACKING_CUT, GIVE_UP, "the guest is about to be held here: try again")
D_NEVER(STARTING_LACKING_CUT, SWITCH_BEGIN) D_NEVER(STARTING_LACKING_CUT, GO) D_NEVER(STARTING_LACKING_CUT, ABORT)
D_NEVER(STARTING_LACKING_CUT, LINK_LOST) D_NEVER(STARTING_LACKING_CUT, ALL_LOADED) D_NEVER(STARTING_LACKING_CUT, LOADED_BUT_PAGES)

/* The copy is kept until the source says that it runs. */
D_GOES(REJECTING, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(REJECTING, LINK_LOST, HELD, NOTHING, NOTHING)
D_TELLS(REJECTING, RESUME_HERE, "the source was told to go on with the guest")
D_TELLS(REJECTING, GIVE_UP, "the source was told to go on with the guest: wait for its answer")
D_NEVER(REJECTING, SWITCH_BEGIN) D_NEVER(REJECTING, GO) D_NEVER(REJECTING, LINK_UP) D_NEVER(REJECTING, ALL_LOADED)
D_NEVER(REJECTING, LOADED_BUT_PAGES) D_NEVER(REJECTING, ALL_PAGES) D_NEVER(REJECTING, TAKEN) D_NEVER(REJECTING, FAILED)

D_GOES(REJECTING_LACKING, ABORT, DISCARDED, DISCARD, NOTHING)
D_GOES(REJECTING_LACKING, LINK_LOST, HELD_LACKING, NOTHING, NOTHING)
D_GOES(REJECTING_LACKING, ALL_PAGES, REJECTING, NOTHING, NOTHING)
D_TELLS(REJECTING_LACKING, RESUME_HERE, "the source was told to go on with the guest")
D_TELLS(REJECTING_LACKING, GIVE_UP, "the source was told to go on with the guest: wait for its answer")
D_NEVER(REJECTING_LACKING, SWITCH_BEGIN) D_NEVER(REJECTING_LACKING, GO) D_NEVER(REJECTING_LACKING, LINK_UP)
D_NEVER(REJECTING_LACKING, ALL_LOADED) D_NEVER(REJECTING_LACKING, LOADED_BUT_PAGES) D_NEVER(REJECTING_LACKING, TAKEN)
D_NEVER(REJECTING_LACKING, FAILED)

D_GOES(HELD, LINK_UP, LOADED, SEND_LOADED, NOTHING)
D_GOES(HELD, RESUME_HERE, STARTING_CUT, TAKE_OVER, NOTHING)
D_GOES(HELD, GIVE_UP, DISCARDED, DISCARD, NOTHING)
D_NEVER(HELD, SWITCH_BEGIN) D_NEVER(HELD, GO) D_NEVER(HELD, ABORT) D_NEVER(HELD, LINK_LOST) D_NEVER(HELD, ALL_LOADED)
D_NEVER(HELD, LOADED_BUT_PAGES) D_NEVER(HELD, ALL_PAGES) D_NEVER(HELD, TAKEN) D_NEVER(HELD, FAILED)

D_GOES(HELD_LACKING, LINK_UP, LOADED_LACKING, SEND_LOADED, NOTHING)
D_GOES(HELD_LACKING, ALL_PAGES, HELD, NOTHING, NOTHING)
D_GOES(HELD_LACKING, GIVE_UP, DISCARDED, DISCARD, NOTHING)
D_TELLS(HELD_LACKING, RESUME_HERE, "pages are still at the source: recover the connection, or resume there")
D_NEVER(HELD_LACKING, SWITCH_BEGIN) D_NEVER(HELD_LACKING, GO) D_NEVER(HELD_LACKING, ABORT) D_NEVER(HELD_LACKING, LINK_LOST)
D_NEVER(HELD_LACKING, ALL_LOADED) D_NEVER(HELD_LACKING, LOADED_BUT_PAGES) D_NEVER(HELD_LACKING, TAKEN) D_NEVER(HELD_LACKING, FAILED)

D_GOES(RUNNING_LACKING, ALL_PAGES, RUNNING, SEND_RUNNING, NOTHING)
D_GOES(RUNNING_LACKING, LINK_LOST, RUNNING_LACKING_CUT, HOLD_FAULTS, NOTHING)
D_TELLS(RUNNING_LACKING, ABORT, "the source says that it keeps the guest, which runs here: stop one of them now, both write to the same disks")
D_TELLS(RUNNING_LACKING, RESUME_HERE, "the guest runs here already")
D_TELLS(RUNNING_LACKING, GIVE_UP, "the guest runs here: stop it to end it")
D_NEVER(RUNNING_LACKING, SWITCH_BEGIN) D_NEVER(RUNNING_LACKING, GO) D_NEVER(RUNNING_LACKING, LINK_UP) D_NEVER(RUNNING_LACKING, ALL_LOADED)
D_NEVER(RUNNING_LACKING, LOADED_BUT_PAGES) D_NEVER(RUNNING_LACKING, TAKEN) D_NEVER(RUNNING_LACKING, FAILED)

D_GOES(RUNNING_LACKING_CUT, LINK_UP, RUNNING_LACKING, SEND_RUNNING_LACKING, ASK_PAGES)
D_GOES(RUNNING_LACKING_CUT, ALL_PAGES, RUNNING, NOTHING, NOTHING)
D_TELLS(RUNNING_LACKING_CUT, RESUME_HERE, "the guest runs here and waits for pages of the source: recover the connection")
D_TELLS(RUNNING_LACKING_CUT, GIVE_UP, "the guest runs here and waits for pages of the source: recover the connection, or stop it if the source is lost")
D_NEVER(RUNNING_LACKING_CUT, SWITCH_BEGIN) D_NEVER(RUNNING_LACKING_CUT, GO) D_NEVER(RUNNING_LACKING_CUT, ABORT)
D_NEVER(RUNNING_LACKING_CUT, LINK_LOST) D_NEVER(RUNNING_LACKING_CUT, ALL_LOADED) D_NEVER(RUNNING_LACKING_CUT, LOADED_BUT_PAGES)
D_NEVER(RUNNING_LACKING_CUT, TAKEN) D_NEVER(RUNNING_LACKING_CUT, FAILED)

D_GOES(RUNNING, LINK_LOST, RUNNING, NOTHING, NOTHING)
D_GOES(RUNNING, LINK_UP, RUNNING, SEND_RUNNING, NOTHING)
D_TELLS(RUNNING, ABORT, "the source says that it keeps the guest, which runs here: stop one of them now, both write to the same disks")
D_TELLS(RUNNING, RESUME_HERE, "the guest runs here already")
D_TELLS(RUNNING, GIVE_UP, "the guest runs here: stop it to end it")
D_NEVER(RUNNING, SWITCH_BEGIN) D_NEVER(RUNNING, GO) D_NEVER(RUNNING, ALL_LOADED) D_NEVER(RUNNING, LOADED_BUT_PAGES)
D_NEVER(RUNNING, ALL_PAGES) D_NEVER(RUNNING, TAKEN) D_NEVER(RUNNING, FAILED)

/* Messages of the source may have crossed the REJECTED that was sent before. */
D_GOES(DISCARDED, SWITCH_BEGIN, DISCARDED, NOTHING, NOTHING)
D_GOES(DISCARDED, GO, DISCARDED, NOTHING, NOTHING)
D_GOES(DISCARDED, ABORT, DISCARDED, NOTHING, NOTHING)
D_GOES(DISCARDED, LINK_LOST, DISCARDED, NOTHING, NOTHING)
D_GOES(DISCARDED, LINK_UP, DISCARDED, SEND_REJECTED, NOTHING)
D_GOES(DISCARDED, FAILED, DISCARDED, NOTHING, NOTHING)
D_TELLS(DISCARDED, RESUME_HERE, "the guest's memory is no longer here: it is at the source")
D_TELLS(DISCARDED, GIVE_UP, "the guest was given up already")
D_NEVER(DISCARDED, ALL_LOADED) D_NEVER(DISCARDED, LOADED_BUT_PAGES) D_NEVER(DISCARDED, ALL_PAGES) D_NEVER(DISCARDED, TAKEN)

#undef S_STATE
#undef D_STATE
#undef EVENT
#undef ACTION
#undef S_GOES
#undef D_GOES
#undef S_TELLS
#undef D_TELLS
#undef S_NEVER
#undef D_NEVER
