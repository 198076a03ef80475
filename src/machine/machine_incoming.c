/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine that comes from elsewhere, machine_incoming.h.
 *
 *   main thread  waits for a source, makes the machine, and then runs the main loop
 *   thread       owns the handover, whose rules say what is done next, and does it
 *   reader       takes what the source says: what is plugged at once, the rest as events
 *   receiver     its threads put pages into memory and collect states (migration/receiver.h)
 *   main loop    loads states, lets the guest go on, ends the machine
 *
 * The source controls what it says and when. A message that has no place closes the connection; that
 * is the end of it here, but for a guest that is here as a whole: it is held until somebody who knows
 * says what became of the source.
 */
#include "machine/machine_incoming.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine_hand.h"
#include "machine/machine_incoming_private.h"

#define LINK_TIMEOUT_MS 30000 /* for a sign of life */
#define PING_MS		5000
#define LINGER_MS	3000 /* for the source to take the last word */
#define REASON_MS	1000 /* for the source to say why a connection broke */
#define WORKERS		2    /* that take states */
#define STREAM_WORKERS	8    /* that load streams besides, at the most */

void incoming_note(struct machine_incoming *incoming, struct error *error)
{
	pthread_mutex_lock(&incoming->lock);
	if (incoming->reason || !error)
		error_free(error);
	else
		incoming->reason = error;
	pthread_mutex_unlock(&incoming->lock);
}

static enum handover_state state_of(struct machine_incoming *incoming)
{
	enum handover_state state;

	pthread_mutex_lock(&incoming->lock);
	state = incoming->handover.state;
	pthread_mutex_unlock(&incoming->lock);
	return state;
}

/* Nobody waits for anything of the source any more. */
static void stop_waiting(struct machine_incoming *incoming)
{
	pthread_mutex_lock(&incoming->lock);
	incoming->stopping = true;
	pthread_cond_broadcast(&incoming->changed);
	pthread_mutex_unlock(&incoming->lock);
}

/* --- The reader -------------------------------------------------------------------------------- */

static void hear_no_more(struct machine_incoming *incoming)
{
	pthread_mutex_lock(&incoming->lock);
	incoming->heard_all = true;
	pthread_cond_broadcast(&incoming->changed);
	pthread_mutex_unlock(&incoming->lock);
}

static void note_abort(struct machine_incoming *incoming, const struct migration_message *message)
{
	char text[MACHINE_PEER_TEXT];

	incoming_note(incoming,
		      error_new(ECONNABORTED, "the source: %s", machine_peer_text(message, text)));
}

static struct error *take_message(struct machine_incoming *incoming,
				  const struct migration_message *message)
{
	enum handover_event event;

	switch (message->type) {
	case MIGRATION_PING:
		return migration_link_send(
		    incoming->link,
		    &(struct migration_message){.type = MIGRATION_PONG, .value = message->value});
	case MIGRATION_PONG:
		return NULL;
	case MIGRATION_PENDING:
		return incoming_postcopy_pending(incoming, message);
	case MIGRATION_PLUGGED:
		return incoming_take_plugged(incoming, message);
	case MIGRATION_ROUND_END:
		return incoming_take_round(incoming, message->round);
	case MIGRATION_ABORT:
		note_abort(incoming, message);
		hear_no_more(incoming);
		break;
	case MIGRATION_SWITCH_BEGIN:
		pthread_mutex_lock(&incoming->lock);
		incoming->switch_begun = true;
		incoming->switch_ns = clock_monotonic_ns();
		pthread_mutex_unlock(&incoming->lock);
		break;
	default:
		break;
	}
	if (!handover_event_of_message(message->type, &event))
		return error_new(EBADMSG, "the source sent %s, which has no place here",
				 migration_message_name(message->type));
	handover_queue_post(&incoming->events, event);
	return NULL;
}

