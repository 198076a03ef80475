/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packed rings (virtio 1.2 section 2.8): one ring of descriptors that both sides write, and an
 * event suppression structure of each side. A descriptor belongs to the device when its AVAIL bit
 * equals the wrap counter of the ring and its USED bit does not.
 *
 *	descriptor:        u64 address, u32 length, u16 id, u16 flags
 *	event suppression: u16 position (bit 15: wrap counter), u16 flags
 *
 * Positions advance by descriptors, not by chains. signalled_used keeps the wrap counter in bit 15.
 *
 * Runs on the queue's thread. What can fail is what the guest breaks: each function says which rule
 * it was.
 */
#include "base/bytes.h"
#include "virtio/virtqueue_ring.h"

#define DESCRIPTOR_AVAIL    0x0080
#define DESCRIPTOR_USED	    0x8000
#define DESCRIPTOR_LENGTH   8
#define DESCRIPTOR_ID	    12
#define DESCRIPTOR_FLAGS    14
#define EVENT_SIZE	    4
#define EVENT_FLAGS	    2
#define EVENT_FLAG_ENABLE   0
#define EVENT_FLAG_DISABLE  1
#define EVENT_FLAG_POSITION 2
#define WRAP_BIT	    0x8000

static const char lost[] = "a ring is no longer in plugged memory";

static uint64_t descriptors_size(uint16_t size)
{
	return (uint64_t)size * DESCRIPTOR_SIZE;
}

static uint64_t event_size(uint16_t size)
{
	return EVENT_SIZE;
}

static bool access_ring(const struct virtqueue *queue, enum memory_access_mode mode, uint8_t **ring)
{
	return ring_access(queue, queue->layout.descriptors, descriptors_size(queue->layout.size),
			   mode, ring);
}

static struct descriptor load_descriptor(const uint8_t *host)
{
	uint64_t low = ring_load64(host), high = ring_load64(host + 8);

	return (struct descriptor){.address = low,
				   .size = (uint32_t)high,
				   .link = (uint16_t)(high >> 32),
				   .flags = (uint16_t)(high >> 48)};
}

static bool flags_available(uint16_t flags, bool wrap)
{
	return !!(flags & DESCRIPTOR_AVAIL) == wrap && !!(flags & DESCRIPTOR_USED) != wrap;
}

static const char *packed_available(const struct virtqueue *queue, bool *available)
{
	uint8_t *ring;

	if (!access_ring(queue, MEMORY_READ, &ring))
		return lost;
	*available = flags_available(
	    ring_load16(ring + (size_t)queue->next_avail * DESCRIPTOR_SIZE + DESCRIPTOR_FLAGS),
	    queue->avail_wrap);
	return NULL;
}

/* Every entry of the table is a buffer, in order; only the WRITE flag means something
 * (section 2.8.7). */
static const char *walk_indirect(const struct virtqueue *queue, struct virtqueue_chain *chain,
				 const struct descriptor *descriptor)
{
	const uint8_t *table;
	uint32_t entries;
	const char *reason;

	reason = chain_indirect_table(queue, descriptor, &table, &entries);
	for (uint32_t i = 0; i < entries && !reason; i++) {
		struct descriptor entry = load_descriptor(table + (size_t)i * DESCRIPTOR_SIZE);

		if (entry.flags & DESCRIPTOR_INDIRECT)
			return "an indirect table refers to another indirect table";
		reason = chain_add_buffer(queue, chain, &entry);
	}
	return reason;
}

static const char *walk(const struct virtqueue *queue, struct virtqueue_chain *chain,
			const uint8_t *ring)
{
	uint16_t position = queue->next_avail;

	for (chain->descriptors = 0; chain->descriptors < queue->layout.size;) {
		struct descriptor descriptor =
		    load_descriptor(ring + (size_t)position * DESCRIPTOR_SIZE);
		const char *reason;

		chain->descriptors++;
		chain->id = descriptor.link; /* that of the last one counts */
		if (descriptor.flags & DESCRIPTOR_INDIRECT) {
			if (chain->descriptors > 1 || descriptor.flags & DESCRIPTOR_NEXT)
				return "an indirect descriptor is part of a longer chain";
			return walk_indirect(queue, chain, &descriptor);
		}
		reason = chain_add_buffer(queue, chain, &descriptor);
		if (reason)
			return reason;
		if (!(descriptor.flags & DESCRIPTOR_NEXT))
			return NULL;
		if (++position == queue->layout.size)
			position = 0;
	}
	return "a descriptor chain is longer than the queue";
}

static const char *packed_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	const char *reason;
	uint8_t *ring;

	if (!access_ring(queue, MEMORY_READ, &ring))
		return lost;
	reason = walk(queue, chain, ring);
	if (reason)
		return reason;
	queue->next_avail += chain->descriptors;
	if (queue->next_avail >= queue->layout.size) {
		queue->next_avail -= queue->layout.size;
		queue->avail_wrap = !queue->avail_wrap;
	}
	return NULL;
}

static void packed_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
	if (queue->next_avail < chain->descriptors) {
		queue->next_avail += queue->layout.size;
		queue->avail_wrap = !queue->avail_wrap;
	}
	queue->next_avail -= chain->descriptors;
}

