/* SPDX-License-Identifier: BSD-2-Clause */
/* The queues of virtio-console, with a socket pair's worth of input that waits for the guest's
 * buffers. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "virtio/console.h"
#include "virtio_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_device *device;
	struct chardev *backend;
	struct virtio_fuzz fuzz;
	char input[1000];
	int fd;

	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(chardev_create("pty", &backend));
	fd = open(chardev_name(backend) + strlen("pty:"), O_RDWR | O_NOCTTY | O_NONBLOCK);
	memset(input, 'x', sizeof(input));
	if (fd < 0 || write(fd, input, sizeof(input)) < 0)
		return 0;
	virtio_fuzz_check(virtio_console_create("console", backend, &device));
	virtio_fuzz_run(&fuzz, device, data, size);
	virtio_fuzz_teardown(&fuzz);
	close(fd);
	return 0;
}
