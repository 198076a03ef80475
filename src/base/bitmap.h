/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bitmaps over 64-bit words, bit n in word n / 64 at position n % 64.
 *
 * A bitmap is a plain word array with its length in bits held by the owner; nothing here locks.
 * Positions and counts are in bits; ranges must lie inside the bitmap.
 */
#ifndef GODWIT_BASE_BITMAP_H
#define GODWIT_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t bitmap_words(size_t bits)
{
	return bits / 64 + !!(bits % 64);
}

/* A zeroed bitmap of @bits, to be freed with free(); NULL when memory is short. */
uint64_t *bitmap_create(size_t bits);

static inline bool bitmap_test(const uint64_t *map, size_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

void bitmap_set_range(uint64_t *map, size_t first, size_t count);
void bitmap_clear_range(uint64_t *map, size_t first, size_t count);
/* The first set (clear) bit at or after @from and before @end, or @end. */
size_t bitmap_next_set(const uint64_t *map, size_t from, size_t end);
size_t bitmap_next_clear(const uint64_t *map, size_t from, size_t end);
/* Sets in @map at @first and on those bits that are set in the first @count of @from. */
void bitmap_or_range(uint64_t *map, size_t first, const uint64_t *from, size_t count);
/* The number of set bits in the range. */
size_t bitmap_count_range(const uint64_t *map, size_t first, size_t count);

static inline bool bitmap_all_set(const uint64_t *map, size_t first, size_t count)
{
	return bitmap_next_clear(map, first, first + count) == first + count;
}

static inline bool bitmap_all_clear(const uint64_t *map, size_t first, size_t count)
{
	return bitmap_next_set(map, first, first + count) == first + count;
}

#endif
