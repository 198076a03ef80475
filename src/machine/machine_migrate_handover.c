/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The handover of a migration, machine_migrate_private.h: its thread takes what happens as events, and
 * does what the rules of migration/handover.h say is done then; the guest is stopped and let go on, disks
 * are given back, and the last words are said.
 *
 * The migration's own thread, but where it says so. Whatever fails is an event, too: the guest stays here as
 * long as GO was not sent, and the migration is undecided afterwards.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "machine/machine_migrate_private.h"
#include "memory/dirty_log.h"

#define REASON_MS 1000 /* for the destination to say why, after a connection broke */

/* --- Actions ----------------------------------------------------------------------------------- */

struct stopping {
	struct machine_migrate *migrate;
	struct error *error;
};

/* On the main loop. */
static void stop_machine(void *context)
{
	struct stopping *stopping = context;
	struct machine_migrate *migrate = stopping->migrate;
	int64_t began = clock_monotonic_ns(), stopped;

	if (migrate->machine->state == MACHINE_SHUTDOWN) {
		stopping->error = error_new(ECANCELED, "the machine is shutting down");
		return;
	}
	machine_freeze(migrate->machine);
	migrate_copy_slow_no_more(migrate);
	migrate->froze = true;
	migrate->stopped_ns = began;
	stopped = clock_monotonic_ns();
	stopping->error = migrate_copy_states(migrate);
	pthread_mutex_lock(&migrate->lock);
	migrate->downtime.stop_ns = stopped - began;
	migrate->downtime.states_ns = clock_monotonic_ns() - stopped;
	pthread_mutex_unlock(&migrate->lock);
}

/* On the main loop. */
static void resume_machine(void *context)
{
	struct machine_migrate *migrate = context;

	machine_thaw(migrate->machine);
	pthread_mutex_lock(&migrate->lock);
	migrate->froze = false;
	migrate->downtime.total_ns = clock_monotonic_ns() - migrate->stopped_ns;
	pthread_mutex_unlock(&migrate->lock);
}

/* The locks are gone: it stands still, and an operator can look why. */
static void keep_paused(void *context)
{
	struct machine_migrate *migrate = context;

	migrate->machine->thaw_runs = false;
	resume_machine(migrate);
}

/* On the main loop. */
static void release_rest(void *context)
{
	struct machine_migrate *migrate = context;

	machine_hand_release_serial(migrate->machine);
	if (migrate->options.released)
		migrate->options.released(migrate->context);
}

static void release_devices(struct machine_migrate *migrate)
{
	struct machine *machine = migrate->machine;

	for (uint32_t i = 0; i < machine->device_count; i++)
		virtio_device_release(machine->devices[i].device);
	if (migrate->options.update)
		main_call(&migrate->calls, release_rest, migrate);
	migrate->released = true;
}

static void resume(struct machine_migrate *migrate)
{
	struct error *error = NULL;

	/* First, so that nothing is marked any more for who has no use for it. */
	dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	if (!migrate->froze)
		return;
	if (migrate->released)
		error = machine_take_over(migrate->machine);
	if (error) {
		log_error("the guest stays, and stands still: %s", error_message(error));
		migrate_note(migrate, error);
	} else {
		migrate->released = false;
	}
	main_call(&migrate->calls, error ? keep_paused : resume_machine, migrate);
}

static struct error *send_abort(struct machine_migrate *migrate)
{
	AUTO_FREE char *text = NULL;

	if (!migrate->connected || !migrate->link)
		return NULL;
	pthread_mutex_lock(&migrate->lock);
	text = strdup(migrate->reason ? error_message(migrate->reason) : "");
	pthread_mutex_unlock(&migrate->lock);
	migrate->aborted = true;
	return migration_link_send_text(migrate->link, MIGRATION_ABORT, text ?: "");
}

static struct error *stop(struct machine_migrate *migrate)
{
	struct stopping stopping = {.migrate = migrate};

	return main_call(&migrate->calls, stop_machine, &stopping) ? stopping.error
								   : migrate_cancelled();
}

