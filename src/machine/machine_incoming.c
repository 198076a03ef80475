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
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine_incoming_private.h"

#define LINK_TIMEOUT_MS 30000 /* for a sign of life */
#define PING_MS		5000
#define LINGER_MS	3000 /* for the source to take the last word */
#define REASON_MS	1000 /* for the source to say why a connection broke */
#define WORKERS		2    /* that take states */

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

/* --- Before there is a machine ----------------------------------------------------------------- */

void machine_incoming_close(struct machine_incoming *incoming)
{
	if (!incoming)
		return;
	migration_receiver_destroy(incoming->receiver);
	incoming_load_clear(incoming);
	machine_description_free(incoming->description);
	migration_link_close(incoming->link);
	main_calls_destroy(&incoming->calls);
	handover_queue_destroy(&incoming->events);
	error_free(incoming->reason);
	pthread_cond_destroy(&incoming->changed);
	pthread_mutex_destroy(&incoming->lock);
	free(incoming);
}

/* Cancels a link when somebody no longer wants to wait for it. */
struct watch {
	struct migration_link *link;
	int cancel_fd, stop_fd;
};

static void *watch_thread(void *context)
{
	const struct watch *watch = context;
	struct pollfd fds[] = {{.fd = watch->cancel_fd, .events = POLLIN},
			       {.fd = watch->stop_fd, .events = POLLIN}};

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[0].revents)
		migration_link_cancel(watch->link);
	return NULL;
}

static struct error *receive_description(struct machine_incoming *incoming)
{
	struct migration_message message;

	migration_link_expect(incoming->link);
	TRY(migration_link_receive(incoming->link, &message));
	if (message.type != MIGRATION_CONFIG)
		return error_new(EBADMSG, "the source begins with %s instead of CONFIG",
				 migration_message_name(message.type));
	return machine_description_read(message.text, message.size, &incoming->description);
}

static struct error *accept_source(struct machine_incoming *incoming)
{
	struct error *error;

	TRY(migration_link_accept(incoming->link));
	migration_link_set_timeout(incoming->link, LINK_TIMEOUT_MS);
	error = receive_description(incoming);
	if (error)
		machine_incoming_refuse(incoming, error);
	return error;
}

static struct error *accept_watched(struct machine_incoming *incoming, int cancel_fd)
{
	AUTO_CLOSE int stop_fd = eventfd(0, EFD_CLOEXEC);
	struct watch watch = {.link = incoming->link, .cancel_fd = cancel_fd, .stop_fd = stop_fd};
	struct error *error;
	pthread_t thread;

	if (stop_fd < 0)
		return error_system(errno, "a migration");
	TRY(thread_start(&thread, "incoming", watch_thread, &watch));
	error = accept_source(incoming);
	eventfd_write(stop_fd, 1);
	pthread_join(thread, NULL);
	return error;
}

struct error *machine_incoming_accept(const struct machine_incoming_options *options,
				      struct machine_incoming **result)
{
	const struct migration_link_options link = {.address = options->address,
						    .tls = options->tls};
	struct machine_incoming *incoming = calloc(1, sizeof(*incoming));
	struct error *error;

	if (!incoming)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&incoming->lock, NULL);
	pthread_cond_init(&incoming->changed, NULL);
	handover_queue_init(&incoming->events);
	handover_init(&incoming->handover, HANDOVER_DESTINATION);
	error = migration_link_open(MIGRATION_DESTINATION, &link, &incoming->link);
	if (!error && options->listening)
		options->listening(options->context, migration_link_address(incoming->link));
	if (!error)
		error = accept_watched(incoming, options->cancel_fd);
	if (error) {
		machine_incoming_close(incoming);
		return error;
	}
	*result = incoming;
	return NULL;
}

/* Memory that has come along as descriptors. */
static struct error *adopt_memory(const struct machine_incoming *incoming,
				  struct machine_config *config)
{
	uint32_t expected = machine_description_descriptors(incoming->description), count;
	int fds[TRANSPORT_PASSED_MAX];

