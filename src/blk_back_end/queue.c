/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queue of queue.h.
 *
 * On its thread: kicks, completions, and what the main thread asks for with event_loop_call. The guest controls
 * the ring and may keep it full for ever: a run takes RUN_BUDGET chains and then lets completions have
 * their turn. A malformed ring or request stops this queue until its ring is stopped, and says so once, in the
 * log and on the front-end's error descriptor.
 *
 * Requests under way have pointers into guest memory and into the ring: before either changes, the main thread
 * lets them end (blk_back_queue_leave). It does so with the session locked, so that none is begun meanwhile.
 */
#include "blk_back_end/queue.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/checked.h"
#include "base/clock.h"
#include "blk_back_end/device.h"

#define DEPTH	   256U /* requests at a time */
#define RUN_BUDGET (2 * DEPTH)
#define POLL_NS	   NS_PER_MS /* of a ring without a kick descriptor */

struct back_request {
	struct blk_request request;
	struct vhost_user_chain chain; /* its iov are the request's buffers */
	uint64_t addresses[BLK_BUFFERS_MAX];
	struct back_request *next_free;
	bool busy;
};

static void run(struct blk_back_queue *queue);

static struct back_request *of(struct blk_request *request)
{
	return CONTAINER_OF(request, struct back_request, request);
}

