/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device (virtio device ID 42): a RoCE v2 adapter, which is the engine of rdma/. Its interface
 * to the guest's driver is docs/virtio-rdma.md, byte by byte.
 */
#ifndef GODWIT_VIRTIO_RDMA_H
#define GODWIT_VIRTIO_RDMA_H

#include <godwit/rdma.h>

#include "virtio/virtio_device.h"

/* How the device's packets travel. All functions run on the device's loop. */
struct virtio_rdma_port {
	const char *name; /* static, for reports */
	struct godwit_rdma_port packets;
	int fd; /* readable when packets have come; watched by the device; -1: not taken over yet */
	/* Gives packets that have come to @engine, a bounded number; returns how many. */
	uint32_t (*receive)(void *context, struct godwit_rdma *engine, int64_t now);
	/* Packets wait until the descriptor is writable. */
	bool (*waits)(void *context);
	/* Whether packets can leave with this source address. */
	bool (*sends_from)(void *context, const uint8_t address[16]);
	/* Entry @index of the guest's table of addresses is @address; ::, if it is empty. May be NULL. */
	void (*set_address)(void *context, uint32_t index, const uint8_t address[16]);
	/* Of those that make frames: what they come from, before the first one. May be NULL. */
	void (*set_mac)(void *context, const uint8_t mac[6]);
	/* Adds what is to be known about it to @object. May be NULL. */
	void (*describe)(void *context, json_t *object);
	/*
	 * Of those of which only one process can have what they use: gives it back while the device is
	 * quiesced; takes it, again or for the first time, and says in @port what has changed. NULL:
	 * there is nothing of the kind.
	 */
	void (*release)(void *context);
	struct error *(*take_over)(void *context, struct virtio_rdma_port *port);
	void (*close)(void *context);
	void *context;
};

#define VIRTIO_RDMA_ADDRESSES 64U /* in the table of the guest */

/*
 * Creates the device @id. @mac is that of the network interface of the machine whose addresses become
 * the device's; all zero: it has none. Takes @port over, also on error.
 */
struct error *virtio_rdma_create(const char *id, const uint8_t mac[6],
				 const struct virtio_rdma_port *port,
				 struct virtio_device **device) MUST_CHECK;

/*
 * A port over an UDP socket of the host, which has @address ("192.0.2.1", "2001:db8::1"). @later: it is
 * opened when it is taken over, and the host may get the address after that.
 */
struct error *virtio_rdma_udp_port_open(const char *address, bool later,
					struct virtio_rdma_port *port) MUST_CHECK;

/*
 * A port over the interface of the network device @net: packets leave and come as its frames. @net
 * lives longer.
 */
struct error *virtio_rdma_tap_port_open(struct virtio_device *net,
					struct virtio_rdma_port *port) MUST_CHECK;

#endif
