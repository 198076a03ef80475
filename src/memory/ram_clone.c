/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory shared with a file, see ram_clone.h.
 *
 * Two bitmaps say what is where, a bit a page: `mapped`, the file shows there (or the block's copy of
 * a page of it), and `stored`, that page is in the file; the latter is never set without the former.
 * Whether the block has a copy is for the kernel to know (pagemap).
 *
 * The kernel joins neighbouring mappings that are alike, but not always: two that both have copied
 * pages stay apart. So there is no telling their number from the bitmap; it is counted in
 * /proc/self/maps, and each block is granted some before they are counted again: its share of what
 * is left, or a few. Together that is GRANT * BLOCKS_MAX too many at most, which the last quarter
 * has room for.
 */
#include "memory/ram_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"

#define PAGE		 KIB(4)
#define CHUNK_PAGES	 64
#define MAPPINGS_DEFAULT 65530 /* the kernel's, if it does not say */
#define GRANT		 128 /* mappings that a block may make before they are counted again, at least */
#define BLOCKS_MAX	 80 /* no machine has more */
#define RECOUNT_NS	 NS_PER_SECOND

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE	(1ULL << 61)

struct ram_clone {
	pthread_mutex_t lock; /* guards all of it */
	uint64_t pages;
	uint64_t *mapped, *stored;
	uint32_t granted;   /* mappings that may be made before the next count */
	int64_t refused_ns; /* when a count found none left; 0: never */
};

/* --- How many mappings ------------------------------------------------------------------------- */

static uint64_t mappings_limit(void)
{
	AUTO_FCLOSE FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	uint64_t limit;

	return file && fscanf(file, "%" SCNu64, &limit) == 1 ? limit : MAPPINGS_DEFAULT;
}

/* Of this process; a number too large when it cannot be told. */
static uint64_t mappings_count(void)
{
	AUTO_CLOSE int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	char text[4096];
	uint64_t count = 0;
	ssize_t got;

	while (fd >= 0 && (got = read(fd, text, sizeof(text))) > 0)
		for (ssize_t i = 0; i < got; i++)
			count += text[i] == '\n';
	return count ?: UINT64_MAX;
}

/* Takes @wanted from what is granted, or counts. */
static bool take_grant(struct ram_clone *clone, uint32_t wanted)
{
	uint64_t budget, count;

	if (clone->granted < wanted) {
		if (clone->refused_ns && clock_monotonic_ns() - clone->refused_ns < RECOUNT_NS)
			return false;
		budget = mappings_limit() / 4 * 3;
		count = mappings_count();
		clone->granted =
		    count < budget
			? (uint32_t)MIN(budget - count, MAX((budget - count) / BLOCKS_MAX, GRANT))
			: 0;
		clone->refused_ns = 0;
		if (clone->granted < wanted) {
			clone->refused_ns = clock_monotonic_ns();
			return false;
		}
	}
	clone->granted -= wanted;
	return true;
}

/* --- Attaching --------------------------------------------------------------------------------- */

/* Sets `mapped` for whole granules that hold stored pages; returns how many runs that makes. */
static uint64_t map_granules(struct ram_clone *clone, uint64_t granule)
{
	uint64_t runs = 0, at = 0, end = 0;

	bitmap_clear_range(clone->mapped, 0, clone->pages);
	while ((at = bitmap_next_set(clone->stored, at, clone->pages)) < clone->pages) {
		uint64_t first = align_down(at, granule);

		runs += !end || first != end;
		end = MIN(first + granule, clone->pages);
		bitmap_set_range(clone->mapped, first, end - first);
		at = end;
	}
	return runs;
}

static struct error *map_file(const struct ram_block *block, const struct ram_clone_source *source)
{
	const struct ram_clone *clone = block->clone;
	uint64_t first = 0, end;

	while ((first = bitmap_next_set(clone->mapped, first, clone->pages)) < clone->pages) {
		uint8_t *place = block->host + first * PAGE;

		end = bitmap_next_clear(clone->mapped, first, clone->pages);
		if (mmap(place, (end - first) * PAGE, PROT_READ | PROT_WRITE,
			 MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, source->fd,
			 (off_t)(source->offset + first * PAGE)) == MAP_FAILED)
			return error_system(errno, "cannot map the snapshot as memory '%s'",
					    block->name);
		TRY(ram_block_dress(block, first * PAGE, (end - first) * PAGE));
		first = end;
	}
	return NULL;
}

struct error *ram_clone_attach(struct ram_block *block, const struct ram_clone_source *source)
{
	struct ram_clone *clone = calloc(1, sizeof(*clone));
	uint64_t granule = CHUNK_PAGES;

