/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lets guest memory be a snapshot file's pages until they are written to: machines that go on from
 * the same file share them (memory/ram_clone.h). Nothing is brought, so pages are verified on the
 * side, in the order of the file: damage is found soon, though the guest may have seen it.
 *
 * Threads: create, start, run and destroy from one. Callbacks come on a thread of the verification:
 * they pass the news on and return.
 */
#ifndef GODWIT_MIGRATION_RAM_SHARE_H
#define GODWIT_MIGRATION_RAM_SHARE_H

#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "snapshot/snapshot_file.h"

/* NULL, or why machines cannot share the pages of @file and what to do about it. */
struct error *ram_share_supports(const struct snapshot_file *file) MUST_CHECK;
/*
 * After ram_load_check's first half (the same blocks): the memory of @map, which is fresh and
 * anonymous, is that of @file from here on. The file may be closed afterwards.
 */
struct error *ram_share_attach(const struct memory_map *map,
			       const struct snapshot_file *file) MUST_CHECK;

struct ram_share_ops {
	/* Every page is as it was saved; once. ram_verify_destroy may follow. */
	void (*completed)(void *context);
	/* A page is not, or cannot be read; once. @error is handed over. */
	void (*failed)(void *context, struct error *error);
};

struct ram_verify;
/* For what ram_share_attach has shared. All arguments outlive it. */
struct error *ram_verify_create(const struct memory_map *map, const struct snapshot_file *file,
				struct ram_verify **verify) MUST_CHECK;
/* Verifies with @threads threads, and returns when all is done, or with an error. */
struct error *ram_verify_run(struct ram_verify *verify, uint32_t threads) MUST_CHECK;
/* Verifies on one thread that gives way to all others, and calls one of @ops. */
struct error *ram_verify_start(struct ram_verify *verify, const struct ram_share_ops *ops,
			       void *context) MUST_CHECK;
/* Ends it, whatever is left. Accepts NULL. */
void ram_verify_destroy(struct ram_verify *verify);
DEFINE_CLEANUP(ram_verify, struct ram_verify *, ram_verify_destroy)
#define AUTO_RAM_VERIFY AUTO(cleanup_ram_verify)

/* Bytes to verify, and of them done; any thread. */
void ram_verify_progress(const struct ram_verify *verify, uint64_t *total, uint64_t *done);

#endif
