/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Carries out the requests of one queue on a disk through an io_uring of its own.
 *
 * Everything runs on the loop's thread but creation and destruction, which happen while no loop runs. The
 * owner has the ring and the requests; it gives as many at a time as the depth it has asked for.
 * Nothing allocates after creation.
 */
#ifndef GODWIT_BLK_BLK_ENGINE_H
#define GODWIT_BLK_BLK_ENGINE_H

#include "blk/blk_disk.h"
#include "blk/blk_ring.h"

enum blk_counter {
	BLK_COUNT_READS, /* requests */
	BLK_COUNT_BYTES_READ,
	BLK_COUNT_WRITES,
	BLK_COUNT_BYTES_WRITTEN,
	BLK_COUNT_SYNCS,
	BLK_COUNT_DISCARDS,
	BLK_COUNT_ZEROES,
	BLK_COUNT_FAILED, /* answered with an error */
	BLK_COUNTERS,
};

struct blk_engine_ops {
	/* @request is the owner's again, to be answered with @status. */
	void (*done)(void *context, struct blk_request *request, enum blk_status status);
	/* As above, but it is not to be answered (blk_engine_drop). */
	void (*dropped)(void *context, struct blk_request *request);
	/* Some have been done: now is the time to tell the guest. */
	void (*batch_done)(void *context);
};

struct blk_engine {
	struct blk_disk *disk;
	struct blk_ring ring;
	const struct blk_engine_ops *ops;
	void *context;
	bool dropping;
	uint64_t counters[BLK_COUNTERS]; /* atomic; since the start */

	/* The one aligned buffer for requests whose own buffers O_DIRECT does not take; they wait
	 * their turn. */
	uint8_t *bounce; /* NULL: not needed */
	struct iovec bounce_iov;
	struct blk_request *bounce_owner, *bounce_waiting, **bounce_end;
};

/* At most @depth requests at a time, on @loop. Undone by blk_engine_destroy, also after an error. */
struct error *blk_engine_create(struct blk_engine *engine, struct blk_disk *disk,
				unsigned int depth, struct event_loop *loop,
				const struct blk_engine_ops *ops, void *context) MUST_CHECK;
/* Drops what is under way. Also of an engine that is all zeros but for ring.event_fd = -1. */
void blk_engine_destroy(struct blk_engine *engine);
/* Begins @request, which blk_request_parse has said is BLK_TO_DO. Hands nothing to the kernel yet. */
void blk_engine_start(struct blk_engine *engine, struct blk_request *request);
/* One that was answered without the engine is counted as failed. */
void blk_engine_count_failed(struct blk_engine *engine);
/* Hands to the kernel what was begun. */
void blk_engine_submit(struct blk_engine *engine);
/* Waits until all requests are done. */
void blk_engine_drain(struct blk_engine *engine);
/* Waits until the host is done with all requests and drops them: memory is not touched afterwards. */
void blk_engine_drop(struct blk_engine *engine);

#endif
