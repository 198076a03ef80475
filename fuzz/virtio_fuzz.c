/* SPDX-License-Identifier: BSD-2-Clause */
/* A driver for virtio devices whose moves come from a fuzzer's input, see virtio_fuzz.h. One
 * thread. */
#include "virtio_fuzz.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "fuzz_input.h"

#define RING_STRIDE                                                                                \
	KIB(32) /* of a queue: descriptors, then 16 KiB on the driver's area, 24 KiB the device's  \
		 */
#define DRIVER_AREA  KIB(16)
#define DEVICE_AREA  KIB(20)
#define BUFFERS	     KIB(256) /* where buffers are by default */
#define BUFFERS_MASK (KIB(256) - 1)
#define CHAIN_MAX    8

void virtio_fuzz_check(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", error_message(error));
	abort();
}

static void add_memory(struct virtio_fuzz *fuzz, uint64_t address, uint64_t size, uint64_t unit,
		       struct ram_block **block, struct memory_region **region)
{
	static const struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON,
							     .host_node = -1};

	virtio_fuzz_check(ram_block_create("ram", &anonymous, size, block));
	virtio_fuzz_check(memory_map_add(fuzz->map, address, size, *block, 0, unit, region));
}

static void flip_unit(struct virtio_fuzz *fuzz, uint64_t unit)
{
	uint64_t offset = unit % (VIRTIO_FUZZ_ELASTIC_SIZE / VIRTIO_FUZZ_UNIT) * VIRTIO_FUZZ_UNIT;
	int failure;

	/* A device that holds a chain would make unplugging wait; that is another test's. */
	for (uint16_t i = 0; fuzz->device && i < fuzz->device->queue_count; i++)
		if (fuzz->device->queues[i].ring.in_flight)
			return;
	if (memory_region_all_plugged(fuzz->elastic, offset, VIRTIO_FUZZ_UNIT))
		failure = memory_region_unplug(fuzz->map, fuzz->elastic, offset, VIRTIO_FUZZ_UNIT);
	else
		failure = memory_region_plug(fuzz->map, fuzz->elastic, offset, VIRTIO_FUZZ_UNIT);
	assert(!failure);
}

void virtio_fuzz_setup(struct virtio_fuzz *fuzz)
{
	struct memory_region *region;

	log_set_level(LOG_LEVEL_ERROR);
	*fuzz = (struct virtio_fuzz){0};
	virtio_fuzz_check(memory_map_create(&fuzz->map));
	add_memory(fuzz, 0, VIRTIO_FUZZ_RAM_SIZE / 2, 0, &fuzz->ram, &region);
	add_memory(fuzz, VIRTIO_FUZZ_RAM_SIZE / 2, VIRTIO_FUZZ_RAM_SIZE / 2, 0, &fuzz->more_ram,
		   &region);
	add_memory(fuzz, VIRTIO_FUZZ_ELASTIC, VIRTIO_FUZZ_ELASTIC_SIZE, VIRTIO_FUZZ_UNIT,
		   &fuzz->elastic_ram, &fuzz->elastic);
	for (uint64_t unit = 0; unit < VIRTIO_FUZZ_ELASTIC_SIZE / VIRTIO_FUZZ_UNIT; unit += 2)
		flip_unit(fuzz, unit);
}

void virtio_fuzz_teardown(struct virtio_fuzz *fuzz)
{
	memory_map_destroy(fuzz->map);
	ram_block_destroy(fuzz->ram);
	ram_block_destroy(fuzz->more_ram);
	ram_block_destroy(fuzz->elastic_ram);
}

static void interrupt_queue(void *transport, uint16_t queue)
{
	struct virtio_fuzz *fuzz = transport;

	__atomic_fetch_add(&fuzz->interrupts, 1, __ATOMIC_RELAXED);
}

static void interrupt_config(void *transport)
{
	interrupt_queue(transport, 0);
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt_queue = interrupt_queue,
    .interrupt_config = interrupt_config,
};

static bool is_packed(const struct virtio_fuzz *fuzz)
{
	return fuzz->features & VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
}

static void write_guest(struct virtio_fuzz *fuzz, uint64_t address, const void *data, size_t size)
{
	memory_write_or_drop(fuzz->map, address, data, size);
}

