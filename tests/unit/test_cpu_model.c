/* SPDX-License-Identifier: BSD-2-Clause */
/* Levels of processors: what they show of a host that has more, and what they refuse. */
#include "cmocka_prelude.h"
#include <string.h>

#include "base/checked.h"
#include "kvm/cpu_model.h"
#include "kvm/cpuid.h"

#define AMD   0x68747541
#define INTEL 0x756e6547
#define INDEX KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/* A host that has everything: each bit of each register is set. */
static struct kvm_cpuid2 *host_table(uint32_t vendor)
{
	static const struct {
		uint32_t function, index, flags;
	} leaves[] = {
	    {0x0, 0, 0},	{0x1, 0, 0},	    {0x2, 0, 0},
	    {0x4, 0, INDEX},	{0x5, 0, 0},	    {0x6, 0, 0},
	    {0x7, 0, INDEX},	{0x7, 1, INDEX},    {0x7, 2, INDEX},
	    {0xa, 0, 0},	{0xb, 0, INDEX},    {0xd, 0, INDEX},
	    {0xd, 1, INDEX},	{0xd, 2, INDEX},    {0xd, 5, INDEX},
	    {0xd, 6, INDEX},	{0xd, 7, INDEX},    {0xd, 9, INDEX},
	    {0xd, 11, INDEX},	{0x14, 0, INDEX},   {0x1d, 0, INDEX},
	    {0x40000000, 0, 0}, {0x40000001, 0, 0}, {0x80000000, 0, 0},
	    {0x80000001, 0, 0}, {0x80000007, 0, 0}, {0x80000008, 0, 0},
	    {0x8000000a, 0, 0}, {0x8000001a, 0, 0}, {0x8000001d, 0, INDEX},
	    {0x8000001e, 0, 0}, {0x80000021, 0, 0},
	};
	static const uint32_t areas[][3] = {
	    {2, 256, 576}, {5, 64, 832}, {6, 512, 896}, {7, 1024, 1408}, {9, 8, 2432}};
	struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + KVM_CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));

	assert_non_null(cpuid);
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
		cpuid->entries[i] = (struct kvm_cpuid_entry2){.function = leaves[i].function,
							      .index = leaves[i].index,
							      .flags = leaves[i].flags,
							      .eax = UINT32_MAX,
							      .ebx = UINT32_MAX,
							      .ecx = UINT32_MAX,
							      .edx = UINT32_MAX};
	cpuid->nent = ARRAY_SIZE(leaves);
	*cpuid_word(cpuid, 0, 0, CPUID_EAX) = 0x20;
	*cpuid_word(cpuid, 0, 0, CPUID_EBX) = vendor;
	*cpuid_word(cpuid, 0x80000000, 0, CPUID_EAX) = 0x80000022;
	*cpuid_word(cpuid, 0x80000008, 0, CPUID_EAX) = 0x3930;
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
		*cpuid_word(cpuid, 0xd, areas[i][0], CPUID_EAX) = areas[i][1];
		*cpuid_word(cpuid, 0xd, areas[i][0], CPUID_EBX) = areas[i][2];
	}
	return cpuid;
}

static struct error *apply(struct kvm_cpuid2 *cpuid, const char *text)
{
	struct cpu_model model;

	TRY(cpu_model_parse(text, &model));
	return cpu_model_apply(&model, text, cpuid);
}

static struct kvm_cpuid2 *table_of(uint32_t vendor, const char *text)
{
	struct kvm_cpuid2 *cpuid = host_table(vendor);

	assert_no_error(apply(cpuid, text));
	return cpuid;
}

static uint32_t word(struct kvm_cpuid2 *cpuid, uint32_t leaf, uint32_t subleaf,
		     enum cpuid_register which)
{
	const uint32_t *found = cpuid_word(cpuid, leaf, subleaf, which);

	return found ? *found : 0;
}

