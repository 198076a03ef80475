/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to all of its memory but the first 4 MiB, where it is itself, round after round: round N
 * writes N to the first word of each page, in ascending order.
 *
 * memory=N (MiB) rounds=N. With pace=N at most one page every N cycles, and what it missed while it
 * did not run it does not catch up.
 */
#include "mini.h"

#define PAGE  4096ULL
#define MIB   (1024 * 1024ULL)
#define FIRST (4 * MIB)

static void wait_until(uint64_t cycle)
{
	while (__builtin_ia32_rdtsc() < cycle)
		;
}

void guest_main(const char *cmdline)
{
	uint64_t end = argument(cmdline, "memory", 16) * MIB;
	uint64_t rounds = argument(cmdline, "rounds", 10), pace = argument(cmdline, "pace", 0);
	uint64_t last = 0;

	for (uint64_t round = 1; round <= rounds; round++) {
		for (uint64_t address = FIRST; address < end; address += PAGE) {
			MMIO(uint64_t, address) = round;
			if (pace) {
				wait_until(last + pace);
				last = __builtin_ia32_rdtsc();
			}
		}
		print_number("round", round);
	}
}
