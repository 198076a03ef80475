/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes guest memory to the places that a snapshot_writer gives its pages, with several channels:
 * threads that each take the next piece in the order of the file, find the pages that are not zero,
 * compute the checksum, and write. Or sends it as a sequential stream: the threads do the same but
 * take turns at the end, so that one sends while the others prepare what comes next.
 *
 * Two ways. While the guest is paused, pages are written from where they are. While it runs, the
 * image is that of one moment all the same:
 *
 *	ram_save_watch	  guest runs	everything is write-protected; what is written meanwhile is noted
 *	ram_save_protect  guest paused	what was written is protected again: the moment is now
 *	ram_save_run	  guest runs	each piece is copied, made writable, and written from the copy
 *
 * Who writes to a piece that is still protected makes it the next one, and waits only for its copy.
 * Copies live in a pool of fixed size; when it is used up the writer waits for the disk. Memory that
 * is given back to the host meanwhile (balloon, unplug) is copied first. Pages that first appear
 * after the moment were zeros in it.
 *
 * Threads: watch, protect, run and destroy from one; cancel and progress from any. Errors: the disk
 * is full or broken, memory is short: nothing about the guest has changed, and it can go on.
 */
#ifndef GODWIT_MIGRATION_RAM_SAVE_H
#define GODWIT_MIGRATION_RAM_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "memory/userfault.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_send.h"
#include "snapshot/snapshot_writer.h"

#define RAM_SAVE_CHANNELS_MAX 16

struct ram_save;

struct ram_save_options {
	uint32_t channels;		  /* 1 to RAM_SAVE_CHANNELS_MAX */
	bool direct;			  /* as the writer's */
	const struct snapshot_file *base; /* as the writer's; NULL: none */
	/* Where memory goes instead of to a writer, begun before the run; NULL: not. No base then. */
	struct snapshot_sender *sender;
};

/*
 * The RAM blocks of @map in order of guest address, each once, as plans for the writer. Returns how
 * many; at most @maximum are filled in.
 */
uint32_t ram_save_plan(const struct memory_map *map, struct snapshot_block_plan *plans,
		       uint32_t maximum);

/*
 * For the blocks of @map, in the order of ram_save_plan. @map and @writer (NULL with a sender), or
 * the sender, outlive it.
 */
struct error *ram_save_create(const struct memory_map *map, struct snapshot_writer *writer,
			      const struct ram_save_options *options,
			      struct ram_save **save) MUST_CHECK;
/* Stops watching. Accepts NULL. */
void ram_save_destroy(struct ram_save *save);
DEFINE_CLEANUP(ram_save, struct ram_save *, ram_save_destroy)
#define AUTO_RAM_SAVE AUTO(cleanup_ram_save)

/* For a save of a running guest; see above. @userfault outlives the save. */
struct error *ram_save_watch(struct ram_save *save, struct userfault *userfault) MUST_CHECK;
struct error *ram_save_protect(struct ram_save *save) MUST_CHECK;

/* Saves everything; returns when all of it is written (but not synced), or with an error. */
struct error *ram_save_run(struct ram_save *save) MUST_CHECK;
/* Makes ram_save_run return soon, with an error of code ECANCELED; a sender is cancelled as well. */
void ram_save_cancel(struct ram_save *save);

struct ram_save_progress {
	uint64_t total;	 /* bytes of guest memory to look at */
	uint64_t done;	 /* of them */
	uint64_t stored; /* bytes of pages written */
	uint64_t waited; /* pieces that somebody wanted to write to before their turn */
};
void ram_save_progress(const struct ram_save *save, struct ram_save_progress *progress);

#endif
