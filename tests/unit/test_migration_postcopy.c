/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that is used while it is still elsewhere: it is as it was, whoever touches it, whatever breaks. */
#include "postcopy_pair.h"

#include "memory/memory_discard.h"

#define TOUCHERS 4

/* --- Who touches -------------------------------------------------------------------------------- */

struct toucher {
	struct move *move;
	pthread_t thread;
	uint64_t seed;
	uint64_t different; /* pages that were not as they are at the source */
	bool stop;	    /* atomic */
};

/* Pages in an order of its own, all of them sooner or later. */
static void *touch(void *context)
{
	struct toucher *toucher = context;
	struct move *move = toucher->move;

	for (int block = 0; block < PAIR_BLOCKS; block++) {
		uint64_t pages = move_pages(&move->here, block), page = toucher->seed % pages;

		for (uint64_t i = 0;
		     i < pages && !__atomic_load_n(&toucher->stop, __ATOMIC_RELAXED); i++) {
			page = (page + 2 * toucher->seed + 7919) % pages;
			if (move_plugged(&move->here, block, page))
				toucher->different += !move_is_same(move, block, page);
		}
	}
	return NULL;
}

static void start_touching(struct move *move, struct toucher touchers[TOUCHERS])
{
	for (int i = 0; i < TOUCHERS; i++) {
		touchers[i] = (struct toucher){.move = move, .seed = (uint64_t)i * 137 + 11};
		assert_int_equal(pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]), 0);
	}
}

static void end_touching(struct toucher touchers[TOUCHERS])
{
	for (int i = 0; i < TOUCHERS; i++) {
		pthread_join(touchers[i].thread, NULL);
		assert_int_equal(touchers[i].different, 0);
	}
}

struct waiter {
	const uint8_t *byte;
	pthread_t thread;
	uint8_t seen;
};

static void *wait_for_byte(void *context)
{
	struct waiter *waiter = context;

	waiter->seen = *(const volatile uint8_t *)waiter->byte;
	return NULL;
}

static void start_waiting(struct waiter *waiter, const struct move *move, int block, uint64_t page)
{
	waiter->byte = pair_page(&move->there, block, page);
	assert_int_equal(pthread_create(&waiter->thread, NULL, wait_for_byte, waiter), 0);
}

static void wait_until_asked(const struct move *move, uint64_t asked)
{
	struct postcopy_destination_progress progress = {};

	while (progress.asked < asked) {
		usleep(100);
		postcopy_destination_progress(move->to, &progress);
	}
}

/* Who touches a page goes on a moment before it is counted. */
static void wait_until_lacking(const struct move *move, uint64_t lacking)
{
	struct postcopy_destination_progress progress = {.lacking = UINT64_MAX};

	while (progress.lacking > lacking) {
		usleep(100);
		postcopy_destination_progress(move->to, &progress);
	}
	assert_int_equal(progress.lacking, lacking);
}

/* --- All of it ---------------------------------------------------------------------------------- */

static void move_all(struct move *move)
{
	struct toucher touchers[TOUCHERS];

	move_write(&move->here, 1);
	move_mark_all(&move->here);
	move_switch(move);
	start_touching(move, touchers);
	wait_until_asked(move, 3);
	move_stream(move);
	end_touching(touchers);
	move_finish(move);
	move_assert_same(move);
}

static void test_all_pages_come(void **unused)
{
	static const uint32_t channels[] = {1, 3};

	for (int i = 0; i < 2; i++) {
		struct move move;

		move_create(&move, channels[i]);
		move_all(&move);
		move_destroy(&move);
	}
}

/* Without a stream just what is touched comes, once, whoever touches it. */
static void test_pages_come_when_they_are_touched(void **unused)
{
	struct postcopy_destination_progress progress;
	struct migration_sent sent;
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	for (int again = 0; again < 2; again++)
		for (uint64_t page = 0; page < 40; page++)
			assert_true(move_is_same(&move, page % 3, 512 + page * 11));
	wait_until_lacking(&move, 2 * (PAIR_SIZE / PAIR_PAGE) + 512 - 40);
	postcopy_destination_progress(move.to, &progress);
	do
		migration_sender_progress(move.sender, &sent);
	while (sent.requested_pages < 40);
	assert_int_equal(progress.asked, 40);
	assert_int_equal(progress.requests, 40);
	assert_int_equal(sent.requested_pages, 40);
	assert_int_equal(sent.pages + sent.zero_pages, 40);
	move_destroy(&move);
}

