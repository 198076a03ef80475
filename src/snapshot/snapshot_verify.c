/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Verification, snapshot_verify.h. Threads take chunks in the file's order from one counter, so the
 * disk sees a sequential reader; the lowest bad chunk is the one that is told.
 */
#include "snapshot/snapshot_verify.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/thread.h"

struct verification {
	const struct snapshot_file *file;
	const struct snapshot_progress *progress;
	uint64_t total; /* chunks of all blocks */
	_Atomic uint64_t next, read, zero, bad;
	pthread_mutex_t lock;
	uint64_t first_bad; /* under lock: its number, or total */
	int first_result;   /* under lock */
};

/* The block and the chunk in it of chunk @number of the file. */
static const struct snapshot_block *find_chunk(const struct snapshot_file *file, uint64_t number,
					       uint64_t *chunk)
{
	const struct snapshot_block *block = file->blocks;

	for (; number >= snapshot_block_chunks(block); block++)
		number -= snapshot_block_chunks(block);
	*chunk = number;
	return block;
}

static void note_bad(struct verification *work, uint64_t number, int result)
{
	atomic_fetch_add(&work->bad, 1);
	pthread_mutex_lock(&work->lock);
	if (number < work->first_bad) {
		work->first_bad = number;
		work->first_result = result;
	}
	pthread_mutex_unlock(&work->lock);
}

static void verify_chunks(struct verification *work, uint8_t *buffer, bool reports)
{
	uint64_t number, chunk;

	while ((number = atomic_fetch_add(&work->next, 1)) < work->total) {
		const struct snapshot_block *block = find_chunk(work->file, number, &chunk);
		int result;

		/* A chunk whose checksum says zeros, but which has pages, is read all the same. */
		if (snapshot_chunk_is_zero(block, chunk) && !block->stored[chunk]) {
			atomic_fetch_add(&work->zero, snapshot_chunk_size(block, chunk));
			continue;
		}
		result = snapshot_chunk_read(block, chunk, buffer);
		atomic_fetch_add(&work->read, 1);
		if (result)
			note_bad(work, number, result);
		if (reports && number % 8 == 0)
			snapshot_progress_report(work->progress, number * SNAPSHOT_CHUNK_SIZE,
						 work->total * SNAPSHOT_CHUNK_SIZE);
	}
}

static void *verify_thread(void *context)
{
	AUTO_FREE uint8_t *buffer = aligned_alloc(SNAPSHOT_PAGE_SIZE, SNAPSHOT_CHUNK_SIZE);

	/* Without memory the others do the work. */
	if (buffer)
		verify_chunks(context, buffer, false);
	return NULL;
}

struct error *snapshot_verify(const struct snapshot_file *file, unsigned int threads,
			      const struct snapshot_progress *progress,
			      struct snapshot_verify_result *result)
{
	AUTO_FREE uint8_t *buffer = aligned_alloc(SNAPSHOT_PAGE_SIZE, SNAPSHOT_CHUNK_SIZE);
	struct verification work = {
	    .file = file, .progress = progress, .lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t others[SNAPSHOT_VERIFY_THREADS_MAX];
	unsigned int started = 0;
	struct error *error = NULL;
	const struct snapshot_block *bad;
	uint64_t chunk;

	memset(result, 0, sizeof(*result));
	if (!buffer)
		return error_new(ENOMEM, "no memory to verify %s", file->path);
	for (uint32_t i = 0; i < file->block_count; i++) {
		work.total += snapshot_block_chunks(&file->blocks[i]);
		result->bytes += file->blocks[i].size;
	}
	work.first_bad = work.total;
	while (started + 1 < MIN(threads, (unsigned int)SNAPSHOT_VERIFY_THREADS_MAX)) {
		error = thread_start(&others[started], "verify", verify_thread, &work);
		if (error)
			break;
		started++;
	}
	/* Fewer threads are slower, no more. */
	error_free(error);
	verify_chunks(&work, buffer, true);
	while (started)
		pthread_join(others[--started], NULL);
	snapshot_progress_report(progress, work.total * SNAPSHOT_CHUNK_SIZE,
				 work.total * SNAPSHOT_CHUNK_SIZE);
	result->chunks = work.read;
	result->zero = work.zero;
	result->bad = work.bad;
	if (!result->bad)
		return NULL;
	bad = find_chunk(file, work.first_bad, &chunk);
	error = snapshot_chunk_error(bad, chunk, work.first_result);
	if (result->bad > 1)
		error = error_prefix(error, "%" PRIu64 " pieces of 256 KiB are bad, the first",
				     result->bad);
	return error;
}
