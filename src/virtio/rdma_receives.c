/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receives of the RDMA device: the engine takes them from queues in guest memory when a message comes.
 * Shared receive queues, and the receive queues of pairs.
 *
 * Runs on the device's loop, mostly inside the engine. The guest controls elements and the producer's
 * index: an element is copied before it is looked at, and one that makes no sense has no segments.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define ELEMENT_SEGMENTS 40U
#define SEGMENT_SIZE	 16U
#define ELEMENT_MAX	 (ELEMENT_SEGMENTS + SEGMENT_SIZE * SEGMENTS_MAX)

bool adapter_receives_fit(uint32_t slots, uint32_t stride, uint32_t segments)
{
	return is_power_of_two(slots) && slots >= 2 && slots <= QUEUE_SLOTS_MAX &&
	       is_power_of_two(stride) && stride <= STRIDE_MAX && segments &&
	       segments <= SEGMENTS_MAX && stride >= ELEMENT_SEGMENTS + SEGMENT_SIZE * segments;
}

bool adapter_receives_take(void *context, struct godwit_rdma_receive_work *work,
			   struct godwit_rdma_segment *segments)
{
	struct adapter_receives *receives = context;
	struct adapter_ring *ring = &receives->ring;
	uint8_t bytes[ELEMENT_MAX];
	uint32_t producer, count;

	if (!adapter_ring_load(receives->rdma, ring, RING_PRODUCER, &producer) ||
	    producer == ring->own ||
	    !adapter_ring_read(receives->rdma, ring, ring->own, bytes,
			       ELEMENT_SEGMENTS + SEGMENT_SIZE * receives->segments))
		return false;
	ring->own = adapter_ring_next(ring, ring->own);
	adapter_ring_store(receives->rdma, ring, RING_CONSUMER, ring->own);
	count = get_le32(bytes + 28);
	work->id = get_le64(bytes);
	work->segment_count = count <= receives->segments ? count : 0;
	for (uint32_t i = 0; i < work->segment_count; i++)
		segments[i] = adapter_segment_decode(bytes + ELEMENT_SEGMENTS + i * SEGMENT_SIZE);
	return true;
}

static bool take_shared(void *context, struct godwit_rdma_receive_work *work,
			struct godwit_rdma_segment *segments)
{
	struct adapter_shared *shared = context;
	const struct adapter_ring *ring = &shared->receives.ring;
	struct virtio_rdma *rdma = shared->receives.rdma;
	uint32_t producer;

	if (!adapter_receives_take(&shared->receives, work, segments))
		return false;
	if (shared->limit && adapter_ring_load(rdma, ring, RING_PRODUCER, &producer) &&
	    ((producer - ring->own) & (ring->slots - 1)) < shared->limit) {
		shared->limit = 0;
		adapter_object_event(rdma, &shared->object, EVENT_SRQ_LIMIT_REACHED);
	}
	return true;
}

/* --- Commands ---------------------------------------------------------------------------------- */

void adapter_shared_free(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_shared *shared = CONTAINER_OF(object, struct adapter_shared, object);

	godwit_rdma_shared_destroy(shared->shared);
	adapter_numbers_remove(&rdma->shared, object);
	adapter_object_forget_events(rdma, object);
	adapter_ring_free(rdma, &shared->receives.ring);
	free(shared);
}

static struct adapter_shared *find_shared(struct virtio_rdma *rdma, uint32_t number)
{
	struct adapter_object *object = adapter_numbers_find(&rdma->shared, number);

	return object ? CONTAINER_OF(object, struct adapter_shared, object) : NULL;
}

uint32_t adapter_shared_create(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_object *domain = adapter_numbers_find(&rdma->domains, get_le32(request + 8));
	uint32_t slots = get_le32(request + 12), stride = get_le32(request + 16),
		 segments = get_le32(request + 20), count = get_le32(request + 28), status;
	struct godwit_rdma_shared_options options = {.receives = {.take = take_shared}};
	struct adapter_shared *shared;

	if (!domain)
		return ENOENT;
	if (!adapter_receives_fit(slots, stride, segments) || get_le32(request + 24) >= slots ||
	    count > (size - 32) / 16)
		return EINVAL;
	shared = calloc(1, sizeof(*shared));
	if (!shared)
		return ENOMEM;
	shared->receives.rdma = rdma;
	shared->receives.segments = segments;
	shared->limit = get_le32(request + 24);
	options.receives.context = shared;
	memcpy(shared->object.made, request, 32);
	status =
	    adapter_ring_create(rdma, &shared->receives.ring, slots, stride, request + 32, count);
	if (!status && !adapter_numbers_add(&rdma->shared, &shared->object))
		status = ENOMEM;
	options.number = shared->object.number;
	if (!status)
		status = (uint32_t)-godwit_rdma_shared_create(
		    CONTAINER_OF(domain, struct adapter_domain, object)->domain, &options,
		    &shared->shared);
	if (status) {
		adapter_shared_free(rdma, &shared->object);
		return status;
	}
	put_le32(answer + 8, shared->object.number);
	return 0;
}

uint32_t adapter_shared_modify(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_shared *shared = find_shared(rdma, get_le32(request + 8));
	uint32_t limit = get_le32(request + 12);

	if (!shared)
		return ENOENT;
	if (limit >= shared->receives.ring.slots)
		return EINVAL;
	shared->limit = limit;
	return 0;
}

uint32_t adapter_shared_query(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			      uint8_t *answer)
{
	const struct adapter_shared *shared = find_shared(rdma, get_le32(request + 8));

	if (!shared)
		return ENOENT;
	put_le32(answer + 8, shared->limit);
	return 0;
}

uint32_t adapter_shared_destroy(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
				uint8_t *answer)
{
	struct adapter_shared *shared = find_shared(rdma, get_le32(request + 8));
	int result;

	if (!shared)
		return ENOENT;
	result = godwit_rdma_shared_destroy(shared->shared);
	if (result)
		return (uint32_t)-result;
	shared->shared = NULL;
	adapter_shared_free(rdma, &shared->object);
	return 0;
}
