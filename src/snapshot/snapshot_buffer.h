/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bytes that grow: what a writer puts together before it writes. A shortage of memory is remembered
 * and everything after it ignored, so that only the end needs to look. Integers are big-endian, as
 * QEMU's stream has them.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_BUFFER_H
#define GODWIT_SNAPSHOT_SNAPSHOT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct snapshot_buffer {
	uint8_t *bytes; /* owned; freed with free() */
	size_t size, capacity;
	bool failed;
};

/* Room for @size more bytes, which the caller fills at once, or NULL. */
uint8_t *snapshot_buffer_grow(struct snapshot_buffer *buffer, size_t size);
void snapshot_buffer_put(struct snapshot_buffer *buffer, const void *bytes, size_t size);
void snapshot_buffer_put8(struct snapshot_buffer *buffer, uint8_t value);
void snapshot_buffer_put32(struct snapshot_buffer *buffer, uint32_t value);
void snapshot_buffer_put64(struct snapshot_buffer *buffer, uint64_t value);
/* A name behind its length, one byte. */
void snapshot_buffer_put_name(struct snapshot_buffer *buffer, const char *name);
/* Text, without a NUL. */
void snapshot_buffer_print(struct snapshot_buffer *buffer, const char *format, ...) PRINTF(2, 3);

#endif
