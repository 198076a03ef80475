/* SPDX-License-Identifier: BSD-2-Clause */
/* The queues of virtio-balloon: inflating, reporting, statistics. */
#include "base/checked.h"
#include "virtio/balloon.h"
#include "virtio_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_balloon_statistics statistics;
	struct virtio_device *device;
	struct virtio_fuzz fuzz;

	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_balloon_create(NULL, &device));
	/* Due at every turn of the loop. */
	virtio_balloon_set_interval(device, 1);
	virtio_balloon_set_target(device, MIB(1));
	virtio_balloon_statistics(device, &statistics);
	virtio_fuzz_run(&fuzz, device, data, size);
	virtio_fuzz_teardown(&fuzz);
	return 0;
}
