/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packed rings of queue.h (virtio 1.2 section 2.8): one ring of descriptors that both sides write, and
 * an event suppression structure of each side.
 *
 *	descriptor:        u64 address, u32 length, u16 id, u16 flags
 *	event suppression: u16 position (bit 15: wrap counter), u16 flags
 *
 * The driver may write a descriptor again as soon as another one in its place was used, while its
 * request is still in flight: so the in-flight buffer has copies, and a successor works from those.
 *
 * Runs on the queue's thread. What can fail is what the guest breaks, and, at the beginning, what the
 * front-end says of its place.
 */
#include <inttypes.h>

#include "base/bytes.h"
#include "vhost_user/queue_private.h"

#define DESCRIPTOR_AVAIL    0x0080
#define DESCRIPTOR_USED	    0x8000
#define DESCRIPTOR_LENGTH   8
#define DESCRIPTOR_ID	    12
#define DESCRIPTOR_FLAGS    14
#define EVENT_FLAGS	    2
#define EVENT_FLAG_ENABLE   0
#define EVENT_FLAG_DISABLE  1
#define EVENT_FLAG_POSITION 2
#define EVENT_SIZE	    4
#define WRAP_BIT	    0x8000

static struct vhost_user_inflight_descriptor load_descriptor(const uint8_t *host)
{
	uint64_t low = queue_load64(host), high = queue_load64(host + 8);

	return (struct vhost_user_inflight_descriptor){.address = low,
						       .length = (uint32_t)high,
						       .id = (uint16_t)(high >> 32),
						       .flags = (uint16_t)(high >> 48)};
}

/* Moves a position by @count descriptors, at most the whole ring. */
static void advance(const struct vhost_user_queue *queue, uint16_t *position, bool *wrap,
		    uint32_t count)
{
	uint32_t sum = *position + count;

	if (sum >= queue->size) {
		sum -= queue->size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)sum;
}

/* GET_VRING_BASE's number: the position where it takes, and where it gives back. */
static uint32_t packed_base(const struct vhost_user_queue *queue)
{
	return queue->next_avail | (queue->avail_wrap ? WRAP_BIT : 0U) |
	       (uint32_t)queue->next_used << 16 | (queue->used_wrap ? (uint32_t)WRAP_BIT << 16 : 0);
}

static struct error *packed_begin(struct vhost_user_queue *queue, uint32_t base, void *inflight)
{
	uint32_t taken = 0;
	bool fresh;

	queue->next_avail = base & ~WRAP_BIT & UINT16_MAX;
	queue->avail_wrap = base & WRAP_BIT;
	queue->next_used = (uint16_t)(base >> 16) & ~WRAP_BIT;
	queue->used_wrap = base >> 16 & WRAP_BIT;
	queue->signalled_valid = false;
	if (queue->next_avail >= queue->size || queue->next_used >= queue->size)
		return error_new(EINVAL, "it goes on at %u and %u, and has %u entries",
				 queue->next_avail, queue->next_used, queue->size);
	if (!inflight)
		return NULL;
	fresh = vhost_user_inflight_is_new(inflight);
	TRY(vhost_user_inflight_begin_packed(&queue->inflight, inflight, queue->size,
					     queue->descriptor, &queue->next_used,
					     &queue->used_wrap, queue->again, &queue->again_count));
	if (fresh)
		return NULL;
	/* All that was taken is either given back or in flight. */
	for (uint16_t i = 0; i < queue->again_count; i++)
		taken += queue->again[i].count;
	if (taken > queue->size)
		return error_new(EINVAL, "%" PRIu32 " descriptors of %u are in flight", taken,
				 queue->size);
	queue->next_avail = queue->next_used;
	queue->avail_wrap = queue->used_wrap;
	advance(queue, &queue->next_avail, &queue->avail_wrap, taken);
	return NULL;
}

static const char *packed_available(const struct vhost_user_queue *queue, bool *available)
{
	uint16_t flags = queue_load16(
	    queue->descriptor + (size_t)queue->next_avail * DESCRIPTOR_SIZE + DESCRIPTOR_FLAGS);

	*available = !!(flags & DESCRIPTOR_AVAIL) == queue->avail_wrap &&
		     !!(flags & DESCRIPTOR_USED) != queue->avail_wrap;
	return NULL;
}

/* Every entry of the table is a buffer, in order; only the WRITE flag means something (2.8.7). */
static const char *walk_indirect(const struct vhost_user_queue *queue,
				 struct vhost_user_chain *chain,
				 const struct vhost_user_inflight_descriptor *is)
{
	const uint8_t *table;
	uint32_t entries;
	const char *reason = queue_indirect_table(queue, is->address, is->length, &table, &entries);

	for (uint32_t i = 0; !reason && i < entries; i++) {
		struct vhost_user_inflight_descriptor entry =
		    load_descriptor(table + (size_t)i * DESCRIPTOR_SIZE);

		if (entry.flags & DESCRIPTOR_INDIRECT)
			return "an indirect table refers to another indirect table";
		reason = queue_add_buffer(queue, chain, entry.address, entry.length, entry.flags);
	}
	return reason;
}

/* Adds the next descriptor of a chain; *@last: there are no more. */
static const char *add(const struct vhost_user_queue *queue, struct vhost_user_chain *chain,
		       const struct vhost_user_inflight_descriptor *is, bool first, bool *last)
{
	chain->id = is->id; /* that of the last one counts */
	*last = !(is->flags & DESCRIPTOR_NEXT);
	if (!(is->flags & DESCRIPTOR_INDIRECT))
		return queue_add_buffer(queue, chain, is->address, is->length, is->flags);
	if (!first || !*last)
		return "an indirect descriptor is part of a longer chain";
	return walk_indirect(queue, chain, is);
}

