/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a receiver, its barriers and its end, receiver.h. Each connection has a job on the
 * workers that reads until the connection is closed; the other workers load devices.
 */
#include "migration/receiver.h"

#include <stdlib.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/ram_place.h"
#include "migration/receiver_private.h"

/* --- The end ----------------------------------------------------------------------------------- */

/* With the lock: whether it is to be told now that everything is done. */
static bool is_complete(struct migration_receiver *receiver)
{
	if (receiver->over || receiver->stopping || !receiver->loaded ||
	    receiver->ended < receiver->channel_count)
		return false;
	receiver->over = true;
	return true;
}

static void tell_end(struct migration_receiver *receiver, const struct error *error)
{
	receiver->ops->ended(receiver->context, error);
	pthread_mutex_lock(&receiver->lock);
	receiver->told = true;
	pthread_cond_broadcast(&receiver->changed);
	pthread_mutex_unlock(&receiver->lock);
}

void receiver_fail(struct migration_receiver *receiver, struct error *error)
{
	bool first;

	pthread_mutex_lock(&receiver->lock);
	first = !receiver->over;
	if (first) {
		receiver->over = true;
		receiver->error = error;
	} else {
		error_free(error);
	}
	__atomic_store_n(&receiver->stopping, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&receiver->changed);
	pthread_mutex_unlock(&receiver->lock);
	for (uint32_t i = 0; i < receiver->channel_count; i++)
		transport_cancel(migration_link_data(receiver->link, i));
	if (first)
		tell_end(receiver, receiver->error);
}

void receiver_all_loaded(struct migration_receiver *receiver)
{
	bool complete;

	if (receiver->ops->all_loaded)
		receiver->ops->all_loaded(receiver->context);
	pthread_mutex_lock(&receiver->lock);
	receiver->loaded = true;
	complete = is_complete(receiver);
	pthread_mutex_unlock(&receiver->lock);
	if (complete)
		tell_end(receiver, NULL);
}

struct error *receiver_end_channel(struct migration_receiver *receiver, bool requested)
{
	struct error *error = NULL;
	bool complete = false;

	pthread_mutex_lock(&receiver->lock);
	if (!requested && receiver->arrived)
		error = error_new(EBADMSG, "ends while others have ended round %llu",
				  (unsigned long long)receiver->round + 1);
	else if (++receiver->ended == receiver->channel_count)
		error = receive_devices_check(receiver);
	receiver->data_ended |= !requested;
	complete = !error && is_complete(receiver);
	pthread_mutex_unlock(&receiver->lock);
	if (complete)
		tell_end(receiver, NULL);
	return error;
}

/* --- Barriers ---------------------------------------------------------------------------------- */

/* With the lock, all connections are here. */
static struct error *end_round(struct migration_receiver *receiver)
{
	struct error *error = NULL;

	if (receiver->ops->round_ended) {
		pthread_mutex_unlock(&receiver->lock);
		error = receiver->ops->round_ended(receiver->context, receiver->round + 1);
		pthread_mutex_lock(&receiver->lock);
	}
	if (!error) {
		receiver->arrived = 0;
		receiver->round++;
		pthread_cond_broadcast(&receiver->changed);
	}
	return error;
}

struct error *receiver_pass_barrier(struct migration_receiver *receiver, uint64_t round)
{
	struct error *error = NULL;

	pthread_mutex_lock(&receiver->lock);
	if (round != receiver->round + 1)
		error =
		    error_new(EBADMSG, "the end of round %llu, in round %llu",
			      (unsigned long long)round, (unsigned long long)receiver->round + 1);
	else if (receiver->data_ended)
		error = error_new(EBADMSG, "the end of round %llu, after others have ended",
				  (unsigned long long)round);
	else if (++receiver->arrived == receiver->barrier_count)
		error = end_round(receiver);
	while (!error && receiver->round < round && !receiver->stopping)
		pthread_cond_wait(&receiver->changed, &receiver->lock);
	if (!error && receiver->stopping)
		error = error_new(ECANCELED, "stopped");
	pthread_mutex_unlock(&receiver->lock);
	return error;
}

/* --- Life -------------------------------------------------------------------------------------- */

static void run_channel(void *context)
{
	struct receive_channel *channel = context;
	struct error *error = receive_channel_run(channel);

	if (error)
		receiver_fail(channel->receiver, error);
}

static struct error *create_bitmaps(struct migration_receiver *receiver)
{
	receiver->filled = calloc(receiver->table.count + 1, sizeof(*receiver->filled));
	receiver->written = calloc(receiver->table.count + 1, sizeof(*receiver->written));
	receiver->huge = calloc(receiver->table.count + 1, sizeof(*receiver->huge));
	receiver->writing = calloc(receiver->table.count + 1, sizeof(*receiver->writing));
	if (!receiver->filled || !receiver->written || !receiver->huge || !receiver->writing)
		return error_system(ENOMEM, "a migration");
	for (uint32_t i = 0; i < receiver->table.count; i++) {
		pthread_mutex_init(&receiver->writing[i], NULL);
		receiver->filled[i] = bitmap_create(
		    (receiver->table.blocks[i].pages / WIRE_WINDOW_PAGES + 1) * WIRE_WINDOW_PAGES);
		if (!receiver->filled[i])
			return error_system(ENOMEM, "a migration");
		receiver->written[i] = ram_place_is_written(receiver->table.blocks[i].block);
		/* A huge page of which post-copy gives some back may stay, and nobody would miss it. */
		receiver->huge[i] = receiver->written[i] &&
				    !migration_link_has_postcopy(receiver->link) &&
				    ram_place_may_be_huge(receiver->table.blocks[i].block);
	}
	return NULL;
}

