/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Features of x86-64 processors by name: where CPUID tells of them, which level of the psABI has them,
 * and what they stand on. Names are QEMU's, which are the Linux kernel's but for few.
 */
#ifndef GODWIT_KVM_CPU_FEATURES_H
#define GODWIT_KVM_CPU_FEATURES_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* Not a level's, but what a guest on any level may have where the host has it: all that runs KVM does,
 * or nothing but the topology depends on it. */
#define CPU_LEVEL_ANY 0xff
#define CPU_LEVELS    4 /* x86-64-v1 to v4 */

struct cpu_feature {
	const char *name;
	uint32_t leaf, subleaf;
	enum cpuid_register which;
	uint8_t bit;
	uint8_t level;	   /* the lowest that has it; 0: none; CPU_LEVEL_ANY */
	const char *needs; /* another one, or NULL */
	uint32_t xcr0;	   /* the parts of the XSAVE area that are its registers' */
};

#define CPU_FEATURES_MAX 192

extern const struct cpu_feature cpu_features[];
extern const size_t cpu_features_count;

/*
 * The index of the feature called @name, of @length characters; '-', '_' and '.' are the same.
 * cpu_features_count if there is none.
 */
size_t cpu_feature_find(const char *name, size_t length);
/* The register @which of leaf @leaf in @cpuid, or NULL. */
uint32_t *cpuid_word(struct kvm_cpuid2 *cpuid, uint32_t leaf, uint32_t subleaf,
		     enum cpuid_register which);
/*
 * The names of the features that are the @bits of a register, " (avx2, bmi2)", cut at @size; "" where
 * none of them has a name. Returns @text.
 */
const char *cpu_features_of_bits(uint32_t leaf, uint32_t subleaf, enum cpuid_register which,
				 uint32_t bits, char *text, size_t size);

#endif
