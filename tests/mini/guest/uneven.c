/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two processors of which only one writes: the first goes through memory=N MiB (but the first 4) round
 * after round and writes one page every pace=N cycles at most, without catching up; the second one counts.
 * After each few pages the first one says how far the second has come.
 */
#include "mini.h"

#define PAGE  4096ULL
#define MIB   (1024 * 1024ULL)
#define FIRST (4 * MIB)
#define SOME  (64 * PAGE)

#define TRAMPOLINE 0x8000 /* below 1 MiB, where nothing is */
#define ICR_LOW	   0xfee00300ULL
#define ICR_HIGH   0xfee00310ULL
#define ICR_INIT   0x4500
#define ICR_SIPI   0x4600   /* and the page to start at */
#define MOMENT	   30000000 /* cycles */

/* The second processor starts in real mode; from there into 64-bit mode with the first one's tables. */
__asm__(".pushsection .rodata\n"
	".code16\n"
	"trampoline:\n"
	"	cli\n"
	"	xorl %eax, %eax\n"
	"	movw %ax, %ds\n"
	"	lgdtl 0x8000 + (flat_table - trampoline)\n"
	"	movl %cr0, %eax\n"
	"	orl $1, %eax\n"
	"	movl %eax, %cr0\n"
	"	ljmpl $0x8, $0x8000 + (flat - trampoline)\n"
	".code32\n"
	"flat:	movl $0x10, %eax\n"
	"	movl %eax, %ds\n"
	"	movl %eax, %es\n"
	"	movl %eax, %ss\n"
	"	movl second_cr4, %eax\n"
	"	movl %eax, %cr4\n"
	"	movl second_cr3, %eax\n"
	"	movl %eax, %cr3\n"
	"	movl $0xc0000080, %ecx\n" /* EFER, its LME */
	"	rdmsr\n"
	"	orl $0x100, %eax\n"
	"	wrmsr\n"
	"	movl $0x80000031, %eax\n"
	"	movl %eax, %cr0\n"
	"	lgdt second_table\n"
	"	ljmp $0x8, $second64\n"
	"	.balign 8\n"
	"descriptors: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
	"flat_table: .word 23\n"
	"	.long 0x8000 + (descriptors - trampoline)\n"
	"trampoline_end:\n"
	".code64\n"
	".popsection\n"
	"second64:\n"
	"	movl $0x10, %eax\n"
	"	movl %eax, %ds\n"
	"	movl %eax, %es\n"
	"	movl %eax, %ss\n"
	"	movl $second_stack + 4096, %esp\n"
	"	call second_main\n");

extern const uint8_t trampoline[], trampoline_end[];
uint32_t second_cr3, second_cr4;
struct {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed)) second_table;
uint8_t second_stack[4096] __attribute__((aligned(16)));
static volatile uint64_t counted __attribute__((aligned(4096)));

void second_main(void)
{
	for (;;)
		counted++;
}

static void wait_until(uint64_t cycle)
{
	while (__builtin_ia32_rdtsc() < cycle)
		;
}

static void start_second(void)
{
	uint64_t value;

	memcpy((void *)(uintptr_t)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	__asm__ volatile("mov %%cr3, %0" : "=r"(value));
	second_cr3 = (uint32_t)value;
	__asm__ volatile("mov %%cr4, %0" : "=r"(value));
	second_cr4 = (uint32_t)value;
	__asm__ volatile("sgdt %0" : "=m"(second_table));
	MMIO(uint32_t, ICR_HIGH) = 1 << 24;
	MMIO(uint32_t, ICR_LOW) = ICR_INIT;
	wait_until(__builtin_ia32_rdtsc() + MOMENT);
	MMIO(uint32_t, ICR_HIGH) = 1 << 24;
	MMIO(uint32_t, ICR_LOW) = ICR_SIPI | TRAMPOLINE >> 12;
	while (!counted)
		;
}

void guest_main(const char *cmdline)
{
	uint64_t end = argument(cmdline, "memory", 6) * MIB, last = 0;
	uint64_t pace = argument(cmdline, "pace", 0);

	start_second();
	for (uint64_t round = 1;; round++) {
		for (uint64_t address = FIRST; address < end; address += PAGE) {
			MMIO(uint64_t, address) = round;
			wait_until(last + pace);
			last = __builtin_ia32_rdtsc();
			if (address % SOME == 0)
				print_number("counted", counted);
		}
	}
}