/* What a driver does from reset to DRIVER_OK, with queues of @size entries (or their maximum). */
static void start_device(struct virtio_fuzz *fuzz, uint16_t size)
{
	struct virtio_device *device = fuzz->device;
	uint8_t zeros[RING_STRIDE] = {0};

	virtio_device_set_status(device, 0);
	virtio_device_set_status(device, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	device->driver_features = fuzz->features;
	virtio_device_set_status(device, VIRTIO_STATUS_FEATURES_OK);
	for (uint16_t i = 0; i < MIN(device->queue_count, VIRTIO_FUZZ_QUEUES_MAX); i++) {
		struct virtio_fuzz_queue *queue = &fuzz->queues[i];
		struct virtqueue *ring = &device->queues[i].ring;

		*queue = (struct virtio_fuzz_queue){
		    .descriptors = i * RING_STRIDE,
		    .driver = i * RING_STRIDE + DRIVER_AREA,
		    .device = i * RING_STRIDE + DEVICE_AREA,
		    .size = size && size <= ring->size_max ? size : ring->size_max,
		    .wrap = true,
		};
		write_guest(fuzz, queue->descriptors, zeros, sizeof(zeros));
		ring->layout = (struct virtqueue_layout){.size = queue->size,
							 .descriptors = queue->descriptors,
							 .driver = queue->driver,
							 .device = queue->device};
		virtio_device_enable_queue(device, i);
	}
	virtio_device_set_status(device, VIRTIO_STATUS_DRIVER_OK);
}

struct buffer {
	uint64_t address;
	uint32_t size;
	uint16_t flags;
};

/* Writes one descriptor of @size bytes of flags where the driver's next one goes. */
static void put_descriptor(struct virtio_fuzz *fuzz, struct virtio_fuzz_queue *queue,
			   const struct buffer *buffer, uint16_t id)
{
	uint16_t ring_flags = (queue->wrap ? 0x0080 : 0x8000) | buffer->flags;
	uint8_t bytes[16];

	put_le64(bytes, buffer->address);
	put_le32(bytes + 8, buffer->size);
	put_le16(bytes + 12, is_packed(fuzz) ? id : buffer->flags);
	put_le16(bytes + 14, is_packed(fuzz) ? ring_flags : (queue->next + 1) % queue->size);
	write_guest(fuzz, queue->descriptors + queue->next * sizeof(bytes), bytes, sizeof(bytes));
	if (++queue->next == queue->size) {
		queue->next = 0;
		queue->wrap = !queue->wrap;
	}
}

static void publish_split(struct virtio_fuzz *fuzz, struct virtio_fuzz_queue *queue, uint16_t head)
{
	uint8_t bytes[2];

	put_le16(bytes, head);
	write_guest(fuzz, queue->driver + 4 + queue->available % queue->size * 2, bytes, 2);
	put_le16(bytes, ++queue->available);
	write_guest(fuzz, queue->driver + 2, bytes, 2);
}

/*
 * A chain as a driver makes it; its buffers' places, sizes and contents are the input's. Bits of
 * each buffer's control byte: 0 writable, 1 contents follow, 2 large, 3 in elastic memory, 4 across
 * the two regions, 5 anywhere.
 */
static void offer_chain(struct virtio_fuzz *fuzz, struct fuzz_input *input,
			struct virtio_fuzz_queue *queue)
{
	uint16_t head = queue->next, count = fuzz_take8(input) % CHAIN_MAX + 1;

	for (uint16_t i = 0; i < count; i++) {
		uint8_t control = fuzz_take8(input), contents[256];
		struct buffer buffer = {.flags = (control & 1 ? 2 : 0) | (i + 1 < count ? 1 : 0)};

		buffer.address = BUFFERS + (queue->next * 4096ULL & BUFFERS_MASK);
		buffer.size = control & 4 ? fuzz_take16(input) : fuzz_take8(input);
		if (control & 8)
			buffer.address = VIRTIO_FUZZ_ELASTIC + fuzz_take16(input) * 4ULL;
		else if (control & 16)
			buffer.address = VIRTIO_FUZZ_RAM_SIZE / 2 - fuzz_take8(input);
		else if (control & 32)
			buffer.address = fuzz_take64(input);
		put_descriptor(fuzz, queue, &buffer, head);
		if (control & 2)
			write_guest(fuzz, buffer.address, contents,
				    fuzz_take(input, contents, MIN(buffer.size, 256u)));
	}
	if (!is_packed(fuzz))
		publish_split(fuzz, queue, head);
}

/* A single descriptor that refers to a table of the input's bytes. */
static void offer_indirect(struct virtio_fuzz *fuzz, struct fuzz_input *input,
			   struct virtio_fuzz_queue *queue)
{
	struct buffer buffer = {.flags = 4,
				.address = BUFFERS + (queue->next * 4096ULL & BUFFERS_MASK)};
	uint16_t head = queue->next;
	uint8_t table[256];

	buffer.size = fuzz_take8(input);
	write_guest(fuzz, buffer.address, table, fuzz_take(input, table, buffer.size));
	put_descriptor(fuzz, queue, &buffer, head);
	if (!is_packed(fuzz))
		publish_split(fuzz, queue, head);
}

static void access_config(struct virtio_device *device, struct fuzz_input *input, bool write)
{
	uint32_t offset = fuzz_take8(input), size = fuzz_take8(input) % 8 + 1;
	uint8_t bytes[8];

	if (!write) {
		virtio_device_read_config(device, offset, bytes, size);
		return;
	}
	fuzz_take(input, bytes, size);
	virtio_device_write_config(device, offset, bytes, size);
}

static void stop_loop(void *context)
{
	event_loop_stop(context);
}

/* Not yet: the rest of what was ready together with this call is dropped by a stop. */
static void stop_loop_later(void *context)
{
	if (event_loop_post(context, stop_loop, context))
		abort();
}

/* Handles all that is ready on the device's loop. */
static void turn_loop(struct virtio_device *device)
{
	if (!event_loop_post(device->loop, stop_loop_later, device->loop))
		event_loop_run(device->loop);
}

static void play_move(struct virtio_fuzz *fuzz, struct fuzz_input *input)
{
	struct virtio_device *device = fuzz->device;
	uint8_t move = fuzz_take8(input);
	uint16_t index = (move >> 4) % MIN(device->queue_count, VIRTIO_FUZZ_QUEUES_MAX);
	struct virtio_fuzz_queue *queue = &fuzz->queues[index];
	uint8_t bytes[256];
	uint64_t address;

	switch (move & 15) {
	case 0:
	case 1:
	case 2:
		offer_chain(fuzz, input, queue);
		virtio_device_notify_queue(device, index);
		break;
	case 3:
		offer_chain(fuzz, input, queue);
		break;
	case 4:
		offer_indirect(fuzz, input, queue);
		virtio_device_notify_queue(device, index);
		break;
	case 5:
		virtio_device_notify_queue(device, index);
		break;
	case 6: /* anywhere, rings included */
		address = fuzz_take16(input) * 8ULL;
		write_guest(fuzz, address, bytes, fuzz_take(input, bytes, fuzz_take8(input)));
		break;
	case 7: /* into one ring */
		address = queue->descriptors + fuzz_take16(input) % RING_STRIDE;
		write_guest(fuzz, address, bytes, fuzz_take(input, bytes, fuzz_take8(input)));
		break;
	case 8:
	case 9:
		access_config(device, input, (move & 15) == 9);
		break;
	case 10:
		virtio_device_set_status(device, fuzz_take8(input));
		break;
	case 11:
		start_device(fuzz, fuzz_take8(input));
		break;
	case 12:
		virtio_device_quiesce(device);
		break;
	case 13:
		virtio_device_resume(device);
		break;
	case 14:
		flip_unit(fuzz, fuzz_take8(input));
		break;
	default:
		turn_loop(device);
	}
}

static void check_invariants(const struct virtio_device *device)
{
	for (uint16_t i = 0; i < device->queue_count; i++) {
		const struct virtqueue *ring = &device->queues[i].ring;

		assert(ring->in_flight <= ring->size_max);
	}
}

void virtio_fuzz_attach(struct virtio_fuzz *fuzz, struct virtio_device *device)
{
	fuzz->device = device;
	device->map = fuzz->map;
	if (device->transport)
		return;
	device->transport_ops = &transport_ops;
	device->transport = fuzz;
}

void virtio_fuzz_start(struct virtio_fuzz *fuzz, uint64_t features, uint16_t size)
{
	fuzz->features = features;
	start_device(fuzz, size);
}

void virtio_fuzz_adopt(struct virtio_fuzz *fuzz)
{
	struct virtio_device *device = fuzz->device;

	fuzz->features = device->driver_features;
	for (uint16_t i = 0; i < MIN(device->queue_count, VIRTIO_FUZZ_QUEUES_MAX); i++) {
		const struct virtqueue *ring = &device->queues[i].ring;

		fuzz->queues[i] = (struct virtio_fuzz_queue){
		    .descriptors = ring->layout.descriptors,
		    .driver = ring->layout.driver,
		    .device = ring->layout.device,
		    .size = ring->layout.size,
		    .next = ring->next_avail % ring->layout.size,
		    .available = ring->next_avail,
		    .wrap = ring->avail_wrap,
		};
	}
}

void virtio_fuzz_play(struct virtio_fuzz *fuzz, const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};

	while (input.left) {
		play_move(fuzz, &input);
		check_invariants(fuzz->device);
	}
	turn_loop(fuzz->device);
	json_decref(virtio_device_describe(fuzz->device));
	virtio_device_resume(fuzz->device);
	virtio_device_set_status(fuzz->device, 0);
}

void virtio_fuzz_run(struct virtio_fuzz *fuzz, struct virtio_device *device, const uint8_t *data,
		     size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};
	uint64_t features;

	virtio_fuzz_attach(fuzz, device);
	features = fuzz_take64(&input);
	/* Mostly what a sane driver asks for; a set top bit lets all through. */
	if (!(features >> 63))
		features = (features & device->features) | VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
	virtio_fuzz_start(fuzz, features, fuzz_take16(&input));
	virtio_fuzz_play(fuzz, input.data, input.left);
	virtio_device_destroy(device);
	fuzz->device = NULL;
}