/* However little may be sent: what is waited for is never held back, nor taken and not sent. */
static void test_limit_holds_up_nobody(void **unused)
{
	struct move move;

	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	migration_sender_set_bandwidth(move.sender, 1);
	move_stream(&move);
	for (int block = 0; block < PAIR_BLOCKS; block++)
		for (uint64_t page = 0; page < move_pages(&move.here, block); page++)
			assert_true(!move_plugged(&move.here, block, page) ||
				    move_is_same(&move, block, page));
	move_destroy(&move);
}

/* Neighbours that are waited for make one message; many that wait for one page make one as well. */
static void test_requests_are_merged(void **unused)
{
	struct postcopy_destination_progress progress;
	struct waiter waiters[16];
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_begin(&move);
	for (uint64_t i = 0; i < 16; i++)
		start_waiting(&waiters[i], &move, 1, 100 + (i * 5) % 8);
	wait_until_asked(&move, 8);
	postcopy_destination_attach(move.to, move.destination);
	for (int i = 0; i < 16; i++)
		pthread_join(waiters[i].thread, NULL);
	postcopy_destination_progress(move.to, &progress);
	assert_int_equal(progress.asked, 8);
	assert_int_equal(progress.requests, 1);
	move_destroy(&move);
}

/* What was sent before and has changed since is never seen as it was. */
static void test_rounds_come_first(void **unused)
{
	struct postcopy_destination_progress progress;
	struct toucher touchers[TOUCHERS];
	struct move move;
	uint64_t changed = 0;

	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_round(&move, true);
	for (int block = 0; block < PAIR_BLOCKS; block++)
		for (uint64_t page = 512; page < 1024; page += 1 + page % 5, changed++) {
			if (page % 11)
				pair_fill(&move.here, block, page, 2, true);
			else
				memset(pair_page(&move.here, block, page), 0, PAIR_PAGE);
			pair_mark(&move.here, block, page, 1);
		}
	move_switch(&move);
	start_touching(&move, touchers);
	move_stream(&move);
	end_touching(touchers);
	move_finish(&move);
	postcopy_destination_progress(move.to, &progress);
	assert_int_equal(progress.total, changed);
	move_assert_same(&move);
	move_destroy(&move);
}

static void test_nothing_is_pending(void **unused)
{
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_round(&move, true);
	move_switch(&move);
	assert_true(move.completed);
	move_stream(&move);
	move_finish(&move);
	move_assert_same(&move);
	move_destroy(&move);
}

/* What the host never made here needs not be sent, nor made for it. */
static void test_absent_pages_are_not_sent(void **unused)
{
	struct postcopy_destination_progress progress;
	struct move move;

	move_create(&move, 1);
	for (uint64_t page = 600; page < 900; page += 10)
		for (int block = 0; block < PAIR_BLOCKS; block++)
			pair_fill(&move.here, block, page, 1, true);
	move_mark_all(&move.here);
	/* All of memory is zeros at the destination. */
	assert_no_error(
	    postcopy_source_drop_absent(move.from, move.here.pending, move.here.pending));
	move_switch(&move);
	postcopy_destination_progress(move.to, &progress);
	/* The kernel may have made more at once than was touched. */
	assert_in_range(progress.total, 90, 3 * 512);
	move_stream(&move);
	move_finish(&move);
	assert_true(ram_block_resident(move.here.blocks[0]) < MIB(4));
	move_assert_same(&move);
	move_destroy(&move);
}

/* --- Memory that is given back ------------------------------------------------------------------ */

static void discard(const struct move *move, int block, uint64_t first, uint64_t count)
{
	struct memory_discard_count total = {};

	memory_discard(move->there.map, GIB((uint64_t)block) + first * PAIR_PAGE, count * PAIR_PAGE,
		       false, &total);
	assert_int_equal(total.discarded, count * PAIR_PAGE);
}

static bool is_zero(const struct move *move, int block, uint64_t page)
{
	const uint8_t *bytes = pair_page(&move->there, block, page);

	return !bytes[0] && !memcmp(bytes, bytes + 1, PAIR_PAGE - 1);
}

