/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to its memory in every way that there is, round after round: itself, to boot memory and to
 * elastic memory that it plugs, unplugs and plugs again, and through devices that are told to write
 * there (random numbers, disk sectors).
 *
 * rounds=N; ballast=N pages are written to once and never looked at. Expects the devices rng and disk, and elastic memory that may be plugged as a whole.
 */
#include "mini.h"

#define PAGE	4096ULL
#define MIB	(1024 * 1024ULL)
#define SCATTER (8 * MIB)  /* pages that it writes itself, here and there */
#define DEVICES (16 * MIB) /* pages that devices write */
#define BALLAST (32 * MIB)
#define WRITES	24
#define BLOCKS	4

static struct queue mem_queue, rng_queue, disk_queue;
static struct virtio mem, rng, disk;
static struct mem_config config;

static void ask_rng(uint64_t address)
{
	uint16_t used = rng_queue.used.index;

	rng_queue.descriptors[0].address = address;
	rng_queue.descriptors[0].length = 64;
	rng_queue.descriptors[0].flags = DESCRIPTOR_WRITE;
	queue_submit(&rng_queue, 0);
	check(queue_wait(&rng, &rng_queue, used), "random numbers come");
}

/* Reads @sectors of the disk to @address. */
static void read_disk(uint64_t address, uint32_t sectors)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	static volatile uint8_t status;
	uint16_t used = disk_queue.used.index;

	header.sector = address / PAGE % 16;
	status = 0xff;
	disk_queue.descriptors[0].address = (uintptr_t)&header;
	disk_queue.descriptors[0].length = sizeof(header);
	disk_queue.descriptors[0].flags = DESCRIPTOR_NEXT;
	disk_queue.descriptors[0].next = 1;
	disk_queue.descriptors[1].address = address;
	disk_queue.descriptors[1].length = sectors * 512;
	disk_queue.descriptors[1].flags = DESCRIPTOR_WRITE | DESCRIPTOR_NEXT;
	disk_queue.descriptors[1].next = 2;
	disk_queue.descriptors[2].address = (uintptr_t)&status;
	disk_queue.descriptors[2].length = 1;
	disk_queue.descriptors[2].flags = DESCRIPTOR_WRITE;
	queue_submit(&disk_queue, 0);
	check(queue_wait(&disk, &disk_queue, used) && !status, "the disk is read");
}

/* Blocks come and go, in another order each time; what is there is written to, by a device too. */
static void use_elastic_memory(uint64_t round)
{
	uint64_t block = round * 3 % BLOCKS, address = config.address + block * config.block_size;
	static bool plugged[BLOCKS];

	if (plugged[block] && round % 3 == 0) {
		check(mem_request(&mem, MEM_UNPLUG, address, 1, NULL) == MEM_ACK, "it unplugs");
		plugged[block] = false;
		return;
	}
	if (!plugged[block])
		check(mem_request(&mem, MEM_PLUG, address, 1, NULL) == MEM_ACK, "it plugs");
	plugged[block] = true;
	MMIO(uint64_t, address + round % 64 * PAGE) = round;
	ask_rng(address + (64 + round % 64) * PAGE);
	read_disk(address + (128 + round % 64) * PAGE, 16);
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 100), value = 1;

	if (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, &mem_queue, 1) ||
	    !virtio_find(4, 0, &rng) || !virtio_start(&rng, 0, &rng_queue, 1) ||
	    !virtio_find(2, 0, &disk) || !virtio_start(&disk, 0, &disk_queue, 1)) {
		check(false, "the devices are there");
		return;
	}
	mem_read_config(&mem, &config);
	for (uint64_t page = 0; page < argument(cmdline, "ballast", 0); page++)
		MMIO(uint64_t, BALLAST + page * PAGE) = page + 1;
	for (uint64_t round = 1; round <= rounds; round++) {
		for (int i = 0; i < WRITES; i++) {
			value = value * 6364136223846793005ULL + 1442695040888963407ULL;
			MMIO(uint64_t, SCATTER + (value >> 33) % 1024 * PAGE) = value;
		}
		ask_rng(DEVICES + round % 128 * PAGE);
		read_disk(DEVICES + (128 + round % 128) * PAGE - 512, 4);
		use_elastic_memory(round);
		print_number("round", round);
	}
}
