/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A back-end for disks that is killed again and again under load: no write is lost, none is given back twice, and
 * none that is old comes over a new one.
 */
#include "blk_front.h"

#define BLOCKS 48U /* few, so that they are written again soon */
#define KILLS  50U /* for each kind of ring */

struct load {
	struct front front;
	uint64_t random, serial;
	uint64_t model[BLOCKS];		    /* what was written last */
	uint64_t pending[RINGS_MAX][SLOTS]; /* being written */
	uint32_t block[RINGS_MAX][SLOTS];
	bool writes[RINGS_MAX][SLOTS];
	bool busy[BLOCKS];
	uint64_t done;
	bool reads_again; /* a block that is being written is left alone */
};

static uint32_t chance(struct load *load, uint32_t below)
{
	load->random ^= load->random << 13;
	load->random ^= load->random >> 7;
	load->random ^= load->random << 17;
	return (uint32_t)(load->random >> 32) % below;
}

/* A block is filled with its number and what makes this write unlike any other. */
static void fill(uint8_t *bytes, uint32_t block, uint64_t serial)
{
	for (uint32_t i = 0; i < DATA_SIZE; i += 16) {
		put_le64(bytes + i, serial ? block : 0);
		put_le64(bytes + i + 8, serial);
	}
}

static void assert_block(const uint8_t *bytes, uint32_t block, uint64_t serial)
{
	uint8_t expected[DATA_SIZE];

	fill(expected, block, serial);
	assert_memory_equal(bytes, expected, DATA_SIZE);
}

static void submit(struct load *load, uint32_t index)
{
	struct front_ring *ring = &load->front.rings[index];
	bool any = false;

	for (uint16_t slot = 0; slot < 16; slot++) {
		uint32_t block = chance(load, BLOCKS);
		bool write = chance(load, 4);

		if (ring->busy[slot] || load->busy[block])
			continue;
		load->busy[block] = true;
		load->block[index][slot] = block;
		load->writes[index][slot] = write;
		load->pending[index][slot] = ++load->serial;
		if (write)
			fill(front_data(&load->front, index, slot), block, load->serial);
		front_request(&load->front, index, slot, write ? BLK_T_OUT : BLK_T_IN,
			      block * (DATA_SIZE / 512), DATA_SIZE);
		any = true;
	}
	if (any)
		front_kick(&load->front, index);
}

static void reap(struct load *load, uint32_t index)
{
	int slot;

	while ((slot = front_reap(&load->front, index)) >= 0) {
		uint32_t block = load->block[index][slot];

		assert_int_equal(front_status(&load->front, index, (uint32_t)slot), BLK_S_OK);
		if (load->writes[index][slot])
			load->model[block] = load->pending[index][slot];
		else
			assert_block(front_data(&load->front, index, (uint32_t)slot), block,
				     load->model[block]);
		load->busy[block] = false;
		load->done++;
	}
}

static void pump(struct load *load, int64_t for_ns)
{
	int64_t end = clock_monotonic_ns() + for_ns;

	do {
		for (uint32_t i = 0; i < load->front.queues; i++) {
			submit(load, i);
			reap(load, i);
		}
		front_wait(&load->front, 0, 0);
	} while (clock_monotonic_ns() < end);
}

/* What a machine knows of a ring whose back-end has died: what was used. */
static uint32_t base_of(const struct front *front, uint32_t index)
{
	const struct front_ring *ring = &front->rings[index];
	uint32_t packed = ring->used | (ring->used_wrap ? 0x8000U : 0);

	return front->features & F_PACKED ? packed | packed << 16 : ring->used;
}

static void come_back(struct load *load)
{
	struct front *front = &load->front;

	vhost_user_front_end_close(front->front);
	front->front = NULL;
	front_start_process(front);
	front_begin_session(front);
	for (uint32_t i = 0; i < front->queues; i++) {
		reap(load, i);
		front_start_ring(front, i, base_of(front, i));
	}
}

static void check_all(struct load *load)
{
	uint8_t bytes[DATA_SIZE];

	for (uint32_t i = 0; i < load->front.queues; i++) {
		while (load->front.rings[i].waiting) {
			reap(load, i);
			front_wait(&load->front, i, 10);
		}
	}
	for (uint32_t block = 0; block < BLOCKS; block++) {
		assert_int_equal(
		    pread(load->front.file, bytes, DATA_SIZE, (off_t)block * DATA_SIZE), DATA_SIZE);
		assert_block(bytes, block, load->model[block]);
	}
}

static void kill_often(uint64_t features, uint32_t queues)
{
	struct load *load = calloc(1, sizeof(*load));
	uint64_t before;

	assert_non_null(load);
	load->random = 88172645463325252ULL + features;
	front_begin(&load->front, BLOCKS * DATA_SIZE, features | F_FLUSH, queues);
	for (uint32_t i = 0; i < KILLS; i++) {
		before = load->done;
		pump(load, chance(load, 4000) * 1000);
		/* Some are killed before they did anything; not all. */
		for (int turns = 0; i % 4 && load->done == before && turns < 60000; turns++)
			pump(load, NS_PER_MS);
		assert_true(!(i % 4) || load->done > before);
		assert_true(WIFSIGNALED(front_end_process(&load->front, SIGKILL)));
		come_back(load);
	}
	pump(load, 20 * NS_PER_MS);
	check_all(load);
	front_end(&load->front);
	free(load);
}

static void test_killed_with_a_split_ring(void **unused)
{
	kill_often(F_EVENT, 1);
}

static void test_killed_with_a_packed_ring(void **unused)
{
	kill_often(F_PACKED, 1);
}

static void test_killed_with_several_rings(void **unused)
{
	kill_often(F_PACKED | F_EVENT, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_killed_with_a_split_ring),
	    cmocka_unit_test(test_killed_with_a_packed_ring),
	    cmocka_unit_test(test_killed_with_several_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
