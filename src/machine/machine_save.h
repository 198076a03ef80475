/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving a machine into a snapshot file, or as a sequential stream (docs/snapshot-format.md), while
 * it is paused or, as it is at one moment, while it runs.
 *
 * Main thread. The work is done by a thread of the save's own, which tells the main loop.
 */
#ifndef GODWIT_MACHINE_MACHINE_SAVE_H
#define GODWIT_MACHINE_MACHINE_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/channel.h"
#include "base/error.h"
#include "machine/machine.h"
#include "snapshot/snapshot_direct.h"

struct machine_save_options {
	const char *path; /* a name for the file, or for messages about the stream */
	/*
	 * Where the snapshot goes as a sequential stream instead of into a file, taken over by
	 * machine_save_start also on error; NULL: into a file. One channel then, not direct, no base.
	 */
	struct channel *stream;
	uint32_t channels;	     /* 1 to RAM_SAVE_CHANNELS_MAX */
	enum snapshot_direct direct; /* of the pages */
	bool live;		     /* the guest runs on meanwhile */
	const char *base;	     /* a snapshot whose pages need not be written again, or NULL */
};

struct machine_save_progress {
	uint64_t total, done; /* bytes of guest memory looked at */
	uint64_t stored;      /* bytes of pages written */
	uint64_t waited;      /* pieces of memory that somebody wrote to before their turn */
	int64_t paused_ns;    /* how long the guest stood still, so far */
	uint64_t file_size, file_allocated; /* once it has succeeded; of a stream, what was sent */
};

struct machine_save;

/*
 * Begins a save. Without @live the guest stands still until its end and cannot be resumed or reset.
 * @done is called once, on the main loop, with NULL or the error (handed over); the machine is then
 * as it was before, and the file there or as it was. Nothing here waits for a disk: what only a disk
 * can tell, of @path and of the base, is told by @done.
 */
struct error *machine_save_start(struct machine *machine,
				 const struct machine_save_options *options,
				 void (*done)(void *context, struct error *error), void *context,
				 struct machine_save **save) MUST_CHECK;
/* Makes it end soon, with an error of code ECANCELED unless it has just succeeded. */
void machine_save_cancel(struct machine_save *save);
void machine_save_progress(struct machine_save *save, struct machine_save_progress *progress);
/* Cancels one that is under way, and waits; @done is not called any more. Accepts NULL. */
void machine_save_destroy(struct machine_save *save);

#endif
