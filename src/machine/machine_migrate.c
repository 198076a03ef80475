/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A migration from its beginning to the one who runs the guest afterwards, machine_migrate.h.
 *
 *   thread     connects, tells what the machine is, is accepted; sends memory; owns the handover, whose
 *              rules say what is done next, and does it
 *   reader     takes what the destination says: credits at once, the rest as events
 *   main loop  stops the guest and collects states; lets the guest go on; tells the owner
 *
 * The destination controls what it says and when. A message that has no place closes the connection,
 * and that leaves the guest here as long as GO was not sent, and undecided afterwards.
 */
#include "machine/machine_migrate.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine_description.h"
#include "machine/machine_incoming.h"
#include "machine/machine_migrate_private.h"
#include "memory/dirty_log.h"

#define LINK_TIMEOUT_MS 30000 /* for a sign of life; the destination gives one every few seconds */
#define REASON_MS	1000  /* for the destination to say why, after a connection broke */
#define LINGER_MS	5000  /* for the destination to take the last word */
#define LAZY_POLL_NS	(5 * NS_PER_MS)

void migrate_note(struct machine_migrate *migrate, struct error *error)
{
	pthread_mutex_lock(&migrate->lock);
	if (migrate->reason || !error)
		error_free(error);
	else
		migrate->reason = error;
	pthread_mutex_unlock(&migrate->lock);
}

static enum handover_state state_of(struct machine_migrate *migrate)
{
	enum handover_state state;

	pthread_mutex_lock(&migrate->lock);
	state = migrate->handover.state;
	pthread_mutex_unlock(&migrate->lock);
	return state;
}

/* --- The reader -------------------------------------------------------------------------------- */

static void note_abort(struct machine_migrate *migrate, const struct migration_message *message)
{
	char text[MACHINE_PEER_TEXT];

	migrate_note(migrate, error_new(ECONNABORTED, "the destination: %s",
					machine_peer_text(message, text)));
}

static void hear_no_more(struct machine_migrate *migrate)
{
	pthread_mutex_lock(&migrate->lock);
	migrate->heard_all = true;
	pthread_cond_broadcast(&migrate->changed);
	pthread_mutex_unlock(&migrate->lock);
}

static struct error *take_message(struct machine_migrate *migrate,
				  const struct migration_message *message)
{
	enum handover_event event;

	switch (message->type) {
	case MIGRATION_STATE_CREDIT:
		return migration_sender_credit(migrate->sender, message);
	case MIGRATION_PAGE_REQUEST:
	case MIGRATION_RECEIVED:
		return migrate_postcopy_message(migrate, message);
	case MIGRATION_PING:
		return migration_link_send(
		    migrate->link,
		    &(struct migration_message){.type = MIGRATION_PONG, .value = message->value});
	case MIGRATION_PONG:
		return NULL;
	case MIGRATION_ABORT:
		note_abort(migrate, message);
		return NULL;
	case MIGRATION_DONE:
		pthread_mutex_lock(&migrate->lock);
		migrate->destination = message->done;
		pthread_mutex_unlock(&migrate->lock);
		return NULL;
	default:
		break;
	}
	if (!handover_event_of_message(message->type, &event) ||
	    (event == HANDOVER_EVENT_RUNNING_LACKING && !migrate_postcopy_begun(migrate)))
		return error_new(EBADMSG, "the destination sent %s, which has no place here",
				 migration_message_name(message->type));
	/* What is being sent is in vain. */
	if (event == HANDOVER_EVENT_REJECTED) {
		migration_sender_cancel(migrate->sender);
		hear_no_more(migrate);
	}
	handover_queue_post(&migrate->events, event);
	return NULL;
}

static void *reader_thread(void *context)
{
	struct machine_migrate *migrate = context;
	struct error *error = NULL;

	while (!error) {
		struct migration_message message;

		error = migration_link_receive(migrate->link, &message);
		if (!error)
			error = take_message(migrate, &message);
	}
	migrate_note(migrate, error);
	migration_link_cancel(migrate->link);
	migration_sender_cancel(migrate->sender);
	handover_queue_post(&migrate->events, HANDOVER_EVENT_LINK_LOST);
	hear_no_more(migrate);
	return NULL;
}

/* Until the destination has said its last word: what was sent last must not be lost. */
static void linger(struct machine_migrate *migrate)
{
	int64_t until = clock_monotonic_ns() + LINGER_MS * NS_PER_MS;
	const struct timespec when = {.tv_sec = until / NS_PER_SECOND,
				      .tv_nsec = until % NS_PER_SECOND};

	pthread_mutex_lock(&migrate->lock);
	while (!migrate->heard_all &&
	       !pthread_cond_clockwait(&migrate->changed, &migrate->lock, CLOCK_MONOTONIC, &when))
		;
	pthread_mutex_unlock(&migrate->lock);
}

