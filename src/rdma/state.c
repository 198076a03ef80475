/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving and loading an engine: what has become of objects that both ends have made alike. Objects of
 * a kind are in the order of their numbers, so that each end finds the other's next one without a search.
 *
 * Runs on the engine's thread. Whoever made the bytes of a load controls every value: each is held to what
 * an engine could have brought about, as far as the engine relies on it. Fails for want of memory, or,
 * loading, with the reason.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/engine.h"

#define INDEX_LAST 0xffffffU
#define REMOTE_RIGHTS                                                                              \
	(GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ | GODWIT_RDMA_REMOTE_ATOMIC)
#define OPERATION_LAST GODWIT_RDMA_REGISTER

typedef void (*visit_entry)(struct rdma_table_entry *entry, struct state *state);

/* --- Objects of a kind ------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	uint32_t left = (*(struct rdma_table_entry *const *)a)->number,
		 right = (*(struct rdma_table_entry *const *)b)->number;

	return left < right ? -1 : left > right;
}

static void visit_all(struct rdma_table_entry **list, uint32_t count, visit_entry visit,
		      struct state *state)
{
	for (uint32_t i = 0; i < count && !state_failed(state); i++) {
		uint32_t number = list[i]->number;

		state_u32(state, "number", &number);
		if (state_check(state, number == list[i]->number, "number",
				"is of nothing that is there, or not in its place"))
			visit(list[i], state);
	}
}

/* Visits the objects of @table, once with each of the functions. */
static void visit_table(const struct rdma_table *table, const char *name, visit_entry first,
			visit_entry second, struct state *state)
{
	AUTO_FREE struct rdma_table_entry **list = NULL;
	uint32_t count = state_count(state, name, table->count, table->count), listed = 0;

	if (!state_check(state, count == table->count, name, "are fewer than are there") || !count)
		return;
	list = calloc(count, sizeof(struct rdma_table_entry *));
	if (!list) {
		state_fail(state, error_system(ENOMEM, "%s", name));
		return;
	}
	for (uint32_t i = 0; i < table->bucket_count; i++)
		for (struct rdma_table_entry *entry = table->buckets[i]; entry; entry = entry->next)
			list[listed++] = entry;
	qsort(list, count, sizeof(struct rdma_table_entry *), by_number);
	visit_all(list, count, first, state);
	if (second)
		visit_all(list, count, second, state);
}

/* --- Keys -------------------------------------------------------------------------------------- */

static bool is_window(const struct rdma_table_entry *entry)
{
	return CONTAINER_OF(entry, const struct godwit_rdma_region, entry)->is_window;
}

static void visit_key(struct rdma_table_entry *entry, uint32_t *key, struct state *state)
{
	state_u32(state, "key", key);
	state_check(state, *key >> 8 == entry->number, "key", "has another index");
}

static void visit_region(struct rdma_table_entry *entry, struct state *state)
{
	struct godwit_rdma_region *region = CONTAINER_OF(entry, struct godwit_rdma_region, entry);

	state_same(state, "kind of key", is_window(entry));
	if (is_window(entry) || state_failed(state))
		return;
	visit_key(entry, &region->key, state);
	state_same(state, "registration by work", region->by_work);
	if (!region->by_work) {
		state_same(state, "address of region", region->address);
		state_same(state, "size of region", region->size);
		state_same(state, "access of region", region->access);
		return;
	}
	state_u64(state, "address", &region->address);
	state_u64(state, "size", &region->size);
	state_u32(state, "access", &region->access);
	state_check(state,
		    !region->size ||
			rdma_region_can_have(region->address, region->size, region->access),
		    "access", "or place is not one of a region");
}

/* The other half of window @window: @index names a region, which is loaded. */
static void bind_window(struct godwit_rdma_window *window, uint32_t index, struct state *state)
{
	struct rdma_table_entry *entry = rdma_table_find(&window->domain->engine->keys, index);
	struct godwit_rdma_region *region;

	if (!state_check(state, entry && !is_window(entry), "region", "is not there"))
		return;
	region = CONTAINER_OF(entry, struct godwit_rdma_region, entry);
	if (!state_check(
		state,
		region->domain == window->domain && region->size &&
		    region->access & GODWIT_RDMA_BIND_WINDOW && window->size &&
		    !(window->access & ~REMOTE_RIGHTS) &&
		    (window->access & ~GODWIT_RDMA_REMOTE_READ
			 ? region->access & GODWIT_RDMA_LOCAL_WRITE
			 : true) &&
		    range_contains(region->address, region->size, window->address, window->size),
		"region", "cannot have such a window"))
		return;
	window->region = region;
	region->windows++;
}

static void visit_window(struct rdma_table_entry *entry, struct state *state)
{
	struct godwit_rdma_window *window = CONTAINER_OF(entry, struct godwit_rdma_window, entry);
	uint32_t index;

	if (!is_window(entry))
		return;
	index = window->region ? window->region->entry.number : 0;
	visit_key(entry, &window->key, state);
	state_same(state, "type of window", window->type);
	state_u32(state, "region", &index);
	state_u64(state, "address", &window->address);
	state_u64(state, "size", &window->size);
	state_u32(state, "access", &window->access);
	state_u32(state, "queue pair", &window->pair);
	if (state_loading(state) && !state_failed(state) && index)
		bind_window(window, index, state);
}

/* --- Completions and receives ------------------------------------------------------------------ */

