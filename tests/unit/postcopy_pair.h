/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two machines' memories between which post-copy moves pages, with as much of a machine around them as
 * that takes: who receives messages, and the end of the round that begins post-copy.
 */
#ifndef GODWIT_TESTS_POSTCOPY_PAIR_H
#define GODWIT_TESTS_POSTCOPY_PAIR_H

#include "migration_pair.h"

#include <pthread.h>

#include "memory/userfault.h"
#include "migration/postcopy_destination.h"
#include "migration/postcopy_source.h"

#define MOVE_DEVICE_BYTES 300000

struct move {
	struct pair_memory here, there;
	uint32_t channels;
	struct userfault *userfault;
	struct postcopy_source *from;
	struct postcopy_destination *to;

	struct migration_link *source, *destination;
	struct migration_sender *sender;
	struct migration_receiver *receiver;
	pthread_t readers[2];
	struct error *errors[2]; /* of the readers: of the source's, the destination's */
	struct error *place_error;

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	uint64_t rounds_told, rounds_ended;
	uint64_t streamed; /* times */
	bool cut, completed, begun;
	uint64_t places, places_max; /* over data connections; that go through (0: all) */
	struct error *(*prepare)(struct move *move); /* before post-copy begins there */
};

/* --- Memory ------------------------------------------------------------------------------------ */

/*
 * As pair_memory_create, but blocks 0 and 2 have pages of 2 MiB: of the pool's, or small ones that are
 * taken for large ones, which the kernel puts in place one by one. False: the pool is too small.
 */
static inline bool move_memory_create_huge(struct pair_memory *memory, bool pool)
{
	static const char *const names[] = {"memory0", "memory1", "mem0"};
	static const uint64_t sizes[] = {MIB(12), MIB(1), MIB(8)};
	bool enough = true;

	memset(memory, 0, sizeof(*memory));
	assert_no_error(memory_map_create(&memory->map));
	for (int i = 0; i < PAIR_BLOCKS; i++) {
		struct error *error;
		struct ram_backing_options options = {
		    .backing = i != 1 && pool ? RAM_BACKING_HUGETLB : RAM_BACKING_MEMFD,
		    .host_node = -1};

		assert_no_error(ram_block_create(names[i], &options, sizes[i], &memory->blocks[i]));
		if (i != 1)
			memory->blocks[i]->page_size = MIB(2);
		ram_block_set_reserving(memory->blocks[i]);
		memory->pending[i] = bitmap_create(sizes[i] / PAIR_PAGE);
		error = memory_map_add(memory->map, GIB(i), sizes[i], memory->blocks[i], 0,
				       i == 2 ? PAIR_UNIT : 0, &memory->elastic);
		enough &= !error;
		error_free(error);
	}
	return enough && !memory_region_plug(memory->map, memory->elastic, MIB(2), PAIR_UNIT);
}

static inline bool move_plugged(const struct pair_memory *memory, int block, uint64_t page)
{
	return block < 2 || memory_region_all_plugged(memory->elastic, page * PAIR_PAGE, PAIR_PAGE);
}

static inline uint64_t move_pages(const struct pair_memory *memory, int block)
{
	return memory->blocks[block]->size / PAIR_PAGE;
}

/* Something in most pages, zeros or nothing in others. */
static inline void move_write(const struct pair_memory *memory, uint8_t version)
{
	for (int block = 0; block < PAIR_BLOCKS; block++)
		for (uint64_t page = 0; page < move_pages(memory, block); page++)
			if (move_plugged(memory, block, page) && page % 7 != 3 &&
			    (page / 300) % 3 != 1)
				pair_fill(memory, block, page, version, true);
}

static inline void move_mark_all(struct pair_memory *memory)
{
	for (int i = 0; i < PAIR_BLOCKS; i++)
		pair_mark(memory, i, 0, move_pages(memory, i));
}

static inline bool move_is_same(const struct move *move, int block, uint64_t page)
{
	return !memcmp(pair_page(&move->here, block, page), pair_page(&move->there, block, page),
		       PAIR_PAGE);
}

static inline void move_assert_same(const struct move *move)
{
	for (int block = 0; block < PAIR_BLOCKS; block++)
		for (uint64_t page = 0; page < move_pages(&move->here, block); page++)
			if (move_plugged(&move->here, block, page) &&
			    !move_is_same(move, block, page))
				fail_msg("page %lu of block %d differs", page, block);
}

/* --- What a machine does ------------------------------------------------------------------------ */

