/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory over a migration's data connections: it arrives as it was, whatever the way. */
#include "migration_tls_pair.h"

#include <pthread.h>
#include <sys/mman.h>

#include "migration/ram_place.h"
#include "migration/ram_presence.h"
#include "migration/zero_page.h"

struct transfer {
	struct pair_memory here, there;
	struct migration_link *source, *destination;
	struct migration_sender *sender;
	struct migration_receiver *receiver;
	uint64_t rounds; /* atomic; that have ended there */
	uint64_t placed; /* atomic; pages */
	struct error *(*round_ended)(struct transfer *transfer, uint64_t round);
};

static struct error *round_ended(void *context, uint64_t round)
{
	struct transfer *transfer = context;

	if (transfer->round_ended)
		TRY(transfer->round_ended(transfer, round));
	__atomic_store_n(&transfer->rounds, round, __ATOMIC_RELEASE);
	return NULL;
}

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	return NULL;
}

static struct error *place(void *context, uint32_t connection, uint32_t block, uint64_t first,
			   uint64_t count, const void *bytes)
{
	struct transfer *transfer = context;
	uint8_t *to = pair_page(&transfer->there, (int)block, first);

	if (bytes)
		memcpy(to, bytes, count * PAIR_PAGE);
	else
		memset(to, 0, count * PAIR_PAGE);
	__atomic_fetch_add(&transfer->placed, count, __ATOMIC_RELAXED);
	return NULL;
}

static void ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops ops = {
    .round_ended = round_ended, .load = load, .place = place, .ended = ended};

static void begin_over(struct transfer *transfer, struct migration_link *source,
		       struct migration_link *destination,
		       const struct migration_sender_options *options)
{
	struct migration_receiver_options receiver_options = {.workers = 1};

	memset(transfer, 0, sizeof(*transfer));
	pair_memory_create(&transfer->here);
	pair_memory_create(&transfer->there);
	transfer->source = source;
	transfer->destination = destination;
	assert_no_error(migration_sender_create(transfer->source, transfer->here.map, options,
						&transfer->sender));
	assert_no_error(migration_receiver_create(transfer->destination, transfer->there.map,
						  &receiver_options, &ops, transfer,
						  &transfer->receiver));
}

static void begin(struct transfer *transfer, uint32_t channels, bool postcopy,
		  const struct migration_sender_options *options)
{
	struct migration_link *source, *destination;

	pair_links(channels, postcopy, &source, &destination);
	begin_over(transfer, source, destination, options);
}

static void send_round(struct transfer *transfer, bool fresh)
{
	uint64_t round;

	assert_no_error(migration_sender_round(transfer->sender, transfer->here.pending, fresh));
	assert_no_error(migration_sender_end_round(transfer->sender, &round));
}

static void finish(struct transfer *transfer)
{
	assert_no_error(migration_sender_finish(transfer->sender));
	assert_no_error(migration_receiver_wait(transfer->receiver));
}

static void end(struct transfer *transfer)
{
	migration_sender_destroy(transfer->sender);
	migration_link_close(transfer->source);
	migration_receiver_destroy(transfer->receiver);
	migration_link_close(transfer->destination);
	pair_memory_destroy(&transfer->here);
	pair_memory_destroy(&transfer->there);
}

/* Something everywhere, but with zeros in between. */
static void write_much(struct pair_memory *memory, uint8_t version, bool noise)
{
	for (int block = 0; block < PAIR_BLOCKS; block++)
		for (uint64_t page = 0; page < memory->blocks[block]->size / PAIR_PAGE; page++) {
			bool plugged = block < 2 || (page >= 512 && page < 1024);

			if (plugged && page % 7 != 3 && (page / 300) % 3 != 1)
				pair_fill(memory, block, page, version, noise);
		}
}

static void check_channels(uint32_t channels, const struct migration_sender_options *options,
			   bool noise, struct migration_sent *sent)
{
	struct transfer transfer;

	begin(&transfer, channels, false, options);
	write_much(&transfer.here, 1, noise);
	pair_mark_all(&transfer.here);
	assert_no_error(migration_receiver_start(transfer.receiver));
	send_round(&transfer, true);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	for (int i = 0; i < PAIR_BLOCKS; i++)
		assert_true(bitmap_all_clear(transfer.here.pending[i], 0,
					     transfer.here.blocks[i]->size / PAIR_PAGE));
	assert_int_equal(transfer.rounds, 1);
	migration_sender_progress(transfer.sender, sent);
	end(&transfer);
}

