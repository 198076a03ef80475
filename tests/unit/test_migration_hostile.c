/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A source that sends what it must not: everything is refused by name, before guest memory or anything
 * else is touched, and nothing grows.
 */
#include "migration_pair.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <zstd.h>

#include "base/bytes.h"

#define DEVICES 3

struct victim {
	struct pair_memory memory;
	struct migration_link *link;
	struct pair_ends ends;
	struct migration_receiver *receiver;
};

static struct error *round_ended(void *context, uint64_t round)
{
	return NULL;
}

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	return NULL;
}

static void ended(void *context, const struct error *error)
{
}

static const struct migration_receiver_ops ops = {
    .round_ended = round_ended, .load = load, .ended = ended};

static void begin(struct victim *victim, uint32_t channels, bool postcopy)
{
	struct migration_receiver_options options = {.workers = 1, .devices = DEVICES};

	pair_memory_create(&victim->memory);
	victim->link = pair_link(MIGRATION_DESTINATION, channels, postcopy, &victim->ends);
	assert_no_error(migration_receiver_create(victim->link, victim->memory.map, &options, &ops,
						  victim, &victim->receiver));
	assert_no_error(migration_receiver_start(victim->receiver));
}

static void end(struct victim *victim)
{
	migration_receiver_destroy(victim->receiver);
	migration_link_close(victim->link);
	pair_ends_close(&victim->ends);
	pair_memory_destroy(&victim->memory);
}

static void say(struct victim *victim, uint32_t channel, const void *bytes, size_t size)
{
	/* It may have hung up already, on what was said before. */
	if (send(victim->ends.fds[1 + channel], bytes, size, MSG_NOSIGNAL) < 0)
		assert_int_equal(errno, EPIPE);
}

static void say_record(struct victim *victim, uint32_t channel, const struct wire_record *record)
{
	uint8_t head[WIRE_RECORD_SIZE];

	wire_put_record(head, record);
	say(victim, channel, head, sizeof(head));
}

/* Until the receiver has read what was said on this channel; what it makes of it takes a moment more. */
static void wait_heard(struct victim *victim, uint32_t channel)
{
	int left = 1;

	while (ioctl(victim->ends.fds[1 + channel], SIOCOUTQ, &left) == 0 && left)
		usleep(1000);
	usleep(20000);
}

/* A page of content for page @page of the window at @first. */
static struct wire_record page_record(uint16_t block, uint64_t first, uint32_t page)
{
	struct wire_record record = {.kind = WIRE_RECORD_RAM, .length = WIRE_PAGE};

	record.ram.block = block;
	record.ram.first_page = first;
	record.ram.content[page / 64] = 1ULL << (page % 64);
	return record;
}

static struct wire_record chunk_record(uint32_t device, uint32_t index, uint8_t flags)
{
	struct wire_record record = {.kind = WIRE_RECORD_DEVICE, .flags = flags};

	record.length = flags ? 0 : 1;
	record.device.device = device;
	record.device.index = index;
	return record;
}

/* @record, alone, is refused with @text. */
static void refuse(const struct wire_record *record, const char *text)
{
	struct victim victim;

	begin(&victim, 1, false);
	say_record(&victim, 0, record);
	assert_error_with(migration_receiver_wait(victim.receiver), text);
	for (int i = 0; i < PAIR_BLOCKS; i++)
		assert_int_equal(ram_block_resident(victim.memory.blocks[i]), 0);
	end(&victim);
}

static void test_memory_that_is_not_there(void **unused)
{
	struct wire_record record = page_record(3, 0, 0);

	refuse(&record, "block 3 of 3");
	record = page_record(0xffff, 0, 0);
	refuse(&record, "block 65535 of 3");
	record = page_record(0, 2048, 3); /* the block has 2051 pages */
	refuse(&record, "from 2048 on of block 'memory0' go beyond its end, 2051");
	record = page_record(0, 1ULL << 62, 3);
	refuse(&record, "go beyond its end");
	record = page_record(0, UINT64_MAX - 255, 255);
	refuse(&record, "go beyond its end");
	record = (struct wire_record){.kind = WIRE_RECORD_RAM};
	record.ram.first_page = 2048;
	record.ram.zero[1] = 1;
	refuse(&record, "go beyond its end");
}

static void test_unplugged_memory(void **unused)
{
	struct wire_record record = page_record(2, 256, 255);

	refuse(&record, "from 511 on of block 'mem0' are not plugged");
	record = page_record(2, 1024, 0);
	refuse(&record, "from 1024 on of block 'mem0' are not plugged");
	record = (struct wire_record){.kind = WIRE_RECORD_RAM};
	record.ram.block = 2;
	record.ram.zero[0] = UINT64_MAX;
	refuse(&record, "from 0 on of block 'mem0' are not plugged");
}

