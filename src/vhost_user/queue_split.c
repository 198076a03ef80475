/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Split rings of queue.h (virtio 1.2 section 2.7):
 *
 *	available: u16 flags, u16 idx, u16 ring[size], u16 used_event
 *	used:      u16 flags, u16 idx, {u32 id, u32 len} ring[size], u16 avail_event
 *
 * Runs on the queue's thread. What can fail is what the guest breaks, and, at the beginning, what the
 * front-end says of its place.
 */
#include "base/bytes.h"
#include "vhost_user/queue_private.h"

#define FLAGS		   0
#define IDX		   2
#define RING		   4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY	   1
#define USED_ENTRY_SIZE	   8

static struct vhost_user_inflight_descriptor load_descriptor(const uint8_t *host)
{
	uint64_t low = queue_load64(host), high = queue_load64(host + 8);

	return (struct vhost_user_inflight_descriptor){.address = low,
						       .length = (uint32_t)high,
						       .flags = (uint16_t)(high >> 32),
						       .id = (uint16_t)(high >> 48)};
}

/* With a buffer that has been in use the ring itself says where to go on: all that was taken is
 * either in the used ring or in flight. */
static struct error *split_begin(struct vhost_user_queue *queue, uint32_t base, void *inflight)
{
	uint16_t used = queue_load16(queue->used + IDX), *heads;
	bool fresh;
	struct error *error;

	queue->next_used = used;
	queue->next_avail = (uint16_t)base;
	queue->signalled_valid = false;
	if (!inflight)
		return NULL;
	heads = calloc(queue->size, sizeof(*heads));
	if (!heads)
		return error_system(ENOMEM, "cannot look through the in-flight buffer");
	fresh = vhost_user_inflight_is_new(inflight);
	error = vhost_user_inflight_begin_split(&queue->inflight, inflight, queue->size, used,
						heads, &queue->again_count);
	for (uint16_t i = 0; i < queue->again_count; i++)
		queue->again[i] = (struct vhost_user_inflight_request){heads[i], 1};
	free(heads);
	if (!error && !fresh)
		queue->next_avail = (uint16_t)(used + queue->again_count);
	return error;
}

static uint32_t split_base(const struct vhost_user_queue *queue)
{
	return queue->next_avail;
}

static const char *split_available(const struct vhost_user_queue *queue, bool *available)
{
	uint16_t count = (uint16_t)(queue_load16(queue->available + IDX) - queue->next_avail);

	*available = count > 0;
	return count > queue->size ? "the available index is further ahead than the queue is long"
				   : NULL;
}

/* Each step counts, so a loop ends where the table is long. */
static const char *walk(const struct vhost_user_queue *queue, struct vhost_user_chain *chain,
			uint16_t index)
{
	const uint8_t *table = queue->descriptor;
	uint32_t entries = queue->size, left = entries;
	bool in_indirect = false;

	for (;;) {
		struct vhost_user_inflight_descriptor is;
		const char *reason;

		if (index >= entries)
			return "a descriptor index is outside its table";
		if (!left--)
			return "a descriptor chain is longer than its table or loops";
		is = load_descriptor(table + (size_t)index * DESCRIPTOR_SIZE);
		if (is.flags & DESCRIPTOR_INDIRECT) {
			if (in_indirect)
				return "an indirect table refers to another indirect table";
			if (is.flags & DESCRIPTOR_NEXT)
				return "an indirect descriptor has a next one";
			reason =
			    queue_indirect_table(queue, is.address, is.length, &table, &entries);
			if (reason)
				return reason;
			in_indirect = true;
			left = entries;
			index = 0;
			continue;
		}
		reason = queue_add_buffer(queue, chain, is.address, is.length, is.flags);
		if (reason)
			return reason;
		if (!(is.flags & DESCRIPTOR_NEXT))
			return NULL;
		index = is.id;
	}
}

static const char *split_pop(struct vhost_user_queue *queue, struct vhost_user_chain *chain)
{
	uint16_t slot = queue->next_avail & (queue->size - 1);
	const char *reason;

	chain->id = queue_load16(queue->available + RING + slot * 2);
	reason = walk(queue, chain, chain->id);
	if (reason)
		return reason;
	queue->next_avail++;
	if (queue->tracks)
		vhost_user_inflight_take_split(&queue->inflight, chain->id);
	return NULL;
}

static const char *split_pop_again(struct vhost_user_queue *queue, struct vhost_user_chain *chain,
				   const struct vhost_user_inflight_request *request)
{
	chain->id = request->entry;
	return walk(queue, chain, chain->id);
}

static void split_push(struct vhost_user_queue *queue, const struct vhost_user_chain *chain,
		       uint32_t written)
{
	uint32_t at = RING + (uint32_t)(queue->next_used & (queue->size - 1)) * USED_ENTRY_SIZE;

	put_le32(queue->used + at, chain->id);
	put_le32(queue->used + at + 4, written);
	vhost_user_back_end_wrote_used(queue->back, queue->index, at, USED_ENTRY_SIZE);
	queue->next_used++;
	if (queue->next_used == queue->signalled_used)
		queue->signalled_valid = false; /* the distance no longer tells */
	if (queue->tracks)
		vhost_user_inflight_give_split(&queue->inflight, chain->id);
	queue_store16(queue->used + IDX, queue->next_used);
	if (queue->tracks)
		vhost_user_inflight_gave_split(&queue->inflight, &chain->id, 1, queue->next_used);
	vhost_user_back_end_wrote_used(queue->back, queue->index, IDX, 2);
}

static bool split_interrupt_wanted(struct vhost_user_queue *queue)
{
	uint16_t previous = queue->signalled_used;
	bool valid = queue->signalled_valid;

	if (valid && previous == queue->next_used)
		return false;
	queue->signalled_used = queue->next_used;
	queue->signalled_valid = true;
	/* The used index must be visible before we look at what the driver asked for. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue->event_idx)
		return !valid || queue_event_passed(queue_load16(queue->available + RING +
								 (size_t)queue->size * 2),
						    queue->next_used, previous);
	return !(queue_load16(queue->available + FLAGS) & AVAIL_NO_INTERRUPT);
}

static void split_set_notifications(struct vhost_user_queue *queue, bool enable)
{
	uint32_t event = RING + (uint32_t)queue->size * USED_ENTRY_SIZE;

	if (!queue->event_idx) {
		queue_store16(queue->used + FLAGS, enable ? 0 : USED_NO_NOTIFY);
		vhost_user_back_end_wrote_used(queue->back, queue->index, FLAGS, 2);
	} else if (enable) {
		/* An index that stays behind is silence already. */
		queue_store16(queue->used + event, queue->next_avail);
		vhost_user_back_end_wrote_used(queue->back, queue->index, event, 2);
	}
}

const struct vhost_user_queue_format vhost_user_queue_split = {
    .begin = split_begin,
    .base = split_base,
    .available = split_available,
    .pop = split_pop,
    .pop_again = split_pop_again,
    .push = split_push,
    .interrupt_wanted = split_interrupt_wanted,
    .set_notifications = split_set_notifications,
};
