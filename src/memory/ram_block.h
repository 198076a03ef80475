/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A RAM block owns one piece of host memory that guests use: where it comes from, its page size,
 * and the one mapping of it in this process. It knows nothing of guest addresses.
 *
 * "Commit" makes host memory certain for a range, so that touching it later cannot fail; "discard"
 * gives the range back to the host at once, after which it reads as zeros. Both are for the owner
 * of the block and not synchronised: callers make sure that no two overlap.
 */
#ifndef GODWIT_MEMORY_RAM_BLOCK_H
#define GODWIT_MEMORY_RAM_BLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/options.h"

enum ram_backing {
	RAM_BACKING_MEMFD, /* shared, page size 4 KiB (transparent huge pages as the host allows) */
	RAM_BACKING_HUGETLB, /* memfd from a pool of huge pages of 2 MiB or 1 GiB */
	RAM_BACKING_ANON,    /* private anonymous memory */
	RAM_BACKING_FILE,    /* shared mapping of a file */
};

struct ram_backing_options {
	enum ram_backing backing;
	uint64_t page_size; /* hugetlb only: 2 MiB or 1 GiB; 0 is 2 MiB */
	char *path;	    /* file only; owned by whoever owns the options */
	int host_node;	    /* NUMA node of the host to bind to, or -1 */
	bool prealloc; /* commit also touches every page, on backings where that is not implied */
};

struct ram_block;
struct ram_clone;

/* Hears of memory that is about to be given back: who still needs the contents takes them now. */
struct ram_block_watcher {
	/* Called by ram_block_discard, on any thread, before anything is gone. May block. */
	void (*before_discard)(void *context, struct ram_block *block, uint64_t offset,
			       uint64_t size);
	void *context;
};

struct ram_block {
	char name[32];
	struct ram_backing_options options; /* path is a copy */
	uint8_t *host;	    /* start of the mapping; aligned to the larger of page size and 2 MiB */
	uint64_t size;	    /* bytes, a multiple of page_size */
	uint64_t page_size; /* bytes */
	int fd;		    /* -1 for anonymous memory */
	bool reserving;	    /* ram_block_set_reserving; atomic */
	bool borrowed;	    /* ram_block_adopt, not ram_block_own; atomic */
	bool small;	    /* ram_block_set_granule: no transparent huge pages */
	struct ram_clone
	    *clone; /* anonymous memory that shares pages of a file, or NULL (ram_clone.h) */
	pthread_rwlock_t watchers_lock; /* guards watchers; read-held while they are called */
	const struct ram_block_watcher *watchers[2];
};

/*
 * Takes backing=memfd|hugetlb|hugetlb-2M|hugetlb-1G|anon|file:PATH, host-node=N and prealloc=on|off
 * from
 * @options. Defaults: memfd, no binding, no preallocation. Free with ram_backing_options_clear.
 */
struct error *ram_backing_options_take(struct options *options,
				       struct ram_backing_options *backing) MUST_CHECK;
void ram_backing_options_clear(struct ram_backing_options *backing);
/* "memfd", "hugetlb-2M", "file:/x" … for reports. */
const char *ram_backing_describe(const struct ram_backing_options *backing, char *text,
				 size_t size);
/* The page size that @backing will have, in bytes, before a block exists. */
uint64_t ram_backing_page_size(const struct ram_backing_options *backing);

/*
 * Reserves address space and a backing of @size bytes, a multiple of the page size; nothing is
 * committed. A file is created if missing; one that is neither empty nor of @size bytes, that
 * another process uses, or whose file system cannot allocate and punch holes, is refused. Old
 * content is dropped. @name is copied.
 */
struct error *ram_block_create(const char *name, const struct ram_backing_options *options,
			       uint64_t size, struct ram_block **block) MUST_CHECK;
/*
 * A block of memory that another process has, behind @fd, which it takes over, also on error: memory of
 * the same backing and size, shared and not a copy. Until ram_block_own that process may go on with it:
 * commit takes what is there for granted, and nothing is given back. Refused for anonymous memory, and
 * for a descriptor of anything else than such memory.
 */
struct error *ram_block_adopt(const char *name, const struct ram_backing_options *options,
			      uint64_t size, int fd, struct ram_block **block) MUST_CHECK;
/* The memory is this process's alone. Any thread. */
void ram_block_own(struct ram_block *block);
/* NULL if @block can be handed to another process, or why not. */
struct error *ram_block_check_shareable(const struct ram_block *block) MUST_CHECK;
void ram_block_destroy(struct ram_block *block);
DEFINE_CLEANUP(ram_block, struct ram_block *, ram_block_destroy)
#define AUTO_RAM_BLOCK AUTO(cleanup_ram_block)

/*
 * Says that ranges as small as @granule bytes will be discarded: below 2 MiB, transparent huge
 * pages are kept out, because the host frees a huge page only when all of it is given back.
 */
void ram_block_set_granule(struct ram_block *block, uint64_t granule);

/*
 * From now on pages that are committed stay missing (userfault.h) until they are first touched.
 * Huge pages are reserved in the pool, and so not less certain. A file must have room for small
 * ones at that time, and memory that was to be allocated at once (prealloc) is not. Before the
 * first commit.
 */
void ram_block_set_reserving(struct ram_block *block);
/* The next commit of small pages takes them at once again. Any thread. */
void ram_block_end_reserving(struct ram_block *block);

/*
 * Makes host memory certain for [offset, offset + size), both multiples of the page size: huge
 * pages are taken from the pool, file blocks allocated. On memfd and anonymous memory the host
 * overcommits, and this does nothing unless prealloc is set. 0, or -ENOSPC or -ENOMEM with nothing
 * left committed.
 */
int ram_block_commit(struct ram_block *block, uint64_t offset, uint64_t size) MUST_CHECK;
/*
 * Makes certain what was only reserved (ram_block_set_reserving): takes the small pages of the
 * range that nobody has touched, and leaves the others as they are. After ram_block_end_reserving,
 * while nobody watches (userfault.h). 0, or -ENOSPC or -ENOMEM with some of them taken. Where commit
 * does nothing, or has reserved huge pages, this does nothing.
 */
int ram_block_take_rest(struct ram_block *block, uint64_t offset, uint64_t size) MUST_CHECK;
/*
 * Gives the range back to the host; it reads as zeros afterwards. 0 or a negative errno: -ENOSPC for
 * a clone when the host has no mapping left for it, with nothing changed.
 */
int ram_block_discard(struct ram_block *block, uint64_t offset, uint64_t size) MUST_CHECK;
/*
 * For a range that had to be discarded and could not, and that nobody can reach: makes it zeros all
 * the same, which costs memory. On memory that only commits certainly, does nothing.
 */
void ram_block_clear(struct ram_block *block, uint64_t offset, uint64_t size);
/*
 * @watcher hears of discards from now on, or, once the second returns, no more. At most two at a
 * time. Any thread, but not from a watcher.
 */
void ram_block_watch(struct ram_block *block, const struct ram_block_watcher *watcher);
void ram_block_unwatch(struct ram_block *block, const struct ram_block_watcher *watcher);
/* Bytes of the block that the host holds for it alone now (mincore, the file's allocation, or page
 * tables); for reports, slow. */
uint64_t ram_block_resident(const struct ram_block *block);
/* Bytes beside these that it shares with other clones, in the page cache; slow likewise. */
uint64_t ram_block_shared(const struct ram_block *block);

/* For ram_clone.c: a range was mapped anew, and gets the advice and the binding of the others. */
struct error *ram_block_dress(const struct ram_block *block, uint64_t offset,
			      uint64_t size) MUST_CHECK;

#endif
