/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CRC-32 by tables, eight bytes a step, and the arithmetic of polynomials beneath it.
 *
 * Runs on any thread: tables are written by rdma_crc_init alone. Nothing can fail. A polynomial is an
 * uint32_t with x^0 in its highest bit, modulo the polynomial of the CRC.
 */
#include "rdma/crc.h"

#include "base/bytes.h"
#include "rdma/crc_private.h"

#define POLYNOMIAL 0xedb88320U
#define ONE	   (1U << 31)

static uint32_t times_x(uint32_t a)
{
	return a & 1 ? a >> 1 ^ POLYNOMIAL : a >> 1;
}

static uint32_t times(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = ONE; bit; bit >>= 1) {
		if (a & bit)
			product ^= b;
		b = times_x(b);
	}
	return product;
}

void rdma_crc_init(struct rdma_crc *crc, bool vector)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t state = i;

		for (int bit = 0; bit < 8; bit++)
			state = times_x(state);
		crc->slices[0][i] = state;
	}
	for (uint32_t i = 0; i < 256; i++) {
		for (int slice = 1; slice < 8; slice++) {
			uint32_t before = crc->slices[slice - 1][i];

			crc->slices[slice][i] = before >> 8 ^ crc->slices[0][before & 0xff];
		}
	}
	crc->powers[0] = ONE >> 1;
	for (int i = 1; i < 32; i++)
		crc->powers[i] = times(crc->powers[i - 1], crc->powers[i - 1]);
	crc->vector = vector ? rdma_crc_vector() : RDMA_CRC_TABLES;
}

static uint32_t update_by_tables(const struct rdma_crc *crc, uint32_t state, const uint8_t *bytes,
				 size_t size)
{
	const uint32_t(*slices)[256] = crc->slices;

	for (; size >= 8; size -= 8, bytes += 8) {
		uint32_t low = get_le32(bytes) ^ state, high = get_le32(bytes + 4);

		state = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^
			slices[5][low >> 16 & 0xff] ^ slices[4][low >> 24] ^
			slices[3][high & 0xff] ^ slices[2][high >> 8 & 0xff] ^
			slices[1][high >> 16 & 0xff] ^ slices[0][high >> 24];
	}
	if (size >= 4) {
		uint32_t low = get_le32(bytes) ^ state;

		state = slices[3][low & 0xff] ^ slices[2][low >> 8 & 0xff] ^
			slices[1][low >> 16 & 0xff] ^ slices[0][low >> 24];
		size -= 4;
		bytes += 4;
	}
	for (; size; size--)
		state = state >> 8 ^ slices[0][(state ^ *bytes++) & 0xff];
	return state;
}

uint32_t rdma_crc_update(const struct rdma_crc *crc, uint32_t state, const void *bytes, size_t size)
{
	const uint8_t *next = bytes;

	if (crc->vector != RDMA_CRC_TABLES && size >= RDMA_CRC_FOLD_MIN) {
		size_t whole = size & ~(size_t)15;

		state = rdma_crc_fold(crc->vector, state, next, whole);
		next += whole;
		size -= whole;
	}
	return update_by_tables(crc, state, next, size);
}

uint32_t rdma_crc_rewind_factor(const struct rdma_crc *crc, uint32_t zero_bytes)
{
	/* The polynomial is primitive: x^(2^32 - 1) is 1, so that x^-n is x^(2^32 - 1 - n). */
	uint32_t exponent = UINT32_MAX - zero_bytes * 8, power = ONE;

	for (int i = 0; exponent; i++, exponent >>= 1) {
		if (exponent & 1)
			power = times(power, crc->powers[i]);
	}
	return power;
}

uint32_t rdma_crc_rewind(uint32_t difference, uint32_t factor)
{
	return times(difference, factor);
}