static void *reader_thread(void *context)
{
	struct machine_incoming *incoming = context;
	struct error *error = NULL;

	while (!error) {
		struct migration_message message;

		error = migration_link_receive(incoming->link, &message);
		if (!error)
			error = take_message(incoming, &message);
	}
	incoming_note(incoming, error);
	migration_link_cancel(incoming->link);
	stop_waiting(incoming);
	handover_queue_post(&incoming->events, HANDOVER_EVENT_LINK_LOST);
	hear_no_more(incoming);
	return NULL;
}

/* Until the source has said its last word, or so long. */
static void hear_out(struct machine_incoming *incoming, int timeout_ms)
{
	int64_t until = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
	const struct timespec when = {.tv_sec = until / NS_PER_SECOND,
				      .tv_nsec = until % NS_PER_SECOND};

	pthread_mutex_lock(&incoming->lock);
	while (!incoming->heard_all &&
	       !pthread_cond_clockwait(&incoming->changed, &incoming->lock, CLOCK_MONOTONIC, &when))
		;
	pthread_mutex_unlock(&incoming->lock);
}

/* --- What the receiver says -------------------------------------------------------------------- */

struct loading {
	struct machine_incoming *incoming;
	struct error *error;
};

/* On the main loop. */
static void load_states(void *context)
{
	struct loading *loading = context;

	loading->error = incoming_load_states(loading->incoming);
}

struct error *incoming_load_all(struct machine_incoming *incoming)
{
	struct loading loading = {.incoming = incoming};
	bool begun;

	pthread_mutex_lock(&incoming->lock);
	begun = incoming->switch_begun;
	pthread_mutex_unlock(&incoming->lock);
	if (!begun)
		return error_new(EBADMSG, "the source has sent everything before SWITCH_BEGIN");
	if (!main_call(&incoming->calls, load_states, &loading))
		return error_new(ECANCELED, "the machine is shutting down");
	TRY(loading.error);
	pthread_mutex_lock(&incoming->lock);
	incoming->load_ns = clock_monotonic_ns() - incoming->switch_ns;
	pthread_mutex_unlock(&incoming->lock);
	return NULL;
}

static void receiver_ended(void *context, const struct error *failure)
{
	struct machine_incoming *incoming = context;
	struct error *error;

	/* The guest may run, and pages are lacking: as if the connection had broken. */
	if (incoming_postcopy_loaded(incoming)) {
		incoming_postcopy_ended(incoming, failure);
		return;
	}
	/* Told by who loads the states. */
	if (incoming_postcopy_begun(incoming) && !failure)
		return;
	error = failure ? error_new(error_code(failure), "%s", error_message(failure))
			: incoming_load_all(incoming);

	if (error) {
		stop_waiting(incoming);
		/* Why connections break is said, if at all, on the main one: by the end that broke them. */
		if (failure && error_code(failure) == ECONNRESET)
			hear_out(incoming, REASON_MS);
		incoming_note(incoming, error);
	}
	if (incoming_postcopy_begun(incoming)) {
		if (!incoming_postcopy_fail(incoming)) /* they were loaded meanwhile */
			incoming_postcopy_ended(incoming, failure);
		return;
	}
	handover_queue_post(&incoming->events,
			    error ? HANDOVER_EVENT_FAILED : HANDOVER_EVENT_ALL_LOADED);
}

static const struct migration_receiver_ops receiver_ops = {
    .round_ended = incoming_round_ended,
    .load = incoming_load_chunk,
    .all_loaded = incoming_postcopy_all_loaded,
    .place = incoming_postcopy_place,
    .ended = receiver_ended,
};

/* --- Actions ----------------------------------------------------------------------------------- */

static void end_machine(void *context)
{
	struct machine_incoming *incoming = context;
	struct machine *machine = incoming->machine;
	char reason[256] = "nobody needs it here";

	pthread_mutex_lock(&incoming->lock);
	if (incoming->reason)
		snprintf(reason, sizeof(reason), "%s", error_message(incoming->reason));
	pthread_mutex_unlock(&incoming->lock);
	log_error("the guest has not come here: %s", reason);
	machine_emit(machine, "MIGRATION",
		     json_pack("{s:s, s:s}", "status", "failed", "reason", reason));
	machine->exit_status = 1;
	machine_shutdown(machine, false, "migration-failed");
}

