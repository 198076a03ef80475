/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to src/pci: the MSI-X half of a function, as pci_function.c calls it. All accept a
 * function without. */
#ifndef GODWIT_PCI_PCI_MSIX_H
#define GODWIT_PCI_PCI_MSIX_H

#include "pci/pci_function.h"

/* Takes the enable, mask and bus master bits into account; delivers what was pending and now may
 * go. */
void pci_msix_update_gate(struct pci_function *function);
/* Accesses to the table and the PBA; false if the access is to something else. */
bool pci_msix_bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
		       uint32_t size);
bool pci_msix_bar_write(struct pci_function *function, int bar, uint64_t offset, const void *data,
			uint32_t size);
/* All entries masked, empty and not pending. */
void pci_msix_reset(struct pci_function *function);
/* The entries, which go with the configuration space @config. */
void pci_msix_state(struct pci_function *function, const uint8_t *config, struct state *state);
void pci_msix_cleanup(struct pci_function *function);

#endif
