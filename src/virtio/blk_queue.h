/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request queue of a virtio-blk device: takes requests from the virtqueue, has them
 * carried out (blk/blk_engine.h), completes them. Private to virtio-blk (blk.c owns the device and its
 * queues).
 *
 * Everything runs on the queue's loop but creation and destruction, which happen while no loop
 * runs.
 */
#ifndef GODWIT_VIRTIO_BLK_QUEUE_H
#define GODWIT_VIRTIO_BLK_QUEUE_H

#include "blk/blk_engine.h"
#include "virtio/virtio_device.h"

#define BLK_QUEUE_SIZE 256

struct queue_request;

struct blk_queue {
	struct virtio_device *device;
	struct blk_disk *disk;
	struct virtqueue *virtqueue;
	struct event_loop *loop;
	struct event_timer *again; /* goes on with a queue that has had its share of the loop */
	struct blk_engine engine;
	/*
	 * BLK_QUEUE_SIZE requests of 9 KiB: the last freed is used next, and one is touched for the
	 * first time only when all touched ones are in use, so that a queue costs memory for the
	 * depth that its guest uses.
	 */
	struct queue_request *requests;
	struct blk_request *free;
	unsigned int touched;
	bool pushed; /* since the guest was last told */
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
