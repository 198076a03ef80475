/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a migration says and hears over its main connection, machine_migrate_private.h: it is made, tells
 * what the machine is, is accepted; and from then on a thread takes what the destination says.
 *
 *   thread     connects, and waits for the answer
 *   reader     takes credits and what post-copy asks for at once, the rest as events
 *   main loop  describes the machine
 *
 * The destination controls what it says and when. A message that has no place closes the connection. Fails
 * as connections do, and when the destination refuses the machine.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/thread.h"
#include "machine/machine_description.h"
#include "machine/machine_incoming.h"
#include "machine/machine_migrate_private.h"

#define LINK_TIMEOUT_MS 30000 /* for a sign of life; the destination gives one every few seconds */
#define LINGER_MS	5000  /* for the destination to take the last word */
#define LAZY_POLL_NS	(5 * NS_PER_MS)

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

void migrate_linger(struct machine_migrate *migrate)
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

static struct error *send_description(struct machine_migrate *migrate)
{
	struct describing describing = {.migrate = migrate};
	struct migration_message message = {.type = MIGRATION_CONFIG};
	struct error *error = NULL;

	if (!main_call(&migrate->calls, describe, &describing))
		return migrate_cancelled();
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
			return migrate_cancelled();
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

struct error *migrate_begin(struct machine_migrate *migrate)
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
