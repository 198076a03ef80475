/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Zero pages, zero_page.h, with the widest vectors that the processor has.
 *
 * A page with something in it mostly says so in its first bytes, so these are looked at alone; a
 * page of zeros is read once, 256 bytes between two decisions. (snapshot_checksum.c compares with
 * memcmp, which reads everything twice.)
 */
#include "migration/zero_page.h"

#include <immintrin.h>
#include <stddef.h>

#define PAGE   4096
#define STRIDE 256
#define AHEAD  6 /* pages */

static bool is_zero_sse2(const uint8_t *bytes)
{
	const __m128i *vectors = (const __m128i *)(const void *)bytes;

	for (size_t i = 0; i < PAGE / sizeof(*vectors); i += STRIDE / sizeof(*vectors)) {
		__m128i sum = _mm_load_si128(&vectors[i]);

		for (size_t j = 1; j < STRIDE / sizeof(*vectors); j++)
			sum = _mm_or_si128(sum, _mm_load_si128(&vectors[i + j]));
		if (_mm_movemask_epi8(_mm_cmpeq_epi8(sum, _mm_setzero_si128())) != 0xffff)
			return false;
	}
	return true;
}

__attribute__((target("avx2"))) static bool is_zero_avx2(const uint8_t *bytes)
{
	const __m256i *vectors = (const __m256i *)(const void *)bytes;

	for (size_t i = 0; i < PAGE / sizeof(*vectors); i += STRIDE / sizeof(*vectors)) {
		__m256i sum = _mm256_load_si256(&vectors[i]);

		for (size_t j = 1; j < STRIDE / sizeof(*vectors); j++)
			sum = _mm256_or_si256(sum, _mm256_load_si256(&vectors[i + j]));
		if (!_mm256_testz_si256(sum, sum))
			return false;
	}
	return true;
}

bool page_is_zero(const void *page)
{
	const uint64_t *words = page;

	/* First one line of the cache alone: who sends the page needs it next. */
	if ((words[0] | words[1]) || (words[PAGE / 16] | words[PAGE / 8 - 1]))
		return false;
	return __builtin_cpu_supports("avx2") ? is_zero_avx2(page) : is_zero_sse2(page);
}

uint64_t pages_are_zero(const uint8_t *pages, uint64_t mask)
{
	uint64_t zeros = 0;

	for (; mask; mask &= mask - 1) {
		int page = __builtin_ctzll(mask);

		/* Mostly one line decides, and the processor does not foresee that of the next page. */
		__builtin_prefetch(pages + ((size_t)page + AHEAD) * PAGE);
		if (page_is_zero(pages + (size_t)page * PAGE))
			zeros |= 1ULL << page;
	}
	return zeros;
}
