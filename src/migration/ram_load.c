/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loading guest memory, see ram_load.h. Channels take stripes of chunks in the order of the file. A
 * chunk whose pages all lie in this file is read to its place and verified when its last page has
 * arrived; one that has pages in a base goes through a buffer, put together by snapshot_chunk_read.
 */
#include "migration/ram_load.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/thread.h"
#include "migration/page_io.h"
#include "migration/ram_blocks.h"

#define PAGE	    SNAPSHOT_PAGE_SIZE
#define CHUNK	    SNAPSHOT_CHUNK_SIZE
#define STRIPE	    16 /* chunks that a channel takes at once */
#define CHUNKS_OPEN 64 /* chunks of one channel that are being read */

struct loaded_block {
	struct ram_block *block;
	const struct snapshot_block *source;
	uint64_t chunks, first_chunk; /* the latter in the count over all blocks */
};

/* A chunk that is being read to its place. */
struct open_chunk {
	struct open_chunk *next_free;
	const struct loaded_block *block;
	uint64_t chunk;
	uint32_t uses; /* reads under way, and one while they are submitted */
};

struct load_channel {
	struct ram_load *load;
	pthread_t thread;
	bool started;
	struct page_io *io;
	uint8_t *scratch; /* a chunk */
	struct open_chunk open[CHUNKS_OPEN], *free;
};

struct ram_load {
	struct ram_load_options options;
	const struct snapshot_file *file;
	int fd; /* of the file, with O_DIRECT if wanted */
	struct loaded_block *blocks;
	uint32_t block_count;
	uint64_t chunks;
	uint64_t next_chunk; /* atomic */
	struct load_channel *channels;
	pthread_mutex_t lock; /* guards error */
	struct error *error;  /* the first one */
	bool stopping;	      /* atomic */
	uint64_t total, done; /* bytes; done is atomic */
};

static void stop_with(struct ram_load *load, struct error *error)
{
	pthread_mutex_lock(&load->lock);
	if (load->error)
		error_free(error);
	else
		load->error = error;
	pthread_mutex_unlock(&load->lock);
	__atomic_store_n(&load->stopping, true, __ATOMIC_RELAXED);
}

void ram_load_cancel(struct ram_load *load)
{
	stop_with(load, error_new(ECANCELED, "the restore was cancelled"));
}

/* --- Does the file fit? ------------------------------------------------------------------------ */

/* What a chunk brings: its own pages, and its base's. */
static uint64_t content_mask(const struct snapshot_block *source, uint64_t chunk)
{
	return source->stored[chunk] | (source->inherited ? source->inherited[chunk] : 0);
}

/* Refuses the pages @mask of a chunk where an elastic region is not plugged. */
static struct error *check_plugged(const struct memory_region *region,
				   const struct snapshot_block *source, uint64_t chunk,
				   uint64_t mask)
{
	uint64_t first = region->block_offset / PAGE, end = first + region->size / PAGE;

	FOR_EACH_PAGE_RUN(run, mask)
	{
		uint64_t page = chunk * SNAPSHOT_CHUNK_PAGES + run.first;
		uint64_t last = MIN(page + run.count, end);

		page = MAX(page, first);
		if (page < last &&
		    !memory_region_all_plugged(region, (page - first) * PAGE, (last - page) * PAGE))
			return error_new(EINVAL,
					 "snapshot '%s' has pages at offset %#" PRIx64
					 " of memory '%s', which is not plugged",
					 source->file->path, page * PAGE, source->name);
	}
	return NULL;
}

/* Refuses content for pages of an elastic region that are not plugged. */
static struct error *check_region(const struct memory_region *region,
				  const struct snapshot_block *source)
{
	uint64_t first = region->block_offset / PAGE, end = first + region->size / PAGE;

	if (!region->unit)
		return NULL;
	for (uint64_t chunk = first / SNAPSHOT_CHUNK_PAGES; chunk * SNAPSHOT_CHUNK_PAGES < end;
	     chunk++)
		TRY(check_plugged(region, source, chunk, content_mask(source, chunk)));
	return NULL;
}

struct error *ram_load_check_chunk(const struct memory_map *map,
				   const struct snapshot_block *source, uint64_t chunk,
				   uint64_t mask)
{
	for (struct memory_region *region = memory_map_first(map); region; region = region->next)
		if (region->unit && strcmp(region->block->name, source->name) == 0)
			TRY(check_plugged(region, source, chunk, mask));
	return NULL;
}

struct error *ram_load_check_blocks(const struct memory_map *map, const struct snapshot_file *file)
{
	struct ram_block *block;
	uint32_t count;

