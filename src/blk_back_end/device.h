/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device of a vhost-user back-end for disks: what vhost_user/back_end.h calls, over a disk (blk/)
 * and a queue for each ring (queue.h), each with a thread of its own.
 *
 * The main thread has the session and the device; it takes `session_lock` to process what the front-end
 * asks, and queues hold it shared while they look at rings and memory. A queue never waits for it:
 * what it could not do is asked of it again afterwards (blk_device_unlock).
 *
 * The disk is locked (blk_file_lock) from the first ring that starts to the last that stops, not longer:
 * at a migration source and destination have the file open at once. While somebody else has it, requests wait. That
 * somebody may be a predecessor that was killed: the kernel keeps the lock until the last of its writes
 * has come to an end, so that no old write overtakes a new one.
 */
#ifndef GODWIT_BLK_BACK_END_DEVICE_H
#define GODWIT_BLK_BACK_END_DEVICE_H

#include <pthread.h>

#include "blk/blk_disk.h"
#include "vhost_user/back_end.h"

#define BLK_DEVICE_QUEUES_MAX 64U
#define BLK_DEVICE_RING_MAX   1024U /* entries */

struct blk_back_queue;
struct event_loop;
struct event_timer;

struct blk_device {
	struct blk_disk disk;
	struct blk_back_queue *queues; /* disk.queues */
	struct vhost_user_back_end *back;
	struct event_loop *loop; /* the main thread's */
	pthread_rwlock_t session_lock;
	bool session_lock_made;
	uint64_t features; /* accepted */
	uint32_t running;  /* rings that were started */
	bool locked;	   /* atomic: the disk is this process's */
	struct event_timer *lock_timer;
	int64_t lock_waited_ns; /* since when; 0: it was not said yet, -1: it was */
	int load_fd;		/* a state that will be loaded when it is all there; -1: none */
	bool loaded;		/* the cache mode is from a state, and outlives SET_FEATURES */
};

/* Opens the disk and starts the queues' threads. Undone by blk_device_destroy, also after an error. */
struct error *blk_device_create(struct blk_device *device, const struct blk_disk_options *options,
				struct event_loop *loop) MUST_CHECK;
/* No session is open. */
void blk_device_destroy(struct blk_device *device);

/* Begins a session over @fd, which is taken over. @slots: pieces of memory. */
struct error *blk_device_open(struct blk_device *device, int fd, uint32_t slots) MUST_CHECK;
/* Handles what the front-end has asked. An error ends the session: blk_device_close. */
struct error *blk_device_process(struct blk_device *device) MUST_CHECK;
/*
 * Finishes what is under way. Accepts a device without a session. In the middle of post-copy that could last for
 * ever, or write what was never there (blk_device_is_stuck): the process is to end instead.
 */
bool blk_device_is_stuck(const struct blk_device *device);
void blk_device_close(struct blk_device *device);

#endif
