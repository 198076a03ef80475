/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The CPUID table as state of a processor, and whether a table from elsewhere can be kept here.
 *
 * A guest looks at its processor once, at boot, and believes it ever after. So a guest that comes
 * from elsewhere keeps the table that it saw, to the last bit, and is refused where the host cannot
 * keep what the table promises: a feature is a bit, and every bit of the guest's must be one of this
 * host's. What the host has beyond that stays hidden. Leaf numbers and bits: Intel SDM volume 2A
 * "CPUID", AMD APM volume 3 appendix E, Linux's Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kvm/cpu_features.h"
#include "kvm/cpuid.h"

#define LEAF_XSAVE	      0xd
#define LEAF_ADDRESS_SIZES    0x80000008
#define XSAVE_FIRST_COMPONENT 2 /* the legacy area holds the two before */
#define XSAVE_COMPONENTS      63
#define LEAF_1_ECX_OSXSAVE    (1U << 27)  /* follows CR4 */
#define LEAF_7_EBX_FDP_EXCPTN (1U << 6)	  /* says that something is *not* there */
#define LEAF_7_EBX_ZERO_FCS   (1U << 13)  /* likewise */
#define LEAF_7_ECX_OSPKE      (1U << 4)	  /* follows CR4 */
#define LEAF_7_ECX_MAWAU      0x003e0000U /* a number */

/* Registers whose bits are features. */
static const struct {
	uint32_t function, index;
	enum cpuid_register which;
	uint32_t others; /* bits that are something else */
} feature_words[] = {
    {0x1, 0, CPUID_ECX, LEAF_1_ECX_OSXSAVE},
    {0x1, 0, CPUID_EDX, 0},
    {0x7, 0, CPUID_EBX, LEAF_7_EBX_FDP_EXCPTN | LEAF_7_EBX_ZERO_FCS},
    {0x7, 0, CPUID_ECX, LEAF_7_ECX_OSPKE | LEAF_7_ECX_MAWAU},
    {0x7, 0, CPUID_EDX, 0},
    {0x7, 1, CPUID_EAX, 0},
    {0x7, 1, CPUID_EBX, 0},
    {0x7, 1, CPUID_ECX, 0},
    {0x7, 1, CPUID_EDX, 0},
    {0x7, 2, CPUID_EDX, 0},
    {LEAF_XSAVE, 0, CPUID_EAX, 0},
    {LEAF_XSAVE, 0, CPUID_EDX, 0},
    {LEAF_XSAVE, 1, CPUID_EAX, 0},
    {LEAF_XSAVE, 1, CPUID_ECX, 0},
    {LEAF_XSAVE, 1, CPUID_EDX, 0},
    {0x14, 0, CPUID_EBX, 0},
    {0x14, 0, CPUID_ECX, 0},
    {0x40000001, 0, CPUID_EAX, 0},
    {0x80000001, 0, CPUID_ECX, 0},
    {0x80000001, 0, CPUID_EDX, 0},
    {0x80000007, 0, CPUID_EBX, 0},
    {0x80000007, 0, CPUID_EDX, 0},
    {LEAF_ADDRESS_SIZES, 0, CPUID_EBX, 0},
    {0x8000000a, 0, CPUID_EDX, 0},
    {0x80000021, 0, CPUID_EAX, 0},
    {0x80000021, 0, CPUID_ECX, 0},
    {0x80000022, 0, CPUID_EAX, 0},
};

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					   uint32_t index)
{
	static const struct kvm_cpuid_entry2 absent;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function == function &&
		    (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == index))
			return entry;
	}
	return &absent;
}

static uint32_t get(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index,
		    enum cpuid_register which)
{
	const struct kvm_cpuid_entry2 *entry = find(cpuid, function, index);
	const uint32_t registers[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};

	return registers[which];
}

static void vendor_name(const struct kvm_cpuid2 *cpuid, char name[13])
{
	const struct kvm_cpuid_entry2 *entry = find(cpuid, 0, 0);

	memcpy(name, &entry->ebx, 4);
	memcpy(name + 4, &entry->edx, 4);
	memcpy(name + 8, &entry->ecx, 4);
	name[12] = '\0';
	for (char *at = name; at < name + 12; at++)
		if (*at < ' ' || *at > '~')
			*at = '?'; /* the table may be from anywhere */
}