static void start_machine(void *context)
{
	struct machine_incoming *incoming = context;
	struct machine *machine = incoming->machine;
	eventfd_t token;

	if (incoming->token_fd >= 0 && eventfd_read(incoming->token_fd, &token) < 0) {
		incoming_note(incoming, error_new(ECANCELED, "it goes on where it was"));
		end_machine(incoming);
		return;
	}
	if (machine->config.handed)
		machine_hand_take_serial(machine);
	machine_thaw(machine);
	if (machine->config.handed)
		machine_hand_end(machine);
	pthread_mutex_lock(&incoming->lock);
	if (incoming->go_ns)
		incoming->resume_ns = clock_monotonic_ns() - incoming->go_ns;
	incoming->finished = true;
	pthread_mutex_unlock(&incoming->lock);
	if (machine->state == MACHINE_RUNNING)
		machine_emit(machine, "RESUME", NULL);
	if (incoming->started)
		incoming->started(incoming->context);
}

static void tell_state(void *context)
{
	struct machine_incoming *incoming = context;
	const char *status = NULL;
	enum handover_state state = state_of(incoming);

	switch (state) {
	case HANDOVER_D_HELD:
	case HANDOVER_D_HELD_LACKING:
		status = "held";
		break;
	case HANDOVER_D_RUNNING_LACKING:
		status = "postcopy-active";
		break;
	case HANDOVER_D_RUNNING_LACKING_CUT:
		status = "postcopy-paused";
		break;
	case HANDOVER_D_RUNNING:
		status = "completed";
		break;
	default:
		break;
	}
	if (state != incoming->told && status)
		machine_emit(incoming->machine, "MIGRATION", json_pack("{s:s}", "status", status));
	incoming->told = state;
	/* What the guest asked for while it could not be done. */
	machine_attract(incoming->machine, 0);
}

/* A connection that does not take it is noticed by the reader. */
static void send(struct machine_incoming *incoming, enum migration_message_type type)
{
	struct error *error;

	if (!incoming->link) /* an operator's word, and nobody to pass it on to */
		return;
	error = migration_link_send_type(incoming->link, type);
	if (error)
		migration_link_cancel(incoming->link);
	error_free(error);
}

static void send_running(struct machine_incoming *incoming, enum migration_message_type type)
{
	struct migration_message message = {.type = MIGRATION_DONE};
	struct migration_received received;

	pthread_mutex_lock(&incoming->lock);
	incoming_recover_received(incoming, &received);
	message.done = (struct migration_done){
	    .pages = received.pages,
	    .zero_pages = received.zero_pages,
	    .bytes = received.bytes,
	    .state_bytes = received.state_bytes,
	    .load_ns = (uint64_t)incoming->load_ns,
	    .resume_ns = (uint64_t)incoming->resume_ns,
	};
	pthread_mutex_unlock(&incoming->lock);
	error_free(migration_link_send(incoming->link, &message));
	send(incoming, type);
}

static void send_rejected(struct machine_incoming *incoming)
{
	AUTO_FREE char *reason = NULL;

	pthread_mutex_lock(&incoming->lock);
	reason = strdup(incoming->reason ? error_message(incoming->reason)
					 : "an operator has given it up there");
	pthread_mutex_unlock(&incoming->lock);
	if (incoming->link)
		error_free(migration_link_send_text(incoming->link, MIGRATION_ABORT, reason ?: ""));
	send(incoming, MIGRATION_REJECTED);
	incoming->rejected = true;
}

static void discard(struct machine_incoming *incoming)
{
	if (incoming->rejected) /* which must not be lost */
		hear_out(incoming, LINGER_MS);
	incoming_postcopy_release(incoming);
	main_call(&incoming->calls, end_machine, incoming);
}

