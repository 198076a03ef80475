/* SPDX-License-Identifier: BSD-2-Clause */
/* The receiver of snapshot_receive.h. The peer controls every byte, and when it comes. */
#include "snapshot/snapshot_receive.h"

#include <inttypes.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_parse.h"

struct snapshot_receiver {
	struct channel *channel;
	struct snapshot_parser parser;
	struct snapshot_file *file;	     /* whose member this is */
	uint64_t *seen[SNAPSHOT_BLOCKS_MAX]; /* a bit for each chunk that came */
	uint64_t records, pages;
};

/* --- The front --------------------------------------------------------------------------------- */

/* The section that ends the front: the checksum of everything before its body's bytes. */
static struct error *parse_front_end(struct snapshot_parser *parser,
				     const struct snapshot_frame *frame)
{
	struct snapshot_stream *stream = &parser->stream;
	uint64_t expected, found;
	uint32_t length;

	TRY(snapshot_stream_read32(stream, "length of a section", &length));
	if (frame->instance != 0 || frame->version != 1 || length != 8)
		return snapshot_stream_bad(
		    "section", frame->offset,
		    "'%s' has instance %u, version %u and length %u, not 0, 1 "
		    "and 8",
		    frame->name, frame->instance, frame->version, length);
	expected = snapshot_stream_hash(stream);
	TRY(snapshot_stream_read64(stream, "checksum of the sections", &found));
	if (found != expected && !parser->damaged)
		return snapshot_stream_bad("checksum of the sections", stream->offset - 8,
					   "is 0x%016" PRIx64 ", and they have 0x%016" PRIx64
					   ": the stream is damaged",
					   found, expected);
	return snapshot_parse_footer(parser, frame);
}

static struct error *parse_sections(struct snapshot_parser *parser)
{
	struct snapshot_frame frame;
	uint32_t length;

	for (;;) {
		TRY(snapshot_parse_expect(parser, QEVM_SECTION_FULL, NULL, &frame));
		if (strcmp(frame.name, SNAPSHOT_SECTION_FRONT) == 0)
			return parse_front_end(parser, &frame);
		TRY(snapshot_stream_read32(&parser->stream, "length of a section", &length));
		TRY(snapshot_parse_section(parser, &frame, length));
	}
}

static struct error *expect_flags(struct snapshot_parser *parser)
{
	uint64_t offset = parser->stream.offset, flags;

	TRY(snapshot_stream_read64(&parser->stream, "end of the RAM blocks", &flags));
	if (flags != RAM_FLAG_EOS)
		return snapshot_stream_bad("end of the RAM blocks", offset,
					   "is 0x%" PRIx64 ", not 0x%x", flags, RAM_FLAG_EOS);
	return NULL;
}

static struct error *parse_blocks(struct snapshot_parser *parser)
{
	struct snapshot_frame frame, end;
	uint64_t left;

	TRY(snapshot_parse_expect(parser, QEVM_SECTION_START, RAM_SECTION_NAME, &frame));
	TRY(snapshot_parse_ram_size(parser, &frame, &left));
	while (left)
		TRY(snapshot_parse_block(parser, &left));
	TRY(expect_flags(parser));
	TRY(snapshot_parse_footer(parser, &frame));
	TRY(snapshot_parse_expect(parser, QEVM_SECTION_END, NULL, &end));
	if (end.id != frame.id)
		return snapshot_stream_bad("section id", end.offset + 1,
					   "is %u, not that of RAM, %u", end.id, frame.id);
	return NULL;
}

static struct error *begin(struct snapshot_receiver *receiver)
{
	struct snapshot_parser *parser = &receiver->parser;
	struct snapshot_file *file = receiver->file;

	TRY(snapshot_stream_begin_channel(&parser->stream, receiver->channel));
	TRY(snapshot_parse_configuration(parser));
	TRY(parse_sections(parser));
	TRY(snapshot_parse_identity(parser));
	TRY(parse_blocks(parser));
	for (uint32_t i = 0; i < file->block_count; i++) {
		receiver->seen[i] = bitmap_create(snapshot_block_chunks(&file->blocks[i]));
		if (!receiver->seen[i])
			return error_new(ENOMEM, "no memory for the map of block %s",
					 file->blocks[i].name);
	}
	return NULL;
}

/* --- Chunks ------------------------------------------------------------------------------------ */

static uint64_t page_mask(const struct snapshot_block *block, uint64_t chunk)
{
	unsigned int pages = (unsigned int)(snapshot_chunk_size(block, chunk) / SNAPSHOT_PAGE_SIZE);

	return pages == 64 ? UINT64_MAX : (UINT64_C(1) << pages) - 1;
}

