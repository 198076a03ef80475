/* SPDX-License-Identifier: BSD-2-Clause */
/* The bytes of a migration: what is encoded is decoded, and what makes no sense is refused. */
#include "cmocka_prelude.h"

#include <string.h>

#include "base/bytes.h"
#include "migration/wire.h"

/* --- Hello ------------------------------------------------------------------------------------- */

static struct wire_hello some_hello(void)
{
	struct wire_hello hello = {
	    .channel = WIRE_CHANNEL_DATA, .flags = WIRE_HELLO_POSTCOPY, .index = 3, .count = 8};

	memset(hello.session, 7, sizeof(hello.session));
	return hello;
}

static void test_hello(void **unused)
{
	struct wire_hello hello = some_hello(), got;
	uint8_t bytes[WIRE_HELLO_SIZE];
	enum wire_status status;

	wire_put_hello(bytes, &hello);
	assert_no_error(wire_get_hello(bytes, &got, &status));
	assert_int_equal(status, WIRE_STATUS_OK);
	assert_int_equal(got.channel, hello.channel);
	assert_int_equal(got.flags, hello.flags);
	assert_int_equal(got.index, 3);
	assert_int_equal(got.count, 8);
	assert_memory_equal(got.session, hello.session, WIRE_SESSION_SIZE);
}

static void refuse_hello(size_t offset, uint16_t value, enum wire_status wanted, const char *text)
{
	struct wire_hello hello = some_hello(), got;
	uint8_t bytes[WIRE_HELLO_SIZE];
	enum wire_status status;

	wire_put_hello(bytes, &hello);
	put_le16(bytes + offset, value);
	assert_error_with(wire_get_hello(bytes, &got, &status), text);
	assert_int_equal(status, wanted);
}

static void test_bad_hellos(void **unused)
{
	refuse_hello(0, 0, WIRE_STATUS_MALFORMED, "not a migration");
	refuse_hello(8, 2, WIRE_STATUS_VERSION, "speaks version 2");
	refuse_hello(10, 3, WIRE_STATUS_MALFORMED, "kind of connection, 3");
	refuse_hello(12, 4, WIRE_STATUS_MALFORMED, "flags 0x4");
	refuse_hello(32, 8, WIRE_STATUS_MALFORMED, "index 8 of 8");
	refuse_hello(34, 0, WIRE_STATUS_MALFORMED, "0 data connections");
	refuse_hello(34, 65, WIRE_STATUS_MALFORMED, "65 data connections");
	refuse_hello(36, 1, WIRE_STATUS_MALFORMED, "reserved");
}

static void test_answers(void **unused)
{
	uint8_t bytes[WIRE_ANSWER_SIZE];

	wire_put_answer(bytes, WIRE_STATUS_OK);
	assert_no_error(wire_get_answer(bytes));
	wire_put_answer(bytes, WIRE_STATUS_SESSION);
	assert_error_with(wire_get_answer(bytes), "another migration");
	wire_put_answer(bytes, (enum wire_status)99);
	assert_error_with(wire_get_answer(bytes), "status 99");
	wire_put_answer(bytes, WIRE_STATUS_OK);
	put_le32(bytes + 12, 1);
	assert_error_with(wire_get_answer(bytes), "unknown");
}

/* --- Records ----------------------------------------------------------------------------------- */

static struct wire_record some_ram(void)
{
	struct wire_record record = {.kind = WIRE_RECORD_RAM, .length = 3 * WIRE_PAGE};

	record.ram.block = 2;
	record.ram.first_page = 512;
	record.ram.content[0] = 5;
	record.ram.content[3] = 1ULL << 63;
	record.ram.zero[1] = 2;
	return record;
}

static void test_ram_record(void **unused)
{
	struct wire_record record = some_ram(), got;
	uint8_t bytes[WIRE_RECORD_SIZE];

	wire_put_record(bytes, &record);
	assert_no_error(wire_get_record(bytes, &got));
	assert_int_equal(got.kind, WIRE_RECORD_RAM);
	assert_int_equal(got.ram.block, 2);
	assert_int_equal(got.ram.first_page, 512);
	assert_int_equal(got.ram.pages, 3);
	assert_memory_equal(got.ram.content, record.ram.content, sizeof(got.ram.content));
	assert_memory_equal(got.ram.zero, record.ram.zero, sizeof(got.ram.zero));
}

static void refuse_record(const struct wire_record *record, const char *text)
{
	uint8_t bytes[WIRE_RECORD_SIZE];
	struct wire_record got;

	wire_put_record(bytes, record);
	assert_error_with(wire_get_record(bytes, &got), text);
}

