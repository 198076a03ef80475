/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-mem (virtio 1.2 section 5.15): memory that grows and shrinks while the guest runs.
 */
#ifndef GODWIT_VIRTIO_MEM_H
#define GODWIT_VIRTIO_MEM_H

#include "virtio/virtio_device.h"

/* Why a resize is not done, or `ready` when it is. */
enum virtio_mem_reason {
	VIRTIO_MEM_READY,	  /* plugged equals requested */
	VIRTIO_MEM_PENDING,	  /* the guest is working on it */
	VIRTIO_MEM_BUSY,	  /* the host had no memory or slots to give at the last request */
	VIRTIO_MEM_GUEST_OOM,	  /* the guest stopped plugging because it cannot use more */
	VIRTIO_MEM_NO_DRIVER,	  /* no driver has claimed the device */
	VIRTIO_MEM_GUEST_REFUSES, /* the guest stopped unplugging: memory is in use there */
};
const char *virtio_mem_reason_name(enum virtio_mem_reason reason);

struct virtio_mem_options {
	const char *id;
	struct memory_region *region; /* elastic; its unit is the block size */
	uint16_t node;		      /* NUMA node the guest sees */
	uint64_t requested;	      /* bytes, at start */
};

struct virtio_mem_status {
	uint64_t requested, plugged, maximum, block_size, address; /* bytes */
	uint16_t node;
	enum virtio_mem_reason reason;
};

struct error *virtio_mem_create(const struct virtio_mem_options *options, struct memory_map *map,
				struct virtio_device **device) MUST_CHECK;
/*
 * Asks the guest for @size bytes plugged; returns at once. An error (not a multiple of the block
 * size, above the maximum) changes nothing. Any thread.
 */
struct error *virtio_mem_request(struct virtio_device *device, uint64_t size) MUST_CHECK;
/* Any thread. */
void virtio_mem_status(struct virtio_device *device, struct virtio_mem_status *status);
/* Called on the device's loop when plugged or the reason changed. One handler. */
void virtio_mem_set_handler(struct virtio_device *device, void (*handler)(void *context),
			    void *context);

#endif
