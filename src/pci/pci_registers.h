/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Offsets and bits of PCI configuration space (PCI Local Bus 3.0 sections 6.1, 6.2 and 6.8.2), type
 * 0 headers.
 */
#ifndef GODWIT_PCI_PCI_REGISTERS_H
#define GODWIT_PCI_PCI_REGISTERS_H

#define PCI_VENDOR_ID		0x00
#define PCI_DEVICE_ID		0x02
#define PCI_COMMAND		0x04
#define PCI_STATUS		0x06
#define PCI_REVISION_ID		0x08 /* and the class code in the three bytes above */
#define PCI_CACHE_LINE_SIZE	0x0c
#define PCI_BAR_0		0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID	0x2e
#define PCI_CAPABILITY_POINTER	0x34
#define PCI_INTERRUPT_LINE	0x3c
#define PCI_CAPABILITIES_START	0x40

#define PCI_COMMAND_MEMORY	 0x0002
#define PCI_COMMAND_MASTER	 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS_CAPABILITIES	 0x10

#define PCI_BAR_WIDE	     0x4
#define PCI_BAR_PREFETCHABLE 0x8
#define PCI_BAR_ADDRESS_MASK 0xfffffff0u

#define PCI_CAPABILITY_VENDOR 0x09
#define PCI_CAPABILITY_MSIX   0x11

/* Relative to the MSI-X capability, and in its control register. */
#define PCI_MSIX_CONTROL      2
#define PCI_MSIX_CONTROL_MASK 0x4000
#define PCI_MSIX_CONTROL_ON   0x8000
#define PCI_MSIX_ENTRY_SIZE   16

#endif
