/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The requests of virtio-mem, on a region of its own of 64 blocks of 4 KiB. Besides not crashing,
 * what the device says is plugged must at any time be what the memory map says, and no more than
 * was ever requested; blocks that are not plugged must hold no memory.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/mem.h"
#include "virtio_fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

#define REGION	  MIB(32)
#define BLOCK	  KIB(4)
#define BLOCKS	  64
#define REQUESTED (48 * BLOCK)

/* Bytes of the moves of virtio_fuzz.c. */
enum { OFFER_AND_NOTIFY = 0, TURN_LOOP = 15 };
enum { WRITABLE = 1, CONTENTS = 2 };
#define PREFIX	     10 /* le64 features, le16 queue size */
#define REQUEST_SIZE 48

struct watched {
	struct virtio_device *device;
	struct memory_region *region;
	struct ram_block *block;
};

static void check_agreement(void *context)
{
	const struct watched *watched = context;
	struct virtio_mem_status status;

	virtio_mem_status(watched->device, &status);
	if (status.plugged != memory_region_plugged_size(watched->region) ||
	    status.plugged > REQUESTED || ram_block_resident(watched->block) > status.plugged)
		abort();
}

/* Now and then appends a request that a driver could make. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	uint32_t random = seed * 2654435761U;
	uint8_t *at;

	if (seed % 4 || max_size < PREFIX + REQUEST_SIZE || size > max_size - REQUEST_SIZE)
		return LLVMFuzzerMutate(data, size, max_size);
	if (size < PREFIX) {
		memset(data, 0xff, PREFIX);
		data[7] = 0x7f;
		put_le16(data + 8, 0);
		size = PREFIX;
	}
	at = data + size;
	*at++ = OFFER_AND_NOTIFY;
	*at++ = 1; /* two buffers */
	*at++ = CONTENTS;
	*at++ = 24;
	memset(at, 0, 24);
	at[0] = random >> 8 & 3;
	put_le64(at + 8, REGION + (random >> 10 & 63) * BLOCK);
	put_le16(at + 16, (uint16_t)((random >> 16 & 7) + 1));
	at += 24;
	*at++ = WRITABLE;
	*at++ = 10;
	*at++ = TURN_LOOP;
	return (size_t)(at - data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_mem_options options = {.id = "mem0", .requested = REQUESTED};
	struct watched watched;
	struct virtio_fuzz fuzz;

	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(ram_block_create("mem0", &backing, BLOCKS * BLOCK, &watched.block));
	virtio_fuzz_check(memory_map_add(fuzz.map, REGION, BLOCKS * BLOCK, watched.block, 0, BLOCK,
					 &watched.region));
	options.region = watched.region;
	virtio_fuzz_check(virtio_mem_create(&options, fuzz.map, &watched.device));
	virtio_mem_set_handler(watched.device, check_agreement, &watched);
	virtio_fuzz_run(&fuzz, watched.device, data, size);
	virtio_fuzz_teardown(&fuzz);
	ram_block_destroy(watched.block);
	return 0;
}
