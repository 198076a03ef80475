/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-console (virtio 1.2 section 5.3): one port, which Linux calls hvc0. */
#ifndef GODWIT_VIRTIO_CONSOLE_H
#define GODWIT_VIRTIO_CONSOLE_H

#include "base/chardev.h"
#include "virtio/virtio_device.h"

/*
 * A console on @backend, which is taken over (also on error) and works on the device's loop from
 * now on. If it is a terminal the guest is told its size. @id is copied. Destroyed with
 * virtio_device_destroy.
 */
struct error *virtio_console_create(const char *id, struct chardev *backend,
				    struct virtio_device **device) MUST_CHECK;
/* What @device, of type "virtio-console", writes to; owned by it. */
struct chardev *virtio_console_backend(const struct virtio_device *device);

#endif
