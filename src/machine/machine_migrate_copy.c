/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What of a machine is sent, and when, machine_migrate_private.h: rounds of memory by the log of
 * writes, then the rest of it and the states.
 *
 * Elastic memory. Before each round the destination is told what is plugged, and does the same, before it
 * takes anything of the round: PLUGGED, then the end of the round before. What is written down as
 * plugged is so after the collection, and pages that are not are not sent: their block may be plugged
 * again meanwhile, but all of it is dirty then, and comes in a later round. Blocks that the destination
 * has plugged just now hold zeros there, so pages of zeros need not be sent, nor touched.
 *
 * The migration's own thread, but where it says so. Fails when the connection does, or the log.
 */
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "machine/machine_migrate_private.h"
#include "machine/machine_state.h"
#include "memory/dirty_log.h"

/* --- Collecting -------------------------------------------------------------------------------- */

static size_t words_of(const struct migrate_block *block)
{
	return bitmap_words(block->pages);
}

/* Only what is plugged is sent; what was not before is zeros at the destination. */
static void look_at_plugged(struct machine_migrate *migrate, uint32_t index, bool *changed)
{
	struct migrate_block *block = &migrate->blocks[index];
	const struct memory_region *region = block->region;
	uint64_t *pending = migrate->pending[index], *fresh = migrate->fresh[index];
	uint64_t unit_pages = region->unit / DIRTY_PAGE_SIZE, units = region->size / region->unit;

	for (uint64_t unit = 0; unit < units; unit++) {
		uint64_t first = region->block_offset / DIRTY_PAGE_SIZE + unit * unit_pages;
		bool is = memory_region_all_plugged(region, unit * region->unit, region->unit);
		bool was = bitmap_test(block->plugged, unit);

		if (!is) {
			bitmap_clear_range(pending, first, unit_pages);
			bitmap_clear_range(block->plugged, unit, 1);
		} else if (!was) {
			for (uint64_t page = first; page < first + unit_pages; page++)
				if (bitmap_test(pending, page))
					bitmap_set_range(fresh, page, 1);
			bitmap_clear_range(pending, first, unit_pages);
			bitmap_set_range(block->plugged, unit, 1);
		}
		*changed |= is != was;
	}
}

static struct error *tell_plugged(struct machine_migrate *migrate, uint32_t index)
{
	const struct migrate_block *block = &migrate->blocks[index];

	return migration_link_send_bitmap(migrate->link, MIGRATION_PLUGGED, (uint16_t)index, 0,
					  block->plugged,
					  bitmap_words(block->region->size / block->region->unit));
}

static struct error *collect_block(struct machine_migrate *migrate, uint32_t index)
{
	struct dirty_log *log = memory_map_dirty_log(migrate->machine->map);
	const struct migrate_block *block = &migrate->blocks[index];
	bool changed = !migrate->collected;

	/* Of memory that the destination has already only what is plugged is to be told. */
	if (!migrate->options.share_memory)
		TRY(dirty_log_collect(log, block->block, migrate->pending[index]));
	if (block->region) {
		look_at_plugged(migrate, index, &changed);
		if (changed)
			TRY(tell_plugged(migrate, index));
	} else if (!migrate->collected) {
		memcpy(migrate->fresh[index], migrate->pending[index],
		       words_of(block) * sizeof(uint64_t));
		memset(migrate->pending[index], 0, words_of(block) * sizeof(uint64_t));
	}
	return NULL;
}

struct error *migrate_copy_collect(struct machine_migrate *migrate, uint64_t *pages)
{
	uint64_t fresh = 0, again = 0;

	for (uint32_t i = 0; i < migrate->block_count; i++) {
		TRY(collect_block(migrate, i));
		fresh += bitmap_count_range(migrate->fresh[i], 0, migrate->blocks[i].pages);
		again += bitmap_count_range(migrate->pending[i], 0, migrate->blocks[i].pages);
	}
	migrate->collected = true;
	migrate->any_fresh = fresh;
	*pages = fresh + again;
	return NULL;
}

/* Collects, and begins a round. */
static struct error *collect(void *context, uint64_t *pages, uint64_t *written)
{
	struct machine_migrate *migrate = context;
	uint64_t round;

	TRY(migrate_copy_collect(migrate, pages));
	*written = *pages;
	if (migrate->throttle)
		vcpu_throttle_note(migrate->throttle, *written);
	return migration_sender_end_round(migrate->sender, &round);
}

static struct error *send_collected(void *context)
{
	struct machine_migrate *migrate = context;