static void send_go(struct machine_migrate *migrate)
{
	AUTO_ERROR struct error *error = NULL;

	migrate->go_ns = clock_monotonic_ns();
	pthread_mutex_lock(&migrate->lock);
	migrate->downtime.load_ns = migrate->go_ns - migrate->sent_ns;
	pthread_mutex_unlock(&migrate->lock);
	error = migration_link_send_type(migrate->link, MIGRATION_GO);
	if (error)
		migration_link_cancel(migrate->link); /* which the reader notices */
}

/* An error is the migration's end; one of the connection shows there, too. */
static struct error *act(struct machine_migrate *migrate, enum handover_action action)
{
	switch (action) {
	case HANDOVER_STOP_VM:
		return stop(migrate);
	case HANDOVER_SEND_SWITCH_BEGIN:
		return migration_link_send_type(migrate->link, MIGRATION_SWITCH_BEGIN);
	case HANDOVER_RELEASE:
		release_devices(migrate);
		return NULL;
	case HANDOVER_SEND_GO:
		send_go(migrate);
		return NULL;
	case HANDOVER_RESUME_VM:
		resume(migrate);
		return NULL;
	case HANDOVER_SEND_ABORT:
		error_free(send_abort(migrate)); /* it will see that the connection is gone */
		return NULL;
	/* DISCARD: the process ends. SERVE_PAGES: is done since the states were sent, or goes on when
	 * the destination has said what it has. The others are the destination's. */
	default:
		return NULL;
	}
}

/* The guest is stopped: everything that is left. */
static struct error *send_rest(struct machine_migrate *migrate)
{
	struct machine *machine = migrate->machine;

	/* Nobody can ask for post-copy any more; who did too late has interrupted what is sent now. */
	migration_sender_go_on(migrate->sender);
	TRY(migrate_postcopy_begun(migrate) ? migrate_postcopy_rest(migrate)
					    : migrate_copy_rest(migrate));
	/* Another process of this host finds it in the same page cache. */
	for (uint32_t i = 0; i < machine->device_count && !migrate->options.update; i++)
		TRY(virtio_device_sync(machine->devices[i].device));
	migrate->sent_ns = clock_monotonic_ns();
	pthread_mutex_lock(&migrate->lock);
	migrate->downtime.pages_ns = migrate->sent_ns - migrate->stopped_ns -
				     migrate->downtime.stop_ns - migrate->downtime.states_ns;
	pthread_mutex_unlock(&migrate->lock);
	return NULL;
}

/* --- The handover ------------------------------------------------------------------------------ */

static void tell_changed(void *context)
{
	struct machine_migrate *migrate = context;

	if (migrate->on_change)
		migrate->on_change(migrate->context);
}

void migrate_tell_changed(struct machine_migrate *migrate)
{
	pthread_mutex_lock(&migrate->lock);
	migrate->changes++;
	pthread_mutex_unlock(&migrate->lock);
	main_calls_post(&migrate->calls, tell_changed, migrate);
}

/* What follows from a state that was entered, beside the actions. */
static void enter(struct machine_migrate *migrate, enum handover_state state)
{
	if (state == HANDOVER_S_UNDECIDED)
		log_warning("migration: %s: look at the destination, then 'godwit migrate "
			    "--recover', '--resume-here' or '--give-up'",
			    handover_state_text(state));
	if (state == HANDOVER_S_SERVING_CUT)
		log_warning("migration: %s: 'godwit migrate --recover' makes another",
			    handover_state_text(state));
	if (state == HANDOVER_S_UNDECIDED || state == HANDOVER_S_SERVING_CUT)
		migrate_recover_detach(migrate);
	if (state == HANDOVER_S_UNDECIDED || state == HANDOVER_S_SERVING_CUT ||
	    state == HANDOVER_S_SERVING)
		migrate_tell_changed(migrate);
}

