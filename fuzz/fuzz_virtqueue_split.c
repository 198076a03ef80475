/* SPDX-License-Identifier: BSD-2-Clause */
/* A split virtqueue against rings of random bytes. */
#include "virtqueue_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	virtqueue_fuzz_run(false, data, size);
	return 0;
}
