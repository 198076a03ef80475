/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes that grow, snapshot_buffer.h. */
#include "snapshot/snapshot_buffer.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

#define FIRST_CAPACITY 4096

uint8_t *snapshot_buffer_grow(struct snapshot_buffer *buffer, size_t size)
{
	if (buffer->failed)
		return NULL;
	if (buffer->capacity - buffer->size < size) {
		size_t capacity = buffer->capacity ? buffer->capacity : FIRST_CAPACITY;
		uint8_t *larger;

		while (capacity - buffer->size < size)
			capacity *= 2;
		larger = realloc(buffer->bytes, capacity);
		if (!larger) {
			buffer->failed = true;
			return NULL;
		}
		buffer->bytes = larger;
		buffer->capacity = capacity;
	}
	buffer->size += size;
	return buffer->bytes + buffer->size - size;
}

void snapshot_buffer_put(struct snapshot_buffer *buffer, const void *bytes, size_t size)
{
	uint8_t *room = size ? snapshot_buffer_grow(buffer, size) : NULL;

	if (room)
		memcpy(room, bytes, size);
}

void snapshot_buffer_put8(struct snapshot_buffer *buffer, uint8_t value)
{
	snapshot_buffer_put(buffer, &value, sizeof(value));
}

void snapshot_buffer_put32(struct snapshot_buffer *buffer, uint32_t value)
{
	uint8_t raw[4];

	put_be32(raw, value);
	snapshot_buffer_put(buffer, raw, sizeof(raw));
}

void snapshot_buffer_put64(struct snapshot_buffer *buffer, uint64_t value)
{
	uint8_t raw[8];

	put_be64(raw, value);
	snapshot_buffer_put(buffer, raw, sizeof(raw));
}

void snapshot_buffer_put_name(struct snapshot_buffer *buffer, const char *name)
{
	size_t length = strlen(name);

	snapshot_buffer_put8(buffer, (uint8_t)length);
	snapshot_buffer_put(buffer, name, length);
}

void snapshot_buffer_print(struct snapshot_buffer *buffer, const char *format, ...)
{
	AUTO_FREE char *text = NULL;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length < 0) {
		text = NULL;
		buffer->failed = true;
		return;
	}
	snapshot_buffer_put(buffer, text, (size_t)length);
}
