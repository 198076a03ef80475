/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtqueue against rings of random bytes. Checks after each step what virtqueue.h promises:
 * buffers inside plugged memory, no more chains in flight than entries, sizes that add up.
 */
#include "virtqueue_fuzz.h"

#include <assert.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "fuzz_input.h"
#include "virtio_fuzz.h"

#define SIZE_MAX_OFFERED 8
#define DESCRIPTORS	 0x1000
#define DRIVER		 0x2000
#define DEVICE		 0x3000
#define INDIRECT	 0x4000
#define IOV_COUNT	 12
#define HELD_MAX	 (SIZE_MAX_OFFERED + 1)

struct held_chain {
	struct virtqueue_chain chain;
	struct iovec iov[IOV_COUNT];
	bool held;
};

struct queue_fuzz {
	struct virtio_fuzz fuzz;
	struct virtio_device device;
	struct virtqueue queue;
	struct held_chain chains[HELD_MAX];
	struct held_chain *last; /* the last popped one, while it may be put back */
};

static const struct virtio_device_ops device_ops = {.type = "fuzz"};

static void interrupt(void *transport, uint16_t queue)
{
}

static const struct virtio_transport_ops transport_ops = {.interrupt_queue = interrupt};

static bool in_block(const struct ram_block *block, const struct iovec *iov)
{
	return range_contains((uintptr_t)block->host, block->size, (uintptr_t)iov->iov_base,
			      iov->iov_len);
}

static void check_chain(const struct queue_fuzz *q, const struct virtqueue_chain *chain)
{
	uint64_t out = 0, in = 0;

	assert(chain->out_count + chain->in_count <= chain->iov_max);
	assert(chain->out_count + chain->in_count > 0);
	for (uint16_t i = 0; i < chain->out_count + chain->in_count; i++) {
		const struct iovec *iov = &chain->iov[i];

		assert(iov->iov_len);
		assert(in_block(q->fuzz.ram, iov) || in_block(q->fuzz.more_ram, iov) ||
		       (in_block(q->fuzz.elastic_ram, iov) &&
			memory_region_all_plugged(
			    q->fuzz.elastic,
			    (uint64_t)((const uint8_t *)iov->iov_base - q->fuzz.elastic_ram->host),
			    iov->iov_len)));
		*(i < chain->out_count ? &out : &in) += iov->iov_len;
	}
	assert(out == chain->out_size && in == chain->in_size && in + out <= UINT32_MAX);
}

static void enable(struct queue_fuzz *q, struct fuzz_input *input, bool packed)
{
	uint8_t control = fuzz_take8(input);
	uint64_t features = VIRTIO_FEATURE(VIRTIO_F_VERSION_1);

	q->device.status = 0;
	features |= packed ? VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) : 0;
	features |= control & 1 ? VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) : 0;
	features |= control & 2 ? VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC) : 0;
	q->queue.layout = (struct virtqueue_layout){
	    .size = packed ? (control >> 2 & 7) + 1 : 1u << (control >> 2 & 3),
	    .descriptors = DESCRIPTORS,
	    .driver = DRIVER,
	    .device = DEVICE,
	};
	if (control & 0x80) { /* a layout that may be wrong */
		q->queue.layout.size = fuzz_take8(input);
		q->queue.layout.descriptors = fuzz_take64(input);
		q->queue.layout.driver = fuzz_take32(input);
		q->queue.layout.device = fuzz_take32(input);
	}
	if (!virtqueue_enable(&q->queue, q->fuzz.map, features) && control & 0x40) {
		/* Start near the wrap of the indexes. */
		q->queue.next_avail = packed ? q->queue.layout.size - 1 : 0xfffe;
		q->queue.next_used = q->queue.next_avail;
	}
}

static void pop(struct queue_fuzz *q)
{
	struct held_chain *free_one = NULL;
	int result;

	for (int i = 0; i < HELD_MAX; i++)
		if (!q->chains[i].held)
			free_one = &q->chains[i];
	assert(free_one); /* there is one more than may be in flight */
	free_one->chain = (struct virtqueue_chain){.iov = free_one->iov, .iov_max = IOV_COUNT};
	result = virtqueue_pop(&q->queue, &free_one->chain);
	assert(result == 1 || result == 0 || result == -EINVAL);
	assert((result == -EINVAL) == q->queue.broken);
	if (result <= 0)
		return;
	check_chain(q, &free_one->chain);
	free_one->held = true;
	q->last = free_one;
}

