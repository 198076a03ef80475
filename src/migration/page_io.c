/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests of one thread, see page_io.h. A request that the kernel ends short is submitted again
 * for the rest.
 */
#include "migration/page_io.h"

#include <liburing.h>
#include <string.h>

#include "base/checked.h"

#define DEPTH 64 /* requests under way at once: enough to keep a fast disk busy with single pages */

struct request {
	struct request *next_free;
	uint8_t *bytes;
	uint64_t size, offset;
	void *tag;
};

struct page_io {
	int fd;
	bool direct;
	enum page_io_direction direction;
	page_io_done done;
	void *context;
	int failure; /* the first one */
	struct io_uring ring;
	struct request requests[DEPTH];
	struct request *free;
	uint32_t pending;
};

struct error *page_io_create(int fd, bool direct, enum page_io_direction direction,
			     page_io_done done, void *context, struct page_io **result)
{
	AUTO_FREE struct page_io *io = calloc(1, sizeof(*io));
	int failure;

	if (!io)
		return error_system(ENOMEM, "page input and output");
	io->fd = fd;
	io->direct = direct;
	io->direction = direction;
	io->done = done;
	io->context = context;
	if (direct) {
		failure = io_uring_queue_init(DEPTH, &io->ring, 0);
		if (failure < 0)
			return error_system(-failure, "cannot make an io_uring for pages");
		for (uint32_t i = 0; i < DEPTH; i++) {
			io->requests[i].next_free = io->free;
			io->free = &io->requests[i];
		}
	}
	*result = TAKE_PTR(io);
	return NULL;
}

void page_io_destroy(struct page_io *io)
{
	if (!io)
		return;
	if (io->direct)
		io_uring_queue_exit(&io->ring);
	free(io);
}

static void end_request(struct page_io *io, void *tag, int result)
{
	if (result < 0 && !io->failure)
		io->failure = result;
	if (io->done)
		io->done(io->context, tag, result);
}

/* --- At once ----------------------------------------------------------------------------------- */

static int move(const struct page_io *io, uint8_t *bytes, uint64_t size, uint64_t offset)
{
	while (size) {
		ssize_t moved = io->direction == PAGE_IO_WRITE
				    ? pwrite(io->fd, bytes, size, (off_t)offset)
				    : pread(io->fd, bytes, size, (off_t)offset);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved < 0 ? -errno : -EIO;
		bytes += moved;
		offset += (uint64_t)moved;
		size -= (uint64_t)moved;
	}
	return 0;
}

/* --- Many at once ------------------------------------------------------------------------------ */

static void queue(struct page_io *io, struct request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

	if (!sqe) { /* never: there are as many entries as requests */
		io_uring_submit(&io->ring);
		sqe = io_uring_get_sqe(&io->ring);
	}
	if (io->direction == PAGE_IO_WRITE)
		io_uring_prep_write(sqe, io->fd, request->bytes, (unsigned int)request->size,
				    request->offset);
	else
		io_uring_prep_read(sqe, io->fd, request->bytes, (unsigned int)request->size,
				   request->offset);
	io_uring_sqe_set_data(sqe, request);
}

static void take_completion(struct page_io *io, struct io_uring_cqe *cqe)
{
	struct request *request = io_uring_cqe_get_data(cqe);
	int result = cqe->res;

	io_uring_cqe_seen(&io->ring, cqe);
	if (result == -EINTR || result == -EAGAIN) {
		queue(io, request);
		return;
	}
	if (result > 0 && (uint64_t)result < request->size) {
		request->bytes += result;
		request->offset += (uint64_t)result;
		request->size -= (uint64_t)result;
		queue(io, request);
		return;
	}
	io->pending--;
	request->next_free = io->free;
	io->free = request;
	end_request(io, request->tag, result < 0 ? result : result == 0 ? -EIO : 0);
}

static void take_completions(struct page_io *io)
{
	struct io_uring_cqe *cqe;

	while (io->pending && io_uring_peek_cqe(&io->ring, &cqe) == 0)
		take_completion(io, cqe);
}

void page_io_poll(struct page_io *io)
{
	if (!io->pending)
		return;
	io_uring_submit(&io->ring);
	take_completions(io);
}

void page_io_wait(struct page_io *io)
{
	if (!io->pending)
		return;
	io_uring_submit_and_wait(&io->ring, 1);
	take_completions(io);
}

void page_io_submit(struct page_io *io, void *bytes, uint64_t size, uint64_t offset, void *tag)
{
	struct request *request;

	if (!io->direct) {
		end_request(io, tag, move(io, bytes, size, offset));
		return;
	}
	while (!io->free)
		page_io_wait(io);
	request = io->free;
	io->free = request->next_free;
	*request = (struct request){.bytes = bytes, .size = size, .offset = offset, .tag = tag};
	io->pending++;
	queue(io, request);
}

uint32_t page_io_pending(const struct page_io *io)
{
	return io->pending;
}

int page_io_drain(struct page_io *io)
{
	while (io->pending)
		page_io_wait(io);
	return io->failure;
}
