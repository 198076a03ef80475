/* SPDX-License-Identifier: BSD-2-Clause */
/* The checksum of a chunk, snapshot_checksum.h. Any thread, no state. */
#include "snapshot/snapshot_checksum.h"

#include <string.h>
#include <xxhash.h>

/* A chunk with something in it says so, as a rule, in its first bytes, or soon after. */
static bool is_zero(const uint8_t *bytes, size_t size)
{
	return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

struct snapshot_checksum snapshot_checksum(const void *chunk, size_t size)
{
	struct snapshot_checksum checksum = {};
	XXH128_hash_t hash;

	if (is_zero(chunk, size))
		return checksum;
	hash = XXH3_128bits(chunk, size);
	checksum = (struct snapshot_checksum){.high = hash.high64, .low = hash.low64};
	if (snapshot_checksum_is_zero(checksum))
		checksum.low = 1;
	return checksum;
}