static bool has(struct kvm_cpuid2 *cpuid, const char *name)
{
	size_t index = cpu_feature_find(name, strlen(name));
	const struct cpu_feature *feature = &cpu_features[index];

	assert_true(index < cpu_features_count);
	return word(cpuid, feature->leaf, feature->subleaf, feature->which) >> feature->bit & 1;
}

/* The psABI's words for it, in its order. */
static const struct {
	const char *level, *has[16];
} levels[] = {
    {"x86-64-v1", {"cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"}},
    {"x86-64-v2", {"cx16", "lahf-lm", "popcnt", "sse3", "sse4-1", "sse4-2", "ssse3"}},
    {"x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}},
    {"x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
};

static void a_level_has_its_features_and_no_higher_ones(void **unused)
{
	for (size_t level = 0; level < ARRAY_SIZE(levels); level++) {
		struct kvm_cpuid2 *cpuid = table_of(INTEL, levels[level].level);

		for (size_t other = 0; other < ARRAY_SIZE(levels); other++)
			for (size_t i = 0; levels[other].has[i]; i++)
				assert_int_equal(has(cpuid, levels[other].has[i]), other <= level);
		free(cpuid);
	}
}

/* Whatever a new processor can do: a bit that nobody here knows must not come through. */
static void a_level_shows_nothing_else_of_the_host(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(INTEL, "x86-64-v1");

	assert_int_equal(word(cpuid, 1, 0, CPUID_ECX), 0x81200000); /* see kvm_cpuid_fit */
	assert_int_equal(word(cpuid, 1, 0, CPUID_EDX), 0x078bfbff);
	assert_int_equal(word(cpuid, 7, 0, CPUID_EBX), 1 << 1); /* TSC_ADJUST */
	assert_int_equal(word(cpuid, 7, 0, CPUID_EAX) | word(cpuid, 7, 0, CPUID_ECX) |
			     word(cpuid, 7, 0, CPUID_EDX),
			 0);
	assert_int_equal(word(cpuid, 0x40000001, 0, CPUID_EAX), 0x01007efb);
	assert_int_equal(word(cpuid, 0x80000001, 0, CPUID_ECX), 1 << 22);
	assert_int_equal(word(cpuid, 0x80000001, 0, CPUID_EDX), 0x20100800);
	assert_int_equal(word(cpuid, 0x80000007, 0, CPUID_EDX), 0);
	assert_int_equal(word(cpuid, 0x80000008, 0, CPUID_EBX), 0);
	assert_int_equal(word(cpuid, 0x80000008, 0, CPUID_EAX), 0x3030); /* LA57 is not there */
	assert_int_equal(word(cpuid, 0, 0, CPUID_EAX), 0xd);
	assert_int_equal(word(cpuid, 0x80000000, 0, CPUID_EAX), 0x8000001e);
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		static const uint32_t gone[] = {5,    0xa,	  0xd,	      0x14,
						0x1d, 0x8000000a, 0x8000001a, 0x80000021};

		for (size_t j = 0; j < ARRAY_SIZE(gone); j++)
			assert_int_not_equal(cpuid->entries[i].function, gone[j]);
		assert_false(cpuid->entries[i].function == 7 && cpuid->entries[i].index);
	}
	free(cpuid);
}

static void amd_repeats_the_old_features(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(AMD, "x86-64-v1,-mmx");

	assert_int_equal(word(cpuid, 0x80000001, 0, CPUID_EDX),
			 0x20100800 | (0x0183f3ff & ~(1 << 23)));
	free(cpuid);
}

static void vector_registers_are_those_of_the_level(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(INTEL, "x86-64-v3");

	assert_int_equal(word(cpuid, 0xd, 0, CPUID_EAX), 7);
	assert_int_equal(word(cpuid, 0xd, 0, CPUID_ECX), 832);
	assert_int_equal(word(cpuid, 0xd, 0, CPUID_EDX), 0);
	assert_int_equal(word(cpuid, 0xd, 1, CPUID_EAX) | word(cpuid, 0xd, 1, CPUID_ECX), 0);
	assert_int_equal(word(cpuid, 0xd, 2, CPUID_EAX), 256);
	for (uint32_t part = 5; part < 32; part++)
		assert_null(cpuid_word(cpuid, 0xd, part, CPUID_EAX));
	free(cpuid);
	cpuid = table_of(INTEL, "x86-64-v4,+xsaveopt");
	assert_int_equal(word(cpuid, 0xd, 0, CPUID_EAX), 0xe7);
	assert_int_equal(word(cpuid, 0xd, 0, CPUID_ECX), 2432);
	assert_int_equal(word(cpuid, 0xd, 1, CPUID_EAX), 1);
	assert_null(cpuid_word(cpuid, 0xd, 9, CPUID_EAX));
	free(cpuid);
}

static void features_can_be_added_to_a_level(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(INTEL, "x86-64-v2,+aes,+spec_ctrl,+pdpe1gb");

	assert_true(has(cpuid, "aes"));
	assert_true(has(cpuid, "spec-ctrl"));
	assert_true(has(cpuid, "pdpe1gb"));
	assert_int_equal(word(cpuid, 7, 0, CPUID_EDX), 1 << 26);
	free(cpuid);
}

static void with_a_feature_goes_what_needs_it(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(INTEL, "host,-avx");

	assert_false(has(cpuid, "avx"));
	assert_false(has(cpuid, "avx2"));
	assert_false(has(cpuid, "avx512vl"));
	assert_false(has(cpuid, "vaes"));
	assert_true(has(cpuid, "xsave"));
	assert_true(has(cpuid, "sse4.2"));
	/* Parts of the area that nobody here has a name for stay. */
	assert_int_equal(word(cpuid, 0xd, 0, CPUID_EAX), ~0xe4U);
	assert_non_null(cpuid_word(cpuid, 0xd, 9, CPUID_EAX));
	assert_null(cpuid_word(cpuid, 0xd, 2, CPUID_EAX));
	assert_non_null(cpuid_word(cpuid, 0x14, 0, CPUID_EBX));
	free(cpuid);
	cpuid = table_of(INTEL, "host,-xsave");
	assert_null(cpuid_word(cpuid, 0xd, 0, CPUID_EAX));
	free(cpuid);
}

static void the_host_is_shown_as_it_is(void **unused)
{
	struct kvm_cpuid2 *cpuid = table_of(INTEL, "host"), *same = host_table(INTEL);

	assert_memory_equal(cpuid, same, sizeof(*same) + same->nent * sizeof(same->entries[0]));
	assert_no_error(apply(cpuid, NULL));
	assert_memory_equal(cpuid, same, sizeof(*same) + same->nent * sizeof(same->entries[0]));
	free(cpuid);
	free(same);
}

static void what_the_host_lacks_is_named(void **unused)
{
	struct kvm_cpuid2 *cpuid = host_table(INTEL);

	*cpuid_word(cpuid, 7, 0, CPUID_EBX) = 0;
	assert_error_with(apply(cpuid, "x86-64-v3"),
			  "the processor 'x86-64-v3' has features that this host or its KVM "
			  "lacks: bmi1, avx2, bmi2");
	assert_error_with(apply(cpuid, "host,+sha-ni,-avx512f"), "lacks: sha-ni");
	assert_no_error(apply(cpuid, "x86-64-v3,-avx2,-bmi1,-bmi2"));
	free(cpuid);
}

static void every_level_fits_into_the_next(void **unused)
{
	for (size_t level = 1; level < ARRAY_SIZE(levels); level++) {
		struct kvm_cpuid2 *lower = table_of(AMD, levels[level - 1].level);
		struct kvm_cpuid2 *higher = table_of(AMD, levels[level].level);

		assert_no_error(kvm_cpuid_check(lower, higher));
		assert_error_with(kvm_cpuid_check(higher, lower), " (");
		free(lower);
		free(higher);
	}
}

static void text_that_means_nothing_is_refused(void **unused)
{
	static const struct {
		const char *text, *said;
	} cases[] = {
	    {"", "'' is none of host, x86-64-v1"},
	    {"x86-64-v5", "'x86-64-v5' is none of"},
	    {"x86-64-v0", "is none of"},
	    {"x86-64-v11", "is none of"},
	    {"host,", "'' is neither +FEATURE nor -FEATURE"},
	    {"host,aes", "'aes' is neither"},
	    {"host,+", "'' is not the name of a feature"},
	    {"host,+warp", "'warp' is not the name of a feature"},
	    {"host,+aes,-aes", "aes is both added and taken away"},
	    {"x86-64-v4,+avx512f,-avx",
	     "avx512f is both added and taken away, itself or with avx2"},
	    {"x86-64-v2,+avx2", "+avx2 needs avx, which x86-64-v2 does not have: add +avx"},
	};
	struct cpu_model model;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_error_with(cpu_model_parse(cases[i].text, &model), cases[i].said);
}

static void names_may_be_written_as_others_do(void **unused)
{
	static const char *const same[][2] = {
	    {"sse4.1", "sse4_1"}, {"pni", "sse3"}, {"abm", "lzcnt"}, {"lahf_lm", "lahf-lm"}};

	for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
		size_t index = cpu_feature_find(same[i][0], strlen(same[i][0]));

		assert_true(index < cpu_features_count);
		assert_int_equal(index, cpu_feature_find(same[i][1], strlen(same[i][1])));
	}
}