static void test_channels(void **unused)
{
	static const uint32_t counts[] = {1, 2, 4, 64};
	struct migration_sender_options options = {};
	struct migration_sent sent, first = {};

	for (int i = 0; i < 4; i++) {
		check_channels(counts[i], &options, true, &sent);
		if (!i)
			first = sent;
		assert_true(sent.pages > 2000);
		assert_int_equal(sent.pages, first.pages);
		assert_int_equal(sent.compressed_pages, 0);
	}
}

static void test_zstd(void **unused)
{
	struct migration_sender_options options = {.zstd = true};
	struct migration_sent sent;

	check_channels(2, &options, false, &sent);
	assert_int_equal(sent.compressed_pages, sent.pages);
	assert_true(sent.bytes < sent.pages * 400);
}

static void test_what_does_not_compress_goes_plain(void **unused)
{
	struct migration_sender_options options = {.zstd = true};
	struct migration_sent sent;

	check_channels(2, &options, true, &sent);
	assert_int_equal(sent.compressed_pages, 0);
}

/* Compressible and other pages, one after another, and single ones. */
static void test_zstd_mixed(void **unused)
{
	struct migration_sender_options options = {.zstd = true};
	struct transfer transfer;

	begin(&transfer, 1, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	for (uint8_t version = 1; version < 6; version++) {
		for (uint64_t page = version; page < 2048; page += 1 + page % 13) {
			pair_fill(&transfer.here, 0, page, version, (page / 400 + version) % 2);
			pair_mark(&transfer.here, 0, page, 1);
		}
		send_round(&transfer, false);
	}
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

/* What became zeros becomes zeros there. */
static void test_zeros_replace_content(void **unused)
{
	struct migration_sender_options options = {};
	struct migration_received received;
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	write_much(&transfer.here, 1, true);
	pair_mark_all(&transfer.here);
	send_round(&transfer, true);
	memset(pair_page(&transfer.here, 0, 300), 0, 500 * PAIR_PAGE);
	memset(pair_page(&transfer.here, 1, 2050), 0, PAIR_PAGE);
	pair_mark(&transfer.here, 0, 300, 500);
	pair_mark(&transfer.here, 1, 2050, 1);
	send_round(&transfer, false);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	migration_receiver_progress(transfer.receiver, &received);
	assert_int_equal(received.zero_pages, 501);
	assert_int_equal(received.round, 2);
	end(&transfer);
}

/* The last round's content wins, whichever connection a page took. */
static void test_rounds_stay_in_order(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 4, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	for (uint8_t version = 1; version <= 20; version++) {
		for (uint64_t page = 0; page < 2048; page += version % 3 + 1) {
			pair_fill(&transfer.here, 0, page, version, true);
			pair_mark(&transfer.here, 0, page, 1);
		}
		send_round(&transfer, false);
	}
	finish(&transfer);
	assert_int_equal(transfer.rounds, 20);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

/* Neither read here (which would make pages of it), nor sent, nor touched there. */
static void test_unplugged_memory_stays_absent(void **unused)
{
	struct migration_sender_options options = {};
	unsigned char present[PAIR_ELASTIC / PAIR_PAGE];
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	pair_fill(&transfer.here, 2, 600, 1, true);
	pair_mark(&transfer.here, 2, 0, PAIR_ELASTIC / PAIR_PAGE);
	send_round(&transfer, false);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	assert_int_equal(mincore(transfer.here.blocks[2]->host, PAIR_ELASTIC, present), 0);
	for (uint64_t page = 0; page < PAIR_ELASTIC / PAIR_PAGE; page++)
		assert_false((present[page] & 1) && (page < 512 || page >= 1024));
	assert_int_equal(mincore(transfer.there.blocks[2]->host, PAIR_ELASTIC, present), 0);
	for (uint64_t page = 0; page < PAIR_ELASTIC / PAIR_PAGE; page++)
		assert_false((present[page] & 1) && (page < 512 || page >= 1024));
	end(&transfer);
}

/* Absent pages and zeros cost nothing on the wire in a first round, and no memory there. */
static void test_fresh_zeros_are_left_out(void **unused)
{
	struct migration_sender_options options = {};
	struct migration_sent sent;
	struct transfer transfer;

	begin(&transfer, 1, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	pair_fill(&transfer.here, 1, 5, 1, true);
	memset(pair_page(&transfer.here, 0, 0), 0, MIB(1)); /* present, and zeros */
	pair_mark_all(&transfer.here);
	send_round(&transfer, true);
	finish(&transfer);
	migration_sender_progress(transfer.sender, &sent);
	assert_int_equal(sent.pages, 1);
	assert_int_equal(sent.zero_pages, 2 * (PAIR_SIZE / PAIR_PAGE) + 512 - 1);
	assert_int_equal(sent.bytes, PAIR_PAGE + 3 * WIRE_RECORD_SIZE); /* barrier, end */
	assert_int_equal(ram_block_resident(transfer.there.blocks[0]), 0);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

/* Bytes of @block that are mapped by huge pages. */
static uint64_t mapped_huge(const struct ram_block *block)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	unsigned long start, end, kib;
	uint64_t total = 0;
	bool here = false;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start >= (uintptr_t)block->host &&
			       end <= (uintptr_t)block->host + block->size;
		else if (here && sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1)
			total += KIB(kib);
	}
	fclose(maps);
	return total;
}

static bool host_makes_huge_pages(const struct ram_block *block)
{
	if (!ram_place_is_written(block) || ram_place_make_huge(block, 0) < 0)
		return false;
	assert_int_equal(ram_block_discard((struct ram_block *)block, 0, RAM_PLACE_HUGE), 0);
	return true;
}

/*
 * As many as the host has at the moment, which nobody can promise. What is not plugged around an elastic
 * block's one unit has no memory all the same.
 */
static void test_full_memory_comes_in_huge_pages(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	if (!host_makes_huge_pages(transfer.there.blocks[0])) {
		end(&transfer);
		skip();
	}
	for (uint64_t page = 0; page < PAIR_SIZE / PAIR_PAGE; page++)
		pair_fill(&transfer.here, 0, page, 1, true);
	for (uint64_t page = 512; page < 1024; page++)
		pair_fill(&transfer.here, 2, page, 1, true);
	pair_mark_all(&transfer.here);
	assert_no_error(migration_receiver_start(transfer.receiver));
	send_round(&transfer, true);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	assert_int_equal(ram_block_resident(transfer.there.blocks[0]), PAIR_SIZE);
	assert_int_equal(ram_block_resident(transfer.there.blocks[2]), PAIR_UNIT);
	if (!mapped_huge(transfer.there.blocks[0])) {
		assert_int_equal(ram_block_discard(transfer.there.blocks[0], 0, PAIR_SIZE), 0);
		assert_false(host_makes_huge_pages(transfer.there.blocks[0]));
	}
	end(&transfer);
}

/* A huge page would take more memory than what came. */
static void test_memory_with_gaps_comes_in_small_pages(void **unused)
{
	struct migration_sender_options options = {};
	uint64_t pages = 0;
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	for (uint64_t page = 0; page < PAIR_SIZE / PAIR_PAGE; page++)
		if (page % 256 != 77) {
			pair_fill(&transfer.here, 0, page, 1, true);
			pages++;
		}
	pair_mark(&transfer.here, 0, 0, PAIR_SIZE / PAIR_PAGE);
	assert_no_error(migration_receiver_start(transfer.receiver));
	send_round(&transfer, true);
	finish(&transfer);
	assert_int_equal(ram_block_resident(transfer.there.blocks[0]), pages * PAIR_PAGE);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

/* What it gives back of a huge page might stay there, as zeros that nobody misses. */
static void test_where_postcopy_may_follow_memory_comes_in_small_pages(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 2, true, &options);
	for (uint64_t page = 0; page < PAIR_SIZE / PAIR_PAGE; page++)
		pair_fill(&transfer.here, 0, page, 1, true);
	pair_mark(&transfer.here, 0, 0, PAIR_SIZE / PAIR_PAGE);
	assert_no_error(migration_receiver_start(transfer.receiver));
	send_round(&transfer, true);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	if (ram_place_is_written(transfer.there.blocks[0]))
		assert_int_equal(mapped_huge(transfer.there.blocks[0]), 0);
	end(&transfer);
}

static struct error *unplug_and_plug(struct transfer *transfer, uint64_t round)
{
	struct pair_memory *there = &transfer->there;

	if (round != 1)
		return NULL;
	assert_int_equal(memory_region_unplug(there->map, there->elastic, MIB(2), PAIR_UNIT), 0);
	assert_int_equal(memory_region_plug(there->map, there->elastic, MIB(2), PAIR_UNIT), 0);
	migration_receiver_forget(transfer->receiver, 2, 512, 512);
	return NULL;
}

/* Memory is resized between rounds: what was there before does not come back. */
static void test_resize_between_rounds(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	transfer.round_ended = unplug_and_plug;
	assert_no_error(migration_receiver_start(transfer.receiver));
	pair_fill(&transfer.here, 2, 600, 1, true);
	pair_mark(&transfer.here, 2, 512, 512);
	send_round(&transfer, true);
	assert_int_equal(
	    memory_region_unplug(transfer.here.map, transfer.here.elastic, MIB(2), PAIR_UNIT), 0);
	assert_int_equal(
	    memory_region_plug(transfer.here.map, transfer.here.elastic, MIB(2), PAIR_UNIT), 0);
	pair_fill(&transfer.here, 2, 700, 1, true);
	pair_mark(&transfer.here, 2, 512, 512);
	send_round(&transfer, false);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

static struct error *place_from_here(struct transfer *transfer, uint64_t round)
{
	migration_receiver_set_placing(transfer->receiver, true);
	return NULL;
}

/* Requested pages come over their own connection, once, and the rest without them. */
static void test_requested_pages(void **unused)
{
	struct migration_sender_options options = {.bandwidth = 1};
	struct migration_sent sent;
	struct transfer transfer;

	begin(&transfer, 2, true, &options);
	transfer.round_ended = place_from_here;
	migration_sender_set_bandwidth(transfer.sender, 0);
	assert_no_error(migration_receiver_start(transfer.receiver));
	send_round(&transfer, true);
	while (!__atomic_load_n(&transfer.rounds, __ATOMIC_ACQUIRE))
		usleep(100);
	write_much(&transfer.here, 1, true);
	pair_mark_all(&transfer.here);
	migration_sender_set_bandwidth(transfer.sender, 1); /* which these do not mind */
	for (int i = 0; i < 2; i++)
		assert_no_error(
		    migration_sender_pages(transfer.sender, 0, 250, 20, transfer.here.pending[0]));
	migration_sender_progress(transfer.sender, &sent);
	assert_int_equal(sent.requested_pages, 20);
	while (__atomic_load_n(&transfer.placed, __ATOMIC_ACQUIRE) < 20)
		usleep(100);
	assert_memory_equal(pair_page(&transfer.here, 0, 250), pair_page(&transfer.there, 0, 250),
			    20 * PAIR_PAGE);
	migration_sender_set_bandwidth(transfer.sender, 0);
	assert_no_error(migration_sender_round(transfer.sender, transfer.here.pending, false));
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	assert_int_equal(transfer.placed, 2 * (PAIR_SIZE / PAIR_PAGE) + 512);
	end(&transfer);
}

static void test_wrong_requests(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;
	uint64_t *pending;

	begin(&transfer, 1, true, &options);
	pending = transfer.here.pending[0];
	assert_error_with(migration_sender_pages(transfer.sender, 3, 0, 1, pending),
			  "block 3 of 3");
	assert_error_with(migration_sender_pages(transfer.sender, 0, 2050, 2, pending),
			  "2 pages from 2050 on");
	assert_error_with(migration_sender_pages(transfer.sender, 0, UINT64_MAX, 2, pending),
			  "'memory0', which has 2051");
	assert_error_with(migration_sender_pages(transfer.sender, 0, 1, 0, pending), "0 pages");
	end(&transfer);
}

static void *interrupt_soon(void *context)
{
	struct transfer *transfer = context;
	struct migration_sent sent = {};

	while (!sent.pages)
		migration_sender_progress(transfer->sender, &sent);
	migration_sender_interrupt(transfer->sender);
	return NULL;
}

/* What an interrupted round has not sent is still marked; it does not wait for the limit of a byte a second. */
static void test_interrupted_round(void **unused)
{
	struct migration_sender_options options = {.bandwidth = 1};
	struct transfer transfer;
	pthread_t thread;

	begin(&transfer, 1, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	write_much(&transfer.here, 1, true);
	pair_mark_all(&transfer.here);
	assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, &transfer), 0);
	assert_no_error(migration_sender_round(transfer.sender, transfer.here.pending, true));
	pthread_join(thread, NULL);
	assert_no_error(migration_sender_settle(transfer.sender));
	assert_false(bitmap_all_clear(transfer.here.pending[1], 0, PAIR_SIZE / PAIR_PAGE));
	/* It may have come between two rounds: the next one is not to begin. */
	assert_no_error(migration_sender_round(transfer.sender, transfer.here.pending, true));
	assert_false(bitmap_all_clear(transfer.here.pending[1], 0, PAIR_SIZE / PAIR_PAGE));
	migration_sender_go_on(transfer.sender);
	migration_sender_set_bandwidth(transfer.sender, 0);
	send_round(&transfer, true);
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

static void *cancel_soon(void *context)
{
	struct transfer *transfer = context;

	usleep(20000);
	migration_sender_cancel(transfer->sender);
	return NULL;
}

/* Nobody reads: a round waits, until it is cancelled; and so is everything after it. */
static void test_cancelled_round(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;
	pthread_t thread;
	uint64_t round;

	begin(&transfer, 1, false, &options);
	write_much(&transfer.here, 1, true);
	pair_mark_all(&transfer.here);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &transfer), 0);
	assert_error_with(migration_sender_round(transfer.sender, transfer.here.pending, true),
			  "cancelled");
	pthread_join(thread, NULL);
	assert_error_with(migration_sender_end_round(transfer.sender, &round), "cancelled");
	end(&transfer);
}

static void test_destination_goes_away(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	write_much(&transfer.here, 1, true);
	pair_mark_all(&transfer.here);
	migration_link_cancel(transfer.destination);
	assert_error_with(migration_sender_round(transfer.sender, transfer.here.pending, true),
			  "has closed the connection");
	end(&transfer);
}

static void test_source_goes_away(void **unused)
{
	struct migration_sender_options options = {};
	struct transfer transfer;

	begin(&transfer, 2, false, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	migration_sender_cancel(transfer.sender);
	assert_error_with(migration_receiver_wait(transfer.receiver), "closed before its end");
	end(&transfer);
}

/* Over TCP, with TLS and zstd: as over anything else. */
static void test_tls_with_zstd(void **unused)
{
	struct migration_sender_options options = {.zstd = true};
	struct migration_link *source, *destination;
	struct transfer transfer;

	pair_links_tls(3, false, &source, &destination);
	begin_over(&transfer, source, destination, &options);
	assert_no_error(migration_receiver_start(transfer.receiver));
	for (uint8_t version = 1; version < 4; version++) {
		write_much(&transfer.here, version, version % 2);
		pair_mark_all(&transfer.here);
		send_round(&transfer, version == 1);
	}
	finish(&transfer);
	pair_assert_same(&transfer.here, &transfer.there);
	end(&transfer);
}

static void test_zero_pages_are_found(void **unused)
{
	static uint8_t pages[4 * 4096] __attribute__((aligned(4096)));

	assert_int_equal(pages_are_zero(pages, 0xf), 0xf);
	for (size_t i = 0; i < 4096; i++) {
		pages[4096 + i] = 1;
		assert_false(page_is_zero(pages + 4096));
		assert_int_equal(pages_are_zero(pages, 0x7), 0x5);
		pages[4096 + i] = 0;
	}
	assert_true(page_is_zero(pages + 4096));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_channels),
	    cmocka_unit_test(test_zstd),
	    cmocka_unit_test(test_what_does_not_compress_goes_plain),
	    cmocka_unit_test(test_zstd_mixed),
	    cmocka_unit_test(test_zeros_replace_content),
	    cmocka_unit_test(test_rounds_stay_in_order),
	    cmocka_unit_test(test_unplugged_memory_stays_absent),
	    cmocka_unit_test(test_fresh_zeros_are_left_out),
	    cmocka_unit_test(test_full_memory_comes_in_huge_pages),
	    cmocka_unit_test(test_memory_with_gaps_comes_in_small_pages),
	    cmocka_unit_test(test_where_postcopy_may_follow_memory_comes_in_small_pages),
	    cmocka_unit_test(test_resize_between_rounds),
	    cmocka_unit_test(test_requested_pages),
	    cmocka_unit_test(test_wrong_requests),
	    cmocka_unit_test(test_interrupted_round),
	    cmocka_unit_test(test_cancelled_round),
	    cmocka_unit_test(test_destination_goes_away),
	    cmocka_unit_test(test_source_goes_away),
	    cmocka_unit_test(test_tls_with_zstd),
	    cmocka_unit_test(test_zero_pages_are_found),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
