/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtqueue of virtqueue.h: what does not depend on the ring's format (virtqueue_split.c,
 * _packed.c).
 *
 * Runs on the queue's thread; `chains` and `in_flight` are also read by reports, hence atomic. The
 * guest controls the rings and the descriptors, and may change them while we look. Host pointers
 * into rings are never kept: each operation resolves them anew inside a read section, since the
 * guest may unplug the memory that its own rings are in.
 */
#include "virtio/virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/iov.h"
#include "base/state.h"
#include "virtio/virtio_device.h"
#include "virtio/virtqueue_ring.h"

static const struct ring_format *format_of(const struct virtqueue *queue)
{
	return queue->packed ? &ring_packed : &ring_split;
}

void virtqueue_break(struct virtqueue *queue, const char *reason)
{
	queue->broken = true;
	if (queue->owner)
		virtio_device_needs_reset(queue->owner, reason);
}

void virtqueue_init(struct virtqueue *queue, struct virtio_device *owner, uint16_t index,
		    uint16_t size_max)
{
	assert(is_power_of_two(size_max) && size_max <= VIRTQUEUE_SIZE_MAX);
	*queue = (struct virtqueue){
	    .owner = owner, .index = index, .size_max = size_max, .layout.size = size_max};
}

static void set_in_flight(struct virtqueue *queue, int change)
{
	__atomic_store_n(&queue->in_flight, queue->in_flight + change, __ATOMIC_RELAXED);
}

static void count_chains(struct virtqueue *queue, int change)
{
	__atomic_store_n(&queue->chains, queue->chains + (uint64_t)(int64_t)change,
			 __ATOMIC_RELAXED);
}

void virtqueue_reset(struct virtqueue *queue)
{
	uint64_t chains = queue->chains;

	assert(!queue->in_flight);
	virtqueue_init(queue, queue->owner, queue->index, queue->size_max);
	queue->chains = chains; /* counts since the start */
}

bool ring_access(const struct virtqueue *queue, uint64_t address, uint64_t size,
		 enum memory_access_mode mode, uint8_t **host)
{
	struct memory_span span;

	if (!memory_access(queue->map, address, size, mode, &span))
		return false;
	*host = span.host;
	return true;
}

/* One of the three areas: aligned, as the format asks, in guest and in host memory, and plugged. */
static bool area_valid(const struct virtqueue *queue, uint64_t address, uint64_t size,
		       uint64_t alignment, enum memory_access_mode mode)
{
	uint8_t *host;

	return is_aligned(address, alignment) && ring_access(queue, address, size, mode, &host) &&
	       is_aligned((uintptr_t)host, alignment);
}

static void negotiate(struct virtqueue *queue, struct memory_map *map, uint64_t features)
{
	queue->map = map;
	queue->packed = features & VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
	queue->event_idx = features & VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX);
	queue->indirect = features & VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC);
}

static bool size_valid(const struct virtqueue *queue)
{
	uint16_t size = queue->layout.size;

	return size && size <= queue->size_max && (queue->packed || is_power_of_two(size));
}

int virtqueue_enable(struct virtqueue *queue, struct memory_map *map, uint64_t features)
{
	const struct virtqueue_layout *layout = &queue->layout;
	const struct ring_format *format;
	bool valid;
	int section;

	negotiate(queue, map, features);
	format = format_of(queue);
	if (!size_valid(queue)) {
		virtqueue_break(queue, "a queue has an invalid size");
		return -EINVAL;
	}
	section = memory_read_begin(map);
	valid = area_valid(queue, layout->descriptors, format->descriptors_size(layout->size),
			   DESCRIPTOR_SIZE, queue->packed ? MEMORY_WRITE : MEMORY_READ) &&
		area_valid(queue, layout->driver, format->driver_size(layout->size),
			   format->driver_alignment, MEMORY_READ) &&
		area_valid(queue, layout->device, format->device_size(layout->size),
			   format->device_alignment, MEMORY_WRITE);
	memory_read_end(map, section);
	if (!valid) {
		virtqueue_break(queue, "a ring is misaligned or not in plugged memory");
		return -EINVAL;
	}
	queue->next_avail = 0;
	queue->next_used = 0;
	queue->avail_wrap = true;
	queue->used_wrap = true;
	queue->signalled_used = queue->packed ? 0x8000 : 0;
	queue->signalled_valid = true;
	queue->enabled = true;
	return 0;
}

