/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the source is asked and told, postcopy_private.h. Threads that handle faults put pages into a queue;
 * one thread takes out of it all that there is and sends as few messages as that takes. The queue has a fixed
 * size; when it is full, or when connections broke, who waits is found in the bitmaps.
 */
#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/postcopy_private.h"

#define BATCH	       64	  /* faults that are taken out of the queue at once */
#define COUNT_MAX      (1u << 30) /* pages in one message */
#define RECEIVED_WORDS 512

/* --- Asking ------------------------------------------------------------------------------------ */

static void queue(struct postcopy_block *block, uint64_t first)
{
	struct postcopy_destination *destination = block->destination;

	pthread_mutex_lock(&destination->lock);
	if (destination->queue_count < POSTCOPY_QUEUE) {
		uint32_t last = destination->queue_first + destination->queue_count++;

		destination->queue[last % POSTCOPY_QUEUE] = (struct postcopy_request){
		    .block = block->index, .first = first, .count = block->whole};
	} else {
		destination->seek = true;
	}
	pthread_cond_broadcast(&destination->changed);
	pthread_mutex_unlock(&destination->lock);
}

bool postcopy_ask(struct postcopy_block *block, uint64_t first)
{
	uint64_t bit = 1ULL << (first % 64);
	bool lacking;

	/* With the lock: who gives the page back sees that somebody waits, or is seen here. */
	pthread_rwlock_rdlock(&block->lock);
	lacking = postcopy_test(block->lacking, first);
	if (lacking &&
	    !(__atomic_fetch_or(&block->asked[first / 64], bit, __ATOMIC_ACQ_REL) & bit)) {
		__atomic_fetch_add(&block->destination->asked, 1, __ATOMIC_RELAXED);
		queue(block, first);
	}
	pthread_rwlock_unlock(&block->lock);
	return lacking;
}

/* --- Sending ----------------------------------------------------------------------------------- */

/* Collects what lies together. */
struct asking {
	struct postcopy_destination *destination;
	struct migration_link *link;
	struct postcopy_request run; /* no pages: none */
};

static struct error *send_run(struct asking *asking)
{
	struct migration_message message = {.type = MIGRATION_PAGE_REQUEST};

	if (!asking->run.count)
		return NULL;
	message.request.block = (uint16_t)asking->run.block;
	message.request.first = asking->run.first;
	message.request.count = (uint32_t)asking->run.count;
	asking->run.count = 0;
	__atomic_fetch_add(&asking->destination->requests, 1, __ATOMIC_RELAXED);
	return migration_link_send(asking->link, &message);
}

static struct error *add(struct asking *asking, const struct postcopy_request *request)
{
	struct postcopy_request *run = &asking->run;

	/* It may have come meanwhile. */
	if (!postcopy_test(asking->destination->blocks[request->block].lacking, request->first))
		return NULL;
	if (run->count && run->block == request->block &&
	    run->first + run->count == request->first && run->count + request->count <= COUNT_MAX) {
		run->count += request->count;
		return NULL;
	}
	TRY(send_run(asking));
	*run = *request;
	return NULL;
}

static struct error *seek(struct asking *asking)
{
	struct postcopy_destination *destination = asking->destination;

	for (uint32_t i = 0; i < destination->table.count; i++) {
		const struct postcopy_block *block = &destination->blocks[i];

		for (uint64_t word = 0; word < bitmap_words(block->pages); word++) {
			uint64_t bits = __atomic_load_n(&block->asked[word], __ATOMIC_ACQUIRE);

			for (; bits; bits &= bits - 1) {
				struct postcopy_request request = {
				    .block = i,
				    .first = word * 64 + (unsigned)__builtin_ctzll(bits),
				    .count = block->whole,
				};

				TRY(add(asking, &request));
			}
		}
	}
	return send_run(asking);
}

static bool is_before(const struct postcopy_request *a, const struct postcopy_request *b)
{
	return a->block != b->block ? a->block < b->block : a->first < b->first;
}

static struct error *send_batch(struct asking *asking, struct postcopy_request *batch,
				uint32_t count)
{
	for (uint32_t i = 1; i < count; i++)
		for (uint32_t k = i; k && is_before(&batch[k], &batch[k - 1]); k--) {
			struct postcopy_request other = batch[k];

			batch[k] = batch[k - 1];
			batch[k - 1] = other;
		}
	for (uint32_t i = 0; i < count; i++)
		TRY(add(asking, &batch[i]));
	return send_run(asking);
}

