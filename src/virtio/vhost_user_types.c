/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What there is to know of the kinds of virtio devices whose work a back-end may do. Configuration sizes are
 * those that every back-end of the kind has, so that none refuses to tell them. Constants; any thread.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "virtio/vhost_user_device_private.h"

#define CLASS_OTHER 0x00ff00

/* Names and numbers: virtio 1.2 section 5. */
static const struct vhost_user_type types[] = {
    {.name = "blk",
     .type = "vhost-user-blk",
     .id = VIRTIO_ID_BLOCK,
     .pci_class = 0x010000,
     .config_size = 60, /* up to write zeroes */
     .queues = 1,
     .config_theirs = true,
     .queues_field = 34},
    {.name = "net",
     .type = "vhost-user-net",
     .id = VIRTIO_ID_NET,
     .pci_class = 0x020000,
     .config_size = 10, /* up to the number of pairs */
     .queues = 1,
     .in_order = true},
    {.name = "fs",
     .type = "vhost-user-fs",
     .id = 26,
     .pci_class = 0x018000,
     .config_size = 40,
     .queues_before = 1,
     .queues = 1,
     .stateful = true},
    {.name = "console",
     .type = "vhost-user-console",
     .id = VIRTIO_ID_CONSOLE,
     .pci_class = 0x078000,
     .config_size = 12,
     .queues = 2,
     .config_theirs = true,
     .stateful = true},
    {.name = "rng",
     .type = "vhost-user-rng",
     .id = VIRTIO_ID_RNG,
     .pci_class = CLASS_OTHER,
     .queues = 1,
     .in_order = true},
    {.name = "scsi",
     .type = "vhost-user-scsi",
     .id = 8,
     .pci_class = 0x010000,
     .config_size = 36,
     .queues = 3,
     .config_theirs = true,
     .stateful = true},
    {.name = "gpu",
     .type = "vhost-user-gpu",
     .id = 16,
     .pci_class = 0x038000,
     .config_size = 16,
     .queues = 2,
     .config_theirs = true,
     .stateful = true},
    {.name = "input",
     .type = "vhost-user-input",
     .id = 18,
     .pci_class = 0x090000,
     .config_size = 136,
     .queues = 2,
     .config_theirs = true,
     .stateful = true},
    {.name = "vsock",
     .type = "vhost-user-vsock",
     .id = VIRTIO_ID_VSOCK,
     .pci_class = 0x078000,
     .config_size = 8,
     .queues = 3,
     .config_theirs = true,
     .stateful = true},
    {.name = "sound",
     .type = "vhost-user-sound",
     .id = 25,
     .pci_class = 0x040100,
     .config_size = 12,
     .queues = 4,
     .config_theirs = true,
     .stateful = true},
    {.name = "i2c",
     .type = "vhost-user-i2c",
     .id = 34,
     .pci_class = CLASS_OTHER,
     .queues = 1,
     .stateful = true},
    {.name = "gpio",
     .type = "vhost-user-gpio",
     .id = 41,
     .pci_class = CLASS_OTHER,
     .config_size = 8,
     .queues = 2,
     .config_theirs = true,
     .stateful = true},
};

/* Of any other number: nothing is known of it. */
static const struct vhost_user_type other = {.name = "other",
					     .type = "vhost-user",
					     .pci_class = CLASS_OTHER,
					     .queues = 1,
					     .config_theirs = true,
					     .stateful = true};

const struct vhost_user_type *vhost_user_type_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(types[i].name, name))
			return &types[i];
	return NULL;
}

const struct vhost_user_type *vhost_user_type_numbered(uint16_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].id == id)
			return &types[i];
	return &other;
}
