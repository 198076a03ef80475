/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The in-flight buffer: what a successor finds after its predecessor died between any two steps, and
 * that nothing in a damaged buffer is believed.
 */
#include "cmocka_prelude.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "vhost_user/inflight.h"

#define ENTRIES 8

static uint64_t buffer[64];
static uint8_t *const bytes = (uint8_t *)buffer;

/* What the next process finds in a split buffer. */
static uint16_t after_death_split(uint16_t used_index, uint16_t *heads)
{
	struct vhost_user_inflight_queue queue;
	uint16_t count;

	assert_no_error(
	    vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, used_index, heads, &count));
	return count;
}

static void test_sizes_are_those_of_the_structures(void **unused)
{
	assert_int_equal(vhost_user_inflight_size(false, 3), 64);
	assert_int_equal(vhost_user_inflight_size(false, 4), 128);
	assert_int_equal(vhost_user_inflight_size(false, 128), 2112);
	assert_int_equal(vhost_user_inflight_size(true, 1), 64);
	assert_int_equal(vhost_user_inflight_size(true, 128), 4160);
	assert_true(vhost_user_inflight_size(true, ENTRIES) <= sizeof(buffer));
}

static void test_split_requests_come_back_in_their_order(void **unused)
{
	struct vhost_user_inflight_queue queue;
	uint16_t heads[ENTRIES], count;

	memset(bytes, 0, sizeof(buffer));
	assert_no_error(
	    vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 65535, heads, &count));
	assert_int_equal(count, 0);
	assert_int_equal(get_le16(bytes + 8), 1);
	assert_int_equal(get_le16(bytes + 10), ENTRIES);
	vhost_user_inflight_take_split(&queue, 5);
	vhost_user_inflight_take_split(&queue, 2);
	vhost_user_inflight_take_split(&queue, 7);
	assert_int_equal(after_death_split(65535, heads), 3);
	assert_memory_equal(heads, ((uint16_t[]){5, 2, 7}), 6);
}

static void test_split_batch_is_all_or_nothing(void **unused)
{
	struct vhost_user_inflight_queue queue;
	const uint16_t batch[] = {7, 5};
	uint16_t heads[ENTRIES], count;
	uint64_t saved[64];

	memset(bytes, 0, sizeof(buffer));
	assert_no_error(
	    vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 65535, heads, &count));
	vhost_user_inflight_take_split(&queue, 5);
	vhost_user_inflight_take_split(&queue, 2);
	vhost_user_inflight_take_split(&queue, 7);
	vhost_user_inflight_give_split(&queue, 7);
	vhost_user_inflight_give_split(&queue, 5);
	memcpy(saved, buffer, sizeof(saved));
	/* The used ring is as before: all three are done again. */
	assert_int_equal(after_death_split(65535, heads), 3);
	memcpy(buffer, saved, sizeof(saved));
	/* Its index has gone up by two: only one is left. */
	assert_int_equal(after_death_split(1, heads), 1);
	assert_int_equal(heads[0], 2);
	memcpy(buffer, saved, sizeof(saved));
	vhost_user_inflight_gave_split(&queue, batch, 2, 1);
	assert_int_equal(after_death_split(1, heads), 1);
	assert_int_equal(heads[0], 2);
	/* What is taken later comes later, whoever takes it. */
	assert_no_error(vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 1, heads, &count));
	vhost_user_inflight_take_split(&queue, 0);
	assert_int_equal(after_death_split(1, heads), 2);
	assert_memory_equal(heads, ((uint16_t[]){2, 0}), 4);
}

static void test_a_damaged_split_buffer_is_refused(void **unused)
{
	struct vhost_user_inflight_queue queue;
	uint16_t heads[ENTRIES], count;

	memset(bytes, 0, sizeof(buffer));
	put_le16(bytes + 8, 2);
	assert_error_with(vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 0, heads, &count),
			  "version 2");
	put_le16(bytes + 8, 1);
	put_le16(bytes + 10, 16);
	assert_error_with(vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 0, heads, &count),
			  "16 entries");
	put_le16(bytes + 10, ENTRIES);
	put_le16(bytes + 14, 100);
	assert_error_with(vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 0, heads, &count),
			  "requests behind");
	put_le16(bytes + 14, 0);
	put_le16(bytes + 12, ENTRIES);
	assert_error_with(vhost_user_inflight_begin_split(&queue, bytes, ENTRIES, 1, heads, &count),
			  "names descriptor 8");
}

/* --- Packed ------------------------------------------------------------------------------------ */

static uint8_t ring[16 * ENTRIES];

