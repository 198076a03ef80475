/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ram_reclaim.h. Small pages are found by looking for data in the file, which costs a call where there is
 * none. Files of huge pages cannot be looked through: a hole is made without looking, and what it
 * freed is the difference in what the file holds; one of nothing takes microseconds as well.
 */
#include "memory/ram_reclaim.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"

static uint64_t held(const struct ram_block *block)
{
	struct stat info;

	return fstat(block->fd, &info) < 0 ? 0 : (uint64_t)info.st_blocks * 512;
}

static uint64_t reclaim_huge(struct ram_block *block, uint64_t offset, uint64_t size)
{
	uint64_t before = held(block), after;

	if (ram_block_discard(block, offset, size))
		return 0;
	after = held(block);
	return before > after ? before - after : 0;
}

/* The next stretch of data in [*start, end); false: there is none. */
static bool next_data(const struct ram_block *block, uint64_t *start, uint64_t end, uint64_t *stop)
{
	off_t data = lseek(block->fd, (off_t)*start, SEEK_DATA), hole;

	if (data < 0 || (uint64_t)data >= end)
		return false;
	hole = lseek(block->fd, data, SEEK_HOLE);
	*start = align_down((uint64_t)data, block->page_size);
	*stop = hole < 0 ? end : MIN((uint64_t)hole, end);
	if (!checked_align_up(*stop, block->page_size, stop))
		*stop = end;
	return true;
}

uint64_t ram_block_reclaim(struct ram_block *block, uint64_t offset, uint64_t size)
{
	uint64_t end = offset + size, stop, found = 0;

	if (block->fd < 0 || block->clone)
		return 0;
	if (block->options.backing == RAM_BACKING_HUGETLB)
		return reclaim_huge(block, offset, size);
	for (; offset < end && next_data(block, &offset, end, &stop); offset = stop)
		if (!ram_block_discard(block, offset, stop - offset))
			found += stop - offset;
	return found;
}
