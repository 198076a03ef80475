/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM's dirty rings (Linux 5.11, Documentation/virt/kvm/api.rst 8.29): each processor notes the pages
 * that it writes in a ring that is shared with this process, one entry a page. A processor whose
 * ring is nearly full leaves the guest (KVM_EXIT_DIRTY_RING_FULL) until it was emptied, so a guest
 * cannot write faster than somebody keeps account. Beside the bitmaps of slots rings tell which
 * processor writes how much, and cost time by what was written and not by the size of memory. A VM
 * that has them has no bitmaps.
 *
 * Threads: the processor's own, in the kernel, puts entries in; one other at a time takes them (the
 * lock of the slots).
 */
#ifndef GODWIT_KVM_DIRTY_RING_H
#define GODWIT_KVM_DIRTY_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/vm.h"

struct dirty_ring {
	void *entries; /* shared with KVM; NULL: the VM has no rings */
	uint32_t count;
	uint32_t next;	/* to be looked at */
	uint64_t pages; /* taken so far; atomic, for reports */
};

struct dirty_ring_entry {
	uint32_t slot; /* its number */
	uint64_t page; /* in the slot */
};

/*
 * Gives each processor of @vm a ring of @entries, a power of two, before any processor is made and
 * before slots.h is told of the VM. An error if KVM has none, or none so large.
 */
struct error *kvm_vm_enable_dirty_rings(struct kvm_vm *vm, uint32_t entries) MUST_CHECK;

/* Maps the ring of the processor behind @vcpu_fd. Nothing if the VM has none. */
struct error *dirty_ring_open(struct dirty_ring *ring, const struct kvm_vm *vm,
			      int vcpu_fd) MUST_CHECK;
void dirty_ring_close(struct dirty_ring *ring);
/*
 * Takes the oldest entry; false if there is none. KVM notices the next write to its page after
 * KVM_RESET_DIRTY_RINGS.
 */
bool dirty_ring_take(struct dirty_ring *ring, struct dirty_ring_entry *entry);

#endif
