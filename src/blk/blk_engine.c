/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The requests of blk_engine.h.
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
 * The guest controls the number, order and content of requests.
 */
#include "blk/blk_engine.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <string.h>

#include "base/checked.h"
#include "base/iov.h"

#define RETRIES_MAX 16
#define BOUNCE_SIZE KIB(128)

static void start(struct blk_engine *engine, struct blk_request *request);

static void count(struct blk_engine *engine, enum blk_counter counter, uint64_t amount)
{
	__atomic_fetch_add(&engine->counters[counter], amount, __ATOMIC_RELAXED);
}

static bool load(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

/* Lets the next request in line have the bounce buffer. */
static void release_bounce(struct blk_engine *engine)
{
	struct blk_request *next = engine->bounce_waiting;

	engine->bounce_owner = NULL;
	if (!next)
		return;
	engine->bounce_waiting = next->next;
	if (!engine->bounce_waiting)
		engine->bounce_end = &engine->bounce_waiting;
	start(engine, next);
}

/* @request leaves the engine, and somebody else may have its buffer. */
static void leave(struct blk_engine *engine, const struct blk_request *request)
{
	if (engine->bounce_owner == request)
		release_bounce(engine);
}

static void finish(struct blk_engine *engine, struct blk_request *request, enum blk_status status)
{
	if (status != BLK_S_OK)
		blk_engine_count_failed(engine);
	engine->ops->done(engine->context, request, status);
	leave(engine, request);
}

static void drop(struct blk_engine *engine, struct blk_request *request)
{
	engine->ops->dropped(engine->context, request);
	leave(engine, request);
}

static void fail(struct blk_engine *engine, struct blk_request *request, int code)
{
	static const char *const names[] = {
	    [BLK_READ] = "read",       [BLK_WRITE] = "write",	    [BLK_SYNC] = "flush",
	    [BLK_DISCARD] = "discard", [BLK_ZERO] = "write zeroes",
	};
	struct blk_disk *disk = engine->disk;

	if (rate_limit_pass(&disk->error_log))
		log_error("disk '%s' ('%s'): %s of %" PRIu64 " bytes at %" PRIu64
			  " failed: %s; the guest sees an I/O error",
			  disk->name, disk->file.path, names[request->work], request->remaining,
			  request->offset,
			  code ? strerrordesc_np(code) : "the file has become shorter");
	finish(engine, request, BLK_S_IOERR);
}

/* Makes what was done stable if it must be, and completes. */
static void finish_work(struct blk_engine *engine, struct blk_request *request)
{
	bool sync = request->work == BLK_ZERO && load(&engine->disk->write_through);

	if (!sync) {
		finish(engine, request, BLK_S_OK);
		return;
	}
	request->syncing = true;
	blk_ring_sync(&engine->ring, request);
}

/* Points the request's data at zeros, as much of the range as fits. */
static void aim_at_zeros(struct blk_engine *engine, struct blk_request *request)
{
	uint64_t left = request->remaining;
	uint16_t i;

	for (i = 0; i < BLK_BUFFERS_MAX && left; i++) {
		size_t stretch = MIN(left, BLK_ZEROS_SIZE);

		request->data[i] = (struct iovec){engine->disk->zeros, stretch};
		left -= stretch;
	}
	request->data_first = 0;
	request->data_count = i;
}

static void start_range(struct blk_engine *engine, struct blk_request *request)
{
	struct blk_disk *disk = engine->disk;
	bool punch = request->work == BLK_DISCARD || (request->unmap && disk->unmap);
	int mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

	request->writing_zeros = !punch && load(&disk->no_zero_range);
	if (request->writing_zeros) {
		aim_at_zeros(engine, request);
		blk_ring_write(&engine->ring, request, request->data, request->data_count,
			       request->offset, false);
	} else {
		blk_ring_fallocate(&engine->ring, request, mode, request->offset,
				   request->remaining);
	}
}

/* The next piece of a request through the bounce buffer, which is its own. */
static void start_bounced(struct blk_engine *engine, struct blk_request *request)
{
	size_t size = MIN(request->remaining, BOUNCE_SIZE);

	engine->bounce_owner = request;
	engine->bounce_iov = (struct iovec){engine->bounce, size};
	if (request->work == BLK_READ) {
		blk_ring_read(&engine->ring, request, &engine->bounce_iov, 1, request->offset);
		return;
	}
	iov_copy_out(request->data + request->data_first, request->data_count - request->data_first,
		     engine->bounce, size);
	blk_ring_write(&engine->ring, request, &engine->bounce_iov, 1, request->offset,
		       load(&engine->disk->write_through));
}

static void start_data(struct blk_engine *engine, struct blk_request *request)
{
	const struct blk_file *file = &engine->disk->file;
	const struct iovec *iov = request->data + request->data_first;
	unsigned int entries = request->data_count - request->data_first;

	if (engine->bounce &&
	    (engine->bounce_owner == request ||
	     blk_request_misaligned(request, file->memory_alignment, file->block_size))) {
		if (!engine->bounce_owner || engine->bounce_owner == request) {
			start_bounced(engine, request);
			return;
		}
		request->next = NULL;
		*engine->bounce_end = request;
		engine->bounce_end = &request->next;
	} else if (request->work == BLK_READ) {
		blk_ring_read(&engine->ring, request, iov, entries, request->offset);
	} else {
		blk_ring_write(&engine->ring, request, iov, entries, request->offset,
			       load(&engine->disk->write_through));
	}
}

/* Prepares the operation that the request needs next. */
static void start(struct blk_engine *engine, struct blk_request *request)
{
	if (request->syncing || request->work == BLK_SYNC)
		blk_ring_sync(&engine->ring, request);
	else if (request->work == BLK_READ || request->work == BLK_WRITE)
		start_data(engine, request);
	else
		start_range(engine, request);
}

static void complete_sync(struct blk_engine *engine, struct blk_request *request, int result)
{
	struct blk_disk *disk = engine->disk;

	if (result < 0 && !disk->file.direct)
		__atomic_store_n(&disk->sync_failed, true, __ATOMIC_RELAXED);
	if (result < 0 || load(&disk->sync_failed))
		fail(engine, request, result < 0 ? -result : EIO);
	else
		finish(engine, request, BLK_S_OK);
}

/* Zeros for what a read wanted beyond the end of a file whose size is no multiple of a sector. */
static void read_tail(struct blk_engine *engine, struct blk_request *request)
{
	if (request->offset < engine->disk->file.size) {
		fail(engine, request, 0);
		return;
	}
	for (uint16_t i = request->data_first; i < request->data_count; i++)
		memset(request->data[i].iov_base, 0, request->data[i].iov_len);
	finish(engine, request, BLK_S_OK);
}

static void complete_data(struct blk_engine *engine, struct blk_request *request, int result)
{
	if (!result && request->work == BLK_READ) {
		read_tail(engine, request);
		return;
	}
	if (result <= 0) {
		fail(engine, request, result ? -result : EIO);
		return;
	}
	if (engine->bounce_owner == request && request->work == BLK_READ)
		iov_copy_in(request->data + request->data_first,
			    request->data_count - request->data_first, engine->bounce,
			    (size_t)result);
	blk_request_advance(request, (uint64_t)result);
	if (request->remaining)
		start(engine, request);
	else
		finish_work(engine, request);
}

static void complete_range(struct blk_engine *engine, struct blk_request *request, int result)
{
	struct blk_disk *disk = engine->disk;

	if (request->writing_zeros && result > 0) {
		request->offset += (uint64_t)result;
		request->remaining -= (uint64_t)result;
	} else if (result == -EOPNOTSUPP && request->work == BLK_ZERO && !request->writing_zeros) {
		__atomic_store_n(&disk->no_zero_range, true, __ATOMIC_RELAXED);
		request->unmap = false;
	} else if (result == -EOPNOTSUPP && request->work == BLK_DISCARD) {
		finish(engine, request, BLK_S_UNSUPP);
		return;
	} else if (result) {
		fail(engine, request, -result);
		return;
	} else if (request->writing_zeros) {
		fail(engine, request, EIO);
		return;
	} else {
		request->remaining = 0;
	}
	if (request->remaining || blk_request_next_range(request))
		start(engine, request);
	else
		finish_work(engine, request);
}

static void complete(void *context, void *operation, int result)
{
	struct blk_engine *engine = context;
	struct blk_request *request = operation;

	if (engine->dropping) {
		drop(engine, request);
		return;
	}
	if ((result == -EINTR || result == -EAGAIN) && request->retries++ < RETRIES_MAX) {
		start(engine, request);
		return;
	}
	request->retries = 0;
	if (request->syncing || request->work == BLK_SYNC)
		complete_sync(engine, request, result);
	else if (request->work == BLK_READ || request->work == BLK_WRITE)
		complete_data(engine, request, result);
	else
		complete_range(engine, request, result);
}

static void batch_done(void *context)
{
	struct blk_engine *engine = context;

	blk_ring_submit(&engine->ring);
	engine->ops->batch_done(engine->context);
}

static const struct blk_ring_handler ring_handler = {
    .complete = complete,
    .batch_done = batch_done,
};

void blk_engine_count_failed(struct blk_engine *engine)
{
	count(engine, BLK_COUNT_FAILED, 1);
}

void blk_engine_start(struct blk_engine *engine, struct blk_request *request)
{
	switch (request->work) {
	case BLK_READ:
		count(engine, BLK_COUNT_READS, 1);
		count(engine, BLK_COUNT_BYTES_READ, request->remaining);
		break;
	case BLK_WRITE:
		count(engine, BLK_COUNT_WRITES, 1);
		count(engine, BLK_COUNT_BYTES_WRITTEN, request->remaining);
		break;
	case BLK_SYNC:
		count(engine, BLK_COUNT_SYNCS, 1);
		break;
	case BLK_DISCARD:
		count(engine, BLK_COUNT_DISCARDS, 1);
		break;
	case BLK_ZERO:
		count(engine, BLK_COUNT_ZEROES, 1);
		break;
	}
	start(engine, request);
}

void blk_engine_submit(struct blk_engine *engine)
{
	blk_ring_submit(&engine->ring);
}

void blk_engine_drain(struct blk_engine *engine)
{
	blk_ring_drain(&engine->ring);
}

void blk_engine_drop(struct blk_engine *engine)
{
	struct blk_request *waiting = engine->bounce_waiting;

	engine->dropping = true;
	engine->bounce_waiting = NULL;
	engine->bounce_end = &engine->bounce_waiting;
	while (waiting) {
		struct blk_request *next = waiting->next;

		drop(engine, waiting);
		waiting = next;
	}
	blk_ring_drain(&engine->ring);
	engine->dropping = false;
}

struct error *blk_engine_create(struct blk_engine *engine, struct blk_disk *disk,
				unsigned int depth, struct event_loop *loop,
				const struct blk_engine_ops *ops, void *context)
{
	*engine =
	    (struct blk_engine){.disk = disk, .ring.event_fd = -1, .ops = ops, .context = context};
	engine->bounce_end = &engine->bounce_waiting;
	if (disk->file.direct) {
		engine->bounce =
		    aligned_alloc(MAX(disk->file.memory_alignment, 4096U), BOUNCE_SIZE);
		if (!engine->bounce)
			return error_system(ENOMEM, "disk requests");
	}
	return blk_ring_create(&engine->ring, disk->file.fd, depth, loop, &ring_handler, engine);
}

void blk_engine_destroy(struct blk_engine *engine)
{
	if (engine->ring.in_flight)
		blk_engine_drop(engine);
	blk_ring_destroy(&engine->ring);
	free(engine->bounce);
	*engine = (struct blk_engine){.ring.event_fd = -1};
}
