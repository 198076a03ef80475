/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fills guest memory from a snapshot file while the guest runs already. Who touches a page that is
 * not there yet waits until its chunk has been read and verified; meanwhile channels bring
 * everything else in the order of the file.
 *
 * Memory that is given back to the host before it was brought (balloon, unplug, reset) is not
 * brought any more. When the file cannot be read or is damaged, whoever needs that chunk keeps
 * waiting, `failed` is called once, and the machine must be stopped: it has no memory there.
 *
 * Threads: create, start and destroy from one. Callbacks come on any thread, with locks held: they
 * pass the news on and return.
 */
#ifndef GODWIT_MIGRATION_RAM_LAZY_H
#define GODWIT_MIGRATION_RAM_LAZY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "memory/userfault.h"
#include "migration/ram_load.h"
#include "snapshot/snapshot_file.h"

struct ram_lazy_ops {
	/*
	 * Everything is there and verified, and memory that commits certainly has all of its pages
	 * (ram_block_commit), or the log says what is short; once. ram_lazy_destroy may follow.
	 */
	void (*completed)(void *context);
	/* A chunk could not be brought. @error is handed over. */
	void (*failed)(void *context, struct error *error);
};

struct ram_lazy;

/*
 * Refuses a file with other blocks (ram_load_check_blocks); ram_load_check comes later, once it is
 * known what is plugged. Nothing has touched the memory, which is fresh, and what of it is committed
 * was only reserved (ram_block_set_reserving): pages that are there already would not be brought.
 * From the return on all accesses get the right content. All arguments outlive it.
 */
struct error *ram_lazy_create(struct memory_map *map, const struct snapshot_file *file,
			      struct userfault *userfault, const struct ram_lazy_ops *ops,
			      void *context, struct ram_lazy **lazy) MUST_CHECK;
/* Lets @channels threads, 1 to RAM_LOAD_CHANNELS_MAX, bring what nobody has asked for. */
struct error *ram_lazy_start(struct ram_lazy *lazy, uint32_t channels) MUST_CHECK;
/*
 * Before it has completed, what was not brought reads as zeros from here on. Commits of its blocks
 * are no longer reservations (ram_block_end_reserving). Accepts NULL.
 */
void ram_lazy_destroy(struct ram_lazy *lazy);
DEFINE_CLEANUP(ram_lazy, struct ram_lazy *, ram_lazy_destroy)
#define AUTO_RAM_LAZY AUTO(cleanup_ram_lazy)

struct ram_lazy_progress {
	uint64_t total, done; /* bytes of pages to bring, and of them brought or no longer needed */
	uint64_t asked;	      /* pieces that somebody waited for */
};
void ram_lazy_progress(const struct ram_lazy *lazy, struct ram_lazy_progress *progress);

#endif
