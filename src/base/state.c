/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The buffer behind a save, the cursor behind a load, and the first error of either.
 */
#include "base/state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"

#define FIRST_CAPACITY 1024 /* bytes */
#define FIRST_FIELDS   64

struct state {
	bool loading;
	uint32_t version;
	uint8_t *saved; /* save: owned, @capacity bytes */
	const uint8_t *loaded;
	size_t size;	 /* save: bytes so far; load: bytes there are */
	size_t capacity; /* save */
	size_t offset;	 /* load: where the next field starts */
	size_t field;	 /* where the field of the last visit started, for messages */
	bool describe;
	struct state_field *fields;
	size_t field_count, field_capacity;
	struct error *error;
};

struct state *state_save_begin(bool describe)
{
	struct state *state = calloc(1, sizeof(*state));

	if (state)
		state->describe = describe;
	return state;
}

struct state *state_load_begin(const void *bytes, size_t size, uint32_t version)
{
	struct state *state = calloc(1, sizeof(*state));

	if (!state)
		return NULL;
	state->loading = true;
	state->loaded = bytes;
	state->size = size;
	state->version = version;
	return state;
}

void state_free(struct state *state)
{
	if (!state)
		return;
	free(state->saved);
	free(state->fields);
	error_free(state->error);
	free(state);
}

void state_fail(struct state *state, struct error *error)
{
	if (state->error)
		error_free(error);
	else
		state->error = error;
}

bool state_failed(const struct state *state)
{
	return state->error;
}

bool state_loading(const struct state *state)
{
	return state->loading;
}

uint32_t state_version(const struct state *state)
{
	return state->version;
}

const void *state_bytes(const struct state *state, size_t *size)
{
	*size = state->size;
	return state->saved;
}

const struct state_field *state_fields(const struct state *state, size_t *count)
{
	*count = state->field_count;
	return state->fields;
}

struct error *state_finish(struct state *state)
{
	struct error *error = state->error;

	state->error = NULL;
	if (!error && state->loading && state->offset != state->size)
		return error_new(0, "%zu bytes are left over behind the last field, at offset %zu",
				 state->size - state->offset, state->offset);
	return error;
}

struct error *state_visit(struct state *state, const struct state_part *part)
{
	if (!state)
		return error_new(ENOMEM, "no memory for the state of %s", part->name);
	if (!state->loading)
		state->version = part->version;
	else if (state->version == 0 || state->version > part->version)
		return error_new(0, "%s has state of version %u, and this godwit knows 1 to %u",
				 part->name, state->version, part->version);
	part->visit(part->context, state);
	return error_prefix(state_finish(state), "state of %s", part->name);
}

/* --- Fields ------------------------------------------------------------------------------------ */

static void describe(struct state *state, const char *name, const char *type, size_t size)
{
	if (state->field_count == state->field_capacity) {
		size_t capacity = state->field_capacity ? 2 * state->field_capacity : FIRST_FIELDS;
		struct state_field *larger = reallocarray(state->fields, capacity, sizeof(*larger));

		if (!larger) {
			state_fail(state, error_new(ENOMEM, "no memory to describe %s", name));
			return;
		}
		state->fields = larger;
		state->field_capacity = capacity;
	}
	state->fields[state->field_count++] = (struct state_field){name, type, size};
}

/* Room for @size more bytes of a save, or NULL. */
static uint8_t *grow(struct state *state, size_t size)
{
	if (state->capacity - state->size < size) {
		size_t capacity = state->capacity ? state->capacity : FIRST_CAPACITY;
		uint8_t *larger;

		while (capacity - state->size < size)
			capacity *= 2;
		larger = realloc(state->saved, capacity);
		if (!larger) {
			state_fail(state,
				   error_new(ENOMEM, "no memory for %zu bytes of state", capacity));
			return NULL;
		}
		state->saved = larger;
		state->capacity = capacity;
	}
	state->size += size;
	return state->saved + state->size - size;
}