static void test_bad_ram_records(void **unused)
{
	struct wire_record record = some_ram();

	record.length--;
	refuse_record(&record, "3 pages of memory have 12287 bytes");
	record.length = 0xffffffff;
	refuse_record(&record, "4294967295 bytes");
	record.flags = WIRE_RAM_ZSTD;
	refuse_record(&record, "4294967295 bytes");
	record.length = 3 * WIRE_PAGE; /* compressed to as much as before */
	refuse_record(&record, "12288 bytes");
	record.length = 0;
	refuse_record(&record, "0 bytes");
	record = some_ram();
	record.flags = 2;
	refuse_record(&record, "flags 0x2");
	record = some_ram();
	record.ram.zero[0] = 1;
	refuse_record(&record, "content and zeros");
	record = some_ram();
	record.ram.first_page = 64;
	refuse_record(&record, "from page 64 on");
	record = (struct wire_record){.kind = WIRE_RECORD_RAM};
	refuse_record(&record, "without a page");
}

static void test_device_record(void **unused)
{
	struct wire_record record = {
	    .kind = WIRE_RECORD_DEVICE, .flags = WIRE_DEVICE_LAST, .length = WIRE_CHUNK_MAX};
	uint8_t bytes[WIRE_RECORD_SIZE];
	struct wire_record got;

	record.device.device = 9;
	record.device.index = 0xfffffffe;
	wire_put_record(bytes, &record);
	assert_no_error(wire_get_record(bytes, &got));
	assert_int_equal(got.device.device, 9);
	assert_int_equal(got.device.index, 0xfffffffe);
	record.length++;
	refuse_record(&record, "131073 bytes, of which 131072 are allowed");
	record.length = 0;
	wire_put_record(bytes, &record);
	assert_no_error(wire_get_record(bytes, &got)); /* the last one may be empty */
	record.flags = 0;
	refuse_record(&record, "is empty");
	record.flags = 6;
	refuse_record(&record, "flags 0x6");
}

static void test_marks(void **unused)
{
	struct wire_record record = {.kind = WIRE_RECORD_BARRIER, .round = 1ULL << 40}, got;
	uint8_t bytes[WIRE_RECORD_SIZE];

	wire_put_record(bytes, &record);
	assert_no_error(wire_get_record(bytes, &got));
	assert_int_equal(got.round, 1ULL << 40);
	record.length = 1;
	refuse_record(&record, "barrier");
	record = (struct wire_record){.kind = WIRE_RECORD_END};
	wire_put_record(bytes, &record);
	assert_no_error(wire_get_record(bytes, &got));
	record.flags = 1;
	refuse_record(&record, "the end");
	record.kind = (enum wire_record_kind)5;
	refuse_record(&record, "kind 5");
	record.kind = (enum wire_record_kind)0;
	refuse_record(&record, "kind 0");
}

static void test_reserved_bytes_of_records(void **unused)
{
	static const enum wire_record_kind kinds[] = {WIRE_RECORD_DEVICE, WIRE_RECORD_BARRIER,
						      WIRE_RECORD_END};
	uint8_t bytes[WIRE_RECORD_SIZE];
	struct wire_record got;

	for (int i = 0; i < 3; i++) {
		struct wire_record record = {.kind = kinds[i], .flags = !i, .round = 1};

		wire_put_record(bytes, &record);
		bytes[WIRE_RECORD_SIZE - 1] = 1;
		assert_error_with(wire_get_record(bytes, &got), "not zero");
	}
}

/* --- Messages ---------------------------------------------------------------------------------- */

/* Encodes @message, with what follows, and decodes it into @got. */
static struct error *travel(const struct migration_message *message, const void *follows,
			    size_t size, struct migration_message *got)
{
	static uint8_t bytes[WIRE_FRAME_SIZE + WIRE_PAYLOAD_MAX + 1000];
	enum migration_message_type type;
	uint32_t length;
	size_t head = wire_put_message(bytes, message);

	if (size)
		memcpy(bytes + head, follows, size);
	TRY(wire_get_frame(bytes, &type, &length));
	assert_int_equal(length, head - WIRE_FRAME_SIZE + size);
	return wire_get_message(type, bytes + WIRE_FRAME_SIZE, length, got);
}

