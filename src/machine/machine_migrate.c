/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a migration, machine_migrate.h: its beginning and end, what is asked of it meanwhile, and
 * what it tells of itself. What it does is done by threads of its own:
 *
 *   thread     connects, tells what the machine is, is accepted; sends memory; owns the handover, whose
 *              rules say what is done next, and does it
 *   reader     takes what the destination says: credits at once, the rest as events
 *   main loop  stops the guest and collects states; lets the guest go on; tells the owner
 *
 * The main loop's, but where it says so. Fails for lack of memory or of a thread, and when a rule of the
 * handover forbids what is asked for.
 */
#include "machine/machine_migrate.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/thread.h"
#include "machine/machine_migrate_private.h"
#include "memory/dirty_log.h"

void migrate_note(struct machine_migrate *migrate, struct error *error)
{
	pthread_mutex_lock(&migrate->lock);
	if (migrate->reason || !error)
		error_free(error);
	else
		migrate->reason = error;
	pthread_mutex_unlock(&migrate->lock);
}

struct error *migrate_cancelled(void)
{
	return error_new(ECANCELED, "the migration was cancelled");
}

enum handover_state migrate_state_of(struct machine_migrate *migrate)
{
	enum handover_state state;

	pthread_mutex_lock(&migrate->lock);
	state = migrate->handover.state;
	pthread_mutex_unlock(&migrate->lock);
	return state;
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
	TRY(refusal(migrate_state_of(migrate), HANDOVER_EVENT_CANCEL));
	migrate_note(migrate, migrate_cancelled());
	handover_queue_post(&migrate->events, HANDOVER_EVENT_CANCEL);
	interrupt(migrate);
	return NULL;
}

struct error *machine_migrate_settle(struct machine_migrate *migrate, bool resume_here)
{
	enum handover_event event =
	    resume_here ? HANDOVER_EVENT_RESUME_HERE : HANDOVER_EVENT_GIVE_UP;

	TRY(refusal(migrate_state_of(migrate), event));
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
