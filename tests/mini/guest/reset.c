/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Resets the machine in the middle of elastic life: first run: plugs, writes, resets without
 * telling the device. Second run: nothing is plugged any more, the old content is gone, and the
 * size that was requested can be plugged again.
 */
#include "mini.h"

#define MARKER	     0x800000ULL /* in boot memory, which a reset leaves alone */
#define MARKER_VALUE 0x6f64776974ULL

static struct queue queues[1];

void guest_main(const char *cmdline)
{
	struct virtio mem;
	struct mem_config config;
	uint16_t blocks = (uint16_t)argument(cmdline, "blocks", 16);

	if (!virtio_find(24, 0, &mem) || !virtio_start(&mem, 0, queues, 1)) {
		check(false, "the elastic device is there");
		return;
	}
	mem_read_config(&mem, &config);
	if (MMIO(uint64_t, MARKER) != MARKER_VALUE) {
		MMIO(uint64_t, MARKER) = MARKER_VALUE;
		check(mem_request(&mem, MEM_PLUG, config.address, blocks, NULL) == MEM_ACK,
		      "the first run plugs");
		for (uint64_t i = 0; i < blocks; i++)
			MMIO(uint64_t, config.address + i * config.block_size) = i + 1;
		checkpoint("plugged");
		if (argument(cmdline, "triple", 0))
			((void (*)(void))0xffffffff00000000ULL)();
		reset_machine();
	}
	check(config.plugged == 0, "after a reset nothing is plugged");
	check(config.requested >= blocks * config.block_size, "the requested size is still there");
	check(MMIO(uint64_t, config.address) == 0, "what was plugged reads as zeros");
	checkpoint("reset");
	check(mem_request(&mem, MEM_PLUG, config.address, blocks, NULL) == MEM_ACK,
	      "the second run plugs again");
	check(MMIO(uint64_t, config.address) == 0, "and finds fresh memory");
	MMIO(uint64_t, config.address) = 5;
	check(MMIO(uint64_t, config.address) == 5, "that it can use");
}