static void test_discarded_pages_stay_zeros(void **unused)
{
	struct postcopy_destination_progress progress;
	struct move move;

	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	for (int block = 0; block < PAIR_BLOCKS; block++) {
		assert_true(move_is_same(&move, block, 900)); /* has come, and goes */
		discard(&move, block, 605, 300);
		assert_true(is_zero(&move, block, 610));
		pair_page(&move.there, block, 620)[0] = 77; /* the guest uses it anew */
	}
	postcopy_destination_progress(move.to, &progress);
	assert_int_equal(progress.dropped, 3 * 299);
	move_stream(&move);
	move_finish(&move);
	for (int block = 0; block < PAIR_BLOCKS; block++) {
		for (uint64_t page = 605; page < 905; page++)
			assert_true(page == 620 || is_zero(&move, block, page));
		assert_int_equal(pair_page(&move.there, block, 620)[0], 77);
		assert_true(move_is_same(&move, block, 604) && move_is_same(&move, block, 905));
	}
	move_destroy(&move);
}

/* Another processor gives back what one waits for: it goes on, with zeros. */
static void test_who_waits_for_a_discarded_page_goes_on(void **unused)
{
	struct waiter waiters[3];
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_begin(&move); /* nothing can be asked for */
	for (int block = 0; block < 3; block++)
		start_waiting(&waiters[block], &move, block, 1000);
	wait_until_asked(&move, 3);
	for (int block = 0; block < 3; block++) {
		discard(&move, block, 990, 20);
		pthread_join(waiters[block].thread, NULL);
		assert_int_equal(waiters[block].seen, 0);
		assert_true(is_zero(&move, block, 1000));
	}
	move_destroy(&move);
}

static void test_unplug_and_plug(void **unused)
{
	struct move move;

	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	assert_true(move_is_same(&move, 2, 700));
	/* One that is lacking goes, one that was not there comes. */
	assert_int_equal(memory_region_unplug(move.there.map, move.there.elastic, MIB(2), MIB(2)),
			 0);
	assert_int_equal(memory_region_plug(move.there.map, move.there.elastic, 0, MIB(4)), 0);
	assert_true(is_zero(&move, 2, 100) && is_zero(&move, 2, 700) && is_zero(&move, 2, 1023));
	pair_page(&move.there, 2, 701)[5] = 9;
	move_stream(&move);
	move_finish(&move);
	assert_true(is_zero(&move, 2, 700) && is_zero(&move, 2, 1000));
	assert_int_equal(pair_page(&move.there, 2, 701)[5], 9);
	for (int block = 0; block < 2; block++)
		for (uint64_t page = 0; page < move_pages(&move.here, block); page++)
			assert_true(move_is_same(&move, block, page));
	move_destroy(&move);
}

/* What is given back last is what completes it. */
static void test_discards_complete(void **unused)
{
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	pair_mark(&move.here, 0, 10, 30);
	move_switch(&move);
	assert_true(move_is_same(&move, 0, 12));
	assert_false(move.completed);
	discard(&move, 0, 10, 30);
	move_wait(&move);
	move_destroy(&move);
}

/* --- Connections that break --------------------------------------------------------------------- */

static void cut_and_recover(struct move *move, int times, uint64_t seed)
{
	struct toucher touchers[TOUCHERS];

	move_write(&move->here, 1);
	move_mark_all(&move->here);
	move_switch(move);
	start_touching(move, touchers);
	/* Slow enough that it cannot be over before it is cut. */
	migration_sender_set_bandwidth(move->sender, MIB(20));
	move_stream(move);
	for (int i = 0; i < times; i++) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		usleep((useconds_t)(seed >> 33) % 20000);
		move_disconnect(move);
		move_connect(move, true);
		migration_sender_set_bandwidth(move->sender, i < times - 1 ? MIB(20) : 0);
	}
	end_touching(touchers);
	move_finish(move);
	move_assert_same(move);
}

static void test_connections_break(void **unused)
{
	struct migration_sent sent;
	struct move move;

	for (uint64_t seed = 1; seed <= 3; seed++) {
		move_create(&move, 2);
		cut_and_recover(&move, 6, seed);
		migration_sender_progress(move.sender, &sent);
		/* Only what had not come was sent anew. */
		assert_true(sent.pages + sent.zero_pages < 2 * (PAIR_SIZE / PAIR_PAGE) + 512);
		move_destroy(&move);
	}
}

/* Without a connection faults wait and memory can be given back; neither is forgotten. */
static void test_cut_while_memory_is_given_back(void **unused)
{
	struct waiter waiter;
	struct move move;

	move_create(&move, 2);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	assert_true(move_is_same(&move, 1, 50));
	move_disconnect(&move);
	start_waiting(&waiter, &move, 1, 60);
	wait_until_asked(&move, 2);
	discard(&move, 1, 40, 15);
	move_connect(&move, true);
	pthread_join(waiter.thread, NULL);
	assert_int_equal(waiter.seen, pair_page(&move.here, 1, 60)[0]);
	move_finish(&move);
	for (uint64_t page = 0; page < move_pages(&move.here, 1); page++)
		assert_true(page >= 40 && page < 55 ? is_zero(&move, 1, page)
						    : move_is_same(&move, 1, page));
	move_destroy(&move);
}

