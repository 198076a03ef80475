/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Measures a vhost-user back-end for disks, without a machine: a front-end and a driver that does nothing else.
 *
 *	vhost-blk-load SOCKET load read|write DEPTH SECONDS DISK-BYTES
 *		random requests of 4 KiB: prints requests a second, and the median and 99th percentile of
 *		their time in microseconds
 *	vhost-blk-load SOCKET slots COUNT…
 *		for each COUNT the median time, in microseconds, in which a piece of memory is
 *		added and one is taken away when there are that many, a ring running
 */
#include "../unit/blk_front.h"

#define SAMPLES_MAX 4000000U
#define CYCLES	    101U
#define UNIT	    0x10000ULL
#define HOT	    (1ULL << 40)

static uint64_t random_state = 88172645463325252ULL;

static uint64_t random_below(uint64_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % below;
}

static int compare(const void *a, const void *b)
{
	const uint32_t *left = a, *right = b;

	return *left < *right ? -1 : *left > *right;
}

static double percentile(uint32_t *times, size_t count, double part)
{
	qsort(times, count, sizeof(*times), compare);
	return times[(size_t)((double)(count - 1) * part)] / 1000.0;
}

static void put_one(struct front *front, uint16_t slot, uint32_t type, uint64_t blocks,
		    int64_t *begun)
{
	front_request(front, 0, slot, type, random_below(blocks) * 8, DATA_SIZE);
	begun[slot] = clock_monotonic_ns();
}

static void load(struct front *front, char **argv)
{
	uint32_t type = strcmp(argv[0], "write") == 0 ? BLK_T_OUT : BLK_T_IN;
	uint16_t depth = (uint16_t)atoi(argv[1]);
	int64_t start, now, end, begun[SLOTS];
	uint64_t blocks = strtoull(argv[3], NULL, 10) / DATA_SIZE;
	uint32_t *times = malloc(SAMPLES_MAX * sizeof(*times));
	size_t count = 0;
	int slot;

	assert_true(depth && depth <= SLOTS && blocks && times);
	start = now = clock_monotonic_ns();
	end = start + atoll(argv[2]) * NS_PER_SECOND;
	for (uint16_t i = 0; i < depth; i++)
		put_one(front, i, type, blocks, begun);
	front_kick(front, 0);
	while (front->rings[0].waiting) {
		bool more = false;

		while ((slot = front_reap(front, 0)) >= 0) {
			now = clock_monotonic_ns();
			assert_int_equal(front_status(front, 0, (uint32_t)slot), BLK_S_OK);
			if (count < SAMPLES_MAX)
				times[count++] = (uint32_t)(now - begun[slot]);
			if (now >= end)
				continue;
			put_one(front, (uint16_t)slot, type, blocks, begun);
			more = true;
		}
		if (more)
			front_kick(front, 0);
		if (front->rings[0].waiting)
			front_wait(front, 0, 1000);
	}
	printf("%.0f %.1f %.1f\n", (double)count * NS_PER_SECOND / (double)(now - start),
	       percentile(times, count, 0.5), percentile(times, count, 0.99));
	free(times);
}

static uint32_t change(struct front *front, uint64_t piece, bool add)
{
	struct vhost_user_range range = {HOT + piece * UNIT, UNIT};
	int64_t start = clock_monotonic_ns();

	assert_no_error(
	    vhost_user_front_end_change_memory(front->front, &range, !add, &range, add));
	return (uint32_t)(clock_monotonic_ns() - start);
}

/* Boot memory is a piece too. */
static void slots(struct front *front, int argc, char **argv)
{
	uint64_t there = 1;

	for (int i = 0; i < argc; i++) {
		uint64_t count = strtoull(argv[i], NULL, 10);
		uint32_t add[CYCLES], take[CYCLES];

		for (; there + 1 < count; there++)
			change(front, there, true);
		for (unsigned int cycle = 0; cycle < CYCLES; cycle++) {
			add[cycle] = change(front, there, true);
			take[cycle] = change(front, there, false);
		}
		printf("%.1f %.1f\n", percentile(add, CYCLES, 0.5), percentile(take, CYCLES, 0.5));
	}
}

int main(int argc, char **argv)
{
	struct front front = {0};
	uint64_t size = UNIT * VHOST_USER_SLOTS_MAX;
	int hot = memfd_create("hot", MFD_CLOEXEC);

	if (argc < 4 || hot < 0 || ftruncate(hot, (off_t)size) < 0) {
		fprintf(stderr, "usage: see the head of vhost-blk-load.c\n");
		return 2;
	}
	front_prepare(&front, MIB(1), F_FLUSH, 1);
	snprintf(front.socket, sizeof(front.socket), "%s", argv[1]);
	assert_no_error(vhost_user_memory_add_block(
	    front.memory, &(struct vhost_user_block){{HOT, size, 1ULL << 50, 0}, hot, UNIT}));
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	if (strcmp(argv[2], "load") == 0 && argc == 7)
		load(&front, argv + 3);
	else
		slots(&front, argc - 3, argv + 3);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	vhost_user_front_end_close(front.front);
	unlink(front.path);
	return 0;
}
