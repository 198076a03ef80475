/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A ring from the side of a back-end's device, split or packed (virtio 1.2 sections 2.7 and 2.8), with
 * what is particular to back-ends: it goes on where the front-end says, notes what is in flight for a
 * successor (inflight.h), does again what a predecessor left, and marks what it writes in the log.
 *
 * The guest controls every byte of the rings, and the front-end their places and the in-flight buffer. What
 * is malformed makes the queue *broken*: vhost_user_queue_pop returns -EINVAL, `broken` says which
 * rule it was, and nothing more is taken. Chains in flight are still to be pushed.
 *
 * Threads: a queue belongs to one, its own. Between vhost_user_queue_begin or _refresh and the session's
 * memory_goes it may use what it has found; vhost_user_queue_pop looks at the session's memory, and must
 * not run while a request of the front-end is processed.
 */
#ifndef GODWIT_VHOST_USER_QUEUE_H
#define GODWIT_VHOST_USER_QUEUE_H

#include <sys/uio.h>

#include "vhost_user/back_end.h"
#include "vhost_user/inflight.h"

/* A chain of buffers. The arrays, of @max entries each, are the caller's. */
struct vhost_user_chain {
	struct iovec *iov;   /* readable ones first */
	uint64_t *addresses; /* of each, in the guest */
	uint16_t max;	     /* a chain with more pieces breaks the queue */
	uint16_t out_count, in_count;
	uint64_t out_size, in_size; /* bytes; together less than 4 GiB */
	uint16_t id;		    /* head descriptor, or buffer id */
	uint16_t descriptors;	    /* packed: entries of the ring */
	uint16_t entry;		    /* packed: in the in-flight buffer */
};

struct vhost_user_queue_format;

struct vhost_user_queue {
	struct vhost_user_back_end *back; /* NULL: not begun */
	const struct vhost_user_queue_format *format;
	uint32_t index;
	uint16_t size;
	bool packed, event_idx, indirect;
	const char *broken; /* the rule, or NULL */

	uint8_t *descriptor, *available, *used; /* in this process */
	uint64_t descriptor_address;		/* packed: in the guest, for the log */
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap; /* packed */
	uint16_t signalled_used;
	bool signalled_valid;
	uint16_t in_flight;

	bool tracks; /* there is an in-flight buffer */
	struct vhost_user_inflight_queue inflight;
	/* What a predecessor left, in order; `entry` is the head with split rings. */
	struct vhost_user_inflight_request *again;
	uint16_t again_count, again_next;
	struct vhost_user_inflight_descriptor *chain; /* packed: room for one */
};

/*
 * Ring @index of @back, which has been started, with the features of the session. Undone by
 * vhost_user_queue_end, also after an error: the place to go on or the in-flight buffer is wrong.
 */
struct error *vhost_user_queue_begin(struct vhost_user_queue *queue,
				     struct vhost_user_back_end *back, uint32_t index) MUST_CHECK;
/*
 * After memory_goes, with nothing in flight: finds the ring and the in-flight buffer again. An error
 * breaks the queue.
 */
struct error *vhost_user_queue_refresh(struct vhost_user_queue *queue) MUST_CHECK;
/* With nothing in flight: the in-flight buffer begins anew. Accepts one that was not begun. */
void vhost_user_queue_end(struct vhost_user_queue *queue);
/* Where the ring goes on, as GET_VRING_BASE answers. */
uint32_t vhost_user_queue_base(const struct vhost_user_queue *queue);

/* Takes the next chain. 1: *@chain is filled; 0: there is none; -EINVAL: broken. */
int vhost_user_queue_pop(struct vhost_user_queue *queue, struct vhost_user_chain *chain) MUST_CHECK;
/*
 * Gives @chain back with @written bytes written from the start of its writable part on. All of that part is
 * marked in the log. The driver sees it at once, but is interrupted only by vhost_user_queue_notify.
 */
void vhost_user_queue_push(struct vhost_user_queue *queue, const struct vhost_user_chain *chain,
			   uint32_t written);
/* Interrupts the driver if it asked for it since the last time. Once per batch of pushes. */
void vhost_user_queue_notify(struct vhost_user_queue *queue);
/*
 * Asks the driver to notify of new chains, or not to. After enabling, returns whether one is available:
 * then the caller pops again.
 */
bool vhost_user_queue_notifications(struct vhost_user_queue *queue, bool enable);

#endif
