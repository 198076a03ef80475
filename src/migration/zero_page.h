/* SPDX-License-Identifier: BSD-2-Clause */
/* Whether pages are zeros, at the speed of memory. Any thread, no state. */
#ifndef GODWIT_MIGRATION_ZERO_PAGE_H
#define GODWIT_MIGRATION_ZERO_PAGE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Whether all 4096 bytes at @page, which is aligned to 64, are zeros. Somebody may be writing there:
 * the answer is then that of some moment of each byte.
 */
bool page_is_zero(const void *page);
/*
 * The same for up to 64 pages from @pages on: of those in @mask (bit n: the n-th), the ones that are
 * zeros. Others are not looked at.
 */
uint64_t pages_are_zero(const uint8_t *pages, uint64_t mask);

#endif
