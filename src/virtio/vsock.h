/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The socket device (virtio 1.2 section 5.10), stream sockets between the guest and programs of the
 * host through unix sockets (vsock_host.h). All of it runs on the device's loop.
 */
#ifndef GODWIT_VIRTIO_VSOCK_H
#define GODWIT_VIRTIO_VSOCK_H

#include "virtio/virtio_device.h"

/*
 * Creates a device from @text: "cid=N,path=PATH[,id=ID]". @cid is the guest's address, 3 to
 * 0xfffffffe; PATH is the unix socket to listen at. Without id= it is "vsock".
 */
struct error *virtio_vsock_create(const char *text, struct virtio_device **device) MUST_CHECK;
/* The same with the socket of another process, unless @handed is NULL (virtio_device_ops.share). */
struct error *virtio_vsock_create_handed(const char *text, json_t *handed,
					 struct virtio_device **device) MUST_CHECK;
/* Where the host's programs reach @device, of type "virtio-vsock"; owned by it. */
const char *virtio_vsock_path(const struct virtio_device *device);

#endif