/* Descriptors pushed since the last interrupt, if that is at most one turn of the ring. */
static uint16_t unsignalled(const struct virtqueue *queue)
{
	uint16_t previous = queue->signalled_used & ~WRAP_BIT;
	bool previous_wrap = queue->signalled_used & WRAP_BIT;

	return queue->next_used - previous +
	       (previous_wrap == queue->used_wrap ? 0 : queue->layout.size);
}

/* Fills the used descriptor of @chain but for its flags, which are returned; moves the position. */
static uint16_t fill_used(struct virtqueue *queue, const struct virtqueue_chain *chain,
			  uint32_t written, uint8_t *entry)
{
	uint16_t flags = queue->used_wrap ? DESCRIPTOR_AVAIL | DESCRIPTOR_USED : 0;

	if (chain->in_count)
		flags |= DESCRIPTOR_WRITE; /* the length means something */
	put_le16(entry + DESCRIPTOR_ID, chain->id);
	put_le32(entry + DESCRIPTOR_LENGTH, written);
	if (unsignalled(queue) + chain->descriptors > queue->layout.size)
		queue->signalled_valid = false;
	queue->next_used += chain->descriptors;
	if (queue->next_used >= queue->layout.size) {
		queue->next_used -= queue->layout.size;
		queue->used_wrap = !queue->used_wrap;
	}
	return flags;
}

static const char *packed_push(struct virtqueue *queue, const struct virtqueue_chain *chains,
			       const uint32_t *written, uint16_t count)
{
	uint16_t first_flags, flags;
	uint8_t *ring, *first, *entry;

	if (!access_ring(queue, MEMORY_WRITE, &ring))
		return lost;
	first = ring + (size_t)queue->next_used * DESCRIPTOR_SIZE;
	first_flags = fill_used(queue, &chains[0], written[0], first);
	for (uint16_t i = 1; i < count; i++) {
		entry = ring + (size_t)queue->next_used * DESCRIPTOR_SIZE;
		flags = fill_used(queue, &chains[i], written[i], entry);
		ring_store16(entry + DESCRIPTOR_FLAGS, flags);
		ring_written(queue, entry, DESCRIPTOR_SIZE);
	}
	/* The driver looks at them in order, so this one publishes all. */
	ring_store16(first + DESCRIPTOR_FLAGS, first_flags);
	ring_written(queue, first, DESCRIPTOR_SIZE);
	return NULL;
}

static const char *packed_interrupt_wanted(struct virtqueue *queue, bool *wanted)
{
	uint16_t pushed = unsignalled(queue), position, flags;
	bool valid = queue->signalled_valid;
	uint8_t *event;

	*wanted = false;
	if (valid && !pushed)
		return NULL;
	if (!ring_access(queue, queue->layout.driver, EVENT_SIZE, MEMORY_READ, &event))
		return lost;
	queue->signalled_used = queue->next_used | (queue->used_wrap ? WRAP_BIT : 0);
	queue->signalled_valid = true;
	/* The used descriptors must be visible before we look at what the driver asked for. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	flags = ring_load16(event + EVENT_FLAGS);
	if (flags != EVENT_FLAG_POSITION || !queue->event_idx) {
		*wanted = flags != EVENT_FLAG_DISABLE;
		return NULL;
	}
	position = ring_load16(event);
	if (!!(position & WRAP_BIT) == queue->used_wrap)
		position &= ~WRAP_BIT;
	else /* in the previous turn of the ring: negative, as seen from this one */
		position = (position & ~WRAP_BIT) - queue->layout.size;
	*wanted =
	    !valid || ring_event_passed(position, queue->next_used, queue->next_used - pushed);
	return NULL;
}

static const char *packed_set_notifications(struct virtqueue *queue, bool enable)
{
	uint8_t *event;
	bool ahead = false;

	if (!ring_access(queue, queue->layout.device, EVENT_SIZE, MEMORY_WRITE, &event) ||
	    packed_available(queue, &ahead))
		return lost;
	if (!enable) {
		ring_store16(event + EVENT_FLAGS, EVENT_FLAG_DISABLE);
	} else if (!queue->event_idx || ahead) {
		/*
		 * The driver is past next_avail already, when a device put chains back because it
		 * needs more of them. How far past only a walk would tell, so ask for every
		 * notification.
		 */
		ring_store16(event + EVENT_FLAGS, EVENT_FLAG_ENABLE);
	} else {
		ring_store16(event, queue->next_avail | (queue->avail_wrap ? WRAP_BIT : 0));
		ring_store16(event + EVENT_FLAGS, EVENT_FLAG_POSITION);
	}
	ring_written(queue, event, EVENT_SIZE);
	return NULL;
}

const struct ring_format ring_packed = {
    .descriptors_size = descriptors_size,
    .driver_size = event_size,
    .device_size = event_size,
    .driver_alignment = 4,
    .device_alignment = 4,
    .available = packed_available,
    .pop = packed_pop,
    .unpop = packed_unpop,
    .push = packed_push,
    .interrupt_wanted = packed_interrupt_wanted,
    .set_notifications = packed_set_notifications,
};
