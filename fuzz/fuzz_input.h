/* SPDX-License-Identifier: BSD-2-Clause */
/* Takes a fuzzer's input apart. What is past the end reads as zeros, so every input means
 * something. */
#ifndef GODWIT_FUZZ_FUZZ_INPUT_H
#define GODWIT_FUZZ_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fuzz_input {
	const uint8_t *data;
	size_t left;
};

/* Copies @size bytes; returns how many there were. */
static inline size_t fuzz_take(struct fuzz_input *input, void *buffer, size_t size)
{
	size_t there = size < input->left ? size : input->left;

	memset(buffer, 0, size);
	if (there)
		memcpy(buffer, input->data, there);
	input->data += there;
	input->left -= there;
	return there;
}

static inline uint8_t fuzz_take8(struct fuzz_input *input)
{
	uint8_t value;

	fuzz_take(input, &value, sizeof(value));
	return value;
}

static inline uint16_t fuzz_take16(struct fuzz_input *input)
{
	uint16_t value;

	fuzz_take(input, &value, sizeof(value));
	return value;
}

static inline uint32_t fuzz_take32(struct fuzz_input *input)
{
	uint32_t value;

	fuzz_take(input, &value, sizeof(value));
	return value;
}

static inline uint64_t fuzz_take64(struct fuzz_input *input)
{
	uint64_t value;

	fuzz_take(input, &value, sizeof(value));
	return value;
}

#endif
