/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk (virtio 1.2 section 5.2): a disk of the guest in a raw file or block device of the
 * host. */
#ifndef GODWIT_VIRTIO_BLK_H
#define GODWIT_VIRTIO_BLK_H

#include "virtio/virtio_device.h"

#define VIRTIO_BLK_QUEUES_MAX 64

/*
 * A disk as the user describes it:
 *   PATH[,readonly=on|off][,direct=on|off][,queues=N][,cache=writeback|writethrough][,serial=TEXT]
 *       [,discard=on|off][,lock=on|off][,id=ID]
 * direct=on bypasses the host's page cache; the guest must then use the block size that the device
 * reports. cache=writethrough makes every write stable before it completes. discard defaults to on
 * where the storage can; off also keeps zeroed ranges allocated. serial (20 bytes) defaults to the
 * id, which defaults to "disk". With queues=1 everything runs on the device's loop; more queues
 * have a thread each, running on return.
 *
 * Errors: what the user got wrong, a file that cannot be opened, locked or used so, no io_uring.
 */
struct error *virtio_blk_create(const char *text, struct virtio_device **device) MUST_CHECK;
/* The same without the lock, which virtio_device_take_over takes: another process has it still. */
struct error *virtio_blk_create_unlocked(const char *text,
					 struct virtio_device **device) MUST_CHECK;
/* The same with the open file of another process, and its lock (virtio_device_ops.share). */
struct error *virtio_blk_create_handed(const char *text, json_t *handed,
				       struct virtio_device **device) MUST_CHECK;

#endif