	if (migrate->any_fresh)
		TRY(migration_sender_round(migrate->sender, migrate->fresh, true));
	return migration_sender_round(migrate->sender, migrate->pending, false);
}

/* How long a round takes tells how fast pages are sent. The last one, behind which nothing comes, waits for nothing. */
static struct error *send_round(void *context)
{
	struct machine_migrate *migrate = context;

	migrate_streams_begin(migrate, false);
	TRY(migrate_streams_end(migrate, send_collected(context)));
	return migration_sender_settle(migrate->sender);
}

static uint64_t sent_pages(void *context)
{
	const struct machine_migrate *migrate = context;
	struct migration_sent sent;

	migration_sender_progress(migrate->sender, &sent);
	return sent.pages;
}

static int64_t now(void *context)
{
	return clock_monotonic_ns();
}

static bool stopping(void *context)
{
	struct machine_migrate *migrate = context;
	bool cancelled;

	pthread_mutex_lock(&migrate->lock);
	cancelled = migrate->cancelled;
	pthread_mutex_unlock(&migrate->lock);
	return cancelled;
}

static double slow(void *context, double factor)
{
	struct machine_migrate *migrate = context;
	bool known = vcpu_throttle_slow(migrate->throttle, factor);
	double least = vcpu_throttle_least(migrate->throttle);

	pthread_mutex_lock(&migrate->lock);
	migrate->slowed_alike = !known;
	pthread_mutex_unlock(&migrate->lock);
	log_info("migration: the guest is slowed to %.0f %% of its time, %s", least * 100,
		 migrate_copy_slowed(!known));
	return least;
}

const struct precopy_ops migrate_precopy_ops = {
    .collect = collect,
    .send = send_round,
    .sent = sent_pages,
    .now = now,
    .slow = slow,
    .stopping = stopping,
    .suffices = migrate_postcopy_suffices,
};

/* --- States ------------------------------------------------------------------------------------ */

static struct error *keep(struct machine_migrate *migrate, uint32_t index,
			  const struct state *state)
{
	struct migrate_state *kept = &migrate->states[index];
	const void *bytes = state_bytes(state, &kept->size);

	free(kept->bytes);
	kept->bytes = malloc(MAX(kept->size, (size_t)1));
	if (!kept->bytes)
		return error_system(ENOMEM, "states of devices");
	memcpy(kept->bytes, bytes, kept->size);
	return NULL;
}

struct keeping {
	struct machine_migrate *migrate;
	uint32_t next;
};

static struct error *keep_part(void *context, const struct state_part *part,
			       const struct state *state)
{
	struct keeping *keeping = context;

	if (keeping->next + 1 >= keeping->migrate->state_count)
		return error_new(EBUSY, "the machine has got another device since the destination "
					"was told which there are");
	if (!state) { /* a stream */
		keeping->next++;
		return NULL;
	}
	return keep(keeping->migrate, keeping->next++, state);
}

/* Behind the states of the machine: what becomes of it at the destination. */
static struct error *keep_end(struct machine_migrate *migrate)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	bool runs = migrate->machine->thaw_runs;

	state_bool(state, "runs", &runs);
	TRY(state_finish(state));
	return keep(migrate, migrate->state_count - 1, state);
}

struct error *migrate_copy_states(struct machine_migrate *migrate)
{
	struct keeping keeping = {.migrate = migrate};

	TRY(machine_state_save(migrate->machine, false, keep_part, &keeping));
	if (keeping.next + 1 != migrate->state_count)
		return error_new(EBUSY, "the machine has lost a device since the destination was "
					"told which there are");
	return keep_end(migrate);
}

static void emit_states(void *context)
{
	struct migrate_state_job *job = context;
	struct machine_migrate *migrate = job->migrate;

	for (uint32_t i = job->first; i < migrate->state_count && !job->error;
	     i += MIGRATE_STATE_JOBS)
		if (migrate->states[i].bytes) /* else a stream */
			job->error =
			    migration_sender_emit(migrate->sender, i, migrate->states[i].bytes,
						  migrate->states[i].size, true);
}

void migrate_copy_begin_states(struct machine_migrate *migrate)
{
	struct worker_pool *workers = migration_sender_workers(migrate->sender);

	for (uint32_t i = 0; i < MIGRATE_STATE_JOBS; i++) {
		struct migrate_state_job *job = &migrate->jobs[i];

		*job = (struct migrate_state_job){.migrate = migrate, .first = i};
		job->job = (struct worker_job){.run = emit_states, .context = job};
		worker_pool_submit(workers, &job->job);
	}
	migrate_streams_begin(migrate, true);
}