static void each_feature_is_there_once_and_stands_on_one_that_is(void **unused)
{
	for (size_t i = 0; i < cpu_features_count; i++) {
		const struct cpu_feature *feature = &cpu_features[i];

		assert_int_equal(cpu_feature_find(feature->name, strlen(feature->name)), i);
		if (feature->needs) {
			size_t needed = cpu_feature_find(feature->needs, strlen(feature->needs));

			assert_true(needed < cpu_features_count);
			/* Or no machine could have the level. */
			if (feature->level && feature->level != CPU_LEVEL_ANY)
				assert_true(cpu_features[needed].level <= feature->level);
		}
		for (size_t j = 0; j < i; j++)
			assert_false(feature->leaf == cpu_features[j].leaf &&
				     feature->subleaf == cpu_features[j].subleaf &&
				     feature->which == cpu_features[j].which &&
				     feature->bit == cpu_features[j].bit);
	}
}

static void addresses_of_a_level_are_as_wide_as_on_any_server(void **unused)
{
	struct cpu_model model;

	assert_no_error(cpu_model_parse("x86-64-v3", &model));
	assert_int_equal(cpu_model_physical_bits(&model, 48, 1ULL << 32), 40);
	assert_int_equal(cpu_model_physical_bits(&model, 39, 1ULL << 32), 39);
	assert_int_equal(cpu_model_physical_bits(&model, 48, 1ULL << 40), 48);
	assert_no_error(cpu_model_parse("host,-avx", &model));
	assert_int_equal(cpu_model_physical_bits(&model, 48, 1ULL << 32), 48);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_level_has_its_features_and_no_higher_ones),
	    cmocka_unit_test(a_level_shows_nothing_else_of_the_host),
	    cmocka_unit_test(amd_repeats_the_old_features),
	    cmocka_unit_test(vector_registers_are_those_of_the_level),
	    cmocka_unit_test(features_can_be_added_to_a_level),
	    cmocka_unit_test(with_a_feature_goes_what_needs_it),
	    cmocka_unit_test(the_host_is_shown_as_it_is),
	    cmocka_unit_test(what_the_host_lacks_is_named),
	    cmocka_unit_test(every_level_fits_into_the_next),
	    cmocka_unit_test(text_that_means_nothing_is_refused),
	    cmocka_unit_test(names_may_be_written_as_others_do),
	    cmocka_unit_test(each_feature_is_there_once_and_stands_on_one_that_is),
	    cmocka_unit_test(addresses_of_a_level_are_as_wide_as_on_any_server),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