static uint16_t after_death_packed(struct vhost_user_inflight_request *requests, uint16_t *used,
				   bool *wrap)
{
	struct vhost_user_inflight_queue queue;
	uint16_t count;

	assert_no_error(vhost_user_inflight_begin_packed(&queue, bytes, ENTRIES, ring, used, wrap,
							 requests, &count));
	return count;
}

static void test_packed_chains_come_back_whole(void **unused)
{
	const struct vhost_user_inflight_descriptor chain[] = {{0x1000, 16, 3, 1},
							       {0x2000, 512, 3, 2}};
	struct vhost_user_inflight_request requests[ENTRIES];
	struct vhost_user_inflight_descriptor found;
	struct vhost_user_inflight_queue queue;
	uint16_t count, used = 6, first, second, third, at;
	uint64_t saved[64];
	bool wrap = true;

	memset(bytes, 0, sizeof(buffer));
	memset(ring, 0, sizeof(ring));
	put_le16(ring + 16 * 6 + 14, 1 << 7); /* available in the first lap */
	assert_no_error(vhost_user_inflight_begin_packed(&queue, bytes, ENTRIES, ring, &used, &wrap,
							 requests, &count));
	assert_int_equal(count, 0);
	assert_true(vhost_user_inflight_take_packed(&queue, chain, 2, &first));
	assert_true(vhost_user_inflight_take_packed(&queue, chain, 1, &second));
	assert_true(vhost_user_inflight_take_packed(&queue, chain, 2, &third));
	assert_false(vhost_user_inflight_take_packed(&queue, chain, 2, &at) &&
		     vhost_user_inflight_take_packed(&queue, chain, 2, &at));
	memcpy(saved, buffer, sizeof(saved));
	assert_true(after_death_packed(requests, &used, &wrap) >= 3);
	assert_int_equal(requests[0].count, 2);
	at = requests[0].entry;
	assert_true(vhost_user_inflight_next(&queue, &at, &found));
	assert_memory_equal(&found, &chain[0], sizeof(found));
	assert_true(vhost_user_inflight_next(&queue, &at, &found));
	assert_memory_equal(&found, &chain[1], sizeof(found));
	memcpy(buffer, saved, sizeof(saved));
	/* Done out of order, and dead before the driver could see it. */
	vhost_user_inflight_give_packed(&queue, first);
	memcpy(saved, buffer, sizeof(saved));
	assert_int_equal(after_death_packed(requests, &used, &wrap), 4);
	assert_int_equal(requests[0].entry, first);
	assert_int_equal(used, 6);
	assert_true(wrap);
	/* Dead after it was seen: used in the first lap. */
	memcpy(buffer, saved, sizeof(saved));
	put_le16(ring + 16 * 6 + 14, 1 << 7 | 1 << 15);
	assert_int_equal(after_death_packed(requests, &used, &wrap), 3);
	assert_int_equal(requests[0].entry, second);
	assert_int_equal(used, 0); /* 6 and 2, in the next lap */
	assert_false(wrap);
	memcpy(buffer, saved, sizeof(saved));
	vhost_user_inflight_gave_packed(&queue, &first, 1);
	assert_int_equal(after_death_packed(requests, &used, &wrap), 3);
	assert_int_equal(requests[1].entry, third);
}

static void test_a_damaged_packed_buffer_is_harmless(void **unused)
{
	struct vhost_user_inflight_request requests[ENTRIES];
	struct vhost_user_inflight_queue queue;
	uint64_t state = 1;

	for (unsigned int round = 0; round < 20000; round++) {
		uint16_t count, used = 0;
		bool wrap = true;
		struct error *error;

		for (size_t i = 0; i < sizeof(buffer); i++) {
			state = state * 6364136223846793005ULL + 1442695040888963407ULL;
			bytes[i] = (uint8_t)(state >> 56) & (state >> 40 & 1 ? 7 : 255);
		}
		put_le16(bytes + 8, 1);
		put_le16(bytes + 10, ENTRIES);
		error = vhost_user_inflight_begin_packed(&queue, bytes, ENTRIES, ring, &used, &wrap,
							 requests, &count);
		if (!error) {
			assert_true(count <= ENTRIES && used < ENTRIES);
			for (uint16_t i = 0; i < count; i++) {
				assert_in_range(requests[i].count, 1, ENTRIES);
				vhost_user_inflight_give_packed(&queue, requests[i].entry);
			}
		}
		error_free(error);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sizes_are_those_of_the_structures),
	    cmocka_unit_test(test_split_requests_come_back_in_their_order),
	    cmocka_unit_test(test_split_batch_is_all_or_nothing),
	    cmocka_unit_test(test_a_damaged_split_buffer_is_refused),
	    cmocka_unit_test(test_packed_chains_come_back_whole),
	    cmocka_unit_test(test_a_damaged_packed_buffer_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
