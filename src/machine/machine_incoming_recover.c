/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections that broke after all but pages had come, at the destination: it listens again where it
 * did, or where an operator says, for the same session.
 *
 *   listener  waits for the source, and hands the link over to the owner with the event LINK_UP
 *
 * Whoever connects controls what he says; another session is refused by the link.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine_incoming_private.h"

#define LINK_TIMEOUT_MS 30000

/* --- Connections that are gone ----------------------------------------------------------------- */

static void add_received(struct migration_received *sum, const struct migration_received *received)
{
	sum->pages += received->pages;
	sum->zero_pages += received->zero_pages;
	sum->bytes += received->bytes;
	sum->state_bytes += received->state_bytes;
	sum->round = MAX(sum->round, received->round);
	sum->pool_peak = MAX(sum->pool_peak, received->pool_peak);
}

void incoming_recover_received(const struct machine_incoming *incoming,
			       struct migration_received *received)
{
	*received = incoming->received;
	if (incoming->receiver) {
		struct migration_received now;

		migration_receiver_progress(incoming->receiver, &now);
		add_received(received, &now);
	}
}

void incoming_recover_detach(struct machine_incoming *incoming)
{
	struct migration_receiver *receiver;
	struct migration_link *link;

	if (incoming->link)
		migration_link_cancel(incoming->link);
	if (incoming->reader_started)
		pthread_join(incoming->reader, NULL);
	incoming->reader_started = false;
	pthread_mutex_lock(&incoming->lock);
	if (incoming->link)
		memcpy(incoming->session, migration_link_session(incoming->link),
		       WIRE_SESSION_SIZE);
	incoming_recover_received(incoming, &incoming->received);
	receiver = TAKE_PTR(incoming->receiver);
	link = TAKE_PTR(incoming->link);
	pthread_mutex_unlock(&incoming->lock);
	migration_receiver_destroy(receiver);
	if (incoming->postcopy)
		postcopy_destination_detach(incoming->postcopy);
	migration_link_close(link);
}

/* --- New ones ---------------------------------------------------------------------------------- */

struct error *incoming_recover_adopt(struct machine_incoming *incoming)
{
	bool ending;

	pthread_mutex_lock(&incoming->lock);
	migration_link_close(incoming->link); /* of an attempt that came to nothing */
	incoming->link = TAKE_PTR(incoming->next);
	incoming->heard_all = false;
	ending = incoming->ending;
	pthread_mutex_unlock(&incoming->lock);
	if (ending)
		return error_new(ECANCELED, "the machine ends");
	migration_link_set_timeout(incoming->link, LINK_TIMEOUT_MS);
	if (incoming_postcopy_lacking(incoming)) {
		TRY(incoming_create_receiver(incoming, 0));
		migration_receiver_set_placing(incoming->receiver, true);
	}
	TRY(incoming_start_reader(incoming));
	return incoming->receiver ? migration_receiver_start(incoming->receiver) : NULL;
}

void incoming_recover_resume(struct machine_incoming *incoming)
{
	AUTO_ERROR struct error *error = NULL;

	if (!incoming->receiver)
		return;
	error = postcopy_destination_resume(incoming->postcopy, incoming->link);
	if (error) /* the reader notices */
		migration_link_cancel(incoming->link);
}

/* More than once; descriptors and commands are used up. */
static bool can_listen(const char *address)
{
	return strncmp(address, "fd:", 3) != 0 && strncmp(address, "exec:", 5) != 0;
}

static struct error *listen_once(struct machine_incoming *incoming, const char *address)
{
	const struct migration_link_options options = {
	    .address = address, .tls = incoming->tls, .resume = incoming->session};
	struct migration_link *link;
	bool wanted;

	TRY(migration_link_open(MIGRATION_DESTINATION, &options, &link));
	pthread_mutex_lock(&incoming->lock);
	incoming->next = link;
	wanted = !incoming->ending && incoming->listen;
	pthread_mutex_unlock(&incoming->lock);
	if (!wanted)
		return error_new(ECANCELED, "nobody waits for it");
	log_info("migration: waiting for the source at %s", migration_link_address(link));
	TRY(migration_link_accept(link));
	if (migration_link_channels(link) == incoming->channels &&
	    migration_link_has_postcopy(link) == incoming->has_postcopy)
		return NULL;
	return error_new(EBADMSG, "the source has made other connections than before");
}

