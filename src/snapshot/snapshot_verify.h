/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checks that a snapshot can be restored: opening it has checked its structure; this reads every
 * page, in the bases too, and compares the checksums. Files that QEMU wrote have none: their pages
 * are only read.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_VERIFY_H
#define GODWIT_SNAPSHOT_SNAPSHOT_VERIFY_H

#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_progress.h"

#define SNAPSHOT_VERIFY_THREADS_MAX 64

struct snapshot_verify_result {
	uint64_t bytes;	 /* of RAM */
	uint64_t zero;	 /* of them in chunks of zeros, which were not read */
	uint64_t chunks; /* that were read */
	uint64_t bad;	 /* chunks that could not be read, or have another checksum */
};

/*
 * With @threads threads, the caller's among them, 1 to SNAPSHOT_VERIFY_THREADS_MAX. Reads
 * everything, whatever it finds; the error tells of the first bad chunk. @progress may be NULL.
 */
struct error *snapshot_verify(const struct snapshot_file *file, unsigned int threads,
			      const struct snapshot_progress *progress,
			      struct snapshot_verify_result *result) MUST_CHECK;

#endif
