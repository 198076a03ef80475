/* SPDX-License-Identifier: BSD-2-Clause */
/* The checksum of a chunk of guest memory: XXH3, 128 bits, over its content. */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_CHECKSUM_H
#define GODWIT_SNAPSHOT_SNAPSHOT_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct snapshot_checksum {
	uint64_t high, low; /* both 0: every byte is zero, and only then */
};

/*
 * Of @size bytes. A chunk of zeros has the value zero, whoever computes it; one whose hash happens
 * to be zero has {0, 1}. Runs at the speed of memory, looks at zeros twice.
 */
struct snapshot_checksum snapshot_checksum(const void *chunk, size_t size);

static inline bool snapshot_checksum_is_zero(struct snapshot_checksum checksum)
{
	return !checksum.high && !checksum.low;
}

static inline bool snapshot_checksum_equal(struct snapshot_checksum a, struct snapshot_checksum b)
{
	return a.high == b.high && a.low == b.low;
}

#endif
