/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What stands behind the configuration in a file of godwit: its sections in their one order, and
 * the mark of completion. docs/snapshot-format.md says it in words.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_file_section.h"
#include "snapshot/snapshot_parse.h"

struct error *snapshot_parse_expect(struct snapshot_parser *parser, uint8_t type, const char *name,
				    struct snapshot_frame *frame)
{
	TRY(snapshot_parse_frame(parser, frame));
	if (frame->type != type || (name && strcmp(frame->name, name) != 0))
		return snapshot_stream_bad("section", frame->offset,
					   "is '%s' of type 0x%02x, not '%s' of type 0x%02x",
					   frame->name, frame->type, name ?: "", type);
	return NULL;
}

static struct error *read_length(struct snapshot_parser *parser, uint32_t *length)
{
	return snapshot_stream_read32(&parser->stream, "length of a section", length);
}

static struct error *parse_ram_flags(struct snapshot_parser *parser,
				     const struct snapshot_frame *frame)
{
	uint64_t offset = parser->stream.offset, flags;

	TRY(snapshot_stream_read64(&parser->stream, "end of RAM", &flags));
	if (flags != RAM_FLAG_EOS)
		return snapshot_stream_bad("end of RAM", offset, "is 0x%" PRIx64 ", not 0x%x",
					   flags, RAM_FLAG_EOS);
	return snapshot_parse_footer(parser, frame);
}

/* The FULL sections in front of the RAM, and RAM itself. */
static struct error *parse_front(struct snapshot_parser *parser)
{
	struct snapshot_frame frame;
	uint32_t length;

	for (;;) {
		TRY(snapshot_parse_frame(parser, &frame));
		if (frame.type != QEVM_SECTION_FULL)
			break;
		TRY(read_length(parser, &length));
		TRY(snapshot_parse_section(parser, &frame, length));
	}
	if (frame.type != QEVM_SECTION_START || strcmp(frame.name, RAM_SECTION_NAME) != 0)
		return snapshot_stream_bad("section", frame.offset,
					   "is '%s' of type 0x%02x, not the start of RAM",
					   frame.name, frame.type);
	TRY(snapshot_parse_ram(parser, &frame));
	TRY(parse_ram_flags(parser, &frame));
	TRY(snapshot_parse_expect(parser, QEVM_SECTION_END, NULL, &frame));
	if (frame.id != parser->ram_id)
		return snapshot_stream_bad("section id", frame.offset + 1,
					   "is %u, not that of RAM, %u", frame.id, parser->ram_id);
	return parse_ram_flags(parser, &frame);
}

struct error *snapshot_parse_table(struct snapshot_parser *parser, const char *name, uint64_t size,
				   struct snapshot_frame *frame)
{
	uint32_t length;

	TRY(snapshot_parse_expect(parser, QEVM_SECTION_FULL, name, frame));
	if (frame->instance != 0 || frame->version != 1)
		return snapshot_stream_bad("section", frame->offset,
					   "'%s' has instance %u and version %u, not 0 and 1", name,
					   frame->instance, frame->version);
	TRY(read_length(parser, &length));
	if (length != size)
		return snapshot_stream_bad("length of a section", parser->stream.offset - 4,
					   "(%s) is %u, and the RAM blocks need %" PRIu64, name,
					   length, size);
	return NULL;
}

static uint64_t count_chunks(const struct snapshot_file *file)
{
	uint64_t chunks = 0;

	for (uint32_t i = 0; i < file->block_count; i++)
		chunks += snapshot_block_chunks(&file->blocks[i]);
	return chunks;
}

static struct error *parse_checksums(struct snapshot_parser *parser)
{
	struct snapshot_file *file = parser->file;
	struct snapshot_frame frame;

