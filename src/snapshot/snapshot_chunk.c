/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading chunks, snapshot_file.h: each page from the file of the chain that has it. Any thread;
 * nothing is allocated or locked.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/snapshot_file.h"

bool snapshot_chunk_is_zero(const struct snapshot_block *block, uint64_t chunk)
{
	if (block->checksums)
		return snapshot_checksum_is_zero(block->checksums[chunk]);
	return !block->stored[chunk];
}

/* Takes the first run of set bits out of *@mask: its first bit, and how many in *@count. */
static unsigned int take_run(uint64_t *mask, unsigned int *count)
{
	unsigned int first = (unsigned int)__builtin_ctzll(*mask);
	uint64_t rest = ~(*mask >> first);

	*count = rest ? (unsigned int)__builtin_ctzll(rest) : 64;
	*mask &= *count == 64 ? 0 : ~(((UINT64_C(1) << *count) - 1) << first);
	return first;
}

static int read_all(int fd, uint8_t *bytes, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t got = pread(fd, bytes, size, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -EIO; /* the file has become shorter */
		bytes += got;
		offset += (size_t)got;
		size -= (size_t)got;
	}
	return 0;
}

/* Reads those pages of a chunk that are in @block's own file. */
static int read_stored(const struct snapshot_block *block, uint64_t chunk, uint64_t mask,
		       uint8_t *buffer)
{
	uint64_t offset = block->pages_offset + chunk * SNAPSHOT_CHUNK_SIZE;
	unsigned int count;

	while (mask) {
		unsigned int first = take_run(&mask, &count);
		int result = read_all(block->file->fd, buffer + first * SNAPSHOT_PAGE_SIZE,
				      (size_t)count * SNAPSHOT_PAGE_SIZE,
				      offset + (uint64_t)first * SNAPSHOT_PAGE_SIZE);

		if (result)
			return result;
	}
	return 0;
}

int snapshot_chunk_read(const struct snapshot_block *block, uint64_t chunk, void *buffer)
{
	size_t size = snapshot_chunk_size(block, chunk);
	unsigned int pages = (unsigned int)(size / SNAPSHOT_PAGE_SIZE), count;
	uint64_t zero = pages == 64 ? UINT64_MAX : (UINT64_C(1) << pages) - 1;
	const struct snapshot_block *layer = block;
	uint64_t wanted = zero;
	uint8_t *bytes = buffer;

	for (;;) {
		uint64_t stored = layer->stored[chunk] & wanted;
		int result = read_stored(layer, chunk, stored, bytes);

		if (result)
			return result;
		zero &= ~stored;
		wanted = layer->inherited ? layer->inherited[chunk] & wanted : 0;
		if (!wanted)
			break;
		layer = layer->base;
		if (!layer)
			return -ENOLINK;
	}
	while (zero) {
		unsigned int first = take_run(&zero, &count);

		memset(bytes + first * SNAPSHOT_PAGE_SIZE, 0, (size_t)count * SNAPSHOT_PAGE_SIZE);
	}
	if (block->checksums &&
	    !snapshot_checksum_equal(snapshot_checksum(bytes, size), block->checksums[chunk]))
		return -EBADMSG;
	return 0;
}

struct error *snapshot_chunk_error(const struct snapshot_block *block, uint64_t chunk, int result)
{
	uint64_t offset = chunk * SNAPSHOT_CHUNK_SIZE;

	if (result == -EBADMSG)
		return error_new(
		    EBADMSG,
		    "%s: block %s: the %zu bytes at 0x%" PRIx64 " (file offset 0x%" PRIx64
		    ") do not have the checksum they were saved with: the file, or one "
		    "it builds on, is damaged",
		    block->file->path, block->name, snapshot_chunk_size(block, chunk), offset,
		    block->pages_offset + offset);
	if (result == -ENOLINK)
		return error_new(ENOLINK,
				 "%s: block %s: pages at 0x%" PRIx64
				 " are in the base, which is not open",
				 block->file->path, block->name, offset);
	return error_system(-result,
			    "%s: block %s: cannot read the %zu bytes at 0x%" PRIx64
			    " (file offset 0x%" PRIx64 ")",
			    block->file->path, block->name, snapshot_chunk_size(block, chunk),
			    offset, block->pages_offset + offset);
}