static struct error *check_vendor(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host)
{
	char guest_name[13], host_name[13];

	vendor_name(guest, guest_name);
	vendor_name(host, host_name);
	if (strcmp(guest_name, host_name))
		return error_new(ENOTSUP,
				 "the guest runs on a processor \"%s\" and this host's is \"%s\"",
				 guest_name, host_name);
	return NULL;
}

/* The saved vector registers lie in memory as the processor lays them out. */
static struct error *check_xsave_layout(const struct kvm_cpuid2 *guest,
					const struct kvm_cpuid2 *host)
{
	uint64_t components = get(guest, LEAF_XSAVE, 0, CPUID_EAX) |
			      (uint64_t)get(guest, LEAF_XSAVE, 0, CPUID_EDX) << 32;

	for (uint32_t i = XSAVE_FIRST_COMPONENT; i < XSAVE_COMPONENTS; i++)
		if ((components >> i & 1) &&
		    (get(guest, LEAF_XSAVE, i, CPUID_EAX) != get(host, LEAF_XSAVE, i, CPUID_EAX) ||
		     get(guest, LEAF_XSAVE, i, CPUID_EBX) != get(host, LEAF_XSAVE, i, CPUID_EBX)))
			return error_new(ENOTSUP,
					 "this host's processor keeps the vector registers of "
					 "CPUID leaf 0xd.%u elsewhere than the guest's",
					 i);
	return NULL;
}

struct error *kvm_cpuid_check(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host)
{
	static const char *const names[] = {"EAX", "EBX", "ECX", "EDX"};
	uint32_t guest_bits = get(guest, LEAF_ADDRESS_SIZES, 0, CPUID_EAX) & 0xff;
	uint32_t host_bits = get(host, LEAF_ADDRESS_SIZES, 0, CPUID_EAX) & 0xff;
	char text[256];

	TRY(check_vendor(guest, host));
	for (size_t i = 0; i < ARRAY_SIZE(feature_words); i++) {
		uint32_t function = feature_words[i].function, index = feature_words[i].index;
		enum cpuid_register which = feature_words[i].which;
		uint32_t missing = get(guest, function, index, which) & ~feature_words[i].others &
				   ~get(host, function, index, which);

		if (missing)
			return error_new(ENOTSUP,
					 "the guest uses processor features that this host lacks: "
					 "CPUID leaf 0x%" PRIx32 ".%" PRIu32 " %s bits 0x%08" PRIx32
					 "%s",
					 function, index, names[which], missing,
					 cpu_features_of_bits(function, index, which, missing, text,
							      sizeof(text)));
	}
	if (guest_bits > host_bits)
		return error_new(ENOTSUP,
				 "the guest's physical addresses have %" PRIu32
				 " bits and this host's %" PRIu32,
				 guest_bits, host_bits);
	return check_xsave_layout(guest, host);
}

void kvm_cpuid_state(struct kvm_cpuid2 **cpuid, struct state *state)
{
	uint32_t count = state_count(state, "leaves", (*cpuid)->nent, KVM_CPUID_ENTRIES_MAX);
	AUTO_FREE struct kvm_cpuid2 *loaded = NULL;
	struct kvm_cpuid2 *table = *cpuid;
	struct error *error;

	if (state_loading(state)) {
		loaded = calloc(1, sizeof(*loaded) + count * sizeof(loaded->entries[0]));
		if (!loaded) {
			state_fail(state, error_system(ENOMEM, "CPUID table"));
			return;
		}
		loaded->nent = count;
		table = loaded;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];

		state_u32(state, "leaf", &entry->function);
		state_u32(state, "subleaf", &entry->index);
		state_u32(state, "flags", &entry->flags);
		state_check(state, !(entry->flags & ~KVM_CPUID_FLAG_SIGNIFCANT_INDEX), "flags",
			    "are not KVM's");
		state_u32(state, "eax", &entry->eax);
		state_u32(state, "ebx", &entry->ebx);
		state_u32(state, "ecx", &entry->ecx);
		state_u32(state, "edx", &entry->edx);
	}
	if (!loaded || state_failed(state))
		return;
	error = kvm_cpuid_check(loaded, *cpuid);
	if (error) {
		state_fail(state, error);
		return;
	}
	free(*cpuid);
	*cpuid = TAKE_PTR(loaded);
}
