/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The buffer in which a back-end notes which requests it has taken and not yet given back, so that
 * its successor can do them again, in order, after it died at any instruction ("Inflight I/O tracking" of
 * the vhost-user specification). Split and packed rings have each a layout of their own.
 *
 * The order of the calls is the contract:
 *
 *  split:  take → … → give (each request of a batch) → the used ring's index goes up → gave
 *  packed: take → … → give (each) → the first descriptor's flags are written → gave
 *
 * Nothing is taken between the first give of a batch and its gave.
 *
 * The buffer is shared with the front-end, which may write anything into it: indices from it are
 * checked. One thread a queue; no locks.
 */
#ifndef GODWIT_VHOST_USER_INFLIGHT_H
#define GODWIT_VHOST_USER_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Bytes of a queue's part of the buffer, for rings of @entries. */
size_t vhost_user_inflight_size(bool packed, uint32_t entries);

/* A queue's part. Set up by the begin functions. */
struct vhost_user_inflight_queue {
	uint8_t *bytes;	  /* borrowed; aligned to 8 */
	uint16_t entries; /* of the ring, at most 32768 */
	uint64_t counter; /* of the next request */
};

/* Whether the part at @bytes is empty: nothing was noted in it, or vhost_user_inflight_end came after. */
bool vhost_user_inflight_is_new(const void *bytes);
/* Nothing is in flight, and what comes next may begin anywhere: the part becomes empty. */
void vhost_user_inflight_end(struct vhost_user_inflight_queue *queue);

/* --- Split rings ------------------------------------------------------------------------------- */

/*
 * Takes over @bytes (vhost_user_inflight_size(false, @entries)), empty or left by a predecessor; @used_index
 * is the used ring's index now. @heads has room for @entries; the first *@count of them are the
 * requests to do again, in order. Code EINVAL: the buffer is another ring's, or damaged.
 */
struct error *vhost_user_inflight_begin_split(struct vhost_user_inflight_queue *queue, void *bytes,
					      uint16_t entries, uint16_t used_index,
					      uint16_t *heads, uint16_t *count) MUST_CHECK;
/* The request with descriptor @head (below the entries) has been taken from the available ring. */
void vhost_user_inflight_take_split(struct vhost_user_inflight_queue *queue, uint16_t head);
/* It is done, and part of the batch that will be given next. */
void vhost_user_inflight_give_split(struct vhost_user_inflight_queue *queue, uint16_t head);
/* The batch of @count @heads, given in that order, is in the used ring, whose index is @used_index. */
void vhost_user_inflight_gave_split(struct vhost_user_inflight_queue *queue, const uint16_t *heads,
				    uint16_t count, uint16_t used_index);

/* --- Packed rings ------------------------------------------------------------------------------ */

/* A descriptor as in the ring. */
struct vhost_user_inflight_descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t id, flags;
};

/* A request to do again: its chain is in the entries that vhost_user_inflight_next walks. */
struct vhost_user_inflight_request {
	uint16_t entry, count;
};

/*
 * As for split rings. @ring: the descriptors, 16 bytes each. *@used_index and *@used_wrap are where the
 * device goes on giving back: from the caller for an empty buffer, otherwise from the buffer.
 */
struct error *vhost_user_inflight_begin_packed(struct vhost_user_inflight_queue *queue, void *bytes,
					       uint16_t entries, const void *ring,
					       uint16_t *used_index, bool *used_wrap,
					       struct vhost_user_inflight_request *requests,
					       uint16_t *count) MUST_CHECK;
/*
 * A chain of @count descriptors has been taken; *@entry names it from now on. False: there is no room, which
 * a driver that keeps to its ring does not reach.
 */
bool vhost_user_inflight_take_packed(struct vhost_user_inflight_queue *queue,
				     const struct vhost_user_inflight_descriptor *chain,
				     uint16_t count, uint16_t *entry);
/* Descriptor of the chain at *@entry, which becomes the next one's; false: damaged. */
bool vhost_user_inflight_next(const struct vhost_user_inflight_queue *queue, uint16_t *entry,
			      struct vhost_user_inflight_descriptor *descriptor);
void vhost_user_inflight_give_packed(struct vhost_user_inflight_queue *queue, uint16_t entry);
/* The batch of @count @entries, given in that order, is in the ring. */
void vhost_user_inflight_gave_packed(struct vhost_user_inflight_queue *queue,
				     const uint16_t *entries, uint16_t count);

#endif