static inline struct error *move_round_ended(void *context, uint64_t round)
{
	struct move *move = context;
	struct error *error = NULL;

	pthread_mutex_lock(&move->lock);
	while (move->rounds_told < round && !move->cut)
		pthread_cond_wait(&move->changed, &move->lock);
	pthread_mutex_unlock(&move->lock);
	if (postcopy_destination_is_pending(move->to) && !move->begun) {
		if (move->prepare)
			error = move->prepare(move);
		migration_receiver_set_placing(move->receiver, true);
		if (!error)
			error = postcopy_destination_begin(move->to);
	}
	pthread_mutex_lock(&move->lock);
	move->begun |= !error && postcopy_destination_is_pending(move->to);
	move->rounds_ended = round;
	pthread_cond_broadcast(&move->changed);
	pthread_mutex_unlock(&move->lock);
	return error;
}

static inline struct error *move_load(void *context, uint32_t device, const void *bytes,
				      size_t size, bool last)
{
	return NULL;
}

static inline struct error *move_place(void *context, uint32_t connection, uint32_t block,
				       uint64_t first, uint64_t count, const void *bytes)
{
	struct move *move = context;

	pthread_mutex_lock(&move->lock);
	if (connection < move->channels)
		move->places++;
	while (connection < move->channels && move->places_max && move->places > move->places_max &&
	       !move->cut)
		pthread_cond_wait(&move->changed, &move->lock);
	pthread_mutex_unlock(&move->lock);
	return postcopy_destination_place(move->to, connection, block, first, count, bytes);
}

static inline void move_ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops move_receiver_ops = {
    .round_ended = move_round_ended, .load = move_load, .place = move_place, .ended = move_ended};

static inline void move_completed(void *context)
{
	struct move *move = context;

	pthread_mutex_lock(&move->lock);
	assert_false(move->completed);
	move->completed = true;
	pthread_cond_broadcast(&move->changed);
	pthread_mutex_unlock(&move->lock);
}

static inline void move_lost(void *context, const struct error *error)
{
}

static const struct postcopy_destination_ops move_to_ops = {.completed = move_completed,
							    .lost = move_lost};

static inline void move_streamed(void *context, const struct error *error)
{
	struct move *move = context;

	pthread_mutex_lock(&move->lock);
	move->streamed += !error;
	pthread_cond_broadcast(&move->changed);
	pthread_mutex_unlock(&move->lock);
}

static const struct postcopy_source_ops move_from_ops = {.streamed = move_streamed};

static inline void *move_read_source(void *context)
{
	struct migration_message message;
	struct move *move = context;
	struct error *error = NULL;

	while (!error) {
		error = migration_link_receive(move->source, &message);
		if (error)
			break;
		if (message.type == MIGRATION_PAGE_REQUEST)
			error = postcopy_source_request(move->from, &message);
		else if (message.type == MIGRATION_RECEIVED)
			error = postcopy_source_received(move->from, &message);
		else if (message.type == MIGRATION_STATE_CREDIT)
			error = migration_sender_credit(move->sender, &message);
	}
	move->errors[0] = error;
	return NULL;
}

