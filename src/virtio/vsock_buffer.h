/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest has sent on a connection and the host's program has not taken yet: a ring of
 * VSOCK_BUFFER_SIZE bytes. Belongs to the device's loop. The owner checks the room
 * (vsock_flow_room) before it adds.
 */
#ifndef GODWIT_VIRTIO_VSOCK_BUFFER_H
#define GODWIT_VIRTIO_VSOCK_BUFFER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "virtio/vsock_flow.h"

struct vsock_buffer {
	uint8_t *bytes; /* VSOCK_BUFFER_SIZE of them; not owned */
	uint32_t start, used;
};

/* Adds the bytes of @iov[0 .. count), which fit. */
void vsock_buffer_add(struct vsock_buffer *buffer, const struct iovec *iov, uint16_t count);
/* Sends what @fd takes without waiting; returns how much, or a negative errno other than -EAGAIN.
 */
ssize_t vsock_buffer_flush(struct vsock_buffer *buffer, int fd);

#endif