static const char *packed_pop(struct vhost_user_queue *queue, struct vhost_user_chain *chain)
{
	uint16_t position = queue->next_avail;
	bool last = false;

	for (chain->descriptors = 0; !last; chain->descriptors++) {
		struct vhost_user_inflight_descriptor *is = &queue->chain[chain->descriptors];
		const char *reason;

		if (chain->descriptors == queue->size - queue->in_flight)
			return "a descriptor chain is longer than what is free of the queue";
		*is = load_descriptor(queue->descriptor + (size_t)position * DESCRIPTOR_SIZE);
		reason = add(queue, chain, is, !chain->descriptors, &last);
		if (reason)
			return reason;
		if (++position == queue->size)
			position = 0;
	}
	if (queue->tracks && !vhost_user_inflight_take_packed(&queue->inflight, queue->chain,
							      chain->descriptors, &chain->entry))
		return "the in-flight buffer has no room for a chain";
	advance(queue, &queue->next_avail, &queue->avail_wrap, chain->descriptors);
	return NULL;
}

static const char *packed_pop_again(struct vhost_user_queue *queue, struct vhost_user_chain *chain,
				    const struct vhost_user_inflight_request *request)
{
	uint16_t entry = request->entry;
	bool last = false;

	chain->entry = entry;
	for (chain->descriptors = 0; chain->descriptors < request->count; chain->descriptors++) {
		struct vhost_user_inflight_descriptor is;
		const char *reason;

		if (!vhost_user_inflight_next(&queue->inflight, &entry, &is) || last)
			return "the in-flight buffer is damaged";
		reason = add(queue, chain, &is, !chain->descriptors, &last);
		if (reason)
			return reason;
	}
	return last ? NULL : "the in-flight buffer is damaged";
}

/* Descriptors pushed since the last interrupt, if that is at most one turn of the ring. */
static uint16_t unsignalled(const struct vhost_user_queue *queue)
{
	uint16_t previous = queue->signalled_used & ~WRAP_BIT;
	bool previous_wrap = queue->signalled_used & WRAP_BIT;

	return queue->next_used - previous + (previous_wrap == queue->used_wrap ? 0 : queue->size);
}

static void packed_push(struct vhost_user_queue *queue, const struct vhost_user_chain *chain,
			uint32_t written)
{
	uint64_t at = (uint64_t)queue->next_used * DESCRIPTOR_SIZE;
	uint16_t flags = queue->used_wrap ? DESCRIPTOR_AVAIL | DESCRIPTOR_USED : 0;
	uint8_t *entry = queue->descriptor + at;

	if (chain->in_count)
		flags |= DESCRIPTOR_WRITE; /* the length means something */
	if (unsignalled(queue) + chain->descriptors > queue->size)
		queue->signalled_valid = false;
	advance(queue, &queue->next_used, &queue->used_wrap, chain->descriptors);
	if (queue->tracks)
		vhost_user_inflight_give_packed(&queue->inflight, chain->entry);
	put_le16(entry + DESCRIPTOR_ID, chain->id);
	put_le32(entry + DESCRIPTOR_LENGTH, written);
	queue_store16(entry + DESCRIPTOR_FLAGS, flags);
	if (queue->tracks)
		vhost_user_inflight_gave_packed(&queue->inflight, &chain->entry, 1);
	vhost_user_back_end_wrote(queue->back, queue->descriptor_address + at, DESCRIPTOR_SIZE);
}

static bool packed_interrupt_wanted(struct vhost_user_queue *queue)
{
	uint16_t pushed = unsignalled(queue), position, flags;
	bool valid = queue->signalled_valid;

	if (valid && !pushed)
		return false;
	queue->signalled_used = queue->next_used | (queue->used_wrap ? WRAP_BIT : 0);
	queue->signalled_valid = true;
	/* The used descriptors must be visible before we look at what the driver asked for. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	flags = queue_load16(queue->available + EVENT_FLAGS);
	if (flags != EVENT_FLAG_POSITION || !queue->event_idx)
		return flags != EVENT_FLAG_DISABLE;
	position = queue_load16(queue->available);
	if (!!(position & WRAP_BIT) == queue->used_wrap)
		position &= ~WRAP_BIT;
	else /* in the previous turn of the ring: negative, as seen from this one */
		position = (position & ~WRAP_BIT) - queue->size;
	return !valid || queue_event_passed(position, queue->next_used, queue->next_used - pushed);
}

static void packed_set_notifications(struct vhost_user_queue *queue, bool enable)
{
	if (!enable) {
		queue_store16(queue->used + EVENT_FLAGS, EVENT_FLAG_DISABLE);
	} else if (!queue->event_idx) {
		queue_store16(queue->used + EVENT_FLAGS, EVENT_FLAG_ENABLE);
	} else {
		queue_store16(queue->used, queue->next_avail | (queue->avail_wrap ? WRAP_BIT : 0));
		queue_store16(queue->used + EVENT_FLAGS, EVENT_FLAG_POSITION);
	}
	vhost_user_back_end_wrote_used(queue->back, queue->index, 0, EVENT_SIZE);
}

const struct vhost_user_queue_format vhost_user_queue_packed = {
    .begin = packed_begin,
    .base = packed_base,
    .available = packed_available,
    .pop = packed_pop,
    .pop_again = packed_pop_again,
    .push = packed_push,
    .interrupt_wanted = packed_interrupt_wanted,
    .set_notifications = packed_set_notifications,
};