static void test_devices_and_indexes(void **unused)
{
	struct wire_record record = chunk_record(DEVICES, 0, 0);

	refuse(&record, "device 3 of 3");
	record = chunk_record(UINT32_MAX, 0, 0);
	refuse(&record, "device 4294967295 of 3");
	record = chunk_record(1, 0xfffffffe, 0);
	refuse(&record, "chunk 4294967294 of device 1: there is credit for 1");
	record = chunk_record(1, 0xffffffff, WIRE_DEVICE_LAST);
	refuse(&record, "chunk 4294967295 of device 1: there is credit for 1");
	record = chunk_record(1, 1, 0);
	refuse(&record, "there is credit for 1");
	record = chunk_record(1, 0, 0);
	record.length = WIRE_CHUNK_MAX + 1;
	refuse(&record, "131073 bytes, of which 131072");
	record.length = UINT32_MAX;
	refuse(&record, "4294967295 bytes, of which 131072");
}

static void test_same_chunk_twice(void **unused)
{
	static uint8_t byte;
	struct wire_record record = chunk_record(2, 0, WIRE_DEVICE_LAST);
	struct victim victim;

	begin(&victim, 1, false);
	say_record(&victim, 0, &record);
	say_record(&victim, 0, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "chunk 0 of device 2 ");
	end(&victim);
	begin(&victim, 2, false);
	record = chunk_record(2, 0, 0);
	say_record(&victim, 0, &record); /* its byte does not come */
	wait_heard(&victim, 0);
	say_record(&victim, 1, &record);
	say(&victim, 1, &byte, 1);
	assert_error_with(migration_receiver_wait(victim.receiver), "came twice");
	end(&victim);
}

static void test_chunk_after_the_last(void **unused)
{
	struct wire_record record = chunk_record(0, 0, WIRE_DEVICE_LAST);
	struct victim victim;

	begin(&victim, 1, false);
	say_record(&victim, 0, &record);
	record = chunk_record(0, 1, WIRE_DEVICE_LAST);
	say_record(&victim, 0, &record);
	assert_error_with(migration_receiver_wait(victim.receiver),
			  "chunk 1 of device 0 comes after its last, 0");
	end(&victim);
}

static void test_wrong_barriers(void **unused)
{
	struct wire_record record = {.kind = WIRE_RECORD_BARRIER, .round = 2};
	struct victim victim;

	refuse(&record, "the end of round 2, in round 1");
	record.round = 0;
	refuse(&record, "the end of round 0, in round 1");
	begin(&victim, 2, false);
	record.round = 1;
	say_record(&victim, 0, &record);
	wait_heard(&victim, 0);
	record = (struct wire_record){.kind = WIRE_RECORD_END};
	say_record(&victim, 1, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "ends while others have ended");
	end(&victim);
	begin(&victim, 2, false);
	say_record(&victim, 0, &record);
	wait_heard(&victim, 0);
	record = (struct wire_record){.kind = WIRE_RECORD_BARRIER, .round = 1};
	say_record(&victim, 1, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "round 1, ");
	end(&victim);
}

static void test_end_without_all_states(void **unused)
{
	struct wire_record record = chunk_record(0, 0, WIRE_DEVICE_LAST);
	struct victim victim;

	begin(&victim, 2, false);
	say_record(&victim, 0, &record);
	record = (struct wire_record){.kind = WIRE_RECORD_END};
	say_record(&victim, 0, &record);
	say_record(&victim, 1, &record);
	assert_error_with(migration_receiver_wait(victim.receiver),
			  "the end, without all of the state of device 1");
	end(&victim);
}

static void test_more_after_the_end(void **unused)
{
	struct wire_record record = {.kind = WIRE_RECORD_END};
	struct victim victim;

	begin(&victim, 2, false);
	say_record(&victim, 0, &record);
	record = page_record(0, 0, 0);
	say_record(&victim, 0, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "goes on after its end");
	end(&victim);
}

static void test_kinds_that_have_no_place(void **unused)
{
	struct wire_record record = {.kind = (enum wire_record_kind)77};
	struct victim victim;

	refuse(&record, "record kind 77 is unknown");
	begin(&victim, 1, true);
	record = chunk_record(0, 0, WIRE_DEVICE_LAST);
	say_record(&victim, 1, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "has no place here");
	end(&victim);
	begin(&victim, 1, true);
	record = (struct wire_record){.kind = WIRE_RECORD_BARRIER, .round = 1};
	say_record(&victim, 1, &record);
	assert_error_with(migration_receiver_wait(victim.receiver), "has no place here");
	end(&victim);
}

