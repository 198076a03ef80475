/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshot files: whatever is in one, opening it fails with a message, or everything in it can be
 * looked at, read, compared and drawn without harm. The checksum of what is not a page is not
 * compared, or nothing would ever get past it.
 *
 * A file has its first page at 1 MiB, so the input is a sparse form of it: a size (4 bytes, of which
 * 26 bits count), then pieces {offset, length: 4 bytes each, bytes}, as much as there is. All
 * little-endian.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "fuzz_input.h"
#include "snapshot/snapshot_diff.h"
#include "snapshot/snapshot_map.h"
#include "snapshot/snapshot_parts.h"

#define SIZE_LIMIT MIB(64)

static int sparse_file(const uint8_t *data, size_t size)
{
	static int fd = -1;
	uint64_t offset, length, end;

	if (fd < 0)
		fd = memfd_create("snapshot", MFD_CLOEXEC);
	end = get_le32(data) % SIZE_LIMIT;
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)end) < 0)
		abort();
	for (size_t at = 4; size - at >= 8; at += 8 + length) {
		offset = get_le32(data + at);
		length = MIN((uint64_t)get_le32(data + at + 4), (uint64_t)(size - at - 8));
		if (offset < end &&
		    pwrite(fd, data + at + 8, MIN(length, end - offset), (off_t)offset) < 0)
			abort();
	}
	return fd;
}

static void use_block(const struct snapshot_block *block)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];
	uint64_t counts[SNAPSHOT_PAGE_KINDS], total = 0;
	struct error *error = snapshot_block_count(block, counts);

	if (!error) {
		for (int kind = 0; kind < SNAPSHOT_PAGE_KINDS; kind++)
			total += counts[kind];
		assert(total == snapshot_block_pages(block));
	}
	error_free(error);
	snapshot_block_allocated(block);
	for (uint64_t chunk = 0; chunk < MIN(snapshot_block_chunks(block), (uint64_t)8); chunk++) {
		int result = snapshot_chunk_read(block, chunk, buffer);

		if (result)
			error_free(snapshot_chunk_error(block, chunk, result));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct snapshot_memory memory;
	const struct snapshot_open_options options = {.damaged = true, .without_base = true};
	struct snapshot_file *file = NULL;
	struct snapshot_diff *diff = NULL;
	struct error *error;
	char path[64];
	bool assumed;

	if (size < 4)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", sparse_file(data, size));
	error = snapshot_file_open(path, &options, &file);
	if (error) {
		assert(error_message(error)[0]);
		error_free(error);
		return 0;
	}
	for (uint32_t i = 0; i < file->block_count; i++)
		use_block(&file->blocks[i]);
	error_free(snapshot_file_memory(file, &memory, &assumed));
	snprintf(path, sizeof(path), "map-%d.svg", (int)getpid());
	error_free(snapshot_map_write(file, path));
	unlink(path);
	error_free(snapshot_diff(file, file, NULL, &diff));
	if (diff)
		assert(diff->same);
	snapshot_diff_free(diff);
	snapshot_file_close(file);
	return 0;
}
