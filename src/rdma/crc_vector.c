/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CRC-32 by carry-less multiplication: 64 or 256 bytes a step are multiplied to where the next ones are
 * and added to them ("Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009). Moving
 * on by n bits takes two constants: x^(n + 32) and x^(n - 32) modulo the polynomial, reflected, doubled.
 *
 * Runs on any thread of a processor that rdma_crc_vector has approved. Nothing can fail.
 */
#include "rdma/crc_private.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define NARROW __attribute__((target("pclmul,sse4.1")))
#define WIDE   __attribute__((target("pclmul,sse4.1,avx512f,avx512dq,avx512vl,vpclmulqdq")))

#define BY_256 0x01322d1430, 0x011542778a
#define BY_64  0x01c6e41596, 0x0154442bd4
#define BY_48  0x0174359406, 0x003db1ecdc
#define BY_32  0x015a546366, 0x00f1da05aa
#define BY_16  0x00ccaa009e, 0x01751997d0

enum rdma_crc_vector rdma_crc_vector(void)
{
	if (!__builtin_cpu_supports("pclmul") || !__builtin_cpu_supports("sse4.1"))
		return RDMA_CRC_TABLES;
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
		       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq")
		   ? RDMA_CRC_WIDE
		   : RDMA_CRC_NARROW;
}

NARROW static __m128i load(const uint8_t *bytes)
{
	return _mm_loadu_si128((const __m128i *)(const void *)bytes);
}

/* @a moved on by the distance of @constants, and @next added. */
NARROW static __m128i fold(__m128i a, __m128i constants, __m128i next)
{
	__m128i low = _mm_clmulepi64_si128(a, constants, 0x00);
	__m128i high = _mm_clmulepi64_si128(a, constants, 0x11);

	return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/*
 * The register after the 16 bytes of @a: to 64 bits by x^96, to 32 more by x^64, and the rest by Barrett's
 * reduction with the polynomial and its inverse.
 */
NARROW static uint32_t reduce(__m128i a)
{
	const __m128i by_8 = _mm_set_epi64x(0x00ccaa009e, 0),
		      by_4 = _mm_set_epi64x(0, 0x0163cd6124);
	const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
	const __m128i words = _mm_setr_epi32(-1, 0, -1, 0);
	__m128i b = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_8, 0x10));
	__m128i c = _mm_xor_si128(_mm_srli_si128(b, 4),
				  _mm_clmulepi64_si128(_mm_and_si128(b, words), by_4, 0x00));
	__m128i d =
	    _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(c, words), barrett, 0x10), words);

	d = _mm_clmulepi64_si128(d, barrett, 0x00);
	return (uint32_t)_mm_extract_epi32(_mm_xor_si128(c, d), 1);
}

NARROW static uint32_t finish(__m128i a, const uint8_t *bytes, size_t size)
{
	const __m128i by_16 = _mm_set_epi64x(BY_16);

	for (; size >= 16; bytes += 16, size -= 16)
		a = fold(a, by_16, load(bytes));
	return reduce(a);
}

NARROW static uint32_t fold_narrow(uint32_t state, const uint8_t *bytes, size_t size)
{
	const __m128i by_64 = _mm_set_epi64x(BY_64), by_16 = _mm_set_epi64x(BY_16);
	__m128i a = _mm_xor_si128(load(bytes), _mm_cvtsi32_si128((int)state));
	__m128i b = load(bytes + 16), c = load(bytes + 32), d = load(bytes + 48);

	for (bytes += 64, size -= 64; size >= 64; bytes += 64, size -= 64) {
		a = fold(a, by_64, load(bytes));
		b = fold(b, by_64, load(bytes + 16));
		c = fold(c, by_64, load(bytes + 32));
		d = fold(d, by_64, load(bytes + 48));
	}
	return finish(fold(fold(fold(a, by_16, b), by_16, c), by_16, d), bytes, size);
}

/* Four times as wide; each of the four parts of a register moves by the same distance. */
WIDE static __m512i load_wide(const uint8_t *bytes)
{
	return _mm512_loadu_si512(bytes);
}

WIDE static __m512i fold_wide_step(__m512i a, __m512i constants, __m512i next)
{
	__m512i low = _mm512_clmulepi64_epi128(a, constants, 0x00);
	__m512i high = _mm512_clmulepi64_epi128(a, constants, 0x11);

	return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* the sum of all */
}

WIDE static uint32_t fold_wide(uint32_t state, const uint8_t *bytes, size_t size)
{
	const __m512i by_256 = _mm512_broadcast_i32x4(_mm_set_epi64x(BY_256));
	const __m512i by_64 = _mm512_broadcast_i32x4(_mm_set_epi64x(BY_64));
	__m512i a = _mm512_xor_si512(load_wide(bytes),
				     _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state)));
	__m128i last;

	bytes += 64;
	size -= 64;
	if (size >= 192) {
		__m512i b = load_wide(bytes), c = load_wide(bytes + 64), d = load_wide(bytes + 128);

		for (bytes += 192, size -= 192; size >= 256; bytes += 256, size -= 256) {
			a = fold_wide_step(a, by_256, load_wide(bytes));
			b = fold_wide_step(b, by_256, load_wide(bytes + 64));
			c = fold_wide_step(c, by_256, load_wide(bytes + 128));
			d = fold_wide_step(d, by_256, load_wide(bytes + 192));
		}
		a = fold_wide_step(fold_wide_step(fold_wide_step(a, by_64, b), by_64, c), by_64, d);
	}
	for (; size >= 64; bytes += 64, size -= 64)
		a = fold_wide_step(a, by_64, load_wide(bytes));
	last =
	    fold(_mm512_castsi512_si128(a), _mm_set_epi64x(BY_48), _mm512_extracti64x2_epi64(a, 3));
	last = fold(_mm512_extracti64x2_epi64(a, 1), _mm_set_epi64x(BY_32), last);
	last = fold(_mm512_extracti64x2_epi64(a, 2), _mm_set_epi64x(BY_16), last);
	return finish(last, bytes, size);
}

uint32_t rdma_crc_fold(enum rdma_crc_vector vector, uint32_t state, const uint8_t *bytes,
		       size_t size)
{
	return vector == RDMA_CRC_WIDE ? fold_wide(state, bytes, size)
				       : fold_narrow(state, bytes, size);
}
#else
enum rdma_crc_vector rdma_crc_vector(void)
{
	return RDMA_CRC_TABLES;
}

uint32_t rdma_crc_fold(enum rdma_crc_vector vector, uint32_t state, const uint8_t *bytes,
		       size_t size)
{
	return state;
}
#endif
