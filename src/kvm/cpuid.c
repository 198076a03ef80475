/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPUID tables: the host's supported features with the guest's topology put in.
 *
 * KVM_GET_SUPPORTED_CPUID answers with the features that KVM can virtualise, its own leaves at
 * 0x40000000 with the paravirtual features among them, but with the topology of whichever host
 * processor the call ran on. Each leaf that speaks of processors, cores or shared caches is
 * rewritten here, for AMD and Intel alike; unknown ones stay. Runs on the thread that creates the
 * vCPUs. Leaf numbers and fields: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E.
 */
#include "kvm/cpuid.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "kvm/cpu_model.h"

#define LEAF_1_ECX_X2APIC		(1U << 21)
#define LEAF_1_ECX_TSC_DEADLINE		(1U << 24)
#define LEAF_1_ECX_HYPERVISOR		(1U << 31)
#define LEAF_1_EDX_HTT			(1U << 28)
#define LEAF_80000001_ECX_CMP_LEGACY	(1U << 1)
#define LEAF_80000007_EDX_INVARIANT_TSC (1U << 8)

#define TOPOLOGY_LEVEL_THREAD 1
#define TOPOLOGY_LEVEL_CORE   2

struct kvm_cpu_topology kvm_cpu_topology_make(uint32_t cpus, uint32_t sockets)
{
	if (cpus % sockets || (sockets > 1 && !is_power_of_two(cpus / sockets)))
		sockets = cpus;
	return (struct kvm_cpu_topology){
	    .cpus = cpus, .sockets = sockets, .cores_per_socket = cpus / sockets};
}

/* Bits of an APIC id that number the cores of one socket. */
static uint32_t core_bits(const struct kvm_cpu_topology *topology)
{
	uint32_t bits = 0;

	while (1U << bits < topology->cores_per_socket)
		bits++;
	return bits;
}

static struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	return NULL;
}

static void cpuid_remove(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function != function)
			cpuid->entries[kept++] = cpuid->entries[i];
	cpuid->nent = kept;
}

static void cpuid_append(struct kvm_cpuid2 *cpuid, const struct kvm_cpuid_entry2 *entry)
{
	if (cpuid->nent < KVM_CPUID_ENTRIES_MAX)
		cpuid->entries[cpuid->nent++] = *entry;
}

/*
 * Leaf 0xB: thread level (one thread a core) and core level, each with the shift to the next
 * level's id. Linux prefers it to every older way, on AMD too.
 */
static void cpuid_set_extended_topology(struct kvm_cpuid2 *cpuid, uint32_t cpu,
					const struct kvm_cpu_topology *topology)
{
	struct kvm_cpuid_entry2 entry = {
	    .function = 0xb,
	    .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	    .edx = cpu,
	};
	struct kvm_cpuid_entry2 *top = cpuid_find(cpuid, 0);

	/* 0x1F and 0x80000026 say the same with more levels; without them software falls back to
	 * 0xB. */
	cpuid_remove(cpuid, 0xb);
	cpuid_remove(cpuid, 0x1f);
	cpuid_remove(cpuid, 0x80000026);
	if (!top || top->eax < 0xb)
		return;
	entry.index = 0;
	entry.eax = 0;
	entry.ebx = 1;
	entry.ecx = TOPOLOGY_LEVEL_THREAD << 8;
	cpuid_append(cpuid, &entry);
	entry.index = 1;
	entry.eax = core_bits(topology);
	entry.ebx = topology->cores_per_socket;
	entry.ecx = TOPOLOGY_LEVEL_CORE << 8 | 1;
	cpuid_append(cpuid, &entry);
	entry.index = 2;
	entry.eax = 0;
	entry.ebx = 0;
	entry.ecx = 2;
	cpuid_append(cpuid, &entry);
}

/* Leaf 4 (Intel) and 0x8000001D (AMD): the first two levels of cache are a core's, the third is the
 * socket's. */
static void cpuid_fit_cache(struct kvm_cpuid_entry2 *entry, const struct kvm_cpu_topology *topology)
{
	uint32_t type = entry->eax & 0x1f;
	uint32_t level = entry->eax >> 5 & 0x7;
	uint32_t sharing = level >= 3 ? (1U << core_bits(topology)) - 1 : 0;

	if (!type)
		return;
	entry->eax = (entry->eax & 0x00003fff) | sharing << 14;
	if (entry->function == 4)
		entry->eax |= MIN((1U << core_bits(topology)) - 1, 0x3fU) << 26;
}

