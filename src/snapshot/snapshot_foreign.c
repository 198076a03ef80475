/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What stands behind the configuration in a mapped-ram file that QEMU wrote. The bodies of QEMU's
 * sections do not say how long they are; the description at the end of the file does (QEMU:
 * migration/vmstate.c writes it, scripts/analyze-migration.py reads it). So it is looked for first,
 * and where it is missing only files that begin with RAM can be read, and only their RAM.
 *
 * Nothing in the description is trusted: a size only says where the footer is expected.
 */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "snapshot/snapshot_parse.h"

#define DESCRIPTION_SPAN  (10 << 20) /* where QEMU's script looks for it */
#define DESCRIPTION_DEPTH 32	     /* of structures in structures */

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

/* --- The description --------------------------------------------------------------------------- */

/* The start of the description in the last @size bytes of the file, or NULL. */
static const uint8_t *find_description(const uint8_t *bytes, size_t size)
{
	const uint8_t *nul = memrchr(bytes, 0, size);
	const uint8_t *brace = nul ? memchr(nul, '{', size - (size_t)(nul - bytes)) : NULL;

	if (!brace || brace - bytes < 5 || brace[-5] != QEVM_DESCRIPTION)
		return NULL;
	return brace;
}

/* *@description is NULL when the file has none. */
static struct error *read_description(struct snapshot_parser *parser, json_t **description)
{
	struct snapshot_stream *stream = &parser->stream;
	size_t span = MIN(stream->size, (uint64_t)DESCRIPTION_SPAN);
	uint64_t resume = stream->offset;
	AUTO_FREE uint8_t *bytes = malloc(span + 1);
	const uint8_t *start;
	json_error_t reason;

	*description = NULL;
	if (!bytes)
		return error_new(ENOMEM, "no memory for the description");
	snapshot_stream_seek(stream, stream->size - span);
	TRY(snapshot_stream_read(stream, "description", bytes, span));
	snapshot_stream_seek(stream, resume);
	start = find_description(bytes, span);
	if (!start)
		return NULL;
	*description = json_loadb((const char *)start, span - (size_t)(start - bytes),
				  JSON_DISABLE_EOF_CHECK, &reason);
	if (!*description)
		return snapshot_stream_bad("description",
					   stream->size - span + (uint64_t)(start - bytes),
					   "is not JSON: %s", reason.text);
	return NULL;
}

/* Adds the number @key of @object, 0 to SNAPSHOT_SECTIONS_SIZE_MAX, times @times to *@size. */
static bool add_size(const json_t *object, const char *key, uint64_t times, uint64_t *size)
{
	json_t *value = json_object_get(object, key);
	json_int_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < 0 || number > SNAPSHOT_SECTIONS_SIZE_MAX)
		return false;
	if (times && (uint64_t)number > SNAPSHOT_SECTIONS_SIZE_MAX / times)
		return false;
	*size += (uint64_t)number * times;
	return *size <= SNAPSHOT_SECTIONS_SIZE_MAX;
}

/* Adds the bytes of what @object describes to *@size; false when that does not make sense. */
static bool add_described(const json_t *object, int depth, uint64_t *size)
{
	json_t *fields = json_object_get(object, "fields");
	json_t *subsections = json_object_get(object, "subsections");
	json_t *item;
	size_t index;

	if (depth == DESCRIPTION_DEPTH)
		return false;
	json_array_foreach (fields, index, item) {
		json_t *length = json_object_get(item, "array_len");
		json_int_t times = length ? json_integer_value(length) : 1;

		if (times < 0 || times > SNAPSHOT_SECTIONS_SIZE_MAX ||
		    !add_size(item, "size", (uint64_t)times, size))
			return false;
	}
	json_array_foreach (subsections, index, item) {
		const char *name = json_string_value(json_object_get(item, "vmsd_name"));

		if (!name)
			return false;
		*size += 1 + 1 + strlen(name) + 4; /* type, name, version */
		if (!add_described(item, depth + 1, size))
			return false;
	}
	return *size <= SNAPSHOT_SECTIONS_SIZE_MAX;
}

static const json_t *find_device(const json_t *description, const struct snapshot_frame *frame)
{
	json_t *devices = json_object_get(description, "devices");
	json_t *device;
	size_t index;

	json_array_foreach (devices, index, device) {
		const char *name = json_string_value(json_object_get(device, "name"));

		if (name && strcmp(name, frame->name) == 0 &&
		    json_integer_value(json_object_get(device, "instance_id")) == frame->instance)
			return device;
	}
	return NULL;
}

/* --- The stream -------------------------------------------------------------------------------- */

