/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtual processors: one thread each, running the guest until it exits to user space, dispatching
 * I/O to the buses, pausing and resuming together.
 *
 * A vCPU's thread is in the guest, in an exit handler, or parked. Two ways to stop them, which nest
 * and mix:
 *
 *   hold   until none executes guest code; handlers may be under way and cannot re-enter the guest.
 * Any thread may hold, a device's that a handler waits for included. For slots that are being cut.
 *   pause  until all are parked with no exit half handled, so that their state can be read and
 * written. Only from the machine's main thread.
 */
#ifndef GODWIT_KVM_VCPU_H
#define GODWIT_KVM_VCPU_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "kvm/vm.h"
#include "memory/memory_map.h"

#define KVM_VCPUS_MAX 64

struct kvm_vcpus;
struct dirty_ring;

/* Why the machine must act; called on a vCPU's thread, which goes on (or parks, if paused) when it
 * returns. */
enum kvm_event {
	KVM_EVENT_SHUTDOWN,	  /* triple fault: the guest wants, or needs, a reset */
	KVM_EVENT_INTERNAL_ERROR, /* KVM could not go on; the vCPU parks for good (until a reset) */
	KVM_EVENT_NO_MEMORY, /* likewise: the host has nothing behind an address of the guest's */
};

/* What the vCPUs ask of the owner of the guest's absent memory (slots.h provides it). */
struct kvm_absent_ops {
	/*
	 * The guest read or wrote [address, address + size) and KVM has no writable memory there.
	 * Returns true if the address belongs to a memory region; a read's @data is then filled, a
	 * write counted (or done, if the memory is there after all because a slot was just
	 * changing).
	 */
	bool (*access)(void *context, uint64_t address, void *data, uint32_t size, bool write);
	/*
	 * KVM could not emulate an instruction. Returns true if slots changed since *seen, such
	 * that trying again may help, and updates *seen (one per vCPU, 0 at first); false: the
	 * guest gets an exception.
	 */
	bool (*emulation_failed)(void *context, uint64_t *seen);
	/* The vCPU's dirty ring (dirty_ring.h) is full: empties it. */
	void (*dirty_ring_full)(void *context);
};

struct kvm_vcpus_options {
	uint32_t count; /* 1 to KVM_VCPUS_MAX */
	const struct kvm_absent_ops *absent;
	void *absent_context;
	void (*event)(void *context, enum kvm_event event, const char *detail);
	void *event_context;
	/*
	 * Makes the CPUID table of processor @index (cpuid.h), which the caller frees with free().
	 * Called once a processor, on the creating thread.
	 */
	struct error *(*cpuid)(void *context, uint32_t index, struct kvm_cpuid2 **cpuid);
	void *cpuid_context;
};

/* The register state a processor starts with; the others wait for INIT and SIPI. */
struct kvm_boot_state {
	bool long_mode;	   /* 64-bit, else 32-bit protected, flat, no paging (PVH) */
	uint64_t entry;	   /* instruction pointer */
	uint64_t rsi, rbx; /* boot parameters: Linux 64-bit entry takes rsi, PVH ebx */
	uint64_t stack;
	uint64_t cr3; /* page tables, long mode only */
	uint64_t gdt; /* guest address of the descriptor table, with limit */
	uint16_t gdt_limit;
};

/* Creates the vCPUs (local APIC ids 0 … count - 1) and their threads, paused once. */
struct error *kvm_vcpus_create(struct kvm_vm *vm, const struct kvm_vcpus_options *options,
			       struct kvm_vcpus **vcpus) MUST_CHECK;
/* Stops and joins the threads. Accepts NULL. */
void kvm_vcpus_destroy(struct kvm_vcpus *vcpus);
uint32_t kvm_vcpus_count(const struct kvm_vcpus *vcpus);
/* The ring of vCPU @index, empty for ever if the VM has none. For dirty_slots.c. */
struct dirty_ring *kvm_vcpus_dirty_ring(struct kvm_vcpus *vcpus, uint32_t index);

/* Puts all processors into the state after reset, the first one at @boot. Only while paused. */
struct error *kvm_vcpus_reset(struct kvm_vcpus *vcpus,
			      const struct kvm_boot_state *boot) MUST_CHECK;

void kvm_vcpus_pause(struct kvm_vcpus *vcpus);
/* Tells the guests' watchdogs that it was the host that held them up. */
void kvm_vcpus_resume(struct kvm_vcpus *vcpus);
void kvm_vcpus_hold(struct kvm_vcpus *vcpus);
void kvm_vcpus_release(struct kvm_vcpus *vcpus);

/*
 * Keeps processor @index out of the guest until @until_ns (monotonic), or lets it go on if that is 0. It
 * can be held and paused meanwhile. Any thread; vcpu_throttle.h has the use of it.
 */
void kvm_vcpus_rest(struct kvm_vcpus *vcpus, uint32_t index, int64_t until_ns);

/*
 * Fills @part, "cpu" number @index, for a visit while paused. What is loaded comes after all memory
 * and devices; the processors have not run before.
 */
void kvm_vcpus_state_part(struct kvm_vcpus *vcpus, uint32_t index, struct state_part *part);
/* What processor @index says about itself; the vCPUs', until a state is loaded. */
const struct kvm_cpuid2 *kvm_vcpus_cpuid(const struct kvm_vcpus *vcpus, uint32_t index);

struct kvm_vcpu_statistics {
	uint64_t exits, pio_exits, mmio_exits, other_exits;
	uint64_t cpu_ns;      /* time of the thread */
	uint64_t dirty_pages; /* written while writes were logged, page by page, with dirty rings */
};
void kvm_vcpus_statistics(const struct kvm_vcpus *vcpus, uint32_t index,
			  struct kvm_vcpu_statistics *statistics);
/*
 * How many pages processor @index has written to while writes were logged, as far as that can be
 * known: what its dirty ring has had, or where there are none its page faults (vcpu_faults.h). Only
 * differences mean something. A call or two of the kernel. One thread at a time, whichever.
 */
uint64_t kvm_vcpus_written(struct kvm_vcpus *vcpus, uint32_t index);

#endif
