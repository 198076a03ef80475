/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves of virtio_fuzz.h that a target makes up itself, of an input that means something more particular: a list to
 * which bytes are added while they fit.
 */
#ifndef GODWIT_FUZZ_FUZZ_MOVES_H
#define GODWIT_FUZZ_FUZZ_MOVES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FUZZ_MOVES_MAX 65536U

struct moves {
	uint8_t bytes[FUZZ_MOVES_MAX];
	size_t used;
};

static inline void put(struct moves *moves, const void *bytes, size_t size)
{
	if (size > FUZZ_MOVES_MAX - moves->used)
		return;
	memcpy(moves->bytes + moves->used, bytes, size);
	moves->used += size;
}

static inline void put8(struct moves *moves, uint8_t byte)
{
	put(moves, &byte, 1);
}

#endif
