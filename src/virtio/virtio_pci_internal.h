/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to virtio_pci*.c: the state of the PCI transport and its doorbells. */
#ifndef GODWIT_VIRTIO_VIRTIO_PCI_INTERNAL_H
#define GODWIT_VIRTIO_VIRTIO_PCI_INTERNAL_H

#include <pthread.h>

#include "virtio/virtio_pci.h"

#define VIRTIO_PCI_NOTIFY_OFFSET     0x5000 /* of the doorbells in the BAR */
#define VIRTIO_PCI_NO_VECTOR	     0xffff
#define VIRTIO_PCI_NOTIFY_MULTIPLIER 4 /* bytes from one doorbell to the next */

struct virtio_pci_queue {
	struct virtio_pci *pci;
	uint16_t index;
	uint16_t vector;		/* atomic */
	bool enabled;			/* as the driver sees it; under the lock, like `layout` */
	struct virtqueue_layout layout; /* what the driver wrote so far */
	int source;			/* see connect_queue, or -1; under source_lock */
	uint64_t doorbell;		/* where the host watches for it, or 0; device's loop */
};

struct virtio_pci {
	struct pci_function function;
	struct virtio_device *device;
	uint8_t pci_capability; /* offset of the configuration access capability */
	uint16_t config_vector; /* atomic */
	uint8_t isr;		/* atomic */

	pthread_mutex_t
	    lock; /* guards what follows; held by vCPUs while the device's loop works for them */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;

	/* Guards `source` and changes of `vector` of all queues; innermost but for MSI-X entries'. */
	pthread_mutex_t source_lock;

	/* The device's loop. */
	bool attached;	      /* doorbells are being listened to */
	uint64_t bar_address; /* 0: nowhere */
	struct virtio_pci_queue queues[];
};

/* virtio_transport_ops.state: @transport is a struct virtio_pci. */
void virtio_pci_state(void *transport, struct state *state);

/* Starts (stops) listening to the doorbells of all enabled queues; idempotent. Device's loop. */
void virtio_pci_doorbells_attach(struct virtio_pci *pci);
void virtio_pci_doorbells_detach(struct virtio_pci *pci);
/* The BAR moved: takes its new place from the function. On the thread that moved it. */
void virtio_pci_doorbells_move(struct virtio_pci *pci);
/* A write at @offset of the notify area that the host did not catch. Any thread. */
void virtio_pci_doorbell_ring(struct virtio_pci *pci, uint64_t offset);

#endif
