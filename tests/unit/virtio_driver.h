/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A driver for tests of virtio devices: guest memory, split rings (or packed ones, if that is
 * negotiated), and requests that wait for their answer. Runs on the test's thread; the device's loop has its own. Everything asserts.
 *
 * Every page that the device writes must be marked in the log of writes: the driver has a mapping of
 * its own, so that what is written through the device's is the device's doing (write_watch.h).
 * Checked at the end of each test, where the kernel can and the memory is no private one.
 *
 * Guest memory is RAM_SIZE bytes at address 0; the rings are at RINGS, the rest is the test's.
 */
#ifndef GODWIT_TESTS_VIRTIO_DRIVER_H
#define GODWIT_TESTS_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "memory/memory_map.h"
#include "virtio/virtio_device.h"
#include "write_watch.h"

#define RAM_SIZE    MIB(16)
#define RINGS	    MIB(15) /* 64 KiB a queue: descriptors, available ring, used ring */
#define QUEUES_MAX  8
#define WAIT_MAX_MS 60000

struct driver_queue {
	uint64_t descriptors, available, used; /* guest addresses */
	uint16_t size;
	uint16_t next_descriptor, next_available, next_used;
	bool packed, wrap, used_wrap;
	uint16_t lengths[VIRTQUEUE_SIZE_MAX]; /* packed: descriptors of the chain with this id */
};

struct driver {
	struct ram_block *block;
	struct memory_map *map;
	uint8_t *ram;
	struct write_watch watch;
	struct virtio_device *device;
	struct driver_queue queues[QUEUES_MAX];
	int config_interrupts; /* atomic */
};

/* A buffer of a request; readable ones come first. */
struct driver_buffer {
	uint64_t address;
	uint32_t size;
	bool writable;
};

static inline void driver_interrupt_queue(void *transport, uint16_t queue)
{
}

static inline void driver_interrupt_config(void *transport)
{
	struct driver *driver = transport;

	__atomic_fetch_add(&driver->config_interrupts, 1, __ATOMIC_RELAXED);
}

static const struct virtio_transport_ops driver_transport = {
    .interrupt_queue = driver_interrupt_queue,
    .interrupt_config = driver_interrupt_config,
};

static inline void driver_no_error(struct error *error)
{
	if (error)
		fail_msg("%s", error_message(error));
}

/* Memory of @backing for the guest. */
static inline void driver_create_memory(struct driver *driver,
					const struct ram_backing_options *backing)
{
	struct memory_region *region;

	*driver = (struct driver){0};
	driver_no_error(ram_block_create("ram", backing, RAM_SIZE, &driver->block));
	driver_no_error(memory_map_create(&driver->map));
	driver_no_error(memory_map_add(driver->map, 0, RAM_SIZE, driver->block, 0, 0, &region));
	driver->ram = driver->block->host;
	if (!write_watch_start(&driver->watch, driver->block))
		return;
	driver->ram = write_watch_alias(driver->block);
	driver_no_error(dirty_log_start(memory_map_dirty_log(driver->map)));
	free(write_watch_collect(memory_map_dirty_log(driver->map), driver->block));
}

/* What the device has written is marked; it is gone or stands still. */
static inline void driver_check_log(struct driver *driver)
{
	uint64_t *pages;

	if (!driver->watch.block)
		return;
	pages = write_watch_collect(memory_map_dirty_log(driver->map), driver->block);
	for (uint64_t page = 0; page < RAM_SIZE / DIRTY_PAGE_SIZE; page++)
		if (write_watch_written(&driver->watch, page) && !bitmap_test(pages, page))
			fail_msg("a write to page 0x%llx is not in the log",
				 (unsigned long long)page);
	free(pages);
	write_watch_stop(&driver->watch);
	munmap(driver->ram, RAM_SIZE);
}

/* Adds the device, which is the driver's from now on, and starts its loop. */
static inline void driver_add_device(struct driver *driver, struct virtio_device *device)
{
	driver->device = device;
	device->map = driver->map;
	device->transport_ops = &driver_transport;
	device->transport = driver;
	driver_no_error(event_loop_start_thread(device->loop, "device"));
}

static inline void driver_destroy(struct driver *driver)
{
	virtio_device_destroy(driver->device);
	driver_check_log(driver);
	memory_map_destroy(driver->map);
	ram_block_destroy(driver->block);
}

struct driver_call {
	struct driver *driver;
	uint64_t features;
	uint32_t queues; /* bitmap */
	uint16_t queue;
	uint8_t status;
	uint32_t offset, size;
	void *data;
};

