/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of cpu_features.h. Bits: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E. Levels:
 * the x86-64 psABI, "Micro-Architecture Levels", and for the first what each such processor has and
 * a kernel counts on. Guests travel by their levels: what a level has is never changed.
 */
#include "kvm/cpu_features.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

/* clang-format off */
const struct cpu_feature cpu_features[] = {
    {"fpu", 0x1, 0, CPUID_EDX, 0, 1, NULL, 0},
    {"vme", 0x1, 0, CPUID_EDX, 1, CPU_LEVEL_ANY, NULL, 0},
    {"de", 0x1, 0, CPUID_EDX, 2, 1, NULL, 0},
    {"pse", 0x1, 0, CPUID_EDX, 3, 1, NULL, 0},
    {"tsc", 0x1, 0, CPUID_EDX, 4, 1, NULL, 0},
    {"msr", 0x1, 0, CPUID_EDX, 5, 1, NULL, 0},
    {"pae", 0x1, 0, CPUID_EDX, 6, 1, NULL, 0},
    {"mce", 0x1, 0, CPUID_EDX, 7, 1, NULL, 0},
    {"cx8", 0x1, 0, CPUID_EDX, 8, 1, NULL, 0},
    {"apic", 0x1, 0, CPUID_EDX, 9, 1, NULL, 0},
    {"sep", 0x1, 0, CPUID_EDX, 11, 1, NULL, 0},
    {"mtrr", 0x1, 0, CPUID_EDX, 12, 1, NULL, 0},
    {"pge", 0x1, 0, CPUID_EDX, 13, 1, NULL, 0},
    {"mca", 0x1, 0, CPUID_EDX, 14, 1, NULL, 0},
    {"cmov", 0x1, 0, CPUID_EDX, 15, 1, NULL, 0},
    {"pat", 0x1, 0, CPUID_EDX, 16, 1, NULL, 0},
    {"pse36", 0x1, 0, CPUID_EDX, 17, 1, NULL, 0},
    {"clflush", 0x1, 0, CPUID_EDX, 19, 1, NULL, 0},
    {"mmx", 0x1, 0, CPUID_EDX, 23, 1, NULL, 0},
    {"fxsr", 0x1, 0, CPUID_EDX, 24, 1, NULL, 0},
    {"sse", 0x1, 0, CPUID_EDX, 25, 1, "fxsr", 0},
    {"sse2", 0x1, 0, CPUID_EDX, 26, 1, "sse", 0},
    {"sse3", 0x1, 0, CPUID_ECX, 0, 2, "sse2", 0},
    {"pclmulqdq", 0x1, 0, CPUID_ECX, 1, 0, "sse2", 0},
    {"monitor", 0x1, 0, CPUID_ECX, 3, 0, NULL, 0},
    {"vmx", 0x1, 0, CPUID_ECX, 5, 0, NULL, 0},
    {"ssse3", 0x1, 0, CPUID_ECX, 9, 2, "sse3", 0},
    {"fma", 0x1, 0, CPUID_ECX, 12, 3, "avx", 0},
    {"cx16", 0x1, 0, CPUID_ECX, 13, 2, NULL, 0},
    {"pcid", 0x1, 0, CPUID_ECX, 17, 0, NULL, 0},
    {"sse4-1", 0x1, 0, CPUID_ECX, 19, 2, "ssse3", 0},
    {"sse4-2", 0x1, 0, CPUID_ECX, 20, 2, "sse4-1", 0},
    {"movbe", 0x1, 0, CPUID_ECX, 22, 3, NULL, 0},
    {"popcnt", 0x1, 0, CPUID_ECX, 23, 2, NULL, 0},
    {"aes", 0x1, 0, CPUID_ECX, 25, 0, "sse2", 0},
    {"xsave", 0x1, 0, CPUID_ECX, 26, 3, NULL, 0},
    {"avx", 0x1, 0, CPUID_ECX, 28, 3, "xsave", 0x4},
    {"f16c", 0x1, 0, CPUID_ECX, 29, 3, "avx", 0},
    {"rdrand", 0x1, 0, CPUID_ECX, 30, 0, NULL, 0},
    {"fsgsbase", 0x7, 0, CPUID_EBX, 0, 0, NULL, 0},
    {"tsc-adjust", 0x7, 0, CPUID_EBX, 1, CPU_LEVEL_ANY, NULL, 0},
    {"bmi1", 0x7, 0, CPUID_EBX, 3, 3, NULL, 0},
    {"hle", 0x7, 0, CPUID_EBX, 4, 0, NULL, 0},
    {"avx2", 0x7, 0, CPUID_EBX, 5, 3, "avx", 0},
    {"smep", 0x7, 0, CPUID_EBX, 7, 0, NULL, 0},
    {"bmi2", 0x7, 0, CPUID_EBX, 8, 3, NULL, 0},
    {"erms", 0x7, 0, CPUID_EBX, 9, 0, NULL, 0},
    {"invpcid", 0x7, 0, CPUID_EBX, 10, 0, "pcid", 0},
    {"rtm", 0x7, 0, CPUID_EBX, 11, 0, NULL, 0},
    {"mpx", 0x7, 0, CPUID_EBX, 14, 0, "xsave", 0x18},
    {"avx512f", 0x7, 0, CPUID_EBX, 16, 4, "avx2", 0xe0},
    {"avx512dq", 0x7, 0, CPUID_EBX, 17, 4, "avx512f", 0},
    {"rdseed", 0x7, 0, CPUID_EBX, 18, 0, NULL, 0},
    {"adx", 0x7, 0, CPUID_EBX, 19, 0, NULL, 0},
    {"smap", 0x7, 0, CPUID_EBX, 20, 0, NULL, 0},
    {"avx512ifma", 0x7, 0, CPUID_EBX, 21, 0, "avx512f", 0},
    {"clflushopt", 0x7, 0, CPUID_EBX, 23, 0, NULL, 0},
    {"clwb", 0x7, 0, CPUID_EBX, 24, 0, NULL, 0},
    {"avx512cd", 0x7, 0, CPUID_EBX, 28, 4, "avx512f", 0},
    {"sha-ni", 0x7, 0, CPUID_EBX, 29, 0, "sse2", 0},
    {"avx512bw", 0x7, 0, CPUID_EBX, 30, 4, "avx512f", 0},
    {"avx512vl", 0x7, 0, CPUID_EBX, 31, 4, "avx512f", 0},
    {"avx512vbmi", 0x7, 0, CPUID_ECX, 1, 0, "avx512f", 0},
    {"umip", 0x7, 0, CPUID_ECX, 2, 0, NULL, 0},
    {"pku", 0x7, 0, CPUID_ECX, 3, 0, "xsave", 0x200},
    {"avx512-vbmi2", 0x7, 0, CPUID_ECX, 6, 0, "avx512f", 0},
    {"gfni", 0x7, 0, CPUID_ECX, 8, 0, "sse2", 0},
    {"vaes", 0x7, 0, CPUID_ECX, 9, 0, "avx", 0},
    {"vpclmulqdq", 0x7, 0, CPUID_ECX, 10, 0, "avx", 0},
    {"avx512-vnni", 0x7, 0, CPUID_ECX, 11, 0, "avx512f", 0},
    {"avx512-bitalg", 0x7, 0, CPUID_ECX, 12, 0, "avx512f", 0},
    {"avx512-vpopcntdq", 0x7, 0, CPUID_ECX, 14, 0, "avx512f", 0},
    {"la57", 0x7, 0, CPUID_ECX, 16, 0, NULL, 0},
    {"rdpid", 0x7, 0, CPUID_ECX, 22, 0, NULL, 0},
    {"fsrm", 0x7, 0, CPUID_EDX, 4, 0, NULL, 0},
    {"avx512-vp2intersect", 0x7, 0, CPUID_EDX, 8, 0, "avx512f", 0},
    {"md-clear", 0x7, 0, CPUID_EDX, 10, 0, NULL, 0},
    {"serialize", 0x7, 0, CPUID_EDX, 14, 0, NULL, 0},
    {"amx-bf16", 0x7, 0, CPUID_EDX, 22, 0, "amx-tile", 0},
    {"avx512-fp16", 0x7, 0, CPUID_EDX, 23, 0, "avx512f", 0},
    {"amx-tile", 0x7, 0, CPUID_EDX, 24, 0, "xsave", 0x60000},
    {"amx-int8", 0x7, 0, CPUID_EDX, 25, 0, "amx-tile", 0},
    {"spec-ctrl", 0x7, 0, CPUID_EDX, 26, 0, NULL, 0},
    {"stibp", 0x7, 0, CPUID_EDX, 27, 0, NULL, 0},
    {"arch-capabilities", 0x7, 0, CPUID_EDX, 29, 0, NULL, 0},
    {"ssbd", 0x7, 0, CPUID_EDX, 31, 0, NULL, 0},
    {"avx-vnni", 0x7, 1, CPUID_EAX, 4, 0, "avx2", 0},
    {"avx512-bf16", 0x7, 1, CPUID_EAX, 5, 0, "avx512f", 0},
    {"fzrm", 0x7, 1, CPUID_EAX, 10, 0, NULL, 0},
    {"fsrs", 0x7, 1, CPUID_EAX, 11, 0, NULL, 0},
    {"fsrc", 0x7, 1, CPUID_EAX, 12, 0, NULL, 0},
    {"xsaveopt", 0xd, 1, CPUID_EAX, 0, 0, "xsave", 0},
    {"xsavec", 0xd, 1, CPUID_EAX, 1, 0, "xsave", 0},
    {"xgetbv1", 0xd, 1, CPUID_EAX, 2, 0, "xsave", 0},
    {"xsaves", 0xd, 1, CPUID_EAX, 3, 0, "xsavec", 0},
    {"lahf-lm", 0x80000001, 0, CPUID_ECX, 0, 2, NULL, 0},
    {"svm", 0x80000001, 0, CPUID_ECX, 2, 0, NULL, 0},
    {"cr8legacy", 0x80000001, 0, CPUID_ECX, 4, 0, NULL, 0},
    {"lzcnt", 0x80000001, 0, CPUID_ECX, 5, 3, NULL, 0},
    {"sse4a", 0x80000001, 0, CPUID_ECX, 6, 0, "sse2", 0},
    {"misalignsse", 0x80000001, 0, CPUID_ECX, 7, 0, "sse2", 0},
    {"3dnowprefetch", 0x80000001, 0, CPUID_ECX, 8, 0, NULL, 0},
    {"osvw", 0x80000001, 0, CPUID_ECX, 9, 0, NULL, 0},
    {"xop", 0x80000001, 0, CPUID_ECX, 11, 0, "avx", 0},
    {"fma4", 0x80000001, 0, CPUID_ECX, 16, 0, "avx", 0},
    {"tbm", 0x80000001, 0, CPUID_ECX, 21, 0, NULL, 0},
    {"topoext", 0x80000001, 0, CPUID_ECX, 22, CPU_LEVEL_ANY, NULL, 0},
    {"syscall", 0x80000001, 0, CPUID_EDX, 11, 1, NULL, 0},
    {"nx", 0x80000001, 0, CPUID_EDX, 20, 1, NULL, 0},
    {"mmxext", 0x80000001, 0, CPUID_EDX, 22, 0, "mmx", 0},
    {"fxsr-opt", 0x80000001, 0, CPUID_EDX, 25, 0, "fxsr", 0},
    {"pdpe1gb", 0x80000001, 0, CPUID_EDX, 26, 0, NULL, 0},
    {"rdtscp", 0x80000001, 0, CPUID_EDX, 27, 0, NULL, 0},
    {"lm", 0x80000001, 0, CPUID_EDX, 29, 1, NULL, 0},
    {"3dnowext", 0x80000001, 0, CPUID_EDX, 30, 0, "mmx", 0},
    {"3dnow", 0x80000001, 0, CPUID_EDX, 31, 0, "mmx", 0},
    {"clzero", 0x80000008, 0, CPUID_EBX, 0, 0, NULL, 0},
    {"xsaveerptr", 0x80000008, 0, CPUID_EBX, 2, 0, "xsave", 0},
    {"wbnoinvd", 0x80000008, 0, CPUID_EBX, 9, 0, NULL, 0},
    {"ibpb", 0x80000008, 0, CPUID_EBX, 12, 0, NULL, 0},
    {"ibrs", 0x80000008, 0, CPUID_EBX, 14, 0, NULL, 0},
    {"amd-stibp", 0x80000008, 0, CPUID_EBX, 15, 0, NULL, 0},
    {"amd-ssbd", 0x80000008, 0, CPUID_EBX, 24, 0, NULL, 0},
    {"virt-ssbd", 0x80000008, 0, CPUID_EBX, 25, 0, NULL, 0},
};
/* clang-format on */
const size_t cpu_features_count = ARRAY_SIZE(cpu_features);
_Static_assert(ARRAY_SIZE(cpu_features) <= CPU_FEATURES_MAX, "a set of features is too small");

