/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-rng (virtio 1.2 section 5.4): randomness of the host's kernel for the guest. */
#ifndef GODWIT_VIRTIO_RNG_H
#define GODWIT_VIRTIO_RNG_H

#include "virtio/virtio_device.h"

#define VIRTIO_RNG_REQUEST_MAX                                                                     \
	4096 /* bytes given for one request, however long its buffers are   \
				     */

/* @id is copied. Destroyed with virtio_device_destroy. */
struct error *virtio_rng_create(const char *id, struct virtio_device **device) MUST_CHECK;

#endif
