/* SPDX-License-Identifier: BSD-2-Clause */
/* See ram_place.h. Errors: the host has no memory, or the file of the memory no room. */
#include "migration/ram_place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Transparent huge pages for shared memory; a host that does not say has none. */
static bool host_has_huge_shared_pages(void)
{
	AUTO_CLOSE int fd =
	    open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDONLY | O_CLOEXEC);
	char text[128] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	return !strstr(text, "[never]") && !strstr(text, "[deny]");
}

bool ram_place_is_written(const struct ram_block *block)
{
	if (block->fd < 0 || block->page_size > (uint64_t)sysconf(_SC_PAGESIZE))
		return false; /* anonymous; huge pages cannot be written to */
	return block->small || block->options.backing == RAM_BACKING_FILE ||
	       !host_has_huge_shared_pages();
}

bool ram_place_may_be_huge(const struct ram_block *block)
{
	return block->options.backing == RAM_BACKING_MEMFD && !block->small && !block->clone;
}

int ram_place_make_huge(const struct ram_block *block, uint64_t offset)
{
	uint8_t *start = block->host + align_down(offset, RAM_PLACE_HUGE);

	/* A page of it must be there, which the others can join. */
	if (madvise(start, (size_t)sysconf(_SC_PAGESIZE), MADV_POPULATE_WRITE) < 0 ||
	    madvise(start, RAM_PLACE_HUGE, MADV_COLLAPSE) < 0)
		return -errno;
	return 0;
}

int ram_place(const struct ram_block *block, bool written, uint64_t offset, const void *bytes,
	      uint64_t size)
{
	const uint8_t *from = bytes;

	if (!written) {
		memcpy(block->host + offset, bytes, size);
		return 0;
	}
	while (size) {
		ssize_t done = pwrite(block->fd, from, size, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		from += done;
		offset += (uint64_t)done;
		size -= (uint64_t)done;
	}
	return 0;
}