	for (count = 0; (block = ram_blocks_at(map, count)); count++) {
		const struct snapshot_block *source = snapshot_file_block(file, block->name);

		if (!source)
			return error_new(EINVAL, "snapshot '%s' has no memory '%s'", file->path,
					 block->name);
		if (source->size != block->size)
			return error_new(EINVAL,
					 "memory '%s' has %" PRIu64
					 " bytes in snapshot '%s', and %" PRIu64 " here",
					 block->name, source->size, file->path, block->size);
	}
	if (count != file->block_count)
		return error_new(EINVAL, "snapshot '%s' has %u pieces of memory, this machine %u",
				 file->path, file->block_count, count);
	return NULL;
}

struct error *ram_load_check(const struct memory_map *map, const struct snapshot_file *file)
{
	TRY(ram_load_check_blocks(map, file));
	for (struct memory_region *region = memory_map_first(map); region; region = region->next)
		TRY(check_region(region, snapshot_file_block(file, region->block->name)));
	return NULL;
}

/* --- One chunk --------------------------------------------------------------------------------- */

static uint8_t *place_of(const struct loaded_block *block, uint64_t chunk)
{
	return block->block->host + chunk * CHUNK;
}

/* The checksum is over the whole chunk; pages that the file does not have must not be touched. */
static bool is_intact(struct load_channel *channel, const struct loaded_block *block,
		      uint64_t chunk)
{
	uint64_t size = ram_chunk_size(block->block, chunk);
	uint64_t stored = block->source->stored[chunk];
	const uint8_t *content = place_of(block, chunk);

	if (!block->source->checksums)
		return true;
	if (stored != ram_page_mask(size)) {
		memset(channel->scratch, 0, size);
		FOR_EACH_PAGE_RUN(run, stored)
		memcpy(channel->scratch + run.first * PAGE, content + run.first * PAGE,
		       run.count * PAGE);
		content = channel->scratch;
	}
	return snapshot_checksum_equal(snapshot_checksum(content, size),
				       block->source->checksums[chunk]);
}

static void count_done(struct ram_load *load, uint64_t mask)
{
	__atomic_fetch_add(&load->done, (uint64_t)__builtin_popcountll(mask) * PAGE,
			   __ATOMIC_RELAXED);
}

static void close_chunk(struct load_channel *channel, struct open_chunk *open)
{
	if (--open->uses)
		return;
	if (!__atomic_load_n(&channel->load->stopping, __ATOMIC_RELAXED)) {
		if (is_intact(channel, open->block, open->chunk))
			count_done(channel->load, open->block->source->stored[open->chunk]);
		else
			stop_with(channel->load,
				  snapshot_chunk_error(open->block->source, open->chunk, -EBADMSG));
	}
	open->next_free = channel->free;
	channel->free = open;
}

static void read_ended(void *context, void *tag, int result)
{
	struct load_channel *channel = context;
	struct open_chunk *open = tag;

	if (result < 0)
		stop_with(channel->load,
			  snapshot_chunk_error(open->block->source, open->chunk, -EIO));
	close_chunk(channel, open);
}

static void read_in_place(struct load_channel *channel, const struct loaded_block *block,
			  uint64_t chunk)
{
	struct open_chunk *open;

	while (!channel->free)
		page_io_wait(channel->io);
	open = channel->free;
	channel->free = open->next_free;
	*open = (struct open_chunk){.block = block, .chunk = chunk, .uses = 1};
	FOR_EACH_PAGE_RUN(run, block->source->stored[chunk])
	{
		open->uses++;
		page_io_submit(
		    channel->io, place_of(block, chunk) + run.first * PAGE, run.count * PAGE,
		    block->source->pages_offset + chunk * CHUNK + run.first * PAGE, open);
	}
	close_chunk(channel, open);
}

static void read_through_buffer(struct load_channel *channel, const struct loaded_block *block,
				uint64_t chunk)
{
	uint64_t mask = content_mask(block->source, chunk);
	int result = snapshot_chunk_read(block->source, chunk, channel->scratch);

	if (result < 0) {
		stop_with(channel->load, snapshot_chunk_error(block->source, chunk, result));
		return;
	}
	FOR_EACH_PAGE_RUN(run, mask)
	memcpy(place_of(block, chunk) + run.first * PAGE, channel->scratch + run.first * PAGE,
	       run.count * PAGE);
	count_done(channel->load, mask);
}

/* --- Channels ---------------------------------------------------------------------------------- */

static const struct loaded_block *block_of_chunk(const struct ram_load *load, uint64_t chunk)
{
	uint32_t i = load->block_count - 1;

	while (load->blocks[i].first_chunk > chunk)
		i--;
	return &load->blocks[i];
}

