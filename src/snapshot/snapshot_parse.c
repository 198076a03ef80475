/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What godwit's and QEMU's files have in common: configuration, the frames of sections, and RAM in
 * mapped-ram layout (QEMU: migration/savevm.c, migration/ram.c). One thread; everything read comes
 * from the file.
 */
#include "snapshot/snapshot_parse.h"

#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"

#define CAPABILITIES_MAX 16

/* --- Configuration ----------------------------------------------------------------------------- */

static struct error *parse_capability(struct snapshot_parser *parser)
{
	uint64_t offset = parser->stream.offset;
	char name[SNAPSHOT_NAME_MAX + 1];
	bool *flag;

	TRY(snapshot_stream_read_name(&parser->stream, "capability", name));
	if (strcmp(name, SNAPSHOT_CAPABILITY_MAPPED) == 0)
		flag = &parser->mapped_ram;
	else if (!parser->file->foreign && strcmp(name, SNAPSHOT_CAPABILITY_BASE) == 0)
		flag = &parser->based;
	else if (!parser->file->foreign && strcmp(name, SNAPSHOT_CAPABILITY_STREAM) == 0)
		flag = &parser->sequential;
	else if (parser->file->foreign && strcmp(name, "x-ignore-shared") == 0)
		flag = &parser->ignore_shared;
	else
		return snapshot_stream_bad("capability", offset,
					   "is '%s', which this godwit does not know", name);
	if (*flag)
		return snapshot_stream_bad("capability", offset, "'%s' is there twice", name);
	*flag = true;
	return NULL;
}

static struct error *parse_subsection(struct snapshot_parser *parser)
{
	struct snapshot_stream *stream = &parser->stream;
	uint64_t offset = stream->offset;
	char name[SNAPSHOT_NAME_MAX + 1];
	uint32_t version, count;
	uint8_t type, uuid[16];

	TRY(snapshot_stream_read8(stream, "subsection of the configuration", &type));
	TRY(snapshot_stream_read_name(stream, "name of the configuration's subsection", name));
	TRY(snapshot_stream_read32(stream, "version of the configuration's subsection", &version));
	if (version != 1)
		return snapshot_stream_bad("version of the configuration's subsection",
					   stream->offset - 4, "is %u, not 1", version);
	if (strcmp(name, "configuration/capabilities") == 0) {
		TRY(snapshot_stream_read32(stream, "number of capabilities", &count));
		if (count > CAPABILITIES_MAX)
			return snapshot_stream_bad("number of capabilities", stream->offset - 4,
						   "is %u, and %d are possible", count,
						   CAPABILITIES_MAX);
		for (uint32_t i = 0; i < count; i++)
			TRY(parse_capability(parser));
		return NULL;
	}
	if (parser->file->foreign && strcmp(name, "configuration/uuid") == 0)
		return snapshot_stream_read(stream, "UUID", uuid, sizeof(uuid));
	if (parser->file->foreign && strcmp(name, "configuration/target-page-bits") == 0) {
		TRY(snapshot_stream_read32(stream, "page bits", &count));
		if (count != 12)
			return snapshot_stream_bad("page bits", stream->offset - 4,
						   "is %u: only pages of 4 KiB can be read", count);
		return NULL;
	}
	return snapshot_stream_bad("subsection of the configuration", offset,
				   "is '%s', which this godwit does not know", name);
}

struct error *snapshot_parse_configuration(struct snapshot_parser *parser)
{
	struct snapshot_stream *stream = &parser->stream;
	struct snapshot_file *file = parser->file;
	uint32_t magic, version, length;
	uint8_t type;

