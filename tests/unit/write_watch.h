/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sees which pages of a RAM block are written through the block's own mapping, by the process or by
 * the kernel for it, with userfaultfd's asynchronous write protection (Linux 6.7). A test that plays
 * the guest writes through another mapping (write_watch_alias) and is not seen.
 */
#ifndef GODWIT_TESTS_WRITE_WATCH_H
#define GODWIT_TESTS_WRITE_WATCH_H

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cmocka_prelude.h"
#include "memory/dirty_log.h"

/* Newer than the kernel headers of Debian 12. */
#define WATCH_WP_UNPOPULATED (1 << 13)
#define WATCH_WP_ASYNC	     (1 << 15)
#define WATCH_PAGEMAP_WP     57

struct write_watch {
	const struct ram_block *block;
	int fd, pagemap;
};

/* False, with nothing watched, where the kernel or the memory cannot. */
static inline bool write_watch_start(struct write_watch *watch, const struct ram_block *block)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
					     WATCH_WP_UNPOPULATED | WATCH_WP_ASYNC};
	struct uffdio_register range = {.range = {(uintptr_t)block->host, block->size},
					.mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {.range = range.range,
					      .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	*watch = (struct write_watch){.fd = -1, .pagemap = -1};
	if (block->fd < 0)
		return false;
	watch->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (watch->fd < 0)
		return false;
	if (ioctl(watch->fd, UFFDIO_API, &api) < 0 ||
	    ioctl(watch->fd, UFFDIO_REGISTER, &range) < 0 ||
	    ioctl(watch->fd, UFFDIO_WRITEPROTECT, &protect) < 0) {
		close(watch->fd);
		return false;
	}
	watch->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_true(watch->pagemap >= 0);
	watch->block = block;
	return true;
}

static inline void write_watch_stop(struct write_watch *watch)
{
	if (!watch->block)
		return;
	close(watch->fd);
	close(watch->pagemap);
	watch->block = NULL;
}

static inline bool write_watch_written(const struct write_watch *watch, uint64_t page)
{
	uint64_t number = (uintptr_t)watch->block->host / DIRTY_PAGE_SIZE + page, entry;

	assert_int_equal(pread(watch->pagemap, &entry, sizeof(entry), (off_t)(number * 8)), 8);
	return !(entry >> WATCH_PAGEMAP_WP & 1);
}

/* Another mapping of the block, for the guest. The caller unmaps it. */
static inline uint8_t *write_watch_alias(const struct ram_block *block)
{
	uint8_t *alias = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd, 0);

	assert_true(alias != MAP_FAILED);
	return alias;
}

/* The pages of @block that the log has by now; freed by the caller. */
static inline uint64_t *write_watch_collect(struct dirty_log *log, const struct ram_block *block)
{
	uint64_t *pages = calloc(dirty_log_words(block), sizeof(*pages));

	assert_non_null(pages);
	assert_no_error(dirty_log_collect(log, block, pages));
	assert_no_error(dirty_log_before_copy(log, block, 0, block->size / DIRTY_PAGE_SIZE));
	return pages;
}

#endif
