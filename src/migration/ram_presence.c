/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where pages are, see ram_presence.h:
 *
 *   memory with a descriptor  pages that are in memory (mincore) are present; of the others SEEK_DATA
 *                             and SEEK_HOLE tell which are swapped out or on a disk, on a
 *                             description of our own, since seeking one that other threads seek as
 *                             well would take turns
 *   huge pages                hugetlbfs knows no SEEK_DATA; pages that are mapped here (mincore) are
 *                             present, the others are read with pread, which takes none from the
 *                             pool, and are present if they are not zeros
 *   anonymous memory          /proc/self/pagemap, which tells of swapped pages as well
 *   clones                    likewise for their own pages, and what is stored in the file
 *
 * The answers for a stretch of 4 MiB are kept: a caller goes through a block in its order.
 *
 * When the kernel refuses an answer, every page counts as present: slower, but nothing is lost.
 */
#include "migration/ram_presence.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "memory/ram_clone.h"

#define PAGE	      KIB(4)
#define STRETCH	      MIB(4)
#define STRETCH_PAGES (STRETCH / PAGE)
#define CHUNK_PAGES   64

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE	(1ULL << 61)

struct ram_presence {
	const struct ram_block *block; /* whose stretch is kept, and whose description fd is */
	uint64_t start;		       /* of the stretch, bytes */
	bool valid;
	int fd;
	int pagemap_fd;
	/* What the last seeks have told of the file: all data or all hole. Empty: nothing. */
	struct {
		uint64_t start, end; /* bytes */
		bool data;
	} extent;
	uint64_t pages[STRETCH_PAGES / 64];
	uint8_t *scratch; /* a stretch, for huge pages */
	uint64_t entries[STRETCH_PAGES];
};

struct error *ram_presence_create(struct ram_presence **result)
{
	struct ram_presence *presence = calloc(1, sizeof(*presence));

	if (!presence)
		return error_system(ENOMEM, "the map of present pages");
	presence->fd = -1;
	presence->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	*result = presence;
	return NULL;
}

void ram_presence_destroy(struct ram_presence *presence)
{
	if (!presence)
		return;
	close_fd(&presence->fd);
	close_fd(&presence->pagemap_fd);
	free(presence->scratch);
	free(presence);
}

void ram_presence_forget(struct ram_presence *presence)
{
	presence->valid = false;
	presence->extent.end = 0;
}

static void all_present(struct ram_presence *presence, uint64_t count)
{
	bitmap_set_range(presence->pages, 0, count);
}

/*
 * Finds the extent that @at lies in. A seek goes past every page of it, so what it has told is kept:
 * asked anew for each stretch, the one extent of 1 GiB without holes took 1.5 s of both processors.
 */
