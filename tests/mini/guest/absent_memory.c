/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Touches memory that is not plugged, in every way: the guarantee is that reads give zeros, writes
 * do not stick, and the host holds nothing for it. The elastic device is expected to have its whole
 * region unplugged at first and to allow half of it to be plugged (requested >= half of what is
 * swept).
 *
 * Arguments: sweep=BYTES of the region to sweep, write_step=BYTES between writes.
 */
#include "mini.h"

#define PAGE 4096ULL

static struct queue queues[4];

/* Reads one word of each page of [start, end); returns how many were not zero. */
static uint64_t sweep_reads(uint64_t start, uint64_t end)
{
	uint64_t nonzero = 0;

	for (uint64_t at = start; at < end; at += PAGE)
		nonzero += MMIO(uint64_t, at + 8 * (at / PAGE % 512)) != 0;
	return nonzero;
}

static uint64_t sweep_writes(uint64_t start, uint64_t end, uint64_t step)
{
	uint64_t count = 0;

	for (uint64_t at = start; at < end; at += step, count++)
		MMIO(uint64_t, at + 8) = 0x5a5a5a5a5a5a5a5aULL;
	return count;
}

static void vector_read(uint64_t address)
{
	static uint64_t copy[2] __attribute__((aligned(16)));

	copy[0] = copy[1] = ~0ULL;
	__asm__ volatile("movdqu (%0), %%xmm0\n"
			 "movdqu %%xmm0, (%1)" ::"r"(address),
			 "r"(copy)
			 : "memory");
	check((copy[0] | copy[1]) == 0, "a vector read gives zeros");
}

static void string_read(uint64_t address)
{
	static uint8_t copy[256];
	uint8_t any = 0;

	memset(copy, 0xff, sizeof(copy));
	memcpy(copy, (const void *)(uintptr_t)address, sizeof(copy));
	for (size_t i = 0; i < sizeof(copy); i++)
		any |= copy[i];
	check(!any, "a string read gives zeros");
}

static void atomic_write(uint64_t address)
{
	uint64_t old = 1;

	__asm__ volatile("lock xaddq %0, (%1)" : "+r"(old) : "r"(address) : "memory");
	check(old == 0 && MMIO(uint64_t, address) == 0, "an atomic addition does not stick");
}

static void string_write(uint64_t address)
{
	memset((void *)(uintptr_t)address, 0x77, 64);
}

static void vector_write(uint64_t address)
{
	__asm__ volatile("pcmpeqb %%xmm0, %%xmm0\n"
			 "movdqu %%xmm0, (%0)" ::"r"(address)
			 : "memory");
}

static void try_instructions(uint64_t address)
{
	check(survives(vector_read, address), "a vector read ends");
	survives(string_read, address + PAGE);
	survives(atomic_write, address + 2 * PAGE);
	survives(string_write, address + 3 * PAGE);
	check(MMIO(uint64_t, address + 3 * PAGE) == 0, "a string write does not stick");
	survives(vector_write, address + 4 * PAGE);
	check(MMIO(uint64_t, address + 4 * PAGE) == 0, "a vector write does not stick");
}

/* A device that is told to write there. */
static void try_device(uint64_t address)
{
	static struct queue rng_queue;
	struct virtio rng;
	uint16_t used;

	if (!virtio_find(4, 0, &rng) || !virtio_start(&rng, 0, &rng_queue, 1)) {
		check(false, "the random number device is there");
		return;
	}
	used = rng_queue.used.index;
	rng_queue.descriptors[0].address = address;
	rng_queue.descriptors[0].length = 64;
	rng_queue.descriptors[0].flags = DESCRIPTOR_WRITE;
	queue_submit(&rng_queue, 0);
	queue_wait(&rng, &rng_queue, used);
	check(virtio_status(&rng) & STATUS_NEEDS_RESET, "a device refuses to write there");
	check(MMIO(uint64_t, address) == 0, "what a device was told to write does not stick");
	virtio_reset(&rng);
}

void guest_main(const char *cmdline)
{
	struct virtio mem;
	struct mem_config config;
	uint64_t sweep = argument(cmdline, "sweep", 1ULL << 30);
	uint64_t write_step = argument(cmdline, "write_step", 65536);
	uint64_t blocks, wrong = 0;

	if (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, queues, 1)) {
		check(false, "the elastic device is there");
		return;
	}
	mem_read_config(&mem, &config);
	check(config.plugged == 0, "nothing is plugged at first");
	sweep = sweep < config.region_size ? sweep : config.region_size;

	checkpoint("start");
	print_number("nonzero", sweep_reads(config.address, config.address + sweep));
	checkpoint("reads");
	print_number("writes", sweep_writes(config.address, config.address + sweep, write_step));
	print_number("nonzero", sweep_reads(config.address, config.address + sweep));
	checkpoint("writes");
	try_instructions(config.address + config.block_size);
	try_device(config.address + config.block_size);
	checkpoint("instructions");

	/* Every other block: what is absent then lies between what is there. */
	blocks = argument(cmdline, "checkered", 64);
	for (uint64_t i = 0; i < blocks; i += 2)
		wrong += mem_request(&mem, MEM_PLUG, config.address + i * config.block_size, 1,
				     NULL) != MEM_ACK;
	check(!wrong, "every other block is plugged");
	for (uint64_t i = 0; i < blocks; i++)
		for (uint64_t at = 0; at < config.block_size; at += config.block_size / 2)
			MMIO(uint64_t, config.address + i * config.block_size + at) = i + at + 1;
	for (uint64_t i = 0; i < blocks; i++)
		for (uint64_t at = 0; at < config.block_size; at += config.block_size / 2)
			wrong += MMIO(uint64_t, config.address + i * config.block_size + at) !=
				 (i % 2 ? 0 : i + at + 1);
	print_number("wrong", wrong);
	checkpoint("checkered");

	/* What was unplugged is gone, and does not come back with its old content for anyone else. */
	for (uint64_t i = 0; i < blocks; i += 2)
		wrong += mem_request(&mem, MEM_UNPLUG, config.address + i * config.block_size, 1,
				     NULL) != MEM_ACK;
	check(!wrong, "every other block is unplugged");
	print_number("nonzero",
		     sweep_reads(config.address, config.address + blocks * config.block_size));
	checkpoint("unplugged");
}