static inline void driver_set_status_on_loop(void *context)
{
	const struct driver_call *call = context;

	virtio_device_set_status(call->driver->device, call->status);
}

static inline void driver_set_status(struct driver *driver, uint8_t status)
{
	struct driver_call call = {.driver = driver, .status = status};

	event_loop_call(driver->device->loop, driver_set_status_on_loop, &call);
}

static inline void driver_negotiate_on_loop(void *context)
{
	const struct driver_call *call = context;
	struct virtio_device *device = call->driver->device;

	virtio_device_set_status(device, 1);
	virtio_device_set_status(device, 3);
	device->driver_features = call->features;
	virtio_device_set_status(device, 0xb);
}

static inline void driver_queues_on_loop(void *context)
{
	const struct driver_call *call = context;
	struct driver *driver = call->driver;
	struct virtio_device *device = driver->device;

	for (uint16_t i = 0; i < device->queue_count && i < QUEUES_MAX; i++) {
		struct driver_queue *queue = &driver->queues[i];
		struct virtqueue *ring = &device->queues[i].ring;

		if (!(call->queues >> i & 1))
			continue;
		*queue = (struct driver_queue){
		    .descriptors = RINGS + i * KIB(64),
		    .available = RINGS + i * KIB(64) + KIB(16),
		    .used = RINGS + i * KIB(64) + KIB(32),
		    .size = ring->size_max,
		    .packed = virtio_device_has(device, VIRTIO_F_RING_PACKED),
		    .wrap = true,
		    .used_wrap = true,
		};
		memset(driver->ram + queue->descriptors, 0, KIB(64));
		ring->layout = (struct virtqueue_layout){
		    .size = queue->size,
		    .descriptors = queue->descriptors,
		    .driver = queue->available,
		    .device = queue->used,
		};
		virtio_device_enable_queue(device, i);
	}
	virtio_device_set_status(device, 0xf);
}

/* Negotiates @features (VERSION_1 is added) and enables the queues of the bitmap @queues. */
static inline void driver_start_queues(struct driver *driver, uint64_t features, uint32_t queues)
{
	struct driver_call call = {
	    .driver = driver,
	    .features = features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1),
	    .queues = queues,
	};

	event_loop_call(driver->device->loop, driver_negotiate_on_loop, &call);
	assert_int_equal(driver->device->status, 0xb);
	event_loop_call(driver->device->loop, driver_queues_on_loop, &call);
}

static inline void driver_start(struct driver *driver, uint64_t features)
{
	driver_start_queues(driver, features, UINT32_MAX);
	assert_int_equal(driver->device->status, 0xf);
}

/* The index of the available or used ring at guest address @ring. */
static inline uint16_t *driver_index(const struct driver *driver, uint64_t ring)
{
	return (uint16_t *)(void *)(driver->ram + ring + 2);
}

/* The first descriptor's flags, written last, make the chain available. */
static inline uint16_t driver_offer_packed(struct driver *driver, struct driver_queue *queue,
					   const struct driver_buffer *buffers, size_t count)
{
	uint16_t head = queue->next_descriptor, head_flags = 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t *raw = driver->ram + queue->descriptors + queue->next_descriptor * 16;
		uint16_t flags =
		    (buffers[i].writable ? 2 : 0) | (i + 1 < count) | (queue->wrap ? 0x80 : 0x8000);

		put_le64(raw, buffers[i].address);
		put_le32(raw + 8, buffers[i].size);
		put_le16(raw + 12, head);
		if (i)
			put_le16(raw + 14, flags);
		else
			head_flags = flags;
		if (++queue->next_descriptor == queue->size) {
			queue->next_descriptor = 0;
			queue->wrap = !queue->wrap;
		}
	}
	queue->lengths[head] = (uint16_t)count;
	__atomic_store_n((uint16_t *)(void *)(driver->ram + queue->descriptors + head * 16 + 14),
			 htole16(head_flags), __ATOMIC_RELEASE);
	return head;
}