	TRY(snapshot_parse_table(parser, SNAPSHOT_SECTION_CHECKSUMS,
				 count_chunks(file) * SNAPSHOT_CHECKSUM_SIZE, &frame));
	for (uint32_t i = 0; i < file->block_count; i++) {
		struct snapshot_block *block = &file->blocks[i];
		uint64_t chunks = snapshot_block_chunks(block);
		struct snapshot_checksum *checksums = calloc(chunks, sizeof(*checksums));

		if (!checksums)
			return error_new(ENOMEM, "no memory for the checksums of block %s",
					 block->name);
		block->checksums = checksums;
		_Static_assert(sizeof(*checksums) == SNAPSHOT_CHECKSUM_SIZE, "as in the file");
		/* The bytes are put in their order where they are. */
		TRY(snapshot_stream_read(&parser->stream, frame.name, checksums,
					 chunks * sizeof(*checksums)));
		for (uint64_t chunk = 0; chunk < chunks; chunk++) {
			checksums[chunk].high = be64toh(checksums[chunk].high);
			checksums[chunk].low = be64toh(checksums[chunk].low);
		}
	}
	return snapshot_parse_footer(parser, &frame);
}

static struct error *parse_inherited(struct snapshot_parser *parser)
{
	struct snapshot_file *file = parser->file;
	struct snapshot_frame frame;

	TRY(snapshot_parse_table(parser, SNAPSHOT_SECTION_INHERITED, count_chunks(file) * 8,
				 &frame));
	for (uint32_t i = 0; i < file->block_count; i++) {
		struct snapshot_block *block = &file->blocks[i];
		uint64_t chunks = snapshot_block_chunks(block), pages = snapshot_block_pages(block);
		uint64_t offset = parser->stream.offset;
		uint64_t *inherited = calloc(chunks, sizeof(*inherited));

		if (!inherited)
			return error_new(ENOMEM, "no memory for the bitmap of block %s",
					 block->name);
		block->inherited = inherited;
		TRY(snapshot_stream_read(&parser->stream, frame.name, inherited, chunks * 8));
		for (uint64_t word = 0; word < chunks; word++) {
			uint64_t there = word == chunks - 1 && pages % 64
					     ? (UINT64_C(1) << (pages % 64)) - 1
					     : UINT64_MAX;

			inherited[word] = le64toh(inherited[word]);
			if (inherited[word] & ~there)
				return snapshot_stream_bad("inherited pages", offset + word * 8,
							   "of block %s are beyond its end",
							   block->name);
			if (inherited[word] & block->stored[word])
				return snapshot_stream_bad("inherited pages", offset + word * 8,
							   "of block %s are stored as well",
							   block->name);
		}
	}
	return snapshot_parse_footer(parser, &frame);
}

/* A chunk without a page reads as zeros, so it must have their checksum. */
static struct error *check_absent_chunks(const struct snapshot_file *file)
{
	for (uint32_t i = 0; i < file->block_count; i++) {
		const struct snapshot_block *block = &file->blocks[i];

		for (uint64_t chunk = 0; chunk < snapshot_block_chunks(block); chunk++)
			if (!block->stored[chunk] &&
			    (!block->inherited || !block->inherited[chunk]) &&
			    !snapshot_checksum_is_zero(block->checksums[chunk]))
				return error_new(EBADMSG,
						 "bitmap of block %s names no page of the 256 KiB "
						 "at 0x%" PRIx64 ", whose checksum is not that of "
						 "zeros",
						 block->name, chunk * SNAPSHOT_CHUNK_SIZE);
	}
	return NULL;
}

static struct error *parse_end(struct snapshot_parser *parser, uint64_t *checksum)
{
	struct snapshot_stream *stream = &parser->stream;
	uint8_t id[SNAPSHOT_ID_SIZE];
	struct snapshot_frame frame;
	uint64_t magic, size;

