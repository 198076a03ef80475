/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI host bridge: one bus, configuration space through the ports 0xCF8/0xCFC and through ECAM,
 * memory BARs on the I/O bus, interrupts and doorbells through KVM.
 *
 * Threads: devices are added on the main thread before the guest runs. Configuration accesses come
 * from vCPU threads and are serialised by one lock, which is not held during BAR accesses.
 */
#ifndef GODWIT_MACHINE_PCI_HOST_H
#define GODWIT_MACHINE_PCI_HOST_H

#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "kvm/io_bus.h"
#include "kvm/vm.h"
#include "pci/pci_function.h"

#define PCI_HOST_FUNCTIONS_MAX 248 /* 31 slots of 8; slot 0 is the bridge */

struct pci_host;

struct pci_host_options {
	struct io_bus *pio, *mmio;
	struct kvm_vm *vm; /* NULL (tests): no interrupts, no doorbells */
	uint64_t window_start,
	    window_size; /* for 64-bit BARs; 32-bit ones have a place of their own */
};

struct error *pci_host_create(const struct pci_host_options *options,
			      struct pci_host **host) MUST_CHECK;
/* All functions have been removed, no vCPU runs any more. Accepts NULL. */
void pci_host_destroy(struct pci_host *host);

/*
 * Plugs @function in: gives it the next address (a slot of its own while there are slots, then
 * further functions of them) and places its BARs. It stays the caller's, who removes it before
 * destroying it.
 */
struct error *pci_host_add(struct pci_host *host, struct pci_function *function) MUST_CHECK;
/* No vCPU runs any more, or never did. Accepts a function that was not added. */
void pci_host_remove(struct pci_host *host, struct pci_function *function);
/* Resets all functions, BARs back in their first places. Only while the vCPUs are paused. */
void pci_host_reset(struct pci_host *host);

/* The function at @devfn (device * 8 + function; 0 is the bridge), or NULL. */
struct pci_function *pci_host_function(struct pci_host *host, uint8_t devfn);
/* Visits what is the bridge's own; the functions' states are theirs. Only while the vCPUs are paused. */
void pci_host_state(void *host, struct state *state);

#endif