static void visit_completion(struct godwit_rdma_completion *completion, struct state *state)
{
	uint32_t status = completion->status, operation = completion->operation;

	state_u64(state, "id", &completion->id);
	state_u32(state, "status", &status);
	state_check(state, status <= GODWIT_RDMA_NOT_READY_EXCEEDED, "status", "is none");
	state_u32(state, "operation", &operation);
	state_check(state, operation >= GODWIT_RDMA_SEND && operation <= OPERATION_LAST,
		    "operation", "is none");
	completion->status = status;
	completion->operation = operation;
	state_u32(state, "flags", &completion->flags);
	state_u32(state, "bytes", &completion->bytes);
	state_u32(state, "immediate data", &completion->immediate);
	state_u32(state, "invalidated key", &completion->invalidated);
	state_u32(state, "queue pair", &completion->pair);
	state_u32(state, "source", &completion->source);
}

static void visit_completions(struct rdma_table_entry *entry, struct state *state)
{
	struct godwit_rdma_completions *completions =
	    CONTAINER_OF(entry, struct godwit_rdma_completions, entry);
	uint32_t capacity = completions->ring ? completions->options.capacity : 0, count = 0;

	state_bool(state, "overrun", &completions->overrun);
	state_bool(state, "armed", &completions->armed);
	state_bool(state, "armed for solicited ones", &completions->armed_solicited);
	if (!state_loading(state))
		count = rdma_completions_used(completions);
	count = state_count(state, "completions", count, capacity);
	for (uint32_t i = 0; i < count && !state_failed(state); i++)
		visit_completion(&completions->ring[(completions->head + i) % capacity], state);
	if (state_loading(state) && !state_failed(state))
		completions->tail = count;
}

void rdma_segments_visit(struct godwit_rdma_segment *segments, uint32_t count, struct state *state)
{
	for (uint32_t i = 0; i < count && !state_failed(state); i++) {
		state_u64(state, "segment address", &segments[i].address);
		state_u32(state, "segment size", &segments[i].size);
		state_u32(state, "segment key", &segments[i].key);
	}
}

void rdma_receive_queue_visit(struct rdma_receive_queue *queue, struct state *state)
{
	uint32_t count = state_count(state, "receives", queue->tail - queue->head, queue->capacity);

	for (uint32_t i = 0; i < count && !state_failed(state); i++) {
		uint32_t slot = (queue->head + i) & (queue->capacity - 1);
		uint32_t *segments = &queue->segment_counts[slot];

		state_u64(state, "id", &queue->ids[slot]);
		*segments = state_count(state, "segments", *segments, queue->segments_max);
		rdma_segments_visit(queue->segments + (size_t)slot * queue->segments_max, *segments,
				    state);
	}
	if (state_loading(state) && !state_failed(state))
		queue->tail = queue->head + count;
}

static void visit_shared(struct rdma_table_entry *entry, struct state *state)
{
	struct godwit_rdma_shared *shared = CONTAINER_OF(entry, struct godwit_rdma_shared, entry);

	state_u32(state, "limit", &shared->limit);
	rdma_receive_queue_visit(&shared->queue, state);
}

/* --- All of it --------------------------------------------------------------------------------- */

static void visit_pair(struct rdma_table_entry *entry, struct state *state)
{
	rdma_pair_visit(CONTAINER_OF(entry, struct godwit_rdma_pair, entry), state);
}

static void visit_engine(void *context, struct state *state)
{
	struct godwit_rdma *engine = context;

	state_same(state, "version", GODWIT_RDMA_STATE_VERSION);
	state_u32(state, "next key", &engine->next_index);
	state_check(state, engine->next_index <= INDEX_LAST, "next key", "is no index");
	state_u8(state, "generation", &engine->generation);
	state_u32(state, "next queue pair", &engine->next_pair);
	state_check(state, rdma_pair_number_fits(engine->next_pair), "next queue pair",
		    "is no number");
	visit_table(&engine->completions, "completion queues", visit_completions, NULL, state);
	visit_table(&engine->shared, "shared receive queues", visit_shared, NULL, state);
	visit_table(&engine->keys, "keys", visit_region, visit_window, state);
	visit_table(&engine->pairs, "queue pairs", visit_pair, NULL, state);
}

static struct error *visit(struct godwit_rdma *engine, struct state *state)
{
	if (!state)
		return error_system(ENOMEM, "the state");
	visit_engine(engine, state);
	return state_finish(state);
}

int godwit_rdma_save(struct godwit_rdma *engine, void **bytes, size_t *size)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	struct error *error = visit(engine, state);
	const void *saved;

	*bytes = NULL;
	if (error) {
		error_free(error);
		return -ENOMEM;
	}
	saved = state_bytes(state, size);
	*bytes = malloc(*size);
	if (!*bytes)
		return -ENOMEM;
	memcpy(*bytes, saved, *size);
	return 0;
}

int godwit_rdma_load(struct godwit_rdma *engine, const void *bytes, size_t size,
		     char reason[GODWIT_RDMA_REASON_MAX])
{
	AUTO_STATE struct state *state = state_load_begin(bytes, size, GODWIT_RDMA_STATE_VERSION);
	AUTO_ERROR struct error *error = visit(engine, state);

	if (!error)
		return 0;
	snprintf(reason, GODWIT_RDMA_REASON_MAX, "%s", error_message(error));
	return error_code(error) == ENOMEM ? -ENOMEM : -EINVAL;
}