/* With the lock, which is let go meanwhile. */
static void listen_anew(struct machine_incoming *incoming)
{
	AUTO_FREE char *address = strdup(incoming->address);
	uint32_t number = incoming->address_number;
	struct migration_link *link = NULL;
	struct error *error;

	pthread_mutex_unlock(&incoming->lock);
	error = address ? listen_once(incoming, address) : error_system(ENOMEM, "a migration");
	pthread_mutex_lock(&incoming->lock);
	if (!error) {
		incoming->listen = false;
		if (!can_listen(incoming->address))
			free(TAKE_PTR(incoming->address));
		pthread_mutex_unlock(&incoming->lock);
		handover_queue_post(&incoming->events, HANDOVER_EVENT_LINK_UP);
		pthread_mutex_lock(&incoming->lock);
		return;
	}
	link = TAKE_PTR(incoming->next);
	if (number == incoming->address_number && !incoming->ending &&
	    error_code(error) != EBADMSG) {
		log_warning("migration: cannot wait for the source: %s: say where, with 'godwit "
			    "migrate VM --recover URI'",
			    error_message(error));
		free(TAKE_PTR(incoming->address));
	}
	error_free(error);
	pthread_mutex_unlock(&incoming->lock);
	migration_link_close(link);
	pthread_mutex_lock(&incoming->lock);
}

static void *listen_thread(void *context)
{
	struct machine_incoming *incoming = context;

	pthread_mutex_lock(&incoming->lock);
	while (!incoming->ending) {
		if (incoming->listen && incoming->address)
			listen_anew(incoming);
		else
			pthread_cond_wait(&incoming->changed, &incoming->lock);
	}
	pthread_mutex_unlock(&incoming->lock);
	return NULL;
}

void incoming_recover_listen(struct machine_incoming *incoming)
{
	struct error *error;

	pthread_mutex_lock(&incoming->lock);
	incoming->listen = true;
	pthread_cond_broadcast(&incoming->changed);
	pthread_mutex_unlock(&incoming->lock);
	if (incoming->listener_started)
		return;
	error = thread_start(&incoming->listener, "incoming-wait", listen_thread, incoming);
	if (error)
		log_error("migration: cannot wait for the source: %s", error_message(error));
	else
		incoming->listener_started = true;
	error_free(error);
}

void incoming_recover_end(struct machine_incoming *incoming)
{
	if (incoming->listener_started)
		pthread_join(incoming->listener, NULL);
	incoming->listener_started = false;
	migration_link_close(TAKE_PTR(incoming->next));
}

/* Main loop. */
struct error *machine_incoming_recover(struct machine *machine, const char *address)
{
	struct machine_incoming *incoming = machine->incoming;
	struct transport_address *parsed;
	struct error *error = NULL;
	enum handover_state state;
	char *copy;

	if (!incoming)
		return error_new(ENOENT, "the machine has not come from another host");
	TRY(transport_address_parse(address, true, &parsed));
	transport_address_free(parsed);
	copy = strdup(address);
	if (!copy)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_lock(&incoming->lock);
	state = incoming->handover.state;
	if (state != HANDOVER_D_HELD && state != HANDOVER_D_HELD_LACKING &&
	    state != HANDOVER_D_RUNNING_LACKING_CUT)
		error = error_new(EPERM, "the connection is not broken: %s",
				  handover_state_text(state));
	if (error) {
		pthread_mutex_unlock(&incoming->lock);
		free(copy);
		return error;
	}
	free(incoming->address);
	incoming->address = copy;
	incoming->address_number++;
	if (incoming->next && incoming->listen)
		migration_link_cancel(incoming->next);
	pthread_cond_broadcast(&incoming->changed);
	pthread_mutex_unlock(&incoming->lock);
	return NULL;
}
