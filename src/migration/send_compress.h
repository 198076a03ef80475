/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compresses pages for the wire, where that is worth it: a record's content is tried on a few pages
 * first, and when nothing is gained, the next records are not even tried for a while.
 *
 * Threads: one a struct. Nothing is allocated after the creation.
 */
#ifndef GODWIT_MIGRATION_SEND_COMPRESS_H
#define GODWIT_MIGRATION_SEND_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "migration/wire.h"

struct compressor;

/* @level: of zstd; 0: the fastest that is worth it. */
struct error *compressor_create(int level, struct compressor **compressor) MUST_CHECK;
/* Accepts NULL. */
void compressor_destroy(struct compressor *compressor);

/* Whether there is room for another record of @pages; if not, compressor_reset makes some. */
bool compressor_has_room(const struct compressor *compressor, uint32_t pages);
/* What was returned so far is not needed any more. */
void compressor_reset(struct compressor *compressor);
/*
 * The pages in @mask of the window at @host, together: their frame, valid until the reset, or NULL
 * when they are better sent as they are. Pages may change meanwhile.
 */
const void *compressor_try(struct compressor *compressor, const uint8_t *host,
			   const uint64_t mask[WIRE_WINDOW_WORDS], uint32_t pages, size_t *size);

#endif
