/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Says what its processor says of itself, word by word, and whether it can turn on what the words
 * promise. With rounds=N it asks again and again before that, and says so if an answer differs.
 */
#include "mini.h"

#define CR4_OSXSAVE (1ULL << 18)

static const struct {
	const char *name;
	uint32_t leaf, subleaf;
	int which; /* of EAX, EBX, ECX, EDX */
} words[] = {
    {"1.ecx", 1, 0, 2},
    {"1.edx", 1, 0, 3},
    {"7.ebx", 7, 0, 1},
    {"7.ecx", 7, 0, 2},
    {"7.edx", 7, 0, 3},
    {"7.1.eax", 7, 1, 0},
    {"d.eax", 0xd, 0, 0},
    {"d.1.eax", 0xd, 1, 0},
    {"kvm.eax", 0x40000001, 0, 0},
    {"ext.ecx", 0x80000001, 0, 2},
    {"ext.edx", 0x80000001, 0, 3},
    {"sizes", 0x80000008, 0, 0},
    {"sizes.ebx", 0x80000008, 0, 1},
};

#define WORDS (sizeof(words) / sizeof(words[0]))
#define ASK   300 /* times a round */

static uint32_t word(size_t index)
{
	uint32_t out[4];

	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(words[index].leaf), "c"(words[index].subleaf));
	return out[words[index].which];
}

static void set_xcr0(uint64_t value)
{
	uint64_t cr4;

	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | CR4_OSXSAVE));
	__asm__ volatile("xsetbv" ::"a"((uint32_t)value), "d"(0), "c"(0));
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 0);
	uint32_t first[WORDS];

	for (size_t i = 0; i < WORDS; i++) {
		first[i] = word(i);
		print_number(words[i].name, first[i]);
	}
	for (uint64_t round = 1; round <= rounds; round++) {
		for (int time = 0; time < ASK; time++)
			for (size_t i = 0; i < WORDS; i++)
				if (word(i) != first[i])
					check(false, words[i].name);
		print_number("round", round);
	}
	print_number("avx", survives(set_xcr0, 7));
	print_number("avx512", survives(set_xcr0, 0xe7));
}