/* Makes a chain of @buffers available without ringing the doorbell; returns its head. */
static inline uint16_t driver_offer(struct driver *driver, uint16_t index,
				    const struct driver_buffer *buffers, size_t count)
{
	struct driver_queue *queue = &driver->queues[index];
	uint16_t head = queue->next_descriptor;

	if (queue->packed)
		return driver_offer_packed(driver, queue, buffers, count);
	for (size_t i = 0; i < count; i++) {
		uint16_t slot = (uint16_t)((head + i) % queue->size);
		uint8_t *raw = driver->ram + queue->descriptors + slot * 16;

		put_le64(raw, buffers[i].address);
		put_le32(raw + 8, buffers[i].size);
		put_le16(raw + 12, (uint16_t)((buffers[i].writable ? 2 : 0) | (i + 1 < count)));
		put_le16(raw + 14, (uint16_t)((slot + 1) % queue->size));
	}
	queue->next_descriptor = (uint16_t)((head + count) % queue->size);
	put_le16(driver->ram + queue->available + 4 + queue->next_available % queue->size * 2,
		 head);
	queue->next_available++;
	__atomic_store_n(driver_index(driver, queue->available), htole16(queue->next_available),
			 __ATOMIC_RELEASE);
	return head;
}

static inline void driver_notify_on_loop(void *context)
{
	const struct driver_call *call = context;

	virtio_device_notify_queue(call->driver->device, call->queue);
}

static inline void driver_notify(struct driver *driver, uint16_t index)
{
	struct driver_call call = {.driver = driver, .queue = index};

	event_loop_call(driver->device->queues[index].loop, driver_notify_on_loop, &call);
}

/* Whether the device has used one more chain than the driver has taken. */
static inline bool driver_used(const struct driver *driver, uint16_t index)
{
	const struct driver_queue *queue = &driver->queues[index];
	const uint8_t *slot = driver->ram + queue->descriptors + queue->next_used * 16;
	uint16_t flags;

	if (queue->packed) {
		flags = le16toh(
		    __atomic_load_n((const uint16_t *)(const void *)(slot + 14), __ATOMIC_ACQUIRE));
		return !!(flags & 0x80) == queue->used_wrap &&
		       !!(flags & 0x8000) == queue->used_wrap;
	}
	return le16toh(__atomic_load_n(driver_index(driver, queue->used), __ATOMIC_ACQUIRE)) !=
	       queue->next_used;
}

/* Waits for the next used chain; returns its length, and its head in *head unless that is NULL. */
static inline uint32_t driver_wait(struct driver *driver, uint16_t index, uint16_t *head)
{
	struct driver_queue *queue = &driver->queues[index];
	const uint8_t *raw;

	for (int i = 0; !driver_used(driver, index); i++) {
		if (i == WAIT_MAX_MS)
			fail_msg("queue %u: no answer", index);
		usleep(1000);
	}
	if (queue->packed) {
		raw = driver->ram + queue->descriptors + queue->next_used * 16;
		if (head)
			*head = get_le16(raw + 12);
		queue->next_used += queue->lengths[get_le16(raw + 12)];
		if (queue->next_used >= queue->size) {
			queue->next_used -= queue->size;
			queue->used_wrap = !queue->used_wrap;
		}
		return get_le32(raw + 8);
	}
	raw = driver->ram + queue->used + 4 + queue->next_used % queue->size * 8;
	queue->next_used++;
	if (head)
		*head = (uint16_t)get_le32(raw);
	return get_le32(raw + 4);
}

/* Offers, notifies and waits; returns the used length. */
static inline uint32_t driver_request(struct driver *driver, uint16_t index,
				      const struct driver_buffer *buffers, size_t count)
{
	driver_offer(driver, index, buffers, count);
	driver_notify(driver, index);
	return driver_wait(driver, index, NULL);
}

static inline void driver_config_on_loop(void *context)
{
	const struct driver_call *call = context;

	if (call->status)
		virtio_device_write_config(call->driver->device, call->offset, call->data,
					   call->size);
	else
		virtio_device_read_config(call->driver->device, call->offset, call->data,
					  call->size);
}

static inline uint64_t driver_read_config(struct driver *driver, uint32_t offset, uint32_t size)
{
	uint8_t raw[8] = {0};
	struct driver_call call = {.driver = driver, .offset = offset, .size = size, .data = raw};

	event_loop_call(driver->device->loop, driver_config_on_loop, &call);
	return get_le64(raw);
}

static inline void driver_write_config(struct driver *driver, uint32_t offset, uint32_t size,
				       uint64_t value)
{
	uint8_t raw[8];
	struct driver_call call = {
	    .driver = driver, .status = 1, .offset = offset, .size = size, .data = raw};

	put_le64(raw, value);
	event_loop_call(driver->device->loop, driver_config_on_loop, &call);
}

static inline bool driver_needs_reset(const struct driver *driver)
{
	return __atomic_load_n(&driver->device->status, __ATOMIC_ACQUIRE) &
	       VIRTIO_STATUS_NEEDS_RESET;
}

#endif