/* From GO on, when the destination has told what became of it. */
static void measure(struct machine_migrate *migrate, enum handover_state state)
{
	int64_t now = clock_monotonic_ns();

	if ((state != HANDOVER_S_GONE && state != HANDOVER_S_SERVING) || !migrate->go_ns)
		return;
	pthread_mutex_lock(&migrate->lock);
	if (!migrate->downtime.confirm_ns) {
		migrate->downtime.confirm_ns = now - migrate->go_ns;
		migrate->downtime.total_ns = now - migrate->stopped_ns;
	}
	migrate->downtime.resume_ns = (int64_t)migrate->destination.resume_ns;
	pthread_mutex_unlock(&migrate->lock);
}

/* Takes @event and does what follows from it. */
static void handle(struct machine_migrate *migrate, enum handover_event event)
{
	const struct handover_rule *rule;
	enum handover_state before, state;
	struct error *error = NULL;

	pthread_mutex_lock(&migrate->lock);
	before = migrate->handover.state;
	rule = handover_take(&migrate->handover, event);
	state = migrate->handover.state;
	pthread_mutex_unlock(&migrate->lock);
	if (rule->verdict != HANDOVER_GOES) {
		/* A message that has no place now is a breach; an operator was told before. */
		if (handover_event_class(event) == HANDOVER_TO_SOURCE && migrate->link)
			migration_link_cancel(migrate->link);
		return;
	}
	log_info("migration: %s, now %s", handover_event_name(event), handover_state_name(state));
	measure(migrate, state);
	if (event == HANDOVER_EVENT_LINK_UP)
		error = migrate_recover_adopt(migrate);
	if (error) {
		log_warning("migration: cannot go on: %s", error_message(error));
		error_free(error);
		handle(migrate, HANDOVER_EVENT_LINK_LOST);
		return;
	}
	for (int i = 0; i < HANDOVER_RULE_ACTIONS && !error; i++)
		error = act(migrate, rule->actions[i]);
	if (!error && event == HANDOVER_EVENT_SWITCH)
		error = send_rest(migrate);
	if (state != before)
		enter(migrate, state);
	if (!error)
		return;
	/*
	 * The destination's own words, if it has some, come a moment later than the broken pipe. That
	 * it has loaded all does not make good what went wrong here.
	 */
	if (!handover_queue_take(&migrate->events, REASON_MS, &event) ||
	    event == HANDOVER_EVENT_LOADED)
		event = HANDOVER_EVENT_FAILED;
	migrate_note(migrate, error);
	handle(migrate, event);
}

static void hand_over(struct machine_migrate *migrate)
{
	enum handover_event event;

	while (!handover_is_over(migrate_state_of(migrate)) &&
	       handover_queue_take(&migrate->events, -1, &event))
		handle(migrate, event);
}

/* On the main loop. */
static void tell(void *context)
{
	struct machine_migrate *migrate = context;
	struct machine *machine = migrate->machine;
	bool gone = migrate->handover.state == HANDOVER_S_GONE, update = migrate->options.update;
	struct error *error = NULL;

	if (!gone)
		error = TAKE_PTR(migrate->reason) ?: migrate_cancelled();
	/* The owner may destroy the migration now. */
	migrate->done(migrate->context, error);
	if (gone && update)
		machine_leave(machine);
	else if (gone)
		machine_shutdown(machine, false, "migrated");
}

void *migrate_thread(void *context)
{
	struct machine_migrate *migrate = context;
	struct error *error = migrate_begin(migrate);
	enum handover_event event = HANDOVER_EVENT_SWITCH;

	if (error) {
		if (!migrate->reader_started ||
		    !handover_queue_take(&migrate->events, REASON_MS, &event))
			event = HANDOVER_EVENT_FAILED;
		migrate_note(migrate, error);
	}
	handle(migrate, event);
	hand_over(migrate);
	migrate_copy_slow_no_more(migrate);
	migrate_streams_finish(migrate);
	if (migrate->aborted && migrate->reader_started)
		migrate_linger(migrate);
	if (migrate->link)
		migration_link_cancel(migrate->link);
	handover_queue_close(&migrate->events);
	if (migrate->reader_started)
		pthread_join(migrate->reader, NULL);
	if (handover_is_over(migrate_state_of(migrate)))
		dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	if (handover_is_over(migrate_state_of(migrate)))
		main_calls_post(&migrate->calls, tell, migrate);
	return NULL;
}