static struct error *create_channels(struct migration_receiver *receiver)
{
	receiver->channels = calloc(receiver->channel_count, sizeof(*receiver->channels));
	if (!receiver->channels)
		return error_system(ENOMEM, "a migration");
	for (uint32_t i = 0; i < receiver->channel_count; i++) {
		struct receive_channel *channel = &receiver->channels[i];

		TRY(receive_channel_init(channel, receiver, i));
		channel->job = (struct worker_job){.run = run_channel, .context = channel};
	}
	return NULL;
}

struct error *migration_receiver_create(struct migration_link *link, struct memory_map *map,
					const struct migration_receiver_options *options,
					const struct migration_receiver_ops *ops, void *context,
					struct migration_receiver **result)
{
	AUTO_MIGRATION_RECEIVER struct migration_receiver *receiver = calloc(1, sizeof(*receiver));

	if (!receiver)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&receiver->lock, NULL);
	pthread_cond_init(&receiver->changed, NULL);
	receiver->link = link;
	receiver->ops = ops;
	receiver->context = context;
	receiver->barrier_count = migration_link_channels(link);
	receiver->channel_count =
	    receiver->barrier_count + (migration_link_has_postcopy(link) ? 1 : 0);
	TRY(ram_table_init(&receiver->table, map));
	TRY(create_bitmaps(receiver));
	TRY(receive_devices_init(receiver, options));
	TRY(create_channels(receiver));
	TRY(worker_pool_create("receive", receiver->channel_count + MAX(options->workers, 1u),
			       &receiver->workers));
	*result = TAKE_PTR(receiver);
	return NULL;
}

void migration_receiver_destroy(struct migration_receiver *receiver)
{
	if (!receiver)
		return;
	if (receiver->workers)
		migration_receiver_stop(receiver);
	worker_pool_destroy(receiver->workers);
	for (uint32_t i = 0; receiver->channels && i < receiver->channel_count; i++)
		receive_channel_clear(&receiver->channels[i]);
	free(receiver->channels);
	receive_devices_clear(receiver);
	for (uint32_t i = 0; receiver->filled && i < receiver->table.count; i++)
		free(receiver->filled[i]);
	free(receiver->filled);
	free(receiver->written);
	free(receiver->huge);
	for (uint32_t i = 0; receiver->writing && i < receiver->table.count; i++)
		pthread_mutex_destroy(&receiver->writing[i]);
	free(receiver->writing);
	ram_table_clear(&receiver->table);
	error_free(receiver->error);
	pthread_cond_destroy(&receiver->changed);
	pthread_mutex_destroy(&receiver->lock);
	free(receiver);
}

struct error *migration_receiver_start(struct migration_receiver *receiver)
{
	for (uint32_t i = 0; i < receiver->channel_count; i++)
		worker_pool_submit(receiver->workers, &receiver->channels[i].job);
	return receive_devices_start(receiver);
}

struct error *migration_receiver_wait(struct migration_receiver *receiver)
{
	struct error *error = NULL;

	pthread_mutex_lock(&receiver->lock);
	while (!receiver->told)
		pthread_cond_wait(&receiver->changed, &receiver->lock);
	if (receiver->error)
		error =
		    error_new(error_code(receiver->error), "%s", error_message(receiver->error));
	pthread_mutex_unlock(&receiver->lock);
	return error;
}

void migration_receiver_stop(struct migration_receiver *receiver)
{
	receiver_fail(receiver, error_new(ECANCELED, "the migration was cancelled"));
}

/* --- While it runs ----------------------------------------------------------------------------- */

void migration_receiver_set_placing(struct migration_receiver *receiver, bool on)
{
	/* The connection for requested pages waits at no barrier. */
	__atomic_store_n(&receiver->placing, on && receiver->ops->place, __ATOMIC_RELEASE);
}

void migration_receiver_forget(struct migration_receiver *receiver, uint32_t block, uint64_t first,
			       uint64_t count)
{
	bitmap_clear_range(receiver->filled[block], first, count);
}

void migration_receiver_progress(struct migration_receiver *receiver,
				 struct migration_received *received)
{
	const struct migration_received *counted = &receiver->received;

	*received = (struct migration_received){
	    .pages = __atomic_load_n(&counted->pages, __ATOMIC_RELAXED),
	    .zero_pages = __atomic_load_n(&counted->zero_pages, __ATOMIC_RELAXED),
	    .bytes = __atomic_load_n(&counted->bytes, __ATOMIC_RELAXED),
	    .state_bytes = __atomic_load_n(&counted->state_bytes, __ATOMIC_RELAXED),
	};
	pthread_mutex_lock(&receiver->lock);
	received->round = receiver->round;
	received->devices_loaded = receiver->loaded_count;
	received->pool_peak = (uint64_t)receiver->peak * WIRE_CHUNK_MAX;
	pthread_mutex_unlock(&receiver->lock);
}
