/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lies to every virtio device there is, in every way a ring can lie, and checks that the device
 * answers by asking for a reset or not at all, that a reset brings it back, and that the machine
 * lives on.
 *
 * Prints "devices N" and "lies N".
 */
#include "mini.h"

#define RAM_END 0x100000000000ULL /* beyond all memory */
#define RETRIES 2000

static struct queue queues[4];
static uint8_t buffer[4096] __attribute__((aligned(4096)));
static uint64_t lies;

static void one_buffer(struct queue *queue, uint64_t address, uint32_t length, uint16_t flags)
{
	queue->descriptors[0].address = address;
	queue->descriptors[0].length = length;
	queue->descriptors[0].flags = flags;
	queue->descriptors[0].next = 0;
}

static void outside_memory(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, RAM_END, 4096, DESCRIPTOR_WRITE);
	queue_submit(queue, 0);
}

static void across_the_end_of_memory(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, 0xfffffffffffff000ULL, 0x2000, 0);
	queue_submit(queue, 0);
}

static void into_the_devices_own_registers(struct virtio *virtio, struct queue *queue)
{
	one_buffer(queue, virtio->common, 64, DESCRIPTOR_WRITE);
	queue_submit(queue, 0);
}

static void a_loop(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, (uintptr_t)buffer, 16, DESCRIPTOR_NEXT);
	queue_submit(queue, 0);
}

static void a_head_out_of_range(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	queue_submit(queue, 60000);
}

static void a_next_out_of_range(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, (uintptr_t)buffer, 16, DESCRIPTOR_NEXT);
	queue->descriptors[0].next = 999;
	queue_submit(queue, 0);
}

static void an_index_that_jumps(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	queue->available.index = (uint16_t)(queue->available.index + 1000);
	MMIO(uint16_t, queue->doorbell) = queue->number;
}

static void an_index_that_goes_back(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	queue->available.index--;
	MMIO(uint16_t, queue->doorbell) = queue->number;
}

static void a_readable_buffer_behind_a_writable_one(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, (uintptr_t)buffer, 16, DESCRIPTOR_WRITE | DESCRIPTOR_NEXT);
	queue->descriptors[0].next = 1;
	queue->descriptors[1].address = (uintptr_t)buffer;
	queue->descriptors[1].length = 16;
	queue->descriptors[1].flags = 0;
	queue_submit(queue, 0);
}

static void a_buffer_of_no_bytes(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, (uintptr_t)buffer, 0, 0);
	queue_submit(queue, 0);
}

static void a_buffer_of_four_gib(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, 0, 0xffffffff, DESCRIPTOR_WRITE);
	queue_submit(queue, 0);
}

static void an_indirect_table_that_was_not_negotiated(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	one_buffer(queue, (uintptr_t)buffer, 64, DESCRIPTOR_INDIRECT);
	queue_submit(queue, 0);
}

static void rubbish(struct virtio *virtio, struct queue *queue)
{
	(void)virtio;
	for (size_t i = 0; i < sizeof(buffer); i++)
		buffer[i] = (uint8_t)(i * 37 + 11);
	one_buffer(queue, (uintptr_t)buffer, 512, 0);
	queue_submit(queue, 0);
}

/* A queue that lies at the end of memory, or nowhere. */
static void rings_outside_memory(struct virtio *virtio, struct queue *queue)
{
	virtio_set_queue(virtio, queue->number, RAM_END, RAM_END + 4096, RAM_END + 8192,
			 QUEUE_SIZE);
	MMIO(uint16_t, queue->doorbell) = queue->number;
}

static const struct {
	const char *name;
	void (*tell)(struct virtio *virtio, struct queue *queue);
} all_lies[] = {
    {"outside memory", outside_memory},
    {"across the end of memory", across_the_end_of_memory},
    {"into the device's own registers", into_the_devices_own_registers},
    {"a loop", a_loop},
    {"a head out of range", a_head_out_of_range},
    {"a next out of range", a_next_out_of_range},
    {"an index that jumps", an_index_that_jumps},
    {"an index that goes back", an_index_that_goes_back},
    {"a readable buffer behind a writable one", a_readable_buffer_behind_a_writable_one},
    {"a buffer of no bytes", a_buffer_of_no_bytes},
    {"a buffer of 4 GiB", a_buffer_of_four_gib},
    {"an indirect table that was not negotiated", an_indirect_table_that_was_not_negotiated},
    {"rubbish", rubbish},
    {"rings outside memory", rings_outside_memory},
};

/* Resets, tells one lie on queue @number, waits for what comes of it, and checks that a reset works. */
static bool tell(struct virtio *virtio, int count, int number, size_t lie)
{
	if (!virtio_start(virtio, 0, queues, count))
		return false;
	all_lies[lie].tell(virtio, &queues[number]);
	lies++;
	for (int i = 0; i < RETRIES / 100 && !(virtio_status(virtio) & STATUS_NEEDS_RESET); i++) {
	}
	virtio_reset(virtio);
	return true;
}

void guest_main(const char *cmdline)
{
	static const uint16_t ids[] = {1, 2, 3, 4, 5, 19, 24};
	uint64_t devices = 0;
	struct virtio virtio;

	(void)cmdline;
	for (size_t kind = 0; kind < sizeof(ids) / sizeof(ids[0]); kind++) {
		for (int index = 0; virtio_find(ids[kind], index, &virtio); index++) {
			int count = MMIO(uint16_t, virtio.common + 18);
			bool fine = true;

			count = count < 4 ? count : 4;
			devices++;
			for (int number = 0; number < count; number++)
				for (size_t lie = 0; lie < sizeof(all_lies) / sizeof(all_lies[0]);
				     lie++)
					fine &= tell(&virtio, count, number, lie);
			print_number("device", ids[kind]);
			check(fine, "the device comes back from every lie");
			check(virtio_start(&virtio, 0, queues, count), "and starts at last");
			virtio_reset(&virtio);
		}
	}
	print_number("devices", devices);
	print_number("lies", lies);
}
