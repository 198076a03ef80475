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
#include "kvm/io_bus.h"

#define KVM_VM_MSI_ROUTES_MAX                                                                      \
	2048 /* vectors bound to descriptors; KVM takes 4096 routes in all   \
				    */

struct kvm_vm {
	int kvm_fd; /* /dev/kvm */
	int vm_fd;
	int slots_max;			 /* KVM_CAP_NR_MEMSLOTS */
	bool exits_on_emulation_failure; /* for every instruction, before an exception is queued */
	bool slot_zap_partial;	/* deleting a slot no longer drops the whole guest's page tables
				   (Linux 6.12) */
	size_t run_size;	/* bytes of a vCPU's shared run area */
	uint32_t physical_bits; /* guest physical address width that the host can give */
	struct io_bus *pio;	/* I/O ports */
	struct io_bus *mmio;	/* memory-mapped devices */

	pthread_mutex_t routing_lock; /* guards the table */
	struct kvm_msi_routes *routes;
	struct kvm_irqchip_state *power_on; /* of the interrupt controllers, for reset */
};

/*
 * Opens /dev/kvm, makes a VM with in-kernel local APICs, I/O APIC and PIC (the PIT only with @pit),
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

#endif
