/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Giving plugged guest memory back to the host although it stays plugged: the guest says that it
 * does not need the contents (balloon, free page reporting), and gets zeros and new pages when it
 * touches it again.
 *
 * Only what is plugged RAM is touched, whatever the guest asks for, and only whole pages of the
 * backing. Memory that the host has committed (huge pages from a pool, blocks of a file) is kept
 * unless the caller says otherwise: given back, somebody else may take it, and the guest's next
 * access to it would end the VM.
 */
#ifndef GODWIT_MEMORY_MEMORY_DISCARD_H
#define GODWIT_MEMORY_MEMORY_DISCARD_H

#include "memory/memory_map.h"

/* Bytes, summed up over calls. */
struct memory_discard_count {
	uint64_t discarded; /* given back */
	uint64_t kept;	    /* parts of larger pages, committed memory, or the host refused */
	uint64_t absent;    /* not plugged RAM */
};

/*
 * Discards what of [address, address + size), both multiples of 4 KiB, is plugged. @committed: also
 * memory that the host has committed. Opens its own read section, so that an unplug of the range
 * waits. Any thread, but no two at a time on the same range.
 */
void memory_discard(struct memory_map *map, uint64_t address, uint64_t size, bool committed,
		    struct memory_discard_count *count);
/* The same for a span that the accessor gave out, inside its read section; need not be aligned. */
void memory_discard_span(struct memory_map *map, const struct memory_span *span, bool committed,
			 struct memory_discard_count *count);

#endif