/* Whether the record, which began at @offset, is one of a chunk that there is and that is new. */
static struct error *check_record(struct snapshot_receiver *receiver, uint64_t offset,
				  uint64_t place, const struct snapshot_record *record)
{
	const struct snapshot_file *file = receiver->file;
	const struct snapshot_block *block;

	if (record->block >= file->block_count)
		return snapshot_stream_bad("block of a chunk", offset + 8,
					   "is %u, and there are %u blocks", record->block,
					   file->block_count);
	block = &file->blocks[record->block];
	if (!is_aligned(place, SNAPSHOT_CHUNK_SIZE) || place >= block->size)
		return snapshot_stream_bad("place of a chunk", offset,
					   "is 0x%" PRIx64 ", and block %s has 0x%" PRIx64 " bytes",
					   place, block->name, block->size);
	if (record->stored & ~page_mask(block, record->chunk))
		return snapshot_stream_bad("pages of a chunk", offset + 12,
					   "are beyond the end of block %s", block->name);
	if (!record->stored && !snapshot_checksum_is_zero(record->checksum))
		return snapshot_stream_bad("checksum of a chunk", offset + 20,
					   "is not that of zeros, and no page comes");
	if (bitmap_test(receiver->seen[record->block], record->chunk))
		return snapshot_stream_bad("place of a chunk", offset,
					   "is 0x%" PRIx64 " of block %s, which came already",
					   place, block->name);
	return NULL;
}

struct error *snapshot_receiver_next(struct snapshot_receiver *receiver,
				     struct snapshot_record *record, bool *more)
{
	struct snapshot_stream *stream = &receiver->parser.stream;
	uint64_t offset = stream->offset, word;
	uint8_t rest[SNAPSHOT_RECORD_SIZE - 8];

	*more = false;
	TRY(snapshot_stream_read64(stream, "place of a chunk", &word));
	if (word == RAM_FLAG_EOS)
		return NULL;
	if ((word & (SNAPSHOT_PAGE_SIZE - 1)) != RAM_FLAG_CHUNK)
		return snapshot_stream_bad("place of a chunk", offset,
					   "has the flags 0x%" PRIx64 ", not 0x%x",
					   word & (SNAPSHOT_PAGE_SIZE - 1), RAM_FLAG_CHUNK);
	TRY(snapshot_stream_read(stream, "chunk", rest, sizeof(rest)));
	word -= RAM_FLAG_CHUNK;
	*record = (struct snapshot_record){
	    .block = get_be32(rest),
	    .chunk = word / SNAPSHOT_CHUNK_SIZE,
	    .stored = get_be64(rest + 4),
	    .checksum = {.high = get_be64(rest + 12), .low = get_be64(rest + 20)},
	};
	TRY(check_record(receiver, offset, word, record));
	bitmap_set_range(receiver->seen[record->block], record->chunk, 1);
	receiver->records++;
	receiver->pages += (uint64_t)__builtin_popcountll(record->stored);
	*more = true;
	return NULL;
}

/* Pages have their own checksum. */
static struct error *read_pages(struct snapshot_stream *stream, uint64_t stored, uint8_t *bytes)
{
	unsigned int page = 0;

	while (page < SNAPSHOT_CHUNK_PAGES) {
		unsigned int first = page;

		while (page < SNAPSHOT_CHUNK_PAGES && stored >> page & 1)
			page++;
		if (page > first)
			TRY(snapshot_stream_read(stream, "pages of a chunk",
						 bytes + (size_t)first * SNAPSHOT_PAGE_SIZE,
						 (size_t)(page - first) * SNAPSHOT_PAGE_SIZE));
		else
			page++;
	}
	return NULL;
}

struct error *snapshot_receiver_pages(struct snapshot_receiver *receiver,
				      const struct snapshot_record *record, uint8_t *bytes)
{
	struct snapshot_stream *stream = &receiver->parser.stream;
	struct error *error;

	stream->hashing = false;
	error = read_pages(stream, record->stored, bytes);
	stream->hashing = true;
	return error;
}

struct error *snapshot_receiver_bad_chunk(const struct snapshot_receiver *receiver,
					  const struct snapshot_record *record)
{
	return error_new(EBADMSG,
			 "checksum of the 256 KiB at 0x%" PRIx64
			 " of block %s does not fit: the stream is damaged",
			 record->chunk * SNAPSHOT_CHUNK_SIZE,
			 receiver->file->blocks[record->block].name);
}

/* --- The end ----------------------------------------------------------------------------------- */

static struct error *check_count(struct snapshot_receiver *receiver, const char *what,
				 uint64_t expected)
{
	struct snapshot_stream *stream = &receiver->parser.stream;
	uint64_t found;

	TRY(snapshot_stream_read64(stream, what, &found));
	if (found != expected)
		return snapshot_stream_bad(what, stream->offset - 8,
					   "is %" PRIu64 ", and %" PRIu64 " came", found, expected);
	return NULL;
}