/* --- Beginning --------------------------------------------------------------------------------- */

struct describing {
	struct machine_migrate *migrate;
	int fds[MACHINE_BLOCKS_MAX]; /* of memory that goes along */
	uint32_t fd_count;
	char *text;
	struct error *error;
};

static void describe(void *context)
{
	struct describing *describing = context;
	struct machine_migrate *migrate = describing->migrate;

	if (migrate->options.share_memory)
		describing->error =
		    machine_memory_share(migrate->machine, describing->fds, &describing->fd_count);
	if (!describing->error)
		describing->error = machine_describe(migrate->machine, describing->fd_count,
						     &describing->text, &migrate->state_count);
	if (!describing->error)
		describing->error = migrate_streams_find(migrate);
}

static struct error *cancelled(void)
{
	return error_new(ECANCELED, "the migration was cancelled");
}

static struct error *send_description(struct machine_migrate *migrate)
{
	struct describing describing = {.migrate = migrate};
	struct migration_message message = {.type = MIGRATION_CONFIG};
	struct error *error = NULL;

	if (!main_call(&migrate->calls, describe, &describing))
		return cancelled();
	if (describing.error) {
		free(describing.text);
		return describing.error;
	}
	migrate->state_count++; /* machine_migrate_copy.c adds one of its own */
	message.text = describing.text;
	message.size = strlen(describing.text);
	if (describing.fd_count)
		error = migration_link_attach(migrate->link, describing.fds, describing.fd_count);
	if (!error)
		error = migration_link_send(migrate->link, &message);
	free(describing.text);
	return error;
}

static struct error *await_answer(struct machine_migrate *migrate)
{
	struct migration_message message;
	char text[MACHINE_PEER_TEXT];

	for (;;) {
		TRY(migration_link_receive(migrate->link, &message));
		switch (message.type) {
		case MIGRATION_ACCEPT:
			return NULL;
		case MIGRATION_PING:
			break;
		case MIGRATION_REFUSE:
			return error_new(ECONNREFUSED, "the destination refuses: %s",
					 machine_peer_text(&message, text));
		default:
			return error_new(EBADMSG, "the destination answered %s instead of ACCEPT",
					 migration_message_name(message.type));
		}
	}
}

static struct error *wait_for_lazy_restore(struct machine_migrate *migrate)
{
	const struct timespec pause = {.tv_nsec = LAZY_POLL_NS};

	while (machine_is_restoring(migrate->machine)) {
		if (migrate_precopy_ops.stopping(migrate))
			return cancelled();
		nanosleep(&pause, NULL);
	}
	return NULL;
}

struct error *migrate_create_sender(struct machine_migrate *migrate, uint32_t devices)
{
	const struct migration_sender_options options = {
	    .workers =
		MIGRATE_STATE_JOBS + MIN(migrate->stream_count, (uint32_t)MIGRATE_STREAM_JOBS),
	    .devices = devices,
	    .zstd = migrate->options.zstd,
	};
	struct migration_sender *sender;

	TRY(migration_sender_create(migrate->link, migrate->machine->map, &options, &sender));
	pthread_mutex_lock(&migrate->lock);
	migrate->sender = sender;
	migration_sender_set_bandwidth(sender, migrate->options.bandwidth);
	pthread_mutex_unlock(&migrate->lock);
	return NULL;
}

struct error *migrate_start_reader(struct machine_migrate *migrate)
{
	migration_link_set_timeout(migrate->link, LINK_TIMEOUT_MS);
	TRY(thread_start(&migrate->reader, "migrate-read", reader_thread, migrate));
	migrate->reader_started = true;
	return NULL;
}

