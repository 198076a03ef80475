/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request queue of virtio-blk, see blk_queue.h: chains of the virtqueue become requests, which the
 * engine (blk/blk_engine.h) carries out.
 *
 * The guest controls the number, order and content of requests, and may keep the queue full for
 * ever: a run takes RUN_BUDGET of them and then lets others use the loop.
 */
#include "virtio/blk_queue.h"

#include <stdlib.h>

#include "base/checked.h"

#define RUN_BUDGET (2 * BLK_QUEUE_SIZE)

struct queue_request {
	struct blk_request request;
	struct virtqueue_chain chain; /* its iov are the request's buffers */
};

static struct queue_request *of(struct blk_request *request)
{
	return CONTAINER_OF(request, struct queue_request, request);
}

static void put_request(struct blk_queue *queue, struct queue_request *request)
{
	request->request.next = queue->free;
	queue->free = &request->request;
}

static void dropped(void *context, struct blk_request *request)
{
	struct blk_queue *queue = context;

	virtqueue_discard(queue->virtqueue, &of(request)->chain);
	put_request(queue, of(request));
}

static void done(void *context, struct blk_request *request, enum blk_status status)
{
	struct blk_queue *queue = context;
	struct virtqueue_chain *chain = &of(request)->chain;

	virtqueue_chain_in(chain); /* the status is its last byte */
	virtqueue_push(queue->virtqueue, chain, blk_request_answer(request, status));
	queue->pushed = true;
	put_request(queue, of(request));
}

static void batch_done(void *context)
{
	struct blk_queue *queue = context;

	if (!queue->pushed)
		return;
	queue->pushed = false;
	virtqueue_notify(queue->virtqueue);
}

static const struct blk_engine_ops engine_ops = {
    .done = done,
    .dropped = dropped,
    .batch_done = batch_done,
};

/* A request that is not in use; NULL if all are. */
static struct queue_request *get_request(struct blk_queue *queue)
{
	struct queue_request *request = NULL;

	if (queue->free) {
		request = of(queue->free);
		queue->free = queue->free->next;
	} else if (queue->touched < BLK_QUEUE_SIZE) {
		request = &queue->requests[queue->touched++];
		request->chain.iov = request->request.buffers;
		request->chain.iov_max = BLK_BUFFERS_MAX;
	}
	return request;
}

/* Takes one request and starts it; false when there is none. */
static bool take_request(struct blk_queue *queue)
{
	struct queue_request *request;
	enum blk_status status;

	if (!virtio_device_running(queue->device))
		return false;
	/* As many as the queue has entries, and the virtqueue has no more chains than that in
	 * flight. */
	request = get_request(queue);
	if (!request)
		return false;
	if (virtqueue_pop(queue->virtqueue, &request->chain) <= 0) {
		put_request(queue, request);
		return false;
	}
	request->request.out_count = request->chain.out_count;
	request->request.in_count = request->chain.in_count;
	request->request.out_size = request->chain.out_size;
	request->request.in_size = request->chain.in_size;
	switch (blk_request_parse(&request->request, &queue->disk->limits, &status)) {
	case BLK_MALFORMED:
		dropped(queue, &request->request);
		virtio_device_needs_reset(queue->device,
					  "a request without room for a header and a status");
		return false;
	case BLK_ANSWERED:
		if (status != BLK_S_OK)
			blk_engine_count_failed(&queue->engine);
		done(queue, &request->request, status);
		break;
	case BLK_TO_DO:
		if (request->request.work == BLK_READ)
			virtqueue_chain_in(&request->chain); /* from now on */
		blk_engine_start(&queue->engine, &request->request);
		break;
	}
	return true;
}

static void run_again(void *context)
{
	blk_queue_run(context);
}

void blk_queue_run(struct blk_queue *queue)
{
	unsigned int budget = RUN_BUDGET;

	do {
		virtqueue_notifications(queue->virtqueue, false);
		while (budget && take_request(queue))
			budget--;
		if (!budget) {
			event_timer_arm(queue->again, 0);
			break;
		}
	} while (virtqueue_notifications(queue->virtqueue, true) &&
		 virtio_device_running(queue->device));
	blk_engine_submit(&queue->engine);
	batch_done(queue);
}

void blk_queue_drain(struct blk_queue *queue)
{
	blk_engine_drain(&queue->engine);
}

void blk_queue_drop(struct blk_queue *queue)
{
	event_timer_cancel(queue->again);
	blk_engine_drop(&queue->engine);
	queue->pushed = false;
}

struct error *blk_queue_create(struct blk_queue *queue, struct virtio_device *device,
			       struct blk_disk *disk, uint16_t index, struct event_loop *loop)
{
	struct virtio_queue *slot = &device->queues[index];

	*queue = (struct blk_queue){
	    .device = device, .disk = disk, .virtqueue = &slot->ring, .loop = loop};
	queue->engine.ring.event_fd = -1;
	slot->loop = loop;
	queue->requests = calloc(BLK_QUEUE_SIZE, sizeof(*queue->requests));
	if (!queue->requests)
		return error_system(ENOMEM, "disk requests");
	TRY(event_timer_create(loop, run_again, queue, &queue->again));
	return blk_engine_create(&queue->engine, disk, BLK_QUEUE_SIZE, loop, &engine_ops, queue);
}

void blk_queue_destroy(struct blk_queue *queue)
{
	blk_engine_destroy(&queue->engine);
	event_timer_destroy(queue->again);
	free(queue->requests);
	*queue = (struct blk_queue){.engine.ring.event_fd = -1};
}
