/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves pages between memory and a file for one thread: with O_DIRECT many requests are under way
 * at once in an io_uring; through the page cache, where the kernel would only hand a copy to a
 * helper thread, each is done at once.
 *
 * Threads: one. Errors: a request that fails (or ends short at the end of the file, -EIO) leaves
 * its negative errno in page_io_drain's answer; later requests are still done.
 */
#ifndef GODWIT_MIGRATION_PAGE_IO_H
#define GODWIT_MIGRATION_PAGE_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum page_io_direction { PAGE_IO_READ, PAGE_IO_WRITE };

/* Called once a request ends, on the thread that uses the page_io. @result: 0 or a negative errno. */
typedef void (*page_io_done)(void *context, void *tag, int result);

struct page_io;

/* @direct says that @fd was opened with O_DIRECT. @done may be NULL. */
struct error *page_io_create(int fd, bool direct, enum page_io_direction direction,
			     page_io_done done, void *context, struct page_io **io) MUST_CHECK;
/* All requests must have ended (page_io_drain). Accepts NULL. */
void page_io_destroy(struct page_io *io);
DEFINE_CLEANUP(page_io, struct page_io *, page_io_destroy)
#define AUTO_PAGE_IO AUTO(cleanup_page_io)

/*
 * Moves @size bytes between @bytes and @offset of the file, sometime between now and the next
 * drain. With O_DIRECT all three are multiples of the page size. Waits for others when too many
 * are under way.
 */
void page_io_submit(struct page_io *io, void *bytes, uint64_t size, uint64_t offset, void *tag);
/* Gives what was submitted to the kernel and takes what has ended, without waiting. */
void page_io_poll(struct page_io *io);
/* Waits for one request at least to end, if any is under way. */
void page_io_wait(struct page_io *io);
/* How many requests are under way. */
uint32_t page_io_pending(const struct page_io *io);
/* Waits for all. The first failure since the creation: 0 or a negative errno. */
int page_io_drain(struct page_io *io) MUST_CHECK;

#endif