/* Names that others use. */
static const struct {
	const char *name, *is;
} aliases[] = {{"pni", "sse3"}, {"abm", "lzcnt"}, {"pclmul", "pclmulqdq"}, {"sha", "sha-ni"}};

static char plain(char letter)
{
	return letter == '_' || letter == '.' ? '-' : letter;
}

static bool is_called(const char *name, const char *text, size_t length)
{
	if (strlen(name) != length)
		return false;
	for (size_t i = 0; i < length; i++)
		if (name[i] != plain(text[i]))
			return false;
	return true;
}

size_t cpu_feature_find(const char *name, size_t length)
{
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		if (is_called(aliases[i].name, name, length))
			return cpu_feature_find(aliases[i].is, strlen(aliases[i].is));
	for (size_t i = 0; i < cpu_features_count; i++)
		if (is_called(cpu_features[i].name, name, length))
			return i;
	return cpu_features_count;
}

uint32_t *cpuid_word(struct kvm_cpuid2 *cpuid, uint32_t leaf, uint32_t subleaf,
		     enum cpuid_register which)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		uint32_t *const words[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};

		if (entry->function == leaf &&
		    (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == subleaf))
			return words[which];
	}
	return NULL;
}

const char *cpu_features_of_bits(uint32_t leaf, uint32_t subleaf, enum cpuid_register which,
				 uint32_t bits, char *text, size_t size)
{
	size_t used = 0;

	*text = '\0';
	for (size_t i = 0; i < cpu_features_count; i++) {
		const struct cpu_feature *feature = &cpu_features[i];

		if (feature->leaf != leaf || feature->subleaf != subleaf ||
		    feature->which != which || !(bits >> feature->bit & 1) ||
		    used + strlen(feature->name) + 4 > size)
			continue;
		used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : " (",
					 feature->name);
	}
	if (used)
		snprintf(text + used, size - used, ")");
	return text;
}