static void load_chunk(struct load_channel *channel, uint64_t index)
{
	const struct loaded_block *block = block_of_chunk(channel->load, index);
	uint64_t chunk = index - block->first_chunk;

	if (block->source->inherited && block->source->inherited[chunk])
		read_through_buffer(channel, block, chunk);
	else if (block->source->stored[chunk])
		read_in_place(channel, block, chunk);
	page_io_poll(channel->io);
}

static void *load_thread(void *context)
{
	struct load_channel *channel = context;
	struct ram_load *load = channel->load;
	uint64_t first;

	while ((first = __atomic_fetch_add(&load->next_chunk, STRIPE, __ATOMIC_RELAXED)) <
	       load->chunks)
		for (uint64_t chunk = first; chunk < MIN(first + STRIPE, load->chunks) &&
					     !__atomic_load_n(&load->stopping, __ATOMIC_RELAXED);
		     chunk++)
			load_chunk(channel, chunk);
	if (page_io_drain(channel->io) < 0) {
		/* read_ended has told of it. */
	}
	return NULL;
}

static struct error *start_channel(struct ram_load *load, struct load_channel *channel,
				   uint32_t index)
{
	char name[16];

	channel->load = load;
	channel->scratch = aligned_alloc(PAGE, CHUNK);
	if (!channel->scratch)
		return error_system(ENOMEM, "a channel");
	for (uint32_t i = 0; i < CHUNKS_OPEN; i++) {
		channel->open[i].next_free = channel->free;
		channel->free = &channel->open[i];
	}
	TRY(page_io_create(load->fd, load->options.direct, PAGE_IO_READ, read_ended, channel,
			   &channel->io));
	snprintf(name, sizeof(name), "load%u", index);
	TRY(thread_start(&channel->thread, name, load_thread, channel));
	channel->started = true;
	return NULL;
}

struct error *ram_load_run(struct ram_load *load)
{
	struct error *error;

	for (uint32_t i = 0; i < load->options.channels; i++) {
		error = start_channel(load, &load->channels[i], i);
		if (error) {
			stop_with(load, error);
			break;
		}
	}
	for (uint32_t i = 0; i < load->options.channels; i++)
		if (load->channels[i].started)
			pthread_join(load->channels[i].thread, NULL);
	error = load->error;
	load->error = NULL;
	return error;
}

void ram_load_progress(const struct ram_load *load, struct ram_load_progress *progress)
{
	progress->total = load->total;
	progress->done = __atomic_load_n(&load->done, __ATOMIC_RELAXED);
}

/* --- Life -------------------------------------------------------------------------------------- */

static void add_block(struct ram_load *load, struct ram_block *block,
		      const struct snapshot_block *source)
{
	struct loaded_block *loaded = &load->blocks[load->block_count++];

	*loaded = (struct loaded_block){
	    .block = block,
	    .source = source,
	    .chunks = ram_chunks(block),
	    .first_chunk = load->chunks,
	};
	load->chunks += loaded->chunks;
	for (uint64_t chunk = 0; chunk < loaded->chunks; chunk++)
		load->total += (uint64_t)__builtin_popcountll(content_mask(source, chunk)) * PAGE;
}

struct error *ram_load_create(const struct memory_map *map, const struct snapshot_file *file,
			      const struct ram_load_options *options, struct ram_load **result)
{
	AUTO_RAM_LOAD struct ram_load *load = calloc(1, sizeof(*load));
	struct ram_block *block;
	char path[64];

	if (!load)
		return error_system(ENOMEM, "a restore");
	load->fd = -1;
	pthread_mutex_init(&load->lock, NULL);
	load->options = *options;
	load->file = file;
	load->blocks = calloc(file->block_count, sizeof(*load->blocks));
	load->channels = calloc(options->channels, sizeof(*load->channels));
	if (!load->blocks || !load->channels)
		return error_system(ENOMEM, "a restore");
	/* A description of our own, since O_DIRECT belongs to it; by descriptor, not by a name that
	 * may have become another file's. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	load->fd = open(path, O_RDONLY | O_CLOEXEC | (options->direct ? O_DIRECT : 0));
	if (load->fd < 0)
		return error_system(errno, "cannot read snapshot '%s'%s", file->path,
				    options->direct ? " with O_DIRECT" : "");
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++)
		add_block(load, block, snapshot_file_block(file, block->name));
	*result = TAKE_PTR(load);
	return NULL;
}

void ram_load_destroy(struct ram_load *load)
{
	if (!load)
		return;
	for (uint32_t i = 0; load->channels && i < load->options.channels; i++) {
		page_io_destroy(load->channels[i].io);
		free(load->channels[i].scratch);
	}
	error_free(load->error);
	close_fd(&load->fd);
	pthread_mutex_destroy(&load->lock);
	free(load->channels);
	free(load->blocks);
	free(load);
}
