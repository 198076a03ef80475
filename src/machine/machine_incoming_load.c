/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What arrives beside pages, machine_incoming_private.h: streams, which their devices load as they come;
 * states, which are kept until all are there and loaded in the machine's order; and what of elastic
 * memory is plugged, which is made so between two rounds.
 *
 * The peer controls all of it. The bytes of all states together are bounded, those of streams by what
 * their devices take; bitmaps have the size that the machine's own memory gives them; memory is
 * plugged as an elastic device would.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "machine/machine_incoming_private.h"
#include "machine/machine_state.h"
#include "migration/ram_blocks.h"

#define STATES_SIZE_MAX (64 << 20) /* as in a snapshot */

/* --- What is plugged --------------------------------------------------------------------------- */

static uint64_t units_of(const struct incoming_block *block)
{
	return block->region->size / block->region->unit;
}

struct error *incoming_take_plugged(struct machine_incoming *incoming,
				    const struct migration_message *message)
{
	uint64_t first = message->bitmap.first, words;
	struct incoming_block *block;

	if (message->bitmap.block >= incoming->block_count ||
	    !incoming->blocks[message->bitmap.block].region)
		return error_new(EBADMSG, "PLUGGED is about block %u, which is not elastic",
				 message->bitmap.block);
	block = &incoming->blocks[message->bitmap.block];
	words = bitmap_words(units_of(block));
	if (!range_contains(0, words, first, message->bitmap.words))
		return error_new(EBADMSG,
				 "PLUGGED has words up to %llu of block '%s', which has %llu",
				 (unsigned long long)first + message->bitmap.words,
				 block->region->block->name, (unsigned long long)words);
	pthread_mutex_lock(&incoming->lock);
	for (uint32_t i = 0; i < message->bitmap.words; i++)
		block->plugged[first + i] = wire_bitmap_word(message, i);
	/* Bits behind the last unit mean nothing. */
	if (units_of(block) % 64)
		block->plugged[words - 1] &= (1ULL << units_of(block) % 64) - 1;
	pthread_mutex_unlock(&incoming->lock);
	return NULL;
}

struct error *incoming_take_round(struct machine_incoming *incoming, uint64_t round)
{
	struct error *error = NULL;

	pthread_mutex_lock(&incoming->lock);
	if (round != incoming->rounds_told + 1) {
		error =
		    error_new(EBADMSG, "ROUND_END of round %llu, after that of round %llu",
			      (unsigned long long)round, (unsigned long long)incoming->rounds_told);
	} else {
		incoming->rounds_told = round;
		pthread_cond_broadcast(&incoming->changed);
		/* What is said next may be about a later round. */
		while (incoming->rounds_applied < round && !incoming->stopping)
			pthread_cond_wait(&incoming->changed, &incoming->lock);
	}
	pthread_mutex_unlock(&incoming->lock);
	return error;
}

static struct error *no_room(const struct incoming_block *block, uint64_t size)
{
	return error_new(ENOMEM,
			 "elastic memory '%s': the host has no room for %llu MiB more that are "
			 "plugged at the source",
			 block->region->block->name, (unsigned long long)size >> 20);
}

/* Makes [unit, end) of @block, all of it not so yet, plugged or not. */
static struct error *change_units(struct machine_incoming *incoming, uint32_t index, uint64_t unit,
				  uint64_t end, bool plug)
{
	const struct incoming_block *block = &incoming->blocks[index];
	struct memory_region *region = block->region;
	uint64_t offset = unit * region->unit, size = (end - unit) * region->unit;

	if (plug)
		return memory_region_plug(incoming->machine->map, region, offset, size)
			   ? no_room(block, size)
			   : NULL;
	if (memory_region_unplug(incoming->machine->map, region, offset, size))
		return error_new(EBUSY, "elastic memory '%s' is in use", region->block->name);
	migration_receiver_forget(incoming->receiver, index,
				  (region->block_offset + offset) / WIRE_PAGE, size / WIRE_PAGE);
	return NULL;
}

/* What is to be plugged stands still meanwhile: who takes messages waits for this. */
static struct error *follow(struct machine_incoming *incoming, uint32_t index, bool plug)
{
	const struct incoming_block *block = &incoming->blocks[index];
	const uint64_t *now = block->region->plugged, *then = block->plugged;
	uint64_t units = units_of(block), unit = 0;

	while (unit < units) {
		uint64_t end = unit;

		while (end < units && bitmap_test(now, end) != plug &&
		       bitmap_test(then, end) == plug)
			end++;
		if (end > unit)
			TRY(change_units(incoming, index, unit, end, plug));
		unit = end + 1;
	}
	return NULL;
}

struct error *incoming_round_ended(void *context, uint64_t round)
{
	struct machine_incoming *incoming = context;
	struct error *error = NULL;

