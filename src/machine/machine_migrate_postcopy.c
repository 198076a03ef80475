/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A migration by post-copy, or by pre-copy and then post-copy, as far as the source's machine is
 * concerned; migration/postcopy_source.h has the pages.
 *
 * What the destination lacks when the guest has stopped is all that was collected and not sent, but
 * for pages that are zeros there because nobody has ever sent them and that the host has not made
 * here. Most of these are found while the guest still runs; what it writes to meanwhile is in the log.
 *
 * The migration's own thread, but where it says so. The destination controls what it asks for, which
 * postcopy_source checks. Fails when the connection does.
 */
#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/log.h"
#include "machine/machine_migrate_private.h"
#include "memory/dirty_log.h"

/* The reader hears of what breaks, too. */
static void streamed(void *context, const struct error *error)
{
	if (!error)
		log_info("migration: all pages are sent");
}

static const struct postcopy_source_ops postcopy_ops = {.streamed = streamed};

struct error *migrate_postcopy_create(struct machine_migrate *migrate)
{
	struct postcopy_source *postcopy;

	if (migrate->options.mode == MACHINE_MIGRATE_PRECOPY)
		return NULL;
	TRY(postcopy_source_create(migrate->machine->map, &postcopy_ops, migrate, &postcopy));
	pthread_mutex_lock(&migrate->lock);
	migrate->postcopy = postcopy;
	migrate->postcopy_wanted |= migrate->options.mode == MACHINE_MIGRATE_POSTCOPY;
	pthread_mutex_unlock(&migrate->lock);
	return NULL;
}

static bool is_wanted(struct machine_migrate *migrate)
{
	bool wanted;

	pthread_mutex_lock(&migrate->lock);
	wanted = migrate->postcopy_wanted;
	pthread_mutex_unlock(&migrate->lock);
	return wanted;
}

bool migrate_postcopy_begun(struct machine_migrate *migrate)
{
	bool begun;

	pthread_mutex_lock(&migrate->lock);
	begun = migrate->postcopy_begun;
	pthread_mutex_unlock(&migrate->lock);
	return begun;
}

static void begin(struct machine_migrate *migrate)
{
	pthread_mutex_lock(&migrate->lock);
	migrate->postcopy_begun = true;
	pthread_mutex_unlock(&migrate->lock);
}

bool migrate_postcopy_suffices(void *context, const struct precopy_progress *progress)
{
	struct machine_migrate *migrate = context;
	uint32_t rounds = migrate->options.stalled_rounds;

	if (migrate->options.mode == MACHINE_MIGRATE_PRECOPY || progress->phase == PRECOPY_READY)
		return false;
	if (!is_wanted(migrate)) {
		if (progress->stalled < rounds)
			return false;
		log_info(
		    "migration: the rest has not become smaller in %u rounds: the guest moves, "
		    "and it follows",
		    rounds);
	}
	begin(migrate);
	return true;
}

/* All that was collected, in `pending`. */
static struct error *merge(struct machine_migrate *migrate)
{
	for (uint32_t i = 0; i < migrate->block_count; i++)
		for (uint64_t word = 0; word < bitmap_words(migrate->blocks[i].pages); word++)
			migrate->pending[i][word] |= migrate->fresh[i][word];
	TRY(postcopy_source_drop_absent(migrate->postcopy, migrate->pending, migrate->fresh));
	for (uint32_t i = 0; i < migrate->block_count; i++)
		memset(migrate->fresh[i], 0, bitmap_words(migrate->blocks[i].pages) * 8);
	return NULL;
}

struct error *migrate_postcopy_prepare(struct machine_migrate *migrate)
{
	struct dirty_log *log = memory_map_dirty_log(migrate->machine->map);

	if (!migrate_postcopy_begun(migrate))
		return NULL;
	/* What is not there now and appears from here on is in the log. */
	for (uint32_t i = 0; i < migrate->block_count; i++) {
		const struct migrate_block *block = &migrate->blocks[i];

		if (!bitmap_all_clear(migrate->fresh[i], 0, block->pages))
			TRY(dirty_log_before_copy(log, block->block, 0, block->pages));
	}
	return merge(migrate);
}

