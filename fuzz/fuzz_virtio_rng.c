/* SPDX-License-Identifier: BSD-2-Clause */
/* The requests of virtio-rng, and with it all of the common device code. */
#include "virtio/rng.h"
#include "virtio_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_device *device;
	struct virtio_fuzz fuzz;

	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_rng_create("rng", &device));
	virtio_fuzz_run(&fuzz, device, data, size);
	virtio_fuzz_teardown(&fuzz);
	return 0;
}
