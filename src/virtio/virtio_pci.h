/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI transport of virtio (1.2 section 4.1, modern only): one BAR with the common, ISR, device
 * and notify structures and the MSI-X table, doorbells by ioeventfd, interrupts by MSI-X.
 */
#ifndef GODWIT_VIRTIO_VIRTIO_PCI_H
#define GODWIT_VIRTIO_VIRTIO_PCI_H

#include "pci/pci_function.h"
#include "virtio/virtio_device.h"

/* Wraps @device, which stays the caller's, in a PCI function; destroyed by function->ops->destroy. */
struct error *virtio_pci_create(struct virtio_device *device,
				struct pci_function **function) MUST_CHECK;
/* Detaches the doorbells and interrupts and frees the function; the device's loop must not be running. */
void virtio_pci_destroy(struct pci_function *function);

#endif
