/* SPDX-License-Identifier: BSD-2-Clause */
/* A sequential stream as a file, which tools can look into. */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_CONVERT_H
#define GODWIT_SNAPSHOT_SNAPSHOT_CONVERT_H

#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_progress.h"

/*
 * Writes a file with the content of @stream (snapshot_receive), which is used up. What is at @path
 * is replaced when the whole stream has come and every chunk was verified. The file has an id of
 * its own. @progress may be NULL.
 */
struct error *snapshot_convert(struct snapshot_file *stream, const char *path,
			       const struct snapshot_progress *progress) MUST_CHECK;

#endif
