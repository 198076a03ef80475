/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A queue over real guest memory and the driver's side of it, split or packed, for the tests of
 * virtqueues. A test's initial state says which: &split_queue or &packed_queue.
 *
 * Memory: 64 KiB at 0, another region of 64 KiB behind it, 16 units of 4 KiB at ELASTIC of which
 * the even ones are plugged, and 3 GiB at HUGE_ADDRESS.
 */
#ifndef GODWIT_TESTS_VIRTQUEUE_FIXTURE_H
#define GODWIT_TESTS_VIRTQUEUE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/virtio_device.h"

#define SIZE		4 /* entries */
#define DESCRIPTORS	0x1000
#define DRIVER		0x2000
#define DEVICE		0x3000
#define BUFFERS		0x8000
#define TABLE		0xc000 /* for indirect tables */
#define RAM_END		0x20000
#define BORDER		0x10000 /* of the two regions */
#define ELASTIC		0x100000
#define UNIT		0x1000
#define HUGE_ADDRESS	(8ULL << 30)
#define HUGE_SIZE	(3ULL << 30)
#define IOV_MAX_FIXTURE 8

#define NEXT	 1
#define WRITE	 2
#define INDIRECT 4

struct buffer {
	uint64_t address;
	uint32_t size;
	uint16_t flags; /* WRITE, INDIRECT; NEXT is added by offer */
};

struct fixture {
	struct memory_map *map;
	struct ram_block *blocks[4];
	struct memory_region *elastic;
	struct virtio_device device;
	struct virtqueue queue;
	struct iovec iov[IOV_MAX_FIXTURE];
	struct virtqueue_chain chain;
	bool packed;
	unsigned int interrupts;
	/* The driver's side. */
	uint16_t next;	    /* descriptor */
	uint16_t available; /* split */
	bool wrap;	    /* packed */
	uint16_t used;	    /* where it looks for the next used entry */
	bool used_wrap;
};

static bool split_queue = false, packed_queue = true;

static void fixture_interrupt(void *transport, uint16_t queue)
{
	struct fixture *f = transport;

	f->interrupts++;
}

static void fixture_interrupt_config(void *transport)
{
}

static const struct virtio_transport_ops fixture_transport = {
    .interrupt_queue = fixture_interrupt,
    .interrupt_config = fixture_interrupt_config,
};
static const struct virtio_device_ops fixture_device_ops = {.type = "test"};

static void add_memory(struct fixture *f, int index, uint64_t address, uint64_t size, uint64_t unit,
		       struct memory_region **region)
{
	static const struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON,
							     .host_node = -1};

	assert_null(ram_block_create("ram", &anonymous, size, &f->blocks[index]));
	assert_null(memory_map_add(f->map, address, size, f->blocks[index], 0, unit, region));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct memory_region *region;

	f->packed = *state && *(bool *)*state;
	log_set_level(LOG_LEVEL_ERROR);
	assert_null(memory_map_create(&f->map));
	add_memory(f, 0, 0, BORDER, 0, &region);
	add_memory(f, 1, BORDER, RAM_END - BORDER, 0, &region);
	add_memory(f, 2, ELASTIC, 16 * UNIT, UNIT, &f->elastic);
	add_memory(f, 3, HUGE_ADDRESS, HUGE_SIZE, 0, &region);
	for (uint64_t offset = 0; offset < 16 * UNIT; offset += 2 * UNIT)
		assert_int_equal(memory_region_plug(f->map, f->elastic, offset, UNIT), 0);
	f->device.ops = &fixture_device_ops;
	f->device.transport_ops = &fixture_transport;
	f->device.transport = f;
	pthread_mutex_init(&f->device.lock, NULL);
	f->chain = (struct virtqueue_chain){.iov = f->iov, .iov_max = IOV_MAX_FIXTURE};
	virtqueue_init(&f->queue, &f->device, 0, SIZE);
	f->queue.layout = (struct virtqueue_layout){
	    .size = SIZE, .descriptors = DESCRIPTORS, .driver = DRIVER, .device = DEVICE};
	f->wrap = true;
	f->used_wrap = true;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	memory_map_destroy(f->map);
	for (int i = 0; i < 4; i++)
		ram_block_destroy(f->blocks[i]);
	free(f);
	return 0;
}

static int try_enable(struct fixture *f, uint64_t features)
{
	if (f->packed)
		features |= VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
	return virtqueue_enable(&f->queue, f->map, features);
}

static inline void enable(struct fixture *f, unsigned int feature_bit)
{
	assert_int_equal(
	    try_enable(f, VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(feature_bit)), 0);
}

