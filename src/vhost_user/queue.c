/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queue of queue.h: what does not depend on the ring's format (queue_split.c, queue_packed.c).
 *
 * Runs on the queue's thread. The guest controls rings and descriptors, and may change them while we look;
 * every address is looked up in the session's memory.
 */
#include "vhost_user/queue.h"

#include <inttypes.h>

#include "base/checked.h"
#include "vhost_user/queue_private.h"

#define F_INDIRECT (1ULL << 28)
#define F_EVENT	   (1ULL << 29)
#define F_PACKED   (1ULL << 34)

#define INDIRECT_MAX 1024U /* entries of an indirect table */

static void break_queue(struct vhost_user_queue *queue, const char *reason)
{
	if (!queue->broken)
		queue->broken = reason;
}

static struct error *begin(struct vhost_user_queue *queue, uint32_t base)
{
	const struct vhost_user_back_end_ring *ring =
	    vhost_user_back_end_ring(queue->back, queue->index);
	struct error *error;
	size_t size;
	uint8_t *inflight = vhost_user_back_end_inflight(queue->back, queue->index, &size);

	queue->tracks = false;
	queue->descriptor = ring->descriptor;
	queue->available = ring->available;
	queue->used = ring->used;
	queue->descriptor_address =
	    vhost_user_back_end_descriptor_address(queue->back, queue->index);
	if (inflight && size < vhost_user_inflight_size(queue->packed, queue->size))
		return error_new(EINVAL,
				 "ring %" PRIu32 " has %u entries, more than the in-flight buffer",
				 queue->index, queue->size);
	queue->again_count = queue->again_next = 0;
	error = queue->format->begin(queue, base, inflight);
	/* A buffer that was not understood stays as it is. */
	queue->tracks = inflight && !error;
	return error_prefix(error, "ring %" PRIu32, queue->index);
}

struct error *vhost_user_queue_begin(struct vhost_user_queue *queue,
				     struct vhost_user_back_end *back, uint32_t index)
{
	const struct vhost_user_back_end_ring *ring = vhost_user_back_end_ring(back, index);
	uint64_t features = vhost_user_back_end_features(back);

	*queue = (struct vhost_user_queue){
	    .back = back,
	    .index = index,
	    .size = (uint16_t)ring->size,
	    .packed = features & F_PACKED,
	    .event_idx = features & F_EVENT,
	    .indirect = features & F_INDIRECT,
	};
	queue->format = queue->packed ? &vhost_user_queue_packed : &vhost_user_queue_split;
	queue->again = calloc(queue->size, sizeof(*queue->again));
	queue->chain = calloc(queue->size, sizeof(*queue->chain));
	if (!queue->again || !queue->chain)
		return error_system(ENOMEM, "ring %" PRIu32, index);
	return begin(queue, ring->base);
}

struct error *vhost_user_queue_refresh(struct vhost_user_queue *queue)
{
	struct error *error;

	/* What a predecessor left and we have not come to yet is in the buffer still. */
	error = begin(queue, queue->format->base(queue));
	if (error)
		break_queue(queue, "the ring or the in-flight buffer has changed under it");
	return error;
}

void vhost_user_queue_end(struct vhost_user_queue *queue)
{
	/* After an orderly end nothing is in flight, whatever the ring's positions are next. */
	if (queue->tracks && !queue->in_flight && queue->again_next == queue->again_count)
		vhost_user_inflight_end(&queue->inflight);
	free(queue->again);
	free(queue->chain);
	*queue = (struct vhost_user_queue){0};
}

uint32_t vhost_user_queue_base(const struct vhost_user_queue *queue)
{
	return queue->format->base(queue);
}

const char *queue_add_buffer(const struct vhost_user_queue *queue, struct vhost_user_chain *chain,
			     uint64_t address, uint32_t size, uint16_t flags)
{
	bool writable = flags & DESCRIPTOR_WRITE;
	uint64_t left = size;

	if (!left)
		return "a buffer is empty";
	if (!writable && chain->in_count)
		return "a readable buffer is behind a writable one";
	if (chain->out_size + chain->in_size + left > UINT32_MAX)
		return "a descriptor chain has more than 4 GiB";
	*(writable ? &chain->in_size : &chain->out_size) += left;
	/* A buffer may lie in several pieces of memory that adjoin. */
	while (left) {
		uint32_t place = (uint32_t)chain->out_count + chain->in_count;
		uint64_t stretch = left;
		void *host = vhost_user_back_end_guest_part(queue->back, address, &stretch);

		if (!host)
			return "a buffer is outside of the memory that is shared";
		if (place == chain->max)
			return "a descriptor chain has more buffers than the device takes";
		chain->iov[place] = (struct iovec){host, stretch};
		chain->addresses[place] = address;
		if (writable)
			chain->in_count++;
		else
			chain->out_count++;
		address += stretch;
		left -= stretch;
	}
	return NULL;
}

const char *queue_indirect_table(const struct vhost_user_queue *queue, uint64_t address,
				 uint32_t size, const uint8_t **table, uint32_t *entries)
{
	*entries = size / DESCRIPTOR_SIZE;
	if (!queue->indirect)
		return "an indirect descriptor, without the feature for it";
	if (!*entries || size % DESCRIPTOR_SIZE)
		return "an indirect table has an invalid length";
	if (*entries > INDIRECT_MAX)
		return "an indirect table has more than 1024 entries";
	*table = vhost_user_back_end_guest(queue->back, address, size);
	return *table ? NULL : "an indirect table is outside of the memory that is shared";
}

static const char *pop(struct vhost_user_queue *queue, struct vhost_user_chain *chain, bool *got)
{
	const char *reason;

	*got = true;
	if (queue->again_next < queue->again_count)
		return queue->format->pop_again(queue, chain, &queue->again[queue->again_next++]);
	reason = queue->format->available(queue, got);
	if (reason || !*got)
		return reason;
	/* Otherwise a driver that offers a chain twice outgrows what the device set aside. */
	if (queue->in_flight >= queue->size)
		return "more chains are in flight than the queue has entries";
	return queue->format->pop(queue, chain);
}

int vhost_user_queue_pop(struct vhost_user_queue *queue, struct vhost_user_chain *chain)
{
	const char *reason;
	bool got;

	if (queue->broken)
		return -EINVAL;
	chain->out_count = chain->in_count = 0;
	chain->out_size = chain->in_size = 0;
	chain->descriptors = 1;
	reason = pop(queue, chain, &got);
	if (reason) {
		break_queue(queue, reason);
		return -EINVAL;
	}
	queue->in_flight += got;
	return got;
}

void vhost_user_queue_push(struct vhost_user_queue *queue, const struct vhost_user_chain *chain,
			   uint32_t written)
{
	for (uint16_t i = 0; i < chain->in_count; i++)
		vhost_user_back_end_wrote(queue->back, chain->addresses[chain->out_count + i],
					  chain->iov[chain->out_count + i].iov_len);
	queue->format->push(queue, chain, written);
	queue->in_flight--;
}

void vhost_user_queue_notify(struct vhost_user_queue *queue)
{
	if (queue->format->interrupt_wanted(queue))
		vhost_user_back_end_call(queue->back, queue->index);
}

bool vhost_user_queue_notifications(struct vhost_user_queue *queue, bool enable)
{
	const char *reason;
	bool available;

	if (queue->broken)
		return false;
	queue->format->set_notifications(queue, enable);
	if (!enable)
		return false;
	/* The driver must see the request before we look, or a chain in between goes unnoticed. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	reason = queue->format->available(queue, &available);
	if (!reason)
		return available;
	break_queue(queue, reason);
	return false;
}
