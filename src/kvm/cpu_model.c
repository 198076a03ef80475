/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Models of processors, cpu_model.h. An operator, a snapshot or a peer controls the text; the host the
 * table. Leaf numbers and fields: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E.
 */
#include "kvm/cpu_model.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"

/* What kvm_cpuid_fit always shows: x2APIC, the TSC's deadline timer, the hypervisor. */
#define LEAF_1_ECX_ALWAYS   ((1U << 21) | (1U << 24) | (1U << 31))
#define LEAF_6_EAX_ARAT	    (1U << 2) /* the local APIC's timer never stops: KVM's does not */
#define LEAF_XSAVE	    0xd
#define LEAF_ADDRESS_SIZES  0x80000008
#define LEAF_SVM	    0x8000000a
#define LEAF_CACHES	    0x8000001d
#define LEAF_TOPOLOGY	    0x8000001e
#define LINEAR_BITS	    48
#define XCR0_ALWAYS	    3 /* x87 and SSE */
#define XSAVE_LEGACY_SIZE   576
#define PHYSICAL_BITS	    40 /* that servers have at least */
#define PHYSICAL_BITS_SPARE 1  /* for what lies around memory */

/* AMD repeats these bits of leaf 1 in leaf 0x80000001, both EDX. */
#define REPEATED_EDX 0x0183f3ffU

/* What KVM of Linux 6.1 and later offers its guests: clocks, steal time, wake-ups, faults. */
#define KVM_FEATURES 0x01007efbU

/* --- Sets -------------------------------------------------------------------------------------- */

static bool has(const struct cpu_feature_set *set, size_t feature)
{
	return set->words[feature / 64] >> feature % 64 & 1;
}

static void add(struct cpu_feature_set *set, size_t feature)
{
	set->words[feature / 64] |= 1ULL << feature % 64;
}

static size_t index_of(const char *name)
{
	return cpu_feature_find(name, strlen(name));
}

static bool has_named(const struct cpu_feature_set *set, const char *name)
{
	return has(set, index_of(name));
}

static bool level_has(uint32_t level, size_t feature)
{
	uint8_t from = cpu_features[feature].level;

	return from && from != CPU_LEVEL_ANY && from <= level;
}

/* --- Text -------------------------------------------------------------------------------------- */

static struct error *parse_base(const char *text, size_t length, struct cpu_model *model)
{
	static const char prefix[] = "x86-64-v";
	size_t at = sizeof(prefix) - 1;

	if (length == 4 && memcmp(text, "host", 4) == 0)
		return NULL;
	if (length == at + 1 && memcmp(text, prefix, at) == 0 && text[at] >= '1' &&
	    text[at] <= '0' + CPU_LEVELS) {
		model->level = (uint32_t)(text[at] - '0');
		return NULL;
	}
	return error_usage("'%.*s' is none of host, x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4",
			   (int)MIN(length, (size_t)64), text);
}

static struct error *parse_feature(const char *text, size_t length, struct cpu_model *model)
{
	bool adds = length && *text == '+';
	size_t feature;

	if (!adds && (!length || *text != '-'))
		return error_usage("'%.*s' is neither +FEATURE nor -FEATURE",
				   (int)MIN(length, (size_t)64), text);
	feature = cpu_feature_find(text + 1, length - 1);
	if (feature == cpu_features_count)
		return error_usage("'%.*s' is not the name of a feature that can be chosen",
				   (int)MIN(length - 1, (size_t)64), text + 1);
	add(adds ? &model->added : &model->removed, feature);
	return NULL;
}

/* With each feature that is taken away goes what needs it. */
static void close_removed(struct cpu_model *model)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < cpu_features_count; i++) {
			const char *needs = cpu_features[i].needs;

			if (!needs || has(&model->removed, i) || !has_named(&model->removed, needs))
				continue;
			add(&model->removed, i);
			more = true;
		}
	}
}

static struct error *check_added(const struct cpu_model *model)
{
	for (size_t i = 0; i < cpu_features_count; i++) {
		const char *name = cpu_features[i].name, *needs = cpu_features[i].needs;

		if (!has(&model->added, i))
			continue;
		if (has(&model->removed, i))
			return error_usage("%s is both added and taken away%s%s", name,
					   needs ? ", itself or with " : "", needs ?: "");
		if (model->level && needs && !level_has(model->level, index_of(needs)) &&
		    !has_named(&model->added, needs))
			return error_usage("+%s needs %s, which x86-64-v%u does not have: add "
					   "+%s",
					   name, needs, model->level, needs);
	}
	return NULL;
}

struct error *cpu_model_parse(const char *text, struct cpu_model *model)
{
	size_t length;

	*model = (struct cpu_model){};
	if (!text)
		return NULL;
	length = strcspn(text, ",");
	TRY(parse_base(text, length, model));
	while (text[length]) {
		text += length + 1;
		length = strcspn(text, ",");
		TRY(parse_feature(text, length, model));
	}
	close_removed(model);
	return check_added(model);
}