	TRY(snapshot_stream_read32(stream, "magic number", &magic));
	if (magic == 0)
		return snapshot_stream_bad("magic number", 0,
					   "is 0: the file was not written to its end");
	if (magic != QEVM_MAGIC)
		return snapshot_stream_bad("magic number", 0,
					   "is 0x%08x, not 0x%08x: this is no snapshot", magic,
					   QEVM_MAGIC);
	TRY(snapshot_stream_read32(stream, "stream version", &version));
	if (version != QEVM_VERSION)
		return snapshot_stream_bad("stream version", 4, "is %u, not %d", version,
					   QEVM_VERSION);
	TRY(snapshot_stream_read8(stream, "configuration", &type));
	if (type != QEVM_CONFIGURATION)
		return snapshot_stream_bad("configuration", 8, "is missing: type 0x%02x", type);
	TRY(snapshot_stream_read32(stream, "length of the machine's name", &length));
	if (!length || length > SNAPSHOT_NAME_MAX)
		return snapshot_stream_bad("length of the machine's name", 9,
					   "is %u: 1 to %d are possible", length,
					   SNAPSHOT_NAME_MAX);
	TRY(snapshot_stream_read(stream, "machine's name", file->machine, length));
	file->machine[length] = '\0';
	for (uint32_t i = 0; i < length; i++)
		if (file->machine[i] < ' ' || file->machine[i] > '~')
			return snapshot_stream_bad("machine's name", 13 + i,
						   "has the byte 0x%02x, which is not printable",
						   (uint8_t)file->machine[i]);
	file->foreign =
	    strncmp(file->machine, SNAPSHOT_MACHINE_FAMILY, strlen(SNAPSHOT_MACHINE_FAMILY)) != 0;
	if (!file->foreign &&
	    (strcmp(file->machine, SNAPSHOT_MACHINE) != 0 || length != strlen(SNAPSHOT_MACHINE)))
		return snapshot_stream_bad("machine's name", 13,
					   "is '%s': this godwit reads '%s' only", file->machine,
					   SNAPSHOT_MACHINE);
	while (snapshot_stream_peek(stream) == QEVM_SUBSECTION)
		TRY(parse_subsection(parser));
	/* Whatever comes next, a stream that ends here is cut off. */
	if (stream->channel && snapshot_stream_peek(stream) < 0)
		TRY(snapshot_stream_read8(stream, "section", &type));
	if (stream->channel && !parser->sequential)
		return snapshot_stream_bad(
		    "configuration", 8,
		    "lacks the capability " SNAPSHOT_CAPABILITY_STREAM
		    ": this is a snapshot file, or QEMU's stream: a file can "
		    "only be read by its name, at any place of it");
	if (stream->channel && (parser->mapped_ram || parser->based))
		return snapshot_stream_bad(
		    "configuration", 8, "has the capability %s, which a stream cannot have",
		    parser->mapped_ram ? SNAPSHOT_CAPABILITY_MAPPED : SNAPSHOT_CAPABILITY_BASE);
	if (stream->channel)
		return NULL;
	if (parser->sequential)
		return snapshot_stream_bad(
		    "configuration", 8,
		    "has the capability " SNAPSHOT_CAPABILITY_STREAM
		    ": this is a sequential stream, whose pages have no "
		    "places: restore it ('godwit restore'), or make a file of "
		    "it ('godwit snapshot convert')");
	if (!parser->mapped_ram)
		return snapshot_stream_bad("configuration", 8,
					   "lacks the capability mapped-ram: the pages have no "
					   "fixed places");
	return NULL;
}

/* --- Sections ---------------------------------------------------------------------------------- */

struct error *snapshot_parse_frame(struct snapshot_parser *parser, struct snapshot_frame *frame)
{
	struct snapshot_stream *stream = &parser->stream;

	memset(frame, 0, sizeof(*frame));
	frame->offset = stream->offset;
	TRY(snapshot_stream_read8(stream, "section", &frame->type));
	switch (frame->type) {
	case QEVM_EOF:
	case QEVM_COMMAND:
		return NULL;
	case QEVM_SECTION_PART:
	case QEVM_SECTION_END:
		return snapshot_stream_read32(stream, "section id", &frame->id);
	case QEVM_SECTION_START:
	case QEVM_SECTION_FULL:
		TRY(snapshot_stream_read32(stream, "section id", &frame->id));
		TRY(snapshot_stream_read_name(stream, "name of a section", frame->name));
		TRY(snapshot_stream_read32(stream, "instance of a section", &frame->instance));
		return snapshot_stream_read32(stream, "version of a section", &frame->version);
	default:
		return snapshot_stream_bad("section", frame->offset,
					   "has the type 0x%02x, which is none", frame->type);
	}
}

struct error *snapshot_parse_footer(struct snapshot_parser *parser,
				    const struct snapshot_frame *frame)
{
	uint64_t offset = parser->stream.offset;
	uint8_t type;
	uint32_t id;

	TRY(snapshot_stream_read8(&parser->stream, "footer", &type));
	TRY(snapshot_stream_read32(&parser->stream, "footer", &id));
	if (type != QEVM_FOOTER || id != frame->id)
		return snapshot_stream_bad("footer", offset,
					   "is 0x%02x of section %u, not 0x%02x of section %u: "
					   "'%s' does not end here",
					   type, id, QEVM_FOOTER, frame->id, frame->name);
	return NULL;
}

