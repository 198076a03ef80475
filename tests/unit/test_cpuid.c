/* SPDX-License-Identifier: BSD-2-Clause */
/* What a processor tells of the topology, on AMD and on Intel hosts. */
#include "cmocka_prelude.h"
#include <stdlib.h>
#include <string.h>

#include "kvm/cpuid.h"

static struct kvm_cpuid2 *host_table(uint32_t vendor_ebx)
{
	struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + KVM_CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));
	const struct kvm_cpuid_entry2 entries[] = {
	    {.function = 0, .eax = 0x20, .ebx = vendor_ebx},
	    {.function = 1, .ebx = 0x17550800},
	    {.function = 4, .index = 0, .eax = 0xfc004121},
	    {.function = 4, .index = 3, .eax = 0xfc1fc163},
	    {.function = 4, .index = 4, .eax = 0},
	    {.function = 0xb, .index = 0, .ebx = 2, .ecx = 0x100, .edx = 77},
	    {.function = 0x1f, .index = 0, .ebx = 2, .ecx = 0x100, .edx = 77},
	    {.function = 0x80000001, .ecx = 2},
	    {.function = 0x80000007, .edx = 0x100},
	    {.function = 0x80000008, .eax = 0x343030, .ecx = 0x603f},
	    {.function = 0x8000001d, .index = 3, .eax = 0x1fc163},
	    {.function = 0x8000001e, .eax = 77, .ebx = 0x101, .ecx = 3},
	};

	assert_non_null(cpuid);
	memcpy(cpuid->entries, entries, sizeof(entries));
	cpuid->nent = sizeof(entries) / sizeof(entries[0]);
	return cpuid;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	fail_msg("no leaf 0x%x", function);
	return NULL;
}

#define AMD   0x68747541
#define INTEL 0x756e6547

static void processors_spread_over_sockets_when_they_can(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(8, 2);

	assert_int_equal(topology.sockets, 2);
	assert_int_equal(topology.cores_per_socket, 4);
	/* Three to a socket would leave a gap in the APIC ids. */
	topology = kvm_cpu_topology_make(6, 2);
	assert_int_equal(topology.sockets, 6);
	assert_int_equal(topology.cores_per_socket, 1);
	topology = kvm_cpu_topology_make(6, 1);
	assert_int_equal(topology.cores_per_socket, 6);
}

static void the_extended_topology_has_threads_and_cores(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(8, 2);
	struct kvm_cpuid2 *cpuid = host_table(INTEL);

	kvm_cpuid_fit(cpuid, 5, &topology, 40);
	assert_int_equal(find(cpuid, 0xb, 0)->eax, 0);
	assert_int_equal(find(cpuid, 0xb, 0)->ebx, 1);
	assert_int_equal(find(cpuid, 0xb, 1)->eax, 2);
	assert_int_equal(find(cpuid, 0xb, 1)->ebx, 4);
	assert_int_equal(find(cpuid, 0xb, 1)->ecx, 0x201);
	assert_int_equal(find(cpuid, 0xb, 1)->edx, 5);
	for (uint32_t i = 0; i < cpuid->nent; i++)
		assert_int_not_equal(cpuid->entries[i].function, 0x1f);
	free(cpuid);
}

static void leaf_1_has_the_apic_id_and_the_hypervisor_bit(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(4, 1);
	struct kvm_cpuid2 *cpuid = host_table(INTEL);
	const struct kvm_cpuid_entry2 *leaf;

	kvm_cpuid_fit(cpuid, 3, &topology, 40);
	leaf = find(cpuid, 1, 0);
	assert_int_equal(leaf->ebx, 0x03040800);
	assert_true(leaf->ecx >> 31 & 1);
	assert_true(leaf->ecx >> 24 & 1);
	assert_true(leaf->edx >> 28 & 1);
	free(cpuid);
}

static void one_processor_has_no_siblings(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(1, 1);
	struct kvm_cpuid2 *cpuid = host_table(AMD);

	kvm_cpuid_fit(cpuid, 0, &topology, 40);
	assert_int_equal(find(cpuid, 1, 0)->ebx, 0x0800);
	assert_false(find(cpuid, 1, 0)->edx >> 28 & 1);
	assert_int_equal(find(cpuid, 4, 3)->eax, 0x163);
	assert_int_equal(find(cpuid, 0x80000001, 0)->ecx, 0);
	free(cpuid);
}

static void the_last_cache_is_the_sockets_and_the_first_a_cores(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(8, 2);
	struct kvm_cpuid2 *cpuid = host_table(INTEL);

	kvm_cpuid_fit(cpuid, 0, &topology, 40);
	assert_int_equal(find(cpuid, 4, 0)->eax >> 14 & 0xfff, 0);
	assert_int_equal(find(cpuid, 4, 3)->eax >> 14 & 0xfff, 3);
	assert_int_equal(find(cpuid, 4, 3)->eax >> 26, 3);
	assert_int_equal(find(cpuid, 4, 4)->eax, 0);
	assert_int_equal(find(cpuid, 0x8000001d, 3)->eax >> 14 & 0xfff, 3);
	free(cpuid);
}