static void test_messages(void **unused)
{
	struct migration_message message = {.type = MIGRATION_STATE_CREDIT}, got;

	message.credit.device = 4;
	message.credit.indexes = 77;
	message.credit.bytes = 1ULL << 40;
	assert_no_error(travel(&message, NULL, 0, &got));
	assert_int_equal(got.credit.device, 4);
	assert_int_equal(got.credit.indexes, 77);
	assert_int_equal(got.credit.bytes, 1ULL << 40);
	message = (struct migration_message){.type = MIGRATION_PAGE_REQUEST};
	message.request.block = 3;
	message.request.count = 512;
	message.request.first = 1ULL << 33;
	assert_no_error(travel(&message, NULL, 0, &got));
	assert_int_equal(got.request.block, 3);
	assert_int_equal(got.request.count, 512);
	assert_int_equal(got.request.first, 1ULL << 33);
	message = (struct migration_message){.type = MIGRATION_ROUND_END, .round = 12};
	assert_no_error(travel(&message, NULL, 0, &got));
	assert_int_equal(got.round, 12);
	message = (struct migration_message){.type = MIGRATION_DONE, .done = {1, 2, 3, 4, 5, 6}};
	assert_no_error(travel(&message, NULL, 0, &got));
	assert_memory_equal(&got.done, &message.done, sizeof(got.done));
	message = (struct migration_message){.type = MIGRATION_GO};
	assert_no_error(travel(&message, NULL, 0, &got));
	assert_int_equal(got.type, MIGRATION_GO);
}

static void test_texts(void **unused)
{
	struct migration_message message = {.type = MIGRATION_ABORT, .size = 5}, got;

	assert_no_error(travel(&message, "hello", 5, &got));
	assert_int_equal(got.size, 5);
	assert_memory_equal(got.text, "hello", 5);
	assert_error_with(travel(&message, "h\033llo", 5, &got), "byte 0x1b");
	message.size = WIRE_TEXT_MAX + 1;
	assert_error_with(travel(&message, NULL, 0, &got), "ABORT has 4097 bytes");
}

static void test_bitmaps(void **unused)
{
	uint64_t words[] = {1, 2ULL << 60};
	struct migration_message message = {.type = MIGRATION_RECEIVED}, got;
	uint8_t bytes[16];

	message.bitmap.block = 1;
	message.bitmap.words = 2;
	message.bitmap.first = 100;
	wire_put_bitmap(bytes, words, 2);
	assert_no_error(travel(&message, bytes, 16, &got));
	assert_int_equal(got.bitmap.words, 2);
	assert_int_equal(got.bitmap.first, 100);
	assert_int_equal(wire_bitmap_word(&got, 1), words[1]);
}

static void test_bad_frames(void **unused)
{
	uint8_t bytes[WIRE_FRAME_SIZE] = {}, payload[32] = {};
	enum migration_message_type type;
	struct migration_message got;
	uint32_t length;

	assert_error_with(wire_get_frame(bytes, &type, &length), "type 0");
	put_le16(bytes, MIGRATION_MESSAGE_TYPES);
	assert_error_with(wire_get_frame(bytes, &type, &length), "is unknown");
	put_le16(bytes, MIGRATION_GO);
	put_le32(bytes + 4, 1);
	assert_error_with(wire_get_frame(bytes, &type, &length), "GO has 1 bytes");
	put_le16(bytes, MIGRATION_CONFIG);
	put_le32(bytes + 4, WIRE_CONFIG_MAX + 1);
	assert_error_with(wire_get_frame(bytes, &type, &length), "CONFIG has");
	put_le16(bytes + 2, 1);
	assert_error_with(wire_get_frame(bytes, &type, &length), "flags 0x1");
	put_le32(payload + 4, 3); /* words, of which there is room for one */
	assert_error_with(wire_get_message(MIGRATION_PENDING, payload, 24, &got),
			  "3 words has 24 bytes");
	assert_error_with(wire_get_message(MIGRATION_PAGE_REQUEST, payload + 8, 16, &got),
			  "no page");
}

static void test_directions(void **unused)
{
	assert_true(migration_message_is_from(MIGRATION_GO, true));
	assert_false(migration_message_is_from(MIGRATION_GO, false));
	assert_false(migration_message_is_from(MIGRATION_RUNNING, true));
	assert_true(migration_message_is_from(MIGRATION_ABORT, true));
	assert_true(migration_message_is_from(MIGRATION_ABORT, false));
	for (int type = 1; type < MIGRATION_MESSAGE_TYPES; type++)
		assert_non_null(migration_message_name((enum migration_message_type)type));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hello),
	    cmocka_unit_test(test_bad_hellos),
	    cmocka_unit_test(test_answers),
	    cmocka_unit_test(test_ram_record),
	    cmocka_unit_test(test_bad_ram_records),
	    cmocka_unit_test(test_device_record),
	    cmocka_unit_test(test_marks),
	    cmocka_unit_test(test_reserved_bytes_of_records),
	    cmocka_unit_test(test_messages),
	    cmocka_unit_test(test_texts),
	    cmocka_unit_test(test_bitmaps),
	    cmocka_unit_test(test_bad_frames),
	    cmocka_unit_test(test_directions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
