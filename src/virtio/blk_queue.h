/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request queue of a virtio-blk device: takes requests from the virtqueue, carries them out
 * through its own io_uring, completes them. Private to virtio-blk (blk.c owns the device and its
 * queues).
 *
 * Everything runs on the queue's loop but creation and destruction, which happen while no loop
 * runs.
 */
#ifndef GODWIT_VIRTIO_BLK_QUEUE_H
#define GODWIT_VIRTIO_BLK_QUEUE_H

#include "base/log.h"
#include "virtio/blk_file.h"
#include "virtio/blk_request.h"
#include "virtio/blk_ring.h"
#include "virtio/virtio_device.h"

#define BLK_QUEUE_SIZE 256

/* What the queues of a device share. Fields marked atomic are written by one thread while others
 * read. */
struct blk_disk {
	struct blk_file file;
	struct blk_limits limits; /* set before DRIVER_OK */
	bool unmap;		  /* storage may be given back; else only overwritten */
	bool write_through;	  /* atomic: a write is stable when it completes */
	bool no_zero_range;	  /* atomic: the file system cannot zero a range: write zeros */
	bool sync_failed;	  /* atomic: see blk_queue.c */
	struct rate_limit error_log;
	uint8_t *zeros; /* BLK_ZEROS_SIZE bytes that read as zero */
};
#define BLK_ZEROS_SIZE KIB(64)

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

struct blk_queue {
	struct virtio_device *device;
	struct blk_disk *disk;
	struct virtqueue *virtqueue;
	struct event_loop *loop;
	struct event_timer *again; /* goes on with a queue that has had its share of the loop */
	struct blk_ring ring;
	/*
	 * BLK_QUEUE_SIZE requests of 9 KiB: the last freed is used next, and one is touched for the
	 * first time only when all touched ones are in use, so that a queue costs memory for the
	 * depth that its guest uses.
	 */
	struct blk_request *requests, *free;
	unsigned int touched;
	bool dropping; /* a reset is waiting for what is in flight: nothing is completed */
	bool pushed;   /* since the guest was last told */
	uint64_t counters[BLK_COUNTERS]; /* atomic; since the start */

	/* The one aligned buffer for requests whose own buffers O_DIRECT does not take; they wait
	 * their turn. */
	uint8_t *bounce; /* NULL: not needed */
	struct iovec bounce_iov;
	struct blk_request *bounce_owner, *bounce_waiting, **bounce_end;
};

/* @loop serves virtqueue @index of @device. Undone by blk_queue_destroy, also after an error. */
struct error *blk_queue_create(struct blk_queue *queue, struct virtio_device *device,
			       struct blk_disk *disk, uint16_t index,
			       struct event_loop *loop) MUST_CHECK;
/* Drops what is in flight. */
void blk_queue_destroy(struct blk_queue *queue);
/* Takes and starts all requests that are available. */
void blk_queue_run(struct blk_queue *queue);
/* Waits until all requests are completed. The device does not run, so that no more are taken. */
void blk_queue_drain(struct blk_queue *queue);
/* Waits until the host is done with all requests and forgets them: guest memory is not touched
 * afterwards. */
void blk_queue_drop(struct blk_queue *queue);

#endif
