/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The listener that keeps KVM's memory slots equal to what is plugged, exactly, block by block:
 * that is the guarantee that a guest cannot use unplugged memory. slots.c tells how and why.
 */
#ifndef GODWIT_KVM_SLOTS_H
#define GODWIT_KVM_SLOTS_H

#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "memory/memory_map.h"

struct kvm_slots;

struct kvm_slots_statistics {
	uint32_t slots_max;	/* what KVM allows */
	uint32_t slots_plugged; /* in use for plugged memory */
	uint32_t slots_zero;	/* in use for windows of zeros over unplugged memory */
	uint64_t merges;	/* times neighbouring slots were joined to save some */
	uint64_t refused;	/* plugs and unplugs answered "busy" for want of slots */
	uint64_t absent_reads;	/* a guest's reads of unplugged memory that reached user space */
	uint64_t absent_writes; /* writes, every one */
	uint64_t emulation_failures;
};

/*
 * Shows KVM what is plugged in @map, now and from now on. @slots_limit bounds what is used (0: what
 * KVM allows).
 */
struct error *kvm_slots_create(struct kvm_vm *vm, struct memory_map *map, uint32_t slots_limit,
			       struct kvm_slots **slots) MUST_CHECK;
void kvm_slots_destroy(struct kvm_slots *slots);
/*
 * The vCPUs that must stand still while a slot in use is cut; set before they run, and to NULL before
 * they are destroyed.
 */
void kvm_slots_set_vcpus(struct kvm_slots *slots, struct kvm_vcpus *vcpus);
/*
 * @handler is called on a vCPU's thread, at most once a second and region, when the guest touched
 * unplugged memory. Set before the vCPUs run.
 */
void kvm_slots_set_attempt_handler(struct kvm_slots *slots,
				   void (*handler)(void *context, struct memory_region *region,
						   uint64_t address, bool write),
				   void *context);
/* For kvm_vcpus_options. The context is the struct kvm_slots. */
extern const struct kvm_absent_ops kvm_slots_absent_ops;

void kvm_slots_statistics(struct kvm_slots *slots, struct kvm_slots_statistics *statistics);
/* Attempts on one region. */
void kvm_slots_region_attempts(struct kvm_slots *slots, const struct memory_region *region,
			       uint64_t *reads, uint64_t *writes);

#endif
