/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Split rings (virtio 1.2 section 2.7): a table of descriptors, a ring of heads that the driver
 * makes available and a ring of heads that the device has used. All three belong to the guest.
 *
 *	available: u16 flags, u16 idx, u16 ring[size], u16 used_event
 *	used:      u16 flags, u16 idx, {u32 id, u32 len} ring[size], u16 avail_event
 *
 * Runs on the queue's thread. What can fail is what the guest breaks: each function says which rule
 * it was.
 */
#include "base/bytes.h"
#include "virtio/virtqueue_ring.h"

#define FLAGS		   0
#define IDX		   2
#define RING		   4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY	   1
#define USED_ENTRY_SIZE	   8

static const char lost[] = "a ring is no longer in plugged memory";

static uint64_t descriptors_size(uint16_t size)
{
	return (uint64_t)size * DESCRIPTOR_SIZE;
}

static uint64_t avail_size(uint16_t size)
{
	return RING + (uint64_t)size * 2 + 2;
}

static uint64_t used_size(uint16_t size)
{
	return RING + (uint64_t)size * USED_ENTRY_SIZE + 2;
}

static bool access_avail(const struct virtqueue *queue, uint8_t **avail)
{
	return ring_access(queue, queue->layout.driver, avail_size(queue->layout.size), MEMORY_READ,
			   avail);
}

static bool access_used(const struct virtqueue *queue, uint8_t **used)
{
	return ring_access(queue, queue->layout.device, used_size(queue->layout.size), MEMORY_WRITE,
			   used);
}

static struct descriptor load_descriptor(const uint8_t *host)
{
	uint64_t low = ring_load64(host), high = ring_load64(host + 8);

	return (struct descriptor){.address = low,
				   .size = (uint32_t)high,
				   .flags = (uint16_t)(high >> 32),
				   .link = (uint16_t)(high >> 48)};
}

static const char *split_available(const struct virtqueue *queue, bool *available)
{
	uint8_t *avail;
	uint16_t count;

	if (!access_avail(queue, &avail))
		return lost;
	count = (uint16_t)(ring_load16(avail + IDX) - queue->next_avail);
	if (count > queue->layout.size)
		return "the available index is further ahead than the queue is long";
	*available = count > 0;
	return NULL;
}

/*
 * Walks the descriptors of one chain. A driver's chain may be as long as the queue; one through an
 * indirect table as long as the device's queue could be, because Linux sizes those by what the
 * device offered even when it had to make the ring itself smaller. Each step counts, so a loop ends
 * at that limit.
 */
static const char *walk(const struct virtqueue *queue, struct virtqueue_chain *chain,
			const uint8_t *table, uint16_t index)
{
	uint32_t entries = queue->layout.size, left = entries;
	bool in_indirect = false;

	for (;;) {
		struct descriptor descriptor;
		const char *reason;

		if (index >= entries)
			return "a descriptor index is outside its table";
		if (!left--)
			return "a descriptor chain is longer than its table or loops";
		descriptor = load_descriptor(table + (size_t)index * DESCRIPTOR_SIZE);
		if (descriptor.flags & DESCRIPTOR_INDIRECT) {
			if (in_indirect)
				return "an indirect table refers to another indirect table";
			if (descriptor.flags & DESCRIPTOR_NEXT)
				return "an indirect descriptor has a next one";
			reason = chain_indirect_table(queue, &descriptor, &table, &entries);
			if (reason)
				return reason;
			in_indirect = true;
			left = entries;
			index = 0;
			continue;
		}
		reason = chain_add_buffer(queue, chain, &descriptor);
		if (reason)
			return reason;
		if (!(descriptor.flags & DESCRIPTOR_NEXT))
			return NULL;
		index = descriptor.link;
	}
}

static const char *split_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint16_t slot = queue->next_avail & (queue->layout.size - 1);
	uint8_t *avail, *table;
	const char *reason;

	if (!access_avail(queue, &avail) ||
	    !ring_access(queue, queue->layout.descriptors, descriptors_size(queue->layout.size),
			 MEMORY_READ, &table))
		return lost;
	chain->id = ring_load16(avail + RING + slot * 2);
	chain->descriptors = 1;
	reason = walk(queue, chain, table, chain->id);
	if (!reason)
		queue->next_avail++;
	return reason;
}

static void split_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
	queue->next_avail--;
}

static const char *split_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
			      const uint32_t *written, uint16_t count)
{
	uint8_t *used;

	if (!access_used(queue, &used))
		return lost;
	for (uint16_t i = 0; i < count; i++) {
		uint16_t slot = queue->next_used & (queue->layout.size - 1);
		uint8_t *entry = used + RING + slot * USED_ENTRY_SIZE;

		put_le32(entry, chains[i].id);
		put_le32(entry + 4, written[i]);
		ring_written(queue, entry, USED_ENTRY_SIZE);
		queue->next_used++;
		if (queue->next_used == queue->signalled_used)
			queue->signalled_valid =
			    false; /* so many that the distance no longer tells */
	}
	ring_store16(used + IDX, queue->next_used);
	ring_written(queue, used + IDX, 2);
	return NULL;
}

static const char *split_interrupt_wanted(struct virtqueue *queue, bool *wanted)
{
	uint16_t previous = queue->signalled_used;
	bool valid = queue->signalled_valid;
	uint8_t *avail;

	*wanted = false;
	if (valid && previous == queue->next_used)
		return NULL;
	if (!access_avail(queue, &avail))
		return lost;
	queue->signalled_used = queue->next_used;
	queue->signalled_valid = true;
	/* The used index must be visible before we look at what the driver asked for, or both sides
	 * sleep. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue->event_idx)
		*wanted =
		    !valid || ring_event_passed(ring_load16(avail + RING + queue->layout.size * 2),
						queue->next_used, previous);
	else
		*wanted = !(ring_load16(avail + FLAGS) & AVAIL_NO_INTERRUPT);
	return NULL;
}

static const char *split_set_notifications(struct virtqueue *queue, bool enable)
{
	uint8_t *used, *avail, *avail_event;
	uint16_t seen;

	if (!access_used(queue, &used) || !access_avail(queue, &avail))
		return lost;
	avail_event = used + RING + queue->layout.size * USED_ENTRY_SIZE;
	if (!queue->event_idx) {
		ring_store16(used + FLAGS, enable ? 0 : USED_NO_NOTIFY);
		ring_written(queue, used + FLAGS, 2);
	}
	if (!queue->event_idx || !enable)
		return NULL;
	/*
	 * The event index is what the driver has made available so far, not next_avail: a device
	 * that put chains back because it needs more of them must hear of the next one. Again if
	 * the driver moved meanwhile, for it may not have seen the index; one that keeps moving
	 * shall not keep us. (An index that stays behind is silence already.)
	 */
	for (int i = 0; i < 4; i++) {
		seen = ring_load16(avail + IDX);
		ring_store16(avail_event, seen);
		ring_written(queue, avail_event, 2);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (ring_load16(avail + IDX) == seen)
			break;
	}
	return NULL;
}

const struct ring_format ring_split = {
    .descriptors_size = descriptors_size,
    .driver_size = avail_size,
    .device_size = used_size,
    .driver_alignment = 2,
    .device_alignment = 4,
    .available = split_available,
    .pop = split_pop,
    .unpop = split_unpop,
    .push = split_push,
    .interrupt_wanted = split_interrupt_wanted,
    .set_notifications = split_set_notifications,
};
