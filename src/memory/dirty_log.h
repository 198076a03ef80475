/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages of guest memory have been written since they were last asked for. Whoever copies the
 * memory of a running guest (a migration) starts the log, collects, copies, and collects again.
 *
 * A write is seen in one of two ways. Those of this process's own devices are marked by who makes
 * them (memory_written, memory_write, virtqueues), here. Those of others are seen by *sources*: KVM for
 * the processors (kvm/dirty_slots.h), later back-ends in other processes and devices of the host.
 *
 * Nothing is lost. A writer writes first and then marks, with one atomic OR; the collector takes the
 * marks with an atomic exchange and copies the page afterwards. If the OR comes before the exchange,
 * the exchange sees it, and with it what was written before, so the copy has it (release, acquire).
 * If it comes after, the mark stays for the next time. Hence a writer must not look first whether
 * the mark is there already and save the OR: it might look before an exchange while what it wrote is
 * still on its way to memory, and the copy would miss both.
 *
 * What the host's kernel writes for a device (io_uring, readv) is marked when the device has seen the
 * completion, before the driver is told. In between a copy may have half of it; it is then copied
 * again. The last copy is made of a machine whose devices are quiet: nothing is under way.
 *
 * While the log is off, a writer pays for one load and one branch, and for no barrier. What keeps
 * a write from slipping through as the log is switched on is a barrier that the starting thread
 * imposes on all others (membarrier): a writer that still saw the log off had written before it.
 *
 * Elastic memory. What is unplugged is never reported. Memory that is plugged, or stays plugged because
 * an unplug was refused, counts as written, all of it; so does what is given back while it is
 * plugged (memory_discard.h), for it then reads as zeros.
 *
 * A page is 4 KiB, whatever the host uses; bit n is page n of the RAM block.
 *
 * Threads: memory_written from any, inside the read section that the memory was found in. Start, stop
 * and sources from any, one after the other (a lock); collecting likewise, dirty_log_before_copy from
 * several at once.
 */
#ifndef GODWIT_MEMORY_DIRTY_LOG_H
#define GODWIT_MEMORY_DIRTY_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"

#define DIRTY_PAGE_SIZE 4096ULL

/* One who sees writes that this process does not make itself. The owner embeds it. */
struct dirty_source {
	/* From the return on, writes are seen. */
	struct error *(*start)(struct dirty_source *source);
	void (*stop)(struct dirty_source *source);
	/*
	 * Sets in @pages the pages of @block written since they were last collected. They may be
	 * reported again and again until before_copy.
	 */
	struct error *(*collect)(struct dirty_source *source, const struct ram_block *block,
				 uint64_t *pages);
	/*
	 * Of the pages [first, first + count), those that were collected are about to be copied: a
	 * write after the return is seen anew. Others keep their marks. May be NULL.
	 */
	struct error *(*before_copy)(struct dirty_source *source, const struct ram_block *block,
				     uint64_t first, uint64_t count);
	struct dirty_source *next; /* private to the log */
};

/* For memory_map.c, which owns the log of its map. The log keeps in *@on, atomically, whether it is on. */
struct error *dirty_log_create(struct memory_map *map, bool *on, struct dirty_log **log) MUST_CHECK;
void dirty_log_destroy(struct dirty_log *log);

/* While the log is off. @source is told of starts and stops until it is removed. */
void dirty_log_add_source(struct dirty_log *log, struct dirty_source *source);
/* Stops the source if the log is on. */
void dirty_log_remove_source(struct dirty_log *log, struct dirty_source *source);

/*
 * Starts the log: from the return on every write is seen, and all that is plugged counts as written
 * (so the first collection says what there is to copy). An error if it is on already, or if memory
 * is short (a bit for each page), or what a source says; it is then off. Blocks of regions that are
 * added later are not logged.
 */
struct error *dirty_log_start(struct dirty_log *log) MUST_CHECK;
/* Idempotent. */
void dirty_log_stop(struct dirty_log *log);
bool dirty_log_is_on(const struct dirty_log *log);

/* The words (of 64 pages) of a bitmap of @block's pages. */
static inline size_t dirty_log_words(const struct ram_block *block)
{
	return (block->size / DIRTY_PAGE_SIZE + 63) / 64;
}

/*
 * Adds to @pages, a bitmap of dirty_log_words(@block), the pages written since they were last
 * collected, and takes out of it all that is not plugged now. On an error the marks that were taken
 * are in @pages, but there may be others: the copy cannot become complete, and the log is to be
 * stopped.
 *
 * What is reported may be unplugged at the next moment: who copies asks again inside a read section
 * (memory_access), or is told by the block (ram_block_watch).
 */
struct error *dirty_log_collect(struct dirty_log *log, const struct ram_block *block,
				uint64_t *pages) MUST_CHECK;
/*
 * Must come between the collection of pages and reading them, for a range of pages that holds them;
 * any that are set in @pages of the collection and lie in the range are to be copied afterwards.
 * As late as possible: a page that is written again before costs nothing. Without it pages are
 * reported for ever. On an error the copy cannot become complete.
 */
struct error *dirty_log_before_copy(struct dirty_log *log, const struct ram_block *block,
				    uint64_t first, uint64_t count) MUST_CHECK;

/* Marks, whether the log is on or not: memory_written is for everybody else. */
void dirty_log_mark(struct dirty_log *log, const uint8_t *host, size_t size);

#endif