static inline void *move_read_destination(void *context)
{
	struct migration_message message;
	struct move *move = context;
	struct error *error = NULL;

	while (!error) {
		error = migration_link_receive(move->destination, &message);
		if (error)
			break;
		if (message.type == MIGRATION_PENDING) {
			error = postcopy_destination_pending(move->to, &message);
		} else if (message.type == MIGRATION_ROUND_END) {
			pthread_mutex_lock(&move->lock);
			move->rounds_told = message.round;
			pthread_cond_broadcast(&move->changed);
			/* What comes next is about a later round. */
			while (move->rounds_ended < message.round && !move->cut)
				pthread_cond_wait(&move->changed, &move->lock);
			pthread_mutex_unlock(&move->lock);
		}
	}
	move->errors[1] = error;
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static inline void move_connect(struct move *move, bool resume)
{
	struct migration_sender_options sender_options = {.devices = resume ? 0 : 1};
	struct migration_receiver_options receiver_options = {.workers = 1,
							      .devices = resume ? 0 : 1};

	move->cut = false;
	move->rounds_told = 0;
	pair_links(move->channels, true, &move->source, &move->destination);
	assert_no_error(
	    migration_sender_create(move->source, move->here.map, &sender_options, &move->sender));
	assert_no_error(migration_receiver_create(move->destination, move->there.map,
						  &receiver_options, &move_receiver_ops, move,
						  &move->receiver));
	if (resume) {
		migration_receiver_set_placing(move->receiver, true);
		postcopy_source_resume(move->from, move->sender);
	}
	assert_int_equal(pthread_create(&move->readers[0], NULL, move_read_source, move), 0);
	assert_int_equal(pthread_create(&move->readers[1], NULL, move_read_destination, move), 0);
	assert_no_error(migration_receiver_start(move->receiver));
	if (resume) /* an error: cut again meanwhile */
		error_free(postcopy_destination_resume(move->to, move->destination));
}

static inline void move_disconnect(struct move *move)
{
	pthread_mutex_lock(&move->lock);
	move->cut = true;
	pthread_cond_broadcast(&move->changed);
	pthread_mutex_unlock(&move->lock);
	migration_sender_cancel(move->sender);
	migration_link_cancel(move->source);
	migration_link_cancel(move->destination);
	for (int i = 0; i < 2; i++) {
		pthread_join(move->readers[i], NULL);
		error_free(TAKE_PTR(move->errors[i]));
	}
	migration_receiver_destroy(TAKE_PTR(move->receiver));
	postcopy_destination_detach(move->to);
	postcopy_source_detach(move->from);
	migration_sender_destroy(TAKE_PTR(move->sender));
	migration_link_close(TAKE_PTR(move->source));
	migration_link_close(TAKE_PTR(move->destination));
}

/* With memory there. Skips where userfaultfd is not allowed. */
static inline void move_prepare(struct move *move, uint32_t channels)
{
	struct postcopy_destination_options options = {.connections = channels + 1};
	struct error *error = userfault_create(2, &move->userfault);

	if (error) {
		error_free(error);
		pair_memory_destroy(&move->here);
		pair_memory_destroy(&move->there);
		skip();
	}
	pthread_mutex_init(&move->lock, NULL);
	pthread_cond_init(&move->changed, NULL);
	move->channels = channels;
	assert_no_error(postcopy_source_create(move->here.map, &move_from_ops, move, &move->from));
	assert_no_error(postcopy_destination_create(move->there.map, move->userfault, &options,
						    &move_to_ops, move, &move->to));
	move_connect(move, false);
}

static inline void move_create(struct move *move, uint32_t channels)
{
	memset(move, 0, sizeof(*move));
	pair_memory_create(&move->here);
	pair_memory_create(&move->there);
	move_prepare(move, channels);
}

static inline void move_destroy(struct move *move)
{
	if (move->sender)
		move_disconnect(move);
	postcopy_destination_destroy(move->to);
	postcopy_source_destroy(move->from);
	userfault_destroy(move->userfault);
	pair_memory_destroy(&move->here);
	pair_memory_destroy(&move->there);
	pthread_cond_destroy(&move->changed);
	pthread_mutex_destroy(&move->lock);
}

/* A round of pre-copy. */
static inline void move_round(struct move *move, bool fresh)
{
	uint64_t round;

	assert_no_error(migration_sender_round(move->sender, move->here.pending, fresh));
	assert_no_error(migration_sender_end_round(move->sender, &round));
}

/* What is pending is lacking there once this returns; nothing is sent but, once attached, what is asked
 * for. */
static inline void move_begin(struct move *move)
{
	uint64_t round;

	assert_no_error(
	    postcopy_source_begin(move->from, move->source, move->sender, move->here.pending));
	assert_no_error(migration_sender_end_round(move->sender, &round));
	pthread_mutex_lock(&move->lock);
	while (move->rounds_ended < round)
		pthread_cond_wait(&move->changed, &move->lock);
	pthread_mutex_unlock(&move->lock);
	assert_true(move->begun);
}

static inline void move_switch(struct move *move)
{
	move_begin(move);
	postcopy_destination_attach(move->to, move->destination);
}

static inline void move_stream(struct move *move)
{
	static const uint8_t state[MOVE_DEVICE_BYTES];

	assert_no_error(migration_sender_emit(move->sender, 0, state, sizeof(state), true));
	postcopy_source_stream(move->from);
}

static inline void move_wait(struct move *move)
{
	pthread_mutex_lock(&move->lock);
	while (!move->completed)
		pthread_cond_wait(&move->changed, &move->lock);
	pthread_mutex_unlock(&move->lock);
}

/* All has come, and both sides know. */
static inline void move_finish(struct move *move)
{
	struct postcopy_destination_progress progress;
	struct postcopy_source_progress left;

	move_wait(move);
	assert_no_error(migration_receiver_wait(move->receiver));
	assert_no_error(postcopy_destination_check(move->to));
	postcopy_destination_progress(move->to, &progress);
	assert_int_equal(progress.lacking, 0);
	postcopy_source_progress(move->from, &left);
	assert_int_equal(left.left, 0);
	assert_int_equal(left.total, progress.total);
}

#endif
