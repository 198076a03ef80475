/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One io_uring over one file: the back-end of one queue of a virtio-blk device.
 *
 * Operations are prepared, then submitted together with one system call. Completions come through
 * an eventfd to the event loop that the ring was created for; all of a batch are handed out before
 * `batch_done` is called, which is where what they led to is submitted and the guest is told.
 * Everything runs on that loop's thread. Nothing allocates after creation.
 */
#ifndef GODWIT_BLK_BLK_RING_H
#define GODWIT_BLK_BLK_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/event_loop.h"

struct blk_ring_handler {
	/* @operation as it was given; @result as of the system call: bytes, 0, or a negative errno.
	 */
	void (*complete)(void *context, void *operation, int result);
	void (*batch_done)(void *context);
};

struct blk_ring {
	struct io_uring uring;
	bool created;
	/*
	 * Not registered with the ring: a registered file, and the lock on it, outlives ring and
	 * process until the kernel has taken the ring down in the background.
	 */
	int fd;
	int event_fd;
	struct event_source *source;
	struct event_timer *retry; /* when the kernel had no memory for a submission */
	unsigned int in_flight;	   /* prepared and not completed */
	bool submitting;	   /* completions are taken by blk_ring_submit */
	const struct blk_ring_handler *handler;
	void *context;
};

/*
 * Prepares *ring for at most @depth operations at a time on @fd, which the caller keeps open.
 * Before @loop runs. Undone by blk_ring_destroy, also after an error.
 */
struct error *blk_ring_create(struct blk_ring *ring, int fd, unsigned int depth,
			      struct event_loop *loop, const struct blk_ring_handler *handler,
			      void *context) MUST_CHECK;
/* No operation is in flight; the loop does not run. */
void blk_ring_destroy(struct blk_ring *ring);

/* Prepares one operation; @iov and what it points to must live until it completes. Offsets in
 * bytes. */
void blk_ring_read(struct blk_ring *ring, void *operation, const struct iovec *iov,
		   unsigned int count, uint64_t offset);
/* With @stable the data has reached the storage on completion (as with O_DSYNC). */
void blk_ring_write(struct blk_ring *ring, void *operation, const struct iovec *iov,
		    unsigned int count, uint64_t offset, bool stable);
/* fdatasync: what was completed before is on the storage afterwards, through the caches of its
 * drives. */
void blk_ring_sync(struct blk_ring *ring, void *operation);
/* @mode: FALLOC_FL_*. */
void blk_ring_fallocate(struct blk_ring *ring, void *operation, int mode, uint64_t offset,
			uint64_t size);
/* Hands what is prepared to the kernel, and completes what is done at once. */
void blk_ring_submit(struct blk_ring *ring);
/* Submits, then completes operations (in batches as always) until none is in flight. */
void blk_ring_drain(struct blk_ring *ring);

#endif
