/* SPDX-License-Identifier: BSD-2-Clause */
/* Sizes as people write them: a whole number with an optional K, M, G or T (powers of 1024). */
#ifndef GODWIT_BASE_SIZE_H
#define GODWIT_BASE_SIZE_H

#include <stdint.h>

#include "base/error.h"

/* Parses all of @text into *@bytes; an error names the text. A suffix may be followed by "iB" or "B". */
struct error *size_parse(const char *text, uint64_t *bytes) MUST_CHECK;
/* Parses all of @text, decimal or 0x-hexadecimal, at most @maximum, into *@number. */
struct error *number_parse(const char *text, uint64_t maximum, uint64_t *number) MUST_CHECK;

#define SIZE_TEXT_MAX 32
/* Writes @bytes exactly, with the largest suffix that divides it ("1536M"); returns @text. */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);
/* Writes @bytes rounded to three digits for tables ("1.50 GiB"); returns @text. */
const char *size_format_human(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