static struct error *begin(struct machine_migrate *migrate)
{
	TRY(migration_link_connect(migrate->link));
	migrate->connected = true;
	memcpy(migrate->session, migration_link_session(migrate->link), WIRE_SESSION_SIZE);
	/* Another process of this host has nothing to wait for. */
	if (migrate->options.update)
		migration_link_set_timeout(migrate->link, LINK_TIMEOUT_MS);
	TRY(send_description(migrate));
	TRY(await_answer(migrate));
	TRY(migrate_create_sender(migrate, migrate->state_count));
	TRY(migrate_copy_prepare(migrate));
	TRY(migrate_postcopy_create(migrate));
	TRY(migrate_start_reader(migrate));
	TRY(wait_for_lazy_restore(migrate));
	TRY(migrate_copy_run(migrate));
	return migrate_postcopy_prepare(migrate);
}

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

	return main_call(&migrate->calls, stop_machine, &stopping) ? stopping.error : cancelled();
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
		migrate->go_ns = clock_monotonic_ns();
		pthread_mutex_lock(&migrate->lock);
		migrate->downtime.load_ns = migrate->go_ns - migrate->sent_ns;
		pthread_mutex_unlock(&migrate->lock);
		if (migration_link_send_type(migrate->link, MIGRATION_GO))
			migration_link_cancel(migrate->link); /* which the reader notices */
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

	while (!handover_is_over(state_of(migrate)) &&
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
		error = TAKE_PTR(migrate->reason) ?: cancelled();
	/* The owner may destroy the migration now. */
	migrate->done(migrate->context, error);
	if (gone && update)
		machine_leave(machine);
	else if (gone)
		machine_shutdown(machine, false, "migrated");
}

static void *migrate_thread(void *context)
{
	struct machine_migrate *migrate = context;
	struct error *error = begin(migrate);
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
		linger(migrate);
	if (migrate->link)
		migration_link_cancel(migrate->link);
	handover_queue_close(&migrate->events);
	if (migrate->reader_started)
		pthread_join(migrate->reader, NULL);
	if (handover_is_over(state_of(migrate)))
		dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	if (handover_is_over(state_of(migrate)))
		main_calls_post(&migrate->calls, tell, migrate);
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *copy_text(const char **text)
{
	*text = *text ? strdup(*text) : NULL;
	return NULL;
}

static struct error *copy_options(struct machine_migrate *migrate,
				  const struct machine_migrate_options *options)
{
	migrate->options = *options;
	TRY(copy_text(&migrate->options.address));
	TRY(copy_text(&migrate->options.tls));
	TRY(copy_text(&migrate->options.tls_name));
	TRY(copy_text(&migrate->options.label));
	return migrate->options.address ? NULL : error_system(ENOMEM, "a migration");
}

static struct error *open_link(struct machine_migrate *migrate)
{
	const struct migration_link_options options = {
	    .address = migrate->options.address,
	    .channels = migrate->options.channels,
	    .postcopy = migrate->options.mode != MACHINE_MIGRATE_PRECOPY,
	    .tls = migrate->options.tls,
	    .tls_name = migrate->options.tls_name,
	};

	return migration_link_open(MIGRATION_SOURCE, &options, &migrate->link);
}

static void migrate_free(struct machine_migrate *migrate)
{
	migrate_copy_slow_no_more(migrate);
	migrate_copy_clear(migrate);
	migrate_streams_clear(migrate);
	postcopy_source_destroy(migrate->postcopy);
	migration_link_close(migrate->next);
	error_free(migrate->recover_error);
	migration_sender_destroy(migrate->sender);
	migration_link_close(migrate->link);
	main_calls_destroy(&migrate->calls);
	precopy_clear(&migrate->precopy);
	handover_queue_destroy(&migrate->events);
	pthread_cond_destroy(&migrate->changed);
	pthread_mutex_destroy(&migrate->lock);
	error_free(migrate->reason);
	free((char *)migrate->options.address);
	free((char *)migrate->options.tls);
	free((char *)migrate->options.tls_name);
	free((char *)migrate->options.label);
	free(migrate);
}

struct error *machine_migrate_start(struct machine *machine,
				    const struct machine_migrate_options *options,
				    void (*done)(void *context, struct error *error),
				    void (*changed)(void *context), void *context,
				    struct machine_migrate **result)
{
	struct machine_migrate *migrate;
	struct error *error;

	TRY(machine_migrate_check(machine, options));
	migrate = calloc(1, sizeof(*migrate));
	if (!migrate)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&migrate->lock, NULL);
	pthread_cond_init(&migrate->changed, NULL);
	handover_queue_init(&migrate->events);
	handover_init(&migrate->handover, HANDOVER_SOURCE);
	precopy_init(&migrate->precopy, &migrate_precopy_ops, migrate,
		     options->downtime_ms * NS_PER_MS);
	migrate->machine = machine;
	migrate->done = done;
	migrate->on_change = changed;
	migrate->context = context;
	migrate->began_ns = clock_monotonic_ns();
	error = copy_options(migrate, options);
	if (!error)
		error = main_calls_init(&migrate->calls, machine->loop);
	if (!error)
		error = open_link(migrate);
	if (!error)
		error = migrate_copy_slow(migrate);
	if (!error)
		error = thread_start(&migrate->thread, "migrate", migrate_thread, migrate);
	if (error) {
		migrate_free(migrate);
		return error;
	}
	machine->migrate = migrate;
	*result = migrate;
	return NULL;
}

