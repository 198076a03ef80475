/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzing a virtqueue alone: the input is the contents of its rings and what both sides do. */
#ifndef GODWIT_FUZZ_VIRTQUEUE_FUZZ_H
#define GODWIT_FUZZ_VIRTQUEUE_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void virtqueue_fuzz_run(bool packed, const uint8_t *data, size_t size);

#endif
