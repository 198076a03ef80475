/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one owner of userfaultfd (Linux admin guide, mm/userfaultfd): who touches a page of a block
 * that is *missing*, or writes to one that is *protected*, waits in the kernel until the page is
 * there, or may be written. This holds for everybody who uses this process's mapping: vCPUs,
 * device threads, io_uring, the host's network stack.
 *
 * Two parties may watch a block at once, say a lazy restore (missing) and a live snapshot
 * (protected and missing). Where nobody claims a fault it is settled as if nothing had been
 * watched: a missing page becomes zeros, a protected one writable. Watching ends for a block when
 * its last watcher leaves; its page tables are then as if it had never been watched.
 *
 * Threads: faults are handled on threads of this component, several at a time for different pages
 * and sometimes for one. A handler must not touch guest memory through the block's mapping, or it
 * may wait for itself. Everything else: any thread.
 *
 * Memory that userfaultfd can serve: anonymous memory, memfd, files on tmpfs, huge pages. Not
 * files on disks, and not clones (userfault_supports).
 */
#ifndef GODWIT_MEMORY_USERFAULT_H
#define GODWIT_MEMORY_USERFAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/ram_block.h"

struct userfault;

struct userfault_ops {
	/*
	 * The page of the block at @offset was touched and is missing. True: the handler has made
	 * it present (userfault_copy, userfault_zero), or will soon; false: not mine, zeros will do.
	 */
	bool (*missing)(void *context, struct ram_block *block, uint64_t offset);
	/* The protected page at @offset is about to be written. True: the handler has called
	 * userfault_unprotect for it, or will soon; false: not mine. */
	bool (*written)(void *context, struct ram_block *block, uint64_t offset);
};

struct userfault_watcher {
	const struct userfault_ops *ops;
	void *context;
};

/* Opens the kernel's side and starts @threads threads that handle faults. */
struct error *userfault_create(uint32_t threads, struct userfault **userfault) MUST_CHECK;
/* Nobody may watch any more. Accepts NULL. */
void userfault_destroy(struct userfault *userfault);
DEFINE_CLEANUP(userfault, struct userfault *, userfault_destroy)
#define AUTO_USERFAULT AUTO(cleanup_userfault)

/* NULL, or why the memory of @block cannot be watched and what to use instead. */
struct error *userfault_supports(const struct ram_block *block) MUST_CHECK;

/*
 * From now on faults of @block go to the watchers, @watcher first. Missing pages are noticed at
 * once, writes where userfault_protect was called. A watcher may watch many blocks.
 */
struct error *userfault_watch(struct userfault *userfault, struct ram_block *block,
			      struct userfault_watcher *watcher) MUST_CHECK;
/*
 * The watcher hears nothing more of @block once this returns. What it has left missing reads as
 * zeros, what it has left protected may be written.
 */
void userfault_unwatch(struct userfault *userfault, struct ram_block *block,
		       struct userfault_watcher *watcher);

/*
 * All ranges are multiples of the block's page size and inside a watched block. 0 or a negative
 * errno. copy and zero leave pages that are present already as they are (and go on behind them);
 * waiting threads go on. copy: @source is readable memory outside of any watched block.
 */
int userfault_copy(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   const void *source, uint64_t size) MUST_CHECK;
int userfault_zero(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   uint64_t size) MUST_CHECK;
/*
 * The same for pages that must be missing: @source, or zeros where it is NULL. -EEXIST when one of them
 * is present, which stays as it is; those before it are filled.
 */
int userfault_fill(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		   const void *source, uint64_t size) MUST_CHECK;
/* From the return on nobody writes to the present pages of the range without a fault. */
int userfault_protect(struct userfault *userfault, struct ram_block *block, uint64_t offset,
		      uint64_t size) MUST_CHECK;
int userfault_unprotect(struct userfault *userfault, struct ram_block *block, uint64_t offset,
			uint64_t size) MUST_CHECK;

/*
 * Mappings of blocks that another process has, and which are registered for missing pages with a
 * userfaultfd of its own: its faults go to the watchers of the block as those of this process do, and what
 * is filled in becomes visible to both. Writes of such a process are not seen, and protect nothing.
 *
 * The process controls when it faults, and where; what is in no mapping that was named is left alone.
 * It shares the descriptor, and could take away what is read from it: it then waits for ever.
 */
struct userfault_remote;

struct userfault_mapping {
	uint64_t address, size; /* in the other process */
	const struct ram_block *block;
	uint64_t offset; /* in the block */
};

/* Serves the faults of @fd, which is taken over, also on error, on a thread of its own. Nothing is mapped yet. */
struct error *userfault_remote_create(struct userfault *userfault, int fd,
				      struct userfault_remote **remote) MUST_CHECK;
/* These are the mappings from now on; copied. No two overlap, none wraps. */
struct error *userfault_remote_map(struct userfault_remote *remote,
				   const struct userfault_mapping *mappings,
				   size_t count) MUST_CHECK;
/* Who waits there still goes on waiting, unless that process has unregistered. Accepts NULL. */
void userfault_remote_destroy(struct userfault_remote *remote);

/* Faults so far: of missing pages, of protected ones. For reports. */
struct userfault_statistics {
	uint64_t missing, written;
};
void userfault_statistics(const struct userfault *userfault,
			  struct userfault_statistics *statistics);

#endif
