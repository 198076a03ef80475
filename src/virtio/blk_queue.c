/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request queue of virtio-blk, see blk_queue.h.
 *
 * A request is a little state machine with at most one operation in the ring: start() begins it,
 * each completion advances it and either starts the next operation or finishes it. Short transfers
 * go on where they stopped. Ranges (discard, write zeroes) are done one after the other. With a
 * write-through cache, ranges end with a sync; plain writes carry RWF_DSYNC instead, which saves
 * the second operation.
 *
 * Errors of the file are answered with IOERR and stated in the log once a second. After a failed
 * sync the kernel has dropped the data it could not write and would report success the next time:
 * all later syncs fail too, so that the guest does not believe its data safe (direct I/O has no
 * such data).
 *
 * The guest controls the number, order and content of requests, and may keep the queue full for
 * ever: a run takes RUN_BUDGET of them and then lets others use the loop.
 */
#include "virtio/blk_queue.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "virtio/iov.h"

#define RUN_BUDGET  (2 * BLK_QUEUE_SIZE)
#define RETRIES_MAX 16
#define BOUNCE_SIZE KIB(128)

static void start(struct blk_queue *queue, struct blk_request *request);

static void count(struct blk_queue *queue, enum blk_counter counter, uint64_t amount)
{
	__atomic_fetch_add(&queue->counters[counter], amount, __ATOMIC_RELAXED);
}