static void act(struct machine_incoming *incoming, enum handover_action action)
{
	struct error *error;

	switch (action) {
	case HANDOVER_TAKE_OVER:
		incoming->go_ns = clock_monotonic_ns();
		error = machine_take_over(incoming->machine);
		incoming_note(incoming, error);
		handover_queue_post(&incoming->events,
				    error ? HANDOVER_EVENT_FAILED : HANDOVER_EVENT_TAKEN);
		return;
	case HANDOVER_RELEASE:
		for (uint32_t i = 0; i < incoming->machine->device_count; i++)
			virtio_device_release(incoming->machine->devices[i].device);
		return;
	case HANDOVER_START_VM:
		main_call(&incoming->calls, start_machine, incoming);
		return;
	case HANDOVER_DISCARD:
		discard(incoming);
		return;
	case HANDOVER_SEND_LOADED:
		send(incoming, MIGRATION_LOADED);
		return;
	case HANDOVER_SEND_RUNNING:
		send_running(incoming, MIGRATION_RUNNING);
		return;
	case HANDOVER_SEND_RUNNING_LACKING:
		send_running(incoming, MIGRATION_RUNNING_LACKING);
		return;
	case HANDOVER_SEND_REJECTED:
		send_rejected(incoming);
		return;
	/* HOLD_FAULTS: they wait by themselves. ASK_PAGES: incoming_recover_resume, behind all
	 * actions. The others are the source's. */
	default:
		return;
	}
}

/* --- The handover ------------------------------------------------------------------------------ */

/* What follows from a state that was entered, beside the actions. */
static void enter(struct machine_incoming *incoming, enum handover_state state)
{
	/* The process that started this one has died, and nobody shall wait for its machine. */
	if (state == HANDOVER_D_HELD && incoming->token_fd >= 0) {
		handover_queue_post(&incoming->events, HANDOVER_EVENT_GIVE_UP);
		return;
	}
	if (state == HANDOVER_D_HELD)
		log_warning("migration: %s: look at the source, then 'godwit migrate "
			    "--resume-here' or '--give-up'",
			    handover_state_text(state));
	if (state == HANDOVER_D_HELD_LACKING || state == HANDOVER_D_RUNNING_LACKING_CUT)
		log_warning("migration: %s: 'godwit migrate --recover' at the source makes another",
			    handover_state_text(state));
	if (state == HANDOVER_D_HELD || state == HANDOVER_D_HELD_LACKING ||
	    state == HANDOVER_D_RUNNING_LACKING_CUT)
		incoming_recover_listen(incoming);
	main_calls_post(&incoming->calls, tell_state, incoming);
}

static bool adopt(struct machine_incoming *incoming)
{
	AUTO_ERROR struct error *error = incoming_recover_adopt(incoming);

	if (error)
		log_warning("migration: cannot go on: %s", error_message(error));
	return !error;
}

static void handle(struct machine_incoming *incoming, enum handover_event event)
{
	const struct handover_rule *rule;
	enum handover_state before, state;

	pthread_mutex_lock(&incoming->lock);
	before = incoming->handover.state;
	rule = handover_take(&incoming->handover, event);
	state = incoming->handover.state;
	pthread_mutex_unlock(&incoming->lock);
	if (rule->verdict != HANDOVER_GOES) {
		/* A message that has no place now is a breach. */
		if (handover_event_class(event) == HANDOVER_TO_DESTINATION && incoming->link)
			migration_link_cancel(incoming->link);
		return;
	}
	log_info("migration: %s, now %s", handover_event_name(event), handover_state_name(state));
	incoming->rejected = false;
	if (event == HANDOVER_EVENT_LINK_LOST && !handover_is_over(state))
		incoming_recover_detach(incoming);
	if (event == HANDOVER_EVENT_LINK_UP && !adopt(incoming)) {
		handle(incoming, HANDOVER_EVENT_LINK_LOST);
		return;
	}
	for (int i = 0; i < HANDOVER_RULE_ACTIONS; i++)
		act(incoming, rule->actions[i]);
	if (event == HANDOVER_EVENT_LINK_UP)
		incoming_recover_resume(incoming);
	if (state != before)
		enter(incoming, state);
}

