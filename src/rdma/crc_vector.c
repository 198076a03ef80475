/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CRC-32 by carry-less multiplication: 64 bytes a step are multiplied to where the next 64 are and
 * added to them ("Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009; the
 * constants are x^n modulo the polynomial, reflected, for n = 512 + 32, 512 - 32, 128 + 32, 128 - 32).
 *
 * Runs on any thread of a processor that rdma_crc_can_fold has approved. Nothing can fail.
 */
#include "rdma/crc_private.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FOLDS __attribute__((target("pclmul,sse4.1")))

bool rdma_crc_can_fold(void)
{
	return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

FOLDS static __m128i load(const uint8_t *bytes)
{
	return _mm_loadu_si128((const __m128i *)(const void *)bytes);
}

/* @a moved on by the distance of @constants, and @next added. */
FOLDS static __m128i fold(__m128i a, __m128i constants, __m128i next)
{
	__m128i low = _mm_clmulepi64_si128(a, constants, 0x00);
	__m128i high = _mm_clmulepi64_si128(a, constants, 0x11);

	return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

FOLDS void rdma_crc_fold(uint32_t state, const uint8_t *bytes, size_t size, uint8_t folded[16])
{
	const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
	const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
	__m128i a = _mm_xor_si128(load(bytes), _mm_cvtsi32_si128((int)state));
	__m128i b = load(bytes + 16), c = load(bytes + 32), d = load(bytes + 48);

	for (bytes += 64, size -= 64; size >= 64; bytes += 64, size -= 64) {
		a = fold(a, by_64, load(bytes));
		b = fold(b, by_64, load(bytes + 16));
		c = fold(c, by_64, load(bytes + 32));
		d = fold(d, by_64, load(bytes + 48));
	}
	a = fold(fold(fold(a, by_16, b), by_16, c), by_16, d);
	for (; size >= 16; bytes += 16, size -= 16)
		a = fold(a, by_16, load(bytes));
	_mm_storeu_si128((__m128i *)(void *)folded, a);
}
#else
bool rdma_crc_can_fold(void)
{
	return false;
}

void rdma_crc_fold(uint32_t state, const uint8_t *bytes, size_t size, uint8_t folded[16])
{
}
#endif
