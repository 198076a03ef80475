/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One ring of a back-end for disks: chains become requests, which the engine (blk/blk_engine.h) carries out.
 *
 * The functions are for the main thread, which holds the device's session_lock, and return when the
 * queue's thread has done what they say.
 */
#ifndef GODWIT_BLK_BACK_END_QUEUE_H
#define GODWIT_BLK_BACK_END_QUEUE_H

#include "blk/blk_engine.h"
#include "vhost_user/queue.h"

struct blk_device;
struct back_request;

struct blk_back_queue {
	struct blk_device *device;
	uint32_t index;
	struct event_loop *loop;
	struct event_timer *again; /* goes on after its share; polls where there is no kick */
	struct event_source *kick;
	struct blk_engine engine;
	struct vhost_user_queue ring;
	bool started;
	bool enabled; /* atomic */
	bool stale;   /* what was found in the session is to be found again */
	bool missed;  /* atomic: it was to run while the session was locked */
	bool starved; /* there were more chains than requests */
	bool pushed;  /* since the guest was last told */
	bool told;    /* that the ring is broken */
	/* As many as the engine's depth; the last freed is used next. */
	struct back_request *requests, *free;
	unsigned int touched;
};

/* Starts its thread. Undone by blk_back_queue_destroy, also after an error. */
struct error *blk_back_queue_create(struct blk_back_queue *queue, struct blk_device *device,
				    uint32_t index) MUST_CHECK;
/* It has been stopped. */
void blk_back_queue_destroy(struct blk_back_queue *queue);

/* The ring has been started: begins, and runs when the session is unlocked. */
struct error *blk_back_queue_start(struct blk_back_queue *queue) MUST_CHECK;
/* Finishes what is under way; *@base is where the ring goes on. */
void blk_back_queue_stop(struct blk_back_queue *queue, uint32_t *base);
/*
 * Finishes what is under way in guest memory [@guest_address, + @size), or (@size 0) all of it, and looks
 * for the ring again afterwards.
 */
void blk_back_queue_leave(struct blk_back_queue *queue, uint64_t guest_address, uint64_t size);
/* Runs when the session is unlocked. */
void blk_back_queue_wake(struct blk_back_queue *queue);

#endif
