/* SPDX-License-Identifier: BSD-2-Clause */
/* Word-wise bitmap operations; the contracts are in bitmap.h. */
#include "base/bitmap.h"

#include <stdlib.h>

uint64_t *bitmap_create(size_t bits)
{
	return calloc(bitmap_words(bits) ?: 1, sizeof(uint64_t));
}

/* The bits of word @word that lie in [first, end); the range touches that word. */
static uint64_t word_mask(size_t word, size_t first, size_t end)
{
	uint64_t mask = ~0ULL;

	if (word == first / 64)
		mask &= ~0ULL << (first % 64);
	if (word == end / 64)
		mask &= (1ULL << (end % 64)) - 1;
	return mask;
}

void bitmap_set_range(uint64_t *map, size_t first, size_t count)
{
	for (size_t word = first / 64; count && word <= (first + count - 1) / 64; word++)
		map[word] |= word_mask(word, first, first + count);
}

void bitmap_clear_range(uint64_t *map, size_t first, size_t count)
{
	for (size_t word = first / 64; count && word <= (first + count - 1) / 64; word++)
		map[word] &= ~word_mask(word, first, first + count);
}

/* The first bit in [from, end) whose value, after flipping with @flip, is set. */
static size_t next_bit(const uint64_t *map, size_t from, size_t end, uint64_t flip)
{
	if (from >= end)
		return end;
	for (size_t word = from / 64; word <= (end - 1) / 64; word++) {
		uint64_t bits = (map[word] ^ flip) & word_mask(word, from, end);

		if (bits)
			return word * 64 + (size_t)__builtin_ctzll(bits);
	}
	return end;
}

size_t bitmap_next_set(const uint64_t *map, size_t from, size_t end)
{
	return next_bit(map, from, end, 0);
}

size_t bitmap_next_clear(const uint64_t *map, size_t from, size_t end)
{
	return next_bit(map, from, end, ~0ULL);
}

size_t bitmap_count_range(const uint64_t *map, size_t first, size_t count)
{
	size_t total = 0;

	for (size_t word = first / 64; count && word <= (first + count - 1) / 64; word++)
		total +=
		    (size_t)__builtin_popcountll(map[word] & word_mask(word, first, first + count));
	return total;
}

void bitmap_or_range(uint64_t *map, size_t first, const uint64_t *from, size_t count)
{
	size_t word = first / 64, shift = first % 64;

	for (size_t done = 0; done < count; done += 64, word++) {
		uint64_t bits = from[done / 64];

		if (count - done < 64)
			bits &= (1ULL << (count - done)) - 1;
		if (!bits)
			continue;
		map[word] |= bits << shift;
		if (shift && bits >> (64 - shift))
			map[word + 1] |= bits >> (64 - shift);
	}
}