/* Makes whatever the thread waits for fail. */
static void interrupt(struct machine_migrate *migrate)
{
	pthread_mutex_lock(&migrate->lock);
	migrate->cancelled = true;
	if (migrate->sender)
		migration_sender_cancel(migrate->sender);
	else if (migrate->link)
		migration_link_cancel(migrate->link);
	pthread_cond_broadcast(&migrate->changed);
	pthread_mutex_unlock(&migrate->lock);
}

static struct error *refusal(enum handover_state state, enum handover_event event)
{
	char text[256];

	handover_refusal(state, event, text, sizeof(text));
	return *text ? error_new(EPERM, "%s", text) : NULL;
}

struct error *machine_migrate_cancel(struct machine_migrate *migrate)
{
	TRY(refusal(state_of(migrate), HANDOVER_EVENT_CANCEL));
	migrate_note(migrate, cancelled());
	handover_queue_post(&migrate->events, HANDOVER_EVENT_CANCEL);
	interrupt(migrate);
	return NULL;
}

struct error *machine_migrate_settle(struct machine_migrate *migrate, bool resume_here)
{
	enum handover_event event =
	    resume_here ? HANDOVER_EVENT_RESUME_HERE : HANDOVER_EVENT_GIVE_UP;

	TRY(refusal(state_of(migrate), event));
	/* Before the word is passed on: whoever else has the disks has the guest. */
	if (resume_here)
		TRY(machine_take_over(migrate->machine));
	handover_queue_post(&migrate->events, event);
	return NULL;
}

void machine_migrate_limit(struct machine_migrate *migrate, uint64_t bandwidth,
			   uint32_t downtime_ms)
{
	if (downtime_ms)
		precopy_set_max_downtime(&migrate->precopy, downtime_ms * NS_PER_MS);
	pthread_mutex_lock(&migrate->lock);
	migrate->options.bandwidth = bandwidth;
	if (migrate->sender)
		migration_sender_set_bandwidth(migrate->sender, bandwidth);
	pthread_mutex_unlock(&migrate->lock);
}

void machine_migrate_get_progress(struct machine_migrate *migrate,
				  struct machine_migrate_progress *progress)
{
	struct migration_sent sent = {0};

	*progress = (struct machine_migrate_progress){};
	precopy_get_progress(&migrate->precopy, &progress->precopy);
	progress->max_downtime_ns = precopy_max_downtime(&migrate->precopy);
	precopy_explain(&progress->precopy, progress->max_downtime_ns, progress->why,
			sizeof(progress->why));
	pthread_mutex_lock(&migrate->lock);
	progress->state = migrate->handover.state;
	progress->changes = migrate->changes;
	progress->downtime = migrate->downtime;
	progress->bandwidth = migrate->options.bandwidth;
	progress->slowed = migrate_copy_slowed(migrate->slowed_alike);
	if (migrate->sender)
		migration_sender_progress(migrate->sender, &sent);
	migrate_recover_add(&sent, &migrate->before);
	pthread_mutex_unlock(&migrate->lock);
	progress->elapsed_ns = clock_monotonic_ns() - migrate->began_ns;
	progress->sent = sent.bytes;
	progress->pages = sent.pages;
	progress->zero_pages = sent.zero_pages;
	progress->compressed_pages = sent.compressed_pages;
	progress->state_bytes = sent.state_bytes;
	progress->done = (sent.pages + sent.zero_pages) * DIRTY_PAGE_SIZE;
	progress->total = MAX(progress->done, progress->precopy.scheduled_pages * DIRTY_PAGE_SIZE);
	migrate_postcopy_progress(migrate, &sent, progress);
}

void machine_migrate_destroy(struct machine_migrate *migrate)
{
	if (!migrate)
		return;
	main_calls_abandon(&migrate->calls);
	interrupt(migrate);
	pthread_mutex_lock(&migrate->lock);
	if (migrate->link)
		migration_link_cancel(migrate->link);
	pthread_mutex_unlock(&migrate->lock);
	handover_queue_close(&migrate->events);
	pthread_join(migrate->thread, NULL);
	migrate_recover_end(migrate);
	dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	if (migrate->froze && handover_guest(migrate->handover.state) == HANDOVER_GUEST_RUNS)
		machine_thaw(migrate->machine);
	migrate->machine->migrate = NULL;
	migrate_free(migrate);
}