static void layout_state(struct virtqueue *queue, struct state *state)
{
	const struct ring_format *format = format_of(queue);
	struct virtqueue_layout *layout = &queue->layout;

	state_u16(state, "size", &layout->size);
	state_check(state, size_valid(queue), "size", "is not possible for this queue");
	state_u64(state, "descriptors", &layout->descriptors);
	state_check(state, is_aligned(layout->descriptors, DESCRIPTOR_SIZE), "descriptors",
		    "is misaligned");
	state_u64(state, "driver area", &layout->driver);
	state_check(state, is_aligned(layout->driver, format->driver_alignment), "driver area",
		    "is misaligned");
	state_u64(state, "device area", &layout->device);
	state_check(state, is_aligned(layout->device, format->device_alignment), "device area",
		    "is misaligned");
}

/* A packed ring's positions are inside of it; those of a split one count freely. */
static void position_state(const struct virtqueue *queue, const char *name, uint16_t *position,
			   uint16_t mask, struct state *state)
{
	state_u16(state, name, position);
	state_check(state, !queue->packed || (*position & mask) < queue->layout.size, name,
		    "is outside the ring");
}

void virtqueue_state(struct virtqueue *queue, struct memory_map *map, uint64_t features,
		     struct state *state)
{
	bool enabled = queue->enabled, dropped;

	if (queue->in_flight) {
		state_fail(state, error_new(EBUSY, "queue %u has %u requests in flight",
					    queue->index, queue->in_flight));
		return;
	}
	state_bool(state, "enabled", &enabled);
	state_bool(state, "broken", &queue->broken);
	if (!enabled)
		return;
	if (state_loading(state))
		negotiate(queue, map, features);
	layout_state(queue, state);
	position_state(queue, "next available", &queue->next_avail, UINT16_MAX, state);
	position_state(queue, "next used", &queue->next_used, UINT16_MAX, state);
	state_bool(state, "available wrap", &queue->avail_wrap);
	state_bool(state, "used wrap", &queue->used_wrap);
	/* A malformed chain was dropped. */
	dropped =
	    queue->broken || (queue->owner && queue->owner->status & VIRTIO_STATUS_NEEDS_RESET);
	state_check(state,
		    dropped || (queue->next_avail == queue->next_used &&
				queue->avail_wrap == queue->used_wrap),
		    "used wrap", "or its position is not where the queue was drained to");
	position_state(queue, "signalled used", &queue->signalled_used, INT16_MAX, state);
	state_bool(state, "signalled valid", &queue->signalled_valid);
	if (state_loading(state))
		queue->enabled = !state_failed(state);
}

const char *chain_add_buffer(const struct virtqueue *queue, struct virtqueue_chain *chain,
			     const struct descriptor *descriptor)
{
	bool writable = descriptor->flags & DESCRIPTOR_WRITE;
	uint64_t address = descriptor->address, left = descriptor->size;

	if (!left)
		return "a buffer is empty";
	if (!writable && chain->in_count)
		return "a readable buffer is behind a writable one";
	if (chain->out_size + chain->in_size + left > UINT32_MAX)
		return "a descriptor chain has more than 4 GiB";
	*(writable ? &chain->in_size : &chain->out_size) += left;
	/* A buffer may lie in several regions that adjoin: NUMA nodes, elastic memory behind boot
	 * memory. */
	while (left) {
		const struct memory_region *region = memory_map_find(queue->map, address);
		uint32_t used = (uint32_t)chain->out_count + chain->in_count;
		struct memory_span span;
		uint64_t stretch;

		if (!region)
			return "a buffer is outside of guest memory";
		if (used == chain->iov_max)
			return "a descriptor chain has more buffers than the device takes";
		stretch = MIN(left, region->size - (address - region->address));
		if (!memory_access(queue->map, address, stretch,
				   writable ? MEMORY_WRITE : MEMORY_READ, &span))
			return "a buffer is in unplugged memory";
		chain->iov[used] = (struct iovec){.iov_base = span.host, .iov_len = span.size};
		if (writable)
			chain->in_count++;
		else
			chain->out_count++;
		address += stretch;
		left -= stretch;
	}
	return NULL;
}

