/* SPDX-License-Identifier: BSD-2-Clause */
/* What two snapshots have different: pages of each block, and sections (devices, configuration). */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_DIFF_H
#define GODWIT_SNAPSHOT_SNAPSHOT_DIFF_H

#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_progress.h"

struct snapshot_block_diff {
	const char *name;   /* borrowed from the file */
	uint64_t sizes[2];  /* bytes in each file; 0: it has no such block */
	uint64_t pages;	    /* that both have */
	uint64_t different; /* of them */
	uint64_t first;	    /* page that is different; meaningless without one */
};

struct snapshot_section_diff {
	const char *name; /* borrowed */
	uint32_t instance;
	size_t sizes[2]; /* bytes */
	bool there[2];	 /* in each file */
	size_t first;	 /* byte of the body that is different, when it is in both */
	uint32_t versions[2];
};

struct snapshot_diff {
	struct snapshot_block_diff *blocks; /* all, different or not */
	uint32_t block_count;
	struct snapshot_section_diff *sections; /* those that are different */
	uint32_t section_count;
	uint64_t different; /* pages of all blocks */
	bool same;	    /* nothing is different */
};

/*
 * Compares what guests would see: where a page is kept, or by which file, makes no difference, and
 * neither do the files' ids. Chunks with one checksum are not read. *@diff borrows from both files;
 * it is freed with snapshot_diff_free. @progress may be NULL.
 */
struct error *snapshot_diff(const struct snapshot_file *a, const struct snapshot_file *b,
			    const struct snapshot_progress *progress,
			    struct snapshot_diff **diff) MUST_CHECK;
void snapshot_diff_free(struct snapshot_diff *diff);
DEFINE_CLEANUP(snapshot_diff, struct snapshot_diff *, snapshot_diff_free)
#define AUTO_SNAPSHOT_DIFF AUTO(cleanup_snapshot_diff)

#endif
