/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sharing the pages of a snapshot, ram_share.h. A block shows the file a chunk at a time, with what
 * lies between the pages that are stored; so a chunk is verified as it is in the file, the holes
 * included, and not as the format reads it.
 */
#include "migration/ram_share.h"

#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/thread.h"
#include "memory/ram_clone.h"
#include "migration/ram_blocks.h"

#define MAPPINGS_MAX                                                                               \
	16384U /* of files, for all blocks: a quarter of what Linux grants by default */
#define THREADS_MAX 16
#define STRIPE	    16 /* chunks that a thread takes at once */
#define NICENESS    19

struct shared_block {
	struct ram_block *block;
	const struct snapshot_block *source;
	uint64_t chunks, first_chunk; /* the latter in the count over all blocks */
};

struct ram_verify {
	struct shared_block *blocks;
	uint32_t block_count;
	uint64_t chunks, next_chunk; /* the latter is atomic */
	uint64_t total, done;	     /* bytes; done is atomic */
	pthread_mutex_t lock;	     /* guards error */
	struct error *error;	     /* the first one */
	bool stopping;		     /* atomic */
	pthread_t thread;
	bool started;
	const struct ram_share_ops *ops;
	void *context;
};

/* --- Sharing ----------------------------------------------------------------------------------- */

struct error *ram_share_supports(const struct snapshot_file *file)
{
	if (file->foreign)
		return error_new(EOPNOTSUPP, "'%s' was saved by QEMU: it cannot be cloned",
				 file->path);
	if (file->base_path)
		return error_new(
		    EOPNOTSUPP,
		    "'%s' has a base, '%s', and pages of two files cannot be shared as "
		    "one: make one of them with 'godwit snapshot flatten'",
		    file->path, file->base_path);
	return NULL;
}

struct error *ram_share_attach(const struct memory_map *map, const struct snapshot_file *file)
{
	struct ram_block *block;

	TRY(ram_share_supports(file));
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++) {
		const struct snapshot_block *source = snapshot_file_block(file, block->name);
		struct ram_clone_source clone = {
		    .fd = file->fd,
		    .mappings_max = MAX(MAPPINGS_MAX / file->block_count, 1U),
		};

		if (!source || source->size != block->size)
			return error_new(EINVAL, "snapshot '%s' has no memory '%s' of %llu bytes",
					 file->path, block->name, (unsigned long long)block->size);
		clone.offset = source->pages_offset;
		clone.stored = source->stored;
		TRY(ram_clone_attach(block, &clone));
	}
	return NULL;
}

/* --- Verifying --------------------------------------------------------------------------------- */

static bool stopping(const struct ram_verify *verify)
{
	return __atomic_load_n(&verify->stopping, __ATOMIC_RELAXED);
}

static void stop_with(struct ram_verify *verify, struct error *error)
{
	pthread_mutex_lock(&verify->lock);
	if (verify->error)
		error_free(error);
	else
		verify->error = error;
	pthread_mutex_unlock(&verify->lock);
	__atomic_store_n(&verify->stopping, true, __ATOMIC_RELAXED);
}

