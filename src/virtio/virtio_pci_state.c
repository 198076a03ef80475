/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of the PCI transport: what the driver wrote into the common configuration, beyond what
 * the device itself knows. Configuration space, BARs and MSI-X belong to the PCI function and are
 * state of their own, loaded before or after this.
 *
 * Runs while no vCPU does; takes the registers' lock all the same. Whoever made the bytes of a load
 * controls every value: any is what a driver could have written, but for vectors that do not exist.
 */
#include "virtio/virtio_pci_internal.h"

#define ISR_BITS 3

static void vector_state(const struct virtio_pci *pci, uint16_t *vector, const char *name,
			 struct state *state)
{
	uint16_t value = __atomic_load_n(vector, __ATOMIC_RELAXED);

	state_u16(state, name, &value);
	state_check(state, value == VIRTIO_PCI_NO_VECTOR || value < pci->function.msix_vectors,
		    name, "does not exist");
	if (state_loading(state))
		__atomic_store_n(vector, value, __ATOMIC_RELAXED);
}

static void queue_state(struct virtio_pci *pci, struct virtio_pci_queue *queue, struct state *state)
{
	const struct virtqueue *ring = &pci->device->queues[queue->index].ring;

	vector_state(pci, &queue->vector, "queue vector", state);
	if (state_loading(state))
		queue->enabled = ring->enabled;
	if (ring->enabled) {
		queue->layout = ring->layout;
		return;
	}
	/* Half a set-up; checked when the driver enables the queue. */
	state_u16(state, "written size", &queue->layout.size);
	state_u64(state, "written descriptors", &queue->layout.descriptors);
	state_u64(state, "written driver area", &queue->layout.driver);
	state_u64(state, "written device area", &queue->layout.device);
}

static void attach_on_loop(void *context)
{
	virtio_pci_doorbells_attach(context);
}

void virtio_pci_state(void *transport, struct state *state)
{
	struct virtio_pci *pci = transport;
	uint8_t isr = __atomic_load_n(&pci->isr, __ATOMIC_ACQUIRE);

	pthread_mutex_lock(&pci->lock);
	state_u32(state, "device feature select", &pci->device_feature_select);
	state_u32(state, "driver feature select", &pci->driver_feature_select);
	state_u64(state, "written features", &pci->driver_features);
	state_u16(state, "queue select", &pci->queue_select);
	state_u8(state, "isr", &isr);
	state_check(state, !(isr & ~ISR_BITS), "isr", "has unknown bits");
	vector_state(pci, &pci->config_vector, "configuration vector", state);
	for (uint16_t i = 0; i < pci->device->queue_count; i++)
		queue_state(pci, &pci->queues[i], state);
	if (state_loading(state) && !state_failed(state)) {
		__atomic_store_n(&pci->isr, isr, __ATOMIC_RELEASE);
		if (pci->device->status & VIRTIO_STATUS_DRIVER_OK)
			event_loop_call(pci->device->loop, attach_on_loop, pci);
	}
	pthread_mutex_unlock(&pci->lock);
	if (state_loading(state) && state_failed(state))
		pci->function.ops->reset(&pci->function);
}
