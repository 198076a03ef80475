/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arithmetic on sizes and addresses that come from outside. Every helper returns false, and leaves
 * the result untouched, when the true result does not fit; nothing here wraps silently.
 */
#ifndef GODWIT_BASE_CHECKED_H
#define GODWIT_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))

static inline MUST_USE bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
	uint64_t result;

	if (__builtin_add_overflow(a, b, &result))
		return false;
	*sum = result;
	return true;
}

static inline MUST_USE bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
	uint64_t result;

	if (__builtin_mul_overflow(a, b, &result))
		return false;
	*product = result;
	return true;
}

static inline bool is_power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

/* @alignment is a power of two in all of these. */
static inline bool is_aligned(uint64_t value, uint64_t alignment)
{
	return !(value & (alignment - 1));
}

static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
	return value & ~(alignment - 1);
}

static inline MUST_USE bool checked_align_up(uint64_t value, uint64_t alignment, uint64_t *aligned)
{
	uint64_t sum;

	if (!checked_add(value, alignment - 1, &sum))
		return false;
	*aligned = align_down(sum, alignment);
	return true;
}

/* True if [start, start + size) lies in [outer_start, outer_start + outer_size), without overflow. */
static inline bool range_contains(uint64_t outer_start, uint64_t outer_size, uint64_t start,
				  uint64_t size)
{
	return start >= outer_start && size <= outer_size &&
	       start - outer_start <= outer_size - size;
}

/* True if the two ranges, neither of which wraps, share at least one byte. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a_size && b_size && (a >= b ? a - b < b_size : b - a < a_size);
}

#define MIN(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define MAX(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(pointer, type, member)                                                        \
	((type *)(void *)((char *)(pointer) - __builtin_offsetof(type, member)))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define TIB(n) ((uint64_t)(n) << 40)

#endif
