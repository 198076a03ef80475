/* SPDX-License-Identifier: BSD-2-Clause */
/* How far a tool that reads a whole snapshot has come. */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_PROGRESS_H
#define GODWIT_SNAPSHOT_SNAPSHOT_PROGRESS_H

#include <stdint.h>

struct snapshot_progress {
	/* On the thread that called the tool, after each 16 MiB or so. Bytes. */
	void (*report)(void *context, uint64_t done, uint64_t total);
	void *context;
};

/* Reports unless @progress is NULL. */
static inline void snapshot_progress_report(const struct snapshot_progress *progress, uint64_t done,
					    uint64_t total)
{
	if (progress)
		progress->report(progress->context, done, total);
}

#define SNAPSHOT_PROGRESS_CHUNKS 64 /* between two reports */

#endif