/* A compressed record of @pages pages that says @bytes. */
static void refuse_zstd(uint32_t pages, const void *bytes, size_t size, const char *text)
{
	struct wire_record record = {.kind = WIRE_RECORD_RAM, .flags = WIRE_RAM_ZSTD};
	struct victim victim;

	record.length = (uint32_t)size;
	bitmap_set_range(record.ram.content, 0, pages);
	begin(&victim, 1, false);
	say_record(&victim, 0, &record);
	say(&victim, 0, bytes, size);
	assert_error_with(migration_receiver_wait(victim.receiver), text);
	end(&victim);
}

static void test_compressed_content(void **unused)
{
	static uint8_t zeros[MIB(64)];
	uint8_t frame[16384];
	size_t size = ZSTD_compress(frame, sizeof(frame), zeros, sizeof(zeros), 1);

	assert_false(ZSTD_isError(size));
	refuse_zstd(10, frame, size, "are damaged"); /* would become 64 MiB */
	refuse_zstd(10, "this is no zstd", 15, "are damaged");
	size = ZSTD_compress(frame, sizeof(frame), zeros, 3 * WIRE_PAGE, 1);
	refuse_zstd(4, frame, size, "have become 12288, instead of 16384");
	refuse_zstd(2, frame, size, "are damaged");
	refuse_zstd(3, frame, size - 1, "are damaged");
}

/* Wherever a source is cut off: the receiver says so and is over. */
static void test_truncated_anywhere(void **unused)
{
	uint8_t all[3 * WIRE_RECORD_SIZE + WIRE_PAGE + 100];
	struct wire_record record = page_record(1, 0, 9);
	static const size_t cuts[] = {0,    1,	  79,	80,   81,   4000, 4175, 4176,
				      4177, 4255, 4256, 4257, 4300, 4355, 4356, 4400};

	memset(all, 0x5a, sizeof(all));
	wire_put_record(all, &record);
	record = chunk_record(1, 0, 0);
	record.length = 100;
	wire_put_record(all + WIRE_RECORD_SIZE + WIRE_PAGE, &record);
	record = (struct wire_record){.kind = WIRE_RECORD_BARRIER, .round = 1};
	wire_put_record(all + 2 * WIRE_RECORD_SIZE + WIRE_PAGE + 100, &record);
	for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
		struct victim victim;

		begin(&victim, 1, false);
		say(&victim, 0, all, cuts[i]);
		shutdown(victim.ends.fds[1], SHUT_WR);
		assert_error_with(migration_receiver_wait(victim.receiver), "closed");
		end(&victim);
	}
}

/* The main connection's reader says what was wrong, and allocates nothing for a length. */
static void test_messages(void **unused)
{
	uint8_t frame[WIRE_FRAME_SIZE] = {};
	struct migration_message message;
	struct victim victim;

	begin(&victim, 1, false);
	put_le16(frame, MIGRATION_GO);
	put_le32(frame + 4, UINT32_MAX);
	assert_int_equal(send(victim.ends.fds[0], frame, sizeof(frame), 0), sizeof(frame));
	assert_error_with(migration_link_receive(victim.link, &message), "main: GO has");
	put_le16(frame, MIGRATION_RUNNING);
	put_le32(frame + 4, 0);
	assert_int_equal(send(victim.ends.fds[0], frame, sizeof(frame), 0), sizeof(frame));
	assert_error_with(migration_link_receive(victim.link, &message), "must not send RUNNING");
	put_le16(frame, MIGRATION_CONFIG);
	put_le32(frame + 4, 100);
	assert_int_equal(send(victim.ends.fds[0], frame, sizeof(frame), 0), sizeof(frame));
	assert_int_equal(send(victim.ends.fds[0], frame, 5, 0), 5);
	shutdown(victim.ends.fds[0], SHUT_WR);
	assert_error_with(migration_link_receive(victim.link, &message),
			  "within 100 bytes, after 5");
	end(&victim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_memory_that_is_not_there),
	    cmocka_unit_test(test_unplugged_memory),
	    cmocka_unit_test(test_devices_and_indexes),
	    cmocka_unit_test(test_same_chunk_twice),
	    cmocka_unit_test(test_chunk_after_the_last),
	    cmocka_unit_test(test_wrong_barriers),
	    cmocka_unit_test(test_end_without_all_states),
	    cmocka_unit_test(test_more_after_the_end),
	    cmocka_unit_test(test_kinds_that_have_no_place),
	    cmocka_unit_test(test_compressed_content),
	    cmocka_unit_test(test_truncated_anywhere),
	    cmocka_unit_test(test_messages),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
