/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receive queues: posted receives in order, of one queue pair or shared by several of a domain.
 *
 * Runs on the engine's thread. Posting can fail: the queue is full, or the work has more segments than
 * the queue was made for. What segments name is looked at when a message comes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/engine.h"

bool rdma_receive_queue_init(struct rdma_receive_queue *queue,
			     const struct godwit_rdma_receives *receives, uint32_t capacity,
			     uint32_t segments)
{
	*queue = (struct rdma_receive_queue){.receives = *receives};
	if (receives->take)
		return true;
	queue->capacity = capacity;
	queue->segments_max = segments;
	queue->ids = calloc(capacity, sizeof(*queue->ids));
	queue->segment_counts = calloc(capacity, sizeof(*queue->segment_counts));
	queue->segments = calloc((size_t)capacity * segments, sizeof(*queue->segments));
	if (!queue->ids || !queue->segment_counts || !queue->segments) {
		rdma_receive_queue_free(queue);
		return false;
	}
	return true;
}

void rdma_receive_queue_free(struct rdma_receive_queue *queue)
{
	free(queue->ids);
	free(queue->segment_counts);
	free(queue->segments);
	*queue = (struct rdma_receive_queue){0};
}

int rdma_receive_queue_post(struct rdma_receive_queue *queue,
			    const struct godwit_rdma_receive_work *work)
{
	uint32_t slot;

	if (work->segment_count > queue->segments_max)
		return -EINVAL;
	if (!queue->capacity || queue->tail - queue->head == queue->capacity)
		return -ENOSPC;
	slot = queue->tail++ & (queue->capacity - 1);
	queue->ids[slot] = work->id;
	queue->segment_counts[slot] = work->segment_count;
	if (work->segment_count)
		memcpy(queue->segments + (size_t)slot * queue->segments_max, work->segments,
		       work->segment_count * sizeof(*work->segments));
	return 0;
}

bool rdma_receive_queue_take(struct rdma_receive_queue *queue, struct rdma_receive *receive,
			     struct godwit_rdma_segment *segments)
{
	struct godwit_rdma_receive_work work = {0};
	uint32_t slot;

	if (queue->receives.take) {
		if (!queue->receives.take(queue->receives.context, &work, segments))
			return false;
		*receive = (struct rdma_receive){work.id, work.segment_count, segments};
		return true;
	}
	if (queue->head == queue->tail)
		return false;
	slot = queue->head++ & (queue->capacity - 1);
	*receive = (struct rdma_receive){queue->ids[slot], queue->segment_counts[slot], segments};
	memcpy(segments, queue->segments + (size_t)slot * queue->segments_max,
	       receive->segment_count * sizeof(*segments));
	return true;
}

/* --- Shared ------------------------------------------------------------------------------------ */

int godwit_rdma_shared_create(struct godwit_rdma_domain *domain,
			      const struct godwit_rdma_shared_options *options,
			      struct godwit_rdma_shared **result)
{
	struct rdma_table *table = &domain->engine->shared;
	struct godwit_rdma_shared *shared;
	uint32_t number;
	int status;

	*result = NULL;
	if (!options->receives.take &&
	    (!is_power_of_two(options->capacity) || options->capacity > GODWIT_RDMA_QUEUE_MAX ||
	     !options->segments || options->segments > GODWIT_RDMA_SEGMENTS_MAX))
		return -EINVAL;
	status = rdma_choose_number(domain->engine, table, options->number, &number);
	if (status < 0)
		return status;
	shared = calloc(1, sizeof(*shared));
	if (!shared)
		return -ENOMEM;
	shared->entry.number = number;
	if (!rdma_receive_queue_init(&shared->queue, &options->receives, options->capacity,
				     options->segments) ||
	    !rdma_table_add(table, &shared->entry)) {
		rdma_receive_queue_free(&shared->queue);
		free(shared);
		return -ENOMEM;
	}
	shared->domain = domain;
	domain->users++;
	*result = shared;
	return 0;
}

int godwit_rdma_shared_destroy(struct godwit_rdma_shared *shared)
{
	if (!shared)
		return 0;
	if (shared->pairs)
		return -EBUSY;
	rdma_receive_queue_free(&shared->queue);
	rdma_table_remove(&shared->domain->engine->shared, &shared->entry);
	shared->domain->users--;
	free(shared);
	return 0;
}

void godwit_rdma_shared_set_limit(struct godwit_rdma_shared *shared, uint32_t limit)
{
	shared->limit = limit;
}

int godwit_rdma_shared_receive(struct godwit_rdma_shared *shared,
			       const struct godwit_rdma_receive_work *work)
{
	return rdma_receive_queue_post(&shared->queue, work);
}

/* --- Taking ------------------------------------------------------------------------------------ */

bool rdma_take_receive(struct godwit_rdma_pair *pair, struct rdma_receive *receive,
		       struct godwit_rdma_segment *segments)
{
	struct godwit_rdma_shared *shared = pair->shared;
	struct rdma_receive_queue *queue = shared ? &shared->queue : &pair->responder.queue;
	const struct godwit_rdma_options *options = &pair->engine->options;

	if (!rdma_receive_queue_take(queue, receive, segments))
		return false;
	if (shared && shared->limit && queue->tail - queue->head < shared->limit) {
		shared->limit = 0;
		if (options->event)
			options->event(options->context, &(struct godwit_rdma_event){
							     .type = GODWIT_RDMA_EVENT_SHARED_LIMIT,
							     .shared = shared});
	}
	return true;
}