	TRY(snapshot_parse_table(parser, SNAPSHOT_SECTION_END, SNAPSHOT_END_SIZE, &frame));
	TRY(snapshot_stream_read64(stream, "mark of completion", &magic));
	if (magic != SNAPSHOT_END_MAGIC)
		return snapshot_stream_bad("mark of completion", stream->offset - 8,
					   "is 0x%" PRIx64 ", not 0x%" PRIx64, magic,
					   (uint64_t)SNAPSHOT_END_MAGIC);
	TRY(snapshot_stream_read(stream, "id at the end", id, sizeof(id)));
	if (memcmp(id, parser->file->id, sizeof(id)) != 0)
		return snapshot_stream_bad("id at the end", stream->offset - sizeof(id),
					   "is not the one at the start: these are two files");
	TRY(snapshot_stream_read64(stream, "file size", &size));
	if (size != stream->size)
		return snapshot_stream_bad("file size", stream->offset - 8,
					   "is %" PRIu64 ", and the file has %" PRIu64 " bytes",
					   size, stream->size);
	stream->hashing = false;
	TRY(snapshot_stream_read64(stream, "checksum", checksum));
	stream->hashing = true;
	return snapshot_parse_footer(parser, &frame);
}

/* The description is for scripts; it is covered by the checksum and ends the file. */
static struct error *parse_description(struct snapshot_parser *parser)
{
	struct snapshot_stream *stream = &parser->stream;
	struct snapshot_frame frame;
	uint8_t type, part[4096];
	uint32_t length;

	TRY(snapshot_parse_expect(parser, QEVM_EOF, NULL, &frame));
	TRY(snapshot_stream_read8(stream, "description", &type));
	TRY(snapshot_stream_read32(stream, "length of the description", &length));
	if (type != QEVM_DESCRIPTION || length != stream->size - stream->offset)
		return snapshot_stream_bad("description", stream->offset - 5,
					   "has type 0x%02x and length %u: it does not end where "
					   "the file does",
					   type, length);
	for (size_t size; length; length -= size) {
		size = MIN(length, sizeof(part));
		TRY(snapshot_stream_read(stream, "description", part, size));
	}
	return NULL;
}

struct error *snapshot_parse_identity(struct snapshot_parser *parser)
{
	AUTO_FREE struct snapshot_file_section *section = calloc(1, sizeof(*section));
	static const uint8_t none[SNAPSHOT_ID_SIZE];
	struct snapshot_file *file = parser->file;
	struct state_part part = {.name = SNAPSHOT_SECTION_FILE,
				  .version = SNAPSHOT_FILE_SECTION_VERSION,
				  .visit = snapshot_file_section_state,
				  .context = section};
	bool based;

	if (!section)
		return error_new(ENOMEM, "no memory for section %s", part.name);
	TRY(snapshot_file_load(file, &part));
	memcpy(file->id, section->id, sizeof(file->id));
	memcpy(file->base_id, section->base_id, sizeof(file->base_id));
	if (memcmp(file->id, none, sizeof(none)) == 0)
		return error_new(EBADMSG, "section %s has an id of zeros", part.name);
	based = memcmp(file->base_id, none, sizeof(none)) != 0;
	if (based != parser->based || based != (section->base_path[0] != '\0'))
		return error_new(EBADMSG,
				 "section %s and the capability %s do not agree whether there is a "
				 "base",
				 part.name, SNAPSHOT_CAPABILITY_BASE);
	if (!based)
		return NULL;
	file->base_path = strdup(section->base_path);
	return file->base_path ? NULL : error_new(ENOMEM, "no memory for the path of the base");
}

struct error *snapshot_parse_godwit(struct snapshot_parser *parser)
{
	uint64_t checksum;

	TRY(parse_front(parser));
	TRY(snapshot_parse_identity(parser));
	TRY(parse_checksums(parser));
	if (parser->based)
		TRY(parse_inherited(parser));
	TRY(parse_end(parser, &checksum));
	TRY(parse_description(parser));
	if (!parser->damaged && checksum != snapshot_stream_hash(&parser->stream))
		return error_new(EBADMSG,
				 "checksum of everything but pages is 0x%016" PRIx64
				 ", and section %s says 0x%016" PRIx64
				 ": the file is damaged, restore it from another copy",
				 snapshot_stream_hash(&parser->stream), SNAPSHOT_SECTION_END,
				 checksum);
	return check_absent_chunks(parser->file);
}
