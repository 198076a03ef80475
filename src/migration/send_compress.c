/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * zstd for records, send_compress.h.
 *
 * Pages may change while they are compressed, which zstd is not made for. Fed in pieces, it copies
 * each into a buffer of its own before it looks at it. It also does not know then how much there will
 * be, so that it uses the same tables each time instead of allocating others.
 */
#include "migration/send_compress.h"

#include <stdlib.h>
#include <zstd.h>

#include "base/checked.h"
#include "migration/ram_table.h"

#define LEVEL	     1
#define WINDOW_LOG   18 /* 256 KiB: pages that are alike are near, and it stays in a cache */
#define SAMPLE_PAGES 2
#define SAMPLE_FROM  8	/* pages; below, trying it is as cheap as a sample */
#define SKIPPED_MAX  32 /* records */
#define OUT_SIZE     ((size_t)2 * WIRE_WINDOW_SIZE)
/* What is gained must be worth the receiver's time. */
#define GOOD(in, out) ((out) <= (in) - (in) / 8)

struct compressor {
	ZSTD_CCtx *context;
	uint8_t *out;
	size_t used;
	uint32_t misses, skipped; /* in a row; records yet to be skipped */
};

void compressor_destroy(struct compressor *compressor)
{
	if (!compressor)
		return;
	ZSTD_freeCCtx(compressor->context);
	free(compressor->out);
	free(compressor);
}

bool compressor_has_room(const struct compressor *compressor, uint32_t pages)
{
	return OUT_SIZE - compressor->used >= ZSTD_compressBound((size_t)pages * WIRE_PAGE);
}

void compressor_reset(struct compressor *compressor)
{
	compressor->used = 0;
}

static bool feed(struct compressor *compressor, ZSTD_outBuffer *out, const uint8_t *bytes,
		 size_t size, ZSTD_EndDirective end)
{
	ZSTD_inBuffer in = {bytes, size, 0};
	size_t left;

	do {
		left = ZSTD_compressStream2(compressor->context, out, &in, end);
		if (ZSTD_isError(left) || (left && out->pos == out->size))
			return false;
	} while (in.pos < in.size || (end == ZSTD_e_end && left));
	return true;
}

/* At most @maximum pages of @mask, spread over it. The frame's size, or 0. */
static size_t compress(struct compressor *compressor, const uint8_t *host,
		       const uint64_t mask[WIRE_WINDOW_WORDS], uint32_t pages, uint32_t maximum)
{
	ZSTD_outBuffer out = {compressor->out + compressor->used, OUT_SIZE - compressor->used, 0};
	uint32_t distance = pages / maximum, seen = 0, taken = 0;

	ZSTD_CCtx_reset(compressor->context, ZSTD_reset_session_only);
	FOR_EACH_WINDOW_RUN (run, mask) {
		const uint8_t *bytes = host + (size_t)run.first * WIRE_PAGE;

		if (maximum >= pages) {
			if (!feed(compressor, &out, bytes, (size_t)run.count * WIRE_PAGE,
				  ZSTD_e_continue))
				return 0;
			continue;
		}
		for (uint32_t page = 0; page < run.count && taken < maximum; page++, seen++)
			if (seen == taken * distance) {
				taken++;
				if (!feed(compressor, &out, bytes + (size_t)page * WIRE_PAGE,
					  WIRE_PAGE, ZSTD_e_continue))
					return 0;
			}
	}
	return feed(compressor, &out, NULL, 0, ZSTD_e_end) ? out.pos : 0;
}

struct error *compressor_create(int level, struct compressor **result)
{
	static const uint8_t page[WIRE_PAGE];
	const uint64_t first[WIRE_WINDOW_WORDS] = {1};
	struct compressor *compressor = calloc(1, sizeof(*compressor));

	if (!compressor)
		return error_system(ENOMEM, "compression");
	compressor->context = ZSTD_createCCtx();
	compressor->out = malloc(OUT_SIZE);
	if (!compressor->context || !compressor->out) {
		compressor_destroy(compressor);
		return error_system(ENOMEM, "compression");
	}
	if (ZSTD_isError(ZSTD_CCtx_setParameter(compressor->context, ZSTD_c_compressionLevel,
						level ?: LEVEL)) ||
	    ZSTD_isError(
		ZSTD_CCtx_setParameter(compressor->context, ZSTD_c_windowLog, WINDOW_LOG))) {
		compressor_destroy(compressor);
		return error_usage("%d is not a level of zstd", level);
	}
	/* The first use allocates the tables. */
	if (!compress(compressor, page, first, 1, 1)) {
		compressor_destroy(compressor);
		return error_system(ENOMEM, "compression");
	}
	*result = compressor;
	return NULL;
}

static const void *missed(struct compressor *compressor)
{
	compressor->misses++;
	compressor->skipped = compressor->misses < 6 ? 1u << compressor->misses : SKIPPED_MAX;
	return NULL;
}

const void *compressor_try(struct compressor *compressor, const uint8_t *host,
			   const uint64_t mask[WIRE_WINDOW_WORDS], uint32_t pages, size_t *size)
{
	const uint8_t *frame = compressor->out + compressor->used;
	size_t in = (size_t)pages * WIRE_PAGE;

	if (compressor->skipped) {
		compressor->skipped--;
		return NULL;
	}
	if (pages >= SAMPLE_FROM) {
		size_t sample = compress(compressor, host, mask, pages, SAMPLE_PAGES);

		if (!sample || !GOOD((size_t)SAMPLE_PAGES * WIRE_PAGE, sample))
			return missed(compressor);
	}
	*size = compress(compressor, host, mask, pages, pages);
	if (!*size || !GOOD(in, *size))
		return missed(compressor);
	compressor->misses = 0;
	compressor->used += *size;
	return frame;
}
