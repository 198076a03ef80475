/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one table of devices: which constructor makes what the user asks for. A device that is not
 * here does not exist. Runs on the main thread while the machine is built; each constructor reads
 * its own option text.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "machine/machine_private.h"
#if __has_include("virtio/blk.h")
#include "virtio/blk.h"
#define HAVE_BLK
#endif

struct device_kind {
	const char *kind;
	/* @text is what follows --disk and so on, NULL if the machine itself adds the device. */
	struct error *(*create)(struct machine *machine, const char *text, uint32_t index,
				struct virtio_device **device);
};

static const struct device_kind device_kinds[] = {
    {0},
};

struct error *device_table_create(struct machine *machine,
				  const struct machine_device_config *config, uint32_t index,
				  struct virtio_device **device)
{
	for (size_t i = 0; i < sizeof(device_kinds) / sizeof(device_kinds[0]); i++)
		if (device_kinds[i].kind && !strcmp(device_kinds[i].kind, config->kind))
			return error_prefix(
			    device_kinds[i].create(machine, config->text, index, device), "--%s %s",
			    config->kind, config->text ?: "");
	return error_usage("there is no device of the kind '%s'", config->kind);
}