/* On the main loop: ends all threads. */
static void join(struct machine_incoming *incoming)
{
	main_calls_abandon(&incoming->calls);
	pthread_mutex_lock(&incoming->lock);
	__atomic_store_n(&incoming->ending, true, __ATOMIC_RELAXED);
	if (incoming->link)
		migration_link_cancel(incoming->link);
	if (incoming->next)
		migration_link_cancel(incoming->next);
	pthread_mutex_unlock(&incoming->lock);
	stop_waiting(incoming);
	handover_queue_close(&incoming->events);
	if (incoming->thread_started)
		pthread_join(incoming->thread, NULL);
	if (incoming->reader_started)
		pthread_join(incoming->reader, NULL);
	incoming->thread_started = incoming->reader_started = false;
	incoming_recover_end(incoming);
}

/* On the main loop: the guest runs here, and what brought it is not needed any more. */
static void retire(void *context)
{
	struct machine_incoming *incoming = context;

	join(incoming);
	incoming_load_clear(incoming);
}

/* The guest runs here and all of it has come. */
static void clean_up(struct machine_incoming *incoming)
{
	bool lazy = incoming->postcopy;

	if (incoming->link)
		migration_link_cancel(incoming->link);
	stop_waiting(incoming);
	handover_queue_close(&incoming->events);
	incoming_recover_detach(incoming);
	if (lazy)
		machine_memory_comes(incoming->machine, NULL);
	incoming_postcopy_end(incoming);
	if (lazy)
		incoming_postcopy_take_rest(incoming);
}