static bool load(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static void store(bool *flag, bool value)
{
	__atomic_store_n(flag, value, __ATOMIC_SEQ_CST);
}

/* --- Requests ---------------------------------------------------------------------------------- */

/* NULL: as many are under way as there may be. */
static struct back_request *get_request(struct blk_back_queue *queue)
{
	struct back_request *request = queue->free;

	if (request) {
		queue->free = request->next_free;
	} else if (queue->touched < DEPTH) {
		request = &queue->requests[queue->touched++];
		request->chain.iov = request->request.buffers;
		request->chain.addresses = request->addresses;
		request->chain.max = BLK_BUFFERS_MAX;
	}
	return request;
}

static void put_request(struct blk_back_queue *queue, struct back_request *request)
{
	request->busy = false;
	request->next_free = queue->free;
	queue->free = request;
}

static void done(void *context, struct blk_request *request, enum blk_status status)
{
	struct blk_back_queue *queue = context;

	vhost_user_queue_push(&queue->ring, &of(request)->chain,
			      blk_request_answer(request, status));
	queue->pushed = true;
	put_request(queue, of(request));
}

/* Never asked for: what is under way is always finished. */
static void dropped(void *context, struct blk_request *request)
{
	put_request(context, of(request));
}

static void tell(struct blk_back_queue *queue)
{
	if (queue->pushed)
		vhost_user_queue_notify(&queue->ring);
	queue->pushed = false;
}

static void batch_done(void *context)
{
	struct blk_back_queue *queue = context;

	tell(queue);
	if (queue->starved)
		run(queue);
}

static const struct blk_engine_ops engine_ops = {
    .done = done,
    .dropped = dropped,
    .batch_done = batch_done,
};

/* --- Running ----------------------------------------------------------------------------------- */

static void report_broken(struct blk_back_queue *queue, const char *reason)
{
	const struct vhost_user_back_end_ring *ring =
	    vhost_user_back_end_ring(queue->device->back, queue->index);
	const uint64_t one = 1;

	if (queue->told)
		return;
	queue->told = true;
	log_error("disk '%s': ring %" PRIu32 " stands still: %s", queue->device->disk.name,
		  queue->index, reason);
	if (ring->error >= 0 && write(ring->error, &one, sizeof(one)) < 0)
		log_debug("ring %" PRIu32 ": its error descriptor is full", queue->index);
}

/* Takes one request and begins it; false when there is none. */
static bool take_request(struct blk_back_queue *queue)
{
	struct back_request *request = get_request(queue);
	enum blk_status status;
	int got;

	queue->starved = !request;
	if (!request)
		return false;
	got = vhost_user_queue_pop(&queue->ring, &request->chain);
	if (got <= 0) {
		put_request(queue, request);
		if (got < 0)
			report_broken(queue, queue->ring.broken);
		return false;
	}
	request->busy = true;
	request->request.out_count = request->chain.out_count;
	request->request.in_count = request->chain.in_count;
	request->request.out_size = request->chain.out_size;
	request->request.in_size = request->chain.in_size;
	switch (blk_request_parse(&request->request, &queue->device->disk.limits, &status)) {
	case BLK_MALFORMED:
		put_request(queue, request);
		queue->ring.broken = "a request without room for a header and a status";
		report_broken(queue, queue->ring.broken);
		return false;
	case BLK_ANSWERED:
		if (status != BLK_S_OK)
			blk_engine_count_failed(&queue->engine);
		done(queue, &request->request, status);
		break;
	case BLK_TO_DO:
		blk_engine_start(&queue->engine, &request->request);
		break;
	}
	return true;
}

static bool refresh(struct blk_back_queue *queue)
{
	struct error *error = queue->stale ? vhost_user_queue_refresh(&queue->ring) : NULL;

	queue->stale = false;
	if (!error)
		return true;
	report_broken(queue, error_message(error));
	error_free(error);
	return false;
}

static void run_locked(struct blk_back_queue *queue)
{
	unsigned int budget = RUN_BUDGET;

	if (!queue->started || !load(&queue->enabled) || !load(&queue->device->locked) ||
	    !refresh(queue))
		return;
	do {
		vhost_user_queue_notifications(&queue->ring, false);
		while (budget && take_request(queue))
			budget--;
		if (!budget)
			event_timer_arm(queue->again, 0);
	} while (budget && !queue->starved && vhost_user_queue_notifications(&queue->ring, true));
	blk_engine_submit(&queue->engine);
	tell(queue);
}

/* Shares the session, or is called again when that is free. */
static void run(struct blk_back_queue *queue)
{
	pthread_rwlock_t *lock = &queue->device->session_lock;

	if (pthread_rwlock_tryrdlock(lock)) {
		store(&queue->missed, true);
		/* Unlocked in between, and nobody has seen it? */
		if (pthread_rwlock_tryrdlock(lock))
			return;
	}
	run_locked(queue);
	pthread_rwlock_unlock(lock);
}

static void run_later(void *context)
{
	struct blk_back_queue *queue = context;

	run(queue);
	if (queue->started && !queue->kick)
		event_timer_arm(queue->again, POLL_NS);
}

static void run_posted(void *context)
{
	run(context);
}

static void kicked(void *context, uint32_t events)
{
	struct blk_back_queue *queue = context;
	int fd = vhost_user_back_end_ring(queue->device->back, queue->index)->kick;
	uint64_t count;

	/* What it counts does not matter, nor that it may be something else than an eventfd. */
	if (read(fd, &count, sizeof(count)) != sizeof(count))
		return;
	run(queue);
}

void blk_back_queue_wake(struct blk_back_queue *queue)
{
	if (event_loop_post(queue->loop, run_posted, queue) < 0)
		log_error("disk '%s': memory is short; ring %" PRIu32 " waits for the next kick",
			  queue->device->disk.name, queue->index);
}

/* --- For the main thread ----------------------------------------------------------------------- */

struct start {
	struct blk_back_queue *queue;
	struct error *error;
};

static struct error *start(struct blk_back_queue *queue)
{
	struct vhost_user_back_end *back = queue->device->back;
	int kick = vhost_user_back_end_ring(back, queue->index)->kick;

	TRY(vhost_user_queue_begin(&queue->ring, back, queue->index));
	if (kick >= 0)
		TRY(event_loop_add(queue->loop, kick, EPOLLIN, kicked, queue, &queue->kick));
	else
		event_timer_arm(queue->again, POLL_NS);
	return NULL;
}

static void start_on_loop(void *context)
{
	struct start *call = context;
	struct blk_back_queue *queue = call->queue;

	queue->told = queue->stale = queue->starved = queue->pushed = false;
	call->error = start(queue);
	queue->started = !call->error;
	if (call->error)
		vhost_user_queue_end(&queue->ring);
}

struct error *blk_back_queue_start(struct blk_back_queue *queue)
{
	struct start call = {queue, NULL};

	event_loop_call(queue->loop, start_on_loop, &call);
	store(&queue->missed, true);
	return call.error;
}

static void drain(struct blk_back_queue *queue)
{
	blk_engine_drain(&queue->engine);
	tell(queue);
}

static void stop_on_loop(void *context)
{
	struct blk_back_queue *queue = context;

	if (!queue->started)
		return;
	event_timer_cancel(queue->again);
	event_source_remove(queue->kick);
	queue->kick = NULL;
	drain(queue);
	queue->started = false;
}

void blk_back_queue_stop(struct blk_back_queue *queue, uint32_t *base)
{
	bool started = queue->ring.back;

	event_loop_call(queue->loop, stop_on_loop, queue);
	if (!started)
		return;
	*base = vhost_user_queue_base(&queue->ring);
	vhost_user_queue_end(&queue->ring);
}

struct leave {
	struct blk_back_queue *queue;
	uint64_t guest_address, size;
};

static bool uses(const struct blk_back_queue *queue, uint64_t guest_address, uint64_t size)
{
	for (unsigned int i = 0; i < queue->touched; i++) {
		const struct back_request *request = &queue->requests[i];
		unsigned int count = request->chain.out_count + request->chain.in_count;

		for (unsigned int j = 0; request->busy && j < count; j++)
			if (ranges_overlap(request->addresses[j],
					   request->request.buffers[j].iov_len, guest_address,
					   size))
				return true;
	}
	return false;
}

static void leave_on_loop(void *context)
{
	struct leave *call = context;
	struct blk_back_queue *queue = call->queue;

	if (!queue->started || (call->size && !uses(queue, call->guest_address, call->size)))
		return;
	drain(queue);
	queue->stale = queue->stale || !call->size;
}

void blk_back_queue_leave(struct blk_back_queue *queue, uint64_t guest_address, uint64_t size)
{
	struct leave call = {queue, guest_address, size};

	if (!queue->ring.back)
		return;
	event_loop_call(queue->loop, leave_on_loop, &call);
	store(&queue->missed, true);
}

struct error *blk_back_queue_create(struct blk_back_queue *queue, struct blk_device *device,
				    uint32_t index)
{
	char name[16];

	*queue =
	    (struct blk_back_queue){.device = device, .index = index, .engine.ring.event_fd = -1};
	queue->requests = calloc(DEPTH, sizeof(*queue->requests));
	if (!queue->requests)
		return error_system(ENOMEM, "disk requests");
	TRY(event_loop_create(&queue->loop));
	TRY(event_timer_create(queue->loop, run_later, queue, &queue->again));
	TRY(blk_engine_create(&queue->engine, &device->disk, DEPTH, queue->loop, &engine_ops,
			      queue));
	snprintf(name, sizeof(name), "queue-%" PRIu32, index);
	return event_loop_start_thread(queue->loop, name);
}

void blk_back_queue_destroy(struct blk_back_queue *queue)
{
	if (queue->loop)
		event_loop_join(queue->loop);
	blk_engine_destroy(&queue->engine);
	event_timer_destroy(queue->again);
	event_loop_destroy(queue->loop);
	free(queue->requests);
	*queue = (struct blk_back_queue){.engine.ring.event_fd = -1};
}