const char *chain_indirect_table(const struct virtqueue *queue, const struct descriptor *descriptor,
				 const uint8_t **table, uint32_t *entries)
{
	struct memory_span span;

	*entries = descriptor->size / DESCRIPTOR_SIZE;
	if (!queue->indirect)
		return "an indirect descriptor, without the feature for it";
	if (!*entries || descriptor->size % DESCRIPTOR_SIZE)
		return "an indirect table has an invalid length";
	if (*entries > queue->size_max)
		return "an indirect table is longer than the queue";
	if (!memory_access(queue->map, descriptor->address, descriptor->size, MEMORY_READ, &span))
		return "an indirect table is not in plugged memory";
	*table = span.host;
	return NULL;
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	const struct ring_format *format = format_of(queue);
	const char *reason;
	bool available;

	if (queue->broken)
		return -EINVAL;
	if (!queue->enabled)
		return 0;
	chain->out_count = 0;
	chain->in_count = 0;
	chain->out_size = 0;
	chain->in_size = 0;
	chain->reached = 0;
	chain->section = memory_read_begin(queue->map);
	reason = format->available(queue, &available);
	if (!reason && available) {
		/* Otherwise a driver that offers a chain twice outgrows what the device set aside.
		 */
		if (queue->in_flight >= queue->layout.size)
			reason = "more chains are in flight than the queue has entries";
		else
			reason = format->pop(queue, chain);
		if (!reason) {
			set_in_flight(queue, 1);
			count_chains(queue, 1);
			return 1;
		}
	}
	memory_read_end(queue->map, chain->section);
	if (!reason)
		return 0;
	virtqueue_break(queue, reason);
	return -EINVAL;
}

void virtqueue_unpop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	format_of(queue)->unpop(queue, chain);
	count_chains(queue, -1);
	virtqueue_discard(queue, chain);
}

/* Marks the first @size bytes of the writable part. */
static void mark_written(const struct virtqueue *queue, const struct virtqueue_chain *chain,
			 uint64_t size)
{
	const struct iovec *in = virtqueue_chain_in_place(chain);

	if (!memory_logs_writes(queue->map))
		return;
	for (uint16_t i = 0; i < chain->in_count && size; i++) {
		uint64_t stretch = MIN(size, in[i].iov_len);

		memory_written(queue->map, in[i].iov_base, stretch);
		size -= stretch;
	}
}

void virtqueue_discard(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	assert(queue->in_flight);
	mark_written(queue, chain, chain->reached);
	set_in_flight(queue, -1);
	memory_read_end(queue->map, chain->section);
}

void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written)
{
	virtqueue_push_many(queue, chain, &written, 1);
}

void virtqueue_push_many(struct virtqueue *queue, struct virtqueue_chain *chains,
			 const uint32_t *written, uint16_t count)
{
	const char *reason;

	assert(count);
	for (uint16_t i = 0; i < count; i++) {
		assert(written[i] <= chains[i].in_size);
		mark_written(queue, &chains[i], MAX(chains[i].reached, written[i]));
		chains[i].reached = 0;
	}
	if (!queue->broken) {
		reason = format_of(queue)->push(queue, chains, written, count);
		if (reason)
			virtqueue_break(queue, reason);
	}
	for (uint16_t i = 0; i < count; i++)
		virtqueue_discard(queue, &chains[i]);
}

void virtqueue_notify(struct virtqueue *queue)
{
	const struct virtio_device *owner = queue->owner;
	const char *reason;
	bool wanted;
	int section;

	if (!queue->enabled || queue->broken)
		return;
	section = memory_read_begin(queue->map);
	reason = format_of(queue)->interrupt_wanted(queue, &wanted);
	memory_read_end(queue->map, section);
	if (reason)
		virtqueue_break(queue, reason);
	else if (wanted && owner && owner->transport_ops)
		owner->transport_ops->interrupt_queue(owner->transport, queue->index);
}

bool virtqueue_notifications(struct virtqueue *queue, bool enable)
{
	bool available = false;
	const char *reason;
	int section;

	if (!queue->enabled || queue->broken)
		return false;
	section = memory_read_begin(queue->map);
	reason = format_of(queue)->set_notifications(queue, enable);
	if (!reason && enable) {
		/* The driver must see the request before we look, or a chain in between goes
		 * unnoticed. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		reason = format_of(queue)->available(queue, &available);
	}
	memory_read_end(queue->map, section);
	if (!reason)
		return available;
	virtqueue_break(queue, reason);
	return false;
}

bool virtqueue_has_chain(struct virtqueue *queue)
{
	bool available = false;
	const char *reason;
	int section;

	if (!queue->enabled || queue->broken)
		return false;
	section = memory_read_begin(queue->map);
	reason = format_of(queue)->available(queue, &available);
	memory_read_end(queue->map, section);
	if (!reason)
		return available;
	virtqueue_break(queue, reason);
	return false;
}

bool virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset, void *buffer,
			  size_t size)
{
	return range_contains(0, chain->out_size, offset, size) &&
	       iov_copy_out_at(chain->iov, chain->out_count, offset, buffer, size);
}

bool virtqueue_chain_write(struct virtqueue_chain *chain, uint64_t offset, const void *buffer,
			   size_t size)
{
	if (!range_contains(0, chain->in_size, offset, size))
		return false;
	chain->reached = MAX(chain->reached, offset + size);
	return iov_copy_in_at(virtqueue_chain_in_place(chain), chain->in_count, offset, buffer,
			      size);
}