	pthread_mutex_lock(&incoming->lock);
	while (incoming->rounds_told < round && !incoming->stopping)
		pthread_cond_wait(&incoming->changed, &incoming->lock);
	if (incoming->stopping)
		error = error_new(ECANCELED, "the migration was cancelled");
	pthread_mutex_unlock(&incoming->lock);
	/* Memory that is given back makes room for what is taken. */
	for (int plug = 0; plug < 2; plug++)
		for (uint32_t i = 0; i < incoming->block_count && !error; i++)
			if (incoming->blocks[i].region)
				error = follow(incoming, i, plug);
	if (!error)
		error = incoming_postcopy_round_ended(incoming);
	pthread_mutex_lock(&incoming->lock);
	incoming->rounds_applied = round;
	pthread_cond_broadcast(&incoming->changed);
	pthread_mutex_unlock(&incoming->lock);
	return error;
}

/* --- States ------------------------------------------------------------------------------------ */

struct error *incoming_load_chunk(void *context, uint32_t device, const void *bytes, size_t size,
				  bool last)
{
	struct machine_incoming *incoming = context;
	struct virtio_device *streaming = incoming->streams[device];
	uint32_t instance, version;
	const char *name;

	if (!streaming)
		return state_collector_add(incoming->states, device, bytes, size, last);
	machine_description_state(incoming->description, device, &name, &instance, &version);
	return error_prefix(streaming->stream->load(streaming, bytes, size, last), "%s", name);
}

/* What becomes of the machine, the source's keep_end. */
static struct error *load_end(struct machine_incoming *incoming)
{
	size_t size;
	const void *bytes =
	    state_collector_bytes(incoming->states, incoming->state_count - 1, &size);
	AUTO_STATE struct state *state = state_load_begin(bytes, size, 1);
	bool runs = false;

	state_bool(state, "runs", &runs);
	TRY(error_prefix(state_finish(state), "what becomes of the machine"));
	if (!runs || incoming->machine->config.paused)
		incoming->machine->thaw_runs = false;
	return NULL;
}

struct error *incoming_load_states(struct machine_incoming *incoming)
{
	uint32_t count = incoming->state_count - 1;
	AUTO_FREE struct machine_state_section *sections = calloc(count + 1, sizeof(*sections));

	if (!sections)
		return error_system(ENOMEM, "states of devices");
	for (uint32_t i = 0; i < count; i++) {
		sections[i].bytes = state_collector_bytes(incoming->states, i, &sections[i].size);
		machine_description_state(incoming->description, i, &sections[i].name,
					  &sections[i].instance, &sections[i].version);
	}
	TRY(machine_state_load(incoming->machine, sections, count));
	return load_end(incoming);
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *prepare_block(struct machine_incoming *incoming, uint32_t index)
{
	const struct ram_block *block = ram_blocks_at(incoming->machine->map, index);
	struct incoming_block *own = &incoming->blocks[index];
	struct memory_region *region;

	for (region = memory_map_first(incoming->machine->map); region; region = region->next)
		if (region->block == block && region->unit)
			own->region = region;
	if (!own->region)
		return NULL;
	own->plugged = bitmap_create(units_of(own));
	return own->plugged ? NULL : error_system(ENOMEM, "a migration");
}

struct finding {
	struct machine_incoming *incoming;
	uint32_t next;
};

static struct error *find_stream(void *context, const struct state_part *part)
{
	struct finding *finding = context;
	struct machine_incoming *incoming = finding->incoming;
	struct virtio_device *device = machine_state_stream(part);

	incoming->streams[finding->next++] = device;
	incoming->stream_count += device != NULL;
	return NULL;
}

struct error *incoming_load_prepare(struct machine_incoming *incoming)
{
	struct finding finding = {.incoming = incoming};
	uint32_t count = 0;

	while (ram_blocks_at(incoming->machine->map, count))
		count++;
	incoming->state_count = machine_description_states(incoming->description) + 1;
	incoming->streams = calloc(incoming->state_count, sizeof(struct virtio_device *));
	incoming->blocks = calloc(count + 1, sizeof(*incoming->blocks));
	if (!incoming->streams || !incoming->blocks)
		return error_system(ENOMEM, "a migration");
	TRY(state_collector_create(incoming->state_count, STATES_SIZE_MAX, &incoming->states));
	TRY(machine_state_list(incoming->machine, find_stream, &finding));
	incoming->block_count = count;
	for (uint32_t i = 0; i < count; i++)
		TRY(prepare_block(incoming, i));
	return NULL;
}

void incoming_load_clear(struct machine_incoming *incoming)
{
	for (uint32_t i = 0; i < incoming->block_count; i++)
		free(incoming->blocks[i].plugged);
	state_collector_destroy(TAKE_PTR(incoming->states));
	free(TAKE_PTR(incoming->streams));
	free(TAKE_PTR(incoming->blocks));
	incoming->block_count = 0;
}
