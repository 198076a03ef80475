/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Asks virtio-mem for what no driver would, and checks each answer; then sends what is malformed,
 * and checks that the device asks for a reset, and works after it. Expects requested >= 8 blocks
 * and a region of at least 64.
 */
#include "mini.h"

static struct queue queues[2];
static struct mem_config config;

static uint64_t block(uint64_t number)
{
	return config.address + number * config.block_size;
}

static void expect(struct virtio *mem, uint16_t type, uint64_t address, uint16_t blocks, int answer,
		   const char *text)
{
	int got = mem_request(mem, type, address, blocks, NULL);

	check(got == answer, text);
	if (got != answer)
		print_number("  the answer was", (uint64_t)got);
}

static void wrong_requests(struct virtio *mem)
{
	uint64_t requested = config.requested / config.block_size;

	expect(mem, MEM_PLUG, block(0), 0, MEM_ERROR, "plugging no block is an error");
	expect(mem, MEM_PLUG, block(0) + 4096, 1, MEM_ERROR, "plugging between blocks is an error");
	expect(mem, MEM_PLUG, block(0) - config.block_size, 1, MEM_ERROR,
	       "plugging below the region is an error");
	expect(mem, MEM_PLUG, config.address + config.usable, 1, MEM_ERROR,
	       "plugging what is not usable is an error");
	expect(mem, MEM_PLUG, block(0), 65535, MEM_ERROR,
	       "plugging more than there is is an error");
	expect(mem, MEM_PLUG, 0xffffffffffe00000ULL, 1, MEM_ERROR,
	       "plugging at the end of everything is an error");
	expect(mem, MEM_PLUG, 0, 1, MEM_ERROR, "plugging boot memory is an error");
	expect(mem, MEM_UNPLUG, block(0), 1, MEM_ERROR,
	       "unplugging what is not plugged is an error");
	expect(mem, MEM_PLUG, block(0), (uint16_t)(requested + 1), MEM_NACK,
	       "plugging more than requested is declined");
	expect(mem, MEM_PLUG, block(2), 4, MEM_ACK, "plugging is acknowledged");
	expect(mem, MEM_PLUG, block(5), 2, MEM_ERROR, "plugging twice is an error");
	expect(mem, MEM_UNPLUG, block(5), 2, MEM_ERROR, "unplugging half a hole is an error");
	expect(mem, MEM_UNPLUG, block(3), 1, MEM_ACK, "unplugging in the middle is acknowledged");
	expect(mem, MEM_UNPLUG, block(3), 1, MEM_ERROR, "unplugging twice is an error");
	expect(mem, MEM_STATE, block(0) + 1, 1, MEM_ERROR, "the state between blocks is an error");
}

static void restart(struct virtio *mem, const char *text)
{
	struct mem_config now;

	check(virtio_status(mem) & STATUS_NEEDS_RESET, text);
	check(virtio_start(mem, 0, queues, 1), "the device starts again after a reset");
	mem_read_config(mem, &now);
	expect(mem, MEM_STATE, block(0), 1, MEM_ACK, "and answers");
}

static void malformed(struct virtio *mem, uint32_t request_size, uint32_t response_size,
		      uint16_t type, const char *text)
{
	static uint8_t request[64], response[64];
	struct queue *queue = &queues[0];
	uint16_t used = queue->used.index;

	memset(request, 0, sizeof(request));
	request[0] = (uint8_t)type;
	queue->descriptors[0].address = (uintptr_t)request;
	queue->descriptors[0].length = request_size;
	queue->descriptors[0].flags = response_size ? DESCRIPTOR_NEXT : 0;
	queue->descriptors[0].next = 1;
	queue->descriptors[1].address = (uintptr_t)response;
	queue->descriptors[1].length = response_size;
	queue->descriptors[1].flags = DESCRIPTOR_WRITE;
	queue_submit(queue, 0);
	queue_wait(mem, queue, used);
	restart(mem, text);
}

void guest_main(const char *cmdline)
{
	struct virtio mem;

	(void)cmdline;
	if (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, queues, 1)) {
		check(false, "the elastic device is there");
		return;
	}
	mem_read_config(&mem, &config);
	wrong_requests(&mem);
	malformed(&mem, 24, 10, 77, "an unknown request needs a reset");
	malformed(&mem, 8, 10, 0, "a short request needs a reset");
	malformed(&mem, 24, 9, 0, "a short response needs a reset");
	malformed(&mem, 24, 0, 0, "a request without a response needs a reset");
	expect(&mem, MEM_UNPLUG_ALL, 0, 0, MEM_ACK, "everything can be unplugged");
	mem_read_config(&mem, &config);
	check(config.plugged == 0, "and then nothing is plugged");
}