	count = migration_link_take(incoming->link, fds);
	for (uint32_t i = 0; i < count; i++) {
		if (count == expected && count <= ARRAY_SIZE(config->adopted))
			config->adopted[config->adopted_count++] = fds[i];
		else
			close(fds[i]);
	}
	return count == expected
		   ? NULL
		   : error_new(EBADMSG,
			       "%u descriptors of memory have come along, and %u were to: nobody "
			       "may pass the connection on",
			       count, expected);
}

struct error *machine_incoming_config(const struct machine_incoming *incoming,
				      struct machine_config *config)
{
	TRY(machine_description_config(incoming->description, config));
	TRY(adopt_memory(incoming, config));
	config->incoming = true;
	return NULL;
}

void machine_incoming_refuse(struct machine_incoming *incoming, const struct error *error)
{
	error_free(
	    migration_link_send_text(incoming->link, MIGRATION_REFUSE, error_message(error)));
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

static struct error *load_all(struct machine_incoming *incoming)
{
	struct loading loading = {.incoming = incoming};
	bool begun;

	pthread_mutex_lock(&incoming->lock);
	begun = incoming->switch_begun;
	pthread_mutex_unlock(&incoming->lock);
	if (!begun)
		return error_new(EBADMSG, "the source has sent everything before SWITCH_BEGIN");
	return main_call(&incoming->calls, load_states, &loading)
		   ? loading.error
		   : error_new(ECANCELED, "the machine is shutting down");
}

static void receiver_ended(void *context, const struct error *failure)
{
	struct machine_incoming *incoming = context;
	struct error *error = failure ? error_new(error_code(failure), "%s", error_message(failure))
				      : load_all(incoming);

	if (error) {
		stop_waiting(incoming);
		/* Why connections break is said, if at all, on the main one. */
		if (failure)
			hear_out(incoming, REASON_MS);
		incoming_note(incoming, error);
	} else {
		pthread_mutex_lock(&incoming->lock);
		incoming->load_ns = clock_monotonic_ns() - incoming->switch_ns;
		pthread_mutex_unlock(&incoming->lock);
	}
	handover_queue_post(&incoming->events,
			    error ? HANDOVER_EVENT_FAILED : HANDOVER_EVENT_ALL_LOADED);
}

static const struct migration_receiver_ops receiver_ops = {
    .round_ended = incoming_round_ended,
    .load = incoming_load_chunk,
    .ended = receiver_ended,
};

/* --- Actions ----------------------------------------------------------------------------------- */

static void start_machine(void *context)
{
	struct machine_incoming *incoming = context;
	struct machine *machine = incoming->machine;

	machine_thaw(machine);
	pthread_mutex_lock(&incoming->lock);
	if (incoming->go_ns)
		incoming->resume_ns = clock_monotonic_ns() - incoming->go_ns;
	incoming->finished = true;
	pthread_mutex_unlock(&incoming->lock);
	machine_emit(machine, "MIGRATION", json_pack("{s:s}", "status", "completed"));
	if (machine->state == MACHINE_RUNNING)
		machine_emit(machine, "RESUME", NULL);
}

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

static void tell_held(void *context)
{
	struct machine_incoming *incoming = context;

	machine_emit(incoming->machine, "MIGRATION", json_pack("{s:s}", "status", "held"));
}

/* A connection that does not take it is noticed by the reader. */
static void send(struct machine_incoming *incoming, enum migration_message_type type)
{
	struct error *error = migration_link_send_type(incoming->link, type);

	if (error)
		migration_link_cancel(incoming->link);
	error_free(error);
}

static void send_running(struct machine_incoming *incoming)
{
	struct migration_message message = {.type = MIGRATION_DONE};
	struct migration_received received;

	migration_receiver_progress(incoming->receiver, &received);
	pthread_mutex_lock(&incoming->lock);
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
	send(incoming, MIGRATION_RUNNING);
}

static void send_rejected(struct machine_incoming *incoming)
{
	AUTO_FREE char *reason = NULL;

	pthread_mutex_lock(&incoming->lock);
	reason = strdup(incoming->reason ? error_message(incoming->reason)
					 : "an operator has given it up there");
	pthread_mutex_unlock(&incoming->lock);
	error_free(migration_link_send_text(incoming->link, MIGRATION_ABORT, reason ?: ""));
	send(incoming, MIGRATION_REJECTED);
	incoming->rejected = true;
}

static void discard(struct machine_incoming *incoming)
{
	if (incoming->rejected) /* which must not be lost */
		hear_out(incoming, LINGER_MS);
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
		send_running(incoming);
		return;
	case HANDOVER_SEND_REJECTED:
		send_rejected(incoming);
		return;
	default: /* the source's, or post-copy's */
		return;
	}
}

