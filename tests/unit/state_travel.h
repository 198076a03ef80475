/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What must be true of every device's state: what was saved and loaded is saved again as the same
 * bytes, nothing less than all of them is accepted, and a byte that was changed on the way is either
 * refused or has become the device's state.
 */
#ifndef GODWIT_TESTS_STATE_TRAVEL_H
#define GODWIT_TESTS_STATE_TRAVEL_H

#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "cmocka_prelude.h"

struct travel {
	void (*visit)(void *device, struct state *state);
	void *(*create)(void); /* a device that nobody used */
	void (*destroy)(void *device);
};

static inline uint8_t *travel_save(const struct travel *travel, void *device, size_t *size)
{
	struct state_part part = {
	    .name = "device", .version = 1, .visit = travel->visit, .context = device};
	AUTO_STATE struct state *state = state_save_begin(true);
	const void *bytes;
	uint8_t *copy;

	assert_no_error(state_visit(state, &part));
	bytes = state_bytes(state, size);
	copy = malloc(*size + 1);
	assert_non_null(copy);
	memcpy(copy, bytes, *size);
	return copy;
}

static inline struct error *travel_load(const struct travel *travel, void *device,
					const uint8_t *bytes, size_t size)
{
	struct state_part part = {
	    .name = "device", .version = 1, .visit = travel->visit, .context = device};
	AUTO_STATE struct state *state = state_load_begin(bytes, size, 1);

	return state_visit(state, &part);
}

/* Loads @bytes into a new device; whether that went well, and then whether it has become them. */
static inline bool travel_arrives(const struct travel *travel, const uint8_t *bytes, size_t size)
{
	void *device = travel->create();
	struct error *error = travel_load(travel, device, bytes, size);
	bool arrived = !error;

	if (arrived) {
		size_t again_size;
		uint8_t *again = travel_save(travel, device, &again_size);

		assert_int_equal(again_size, size);
		assert_memory_equal(again, bytes, size);
		free(again);
	}
	error_free(error);
	travel->destroy(device);
	return arrived;
}

static inline void assert_state_travels(const struct travel *travel, void *device)
{
	size_t size;
	uint8_t *bytes = travel_save(travel, device, &size);

	assert_true(travel_arrives(travel, bytes, size));
	for (size_t less = 0; less < size; less++)
		assert_false(travel_arrives(travel, bytes, less));
	bytes[size] = 0;
	assert_false(travel_arrives(travel, bytes, size + 1));
	for (size_t i = 0; i < size; i++)
		for (unsigned int bit = 0; bit < 8; bit++) {
			bytes[i] ^= (uint8_t)(1U << bit);
			travel_arrives(travel, bytes, size);
			bytes[i] ^= (uint8_t)(1U << bit);
		}
	free(bytes);
}

#endif
