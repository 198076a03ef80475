/* SPDX-License-Identifier: BSD-2-Clause */
/* What is saved is loaded, and what nobody vouches for is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/bitmap.h"
#include "base/state.h"

struct clockwork {
	uint8_t hour;
	uint16_t ticks;
	uint32_t gears;
	uint64_t turns[4];
	bool wound;
	char label[5];
	uint64_t holes[2];
	uint64_t height; /* configuration */
};

static void clockwork_state(void *context, struct state *state)
{
	struct clockwork *clockwork = context;
	uint32_t count;

	state_same(state, "height", clockwork->height);
	state_u8(state, "hour", &clockwork->hour);
	state_check(state, clockwork->hour < 24, "hour", "is not on the dial");
	state_u16(state, "ticks", &clockwork->ticks);
	state_u32(state, "gears", &clockwork->gears);
	count = state_count(state, "turns", 4, 4);
	for (uint32_t i = 0; i < count; i++)
		state_u64(state, "turn", &clockwork->turns[i]);
	state_bool(state, "wound", &clockwork->wound);
	state_buffer(state, "label", clockwork->label, sizeof(clockwork->label));
	state_bitmap(state, "holes", clockwork->holes, 100);
}

static const struct clockwork example = {
    .hour = 23,
    .ticks = 0x1234,
    .gears = 0x12345678,
    .turns = {1, 2, 3, 0x123456789abcdef0},
    .wound = true,
    .label = "abcd",
    .holes = {0x8000000000000001, 0x0000000800000000},
    .height = 77,
};

/* The saved form of @clockwork; the caller frees the state. */
static const uint8_t *save(struct clockwork *clockwork, struct state **state, size_t *size)
{
	struct state_part part = {
	    .name = "clock", .version = 3, .visit = clockwork_state, .context = clockwork};

	*state = state_save_begin(true);
	assert_null(state_visit(*state, &part));
	return state_bytes(*state, size);
}

/* Loads into @clockwork; the message of the error, or NULL. */
static const char *load(struct clockwork *clockwork, const uint8_t *bytes, size_t size,
			uint32_t version)
{
	static char message[256];
	struct state_part part = {
	    .name = "clock", .version = 3, .visit = clockwork_state, .context = clockwork};
	AUTO_STATE struct state *state = state_load_begin(bytes, size, version);
	AUTO_ERROR struct error *error = state_visit(state, &part);

	if (!error)
		return NULL;
	snprintf(message, sizeof(message), "%s", error_message(error));
	return message;
}

static void test_what_is_saved_is_loaded(void **unused)
{
	struct clockwork from, to;
	struct state *state;
	const uint8_t *bytes;
	size_t size;

	/* Byte by byte, so that the padding is the same too. */
	memcpy(&from, &example, sizeof(from));
	memset(&to, 0, sizeof(to));
	to.height = 77;
	bytes = save(&from, &state, &size);
	assert_null(load(&to, bytes, size, 3));
	assert_memory_equal(&from, &to, sizeof(to));
	state_free(state);
}

static void test_integers_are_big_endian(void **unused)
{
	struct clockwork from = example;
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);

	assert_memory_equal(bytes, "\0\0\0\0\0\0\0\x4d\x17\x12\x34\x12\x34\x56\x78\0\0\0\x04", 19);
	state_free(state);
}

static void test_the_description_covers_every_byte(void **unused)
{
	struct clockwork from = example;
	struct state *state;
	size_t size, count, sum = 0;

	save(&from, &state, &size);
	const struct state_field *fields = state_fields(state, &count);

	assert_int_equal(count, 12);
	for (size_t i = 0; i < count; i++)
		sum += fields[i].size;
	assert_int_equal(sum, size);
	assert_string_equal(fields[1].name, "hour");
	assert_string_equal(fields[1].type, "uint8");
	state_free(state);
}