struct error *snapshot_parse_section(struct snapshot_parser *parser,
				     const struct snapshot_frame *frame, uint64_t size)
{
	struct snapshot_file *file = parser->file;
	struct snapshot_stream *stream = &parser->stream;
	struct snapshot_section *section;
	AUTO_FREE uint8_t *bytes = NULL;

	if (snapshot_file_section(file, frame->name, frame->instance))
		return snapshot_stream_bad("section", frame->offset,
					   "'%s' of instance %u is there twice", frame->name,
					   frame->instance);
	if (size > stream->size - stream->offset ||
	    size > SNAPSHOT_SECTIONS_SIZE_MAX - parser->sections_size)
		return snapshot_stream_bad(
		    "section", frame->offset,
		    "'%s' has %" PRIu64
		    " bytes: the file does not have them, or all sections more than %d MiB",
		    frame->name, size, SNAPSHOT_SECTIONS_SIZE_MAX >> 20);
	if (file->section_count == SNAPSHOT_SECTIONS_MAX)
		return snapshot_stream_bad("section", frame->offset,
					   "is one too many: %d are "
					   "possible",
					   SNAPSHOT_SECTIONS_MAX);
	if (is_power_of_two(file->section_count) || !file->section_count) {
		size_t capacity = file->section_count ? 2 * (size_t)file->section_count : 1;

		section = reallocarray(file->sections, capacity, sizeof(*section));
		if (!section)
			return error_new(ENOMEM, "no memory for section %s", frame->name);
		file->sections = section;
	}
	bytes = malloc(size + 1);
	if (!bytes)
		return error_new(ENOMEM, "no memory for section %s", frame->name);
	section = &file->sections[file->section_count];
	*section = (struct snapshot_section){.instance = frame->instance,
					     .version = frame->version,
					     .size = size,
					     .offset = stream->offset};
	memcpy(section->name, frame->name, sizeof(section->name));
	TRY(snapshot_stream_read(stream, frame->name, bytes, size));
	parser->sections_size += size;
	section->bytes = TAKE_PTR(bytes);
	file->section_count++;
	return snapshot_parse_footer(parser, frame);
}

/* --- RAM --------------------------------------------------------------------------------------- */

/* The bitmap of @block, which begins here. */
static struct error *parse_bitmap(struct snapshot_parser *parser, struct snapshot_block *block)
{
	uint64_t pages = snapshot_block_pages(block);
	uint64_t offset = parser->stream.offset;
	size_t words = bitmap_words(pages);
	uint64_t *bitmap;

	if (words * 8 > parser->stream.size - offset)
		return snapshot_stream_bad("bitmap", offset, "of block %s is cut off", block->name);
	bitmap = calloc(words, sizeof(*bitmap));
	if (!bitmap)
		return error_new(ENOMEM, "no memory for the bitmap of block %s", block->name);
	block->stored = bitmap;
	TRY(snapshot_stream_read(&parser->stream, "bitmap", bitmap, words * 8));
	for (size_t word = 0; word < words; word++)
		bitmap[word] = le64toh(bitmap[word]);
	if (pages % 64 && bitmap[words - 1] >> (pages % 64))
		return snapshot_stream_bad("bitmap", offset + (words - 1) * 8,
					   "of block %s has bits for pages that it does not have",
					   block->name);
	return NULL;
}

/* The mapped-ram header of @block, its bitmap, and the way to the end of its pages. */
static struct error *parse_mapped(struct snapshot_parser *parser, struct snapshot_block *block)
{
	struct snapshot_stream *stream = &parser->stream;
	uint64_t start = stream->offset, page_size, bitmap_offset, bitmap_end, expected;
	uint32_t version;

	TRY(snapshot_stream_read32(stream, "mapped-ram version", &version));
	TRY(snapshot_stream_read64(stream, "page size", &page_size));
	TRY(snapshot_stream_read64(stream, "bitmap offset", &bitmap_offset));
	TRY(snapshot_stream_read64(stream, "pages offset", &block->pages_offset));
	if (version != MAPPED_RAM_VERSION)
		return snapshot_stream_bad("mapped-ram version", start, "of block %s is %u, not %d",
					   block->name, version, MAPPED_RAM_VERSION);
	if (page_size != SNAPSHOT_PAGE_SIZE)
		return snapshot_stream_bad("page size", start + 4,
					   "of block %s is %" PRIu64 ", not %d", block->name,
					   page_size, SNAPSHOT_PAGE_SIZE);
	if (parser->ignore_shared && !bitmap_offset && !block->pages_offset)
		return snapshot_stream_bad("bitmap offset", start + 12,
					   "of block %s is 0: its memory was shared, and is not in "
					   "the file",
					   block->name);
	if (bitmap_offset != stream->offset)
		return snapshot_stream_bad("bitmap offset", start + 12,
					   "of block %s is 0x%" PRIx64 ", not 0x%" PRIx64,
					   block->name, bitmap_offset, stream->offset);
	/* Cannot overflow: a block has at most 16 TiB, and the file has a size. */
	bitmap_end = bitmap_offset + bitmap_words(snapshot_block_pages(block)) * 8;
	expected = align_down(bitmap_end + SNAPSHOT_PAGES_ALIGNMENT - 1, SNAPSHOT_PAGES_ALIGNMENT);
	if (parser->file->foreign ? block->pages_offset < bitmap_end ||
					!is_aligned(block->pages_offset, SNAPSHOT_PAGE_SIZE)
				  : block->pages_offset != expected)
		return snapshot_stream_bad("pages offset", start + 20,
					   "of block %s is 0x%" PRIx64 ", not 0x%" PRIx64,
					   block->name, block->pages_offset, expected);
	if (!range_contains(0, stream->size, block->pages_offset, block->size))
		return snapshot_stream_bad("pages offset", start + 20,
					   "of block %s is 0x%" PRIx64
					   ": the file ends before its %" PRIu64 " bytes do",
					   block->name, block->pages_offset, block->size);
	TRY(parse_bitmap(parser, block));
	if (!parser->file->foreign)
		TRY(snapshot_stream_read_zeros(stream, "space in front of pages",
					       block->pages_offset));
	snapshot_stream_seek(stream, block->pages_offset + block->size);
	return NULL;
}