/* With the lock, which is let go meanwhile: sends what there is. */
static void send_some(struct postcopy_destination *destination)
{
	struct asking asking = {.destination = destination, .link = destination->link};
	struct postcopy_request batch[BATCH];
	bool seeking = destination->seek;
	struct error *error;
	uint32_t count = 0;

	if (seeking)
		destination->queue_count = 0; /* they are in the bitmaps as well */
	while (count < BATCH && destination->queue_count) {
		batch[count++] = destination->queue[destination->queue_first];
		destination->queue_first = (destination->queue_first + 1) % POSTCOPY_QUEUE;
		destination->queue_count--;
	}
	destination->seek = false;
	destination->sending = true;
	pthread_mutex_unlock(&destination->lock);
	error = seeking ? seek(&asking) : send_batch(&asking, batch, count);
	if (error)
		destination->ops->lost(destination->context, error);
	pthread_mutex_lock(&destination->lock);
	if (error)
		destination->link = NULL;
	error_free(error);
	destination->sending = false;
	pthread_cond_broadcast(&destination->changed);
}

void *postcopy_request_thread(void *context)
{
	struct postcopy_destination *destination = context;

	pthread_mutex_lock(&destination->lock);
	while (!destination->stopping) {
		if (destination->link && (destination->queue_count || destination->seek))
			send_some(destination);
		else
			pthread_cond_wait(&destination->changed, &destination->lock);
	}
	pthread_mutex_unlock(&destination->lock);
	return NULL;
}

/* --- Connections ------------------------------------------------------------------------------- */

void postcopy_destination_attach(struct postcopy_destination *destination,
				 struct migration_link *link)
{
	pthread_mutex_lock(&destination->lock);
	destination->link = link;
	pthread_cond_broadcast(&destination->changed);
	pthread_mutex_unlock(&destination->lock);
}

void postcopy_destination_detach(struct postcopy_destination *destination)
{
	pthread_mutex_lock(&destination->lock);
	destination->link = NULL;
	while (destination->sending)
		pthread_cond_wait(&destination->changed, &destination->lock);
	destination->link = NULL;
	pthread_mutex_unlock(&destination->lock);
}

/* What was on its way when the connections broke is expected anew. */
static void expect_lacking(struct postcopy_block *block)
{
	pthread_rwlock_wrlock(&block->lock);
	for (uint64_t word = 0; word < bitmap_words(block->pages); word++)
		__atomic_store_n(&block->expected[word],
				 __atomic_load_n(&block->lacking[word], __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
	pthread_rwlock_unlock(&block->lock);
}

/* A page that is given back from here on is said to have been received, or comes and is dropped. */
static struct error *tell_received(const struct postcopy_block *block, struct migration_link *link)
{
	uint64_t words = bitmap_words(block->pages), received[RECEIVED_WORDS], part;

	for (uint64_t word = 0; word < words; word += part) {
		part = MIN(words - word, (uint64_t)RECEIVED_WORDS);
		for (uint64_t i = 0; i < part; i++)
			received[i] = ~__atomic_load_n(&block->lacking[word + i], __ATOMIC_ACQUIRE);
		TRY(migration_link_send_bitmap(link, MIGRATION_RECEIVED, (uint16_t)block->index,
					       word, received, part));
	}
	return NULL;
}

struct error *postcopy_destination_resume(struct postcopy_destination *destination,
					  struct migration_link *link)
{
	for (uint32_t i = 0; i < destination->connections; i++)
		destination->assemblies[i].left = 0;
	for (uint32_t i = 0; i < destination->table.count; i++)
		expect_lacking(&destination->blocks[i]);
	for (uint32_t i = 0; i < destination->table.count; i++)
		TRY(tell_received(&destination->blocks[i], link));
	/* Who waited has been asked for over connections that are gone. */
	pthread_mutex_lock(&destination->lock);
	destination->seek = true;
	pthread_mutex_unlock(&destination->lock);
	postcopy_destination_attach(destination, link);
	return NULL;
}
