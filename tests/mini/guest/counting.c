/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counts in every page of a piece of memory, in lock-step: step N writes N to the first and then the
 * last word of each page, in an order that jumps about, and says beforehand at which page it is. So
 * an image of this memory belongs to one moment if and only if all pages before that one hold N and
 * all behind it N - 1; a page that was lost or is older is noticed by the image's reader and by the
 * guest itself, which finds N - 1 in each page or says FAIL.
 *
 * pages=N steps=N; elastic=N plugs every other of 2 N blocks and counts in these too; ballast=N more
 * pages behind those in boot memory are written to once and never looked at.
 */
#include "mini.h"

#define HEADER 0x1000000ULL /* what a reader of the image needs */
#define BOOT   0x2000000ULL /* the pages in boot memory */
#define PAGE   4096ULL
#define LAST   (PAGE - 8)
#define STRIDE 7919ULL /* a prime that no number of pages has as factor */
#define MAGIC  0x676e69746e756f63ULL

struct header {
	uint64_t magic, pages, boot_pages, elastic, block;
	uint64_t at; /* step << 32 | how many of its pages are certainly written */
};

static volatile struct header *const header = (volatile struct header *)HEADER;
static struct queue queues[1];

static void plug(uint64_t blocks)
{
	struct virtio mem;
	struct mem_config config;

	if (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, queues, 1)) {
		check(false, "the elastic device is there");
		power_off();
	}
	mem_read_config(&mem, &config);
	header->elastic = config.address;
	header->block = config.block_size;
	for (uint64_t i = 0; i < blocks; i++)
		if (mem_request(&mem, MEM_PLUG, config.address + 2 * i * config.block_size, 1,
				NULL) != MEM_ACK) {
			check(false, "blocks are plugged");
			power_off();
		}
}

static uint64_t address_of(uint64_t page)
{
	uint64_t in_block = header->block / PAGE, behind = page - header->boot_pages;

	if (page < header->boot_pages)
		return BOOT + page * PAGE;
	return header->elastic + 2 * (behind / in_block) * header->block + behind % in_block * PAGE;
}

static void count(uint64_t address, uint64_t step)
{
	if (MMIO(uint64_t, address) != step - 1 || MMIO(uint64_t, address + LAST) != step - 1) {
		print_number("expected", step - 1);
		print_number("first", MMIO(uint64_t, address));
		print_number("last", MMIO(uint64_t, address + LAST));
		print_number("at", address);
		check(false, "a page holds what was written to it");
		power_off();
	}
	MMIO(uint64_t, address) = step;
	MMIO(uint64_t, address + LAST) = step;
}

void guest_main(const char *cmdline)
{
	uint64_t steps = argument(cmdline, "steps", 10), blocks = argument(cmdline, "elastic", 0);

	header->boot_pages = argument(cmdline, "pages", 1024);
	for (uint64_t page = 0; page < argument(cmdline, "ballast", 0); page++)
		MMIO(uint64_t, BOOT + (header->boot_pages + page) * PAGE) = page + 1;
	if (blocks)
		plug(blocks);
	header->pages = header->boot_pages + blocks * header->block / PAGE;
	header->magic = MAGIC;
	for (uint64_t step = 1; step <= steps; step++) {
		uint64_t page = 0;

		for (uint64_t index = 0; index < header->pages; index++) {
			header->at = step << 32 | index;
			count(address_of(page), step);
			page = (page + STRIDE) % header->pages;
		}
		print_number("step", step);
	}
}