static void amd_leaves_count_cores(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(8, 2);
	struct kvm_cpuid2 *cpuid = host_table(AMD);

	kvm_cpuid_fit(cpuid, 6, &topology, 40);
	assert_int_equal(find(cpuid, 0x80000008, 0)->eax, 0x3028);
	assert_int_equal(find(cpuid, 0x80000008, 0)->ecx, 2 << 12 | 3);
	assert_int_equal(find(cpuid, 0x8000001e, 0)->eax, 6);
	assert_int_equal(find(cpuid, 0x8000001e, 0)->ebx, 2);
	assert_int_equal(find(cpuid, 0x8000001e, 0)->ecx, 1);
	assert_int_equal(find(cpuid, 0x80000001, 0)->ecx, 2);
	free(cpuid);
}

static void a_fixed_clock_rate_is_not_promised(void **state)
{
	struct kvm_cpu_topology topology = kvm_cpu_topology_make(1, 1);
	struct kvm_cpuid2 *cpuid = host_table(AMD);

	kvm_cpuid_fit(cpuid, 0, &topology, 40);
	assert_int_equal(find(cpuid, 0x80000007, 0)->edx, 0);
	free(cpuid);
}

/* Sets one register of the leaf @function. */
static uint32_t *leaf_edx(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	return &((struct kvm_cpuid_entry2 *)find(cpuid, function, 0))->edx;
}

static void a_guest_with_fewer_features_than_the_host_may_stay(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(AMD);

	*leaf_edx(guest, 1) = 0x0b;
	*leaf_edx(host, 1) = 0x1f;
	assert_no_error(kvm_cpuid_check(guest, host));
	free(guest);
	free(host);
}

static void a_feature_that_is_missing_is_named_by_its_bits(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(AMD);

	*leaf_edx(guest, 1) = 0x00200005;
	*leaf_edx(host, 1) = 5;
	assert_error_with(kvm_cpuid_check(guest, host), "CPUID leaf 0x1.0 EDX bits 0x00200000");
	free(guest);
	free(host);
}

static void a_leaf_that_is_missing_has_no_features(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(AMD);

	guest->entries[guest->nent++] = (struct kvm_cpuid_entry2){
	    .function = 7, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 1 << 5};
	assert_error_with(kvm_cpuid_check(guest, host), "CPUID leaf 0x7.0 EBX bits 0x00000020");
	free(guest);
	free(host);
}

static void another_make_of_processor_is_refused(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(INTEL);

	assert_error_with(kvm_cpuid_check(guest, host), "a processor \"Auth");
	free(guest);
	free(host);
}

static void wider_addresses_than_the_host_has_are_refused(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(AMD);

	((struct kvm_cpuid_entry2 *)find(host, 0x80000008, 0))->eax = 0x3028;
	assert_error_with(kvm_cpuid_check(guest, host), "48 bits and this host's 40");
	assert_no_error(kvm_cpuid_check(host, guest));
	free(guest);
	free(host);
}

static void vector_registers_that_lie_elsewhere_are_refused(void **state)
{
	struct kvm_cpuid2 *guest = host_table(AMD), *host = host_table(AMD);
	const struct kvm_cpuid_entry2 components[] = {
	    {.function = 0xd, .index = 0, .flags = 1, .eax = 7},
	    {.function = 0xd, .index = 2, .flags = 1, .eax = 0x100, .ebx = 0x240},
	};

	for (size_t i = 0; i < 2; i++) {
		guest->entries[guest->nent++] = components[i];
		host->entries[host->nent++] = components[i];
	}
	assert_no_error(kvm_cpuid_check(guest, host));
	host->entries[host->nent - 1].ebx = 0x340;
	assert_error_with(kvm_cpuid_check(guest, host), "0xd.2");
	free(guest);
	free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(processors_spread_over_sockets_when_they_can),
	    cmocka_unit_test(the_extended_topology_has_threads_and_cores),
	    cmocka_unit_test(leaf_1_has_the_apic_id_and_the_hypervisor_bit),
	    cmocka_unit_test(one_processor_has_no_siblings),
	    cmocka_unit_test(the_last_cache_is_the_sockets_and_the_first_a_cores),
	    cmocka_unit_test(amd_leaves_count_cores),
	    cmocka_unit_test(a_fixed_clock_rate_is_not_promised),
	    cmocka_unit_test(a_guest_with_fewer_features_than_the_host_may_stay),
	    cmocka_unit_test(a_feature_that_is_missing_is_named_by_its_bits),
	    cmocka_unit_test(a_leaf_that_is_missing_has_no_features),
	    cmocka_unit_test(another_make_of_processor_is_refused),
	    cmocka_unit_test(wider_addresses_than_the_host_has_are_refused),
	    cmocka_unit_test(vector_registers_that_lie_elsewhere_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