static void cpuid_fit_entry(struct kvm_cpuid_entry2 *entry, uint32_t cpu,
			    const struct kvm_cpu_topology *topology, uint32_t physical_bits,
			    bool amd)
{
	bool many = topology->cores_per_socket > 1;

	switch (entry->function) {
	case 1:
		/* APIC id, and how many ids a socket reserves; the low half stays. */
		entry->ebx = (entry->ebx & 0x0000ffff) | cpu << 24;
		if (many)
			entry->ebx |= 1U << core_bits(topology) << 16;
		entry->ecx |= LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_X2APIC | LEAF_1_ECX_TSC_DEADLINE;
		entry->edx &= ~LEAF_1_EDX_HTT;
		if (many)
			entry->edx |= LEAF_1_EDX_HTT;
		break;
	case 4:
	case 0x8000001d:
		cpuid_fit_cache(entry, topology);
		break;
	case 0x80000001:
		entry->ecx &= ~LEAF_80000001_ECX_CMP_LEGACY;
		if (amd && many)
			entry->ecx |= LEAF_80000001_ECX_CMP_LEGACY;
		break;
	case 0x80000007:
		/*
		 * The host's clock rate is not promised to a guest that may move to another host;
		 * it keeps time by KVM's paravirtual clock, which stays right.
		 */
		entry->edx &= ~LEAF_80000007_EDX_INVARIANT_TSC;
		break;
	case 0x80000008:
		/* Bits 16-23 would be a width for nested guests; 0: the same as ours. */
		entry->eax = (entry->eax & 0x0000ff00) | physical_bits;
		if (amd)
			entry->ecx = core_bits(topology) << 12 | (topology->cores_per_socket - 1);
		break;
	case 0x8000001e:
		/* Extended APIC id; core id with one thread; node id with one node a socket. */
		entry->eax = cpu;
		entry->ebx = cpu & ((1U << core_bits(topology)) - 1);
		entry->ecx = cpu >> core_bits(topology);
		entry->edx = 0;
		break;
	default:
		break;
	}
}

void kvm_cpuid_fit(struct kvm_cpuid2 *cpuid, uint32_t cpu, const struct kvm_cpu_topology *topology,
		   uint32_t physical_bits)
{
	struct kvm_cpuid_entry2 *vendor = cpuid_find(cpuid, 0);
	/* "Auth…" and "Hygo…": the leaves at 0x80000008 and above mean something on these only. */
	bool amd = vendor && (vendor->ebx == 0x68747541 || vendor->ebx == 0x6f677948);

	for (uint32_t i = 0; i < cpuid->nent; i++)
		cpuid_fit_entry(&cpuid->entries[i], cpu, topology, physical_bits, amd);
	cpuid_set_extended_topology(cpuid, cpu, topology);
}

struct error *kvm_cpuid_build(struct kvm_vm *vm, uint32_t cpu,
			      const struct kvm_cpu_topology *topology, const char *model,
			      struct kvm_cpuid2 **cpuid)
{
	struct cpu_model chosen;
	AUTO_FREE struct kvm_cpuid2 *table =
	    calloc(1, sizeof(*table) + KVM_CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));

	if (!table)
		return error_system(ENOMEM, "cannot make the CPUID table");
	table->nent = KVM_CPUID_ENTRIES_MAX;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, table) < 0)
		return error_system(errno,
				    "KVM does not tell which processor features it supports");
	TRY(cpu_model_parse(model, &chosen));
	TRY(cpu_model_apply(&chosen, model, table));
	kvm_cpuid_fit(table, cpu, topology, vm->physical_bits);
	*cpuid = TAKE_PTR(table);
	return NULL;
}

void kvm_cpuid_settle(struct kvm_cpuid2 *cpuid, int vcpu_fd)
{
	static const struct {
		uint32_t function, msr;
		enum cpuid_register which;
		uint32_t bit;
	} registers[] = {
	    {0x7, 0x10a, CPUID_EDX, 1U << 29}, /* IA32_ARCH_CAPABILITIES */
	    {0x1, 0x345, CPUID_ECX, 1U << 15}, /* IA32_PERF_CAPABILITIES */
	};

	for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
		struct {
			struct kvm_msrs header;
			struct kvm_msr_entry entry;
		} one = {.header.nmsrs = 1, .entry.index = registers[i].msr};
		const uint32_t *word =
		    cpuid_word(cpuid, registers[i].function, 0, registers[i].which);

		if (!word || !(*word & registers[i].bit))
			ioctl(vcpu_fd, KVM_SET_MSRS, &one); /* where there is such a thing */
	}
}