struct error *migrate_copy_end_states(struct machine_migrate *migrate, struct error *error)
{
	struct worker_pool *workers = migration_sender_workers(migrate->sender);

	if (error) /* or they might wait for credit for ever */
		migration_sender_cancel(migrate->sender);
	for (uint32_t i = 0; i < MIGRATE_STATE_JOBS; i++) {
		worker_pool_wait(workers, &migrate->jobs[i].job);
		if (!error)
			error = TAKE_PTR(migrate->jobs[i].error);
		error_free(migrate->jobs[i].error);
	}
	return migrate_streams_end(migrate, error);
}

static struct error *send_rest(struct machine_migrate *migrate)
{
	uint64_t pages, written;

	TRY(collect(migrate, &pages, &written));
	dirty_log_stop(memory_map_dirty_log(migrate->machine->map));
	return send_collected(migrate);
}

struct error *migrate_copy_rest(struct machine_migrate *migrate)
{
	migrate_copy_begin_states(migrate);
	TRY(migrate_copy_end_states(migrate, send_rest(migrate)));
	return migration_sender_finish(migrate->sender);
}

/* --- Life -------------------------------------------------------------------------------------- */

const char *migrate_copy_slowed(bool alike)
{
	return alike ? "all processors alike, for KVM does not tell which of them write"
		     : "those processors most that write most";
}

struct error *migrate_copy_slow(struct machine_migrate *migrate)
{
	if (!migrate->options.auto_converge)
		return NULL;
	precopy_slow_guests(&migrate->precopy);
	return vcpu_throttle_start(migrate->machine->vcpus, &migrate->throttle);
}

void migrate_copy_slow_no_more(struct machine_migrate *migrate)
{
	vcpu_throttle_stop(TAKE_PTR(migrate->throttle));
}

struct error *migrate_copy_run(struct machine_migrate *migrate)
{
	if (migrate->options.share_memory)
		return NULL;
	TRY(dirty_log_start(memory_map_dirty_log(migrate->machine->map)));
	return precopy_run(&migrate->precopy);
}

static struct error *prepare_block(struct machine_migrate *migrate, uint32_t index)
{
	struct migrate_block *block = &migrate->blocks[index];
	const struct memory_region *region;

	block->block = migration_sender_block(migrate->sender, index, &block->pages);
	migrate->pending[index] = bitmap_create(dirty_log_words(block->block) * 64);
	migrate->fresh[index] = bitmap_create(dirty_log_words(block->block) * 64);
	if (!migrate->pending[index] || !migrate->fresh[index])
		return error_system(ENOMEM, "a migration");
	for (region = memory_map_first(migrate->machine->map); region; region = region->next)
		if (region->block == block->block && region->unit)
			block->region = region;
	if (!block->region)
		return NULL;
	block->plugged = bitmap_create(block->region->size / block->region->unit);
	return block->plugged ? NULL : error_system(ENOMEM, "a migration");
}

struct error *migrate_copy_prepare(struct machine_migrate *migrate)
{
	uint32_t count = migration_sender_blocks(migrate->sender);

	migrate->blocks = calloc(count + 1, sizeof(*migrate->blocks));
	migrate->pending = calloc(count + 1, sizeof(*migrate->pending));
	migrate->fresh = calloc(count + 1, sizeof(*migrate->fresh));
	migrate->states = calloc(migrate->state_count + 1, sizeof(*migrate->states));
	if (!migrate->blocks || !migrate->pending || !migrate->fresh || !migrate->states)
		return error_system(ENOMEM, "a migration");
	migrate->block_count = count;
	for (uint32_t i = 0; i < count; i++)
		TRY(prepare_block(migrate, i));
	return NULL;
}

void migrate_copy_clear(struct machine_migrate *migrate)
{
	for (uint32_t i = 0; i < migrate->block_count; i++) {
		free(migrate->pending[i]);
		free(migrate->fresh[i]);
		free(migrate->blocks[i].plugged);
	}
	for (uint32_t i = 0; migrate->states && i < migrate->state_count; i++)
		free(migrate->states[i].bytes);
	free(TAKE_PTR(migrate->states));
	free(TAKE_PTR(migrate->pending));
	free(TAKE_PTR(migrate->fresh));
	free(TAKE_PTR(migrate->blocks));
	migrate->block_count = 0;
}
