/* SPDX-License-Identifier: BSD-2-Clause */
/* Saving and loading the state of virtio devices in tests. */
#ifndef GODWIT_TESTS_VIRTIO_STATE_H
#define GODWIT_TESTS_VIRTIO_STATE_H

#include "virtio_driver.h"

struct saved_state {
	uint8_t *bytes;
	size_t size;
};

/* The state of @device, which is quiesced; to be freed. */
static inline struct saved_state save_device(struct virtio_device *device)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	struct saved_state saved;
	struct state_part part;
	const void *bytes;

	virtio_device_state_part(device, &part);
	driver_no_error(state_visit(state, &part));
	bytes = state_bytes(state, &saved.size);
	saved.bytes = malloc(saved.size);
	memcpy(saved.bytes, bytes, saved.size);
	return saved;
}

static inline struct error *try_load_device(struct virtio_device *device, const void *bytes,
					    size_t size)
{
	AUTO_STATE struct state *state = state_load_begin(bytes, size, 1);
	struct state_part part;

	virtio_device_state_part(device, &part);
	return state_visit(state, &part);
}

static inline void load_device(struct virtio_device *device, const struct saved_state *saved)
{
	driver_no_error(try_load_device(device, saved->bytes, saved->size));
}

/* Loading @saved is refused with a message that holds @words. */
static inline void assert_refused(struct virtio_device *device, const struct saved_state *saved,
				  const char *words)
{
	AUTO_ERROR struct error *error = try_load_device(device, saved->bytes, saved->size);

	assert_non_null(error);
	if (!strstr(error_message(error), words))
		fail_msg("'%s' does not say '%s'", error_message(error), words);
	assert_int_equal(device->status, 0);
}

/* The driver's device ends, and @fresh goes on from its state. */
static inline void move_to_device(struct driver *driver, struct virtio_device *fresh)
{
	struct saved_state saved;

	virtio_device_quiesce(driver->device);
	saved = save_device(driver->device);
	virtio_device_destroy(driver->device);
	driver_add_device(driver, fresh);
	virtio_device_quiesce(fresh);
	load_device(fresh, &saved);
	free(saved.bytes);
	virtio_device_resume(fresh);
}

#endif
