/* SPDX-License-Identifier: BSD-2-Clause */
/* What a device's stream (virtio_device.h) emits, kept for a load. */
#ifndef GODWIT_TESTS_DEVICE_STREAM_H
#define GODWIT_TESTS_DEVICE_STREAM_H

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "virtio_driver.h"

#define STREAM_MAX MIB(4)

struct stream {
	uint8_t *bytes; /* STREAM_MAX; the test frees it */
	size_t size;
};

static inline struct error *stream_keep(void *context, const void *bytes, size_t size)
{
	struct stream *stream = context;

	assert_true(size <= STREAM_MAX - stream->size);
	memcpy(stream->bytes + stream->size, bytes, size);
	stream->size += size;
	return NULL;
}

/* All that @device, which is quiesced, has to say. */
static inline struct stream stream_save(struct virtio_device *device)
{
	struct stream stream = {.bytes = malloc(STREAM_MAX)};

	assert_non_null(stream.bytes);
	driver_no_error(device->stream->save(device, true, stream_keep, &stream));
	return stream;
}

#endif
