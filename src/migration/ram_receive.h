/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fills guest memory from a sequential stream, all of it before the guest runs. Each chunk is
 * verified once it is in its place; that all of them came is known only at the end.
 *
 * Threads: create, run and destroy from one; cancel and progress from any. Errors: the stream does
 * not fit the machine, ends early, or is damaged: the guest must not be started.
 */
#ifndef GODWIT_MIGRATION_RAM_RECEIVE_H
#define GODWIT_MIGRATION_RAM_RECEIVE_H

#include "base/error.h"
#include "memory/memory_map.h"
#include "migration/ram_load.h"
#include "snapshot/snapshot_file.h"

struct ram_receive;

/*
 * @stream is what snapshot_receive gave, and must have exactly the memory of @map, which is fresh
 * (all zeros) and plugged as it will be when the guest goes on. Both outlive the struct.
 */
struct error *ram_receive_create(const struct memory_map *map, const struct snapshot_file *stream,
				 struct ram_receive **receive) MUST_CHECK;
void ram_receive_destroy(struct ram_receive *receive);
DEFINE_CLEANUP(ram_receive, struct ram_receive *, ram_receive_destroy)
#define AUTO_RAM_RECEIVE AUTO(cleanup_ram_receive)

/* Takes everything to the end of the stream; no error: it is whole, and all is there. */
struct error *ram_receive_run(struct ram_receive *receive) MUST_CHECK;
/* Makes ram_receive_run return soon, with an error of code ECANCELED. */
void ram_receive_cancel(struct ram_receive *receive);
/* `total` is all of memory until the end, since what comes is not known. */
void ram_receive_progress(const struct ram_receive *receive, struct ram_load_progress *progress);

#endif
