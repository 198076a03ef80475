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
	int fd; /* readable when packets have come; watched by the device */
	/* Gives packets that have come to @engine, a bounded number; returns how many. */
	uint32_t (*receive)(void *context, struct godwit_rdma *engine, int64_t now);
	/* Packets wait until the descriptor is writable. */
	bool (*waits)(void *context);
	/* Whether packets can leave with this source address. */
	bool (*sends_from)(void *context, const uint8_t address[16]);
	void (*close)(void *context);
	void *context;
};

/*
 * Creates the device @id. @mac is that of the network interface of the machine whose addresses become
 * the device's; all zero: it has none. Takes @port over, also on error.
 */
struct error *virtio_rdma_create(const char *id, const uint8_t mac[6],
				 const struct virtio_rdma_port *port,
				 struct virtio_device **device) MUST_CHECK;

/* A port over an UDP socket of the host, which has @address ("192.0.2.1", "2001:db8::1"). */
struct error *virtio_rdma_udp_port_open(const char *address,
					struct virtio_rdma_port *port) MUST_CHECK;

#endif