bool cpu_model_is_host(const struct cpu_model *model)
{
	static const struct cpu_feature_set none;

	return !model->level && memcmp(&model->added, &none, sizeof(none)) == 0 &&
	       memcmp(&model->removed, &none, sizeof(none)) == 0;
}

/* --- Tables ------------------------------------------------------------------------------------ */

static uint32_t *word_of(struct kvm_cpuid2 *cpuid, const struct cpu_feature *feature)
{
	return cpuid_word(cpuid, feature->leaf, feature->subleaf, feature->which);
}

static struct error *choose(const struct cpu_model *model, const char *text,
			    struct kvm_cpuid2 *cpuid, struct cpu_feature_set *chosen)
{
	char missing[512] = "";
	size_t used = 0;

	*chosen = (struct cpu_feature_set){};
	for (size_t i = 0; i < cpu_features_count; i++) {
		const struct cpu_feature *feature = &cpu_features[i];
		const uint32_t *word = word_of(cpuid, feature);
		bool there = word && *word >> feature->bit & 1;
		bool must = has(&model->added, i) || level_has(model->level, i);

		if (has(&model->removed, i))
			continue;
		if (must && !there && used + strlen(feature->name) + 3 < sizeof(missing))
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s",
						 used ? ", " : "", feature->name);
		if (there && (must || !model->level || feature->level == CPU_LEVEL_ANY))
			add(chosen, i);
	}
	return used ? error_new(ENOTSUP,
				"the processor '%s' has features that this host or its KVM lacks: "
				"%s",
				text, missing)
		    : NULL;
}

static uint32_t chosen_bits(const struct cpu_feature_set *chosen, uint32_t leaf, uint32_t subleaf,
			    enum cpuid_register which)
{
	uint32_t bits = 0;

	for (size_t i = 0; i < cpu_features_count; i++)
		if (has(chosen, i) && cpu_features[i].leaf == leaf &&
		    cpu_features[i].subleaf == subleaf && cpu_features[i].which == which)
			bits |= 1U << cpu_features[i].bit;
	return bits;
}

/* Features that have been taken away; all else stays as the host has it. */
static void clear_removed(struct kvm_cpuid2 *cpuid, const struct cpu_feature_set *chosen)
{
	uint32_t *repeated = cpuid_word(cpuid, 0x80000001, 0, CPUID_EDX);

	for (size_t i = 0; i < cpu_features_count; i++) {
		const struct cpu_feature *feature = &cpu_features[i];
		uint32_t *word = word_of(cpuid, feature), bit = 1U << feature->bit;

		if (!word || has(chosen, i))
			continue;
		*word &= ~bit;
		if (repeated && feature->leaf == 1 && feature->which == CPUID_EDX)
			*repeated &= ~(bit & REPEATED_EDX);
	}
}

/* Keeps @entry of a level's table, made such that nothing is in it that is not the level's. */
static bool fit_level(struct kvm_cpuid_entry2 *entry, const struct cpu_feature_set *chosen,
		      bool amd)
{
	uint32_t leaf = entry->function, subleaf = entry->index;
	uint32_t bits[4];

	for (int which = 0; which < 4; which++)
		bits[which] = chosen_bits(chosen, leaf, subleaf, (enum cpuid_register)which);
	switch (leaf) {
	case 0x0:
	case 0x2: /* caches */
	case 0x4:
	case 0xb: /* topology, which kvm_cpuid_fit makes */
	case 0x40000000:
	case 0x80000000:
	case 0x80000002: /* the name */
	case 0x80000003:
	case 0x80000004:
	case 0x80000005: /* caches */
	case 0x80000006:
		return true;
	case 0x1:
		entry->ecx = bits[CPUID_ECX] | (entry->ecx & LEAF_1_ECX_ALWAYS);
		entry->edx = bits[CPUID_EDX];
		return true;
	case 0x6:
		entry->eax &= LEAF_6_EAX_ARAT;
		entry->ebx = entry->ecx = entry->edx = 0;
		return true;
	case 0x7:
		entry->eax =
		    subleaf ? bits[CPUID_EAX] : chosen_bits(chosen, leaf, 1, CPUID_EAX) != 0;
		entry->ebx = bits[CPUID_EBX];
		entry->ecx = bits[CPUID_ECX];
		entry->edx = bits[CPUID_EDX];
		return subleaf == 0 || bits[CPUID_EAX];
	case LEAF_XSAVE:
		if (subleaf == 1) {
			entry->eax = bits[CPUID_EAX];
			entry->ecx = entry->edx = 0; /* nothing that only a kernel may save */
		}
		return true;
	case 0x40000001:
		entry->eax &= KVM_FEATURES;
		return true;
	case 0x80000001:
		entry->ecx = bits[CPUID_ECX];
		entry->edx = bits[CPUID_EDX];
		if (amd)
			entry->edx |= chosen_bits(chosen, 1, 0, CPUID_EDX) & REPEATED_EDX;
		return true;
	case 0x80000007:
		entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
		return true;
	case LEAF_ADDRESS_SIZES:
		entry->ebx = bits[CPUID_EBX];
		entry->edx = 0;
		return true;
	case LEAF_SVM:
		return has_named(chosen, "svm");
	case LEAF_CACHES:
	case LEAF_TOPOLOGY:
		return has_named(chosen, "topoext");
	default:
		return false;
	}
}