/* Host memory of a guest address in the first two regions. */
static uint8_t *at(struct fixture *f, uint64_t address)
{
	return address < BORDER ? f->blocks[0]->host + address
				: f->blocks[1]->host + (address - BORDER);
}

static void put_split(struct fixture *f, uint64_t table, uint16_t index,
		      const struct buffer *buffer, uint16_t next)
{
	uint8_t *raw = at(f, table + index * 16);

	put_le64(raw, buffer->address);
	put_le32(raw + 8, buffer->size);
	put_le16(raw + 12, buffer->flags);
	put_le16(raw + 14, next);
}

/* @flags: with the AVAIL and USED bits. */
static void put_packed(struct fixture *f, uint64_t table, uint16_t index,
		       const struct buffer *buffer, uint16_t id, uint16_t flags)
{
	uint8_t *raw = at(f, table + index * 16);

	put_le64(raw, buffer->address);
	put_le32(raw + 8, buffer->size);
	put_le16(raw + 12, id);
	put_le16(raw + 14, flags);
}

/* Fills entry @index of an indirect table at TABLE; @last without a following one (split). */
static inline void put_indirect(struct fixture *f, uint16_t index, const struct buffer *buffer,
				bool last)
{
	struct buffer copy = *buffer;

	if (f->packed) {
		put_packed(f, TABLE, index, buffer, 0, buffer->flags);
		return;
	}
	copy.flags |= last ? 0 : NEXT;
	put_split(f, TABLE, index, &copy, index + 1);
}

static void publish_split(struct fixture *f, uint16_t head)
{
	put_le16(at(f, DRIVER + 4 + f->available % f->queue.layout.size * 2), head);
	put_le16(at(f, DRIVER + 2), ++f->available);
}

static uint16_t packed_flags(const struct fixture *f)
{
	return f->wrap ? 0x0080 : 0x8000;
}

/* Makes a chain available; returns its id: the head, or the position of the first descriptor. */
static uint16_t offer(struct fixture *f, const struct buffer *buffers, uint16_t count)
{
	uint16_t size = f->queue.layout.size, head = f->next;

	for (uint16_t i = 0; i < count; i++) {
		struct buffer buffer = buffers[i];

		buffer.flags |= i + 1 < count ? NEXT : 0;
		if (f->packed)
			put_packed(f, DESCRIPTORS, f->next, &buffer, head,
				   buffer.flags | packed_flags(f));
		else
			put_split(f, DESCRIPTORS, f->next, &buffer, (f->next + 1) % size);
		if (++f->next == size) {
			f->next = 0;
			f->wrap = !f->wrap;
		}
	}
	if (!f->packed)
		publish_split(f, head);
	return head;
}

static inline uint16_t offer_one(struct fixture *f, uint16_t flags)
{
	struct buffer buffer = {BUFFERS, 64, flags};

	return offer(f, &buffer, 1);
}

/* The driver takes the next used entry, of a chain of @descriptors; false if there is none. */
static inline bool take_used(struct fixture *f, uint16_t descriptors, uint16_t *id,
			     uint32_t *written)
{
	uint16_t size = f->queue.layout.size;
	const uint8_t *raw;
	uint16_t flags;

	if (!f->packed) {
		if (get_le16(at(f, DEVICE + 2)) == f->used)
			return false;
		raw = at(f, DEVICE + 4 + f->used++ % size * 8);
		*id = (uint16_t)get_le32(raw);
		*written = get_le32(raw + 4);
		return true;
	}
	raw = at(f, DESCRIPTORS + f->used * 16);
	flags = get_le16(raw + 14);
	if (!!(flags & 0x80) != f->used_wrap || !!(flags & 0x8000) != f->used_wrap)
		return false;
	*id = get_le16(raw + 12);
	*written = get_le32(raw + 8);
	f->used += descriptors;
	if (f->used >= size) {
		f->used -= size;
		f->used_wrap = !f->used_wrap;
	}
	return true;
}

static inline void assert_pops(struct fixture *f)
{
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), 1);
}

/* Popping finds a rule broken, says which, and keeps saying so. */
static inline void assert_breaks(struct fixture *f, const char *reason)
{
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), -EINVAL);
	assert_true(f->queue.broken);
	assert_true(f->device.status & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(f->device.violations, 1);
	assert_non_null(strstr(f->device.last_violation, reason));
	assert_int_equal(virtqueue_pop(&f->queue, &f->chain), -EINVAL);
}

#define SPLIT(name)                                                                                \
	{                                                                                          \
#name " (split)", name, setup, teardown, &split_queue                              \
	}
#define PACKED(name)                                                                               \
	{                                                                                          \
#name " (packed)", name, setup, teardown, &packed_queue                            \
	}
#define BOTH(name) SPLIT(name), PACKED(name)

#endif