struct error *migrate_postcopy_rest(struct machine_migrate *migrate)
{
	uint64_t pages, round;

	TRY(migrate_copy_collect(migrate, &pages));
	dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	TRY(merge(migrate));
	TRY(postcopy_source_begin(migrate->postcopy, migrate->link, migrate->sender,
				  migrate->pending));
	TRY(migration_sender_end_round(migrate->sender, &round));
	migrate_copy_begin_states(migrate);
	TRY(migrate_copy_end_states(migrate, NULL));
	postcopy_source_stream(migrate->postcopy);
	return NULL;
}

struct error *migrate_postcopy_message(struct machine_migrate *migrate,
				       const struct migration_message *message)
{
	if (!migrate->postcopy || !migrate_postcopy_begun(migrate))
		return error_new(EBADMSG, "the destination sent %s, which has no place here",
				 migration_message_name(message->type));
	return message->type == MIGRATION_PAGE_REQUEST
		   ? postcopy_source_request(migrate->postcopy, message)
		   : postcopy_source_received(migrate->postcopy, message);
}

/* Main loop. */
struct error *machine_migrate_start_postcopy(struct machine_migrate *migrate)
{
	struct error *error = NULL;

	pthread_mutex_lock(&migrate->lock);
	if (migrate->options.mode == MACHINE_MIGRATE_PRECOPY)
		error =
		    error_new(EPERM, "the migration was begun by pre-copy alone: cancel it, and "
				     "begin a hybrid one");
	else if (migrate->postcopy_begun || migrate->postcopy_wanted)
		error = error_new(EPERM, "post-copy has begun already");
	else if (migrate->handover.state != HANDOVER_S_COPYING)
		error = error_new(EPERM, "the guest is moving already: %s",
				  handover_state_text(migrate->handover.state));
	migrate->postcopy_wanted |= !error;
	/* The round that runs ends, and what of it was not sent is sent later. */
	if (!error && migrate->sender) {
		migration_sender_interrupt(migrate->sender);
		/* Who waits for its share goes on. */
		migration_sender_set_bandwidth(migrate->sender, migrate->options.bandwidth);
	}
	pthread_mutex_unlock(&migrate->lock);
	return error;
}

struct error *machine_migrate_check_end(const struct machine *machine)
{
	struct machine_migrate *migrate = machine->migrate;
	enum handover_state state;

	if (!migrate)
		return NULL;
	pthread_mutex_lock(&migrate->lock);
	state = migrate->handover.state;
	pthread_mutex_unlock(&migrate->lock);
	if (handover_guest(state) != HANDOVER_GUEST_NEVER || !handover_keeps_memory(state))
		return NULL;
	return error_new(EPERM,
			 "%s: it would be lost; wait, or 'godwit migrate --recover' or, if it is "
			 "lost anyway, '--give-up'",
			 handover_state_text(state));
}

void migrate_postcopy_progress(struct machine_migrate *migrate, const struct migration_sent *sent,
			       struct machine_migrate_progress *progress)
{
	struct postcopy_source_progress postcopy;

	progress->mode = migrate->options.mode;
	pthread_mutex_lock(&migrate->lock);
	progress->postcopy = migrate->postcopy_begun;
	progress->connecting = migrate->connecting;
	if (migrate->recover_error)
		snprintf(progress->recover_error, sizeof(progress->recover_error), "%s",
			 error_message(migrate->recover_error));
	pthread_mutex_unlock(&migrate->lock);
	if (!progress->postcopy)
		return;
	postcopy_source_progress(migrate->postcopy, &postcopy);
	progress->postcopy_pages = postcopy.total;
	progress->postcopy_left = postcopy.left;
	progress->requests = postcopy.requests;
	progress->requested_pages = sent->requested_pages;
	progress->total = progress->done + postcopy.left * DIRTY_PAGE_SIZE;
}
