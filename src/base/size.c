/* SPDX-License-Identifier: BSD-2-Clause */
/* Parsing and printing of sizes; what a user typed is never trusted to fit. */
#include "base/size.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"

static const char suffixes[] = "KMGTP";

struct error *number_parse(const char *text, uint64_t maximum, uint64_t *number)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
	if (!isdigit((unsigned char)text[0]) || *end)
		return error_usage("'%s' is not a whole number", text);
	if (errno == ERANGE || value > maximum)
		return error_usage("'%s' is too large: at most %" PRIu64, text, maximum);
	*number = value;
	return NULL;
}

struct error *size_parse(const char *text, uint64_t *bytes)
{
	unsigned long long value;
	uint64_t unit = 1;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || errno == ERANGE)
		return error_usage("'%s' is not a size: write a number and K, M, G or T", text);
	if (*end) {
		const char *suffix = strchr(suffixes, toupper((unsigned char)*end));

		if (!suffix)
			return error_usage("'%s' is not a size: write a number and K, M, G or T",
					   text);
		unit = 1ULL << (10 * (suffix - suffixes + 1));
		end++;
		if (*end && strcasecmp(end, "b") != 0 && strcasecmp(end, "ib") != 0)
			return error_usage("'%s' is not a size: write a number and K, M, G or T",
					   text);
	}
	if (!checked_mul(value, unit, bytes))
		return error_usage("'%s' is too large a size", text);
	return NULL;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	int unit = 0;

	while (bytes && !(bytes & 1023) && unit < 4) {
		bytes >>= 10;
		unit++;
	}
	if (unit)
		snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 "%c", bytes, suffixes[unit - 1]);
	else
		snprintf(text, SIZE_TEXT_MAX, "%" PRIu64, bytes);
	return text;
}

const char *size_format_human(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	double value = (double)bytes;
	int unit = 0;

	while (value >= 1000 && unit < 5) {
		value /= 1024;
		unit++;
	}
	if (!unit)
		snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 " B", bytes);
	else
		snprintf(text, SIZE_TEXT_MAX, "%.*f %ciB",
			 value < 10    ? 2
			 : value < 100 ? 1
				       : 0,
			 value, suffixes[unit - 1]);
	return text;
}