/* The @size bytes of the next field of a load, or NULL. */
static const uint8_t *take(struct state *state, const char *name, size_t size)
{
	if (state->error)
		return NULL;
	state->field = state->offset;
	if (state->size - state->offset < size) {
		state_fail(state,
			   error_new(0, "%s needs %zu bytes at offset %zu, and only %zu are left",
				     name, size, state->offset, state->size - state->offset));
		return NULL;
	}
	state->offset += size;
	return state->loaded + state->offset - size;
}

/* The bytes of a field on their way in or out: to be filled when saving, NULL when failed. */
static uint8_t *field_out(struct state *state, const char *name, const char *type, size_t size)
{
	if (state->error)
		return NULL;
	if (state->describe)
		describe(state, name, type, size);
	return grow(state, size);
}

bool state_check(struct state *state, bool good, const char *name, const char *why)
{
	if (!state->error && state->loading && !good)
		state_fail(state, error_new(0, "%s at offset %zu %s", name, state->field, why));
	return !state->error;
}

void state_buffer(struct state *state, const char *name, void *bytes, size_t size)
{
	if (state->loading) {
		const uint8_t *in = take(state, name, size);

		if (in)
			memcpy(bytes, in, size);
		else
			memset(bytes, 0, size);
	} else {
		uint8_t *out = field_out(state, name, "buffer", size);

		if (out)
			memcpy(out, bytes, size);
	}
}

void state_u8(struct state *state, const char *name, uint8_t *value)
{
	if (state->loading) {
		const uint8_t *in = take(state, name, 1);

		*value = in ? *in : 0;
	} else {
		uint8_t *out = field_out(state, name, "uint8", 1);

		if (out)
			*out = *value;
	}
}

#define DEFINE_STATE_INTEGER(width)                                                                \
	void state_u##width(struct state *state, const char *name, uint##width##_t *value)         \
	{                                                                                          \
		if (state->loading) {                                                              \
			const uint8_t *in = take(state, name, width / 8);                          \
                                                                                                   \
			*value = in ? get_be##width(in) : 0;                                       \
		} else {                                                                           \
			uint8_t *out = field_out(state, name, "uint" #width, width / 8);           \
                                                                                                   \
			if (out)                                                                   \
				put_be##width(out, *value);                                        \
		}                                                                                  \
	}

DEFINE_STATE_INTEGER(16)
DEFINE_STATE_INTEGER(32)
DEFINE_STATE_INTEGER(64)

void state_bool(struct state *state, const char *name, bool *value)
{
	if (state->loading) {
		const uint8_t *in = take(state, name, 1);

		*value = in && *in;
		if (in)
			state_check(state, *in <= 1, name, "is neither true nor false");
	} else {
		uint8_t *out = field_out(state, name, "bool", 1);

		if (out)
			*out = *value;
	}
}

void state_bitmap(struct state *state, const char *name, uint64_t *bitmap, size_t bits)
{
	size_t words = bitmap_words(bits);

	if (state->loading) {
		const uint8_t *in = take(state, name, words * 8);

		for (size_t word = 0; word < words; word++)
			bitmap[word] = in ? get_be64(in + word * 8) : 0;
		if (bits % 64)
			state_check(state, bitmap[words - 1] >> (bits % 64) == 0, name,
				    "has bits set beyond its end");
	} else {
		uint8_t *out = field_out(state, name, "buffer", words * 8);

		for (size_t word = 0; out && word < words; word++)
			put_be64(out + word * 8, bitmap[word]);
	}
}

uint32_t state_count(struct state *state, const char *name, uint32_t count, uint32_t maximum)
{
	state_u32(state, name, &count);
	if (state->loading && count > maximum)
		state_check(state, false, name, "is larger than can be");
	/* What is saved keeps its count, whatever becomes of the save. */
	return state->loading && state->error ? 0 : count;
}

bool state_expect(struct state *state, const char *name, size_t size)
{
	return state_check(state, !state->loading || state->size - state->offset >= size, name,
			   "announces more than there is");
}

void state_same(struct state *state, const char *name, uint64_t value)
{
	uint64_t other = value;

	state_u64(state, name, &other);
	if (!state->error && other != value)
		state_fail(state, error_new(0,
					    "%s at offset %zu is %" PRIu64 " (0x%" PRIx64
					    "), and here it is %" PRIu64 " (0x%" PRIx64 ")",
					    name, state->field, other, other, value, value));
}
