/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving guest memory, see ram_save.h: the channels, and the pieces in place while the guest is
 * paused.
 */
#include "migration/ram_save.h"

#include <string.h>

#include "base/checked.h"
#include "base/thread.h"
#include "migration/ram_save_private.h"

void ram_save_stop(struct ram_save *save, struct error *error)
{
	pthread_mutex_lock(&save->lock);
	if (save->error)
		error_free(error);
	else
		save->error = error;
	__atomic_store_n(&save->stopping, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	/* Who waits for the reader of the stream need not any more. */
	if (save->options.sender)
		snapshot_sender_cancel(save->options.sender);
}

void ram_save_cancel(struct ram_save *save)
{
	ram_save_stop(save, error_new(ECANCELED, "the save was cancelled"));
}

struct saved_block *ram_save_block_of_unit(struct ram_save *save, uint64_t unit)
{
	uint32_t i = save->block_count - 1;

	while (save->blocks[i].first_unit > unit)
		i--;
	return &save->blocks[i];
}

/* --- While the guest is paused ----------------------------------------------------------------- */

static const struct saved_block *block_of_chunk(const struct ram_save *save, uint64_t chunk)
{
	uint32_t i = save->block_count - 1;

	while (save->blocks[i].first_chunk > chunk)
		i--;
	return &save->blocks[i];
}

static struct error *save_in_place(struct save_channel *channel)
{
	struct ram_save *save = channel->save;
	uint64_t next;

	while ((next = __atomic_fetch_add(&save->next_unit, save->stripe, __ATOMIC_RELAXED)) <
	       save->chunks) {
		uint64_t end = MIN(next + save->stripe, save->chunks);

		while (next < end && !ram_save_stopping(save)) {
			const struct saved_block *block = block_of_chunk(save, next);
			uint64_t first = next - block->first_chunk;
			uint64_t count = MIN(end - next, block->chunks - first);

			TRY(ram_save_stripe(channel, block, first, count));
			next += count;
		}
	}
	return NULL;
}

/* One chunk after another for all threads, since they are sent in that order. */
static struct error *send_in_place(struct save_channel *channel)
{
	struct ram_save *save = channel->save;
	uint64_t index;

	while ((index = __atomic_fetch_add(&save->next_unit, 1, __ATOMIC_RELAXED)) < save->chunks &&
	       !ram_save_stopping(save)) {
		const struct saved_block *block = block_of_chunk(save, index);
		uint64_t chunk = index - block->first_chunk, offset = chunk * CHUNK;

		TRY(ram_save_chunk(channel, block, chunk, block->block->host + offset,
				   ram_presence_chunk(channel->presence, block->block, offset),
				   NULL));
	}
	return NULL;
}

/* --- Channels ---------------------------------------------------------------------------------- */

static void write_ended(void *context, void *tag, int result)
{
	struct save_channel *channel = context;

	if (result < 0)
		ram_save_stop(channel->save, error_system(-result, "cannot write guest memory"));
	if (tag)
		ram_save_release_copy(channel->save, tag);
}

static void *channel_thread(void *context)
{
	struct save_channel *channel = context;
	struct ram_save *save = channel->save;
	struct error *error;
	int result;

	if (save->userfault)
		error = ram_save_copied(channel);
	else
		error = save->options.sender ? send_in_place(channel) : save_in_place(channel);
	result = page_io_drain(channel->io);
	if (error)
		ram_save_stop(save, error);
	if (result < 0)
		ram_save_stop(save, error_system(-result, "cannot write guest memory"));
	return NULL;
}

static struct error *create_channel(struct ram_save *save, struct save_channel *channel)
{
	channel->save = save;
	channel->scratch = aligned_alloc(PAGE, CHUNK);
	channel->base = aligned_alloc(PAGE, CHUNK);
	if (!channel->scratch || !channel->base)
		return error_system(ENOMEM, "a channel");
	TRY(ram_presence_create(&channel->presence));
	return page_io_create(save->writer ? snapshot_writer_fd(save->writer) : -1,
			      save->options.direct, PAGE_IO_WRITE, write_ended, channel,
			      &channel->io);
}

struct error *ram_save_run(struct ram_save *save)
{
	struct error *error;

	for (uint32_t i = 0; i < save->options.channels; i++) {
		struct save_channel *channel = &save->channels[i];
		char name[16];

		snprintf(name, sizeof(name), "save%u", i);
		error = create_channel(save, channel);
		if (!error)
			error = thread_start(&channel->thread, name, channel_thread, channel);
		if (error) {
			ram_save_stop(save, error);
			break;
		}
		channel->started = true;
	}
	for (uint32_t i = 0; i < save->options.channels; i++)
		if (save->channels[i].started)
			pthread_join(save->channels[i].thread, NULL);
	error = save->error;
	save->error = NULL;
	return error;
}

void ram_save_progress(const struct ram_save *save, struct ram_save_progress *progress)
{
	*progress = (struct ram_save_progress){
	    .done = __atomic_load_n(&save->done_bytes, __ATOMIC_RELAXED),
	    .stored = __atomic_load_n(&save->stored_bytes, __ATOMIC_RELAXED),
	    .waited = __atomic_load_n(&save->waited, __ATOMIC_RELAXED),
	};
	for (uint32_t i = 0; i < save->block_count; i++)
		progress->total += save->blocks[i].block->size;
}

/* --- Life -------------------------------------------------------------------------------------- */

uint32_t ram_save_plan(const struct memory_map *map, struct snapshot_block_plan *plans,
		       uint32_t maximum)
{
	const struct ram_block *block;
	uint32_t count = 0;

	for (; (block = ram_blocks_at(map, count)); count++) {
		if (count >= maximum)
			continue;
		snprintf(plans[count].name, sizeof(plans[count].name), "%s", block->name);
		plans[count].size = block->size;
	}
	return count;
}

static struct error *add_block(struct ram_save *save, struct ram_block *ram, uint32_t index)
{
	struct saved_block *block = &save->blocks[index];

	*block = (struct saved_block){
	    .save = save,
	    .block = ram,
	    .index = index,
	    .chunks = ram_chunks(ram),
	    .unit_chunks = MAX(ram->page_size / CHUNK, (uint64_t)1),
	    .first_unit = save->units,
	    .first_chunk = save->chunks,
	};
	block->units = (block->chunks + block->unit_chunks - 1) / block->unit_chunks;
	save->units += block->units;
	save->chunks += block->chunks;
	if (!save->options.base)
		return NULL;
	block->base = snapshot_file_block(save->options.base, ram->name);
	if (!block->base || block->base->size != ram->size || !block->base->checksums)
		return error_new(EINVAL, "base '%s' has no memory '%s' of this size",
				 save->options.base->path, ram->name);
	return NULL;
}

struct error *ram_save_create(const struct memory_map *map, struct snapshot_writer *writer,
			      const struct ram_save_options *options, struct ram_save **result)
{
	AUTO_RAM_SAVE struct ram_save *save = calloc(1, sizeof(*save));

	if (!save)
		return error_system(ENOMEM, "a save");
	pthread_mutex_init(&save->lock, NULL);
	pthread_cond_init(&save->changed, NULL);
	save->writer = writer;
	save->options = *options;
	save->block_count = ram_save_plan(map, NULL, 0);
	save->blocks = calloc(save->block_count, sizeof(*save->blocks));
	save->channels = calloc(options->channels, sizeof(*save->channels));
	if (!save->blocks || !save->channels)
		return error_system(ENOMEM, "a save");
	for (uint32_t i = 0; i < save->block_count; i++)
		TRY(add_block(save, ram_blocks_at(map, i), i));
	save->stripe = MIN(save->chunks / options->channels / 4 + 1, (uint64_t)STRIPE);
	*result = TAKE_PTR(save);
	return NULL;
}

void ram_save_destroy(struct ram_save *save)
{
	if (!save)
		return;
	/* Whoever waits for a copy goes on. */
	pthread_mutex_lock(&save->lock);
	__atomic_store_n(&save->stopping, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	if (save->blocks)
		ram_save_unwatch(save);
	for (uint32_t i = 0; save->channels && i < save->options.channels; i++) {
		page_io_destroy(save->channels[i].io);
		ram_presence_destroy(save->channels[i].presence);
		free(save->channels[i].scratch);
		free(save->channels[i].base);
	}
	error_free(save->error);
	pthread_cond_destroy(&save->changed);
	pthread_mutex_destroy(&save->lock);
	free(save->channels);
	free(save->blocks);
	free(save);
}
