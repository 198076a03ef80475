/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Post-copy with another end that lies: pages that come twice, that were never pending or are nowhere,
 * large pages in pieces, requests and bitmaps that make no sense. Each is refused by name, and nothing is
 * overwritten.
 */
#include "postcopy_pair.h"

#include <errno.h>

/* --- A destination whose source is the test ----------------------------------------------------- */

struct victim {
	struct pair_memory memory;
	struct userfault *userfault;
	struct postcopy_destination *to;
	struct pair_ends ends;
	struct migration_link *link;
	struct migration_receiver *receiver;
	bool completed;
};

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	return NULL;
}

static void ended(void *context, const struct error *error)
{
}

static void completed(void *context)
{
	((struct victim *)context)->completed = true;
}

static void lost(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops receiver_ops = {
    .load = load, .place = postcopy_destination_place, .ended = ended};
static const struct postcopy_destination_ops to_ops = {.completed = completed, .lost = lost};

static void create(struct victim *victim, bool large)
{
	struct postcopy_destination_options options = {.connections = 2};
	struct migration_receiver_options receiver_options = {.workers = 1};
	struct error *error;

	memset(victim, 0, sizeof(*victim));
	error = userfault_create(1, &victim->userfault);
	if (error) { /* no privilege for it here */
		error_free(error);
		skip();
	}
	if (large)
		assert_true(move_memory_create_huge(&victim->memory, false));
	else
		pair_memory_create(&victim->memory);
	assert_no_error(postcopy_destination_create(victim->memory.map, victim->userfault, &options,
						    &to_ops, victim, &victim->to));
	victim->link = pair_link(MIGRATION_DESTINATION, 1, true, &victim->ends);
	assert_no_error(migration_receiver_create(victim->link, victim->memory.map,
						  &receiver_options, &receiver_ops, victim->to,
						  &victim->receiver));
}

static void destroy(struct victim *victim)
{
	migration_link_cancel(victim->link);
	migration_receiver_destroy(victim->receiver);
	postcopy_destination_detach(victim->to);
	migration_link_close(victim->link);
	postcopy_destination_destroy(victim->to);
	pair_ends_close(&victim->ends);
	userfault_destroy(victim->userfault);
	pair_memory_destroy(&victim->memory);
}

static struct error *say_pending(struct victim *victim, uint16_t block, uint64_t first,
				 uint64_t word)
{
	struct migration_message message = {.type = MIGRATION_PENDING};
	uint8_t bytes[8];

	wire_put_bitmap(bytes, &word, 1);
	message.bitmap.block = block;
	message.bitmap.words = 1;
	message.bitmap.first = first;
	message.bitmap.bytes = bytes;
	return postcopy_destination_pending(victim->to, &message);
}

static void start(struct victim *victim)
{
	migration_receiver_set_placing(victim->receiver, true);
	assert_no_error(postcopy_destination_begin(victim->to));
	assert_no_error(migration_receiver_start(victim->receiver));
}

/* Pages 8 to 15 of block 0 are lacking. */
static void begin(struct victim *victim)
{
	create(victim, false);
	assert_no_error(say_pending(victim, 0, 0, 0xff00));
	start(victim);
}

static void say(struct victim *victim, uint32_t connection, const void *bytes, size_t size)
{
	/* It may have hung up already, on what was said before. */
	if (send(victim->ends.fds[1 + connection], bytes, size, MSG_NOSIGNAL) < 0)
		assert_int_equal(errno, EPIPE);
}

/* Pages [@page, @page + @count) of @block, within a word: full of @fill; 0: as zeros. */
static void say_pages(struct victim *victim, uint32_t connection, uint16_t block, uint64_t page,
		      uint32_t count, uint8_t fill)
{
	struct wire_record record = {.kind = WIRE_RECORD_RAM};
	uint64_t first = align_down(page, WIRE_WINDOW_PAGES), bit = page - first;
	uint64_t *mask = fill ? record.ram.content : record.ram.zero;
	uint8_t head[WIRE_RECORD_SIZE], content[WIRE_PAGE];

	record.ram.block = block;
	record.ram.first_page = first;
	bitmap_set_range(mask, bit, count);
	record.ram.pages = fill ? count : 0;
	record.length = record.ram.pages * WIRE_PAGE;
	wire_put_record(head, &record);
	say(victim, connection, head, sizeof(head));
	memset(content, fill, sizeof(content));
	for (uint32_t i = 0; i < record.ram.pages; i++)
		say(victim, connection, content, sizeof(content));
}

static void say_end(struct victim *victim, uint32_t connection)
{
	uint8_t head[WIRE_RECORD_SIZE];

	wire_put_record(head, &(struct wire_record){.kind = WIRE_RECORD_END});
	say(victim, connection, head, sizeof(head));
}

static uint8_t byte_of(const struct victim *victim, int block, uint64_t page)
{
	return *(volatile uint8_t *)pair_page(&victim->memory, block, page);
}

/* The connection ends with @text, and what is there is as it was. */
static void assert_refused(struct victim *victim, const char *text)
{
	assert_error_with(migration_receiver_wait(victim->receiver), text);
	destroy(victim);
}

static void test_page_that_comes_twice(void **unused)
{
	for (int again = 0; again < 3; again++) {
		struct victim victim;

		begin(&victim);
		say_pages(&victim, 0, 0, 8, 4, 1);
		assert_int_equal(byte_of(&victim, 0, 10), 1);
		pair_page(&victim.memory, 0, 10)[0] = 7; /* the guest's */
		/* Over any connection, as whatever. */
		say_pages(&victim, again == 1, 0, 10, 3, again == 2 ? 0 : 2);
		assert_error_with(migration_receiver_wait(victim.receiver),
				  "page 10 of block 'memory0' has come already");
		assert_int_equal(byte_of(&victim, 0, 10), 7);
		assert_int_equal(byte_of(&victim, 0, 11), 1);
		destroy(&victim);
	}
}

static void test_page_that_was_not_pending(void **unused)
{
	struct victim victim;

	begin(&victim);
	pair_page(&victim.memory, 0, 16)[0] = 7;
	say_pages(&victim, 0, 0, 16, 1, 2);
	assert_error_with(migration_receiver_wait(victim.receiver),
			  "page 16 of block 'memory0' has come already, or was never to come");
	assert_int_equal(byte_of(&victim, 0, 16), 7);
	destroy(&victim);
}

static void test_page_that_is_nowhere(void **unused)
{
	struct victim victim;

	begin(&victim);
	say_pages(&victim, 1, 0, 2048 + 3, 1, 2);
	assert_refused(&victim, "go beyond its end, 2051");
	begin(&victim);
	say_pages(&victim, 0, 3, 0, 1, 2);
	assert_refused(&victim, "block 3 of 3");
	begin(&victim);
	say_pages(&victim, 0, 2, 0, 1, 2); /* unplugged */
	assert_refused(&victim, "page 0 of block 'mem0' has come already, or was never to come");
}

/* What was given back here may come still, but only once. */
static void test_discarded_page_that_comes_twice(void **unused)
{
	struct victim victim;

	begin(&victim);
	assert_int_equal(ram_block_discard(victim.memory.blocks[0], 8 * PAIR_PAGE, 2 * PAIR_PAGE),
			 0);
	say_pages(&victim, 0, 0, 8, 1, 2);
	say_pages(&victim, 0, 0, 10, 1, 3);
	assert_int_equal(byte_of(&victim, 0, 10), 3);
	assert_int_equal(byte_of(&victim, 0, 8), 0);
	say_pages(&victim, 0, 0, 8, 1, 2);
	assert_refused(&victim, "page 8 of block 'memory0' has come already");
}

static void test_end_before_all_has_come(void **unused)
{
	struct victim victim;

	begin(&victim);
	say_pages(&victim, 0, 0, 8, 6, 1);
	for (uint32_t i = 0; i < 2; i++) {
		say_end(&victim, i);
		shutdown(victim.ends.fds[1 + i], SHUT_WR);
	}
	assert_no_error(migration_receiver_wait(victim.receiver));
	assert_false(victim.completed);
	assert_error_with(postcopy_destination_check(victim.to),
			  "2 pages are lacking: page 14 of block 'memory0' is the first");
	destroy(&victim);
}

static void test_pages_before_they_can_be_asked_for(void **unused)
{
	struct victim victim;

	create(&victim, false);
	assert_no_error(migration_receiver_start(victim.receiver));
	say_pages(&victim, 1, 0, 0, 1, 1);
	assert_refused(&victim, "pages that nobody can have asked for");
}

/* Somebody here has made the page: not what the guest had in it. */
static void test_page_that_is_there_already(void **unused)
{
	struct victim victim;
	uint8_t byte = 5;

	begin(&victim);
	assert_int_equal(pwrite(victim.memory.blocks[0]->fd, &byte, 1, 12 * PAIR_PAGE), 1);
	say_pages(&victim, 0, 0, 8, 8, 1);
	assert_refused(&victim, "a page of block 'memory0', of 8 from 8 on, is there although");
}

/* --- Large pages -------------------------------------------------------------------------------- */

static void begin_large(struct victim *victim)
{
	create(victim, true);
	for (uint64_t word = 0; word < 24; word++)
		assert_no_error(say_pending(victim, 0, word, UINT64_MAX));
	start(victim);
}

static void test_large_pages_that_are_mixed(void **unused)
{
	struct victim victim;

	begin_large(&victim);
	say_pages(&victim, 0, 0, 0, 64, 1);
	say_pages(&victim, 0, 0, 512, 64, 1);
	assert_refused(&victim, "page 512 of block 'memory0' comes while 448 pages are to come");
}

static void test_large_page_in_parts_over_two_connections(void **unused)
{
	struct victim victim;

	begin_large(&victim);
	for (uint64_t page = 0; page < 512; page += 64)
		say_pages(&victim, (page / 64) % 2, 0, page, 64, page ? 0 : 1);
	for (uint32_t i = 0; i < 2; i++) {
		say_end(&victim, i);
		shutdown(victim.ends.fds[1 + i], SHUT_WR);
	}
	assert_no_error(migration_receiver_wait(victim.receiver));
	assert_error_with(postcopy_destination_check(victim.to), "1536 pages are lacking: page 0");
	destroy(&victim);
}

static void test_part_of_a_large_page_twice(void **unused)
{
	struct victim victim;

	begin_large(&victim);
	say_pages(&victim, 0, 0, 0, 64, 1);
	say_pages(&victim, 0, 0, 32, 32, 1);
	assert_refused(&victim, "page 32 of block 'memory0' has come already");
}

/* --- PENDING ------------------------------------------------------------------------------------ */

static void test_wrong_pending(void **unused)
{
	struct victim victim;

	create(&victim, false);
	assert_error_with(say_pending(&victim, 3, 0, 1), "PENDING is about block 3 of 3");
	assert_error_with(say_pending(&victim, 0, 33, 1), "up to 34 of block 'memory0', of 33");
	assert_error_with(say_pending(&victim, 0, UINT64_MAX, 1), "PENDING has words");
	assert_error_with(say_pending(&victim, 0, 32, 8), "behind the end of block 'memory0'");
	assert_false(postcopy_destination_is_pending(victim.to));
	destroy(&victim);
}

static void test_pending_pages_that_are_not_plugged(void **unused)
{
	struct victim victim;

	create(&victim, false);
	assert_no_error(say_pending(&victim, 2, 16, 1));
	assert_true(postcopy_destination_is_pending(victim.to));
	assert_error_with(postcopy_destination_begin(victim.to),
			  "pages from 1024 up to 1025 of block 'mem0' are pending, and not all");
	destroy(&victim);
	create(&victim, false);
	assert_no_error(say_pending(&victim, 2, 7, 1ULL << 63));
	assert_no_error(say_pending(&victim, 2, 8, 1));
	assert_error_with(postcopy_destination_begin(victim.to), "from 511 up to 513");
	destroy(&victim);
}

static void test_pending_part_of_a_large_page(void **unused)
{
	struct victim victim;

	create(&victim, true);
	assert_no_error(say_pending(&victim, 0, 8, UINT64_MAX));
	assert_error_with(postcopy_destination_begin(victim.to),
			  "of a page of 2048 KiB of block 'memory0' only a part is pending");
	destroy(&victim);
}

static void test_late_pending(void **unused)
{
	struct victim victim;

	begin(&victim);
	assert_error_with(say_pending(&victim, 0, 0, 1), "after post-copy has begun");
	destroy(&victim);
}

static void test_larger_pages_than_the_source(void **unused)
{
	static const uint64_t sizes[] = {KIB(4), KIB(4), KIB(4)};
	struct postcopy_destination_options options = {.connections = 2, .page_sizes = sizes};
	struct postcopy_destination *to;
	struct victim victim;

	create(&victim, true);
	assert_error_with(
	    postcopy_destination_create(victim.memory.map, victim.userfault, &options, &to_ops,
					NULL, &to),
	    "memory 'memory0' has pages of 2048 KiB, larger than those of the source");
	destroy(&victim);
}

/* Also when it never began: what is committed later is certain again. */
static void test_reservations_end(void **unused)
{
	struct postcopy_destination_options options = {.connections = 2};
	struct postcopy_destination *to;
	struct victim victim;

	create(&victim, false);
	ram_block_set_reserving(victim.memory.blocks[1]);
	assert_no_error(postcopy_destination_create(victim.memory.map, victim.userfault, &options,
						    &to_ops, NULL, &to));
	assert_true(victim.memory.blocks[1]->reserving);
	postcopy_destination_destroy(to);
	assert_false(victim.memory.blocks[1]->reserving);
	destroy(&victim);
}

/* --- A source whose destination is the test ----------------------------------------------------- */

static struct error *received(struct move *move, uint16_t block, uint64_t first, uint32_t words)
{
	static const uint8_t bytes[8 * 64];
	struct migration_message message = {.type = MIGRATION_RECEIVED};

	message.bitmap.block = block;
	message.bitmap.words = words;
	message.bitmap.first = first;
	message.bitmap.bytes = bytes;
	return postcopy_source_received(move->from, &message);
}

static struct error *request(struct move *move, uint16_t block, uint64_t first, uint32_t count)
{
	struct migration_message message = {.type = MIGRATION_PAGE_REQUEST};

	message.request.block = block;
	message.request.first = first;
	message.request.count = count;
	return postcopy_source_request(move->from, &message);
}

static void test_wrong_requests(void **unused)
{
	struct move move;

	move_create(&move, 1);
	assert_error_with(request(&move, 0, 0, 1), "before it was known what is pending");
	assert_error_with(received(&move, 0, 0, 1), "RECEIVED, where nothing was lost");
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	assert_error_with(received(&move, 0, 0, 1), "RECEIVED, where nothing was lost");
	assert_error_with(request(&move, 3, 0, 1), "block 3 of 3");
	assert_error_with(request(&move, 0, 2051, 1), "which has 2051");
	/* Unplugged there is nothing to be sent, nor to be made here for it. */
	assert_no_error(request(&move, 2, 0, 512));
	assert_no_error(request(&move, 2, 1024, 1024));
	assert_true(ram_block_resident(move.here.blocks[2]) <= PAIR_UNIT);
	move_destroy(&move);
}

static void test_received_in_disorder(void **unused)
{
	struct move move;

	move_create(&move, 1);
	move_write(&move.here, 1);
	move_mark_all(&move.here);
	move_switch(&move);
	move_disconnect(&move);
	pair_links(1, true, &move.source, &move.destination);
	assert_no_error(migration_sender_create(
	    move.source, move.here.map, &(struct migration_sender_options){}, &move.sender));
	postcopy_source_resume(move.from, move.sender);
	assert_error_with(request(&move, 0, 0, 1), "before it was known");
	assert_error_with(received(&move, 1, 0, 1), "of block 1 from word 0 on, after that of "
						    "block 0 up to word 0");
	assert_error_with(received(&move, 0, 1, 1), "from word 1 on");
	assert_no_error(received(&move, 0, 0, 32));
	assert_error_with(received(&move, 0, 32, 2), "up to 34 of block 'memory0', of 33");
	assert_error_with(received(&move, 0, 31, 1), "from word 31 on");
	assert_no_error(received(&move, 0, 32, 1));
	assert_no_error(received(&move, 1, 0, 33));
	assert_error_with(received(&move, 3, 0, 1), "of block 3");
	migration_sender_cancel(move.sender);
	postcopy_source_detach(move.from);
	migration_sender_destroy(TAKE_PTR(move.sender));
	migration_link_close(move.source);
	migration_link_close(move.destination);
	move_destroy(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_page_that_comes_twice),
	    cmocka_unit_test(test_page_that_was_not_pending),
	    cmocka_unit_test(test_page_that_is_nowhere),
	    cmocka_unit_test(test_discarded_page_that_comes_twice),
	    cmocka_unit_test(test_end_before_all_has_come),
	    cmocka_unit_test(test_pages_before_they_can_be_asked_for),
	    cmocka_unit_test(test_page_that_is_there_already),
	    cmocka_unit_test(test_large_pages_that_are_mixed),
	    cmocka_unit_test(test_large_page_in_parts_over_two_connections),
	    cmocka_unit_test(test_part_of_a_large_page_twice),
	    cmocka_unit_test(test_wrong_pending),
	    cmocka_unit_test(test_pending_pages_that_are_not_plugged),
	    cmocka_unit_test(test_pending_part_of_a_large_page),
	    cmocka_unit_test(test_late_pending),
	    cmocka_unit_test(test_larger_pages_than_the_source),
	    cmocka_unit_test(test_reservations_end),
	    cmocka_unit_test(test_wrong_requests),
	    cmocka_unit_test(test_received_in_disorder),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