static void lower(uint32_t *number, uint32_t to)
{
	if (number)
		*number = MIN(*number, to);
}

/* With fewer leaves, the highest numbers that the table itself tells. */
static void fit_highest(struct kvm_cpuid2 *cpuid, const struct cpu_feature_set *chosen)
{
	uint32_t extended = LEAF_ADDRESS_SIZES;

	if (has_named(chosen, "topoext"))
		extended = LEAF_TOPOLOGY;
	else if (has_named(chosen, "svm"))
		extended = LEAF_SVM;
	lower(cpuid_word(cpuid, 0, 0, CPUID_EAX), LEAF_XSAVE);
	lower(cpuid_word(cpuid, 0x80000000, 0, CPUID_EAX), extended);
}

static void keep_level(struct kvm_cpuid2 *cpuid, const struct cpu_feature_set *chosen)
{
	const uint32_t *vendor = cpuid_word(cpuid, 0, 0, CPUID_EBX);
	/* "Auth…", "Hygo…" */
	bool amd = vendor && (*vendor == 0x68747541 || *vendor == 0x6f677948);
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (fit_level(&cpuid->entries[i], chosen, amd))
			cpuid->entries[kept++] = cpuid->entries[i];
	cpuid->nent = kept;
	fit_highest(cpuid, chosen);
}

/* The parts of the XSAVE area: of a level those of its features, else all but those taken away. */
static uint32_t xsave_parts(const struct cpu_feature_set *chosen, bool level)
{
	uint32_t named = 0, kept = XCR0_ALWAYS;

	for (size_t i = 0; i < cpu_features_count; i++) {
		named |= cpu_features[i].xcr0;
		if (has(chosen, i))
			kept |= cpu_features[i].xcr0;
	}
	return level ? kept : kept | ~named;
}

static void drop_xsave_parts(struct kvm_cpuid2 *cpuid, uint32_t parts)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function != LEAF_XSAVE ||
		    (parts &&
		     (entry->index < 2 || (entry->index < 32 && parts >> entry->index & 1))))
			cpuid->entries[kept++] = *entry;
	}
	cpuid->nent = kept;
}

static void fit_xsave(struct kvm_cpuid2 *cpuid, const struct cpu_feature_set *chosen, bool level)
{
	uint32_t parts = has_named(chosen, "xsave") ? xsave_parts(chosen, level) : 0;
	uint32_t *low, size = XSAVE_LEGACY_SIZE;

	drop_xsave_parts(cpuid, parts);
	low = cpuid_word(cpuid, LEAF_XSAVE, 0, CPUID_EAX);
	if (!low)
		return;
	*low &= parts;
	for (uint32_t i = 2; i < 32; i++) {
		const uint32_t *bytes = cpuid_word(cpuid, LEAF_XSAVE, i, CPUID_EAX);
		const uint32_t *offset = cpuid_word(cpuid, LEAF_XSAVE, i, CPUID_EBX);

		if ((*low >> i & 1) && bytes && offset)
			size = MAX(size, *offset + *bytes);
	}
	/* While a guest runs KVM makes EBX what its XCR0 asks for. */
	*cpuid_word(cpuid, LEAF_XSAVE, 0, CPUID_EBX) = size;
	*cpuid_word(cpuid, LEAF_XSAVE, 0, CPUID_ECX) = size;
	if (level)
		*cpuid_word(cpuid, LEAF_XSAVE, 0, CPUID_EDX) = 0;
}

struct error *cpu_model_apply(const struct cpu_model *model, const char *text,
			      struct kvm_cpuid2 *cpuid)
{
	struct cpu_feature_set chosen;
	uint32_t *sizes;

	if (cpu_model_is_host(model))
		return NULL;
	TRY(choose(model, text, cpuid, &chosen));
	clear_removed(cpuid, &chosen);
	if (model->level)
		keep_level(cpuid, &chosen);
	fit_xsave(cpuid, &chosen, model->level);
	sizes = cpuid_word(cpuid, LEAF_ADDRESS_SIZES, 0, CPUID_EAX);
	if (sizes && !has_named(&chosen, "la57"))
		*sizes = (*sizes & ~0xff00U) | MIN(*sizes >> 8 & 0xff, LINEAR_BITS) << 8;
	return NULL;
}

uint32_t cpu_model_physical_bits(const struct cpu_model *model, uint32_t host_bits, uint64_t memory)
{
	if (!model->level || memory >> (PHYSICAL_BITS - PHYSICAL_BITS_SPARE))
		return host_bits;
	return MIN(host_bits, (uint32_t)PHYSICAL_BITS);
}