static void *incoming_thread(void *context)
{
	struct machine_incoming *incoming = context;
	const struct migration_message ping = {.type = MIGRATION_PING};
	enum handover_event event;

	while (!handover_is_over(state_of(incoming)) &&
	       !handover_queue_is_closed(&incoming->events)) {
		if (handover_queue_take(&incoming->events, PING_MS, &event))
			handle(incoming, event);
		else if (incoming->link)
			error_free(migration_link_send(incoming->link, &ping));
	}
	if (state_of(incoming) == HANDOVER_D_RUNNING) {
		if (incoming->link)
			hear_out(incoming, LINGER_MS);
		clean_up(incoming);
		main_calls_post(&incoming->calls, retire, incoming);
	} else if (incoming->receiver) {
		migration_receiver_stop(incoming->receiver);
	}
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

struct error *incoming_create_receiver(struct machine_incoming *incoming, uint32_t devices)
{
	const struct migration_receiver_options options = {
	    .workers = WORKERS + MIN(incoming->stream_count, (uint32_t)STREAM_WORKERS),
	    .devices = devices};
	struct migration_receiver *receiver;

	TRY(migration_receiver_create(incoming->link, incoming->machine->map, &options,
				      &receiver_ops, incoming, &receiver));
	pthread_mutex_lock(&incoming->lock);
	incoming->receiver = receiver;
	pthread_mutex_unlock(&incoming->lock);
	return NULL;
}

struct error *incoming_start_reader(struct machine_incoming *incoming)
{
	TRY(thread_start(&incoming->reader, "incoming-read", reader_thread, incoming));
	incoming->reader_started = true;
	return NULL;
}

static struct error *start_threads(struct machine_incoming *incoming)
{
	TRY(thread_start(&incoming->thread, "incoming", incoming_thread, incoming));
	incoming->thread_started = true;
	TRY(migration_link_send_type(incoming->link, MIGRATION_ACCEPT));
	TRY(incoming_start_reader(incoming));
	return migration_receiver_start(incoming->receiver);
}

static struct error *start(struct machine *machine, struct machine_incoming *incoming)
{
	TRY(machine_description_check(incoming->description, machine));
	TRY(machine_check_present(machine));
	incoming->machine = machine;
	TRY(main_calls_init(&incoming->calls, machine->loop));
	TRY(incoming_load_prepare(incoming));
	incoming->channels = migration_link_channels(incoming->link);
	incoming->has_postcopy = migration_link_has_postcopy(incoming->link);
	TRY(incoming_postcopy_create(incoming));
	TRY(incoming_create_receiver(incoming, incoming->state_count));
	machine_freeze(machine);
	machine->thaw_runs = true; /* unless it is paused meanwhile */
	machine->incoming = incoming;
	return start_threads(incoming);
}

struct error *machine_incoming_start(struct machine *machine, struct machine_incoming *incoming)
{
	struct error *error = start(machine, incoming);

	if (!error)
		return NULL;
	/* All that uses the machine, which may be gone before this is closed. The link says why. */
	if (incoming->thread_started)
		join(incoming);
	migration_receiver_destroy(TAKE_PTR(incoming->receiver));
	incoming_postcopy_end(incoming);
	machine->incoming = NULL;
	return error;
}

void machine_incoming_end(struct machine *machine)
{
	struct machine_incoming *incoming = TAKE_PTR(machine->incoming);

	if (!incoming)
		return;
	join(incoming);
	machine_incoming_close(incoming);
}

bool machine_incoming_lose(struct machine *machine)
{
	struct error *error = machine_incoming_check(machine);

	if (error)
		machine->incoming->loss = error;
	return error;
}

void machine_incoming_abandon(struct machine *machine)
{
	struct machine_incoming *incoming = machine->incoming;

	if (incoming && incoming->loss && incoming->lost)
		incoming->lost(incoming->context, incoming->loss);
}

bool machine_is_incoming(const struct machine *machine)
{
	struct machine_incoming *incoming = machine->incoming;
	bool finished;

	if (!incoming)
		return false;
	pthread_mutex_lock(&incoming->lock);
	finished = incoming->finished;
	pthread_mutex_unlock(&incoming->lock);
	return !finished;
}

struct error *machine_incoming_settle(struct machine *machine, bool resume_here)
{
	enum handover_event event =
	    resume_here ? HANDOVER_EVENT_RESUME_HERE : HANDOVER_EVENT_GIVE_UP;
	struct machine_incoming *incoming = machine->incoming;
	char text[256];

	if (!incoming)
		return error_new(ENOENT, "the machine has not come from another host");
	handover_refusal(state_of(incoming), event, text, sizeof(text));
	if (*text)
		return error_new(EPERM, "%s", text);
	/* Before the word is passed on: whoever else has the disks has the guest. */
	if (resume_here)
		TRY(machine_take_over(machine));
	else
		incoming_note(incoming, error_new(ECANCELED, "an operator has given it up"));
	handover_queue_post(&incoming->events, event);
	return NULL;
}

bool machine_incoming_get_report(struct machine *machine, struct machine_incoming_report *report)
{
	struct machine_incoming *incoming = machine->incoming;

	*report = (struct machine_incoming_report){};
	if (!incoming)
		return false;
	pthread_mutex_lock(&incoming->lock);
	incoming_recover_received(incoming, &report->received);
	report->postcopy = incoming_postcopy_begun(incoming);
	report->brought = incoming->brought;
	if (incoming->postcopy)
		postcopy_destination_progress(incoming->postcopy, &report->brought);
	report->listening = incoming->listen && incoming->next;
	report->state = incoming->handover.state;
	report->load_ns = incoming->load_ns;
	report->resume_ns = incoming->resume_ns;
	if (incoming->reason && !incoming->finished)
		snprintf(report->reason, sizeof(report->reason), "%s",
			 error_message(incoming->reason));
	pthread_mutex_unlock(&incoming->lock);
	return true;
}
