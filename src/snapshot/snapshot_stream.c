/* SPDX-License-Identifier: BSD-2-Clause */
/* The cursor of snapshot_stream.h. Small reads come from a window; large ones go straight in. */
#include "snapshot/snapshot_stream.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/checked.h"

static struct error *begin(struct snapshot_stream *stream, int fd, struct channel *channel,
			   uint64_t size)
{
	stream->fd = fd;
	stream->channel = channel;
	stream->size = size;
	stream->offset = 0;
	stream->window_offset = 0;
	stream->window_size = 0;
	stream->hashing = true;
	stream->hash = XXH3_createState();
	if (!stream->hash)
		return error_new(ENOMEM, "no memory to read a snapshot");
	XXH3_64bits_reset(stream->hash);
	return NULL;
}

struct error *snapshot_stream_begin(struct snapshot_stream *stream, int fd, uint64_t size)
{
	return begin(stream, fd, NULL, size);
}

struct error *snapshot_stream_begin_channel(struct snapshot_stream *stream, struct channel *channel)
{
	return begin(stream, -1, channel, SNAPSHOT_STREAM_ENDLESS);
}

void snapshot_stream_end(struct snapshot_stream *stream)
{
	XXH3_freeState(stream->hash);
	stream->hash = NULL;
}

struct error *snapshot_stream_bad(const char *field, uint64_t offset, const char *what, ...)
{
	AUTO_FREE char *text = NULL;
	va_list arguments;
	int length;

	va_start(arguments, what);
	length = vasprintf(&text, what, arguments);
	va_end(arguments);
	if (length < 0)
		text = NULL;
	return error_new(EBADMSG, "%s at offset 0x%" PRIx64 " %s", field, offset, text ?: "is bad");
}

/* Reads @size bytes at @offset, all of them or an error number. */
static int read_at(int fd, uint8_t *bytes, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t got = pread(fd, bytes, size, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			return EIO; /* the file has become shorter */
		bytes += got;
		offset += (size_t)got;
		size -= (size_t)got;
	}
	return 0;
}

/* Reads at the cursor what a file has, all @size bytes; of a channel at least one, 0 at its end. */
static struct error *fetch(struct snapshot_stream *stream, void *bytes, size_t size, size_t *got)
{
	int result;

	if (stream->channel)
		return channel_read(stream->channel, bytes, size, got);
	result = read_at(stream->fd, bytes, size, stream->offset);
	*got = size;
	return result ? error_system(result, "cannot be read") : NULL;
}

/* Puts the window where the cursor is, which is past it. */
static struct error *fill_window(struct snapshot_stream *stream)
{
	stream->window_offset = stream->offset;
	stream->window_size = 0;
	return fetch(stream, stream->window,
		     MIN(sizeof(stream->window), stream->size - stream->offset),
		     &stream->window_size);
}

static size_t in_window(const struct snapshot_stream *stream)
{
	if (stream->offset < stream->window_offset ||
	    stream->offset - stream->window_offset >= stream->window_size)
		return 0;
	return stream->window_size - (stream->offset - stream->window_offset);
}

struct error *snapshot_stream_read(struct snapshot_stream *stream, const char *field, void *bytes,
				   size_t size)
{
	uint64_t start = stream->offset;
	uint8_t *target = bytes;

	if (size > stream->size - stream->offset)
		return snapshot_stream_bad(field, start,
					   "is cut off: it has %zu bytes, and the file ends after "
					   "%" PRIu64,
					   size, stream->size - stream->offset);
	while (size) {
		struct error *error = NULL;
		size_t part = MIN(size, in_window(stream));

		if (part) {
			memcpy(target, stream->window + (stream->offset - stream->window_offset),
			       part);
		} else if (size < sizeof(stream->window)) {
			error = fill_window(stream);
			if (!error && stream->window_size)
				continue;
		} else {
			error = fetch(stream, target, size, &part);
		}
		if (error)
			return error_prefix(error, "%s at offset 0x%" PRIx64, field, start);
		if (!part)
			return snapshot_stream_bad(
			    field, start, "is cut off: the stream ends after 0x%" PRIx64 " bytes",
			    stream->offset);
		target += part;
		size -= part;
		stream->offset += part;
	}
	if (stream->hashing)
		XXH3_64bits_update(stream->hash, bytes, stream->offset - start);
	return NULL;
}

struct error *snapshot_stream_read8(struct snapshot_stream *stream, const char *field,
				    uint8_t *value)
{
	return snapshot_stream_read(stream, field, value, 1);
}

#define DEFINE_READ(width)                                                                         \
	struct error *snapshot_stream_read##width(struct snapshot_stream *stream,                  \
						  const char *field, uint##width##_t *value)       \
	{                                                                                          \
		uint8_t raw[width / 8];                                                            \
                                                                                                   \
		TRY(snapshot_stream_read(stream, field, raw, sizeof(raw)));                        \
		*value = get_be##width(raw);                                                       \
		return NULL;                                                                       \
	}

DEFINE_READ(16)
DEFINE_READ(32)
DEFINE_READ(64)

struct error *snapshot_stream_read_name(struct snapshot_stream *stream, const char *field,
					char name[SNAPSHOT_NAME_MAX + 1])
{
	uint64_t start = stream->offset;
	uint8_t length;

	TRY(snapshot_stream_read8(stream, field, &length));
	if (!length || length > SNAPSHOT_NAME_MAX)
		return snapshot_stream_bad(field, start, "has %u characters: 1 to %d are possible",
					   length, SNAPSHOT_NAME_MAX);
	TRY(snapshot_stream_read(stream, field, name, length));
	name[length] = '\0';
	for (unsigned int i = 0; i < length; i++)
		if (name[i] < ' ' || name[i] > '~')
			return snapshot_stream_bad(field, start + 1 + i,
						   "has the byte 0x%02x, which is not printable",
						   (uint8_t)name[i]);
	return NULL;
}

int snapshot_stream_peek(struct snapshot_stream *stream)
{
	if (stream->offset >= stream->size)
		return -1;
	if (!in_window(stream)) {
		AUTO_ERROR struct error *error = fill_window(stream);

		if (error || !stream->window_size)
			return -1;
	}
	return stream->window[stream->offset - stream->window_offset];
}

struct error *snapshot_stream_read_zeros(struct snapshot_stream *stream, const char *field,
					 uint64_t offset)
{
	uint8_t bytes[32768];

	while (stream->offset < offset) {
		size_t part = MIN(sizeof(bytes), offset - stream->offset);
		uint64_t start = stream->offset;

		TRY(snapshot_stream_read(stream, field, bytes, part));
		if (bytes[0] == 0 && memcmp(bytes, bytes + 1, part - 1) == 0)
			continue;
		for (size_t i = 0; i < part; i++)
			if (bytes[i])
				return snapshot_stream_bad(field, start + i,
							   "is 0x%02x: only zeros belong there",
							   bytes[i]);
	}
	return NULL;
}

void snapshot_stream_seek(struct snapshot_stream *stream, uint64_t offset)
{
	stream->offset = offset;
}

uint64_t snapshot_stream_hash(const struct snapshot_stream *stream)
{
	return XXH3_64bits_digest(stream->hash);
}
