/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections of a migration that broke and are made anew, at the source: while the destination lacks
 * pages, or while nobody can tell who has the guest (docs/migration-handover.md).
 *
 *   connector  connects, and hands the link over to the migration's thread with the event LINK_UP
 *
 * The destination speaks first and says what it is; what it has of memory it says itself. Fails as any
 * connection does, and then everything is as before.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine_migrate_private.h"

/* --- Connections that are gone ----------------------------------------------------------------- */

void migrate_recover_add(struct migration_sent *sum, const struct migration_sent *sent)
{
	sum->pages += sent->pages;
	sum->zero_pages += sent->zero_pages;
	sum->compressed_pages += sent->compressed_pages;
	sum->bytes += sent->bytes;
	sum->state_bytes += sent->state_bytes;
	sum->requested_pages += sent->requested_pages;
	sum->credit_waits += sent->credit_waits;
}

void migrate_recover_detach(struct machine_migrate *migrate)
{
	struct migration_sender *sender;
	struct migration_link *link;

	if (migrate->reader_started)
		pthread_join(migrate->reader, NULL);
	migrate->reader_started = false;
	if (migrate->postcopy)
		postcopy_source_detach(migrate->postcopy);
	pthread_mutex_lock(&migrate->lock);
	if (migrate->sender) {
		struct migration_sent sent;

		migration_sender_progress(migrate->sender, &sent);
		migrate_recover_add(&migrate->before, &sent);
	}
	sender = TAKE_PTR(migrate->sender);
	link = TAKE_PTR(migrate->link);
	migrate->heard_all = false;
	pthread_mutex_unlock(&migrate->lock);
	migration_sender_destroy(sender);
	migration_link_close(link);
}

/* --- New ones ---------------------------------------------------------------------------------- */

/* What was being connected does not come. */
static void forget(struct machine_migrate *migrate, struct error *error)
{
	struct migration_link *link;

	log_warning("migration: cannot connect anew: %s", error_message(error));
	pthread_mutex_lock(&migrate->lock);
	link = TAKE_PTR(migrate->next);
	migrate->connecting = false;
	error_free(migrate->recover_error);
	migrate->recover_error = error;
	pthread_mutex_unlock(&migrate->lock);
	migration_link_close(link);
	migrate_tell_changed(migrate);
}

static void *connect_thread(void *context)
{
	struct machine_migrate *migrate = context;
	struct error *error = migration_link_connect(migrate->next);

	if (error)
		forget(migrate, error);
	else
		handover_queue_post(&migrate->events, HANDOVER_EVENT_LINK_UP);
	return NULL;
}

struct error *migrate_recover_adopt(struct machine_migrate *migrate)
{
	pthread_mutex_lock(&migrate->lock);
	migrate->link = TAKE_PTR(migrate->next);
	migrate->connecting = false;
	pthread_mutex_unlock(&migrate->lock);
	TRY(migrate_create_sender(migrate, 0));
	if (migrate->postcopy && migrate_postcopy_begun(migrate))
		postcopy_source_resume(migrate->postcopy, migrate->sender);
	return migrate_start_reader(migrate);
}

static struct error *check_recover(struct machine_migrate *migrate, enum handover_state state)
{
	if (state == HANDOVER_S_SERVING_CUT || state == HANDOVER_S_UNDECIDED)
		return NULL;
	return error_new(EPERM, "the connection is not broken: %s", handover_state_text(state));
}

static struct error *open_next(struct machine_migrate *migrate, const char *address)
{
	const struct migration_link_options options = {
	    .address = address,
	    .channels = migrate->options.channels,
	    .postcopy = migrate->options.mode != MACHINE_MIGRATE_PRECOPY,
	    .tls = migrate->options.tls,
	    .tls_name = migrate->options.tls_name,
	    .resume = migrate->session,
	};
	struct migration_link *link;

	TRY(migration_link_open(MIGRATION_SOURCE, &options, &link));
	pthread_mutex_lock(&migrate->lock);
	migrate->next = link;
	migrate->connecting = true;
	error_free(TAKE_PTR(migrate->recover_error));
	pthread_mutex_unlock(&migrate->lock);
	return NULL;
}

struct error *machine_migrate_recover(struct machine_migrate *migrate, const char *address)
{
	enum handover_state state;
	struct error *error;
	bool connecting;

	pthread_mutex_lock(&migrate->lock);
	state = migrate->handover.state;
	connecting = migrate->connecting;
	pthread_mutex_unlock(&migrate->lock);
	TRY(check_recover(migrate, state));
	if (connecting)
		return error_new(EBUSY, "the connection is being made anew already: wait");
	migrate_recover_end(migrate);
	TRY(open_next(migrate, address));
	error = thread_start(&migrate->connector, "migrate-connect", connect_thread, migrate);
	if (error) {
		pthread_mutex_lock(&migrate->lock);
		migration_link_close(TAKE_PTR(migrate->next));
		migrate->connecting = false;
		pthread_mutex_unlock(&migrate->lock);
		return error;
	}
	migrate->connector_started = true;
	return NULL;
}

void migrate_recover_end(struct machine_migrate *migrate)
{
	if (!migrate->connector_started)
		return;
	pthread_mutex_lock(&migrate->lock);
	if (migrate->next)
		migration_link_cancel(migrate->next);
	pthread_mutex_unlock(&migrate->lock);
	pthread_join(migrate->connector, NULL);
	migrate->connector_started = false;
}