	if (!clone)
		return error_system(ENOMEM, "memory '%s'", block->name);
	block->clone = clone; /* destroyed with the block */
	pthread_mutex_init(&clone->lock, NULL);
	clone->pages = block->size / PAGE;
	clone->mapped = bitmap_create(clone->pages);
	clone->stored = bitmap_create(clone->pages);
	if (!clone->mapped || !clone->stored)
		return error_system(ENOMEM, "memory '%s'", block->name);
	memcpy(clone->stored, source->stored, bitmap_words(clone->pages) * sizeof(uint64_t));
	while (map_granules(clone, granule) > MAX(source->mappings_max, 1U))
		granule *= 2;
	return map_file(block, source);
}

void ram_clone_destroy(struct ram_clone *clone)
{
	if (!clone)
		return;
	pthread_mutex_destroy(&clone->lock);
	free(clone->mapped);
	free(clone->stored);
	free(clone);
}

/* --- Giving back ------------------------------------------------------------------------------- */

/* How many more edges between file and anonymous memory there are when the range is the latter. */
static int64_t edges_more(const struct ram_clone *clone, uint64_t first, uint64_t end)
{
	bool before = first > 0 && bitmap_test(clone->mapped, first - 1);
	bool behind = end < clone->pages && bitmap_test(clone->mapped, end);
	bool last = before;
	int64_t edges = 0;

	for (uint64_t at = first; at < end;) {
		bool mapped = bitmap_test(clone->mapped, at);

		edges += mapped != last;
		last = mapped;
		at = mapped ? bitmap_next_clear(clone->mapped, at, end)
			    : bitmap_next_set(clone->mapped, at, end);
	}
	edges += last != behind;
	return (int64_t)before + behind - edges;
}

/* Anonymous memory instead of the file. */
static int unmap_file(struct ram_block *block, uint64_t first, uint64_t end)
{
	struct ram_clone *clone = block->clone;
	int64_t more = edges_more(clone, first, end);
	struct error *error;

	/* Where the number of edges stays, mappings may still be too unlike to be joined. */
	if (more >= 0 && !take_grant(clone, more > 0 ? 2 : 1))
		return -ENOSPC;
	if (mmap(block->host + first * PAGE, (end - first) * PAGE, PROT_READ | PROT_WRITE,
		 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		return errno == ENOMEM ? -ENOSPC : -errno;
	bitmap_clear_range(clone->mapped, first, end - first);
	bitmap_clear_range(clone->stored, first, end - first);
	error = ram_block_dress(block, first * PAGE, (end - first) * PAGE);
	if (error)
		log_warning("%s", error_message(error));
	error_free(error);
	return 0;
}

int ram_clone_discard(struct ram_block *block, uint64_t offset, uint64_t size)
{
	struct ram_clone *clone = block->clone;
	uint64_t first = offset / PAGE, end = (offset + size) / PAGE;
	int result = 0;

	pthread_mutex_lock(&clone->lock);
	if (!bitmap_all_clear(clone->mapped, first, end - first))
		result = unmap_file(block, first, end);
	else if (madvise(block->host + offset, size, MADV_DONTNEED) < 0)
		result = -errno;
	/* Without its copies the range is the file's again, which may be zeros. */
	if (result == -ENOSPC && bitmap_all_clear(clone->stored, first, end - first))
		result = madvise(block->host + offset, size, MADV_DONTNEED) < 0 ? -errno : 0;
	pthread_mutex_unlock(&clone->lock);
	return result;
}

/* --- Questions --------------------------------------------------------------------------------- */

bool ram_clone_maps(const struct ram_block *block, uint64_t chunk)
{
	struct ram_clone *clone = block->clone;
	bool maps = false;

	if (!clone)
		return false;
	pthread_mutex_lock(&clone->lock);
	maps = clone->mapped[chunk] != 0;
	pthread_mutex_unlock(&clone->lock);
	return maps;
}

uint64_t ram_clone_stored(const struct ram_block *block, uint64_t chunk)
{
	struct ram_clone *clone = block->clone;
	uint64_t stored = 0;

	if (!clone)
		return 0;
	pthread_mutex_lock(&clone->lock);
	stored = clone->stored[chunk];
	pthread_mutex_unlock(&clone->lock);
	return stored;
}

void ram_clone_usage(const struct ram_block *block, struct ram_clone_usage *usage)
{
	enum { STRETCH = 4096 };
	AUTO_CLOSE int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	AUTO_FREE uint64_t *entries = calloc(STRETCH, sizeof(*entries));
	uint64_t first = (uintptr_t)block->host / PAGE, pages = block->size / PAGE;

	memset(usage, 0, sizeof(*usage));
	for (uint64_t page = 0; fd >= 0 && entries && page < pages; page += STRETCH) {
		uint64_t count = MIN(pages - page, (uint64_t)STRETCH);
		ssize_t got = pread(fd, entries, count * sizeof(*entries),
				    (off_t)((first + page) * sizeof(*entries)));

		if (got != (ssize_t)(count * sizeof(*entries)))
			return;
		for (uint64_t i = 0; i < count; i++) {
			if (!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
				continue;
			if (entries[i] & PAGEMAP_FILE)
				usage->shared += PAGE;
			else if (entries[i] & PAGEMAP_PRESENT)
				usage->own += PAGE;
		}
	}
}
