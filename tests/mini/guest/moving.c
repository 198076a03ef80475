/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keeps everything that a processor has in motion, round after round, and notices when any of it is
 * not what it was a moment ago. A round takes some milliseconds, so a machine that is moved to
 * another process at any moment is moved in the middle of one.
 */
#include "mini.h"

#define STEPS	      5000ULL
#define LAPIC	      0xfee00000ULL
#define LAPIC_TPR     0x80
#define LAPIC_SVR     0xf0
#define LAPIC_TIMER   0x320
#define LAPIC_INITIAL 0x380
#define LAPIC_CURRENT 0x390
#define LAPIC_DIVIDE  0x3e0

#define MSR_SYSENTER_EIP 0x176
#define MSR_LSTAR	 0xc0000082
#define MSR_FS_BASE	 0xc0000100
#define MSR_KERNEL_GS	 0xc0000102

static const uint32_t msrs[] = {MSR_SYSENTER_EIP, MSR_LSTAR, MSR_FS_BASE, MSR_KERNEL_GS};
#define MSRS (sizeof(msrs) / sizeof(msrs[0]))

static uint64_t read_msr(uint32_t index)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return (uint64_t)high << 32 | low;
}

static void write_msr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr" ::"a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index));
}

static uint64_t read_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* An image of fxsave: control words, then 8 floating-point and 16 vector registers of 16 bytes. */
#define FX_SIZE	     512
#define FX_CONTROL   0
#define FX_MXCSR     24
#define FX_REGISTERS 32
#define FX_END	     416

static uint8_t fx_set[FX_SIZE] __attribute__((aligned(16)));
static uint8_t fx_seen[FX_SIZE] __attribute__((aligned(16)));

/* Another number in every register; those of floating point have ten bytes. */
static void set_vectors(uint64_t round)
{
	memset(fx_set, 0, sizeof(fx_set));
	fx_set[FX_CONTROL] = 0x7f;
	fx_set[FX_CONTROL + 1] = 0x03;
	fx_set[FX_MXCSR] = 0x80;
	fx_set[FX_MXCSR + 1] = 0x1f;
	for (int i = FX_REGISTERS; i < FX_END; i++)
		if (i >= FX_REGISTERS + 8 * 16 || i % 16 < 10)
			fx_set[i] = (uint8_t)(round * 7 + (uint64_t)i);
	__asm__ volatile("fxrstor64 %0" ::"m"(fx_set));
}

static bool vectors_stay(void)
{
	__asm__ volatile("fxsave64 %0" : "=m"(fx_seen));
	for (int i = FX_REGISTERS; i < FX_END; i++)
		if (fx_seen[i] != fx_set[i])
			return false;
	return fx_seen[FX_CONTROL] == 0x7f && fx_seen[FX_MXCSR] == 0x80;
}

/*
 * Adds 1 to 7 to seven registers @steps times, and tells whether they arrived where they should.
 * No vector arithmetic: there are KVMs that emulate a guest's kernel and do not know it.
 */
static bool move(uint64_t steps)
{
	static uint64_t arrived[7];

	__asm__ volatile("xor %%r9, %%r9\n\t xor %%r10, %%r10\n\t xor %%r11, %%r11\n\t"
			 "xor %%r12, %%r12\n\t xor %%r13, %%r13\n\t xor %%r14, %%r14\n\t"
			 "xor %%r15, %%r15\n\t"
			 "1: add $1, %%r9\n\t add $2, %%r10\n\t add $3, %%r11\n\t"
			 "add $4, %%r12\n\t add $5, %%r13\n\t add $6, %%r14\n\t"
			 "add $7, %%r15\n\t"
			 "sub $1, %[steps]\n\t jnz 1b\n\t"
			 "mov %%r9, 0(%[arrived])\n\t mov %%r10, 8(%[arrived])\n\t"
			 "mov %%r11, 16(%[arrived])\n\t mov %%r12, 24(%[arrived])\n\t"
			 "mov %%r13, 32(%[arrived])\n\t mov %%r14, 40(%[arrived])\n\t"
			 "mov %%r15, 48(%[arrived])"
			 : [steps] "+r"(steps)
			 : [arrived] "r"(arrived)
			 : "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	for (uint64_t i = 0; i < 7; i++)
		if (arrived[i] != STEPS * (i + 1))
			return false;
	return true;
}

static uint64_t msr_value(uint64_t round, uint64_t i)
{
	return 0xffff800000000000ULL + round * 0x1000 + i * 16;
}

static void set_registers(uint64_t round)
{
	for (uint64_t i = 0; i < MSRS; i++)
		write_msr(msrs[i], msr_value(round, i));
	__asm__ volatile("mov %0, %%dr0\n\t mov %1, %%dr3\n\t mov %2, %%cr2" ::"r"(round * 8),
			 "r"(round * 16), "r"(round * 0x1000));
	MMIO(uint32_t, LAPIC + LAPIC_TPR) = (uint32_t)(round & 0xf) << 4;
	MMIO(uint32_t, LAPIC + LAPIC_INITIAL) = 0xffffffff;
}

static bool registers_stay(uint64_t round)
{
	uint64_t dr0, dr3, cr2;

	for (uint64_t i = 0; i < MSRS; i++)
		if (read_msr(msrs[i]) != msr_value(round, i))
			return false;
	__asm__ volatile("mov %%dr0, %0\n\t mov %%dr3, %1\n\t mov %%cr2, %2"
			 : "=r"(dr0), "=r"(dr3), "=r"(cr2));
	return dr0 == round * 8 && dr3 == round * 16 && cr2 == round * 0x1000 &&
	       MMIO(uint32_t, LAPIC + LAPIC_TPR) == (uint32_t)(round & 0xf) << 4;
}

static bool clocks_go_on(uint64_t *tsc)
{
	uint64_t now = read_tsc(), before = *tsc;

	*tsc = now;
	return now > before && MMIO(uint32_t, LAPIC + LAPIC_CURRENT) < 0xffffffff &&
	       MMIO(uint32_t, LAPIC + LAPIC_CURRENT) > 0;
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 100), tsc = read_tsc();

	MMIO(uint32_t, LAPIC + LAPIC_SVR) = 0x1ff;
	MMIO(uint32_t, LAPIC + LAPIC_DIVIDE) = 0xb;
	MMIO(uint32_t, LAPIC + LAPIC_TIMER) = 0x10040; /* masked */
	for (uint64_t round = 1; round <= rounds; round++) {
		set_registers(round);
		set_vectors(round);
		if (!move(STEPS))
			check(false, "general registers");
		if (!vectors_stay())
			check(false, "vector and floating-point registers");
		if (!registers_stay(round))
			check(false, "model-specific, debug and control registers");
		if (!clocks_go_on(&tsc))
			check(false, "time-stamp counter and timer");
		print_number("round", round);
	}
}