static void finish(struct queue_fuzz *q, struct held_chain *held, bool push, uint32_t written)
{
	if (!held->held)
		return;
	held->held = false;
	if (push) {
		uint8_t bytes[32] = {0};
		bool whole = virtqueue_chain_read(&held->chain, written, bytes, sizeof(bytes));

		assert(whole == (held->chain.out_size >= written + sizeof(bytes)));
		whole = virtqueue_chain_write(&held->chain, written, bytes, sizeof(bytes));
		assert(whole == (held->chain.in_size >= written + sizeof(bytes)));
		virtqueue_push(&q->queue, &held->chain,
			       held->chain.in_size ? written % (held->chain.in_size + 1) : 0);
	} else {
		virtqueue_discard(&q->queue, &held->chain);
	}
	q->last = NULL;
}

/* The next held chain from @which on, or one that is not held when there is none. */
static struct held_chain *choose_held(struct queue_fuzz *q, int which)
{
	for (int i = 0; i < HELD_MAX; i++, which++)
		if (q->chains[which % HELD_MAX].held)
			break;
	return &q->chains[which % HELD_MAX];
}

static void finish_all(struct queue_fuzz *q)
{
	for (int i = 0; i < HELD_MAX; i++)
		finish(q, &q->chains[i], false, 0);
	assert(!q->queue.in_flight);
}

static void write_ring(struct queue_fuzz *q, struct fuzz_input *input, uint64_t address,
		       size_t size)
{
	uint8_t bytes[64];

	memory_write_or_drop(q->fuzz.map, address, bytes, fuzz_take(input, bytes, size));
}

static void step(struct queue_fuzz *q, struct fuzz_input *input, bool packed)
{
	uint8_t move = fuzz_take8(input), which = move >> 4;

	switch (move & 15) {
	case 0:
	case 1:
	case 2:
		pop(q);
		break;
	case 3:
	case 4:
		finish(q, choose_held(q, which), true, fuzz_take16(input));
		break;
	case 5:
		finish(q, choose_held(q, which), false, 0);
		break;
	case 6:
		if (q->last) {
			q->last->held = false;
			virtqueue_unpop(&q->queue, &q->last->chain);
			q->last = NULL;
		}
		break;
	case 7:
		virtqueue_notify(&q->queue);
		break;
	case 8:
		virtqueue_notifications(&q->queue, which & 1);
		break;
	case 9:
		virtqueue_has_chain(&q->queue);
		break;
	case 10: /* a descriptor */
		write_ring(q, input, DESCRIPTORS + which % SIZE_MAX_OFFERED * 16, 16);
		break;
	case 11: /* its flags, or next */
		write_ring(q, input, DESCRIPTORS + which % SIZE_MAX_OFFERED * 16 + 12, 4);
		break;
	case 12: /* available index and ring, or event suppression */
		write_ring(q, input, DRIVER + which, 4);
		break;
	case 13:
		write_ring(q, input, INDIRECT + which % SIZE_MAX_OFFERED * 16, 16);
		break;
	case 14:
		write_ring(q, input, DEVICE + which * 2, 8);
		break;
	default:
		finish_all(q);
		virtqueue_reset(&q->queue);
		enable(q, input, packed);
	}
	assert(q->queue.in_flight <= q->queue.size_max);
}

void virtqueue_fuzz_run(bool packed, const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};
	struct queue_fuzz *q = calloc(1, sizeof(*q));

	if (!q)
		abort();
	virtio_fuzz_setup(&q->fuzz);
	q->device.ops = &device_ops;
	q->device.transport_ops = &transport_ops;
	pthread_mutex_init(&q->device.lock, NULL);
	virtqueue_init(&q->queue, &q->device, 0, SIZE_MAX_OFFERED);
	enable(q, &input, packed);
	write_ring(q, &input, DESCRIPTORS, 64);
	write_ring(q, &input, DRIVER, 12);
	while (input.left)
		step(q, &input, packed);
	finish_all(q);
	virtio_fuzz_teardown(&q->fuzz);
	free(q);
}