static struct error *parse_end(struct snapshot_receiver *receiver)
{
	struct snapshot_parser *parser = &receiver->parser;
	struct snapshot_stream *stream = &parser->stream;
	uint8_t id[SNAPSHOT_ID_SIZE];
	struct snapshot_frame frame;
	uint64_t magic, found, expected;

	TRY(snapshot_parse_table(parser, SNAPSHOT_SECTION_STREAM, SNAPSHOT_STREAM_SIZE, &frame));
	TRY(snapshot_stream_read64(stream, "mark of completion", &magic));
	if (magic != SNAPSHOT_STREAM_MAGIC)
		return snapshot_stream_bad("mark of completion", stream->offset - 8,
					   "is 0x%" PRIx64 ", not 0x%" PRIx64, magic,
					   (uint64_t)SNAPSHOT_STREAM_MAGIC);
	TRY(snapshot_stream_read(stream, "id at the end", id, sizeof(id)));
	if (memcmp(id, receiver->file->id, sizeof(id)) != 0)
		return snapshot_stream_bad("id at the end", stream->offset - sizeof(id),
					   "is not the one at the start: these are two streams");
	TRY(check_count(receiver, "number of chunks", receiver->records));
	TRY(check_count(receiver, "number of pages", receiver->pages));
	/* This number, the checksum, the footer, and the end of the stream. */
	TRY(check_count(receiver, "size of the stream", stream->offset + 8 + 8 + 5 + 1));
	expected = snapshot_stream_hash(stream);
	TRY(snapshot_stream_read64(stream, "checksum", &found));
	if (found != expected && !parser->damaged)
		return snapshot_stream_bad("checksum", stream->offset - 8,
					   "is 0x%016" PRIx64
					   ", and everything but pages has 0x%016" PRIx64
					   ": the stream is damaged",
					   found, expected);
	TRY(snapshot_parse_footer(parser, &frame));
	return snapshot_parse_expect(parser, QEVM_EOF, NULL, &frame);
}

struct error *snapshot_receiver_finish(struct snapshot_receiver *receiver)
{
	struct snapshot_stream *stream = &receiver->parser.stream;
	/* Of RAM, whose END section the chunks were in: its id is checked by its footer. */
	const struct snapshot_frame ram = {.id = receiver->parser.ram_id, .name = RAM_SECTION_NAME};

	TRY(snapshot_parse_footer(&receiver->parser, &ram));
	TRY(parse_end(receiver));
	if (stream->window_size > stream->offset - stream->window_offset &&
	    stream->offset >= stream->window_offset)
		return snapshot_stream_bad("stream", stream->offset, "goes on after its end");
	return channel_finish(receiver->channel);
}

struct error *snapshot_receiver_explain(struct snapshot_receiver *receiver, struct error *error)
{
	return channel_explain(receiver->channel, error);
}

/* --- Life -------------------------------------------------------------------------------------- */

void snapshot_receiver_cancel(struct snapshot_receiver *receiver)
{
	channel_cancel(receiver->channel);
}

void snapshot_receiver_destroy(struct snapshot_receiver *receiver)
{
	if (!receiver)
		return;
	for (uint32_t i = 0; i < SNAPSHOT_BLOCKS_MAX; i++)
		free(receiver->seen[i]);
	snapshot_stream_end(&receiver->parser.stream);
	channel_close(receiver->channel);
	free(receiver);
}

struct error *snapshot_receive(struct channel *channel, bool damaged, struct snapshot_file **result)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = calloc(1, sizeof(*file));
	struct snapshot_receiver *receiver = calloc(1, sizeof(*receiver));
	struct error *error;

	if (!file || !receiver) {
		free(receiver);
		channel_close(channel);
		return error_new(ENOMEM, "no memory to receive a snapshot");
	}
	file->fd = -1;
	file->receiver = receiver;
	receiver->channel = channel;
	receiver->file = receiver->parser.file = file;
	receiver->parser.damaged = damaged;
	file->path = strdup(channel_name(channel));
	if (!file->path)
		return error_new(ENOMEM, "no memory to receive a snapshot");
	error = begin(receiver);
	if (error)
		return channel_explain(channel, error);
	*result = TAKE_PTR(file);
	return NULL;
}

bool snapshot_is_stream(int fd)
{
	/* Up to the one capability, which nothing else has first. */
	static const char rest[] = "\x07\0\0\0\x08" SNAPSHOT_MACHINE "\x05\x1a"
				   "configuration/capabilities"
				   "\0\0\0\1\0\0\0\1\x0f" SNAPSHOT_CAPABILITY_STREAM;
	uint8_t start[8 + sizeof(rest) - 1];

	return pread(fd, start, sizeof(start), 0) == sizeof(start) &&
	       get_be32(start) == QEVM_MAGIC && get_be32(start + 4) == QEVM_VERSION &&
	       memcmp(start + 8, rest, sizeof(rest) - 1) == 0;
}