static struct error *parse_full(struct snapshot_parser *parser, const struct snapshot_frame *frame,
				const json_t *description)
{
	const json_t *device = find_device(description, frame);
	uint64_t size = 0;

	/* Damage to the machine's name must not make a file one that nothing protects. */
	if (strncmp(frame->name, "godwit/", 7) == 0)
		return snapshot_stream_bad("machine's name", 13,
					   "is '%s', and section '%s' is of '%s': the file is "
					   "damaged",
					   parser->file->machine, frame->name, SNAPSHOT_MACHINE);
	if (!device || !add_described(device, 0, &size))
		return snapshot_stream_bad("section", frame->offset,
					   "'%s' is not in the description at the file's end, so "
					   "where it ends is not known",
					   frame->name);
	return snapshot_parse_section(parser, frame, size);
}

/* What a RAM section has behind the blocks: flags until its end, but no pages. */
static struct error *parse_ram_flags(struct snapshot_parser *parser,
				     const struct snapshot_frame *frame)
{
	uint64_t flags;

	do {
		TRY(snapshot_stream_read64(&parser->stream, "flags of RAM", &flags));
		if (flags != RAM_FLAG_EOS && flags != RAM_FLAG_MULTIFD_FLUSH)
			return snapshot_stream_bad("flags of RAM", parser->stream.offset - 8,
						   "are 0x%" PRIx64 ": pages out of their places "
						   "cannot be read",
						   flags);
	} while (flags != RAM_FLAG_EOS);
	return snapshot_parse_footer(parser, frame);
}

static struct error *parse_command(struct snapshot_parser *parser,
				   const struct snapshot_frame *frame)
{
	uint16_t command, length;

	TRY(snapshot_stream_read16(&parser->stream, "command", &command));
	TRY(snapshot_stream_read16(&parser->stream, "length of a command", &length));
	if (command != QEVM_COMMAND_SWITCHOVER_START || length)
		return snapshot_stream_bad("command", frame->offset,
					   "is %u with %u bytes, which has no place in a file",
					   command, length);
	return NULL;
}

static struct error *parse_one(struct snapshot_parser *parser, const struct snapshot_frame *frame,
			       const json_t *description)
{
	switch (frame->type) {
	case QEVM_COMMAND:
		return parse_command(parser, frame);
	case QEVM_SECTION_FULL:
		return parse_full(parser, frame, description);
	case QEVM_SECTION_START:
		if (strcmp(frame->name, RAM_SECTION_NAME) != 0)
			return snapshot_stream_bad("section", frame->offset,
						   "'%s' of type 0x%02x cannot be read",
						   frame->name, frame->type);
		TRY(snapshot_parse_ram(parser, frame));
		return parse_ram_flags(parser, frame);
	default: /* PART, END */
		if (!parser->file->blocks || frame->id != parser->ram_id)
			return snapshot_stream_bad("section id", frame->offset,
						   "is %u, of a section that did not start",
						   frame->id);
		return parse_ram_flags(parser, frame);
	}
}

/*
 * QEMU up to 10 at least, with background-snapshot, writes the pages but never the bitmaps, and
 * loads such a file as zeros. Here it is refused: no bitmap names a page, and yet there are pages.
 */
static struct error *check_bitmaps(const struct snapshot_file *file)
{
	for (uint32_t i = 0; i < file->block_count; i++) {
		uint64_t pages = snapshot_block_pages(&file->blocks[i]);

		if (bitmap_next_set(file->blocks[i].stored, 0, pages) < pages)
			return NULL;
	}
	for (uint32_t i = 0; i < file->block_count; i++) {
		const struct snapshot_block *block = &file->blocks[i];
		off_t data = lseek(file->fd, (off_t)block->pages_offset, SEEK_DATA);

		if (data >= 0 && (uint64_t)data < block->pages_offset + block->size)
			return error_new(EBADMSG,
					 "bitmaps name no page, and the file has data of block %s "
					 "at offset 0x%" PRIx64
					 ": QEMU did not write the bitmaps (background-snapshot)",
					 block->name, (uint64_t)data);
	}
	return NULL;
}

struct error *snapshot_parse_foreign(struct snapshot_parser *parser)
{
	AUTO(cleanup_json) json_t *description = NULL;
	struct snapshot_frame frame;
	bool ram_ended = false;

	parser->stream.hashing = false;
	TRY(read_description(parser, &description));
	for (;;) {
		TRY(snapshot_parse_frame(parser, &frame));
		if (frame.type == QEVM_EOF)
			break;
		/* Without a description RAM is all that can be read, and enough for most uses. */
		if (!description && frame.type == QEVM_SECTION_FULL && ram_ended)
			return NULL;
		TRY(parse_one(parser, &frame, description));
		ram_ended |= frame.type == QEVM_SECTION_END;
	}
	if (!ram_ended)
		return error_new(EBADMSG, "RAM is missing, or does not end: the file was not "
					  "written to its end");
	return parser->damaged ? NULL : check_bitmaps(parser->file);
}
