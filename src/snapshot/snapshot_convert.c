/* SPDX-License-Identifier: BSD-2-Clause */
/* See snapshot_convert.h. One thread; the stream's sender controls its content, not its shape. */
#include "snapshot/snapshot_convert.h"

#include <string.h>

#include "snapshot/snapshot_receive.h"
#include "snapshot/snapshot_writer.h"

struct conversion {
	struct snapshot_file *stream;
	struct snapshot_writer *writer;
	uint8_t *chunk; /* SNAPSHOT_CHUNK_SIZE */
};

static struct error *write_run(struct conversion *conversion, const struct snapshot_record *record,
			       unsigned int first, unsigned int count)
{
	const uint8_t *bytes = conversion->chunk + (size_t)first * SNAPSHOT_PAGE_SIZE;
	size_t size = (size_t)count * SNAPSHOT_PAGE_SIZE;
	uint64_t offset = snapshot_writer_page_offset(conversion->writer, record->block,
						      record->chunk * SNAPSHOT_CHUNK_PAGES + first);

	while (size) {
		ssize_t written =
		    pwrite(snapshot_writer_fd(conversion->writer), bytes, size, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return error_system(errno, "cannot write the file");
		bytes += written;
		offset += (uint64_t)written;
		size -= (size_t)written;
	}
	return NULL;
}

static struct error *convert_chunk(struct conversion *conversion,
				   const struct snapshot_record *record)
{
	struct snapshot_receiver *receiver = conversion->stream->receiver;
	size_t size =
	    snapshot_chunk_size(&conversion->stream->blocks[record->block], record->chunk);
	unsigned int page = 0;

	memset(conversion->chunk, 0, size);
	TRY(snapshot_receiver_pages(receiver, record, conversion->chunk));
	if (!snapshot_checksum_equal(snapshot_checksum(conversion->chunk, size), record->checksum))
		return snapshot_receiver_bad_chunk(receiver, record);
	while (page < SNAPSHOT_CHUNK_PAGES) {
		unsigned int first = page;

		while (page < SNAPSHOT_CHUNK_PAGES && record->stored >> page & 1)
			page++;
		if (page > first)
			TRY(write_run(conversion, record, first, page - first));
		else
			page++;
	}
	snapshot_writer_set_chunk(conversion->writer, record->block, record->chunk, record->stored,
				  0, record->checksum);
	return NULL;
}

static struct error *convert(struct conversion *conversion,
			     const struct snapshot_progress *progress)
{
	const struct snapshot_file *stream = conversion->stream;
	struct snapshot_record record;
	uint64_t done = 0, total = 0;
	bool more;

	for (uint32_t i = 0; i < stream->section_count; i++) {
		const struct snapshot_section *section = &stream->sections[i];

		if (strcmp(section->name, SNAPSHOT_SECTION_FILE) == 0)
			continue; /* the new file has its own */
		TRY(snapshot_writer_add_bytes(conversion->writer, section->name, section->instance,
					      section->version, section->bytes, section->size));
	}
	for (uint32_t i = 0; i < stream->block_count; i++)
		total += stream->blocks[i].size;
	for (;;) {
		TRY(snapshot_receiver_next(stream->receiver, &record, &more));
		if (!more)
			break;
		TRY(convert_chunk(conversion, &record));
		done += SNAPSHOT_CHUNK_SIZE;
		if (done / SNAPSHOT_CHUNK_SIZE % SNAPSHOT_PROGRESS_CHUNKS == 0)
			snapshot_progress_report(progress, done, total);
	}
	TRY(snapshot_receiver_finish(stream->receiver));
	return snapshot_writer_finish(conversion->writer);
}

struct error *snapshot_convert(struct snapshot_file *stream, const char *path,
			       const struct snapshot_progress *progress)
{
	const struct snapshot_writer_options options = {.path = path};
	AUTO_FREE struct snapshot_block_plan *plans = calloc(SNAPSHOT_BLOCKS_MAX, sizeof(*plans));
	AUTO_FREE uint8_t *chunk = malloc(SNAPSHOT_CHUNK_SIZE);
	AUTO_SNAPSHOT_WRITER struct snapshot_writer *writer = NULL;
	struct conversion conversion = {.stream = stream, .chunk = chunk};

	if (!plans || !chunk)
		return error_new(ENOMEM, "no memory to write %s", path);
	for (uint32_t i = 0; i < stream->block_count; i++) {
		memcpy(plans[i].name, stream->blocks[i].name, sizeof(plans[i].name));
		plans[i].size = stream->blocks[i].size;
	}
	TRY(snapshot_writer_create(&options, plans, stream->block_count, &writer));
	conversion.writer = writer;
	return snapshot_receiver_explain(stream->receiver, convert(&conversion, progress));
}
