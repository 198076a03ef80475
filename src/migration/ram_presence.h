/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages of a RAM block may hold something other than zeros, found out without touching them:
 * looking at a page that is not there would make the host provide one. Pages that the host has
 * swapped out count as present.
 *
 * Threads: one a struct; several may look at one block.
 */
#ifndef GODWIT_MIGRATION_RAM_PRESENCE_H
#define GODWIT_MIGRATION_RAM_PRESENCE_H

#include <stdint.h>

#include "base/error.h"
#include "memory/ram_block.h"

struct ram_presence;

struct error *ram_presence_create(struct ram_presence **presence) MUST_CHECK;
void ram_presence_destroy(struct ram_presence *presence);
DEFINE_CLEANUP(ram_presence, struct ram_presence *, ram_presence_destroy)
#define AUTO_RAM_PRESENCE AUTO(cleanup_ram_presence)

/*
 * Bit n of the answer: the n-th page of 4 KiB from @offset, which is a multiple of 256 KiB, may
 * hold something. Pages past the end of the block: 0. What appears during the call may be missing.
 */
uint64_t ram_presence_chunk(struct ram_presence *presence, const struct ram_block *block,
			    uint64_t offset);
/* Forgets what was looked up ahead: call when pages may have appeared since. */
void ram_presence_forget(struct ram_presence *presence);

#endif