static bool find_extent(struct ram_presence *presence, uint64_t at)
{
	off_t data, hole;

	if (at >= presence->extent.start && at < presence->extent.end)
		return true;
	presence->extent.start = at;
	presence->extent.end = presence->block->size;
	presence->extent.data = false;
	data = lseek(presence->fd, (off_t)at, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return true;
	hole = data == (off_t)at ? lseek(presence->fd, data, SEEK_HOLE) : data;
	presence->extent.data = data == (off_t)at;
	presence->extent.end = hole < 0 ? 0 : (uint64_t)hole;
	return hole >= 0;
}

/* Looks at pages [@first, @last) of the stretch, which are not in memory. */
static bool look_at_disk(struct ram_presence *presence, uint64_t first, uint64_t last)
{
	uint64_t start = presence->start, end = start + last * PAGE;

	for (uint64_t at = start + first * PAGE; at < end; at = presence->extent.end) {
		if (!find_extent(presence, at))
			return false;
		if (!presence->extent.data)
			continue;
		/* Blocks of a file system may be smaller than a page. */
		uint64_t from = (at - start) / PAGE;
		uint64_t to = (MIN(presence->extent.end, end) - start + PAGE - 1) / PAGE;

		bitmap_set_range(presence->pages, from, to - from);
	}
	return true;
}

/* How many pages from @page on, of @count, are as that one is, by what mincore says. */
static uint64_t run_of(const unsigned char *there, uint64_t page, uint64_t count)
{
	uint64_t run = 1;

	while (page + run < count && (there[page + run] & 1) == (there[page] & 1))
		run++;
	return run;
}

/*
 * Most of what is there is in memory, of which the kernel tells from the page tables, a stretch at a
 * time. (Seeks alone went through the whole file, once for each of who looks: 15 % of the time that
 * sending took over two connections.)
 */
static void look_at_file(struct ram_presence *presence, uint64_t count)
{
	unsigned char cached[STRETCH_PAGES];

	if (mincore(presence->block->host + presence->start, count * PAGE, cached) < 0)
		memset(cached, 0, sizeof(cached)); /* not all of it is mapped */
	for (uint64_t page = 0, run; page < count; page += run) {
		run = run_of(cached, page, count);
		if (cached[page] & 1) {
			bitmap_set_range(presence->pages, page, run);
		} else if (!look_at_disk(presence, page, page + run)) {
			all_present(presence, count);
			return;
		}
	}
}

static bool is_zero(const uint8_t *bytes, uint64_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static void look_at_huge_pages(struct ram_presence *presence, uint64_t count)
{
	const struct ram_block *block = presence->block;
	unsigned char mapped[STRETCH_PAGES];
	ssize_t got;

	if (mincore(block->host + presence->start, count * PAGE, mapped) < 0) {
		all_present(presence, count);
		return;
	}
	if (!presence->scratch)
		presence->scratch = malloc(STRETCH);
	for (uint64_t page = 0, run; page < count; page += run) {
		run = run_of(mapped, page, count);
		if (!(mapped[page] & 1)) {
			got = presence->scratch ? pread(presence->fd, presence->scratch, run * PAGE,
							(off_t)(presence->start + page * PAGE))
						: -1;
			if (got == (ssize_t)(run * PAGE) && is_zero(presence->scratch, run * PAGE))
				continue;
		}
		bitmap_set_range(presence->pages, page, run);
	}
}

static void look_at_page_tables(struct ram_presence *presence, uint64_t count)
{
	uint64_t first = (uintptr_t)(presence->block->host + presence->start) / PAGE;
	ssize_t wanted = (ssize_t)(count * sizeof(presence->entries[0]));

	if (pread(presence->pagemap_fd, presence->entries, (size_t)wanted,
		  (off_t)(first * sizeof(presence->entries[0]))) != wanted) {
		all_present(presence, count);
		return;
	}
	for (uint64_t page = 0; page < count; page++) {
		uint64_t entry = presence->entries[page];

		/* Pages of a clone's file are known better than by who has looked at them. */
		if (presence->block->clone && (entry & PAGEMAP_FILE))
			continue;
		if (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
			bitmap_set_range(presence->pages, page, 1);
	}
	for (uint64_t page = 0; page < count; page += CHUNK_PAGES)
		presence->pages[page / CHUNK_PAGES] |= ram_clone_stored(
		    presence->block, presence->start / PAGE / CHUNK_PAGES + page / CHUNK_PAGES);
}

static void look(struct ram_presence *presence, const struct ram_block *block, uint64_t start)
{
	uint64_t count = MIN((block->size - start) / PAGE, STRETCH_PAGES);

	if (presence->block != block) {
		char path[64];

		close_fd(&presence->fd);
		presence->extent.end = 0;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", block->fd);
		if (block->fd >= 0)
			presence->fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	presence->block = block;
	presence->start = start;
	presence->valid = true;
	memset(presence->pages, 0, sizeof(presence->pages));
	if (block->fd < 0)
		look_at_page_tables(presence, count);
	else if (presence->fd < 0)
		all_present(presence, count);
	else if (block->page_size > PAGE)
		look_at_huge_pages(presence, count);
	else
		look_at_file(presence, count);
}

uint64_t ram_presence_chunk(struct ram_presence *presence, const struct ram_block *block,
			    uint64_t offset)
{
	uint64_t start = align_down(offset, STRETCH);

	if (!presence->valid || presence->block != block || presence->start != start)
		look(presence, block, start);
	return presence->pages[(offset - start) / (CHUNK_PAGES * PAGE)];
}