static bool load(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

/* Lets the next request in line have the bounce buffer. */
static void release_bounce(struct blk_queue *queue)
{
	struct blk_request *next = queue->bounce_waiting;

	queue->bounce_owner = NULL;
	if (!next)
		return;
	queue->bounce_waiting = next->next;
	if (!queue->bounce_waiting)
		queue->bounce_end = &queue->bounce_waiting;
	start(queue, next);
}

static void put_request(struct blk_queue *queue, struct blk_request *request)
{
	request->next = queue->free;
	queue->free = request;
	if (queue->bounce_owner == request)
		release_bounce(queue);
}

static void drop(struct blk_queue *queue, struct blk_request *request)
{
	virtqueue_discard(queue->virtqueue, &request->chain);
	put_request(queue, request);
}

static void finish(struct blk_queue *queue, struct blk_request *request, enum blk_status status)
{
	struct virtqueue_chain *chain = &request->chain;
	uint8_t byte = (uint8_t)status;
	uint32_t size = (uint32_t)chain->in_size; /* a chain has less than 4 GiB */
	bool written = virtqueue_chain_write(chain, size - 1, &byte, 1);

	/*
	 * The length counts bytes written from the start on (2.7.8.2): all of them on success;
	 * otherwise nothing is promised about the data, and the status alone counts where it is all
	 * there is.
	 */
	if (status != BLK_S_OK)
		count(queue, BLK_COUNT_FAILED, 1);
	virtqueue_push(queue->virtqueue, chain,
		       written && (status == BLK_S_OK || size == 1) ? size : 0);
	queue->pushed = true;
	put_request(queue, request);
}

static void fail(struct blk_queue *queue, struct blk_request *request, int code)
{
	static const char *const names[] = {
	    [BLK_READ] = "read",       [BLK_WRITE] = "write",	    [BLK_SYNC] = "flush",
	    [BLK_DISCARD] = "discard", [BLK_ZERO] = "write zeroes",
	};
	struct blk_disk *disk = queue->disk;

	if (rate_limit_pass(&disk->error_log))
		log_error("disk '%s' ('%s'): %s of %" PRIu64 " bytes at %" PRIu64
			  " failed: %s; the guest sees an I/O error",
			  queue->device->id, disk->file.path, names[request->work],
			  request->remaining, request->offset,
			  code ? strerrordesc_np(code) : "the file has become shorter");
	finish(queue, request, BLK_S_IOERR);
}

/* Makes what was done stable if it must be, and completes. */
static void finish_work(struct blk_queue *queue, struct blk_request *request)
{
	bool sync = request->work == BLK_ZERO && load(&queue->disk->write_through);

	if (!sync) {
		finish(queue, request, BLK_S_OK);
		return;
	}
	request->syncing = true;
	blk_ring_sync(&queue->ring, request);
}

/* Points the request's data at zeros, as much of the range as fits. */
static void aim_at_zeros(struct blk_queue *queue, struct blk_request *request)
{
	uint64_t left = request->remaining;
	uint16_t i;

	for (i = 0; i < BLK_BUFFERS_MAX && left; i++) {
		size_t stretch = MIN(left, BLK_ZEROS_SIZE);

		request->data[i] = (struct iovec){queue->disk->zeros, stretch};
		left -= stretch;
	}
	request->data_first = 0;
	request->data_count = i;
}

static void start_range(struct blk_queue *queue, struct blk_request *request)
{
	struct blk_disk *disk = queue->disk;
	bool punch = request->work == BLK_DISCARD || (request->unmap && disk->unmap);
	int mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

	request->writing_zeros = !punch && load(&disk->no_zero_range);
	if (request->writing_zeros) {
		aim_at_zeros(queue, request);
		blk_ring_write(&queue->ring, request, request->data, request->data_count,
			       request->offset, false);
	} else {
		blk_ring_fallocate(&queue->ring, request, mode, request->offset,
				   request->remaining);
	}
}

/* The next piece of a request through the bounce buffer, which is its own. */
static void start_bounced(struct blk_queue *queue, struct blk_request *request)
{
	size_t size = MIN(request->remaining, BOUNCE_SIZE);

	queue->bounce_owner = request;
	queue->bounce_iov = (struct iovec){queue->bounce, size};
	if (request->work == BLK_READ) {
		blk_ring_read(&queue->ring, request, &queue->bounce_iov, 1, request->offset);
		return;
	}
	iov_copy_out(request->data + request->data_first, request->data_count - request->data_first,
		     queue->bounce, size);
	blk_ring_write(&queue->ring, request, &queue->bounce_iov, 1, request->offset,
		       load(&queue->disk->write_through));
}

static void start_data(struct blk_queue *queue, struct blk_request *request)
{
	const struct blk_file *file = &queue->disk->file;
	const struct iovec *iov = request->data + request->data_first;
	unsigned int entries = request->data_count - request->data_first;

	if (queue->bounce &&
	    (queue->bounce_owner == request ||
	     blk_request_misaligned(request, file->memory_alignment, file->block_size))) {
		if (!queue->bounce_owner || queue->bounce_owner == request) {
			start_bounced(queue, request);
			return;
		}
		request->next = NULL;
		*queue->bounce_end = request;
		queue->bounce_end = &request->next;
	} else if (request->work == BLK_READ) {
		blk_ring_read(&queue->ring, request, iov, entries, request->offset);
	} else {
		blk_ring_write(&queue->ring, request, iov, entries, request->offset,
			       load(&queue->disk->write_through));
	}
}

/* Prepares the operation that the request needs next. */
static void start(struct blk_queue *queue, struct blk_request *request)
{
	if (request->syncing || request->work == BLK_SYNC)
		blk_ring_sync(&queue->ring, request);
	else if (request->work == BLK_READ || request->work == BLK_WRITE)
		start_data(queue, request);
	else
		start_range(queue, request);
}

static void complete_sync(struct blk_queue *queue, struct blk_request *request, int result)
{
	struct blk_disk *disk = queue->disk;

	if (result < 0 && !disk->file.direct)
		__atomic_store_n(&disk->sync_failed, true, __ATOMIC_RELAXED);
	if (result < 0 || load(&disk->sync_failed))
		fail(queue, request, result < 0 ? -result : EIO);
	else
		finish(queue, request, BLK_S_OK);
}

/* Zeros for what a read wanted beyond the end of a file whose size is no multiple of a sector. */
static void read_tail(struct blk_queue *queue, struct blk_request *request)
{
	if (request->offset < queue->disk->file.size) {
		fail(queue, request, 0);
		return;
	}
	for (uint16_t i = request->data_first; i < request->data_count; i++)
		memset(request->data[i].iov_base, 0, request->data[i].iov_len);
	finish(queue, request, BLK_S_OK);
}

static void complete_data(struct blk_queue *queue, struct blk_request *request, int result)
{
	if (!result && request->work == BLK_READ) {
		read_tail(queue, request);
		return;
	}
	if (result <= 0) {
		fail(queue, request, result ? -result : EIO);
		return;
	}
	if (queue->bounce_owner == request && request->work == BLK_READ)
		iov_copy_in(request->data + request->data_first,
			    request->data_count - request->data_first, queue->bounce,
			    (size_t)result);
	blk_request_advance(request, (uint64_t)result);
	if (request->remaining)
		start(queue, request);
	else
		finish_work(queue, request);
}

static void complete_range(struct blk_queue *queue, struct blk_request *request, int result)
{
	struct blk_disk *disk = queue->disk;

	if (request->writing_zeros && result > 0) {
		request->offset += (uint64_t)result;
		request->remaining -= (uint64_t)result;
	} else if (result == -EOPNOTSUPP && request->work == BLK_ZERO && !request->writing_zeros) {
		__atomic_store_n(&disk->no_zero_range, true, __ATOMIC_RELAXED);
		request->unmap = false;
	} else if (result == -EOPNOTSUPP && request->work == BLK_DISCARD) {
		finish(queue, request, BLK_S_UNSUPP);
		return;
	} else if (result) {
		fail(queue, request, -result);
		return;
	} else if (request->writing_zeros) {
		fail(queue, request, EIO);
		return;
	} else {
		request->remaining = 0;
	}
	if (request->remaining || blk_request_next_range(request))
		start(queue, request);
	else
		finish_work(queue, request);
}

static void complete(void *context, void *operation, int result)
{
	struct blk_queue *queue = context;
	struct blk_request *request = operation;

	if (queue->dropping) {
		drop(queue, request);
		return;
	}
	if ((result == -EINTR || result == -EAGAIN) && request->retries++ < RETRIES_MAX) {
		start(queue, request);
		return;
	}
	request->retries = 0;
	if (request->syncing || request->work == BLK_SYNC)
		complete_sync(queue, request, result);
	else if (request->work == BLK_READ || request->work == BLK_WRITE)
		complete_data(queue, request, result);
	else
		complete_range(queue, request, result);
}

/* Sends off what was prepared, and tells the guest what was completed. */
static void batch_done(void *context)
{
	struct blk_queue *queue = context;

	blk_ring_submit(&queue->ring);
	if (!queue->pushed)
		return;
	queue->pushed = false;
	virtqueue_notify(queue->virtqueue);
}

static const struct blk_ring_handler ring_handler = {
    .complete = complete,
    .batch_done = batch_done,
};

static void count_request(struct blk_queue *queue, const struct blk_request *request)
{
	switch (request->work) {
	case BLK_READ:
		count(queue, BLK_COUNT_READS, 1);
		count(queue, BLK_COUNT_BYTES_READ, request->remaining);
		break;
	case BLK_WRITE:
		count(queue, BLK_COUNT_WRITES, 1);
		count(queue, BLK_COUNT_BYTES_WRITTEN, request->remaining);
		break;
	case BLK_SYNC:
		count(queue, BLK_COUNT_SYNCS, 1);
		break;
	case BLK_DISCARD:
		count(queue, BLK_COUNT_DISCARDS, 1);
		break;
	case BLK_ZERO:
		count(queue, BLK_COUNT_ZEROES, 1);
		break;
	}
}

/* A request that is not in use; NULL if all are. */
static struct blk_request *get_request(struct blk_queue *queue)
{
	struct blk_request *request = queue->free;

	if (request) {
		queue->free = request->next;
	} else if (queue->touched < BLK_QUEUE_SIZE) {
		request = &queue->requests[queue->touched++];
		request->chain.iov = request->buffers;
		request->chain.iov_max = BLK_BUFFERS_MAX;
	}
	return request;
}

/* Takes one request and starts it; false when there is none. */
static bool take_request(struct blk_queue *queue)
{
	struct blk_request *request;
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
	switch (blk_request_parse(request, &queue->disk->limits, &status)) {
	case BLK_MALFORMED:
		drop(queue, request);
		virtio_device_needs_reset(queue->device,
					  "a request without room for a header and a status");
		return false;
	case BLK_ANSWERED:
		finish(queue, request, status);
		break;
	case BLK_TO_DO:
		count_request(queue, request);
		start(queue, request);
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
	batch_done(queue);
}

void blk_queue_drain(struct blk_queue *queue)
{
	blk_ring_drain(&queue->ring);
}

void blk_queue_drop(struct blk_queue *queue)
{
	struct blk_request *waiting = queue->bounce_waiting;

	event_timer_cancel(queue->again);
	queue->dropping = true;
	queue->bounce_waiting = NULL;
	queue->bounce_end = &queue->bounce_waiting;
	while (waiting) {
		struct blk_request *next = waiting->next;

		drop(queue, waiting);
		waiting = next;
	}
	blk_ring_drain(&queue->ring);
	queue->dropping = false;
	queue->pushed = false;
}

struct error *blk_queue_create(struct blk_queue *queue, struct virtio_device *device,
			       struct blk_disk *disk, uint16_t index, struct event_loop *loop)
{
	struct virtio_queue *slot = &device->queues[index];

	*queue = (struct blk_queue){
	    .device = device, .disk = disk, .virtqueue = &slot->ring, .loop = loop};
	queue->bounce_end = &queue->bounce_waiting;
	queue->ring.event_fd = -1;
	slot->loop = loop;
	queue->requests = calloc(BLK_QUEUE_SIZE, sizeof(*queue->requests));
	if (!queue->requests)
		return error_system(ENOMEM, "disk requests");
	if (disk->file.direct) {
		queue->bounce = aligned_alloc(MAX(disk->file.memory_alignment, 4096U), BOUNCE_SIZE);
		if (!queue->bounce)
			return error_system(ENOMEM, "disk requests");
	}
	TRY(event_timer_create(loop, run_again, queue, &queue->again));
	return blk_ring_create(&queue->ring, disk->file.fd, BLK_QUEUE_SIZE, loop, &ring_handler,
			       queue);
}

void blk_queue_destroy(struct blk_queue *queue)
{
	if (queue->requests && queue->ring.in_flight)
		blk_queue_drop(queue);
	blk_ring_destroy(&queue->ring);
	event_timer_destroy(queue->again);
	free(queue->bounce);
	free(queue->requests);
	*queue = (struct blk_queue){.ring.event_fd = -1};
}
