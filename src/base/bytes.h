/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fixed-width integers in a byte buffer, little- or big-endian by name. Wire, file and guest
 * formats go through these and never through a struct's memory. Pointers need no alignment.
 */
#ifndef GODWIT_BASE_BYTES_H
#define GODWIT_BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define DEFINE_BYTE_CODEC(width, order)                                                            \
	static inline uint##width##_t get_##order##width(const void *bytes)                        \
	{                                                                                          \
		uint##width##_t raw;                                                               \
		memcpy(&raw, bytes, sizeof(raw));                                                  \
		return order##width##toh(raw);                                                     \
	}                                                                                          \
	static inline void put_##order##width(void *bytes, uint##width##_t value)                  \
	{                                                                                          \
		uint##width##_t raw = hto##order##width(value);                                    \
		memcpy(bytes, &raw, sizeof(raw));                                                  \
	}

DEFINE_BYTE_CODEC(16, le)
DEFINE_BYTE_CODEC(32, le)
DEFINE_BYTE_CODEC(64, le)
DEFINE_BYTE_CODEC(16, be)
DEFINE_BYTE_CODEC(32, be)
DEFINE_BYTE_CODEC(64, be)

#endif
