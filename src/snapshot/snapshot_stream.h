/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A cursor over a file, or over what a channel brings, that nobody vouches for. Every read is
 * bounded by the file's size, names the field that it is for, and goes into the checksum of what is
 * not a page. Errors say "<field> at offset 0x… <what>".
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_STREAM_H
#define GODWIT_SNAPSHOT_SNAPSHOT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/channel.h"
#include "base/error.h"
#include "snapshot/snapshot_format.h"

#define SNAPSHOT_STREAM_ENDLESS INT64_MAX /* the size of what a channel brings: not known */

struct snapshot_stream {
	int fd;
	struct channel *channel; /* instead of fd, or NULL */
	uint64_t size;		 /* of the file, bytes, or SNAPSHOT_STREAM_ENDLESS */
	uint64_t offset;	 /* of what is read next */
	void *hash;		 /* an XXH3_state_t, or NULL */
	bool hashing;
	uint64_t window_offset; /* of the window in the file */
	size_t window_size;	/* valid bytes of it */
	uint8_t window[16384];
};

/* Starts at the beginning of @fd, which is borrowed. */
struct error *snapshot_stream_begin(struct snapshot_stream *stream, int fd,
				    uint64_t size) MUST_CHECK;
/* Starts with what @channel, which is borrowed, brings next. There is no snapshot_stream_seek then. */
struct error *snapshot_stream_begin_channel(struct snapshot_stream *stream,
					    struct channel *channel) MUST_CHECK;
void snapshot_stream_end(struct snapshot_stream *stream);

struct error *snapshot_stream_read(struct snapshot_stream *stream, const char *field, void *bytes,
				   size_t size) MUST_CHECK;
struct error *snapshot_stream_read8(struct snapshot_stream *stream, const char *field,
				    uint8_t *value) MUST_CHECK;
struct error *snapshot_stream_read16(struct snapshot_stream *stream, const char *field,
				     uint16_t *value) MUST_CHECK;
struct error *snapshot_stream_read32(struct snapshot_stream *stream, const char *field,
				     uint32_t *value) MUST_CHECK;
struct error *snapshot_stream_read64(struct snapshot_stream *stream, const char *field,
				     uint64_t *value) MUST_CHECK;
/* A name behind its length, one byte: 1 to SNAPSHOT_NAME_MAX printable characters. */
struct error *snapshot_stream_read_name(struct snapshot_stream *stream, const char *field,
					char name[SNAPSHOT_NAME_MAX + 1]) MUST_CHECK;
/* The next byte, without reading it; -1 at the end of the file or when it cannot be read. */
int snapshot_stream_peek(struct snapshot_stream *stream);
/* Reads up to @offset, not before here, and refuses a byte that is not zero. */
struct error *snapshot_stream_read_zeros(struct snapshot_stream *stream, const char *field,
					 uint64_t offset) MUST_CHECK;
/* Goes on at @offset, at most the file's size; what is between is no part of the checksum. */
void snapshot_stream_seek(struct snapshot_stream *stream, uint64_t offset);
/* XXH3 of 64 bits over everything read while @hashing. */
uint64_t snapshot_stream_hash(const struct snapshot_stream *stream);

/* An error about a field that began at @offset: "<field> at offset 0x… <what>". */
struct error *snapshot_stream_bad(const char *field, uint64_t offset, const char *what, ...)
    PRINTF(3, 4) MUST_CHECK;

#endif