/* The chunk as it is in the file. 0 or a negative errno. */
static int read_chunk(const struct snapshot_block *source, uint64_t chunk, uint8_t *buffer)
{
	uint64_t size = snapshot_chunk_size(source, chunk), done = 0;
	uint64_t offset = source->pages_offset + chunk * SNAPSHOT_CHUNK_SIZE;

	while (done < size) {
		ssize_t got =
		    pread(source->file->fd, buffer + done, size - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EIO;
		done += (uint64_t)got;
	}
	return 0;
}

static void verify_chunk(struct ram_verify *verify, const struct shared_block *block,
			 uint64_t chunk, uint8_t *buffer)
{
	const struct snapshot_block *source = block->source;
	struct snapshot_checksum checksum = {0};
	int result = 0;

	/* What a running guest has given back is mapped no more, but may have been seen. */
	if (source->stored[chunk] || ram_clone_maps(block->block, chunk)) {
		result = read_chunk(source, chunk, buffer);
		if (!result)
			checksum = snapshot_checksum(buffer, snapshot_chunk_size(source, chunk));
		__atomic_fetch_add(&verify->done,
				   (uint64_t)__builtin_popcountll(source->stored[chunk]) *
				       SNAPSHOT_PAGE_SIZE,
				   __ATOMIC_RELAXED);
	}
	if (!result && !snapshot_checksum_equal(checksum, source->checksums[chunk]))
		result = -EBADMSG;
	if (result)
		stop_with(verify, snapshot_chunk_error(source, chunk, result));
}

/* Until nothing is left. */
static void verify_chunks(struct ram_verify *verify)
{
	AUTO_FREE uint8_t *buffer = aligned_alloc(SNAPSHOT_PAGE_SIZE, SNAPSHOT_CHUNK_SIZE);
	uint64_t first;

	if (!buffer) {
		stop_with(verify, error_system(ENOMEM, "verifying memory"));
		return;
	}
	while ((first = __atomic_fetch_add(&verify->next_chunk, STRIPE, __ATOMIC_RELAXED)) <
	       verify->chunks)
		for (uint64_t chunk = first;
		     chunk < MIN(first + STRIPE, verify->chunks) && !stopping(verify); chunk++) {
			uint32_t i = verify->block_count - 1;

			while (verify->blocks[i].first_chunk > chunk)
				i--;
			verify_chunk(verify, &verify->blocks[i],
				     chunk - verify->blocks[i].first_chunk, buffer);
		}
}

static void *helper_thread(void *context)
{
	verify_chunks(context);
	return NULL;
}

struct error *ram_verify_run(struct ram_verify *verify, uint32_t threads)
{
	pthread_t helpers[THREADS_MAX];
	uint32_t count = 0;
	struct error *error = NULL;

	while (!error && count + 1 < MIN(threads, (uint32_t)THREADS_MAX)) {
		error = thread_start(&helpers[count], "verify", helper_thread, verify);
		count += !error;
	}
	error_free(error); /* fewer are slower, no more */
	verify_chunks(verify);
	while (count)
		pthread_join(helpers[--count], NULL);
	return TAKE_PTR(verify->error);
}

static void *background_thread(void *context)
{
	struct ram_verify *verify = context;

	/* Of this thread alone; where it is refused, it takes its share. */
	setpriority(PRIO_PROCESS, 0, NICENESS);
	verify_chunks(verify);
	if (verify->error)
		verify->ops->failed(verify->context, TAKE_PTR(verify->error));
	else if (!stopping(verify))
		verify->ops->completed(verify->context);
	return NULL;
}

struct error *ram_verify_start(struct ram_verify *verify, const struct ram_share_ops *ops,
			       void *context)
{
	verify->ops = ops;
	verify->context = context;
	TRY(thread_start(&verify->thread, "verify", background_thread, verify));
	verify->started = true;
	return NULL;
}

void ram_verify_progress(const struct ram_verify *verify, uint64_t *total, uint64_t *done)
{
	*total = verify->total;
	*done = __atomic_load_n(&verify->done, __ATOMIC_RELAXED);
}

/* --- Life -------------------------------------------------------------------------------------- */

struct error *ram_verify_create(const struct memory_map *map, const struct snapshot_file *file,
				struct ram_verify **result)
{
	AUTO_RAM_VERIFY struct ram_verify *verify = calloc(1, sizeof(*verify));
	struct ram_block *block;

	if (!verify)
		return error_system(ENOMEM, "verifying memory");
	pthread_mutex_init(&verify->lock, NULL);
	verify->blocks = calloc(MAX(file->block_count, 1U), sizeof(*verify->blocks));
	if (!verify->blocks)
		return error_system(ENOMEM, "verifying memory");
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++) {
		const struct snapshot_block *source = snapshot_file_block(file, block->name);

		verify->blocks[verify->block_count++] = (struct shared_block){
		    .block = block,
		    .source = source,
		    .chunks = ram_chunks(block),
		    .first_chunk = verify->chunks,
		};
		verify->chunks += ram_chunks(block);
		for (uint64_t chunk = 0; chunk < ram_chunks(block); chunk++)
			verify->total += (uint64_t)__builtin_popcountll(source->stored[chunk]) *
					 SNAPSHOT_PAGE_SIZE;
	}
	*result = TAKE_PTR(verify);
	return NULL;
}

void ram_verify_destroy(struct ram_verify *verify)
{
	if (!verify)
		return;
	__atomic_store_n(&verify->stopping, true, __ATOMIC_RELAXED);
	if (verify->started)
		pthread_join(verify->thread, NULL);
	error_free(verify->error);
	pthread_mutex_destroy(&verify->lock);
	free(verify->blocks);
	free(verify);
}
