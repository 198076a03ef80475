/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A KVM virtual machine: the file descriptor, the in-kernel interrupt controllers, doorbells,
 * interrupts. The memory slots are slots.h, the processors vcpu.h.
 */
#ifndef GODWIT_KVM_VM_H
#define GODWIT_KVM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "kvm/io_bus.h"

#define KVM_VM_MSI_ROUTES_MAX                                                                      \
	2048 /* vectors bound to descriptors; KVM takes 4096 routes in all   \
				    */

struct kvm_vm {
	int kvm_fd; /* /dev/kvm */
	int vm_fd;
	int slots_max;			 /* KVM_CAP_NR_MEMSLOTS */
	bool exits_on_emulation_failure; /* for every instruction, before an exception is queued */
	bool slot_zap_partial; /* deleting a slot no longer drops the whole guest's page tables
				   (Linux 6.12) */
	uint32_t dirty_ring_entries; /* of each vCPU's dirty ring (dirty_ring.h); 0: none */
	size_t run_size;	     /* bytes of a vCPU's shared run area */
	uint32_t physical_bits;	     /* guest physical address width that the host can give */
	struct io_bus *pio;	     /* I/O ports */
	struct io_bus *mmio;	     /* memory-mapped devices */

	pthread_mutex_t routing_lock; /* guards the table */
	struct kvm_msi_routes *routes;
	bool has_pics;			    /* interrupt lines lead to them, too */
	struct kvm_irqchip_state *power_on; /* of the interrupt controllers, for reset */

	bool clock_stopped; /* main thread: the guest's clock stands at clock_ns */
	uint64_t clock_ns;
};

/*
 * Opens /dev/kvm, makes a VM with in-kernel local APICs and I/O APIC (PICs and PIT only with @pit),
 * and checks the capabilities godwit needs; an error names what is missing and what to do (load the
 * module, permissions).
 */
struct error *kvm_vm_create(bool pit, struct kvm_vm **vm) MUST_CHECK;
void kvm_vm_destroy(struct kvm_vm *vm);

/* Puts the I/O APIC and the PICs back into their power-on state. Only while the vCPUs are paused.
 */
void kvm_vm_reset_interrupts(struct kvm_vm *vm);

/* Raises or lowers I/O APIC pin @gsi (level), or pulses it. Any thread. */
void kvm_vm_set_irq(struct kvm_vm *vm, uint32_t gsi, bool level);
void kvm_vm_pulse_irq(struct kvm_vm *vm, uint32_t gsi);
/* Sends an MSI at once. Any thread. */
void kvm_vm_send_msi(struct kvm_vm *vm, uint64_t address, uint32_t data);
/* The same contract as pci_host_ops.bind_msi_fd and unbind_msi_fd. */
int kvm_vm_bind_msi_fd(struct kvm_vm *vm, int fd, uint64_t address, uint32_t data, int *route);
void kvm_vm_unbind_msi_fd(struct kvm_vm *vm, int fd, int route);
/* A guest's write of any size to @address (a port with @pio) signals @fd inside the kernel. 0 or
 * -errno. */
int kvm_vm_add_doorbell(struct kvm_vm *vm, uint64_t address, bool pio, int fd);
void kvm_vm_remove_doorbell(struct kvm_vm *vm, uint64_t address, bool pio, int fd);

/*
 * The guest's paravirtual clock (nanoseconds, monotonic) stands still from stop to start, so that a
 * guest that was paused, or saved and loaded, sees no time in between. Both only while the vCPUs are
 * paused, on the main thread; idempotent. The time of day is another matter: the real-time clock,
 * and what a guest learns over the network, moves on.
 */
void kvm_vm_stop_clock(struct kvm_vm *vm);
void kvm_vm_start_clock(struct kvm_vm *vm);

/*
 * The I/O APIC and the PICs; the clock, which must be stopped and is stopped after a load. Visited
 * while the vCPUs are paused. MSI routes and doorbells are remade by the PCI functions; levels of
 * interrupt lines are raised again by the devices that hold them, after the controllers are loaded.
 */
void kvm_vm_irqchip_part(struct kvm_vm *vm, struct state_part *part);
void kvm_vm_clock_part(struct kvm_vm *vm, struct state_part *part);

#endif