struct error *snapshot_parse_block(struct snapshot_parser *parser, uint64_t *left)
{
	struct snapshot_stream *stream = &parser->stream;
	struct snapshot_file *file = parser->file;
	struct snapshot_block *block = &file->blocks[file->block_count];
	uint64_t start = stream->offset, size_at, address;

	if (file->block_count == SNAPSHOT_BLOCKS_MAX)
		return snapshot_stream_bad("RAM block", start, "is one too many: %d are possible",
					   SNAPSHOT_BLOCKS_MAX);
	TRY(snapshot_stream_read_name(stream, "name of a RAM block", block->name));
	if (snapshot_file_block(file, block->name))
		return snapshot_stream_bad("RAM block", start, "%s is there twice", block->name);
	size_at = stream->offset;
	TRY(snapshot_stream_read64(stream, "size of a RAM block", &block->size));
	if (!block->size || !is_aligned(block->size, SNAPSHOT_PAGE_SIZE) || block->size > *left)
		return snapshot_stream_bad("size of a RAM block", size_at,
					   "(%s) is 0x%" PRIx64 ": whole pages, at most 0x%" PRIx64
					   ", are possible",
					   block->name, block->size, *left);
	if (parser->ignore_shared)
		TRY(snapshot_stream_read64(stream, "address of a RAM block", &address));
	*left -= block->size;
	block->file = file;
	file->block_count++;
	return NULL;
}

struct error *snapshot_parse_ram_size(struct snapshot_parser *parser,
				      const struct snapshot_frame *frame, uint64_t *result)
{
	struct snapshot_stream *stream = &parser->stream;
	uint64_t total, start = stream->offset;

	if (parser->file->blocks)
		return snapshot_stream_bad("section", frame->offset, "'ram' is there twice");
	if (frame->instance != 0 || frame->version != RAM_SECTION_VERSION)
		return snapshot_stream_bad(
		    "section", frame->offset,
		    "'ram' has instance %u and version %u, not 0 and %d: this godwit does not know "
		    "it",
		    frame->instance, frame->version, RAM_SECTION_VERSION);
	parser->ram_id = frame->id;
	TRY(snapshot_stream_read64(stream, "size of RAM", &total));
	if ((total & (SNAPSHOT_PAGE_SIZE - 1)) != RAM_FLAG_MEM_SIZE)
		return snapshot_stream_bad("size of RAM", start,
					   "has the flags 0x%" PRIx64 ", not 0x%x",
					   total & (SNAPSHOT_PAGE_SIZE - 1), RAM_FLAG_MEM_SIZE);
	total -= RAM_FLAG_MEM_SIZE;
	if (total > stream->size || total > SNAPSHOT_RAM_MAX)
		return snapshot_stream_bad(
		    "size of RAM", start,
		    "is 0x%" PRIx64 ": the file, or this godwit, cannot hold so much", total);
	parser->file->blocks = calloc(SNAPSHOT_BLOCKS_MAX, sizeof(*parser->file->blocks));
	if (!parser->file->blocks)
		return error_new(ENOMEM, "no memory for the RAM blocks");
	*result = total;
	return NULL;
}

struct error *snapshot_parse_ram(struct snapshot_parser *parser, const struct snapshot_frame *frame)
{
	uint64_t left;

	TRY(snapshot_parse_ram_size(parser, frame, &left));
	while (left) {
		TRY(snapshot_parse_block(parser, &left));
		TRY(parse_mapped(parser, &parser->file->blocks[parser->file->block_count - 1]));
	}
	return NULL;
}
