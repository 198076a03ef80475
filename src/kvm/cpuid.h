/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a virtual processor says about itself: what KVM supports on this host, with the guest's own
 * topology.
 */
#ifndef GODWIT_KVM_CPUID_H
#define GODWIT_KVM_CPUID_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "kvm/vm.h"

/*
 * Processors have the local APIC ids 0 … cpus - 1, one thread a core. The cores of a socket are
 * neighbours; because APIC ids have no gaps, cores_per_socket is a power of two when there is more
 * than one socket.
 */
struct kvm_cpu_topology {
	uint32_t cpus;
	uint32_t sockets;
	uint32_t cores_per_socket;
};

/*
 * @cpus processors on @sockets sockets if they can be spread evenly (see above), else on as many
 * sockets as processors: software takes the processors of a socket to share a cache and so to be on
 * one NUMA node.
 */
struct kvm_cpu_topology kvm_cpu_topology_make(uint32_t cpus, uint32_t sockets);
/*
 * The table for processor @cpu of @vm, which is a @model (cpu_model.h; NULL: the host's); freed with
 * free(). An error if KVM does not tell, or names what the host lacks.
 */
struct error *kvm_cpuid_build(struct kvm_vm *vm, uint32_t cpu,
			      const struct kvm_cpu_topology *topology, const char *model,
			      struct kvm_cpuid2 **cpuid) MUST_CHECK;

/*
 * Registers that tell of features, of which @cpuid says that processor @vcpu_fd does not have them, get
 * the value of none: KVM fills them in whether the guest can read them or not, and a host with another
 * value would refuse to take it over.
 */
void kvm_cpuid_settle(struct kvm_cpuid2 *cpuid, int vcpu_fd);

#define KVM_CPUID_ENTRIES_MAX 256 /* KVM's own limit */
/*
 * The pure part of kvm_cpuid_build: rewrites @cpuid, which has room for KVM_CPUID_ENTRIES_MAX
 * entries, from what the host supports to what processor @cpu shows.
 */
void kvm_cpuid_fit(struct kvm_cpuid2 *cpuid, uint32_t cpu, const struct kvm_cpu_topology *topology,
		   uint32_t physical_bits);

/*
 * Whether a guest that saw the table @guest can go on where the table would be @host: an error names
 * what the host lacks.
 */
struct error *kvm_cpuid_check(const struct kvm_cpuid2 *guest,
			      const struct kvm_cpuid2 *host) MUST_CHECK;
/*
 * Visits *@cpuid. Loading replaces it (malloc) by the guest's own if kvm_cpuid_check accepts that
 * for the host whose table it was.
 */
void kvm_cpuid_state(struct kvm_cpuid2 **cpuid, struct state *state);

#endif
