/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What another process says that it hands over: read, and descriptors looked for in it, none of
 * which is used.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/machine_hand.h"
#include "virtio/handed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool look(void *context, int fd)
{
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("document", MFD_CLOEXEC), fds[4];
	json_t *handed, *device;
	struct error *error;
	size_t index;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
		close(fd);
		return 0;
	}
	error = machine_hand_read(fd, &handed);
	if (error) {
		error_free(error);
		return 0;
	}
	handed_each(handed, look, NULL);
	handed_take(handed, "name");
	json_array_foreach (json_object_get(handed, "devices"), index, device) {
		handed_take(device, "file");
		handed_take_list(device, "queues", fds, 4);
	}
	json_decref(handed);
	return 0;
}
