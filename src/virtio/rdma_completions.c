/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Completion queues of the RDMA device: the engine's completions become elements of a queue in guest
 * memory, and the driver is told if it has armed the queue.
 *
 * Runs on the device's loop, mostly inside the engine. The guest controls the consumer's index and what
 * is armed: at worst it loses completions of its own.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define ELEMENT_SIZE	  64U
#define FLAG_HEADER	  1U
#define FLAG_IMMEDIATE	  2U
#define FLAG_INVALIDATION 8U
#define PORT_NUMBER	  1U

static const uint8_t statuses[] = {
    [GODWIT_RDMA_SUCCESS] = 0,		 [GODWIT_RDMA_LOCAL_LENGTH] = 1,
    [GODWIT_RDMA_LOCAL_OPERATION] = 2,	 [GODWIT_RDMA_LOCAL_PROTECTION] = 4,
    [GODWIT_RDMA_FLUSHED] = 5,		 [GODWIT_RDMA_BIND_REFUSED] = 6,
    [GODWIT_RDMA_BAD_RESPONSE] = 7,	 [GODWIT_RDMA_REMOTE_INVALID] = 9,
    [GODWIT_RDMA_REMOTE_ACCESS] = 10,	 [GODWIT_RDMA_REMOTE_OPERATION] = 11,
    [GODWIT_RDMA_RETRIES_EXCEEDED] = 12, [GODWIT_RDMA_NOT_READY_EXCEEDED] = 13,
};

static const uint8_t opcodes[] = {
    [GODWIT_RDMA_SEND] = 0,	  [GODWIT_RDMA_WRITE] = 1,
    [GODWIT_RDMA_READ] = 2,	  [GODWIT_RDMA_COMPARE_SWAP] = 3,
    [GODWIT_RDMA_FETCH_ADD] = 4,  [GODWIT_RDMA_BIND] = 5,
    [GODWIT_RDMA_INVALIDATE] = 6, [GODWIT_RDMA_REGISTER] = 32,
    [GODWIT_RDMA_RECEIVE] = 128,  [GODWIT_RDMA_RECEIVE_WRITE] = 129,
};

static void encode(const struct godwit_rdma_completion *completion, uint8_t bytes[ELEMENT_SIZE])
{
	uint32_t flags = 0;

	memset(bytes, 0, ELEMENT_SIZE);
	put_le64(bytes, completion->id);
	put_le32(bytes + 8, statuses[completion->status]);
	put_le32(bytes + 12, opcodes[completion->operation]);
	put_le32(bytes + 20, completion->bytes);
	if (completion->flags & GODWIT_RDMA_WITH_IMMEDIATE) {
		flags |= FLAG_IMMEDIATE;
		put_be32(bytes + 24, completion->immediate);
	}
	if (completion->flags & GODWIT_RDMA_WITH_INVALIDATE) {
		flags |= FLAG_INVALIDATION;
		put_le32(bytes + 24, completion->invalidated);
	}
	if (completion->flags & GODWIT_RDMA_WITH_HEADER)
		flags |= FLAG_HEADER;
	put_le32(bytes + 28, completion->pair);
	put_le32(bytes + 32, completion->source);
	put_le32(bytes + 36, flags);
	bytes[46] = PORT_NUMBER;
}

static bool add_element(struct adapter_completions *queue,
			const struct godwit_rdma_completion *completion, bool solicited)
{
	struct virtio_rdma *rdma = queue->rdma;
	struct adapter_ring *ring = &queue->ring;
	uint32_t next = adapter_ring_next(ring, ring->own), consumer;
	uint8_t bytes[ELEMENT_SIZE];

	if (!adapter_ring_load(rdma, ring, RING_CONSUMER, &consumer) || next == consumer)
		return false;
	encode(completion, bytes);
	if (!adapter_ring_write(rdma, ring, ring->own, bytes, sizeof(bytes)))
		return false;
	ring->own = next;
	adapter_ring_store(rdma, ring, RING_PRODUCER, next);
	if (adapter_ring_disarm(rdma, ring, solicited))
		adapter_object_event(rdma, &queue->object, EVENT_COMPLETION);
	return true;
}

/* For the engine, which gives nothing more after a refusal. */
static bool add(void *context, const struct godwit_rdma_completion *completion, bool solicited)
{
	struct adapter_completions *queue = context;

	if (add_element(queue, completion, solicited))
		return true;
	adapter_object_event(queue->rdma, &queue->object, EVENT_CQ_ERR);
	return false;
}

/* --- Commands ---------------------------------------------------------------------------------- */

static struct adapter_completions *from_object(struct adapter_object *object)
{
	return CONTAINER_OF(object, struct adapter_completions, object);
}

void adapter_completions_free(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_completions *queue = from_object(object);

	godwit_rdma_completions_destroy(queue->completions);
	adapter_numbers_remove(&rdma->completions, object);
	adapter_object_forget_events(rdma, object);
	adapter_ring_free(rdma, &queue->ring);
	free(queue);
}

uint32_t adapter_completions_create(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
				    uint8_t *answer)
{
	uint32_t slots = get_le32(request + 8), count = get_le32(request + 12), status;
	struct godwit_rdma_completions_options options = {.add = add};
	struct adapter_completions *queue;

	if (!is_power_of_two(slots) || slots < 2 || slots > CQ_SLOTS_MAX ||
	    count > (size - 16) / 16)
		return EINVAL;
	queue = calloc(1, sizeof(*queue));
	if (!queue)
		return ENOMEM;
	queue->rdma = rdma;
	options.context = queue;
	memcpy(queue->object.made, request, 16);
	status = adapter_ring_create(rdma, &queue->ring, slots, ELEMENT_SIZE, request + 16, count);
	if (!status && !adapter_numbers_add(&rdma->completions, &queue->object))
		status = ENOMEM;
	options.number = queue->object.number;
	if (!status)
		status = (uint32_t)-godwit_rdma_completions_create(rdma->engine, &options,
								   &queue->completions);
	if (status) {
		adapter_completions_free(rdma, &queue->object);
		return status;
	}
	put_le32(answer + 8, queue->object.number);
	return 0;
}

uint32_t adapter_completions_destroy(struct virtio_rdma *rdma, const uint8_t *request,
				     uint32_t size, uint8_t *answer)
{
	struct adapter_object *object =
	    adapter_numbers_find(&rdma->completions, get_le32(request + 8));
	struct adapter_completions *queue;
	int result;

	if (!object)
		return ENOENT;
	queue = from_object(object);
	result = godwit_rdma_completions_destroy(queue->completions);
	if (result)
		return (uint32_t)-result;
	queue->completions = NULL;
	adapter_completions_free(rdma, object);
	return 0;
}