static void test_every_shorter_state_is_refused(void **unused)
{
	struct clockwork from = example;
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);

	for (size_t shorter = 0; shorter < size; shorter++) {
		struct clockwork to = {.height = 77};

		assert_non_null(load(&to, bytes, shorter, 3));
	}
	state_free(state);
}

static void test_bytes_left_over_are_refused(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);
	uint8_t longer[256] = {0};

	memcpy(longer, bytes, size);
	assert_non_null(strstr(load(&to, longer, size + 1, 3), "1 bytes are left over"));
	state_free(state);
}

static void test_a_refusal_names_part_field_and_offset(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;

	from.hour = 24;
	const uint8_t *bytes = save(&from, &state, &size);

	assert_string_equal(load(&to, bytes, size, 3),
			    "state of clock: hour at offset 8 is not on the dial");
	assert_int_equal(to.gears, 0);
	state_free(state);
}

static void test_a_configuration_that_differs_is_refused(void **unused)
{
	struct clockwork from = example, to = {.height = 78};
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);

	assert_string_equal(
	    load(&to, bytes, size, 3),
	    "state of clock: height at offset 0 is 77 (0x4d), and here it is 78 (0x4e)");
	state_free(state);
}

static void test_a_count_above_its_maximum_yields_no_elements(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);
	uint8_t copy[256];

	memcpy(copy, bytes, size);
	copy[18] = 5;
	assert_non_null(
	    strstr(load(&to, copy, size, 3), "turns at offset 15 is larger than can be"));
	assert_int_equal(to.turns[0], 0);
	state_free(state);
}

static void test_a_save_that_fails_changes_nothing(void **unused)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	AUTO_ERROR struct error *error = NULL;
	struct clockwork clockwork = example;

	state_fail(state, error_new(0, "no more room"));
	assert_int_equal(state_count(state, "turns", 4, 4), 4);
	clockwork_state(&clockwork, state);
	assert_int_equal(clockwork.gears, example.gears);
	assert_memory_equal(clockwork.turns, example.turns, sizeof(clockwork.turns));
	error = state_finish(state);
	assert_non_null(error);
}

static void test_a_bool_of_two_is_refused(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);
	uint8_t copy[256];

	memcpy(copy, bytes, size);
	copy[51] = 2;
	assert_non_null(
	    strstr(load(&to, copy, size, 3), "wound at offset 51 is neither true nor false"));
	state_free(state);
}

static void test_bits_beyond_a_bitmap_are_refused(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;

	from.holes[1] |= 1ULL << 36;
	const uint8_t *bytes = save(&from, &state, &size);

	assert_non_null(
	    strstr(load(&to, bytes, size, 3), "holes at offset 57 has bits set beyond its end"));
	state_free(state);
}

static void test_a_newer_version_is_refused(void **unused)
{
	struct clockwork from = example, to = {.height = 77};
	struct state *state;
	size_t size;
	const uint8_t *bytes = save(&from, &state, &size);

	assert_non_null(strstr(load(&to, bytes, size, 4), "version 4"));
	assert_non_null(strstr(load(&to, bytes, size, 0), "version 0"));
	assert_null(load(&to, bytes, size, 2));
	state_free(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_saved_is_loaded),
	    cmocka_unit_test(test_integers_are_big_endian),
	    cmocka_unit_test(test_the_description_covers_every_byte),
	    cmocka_unit_test(test_every_shorter_state_is_refused),
	    cmocka_unit_test(test_bytes_left_over_are_refused),
	    cmocka_unit_test(test_a_refusal_names_part_field_and_offset),
	    cmocka_unit_test(test_a_configuration_that_differs_is_refused),
	    cmocka_unit_test(test_a_count_above_its_maximum_yields_no_elements),
	    cmocka_unit_test(test_a_save_that_fails_changes_nothing),
	    cmocka_unit_test(test_a_bool_of_two_is_refused),
	    cmocka_unit_test(test_bits_beyond_a_bitmap_are_refused),
	    cmocka_unit_test(test_a_newer_version_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
