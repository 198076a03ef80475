/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A snapshot's memory in other forms. Every page is checked as it is read. Files are new (a name
 * that is taken is refused), sparse, for their owner alone, and removed when something fails.
 * @progress may be NULL.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_EXPORT_H
#define GODWIT_SNAPSHOT_SNAPSHOT_EXPORT_H

#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_notes.h"
#include "snapshot/snapshot_progress.h"

/* One block as it is, byte n of the file being byte n of the block. */
struct error *snapshot_export_raw(const struct snapshot_block *block, const char *path,
				  const struct snapshot_progress *progress) MUST_CHECK;

/*
 * A core file (ELF64, ET_CORE): notes, and a PT_LOAD for each range of guest-physical memory, whose
 * virtual and physical addresses are both guest-physical: what gdb, crash and readelf read. For
 * each of @processors, which the caller knows how to find in the file, there is a note of its
 * registers for gdb and, as QEMU writes it, one of its control registers for crash
 * (snapshot_notes.h). *@assumed is true when the layout of memory is QEMU's usual one, because the
 * file does not say.
 */
struct error *snapshot_export_elf(const struct snapshot_file *file,
				  const struct snapshot_processor *processors, uint32_t count,
				  const char *path, const struct snapshot_progress *progress,
				  bool *assumed) MUST_CHECK;

/*
 * A snapshot with the same content that builds on no other. Unlike the others it replaces what is
 * at @path, when it is complete.
 */
struct error *snapshot_flatten(const struct snapshot_file *file, const char *path,
			       const struct snapshot_progress *progress) MUST_CHECK;

#endif