/* --- Pages that are large ----------------------------------------------------------------------- */

static void create_huge(struct move *move, bool pool, uint32_t channels)
{
	bool enough;

	memset(move, 0, sizeof(*move));
	enough = move_memory_create_huge(&move->here, pool);
	enough &= move_memory_create_huge(&move->there, pool);
	if (!enough) {
		pair_memory_destroy(&move->here);
		pair_memory_destroy(&move->there);
		skip();
	}
	move_prepare(move, channels);
}

static void check_huge(bool pool)
{
	struct move move;

	create_huge(&move, pool, 3);
	move_all(&move);
	move_destroy(&move);
	create_huge(&move, pool, 3);
	cut_and_recover(&move, 5, 4);
	move_destroy(&move);
}

static void test_large_pages_come_whole(void **unused)
{
	check_huge(false);
}

static void test_pages_of_the_pool_come_whole(void **unused)
{
	check_huge(true);
}

/* A touch brings all of a large page, and a change of any part makes all of it lacking. */
static void check_huge_rounds(bool pool)
{
	struct postcopy_destination_progress progress;
	struct move move;

	create_huge(&move, pool, 3);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	/* A large page is there or not; what is taken for one has to be. */
	for (int block = 0; block < 3 && !pool; block += 2)
		memset(move.there.blocks[block]->host, 0, move.there.blocks[block]->size);
	move_round(&move, true);
	pair_fill(&move.here, 0, 700, 2, true);
	pair_mark(&move.here, 0, 700, 1);
	memset(pair_page(&move.here, 2, 512), 0, MIB(2));
	pair_mark(&move.here, 2, 800, 1);
	move_switch(&move);
	assert_true(move_is_same(&move, 0, 600));
	wait_until_lacking(&move, 512);
	postcopy_destination_progress(move.to, &progress);
	assert_int_equal(progress.total, 1024);
	assert_int_equal(progress.asked, 1);
	assert_true(move_is_same(&move, 0, 700));
	move_stream(&move);
	move_finish(&move);
	move_assert_same(&move);
	move_destroy(&move);
}

static void test_parts_of_large_pages_change(void **unused)
{
	check_huge_rounds(false);
}

static void test_parts_of_pages_of_the_pool_change(void **unused)
{
	check_huge_rounds(true);
}

static void test_large_pages_are_given_back(void **unused)
{
	struct waiter waiter;
	struct move move;

	create_huge(&move, false, 3);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_begin(&move);
	start_waiting(&waiter, &move, 2, 1000);
	wait_until_asked(&move, 1);
	assert_int_equal(memory_region_unplug(move.there.map, move.there.elastic, MIB(2), MIB(2)),
			 0);
	pthread_join(waiter.thread, NULL);
	assert_int_equal(memory_region_plug(move.there.map, move.there.elastic, MIB(2), MIB(2)), 0);
	postcopy_destination_attach(move.to, move.destination);
	move_stream(&move);
	move_finish(&move);
	for (uint64_t page = 512; page < 1024; page++)
		assert_true(is_zero(&move, 2, page));
	move_destroy(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all_pages_come),
	    cmocka_unit_test(test_pages_come_when_they_are_touched),
	    cmocka_unit_test(test_limit_holds_up_nobody),
	    cmocka_unit_test(test_requests_are_merged),
	    cmocka_unit_test(test_rounds_come_first),
	    cmocka_unit_test(test_nothing_is_pending),
	    cmocka_unit_test(test_absent_pages_are_not_sent),
	    cmocka_unit_test(test_discarded_pages_stay_zeros),
	    cmocka_unit_test(test_who_waits_for_a_discarded_page_goes_on),
	    cmocka_unit_test(test_unplug_and_plug),
	    cmocka_unit_test(test_discards_complete),
	    cmocka_unit_test(test_connections_break),
	    cmocka_unit_test(test_cut_while_memory_is_given_back),
	    cmocka_unit_test(test_large_pages_come_whole),
	    cmocka_unit_test(test_pages_of_the_pool_come_whole),
	    cmocka_unit_test(test_parts_of_large_pages_change),
	    cmocka_unit_test(test_parts_of_pages_of_the_pool_change),
	    cmocka_unit_test(test_large_pages_are_given_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
