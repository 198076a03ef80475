/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots that come as a sequential stream: whatever comes, it is refused with a message, or can
 * be received to its end without harm. Checksums of what is not a page are not compared, or nothing
 * would ever get past them; those of pages are only computed. The input is the stream.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_input.h"
#include "snapshot/snapshot_receive.h"

static struct error *receive(struct snapshot_file *file)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];
	struct snapshot_record record;
	bool more;

	for (;;) {
		size_t size;

		TRY(snapshot_receiver_next(file->receiver, &record, &more));
		if (!more)
			return snapshot_receiver_finish(file->receiver);
		size = snapshot_chunk_size(&file->blocks[record.block], record.chunk);
		assert(size && size <= sizeof(buffer));
		assert((record.chunk + 1) * SNAPSHOT_CHUNK_SIZE <=
		       file->blocks[record.block].size + SNAPSHOT_CHUNK_SIZE - 1);
		TRY(snapshot_receiver_pages(file->receiver, &record, buffer));
		if (!snapshot_checksum_equal(snapshot_checksum(buffer, size), record.checksum))
			error_free(snapshot_receiver_bad_chunk(file->receiver, &record));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct snapshot_file *file = NULL;
	struct channel *channel;
	struct error *error;

	if (fd < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	snapshot_is_stream(fd);
	error = channel_open(fd, CHANNEL_READ, "input", &channel);
	if (error)
		abort();
	error = snapshot_receive(channel, true, &file);
	if (!error)
		error = receive(file);
	assert(!error || error_message(error)[0]);
	error_free(error);
	snapshot_file_close(file);
	return 0;
}