/* --- The handover ------------------------------------------------------------------------------ */

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
		if (handover_event_class(event) == HANDOVER_TO_DESTINATION)
			migration_link_cancel(incoming->link);
		return;
	}
	log_info("migration: %s, now %s", handover_event_name(event), handover_state_name(state));
	incoming->rejected = false;
	for (int i = 0; i < HANDOVER_RULE_ACTIONS; i++)
		act(incoming, rule->actions[i]);
	if (state == HANDOVER_D_HELD && before != state) {
		log_warning("migration: %s: look at the source, then 'godwit migrate "
			    "--resume-here' or '--give-up'",
			    handover_state_text(state));
		main_calls_post(&incoming->calls, tell_held, incoming);
	}
}

/* On the main loop: ends all threads. */
static void join(struct machine_incoming *incoming)
{
	main_calls_abandon(&incoming->calls);
	if (incoming->link)
		migration_link_cancel(incoming->link);
	stop_waiting(incoming);
	handover_queue_close(&incoming->events);
	if (incoming->thread_started)
		pthread_join(incoming->thread, NULL);
	if (incoming->reader_started)
		pthread_join(incoming->reader, NULL);
	incoming->thread_started = incoming->reader_started = false;
}

/* On the main loop: the guest runs here, and what brought it is not needed any more. */
static void retire(void *context)
{
	struct machine_incoming *incoming = context;

	join(incoming);
	migration_receiver_progress(incoming->receiver, &incoming->received);
	migration_receiver_destroy(TAKE_PTR(incoming->receiver));
	migration_link_close(TAKE_PTR(incoming->link));
	incoming_load_clear(incoming);
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
		else
			error_free(migration_link_send(incoming->link, &ping));
	}
	if (state_of(incoming) == HANDOVER_D_RUNNING) {
		hear_out(incoming, LINGER_MS);
		main_calls_post(&incoming->calls, retire, incoming);
	}
	migration_receiver_stop(incoming->receiver);
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *create_receiver(struct machine_incoming *incoming)
{
	const struct migration_receiver_options options = {.workers = WORKERS,
							   .devices = incoming->state_count};

	return migration_receiver_create(incoming->link, incoming->machine->map, &options,
					 &receiver_ops, incoming, &incoming->receiver);
}

static struct error *start_threads(struct machine_incoming *incoming)
{
	TRY(thread_start(&incoming->thread, "incoming", incoming_thread, incoming));
	incoming->thread_started = true;
	TRY(migration_link_send_type(incoming->link, MIGRATION_ACCEPT));
	TRY(thread_start(&incoming->reader, "incoming-read", reader_thread, incoming));
	incoming->reader_started = true;
	return migration_receiver_start(incoming->receiver);
}

struct error *machine_incoming_start(struct machine *machine, struct machine_incoming *incoming)
{
	struct error *error;

	TRY(machine_description_check(incoming->description, machine));
	incoming->machine = machine;
	TRY(main_calls_init(&incoming->calls, machine->loop));
	TRY(incoming_load_prepare(incoming));
	TRY(create_receiver(incoming));
	machine_freeze(machine);
	machine->thaw_runs = true; /* unless it is paused meanwhile */
	machine->incoming = incoming;
	error = start_threads(incoming);
	if (error) {
		join(incoming);
		machine->incoming = NULL;
	}
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
	report->received = incoming->received;
	if (incoming->receiver)
		migration_receiver_progress(incoming->receiver, &report->received);
	pthread_mutex_lock(&incoming->lock);
	report->state = incoming->handover.state;
	report->load_ns = incoming->load_ns;
	report->resume_ns = incoming->resume_ns;
	if (incoming->reason && !incoming->finished)
		snprintf(report->reason, sizeof(report->reason), "%s",
			 error_message(incoming->reason));
	pthread_mutex_unlock(&incoming->lock);
	return true;
}
