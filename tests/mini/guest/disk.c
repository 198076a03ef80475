/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to a disk and reads it back, round after round, from boot memory and, if there is an elastic
 * device, from memory that it plugs and unplugs meanwhile, a block here and there. A disk that needs a
 * reset is reset, and the request done again.
 *
 * rounds=N half=N (a checkpoint before that round) elastic=0|1 kept=N (what is read in a round goes to one
 * of so many pages as well, which nobody else writes to, and is looked at when its turn comes again)
 * ballast=N (pages that are written to once and never looked at).
 */
#include "mini.h"

#define PAGE	4096ULL
#define SECTORS 8 /* a page */
#define PLACES	64
#define BLOCKS	16
#define KEPT	256
#define BALLAST 0x2000000ULL

static struct queue mem_queue, disk_queue;
static struct virtio mem, disk;
static struct mem_config config;
static bool plugged[BLOCKS];
static uint8_t pages[2][PAGE] __attribute__((aligned(4096)));
static uint8_t kept[KEPT][PAGE] __attribute__((aligned(4096)));
static uint64_t resets;

static bool start_disk(void)
{
	virtio_reset(&disk);
	while (virtio_status(&disk))
		; /* the device has its time to reset */
	return virtio_start(&disk, 0, &disk_queue, 1);
}

static bool try_transfer(bool write, uint64_t sector, uint64_t address)
{
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	static volatile uint8_t status;
	uint16_t used = disk_queue.used.index;

	header.type = write;
	header.sector = sector;
	status = 0xff;
	disk_queue.descriptors[0].address = (uintptr_t)&header;
	disk_queue.descriptors[0].length = sizeof(header);
	disk_queue.descriptors[0].flags = DESCRIPTOR_NEXT;
	disk_queue.descriptors[0].next = 1;
	disk_queue.descriptors[1].address = address;
	disk_queue.descriptors[1].length = PAGE;
	disk_queue.descriptors[1].flags = (write ? 0 : DESCRIPTOR_WRITE) | DESCRIPTOR_NEXT;
	disk_queue.descriptors[1].next = 2;
	disk_queue.descriptors[2].address = (uintptr_t)&status;
	disk_queue.descriptors[2].length = 1;
	disk_queue.descriptors[2].flags = DESCRIPTOR_WRITE;
	queue_submit(&disk_queue, 0);
	if (!queue_wait(&disk, &disk_queue, used))
		return false;
	if (status)
		check(false, "the disk does it");
	return true;
}

static void transfer(bool write, uint64_t sector, uint64_t address)
{
	while (!try_transfer(write, sector, address)) {
		resets++;
		if (!start_disk()) {
			check(false, "the disk starts after a reset");
			return;
		}
	}
}

static uint64_t pattern(uint64_t round, uint64_t word)
{
	return (round << 32 | word) * 6364136223846793005ULL;
}

/* Writes a page of round @round from @from and reads it to @to. */
static void write_and_read(uint64_t round, uint64_t from, uint64_t to)
{
	uint64_t sector = round * 7 % PLACES * SECTORS;
	bool same = true;

	for (uint64_t word = 0; word < PAGE / 8; word++)
		MMIO(uint64_t, from + word * 8) = pattern(round, word);
	transfer(true, sector, from);
	for (uint64_t word = 0; word < PAGE / 8; word++)
		MMIO(uint64_t, to + word * 8) = 0;
	transfer(false, sector, to);
	for (uint64_t word = 0; word < PAGE / 8; word++)
		same = same && MMIO(uint64_t, to + word * 8) == pattern(round, word);
	if (!same)
		check(false, "what was written is read");
}

static void read_and_keep(uint64_t round, uint64_t count)
{
	uint64_t to = (uintptr_t)kept[round % count];
	bool same = true;

	for (uint64_t word = 0; word < PAGE / 8; word++)
		same = same && (round <= count ||
				MMIO(uint64_t, to + word * 8) == pattern(round - count, word));
	if (!same)
		check(false, "what was read is there still");
	transfer(false, round * 7 % PLACES * SECTORS, to);
}

static uint64_t block(uint64_t number)
{
	return config.address + number * config.block_size;
}

/* A place in elastic memory, which changes a little with each round. */
static uint64_t elastic_page(uint64_t round)
{
	uint64_t number = round * 5 % BLOCKS, other = round * 11 % BLOCKS;

	if (!plugged[number])
		check(mem_request(&mem, MEM_PLUG, block(number), 1, NULL) == MEM_ACK, "plugs");
	plugged[number] = true;
	if (other != number && plugged[other]) {
		check(mem_request(&mem, MEM_UNPLUG, block(other), 1, NULL) == MEM_ACK, "unplugs");
		plugged[other] = false;
	}
	return block(number) + round % 8 * PAGE;
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 100), half = argument(cmdline, "half", 0);
	uint64_t keep = argument(cmdline, "kept", 0);
	bool elastic = argument(cmdline, "elastic", 0);

	if (!virtio_find(2, 0, &disk) || !start_disk() ||
	    (elastic && (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, &mem_queue, 1)))) {
		check(false, "the devices are there");
		return;
	}
	if (elastic)
		mem_read_config(&mem, &config);
	for (uint64_t page = 0; page < argument(cmdline, "ballast", 0); page++)
		MMIO(uint64_t, BALLAST + page * PAGE) = page + 1;
	print_number("capacity", MMIO(uint32_t, disk.device));
	for (uint64_t round = 1; round <= rounds; round++) {
		uint64_t page = (uintptr_t)pages[0], other = (uintptr_t)pages[1];

		if (round == half)
			checkpoint("half");
		write_and_read(round, page, elastic ? elastic_page(round) : other);
		if (elastic)
			write_and_read(round, elastic_page(round), page);
		if (keep)
			read_and_keep(round, keep < KEPT ? keep : KEPT);
		print_number("round", round);
	}
	print_number("resets", resets);
}
