/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots as sequential streams: what was sent arrives, and nothing else is taken for it. */
#include "snapshot_driver.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "snapshot/snapshot_convert.h"
#include "snapshot/snapshot_receive.h"
#include "snapshot/snapshot_send.h"

#define BLOCKS 2

/* Two blocks, the second with a short last chunk; a page of the first is zeros, a chunk is. */
static struct test_block blocks[BLOCKS];
static uint8_t *stream;
static size_t stream_size;

static struct channel *channel_for(int fd, enum channel_direction direction)
{
	struct channel *channel;

	assert_no_error(channel_open(fd, direction, "it", &channel));
	return channel;
}

static void send_to(int fd)
{
	struct snapshot_block_plan plans[BLOCKS] = {};
	AUTO_STATE struct state *state = state_save_begin(true);
	uint32_t numbers[2] = {0x01020304, 0x05060708};
	const struct state_part part = {
	    .name = "test/numbers", .version = 1, .visit = numbers_state, .context = numbers};
	struct snapshot_sender *sender;

	for (uint32_t i = 0; i < BLOCKS; i++) {
		snprintf(plans[i].name, sizeof(plans[i].name), "%s", blocks[i].name);
		plans[i].size = blocks[i].pages * PAGE;
	}
	assert_no_error(
	    snapshot_sender_create(channel_for(fd, CHANNEL_WRITE), plans, BLOCKS, &sender));
	assert_no_error(state_visit(state, &part));
	assert_no_error(
	    snapshot_head_add_section(snapshot_sender_head(sender), part.name, 0, 1, state));
	assert_no_error(snapshot_sender_begin(sender));
	for (uint32_t b = 0; b < BLOCKS; b++)
		for (uint64_t first = 0; first < blocks[b].pages; first += 64) {
			uint64_t pages = MIN(blocks[b].pages - first, (uint64_t)64), stored = 0;
			const uint8_t *chunk = blocks[b].bytes + first * PAGE;

			for (uint64_t page = 0; page < pages; page++)
				if (!page_is_zero(chunk + page * PAGE))
					stored |= UINT64_C(1) << page;
			if (stored)
				assert_no_error(snapshot_sender_chunk(
				    sender, b, first / 64, stored,
				    snapshot_checksum(chunk, pages * PAGE), chunk));
		}
	assert_no_error(snapshot_sender_finish(sender));
	if (stream_size)
		assert_int_equal(snapshot_sender_size(sender), stream_size);
	snapshot_sender_destroy(sender);
}

static int set_up(void **unused)
{
	int fd = memfd_create("stream", MFD_CLOEXEC), copy = dup(fd);

	blocks[0] = block_create("memory0", 130);
	blocks[1] = block_create("mem0", 3);
	fill_page(&blocks[0], 3, 1);
	fill_page(&blocks[0], 129, 3);
	fill_page(&blocks[1], 1, 4);
	stream_size = 0;
	send_to(fd);
	stream_size = (size_t)lseek(copy, 0, SEEK_END);
	stream = mmap(NULL, stream_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, copy, 0);
	close(copy);
	return make_folder(unused);
}

static int tear_down(void **unused)
{
	munmap(stream, stream_size);
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[i].bytes);
	return remove_folder(unused);
}

/* A descriptor that reads @size bytes. */
static int input_of(const uint8_t *bytes, size_t size)
{
	int fd = memfd_create("input", MFD_CLOEXEC);

	assert_int_equal(pwrite(fd, bytes, size, 0), size);
	return fd;
}

static struct error *take_chunks(struct snapshot_file *file, struct test_block *received)
{
	struct snapshot_record record;
	bool more;

	for (;;) {
		TRY(snapshot_receiver_next(file->receiver, &record, &more));
		if (!more)
			return snapshot_receiver_finish(file->receiver);
		uint8_t *chunk = received[record.block].bytes + record.chunk * SNAPSHOT_CHUNK_SIZE;
		size_t size = snapshot_chunk_size(&file->blocks[record.block], record.chunk);

		TRY(snapshot_receiver_pages(file->receiver, &record, chunk));
		if (!snapshot_checksum_equal(snapshot_checksum(chunk, size), record.checksum))
			return snapshot_receiver_bad_chunk(file->receiver, &record);
	}
}

/* Receives all of it and compares it, or returns why not. */
static struct error *receive(int fd, bool damaged)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block received[BLOCKS];
	struct error *error;

	TRY(snapshot_receive(channel_for(fd, CHANNEL_READ), damaged, &file));
	assert_int_equal(file->block_count, BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		received[i] =
		    block_create(file->blocks[i].name, snapshot_block_pages(&file->blocks[i]));
	error = take_chunks(file, received);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		if (!error) {
			assert_string_equal(received[i].name, blocks[i].name);
			assert_int_equal(received[i].pages, blocks[i].pages);
			assert_memory_equal(received[i].bytes, blocks[i].bytes,
					    blocks[i].pages * PAGE);
		}
		free(received[i].bytes);
	}
	if (!error)
		assert_non_null(snapshot_file_section(file, "test/numbers", 0));
	return error;
}

static void test_what_is_sent_arrives(void **unused)
{
	assert_no_error(receive(input_of(stream, stream_size), false));
}

static void *drip(void *context)
{
	size_t step = 1;

	for (size_t at = 0; at < stream_size; at += step, step = step % 4099 * 2 + 1) {
		step = MIN(step, stream_size - at);
		assert_int_equal(write(*(int *)context, stream + at, step), step);
		if (at % 7 == 0)
			usleep(100);
	}
	close(*(int *)context);
	return NULL;
}

/* However the transport cuts it. */
static void check_pieces(int ends[2])
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, drip, &ends[1]), 0);
	assert_no_error(receive(ends[0], false));
	pthread_join(thread, NULL);
}

static void test_arrives_in_pieces(void **unused)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	check_pieces(ends);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	check_pieces(ends);
}

static void *send_thread(void *context)
{
	send_to(*(int *)context);
	return NULL;
}

static void test_sent_through_a_full_pipe(void **unused)
{
	pthread_t thread;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	assert_int_equal(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int)), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_thread, &ends[1]), 0);
	assert_no_error(receive(ends[0], false));
	pthread_join(thread, NULL);
}

static void test_cut_off_anywhere(void **unused)
{
	for (size_t size = 0; size < stream_size; size++)
		assert_error_with(receive(input_of(stream, size), false), "cut off");
}

/* Every bit of one byte in turn, of each byte one. */
static void test_changed_anywhere(void **unused)
{
	for (size_t at = 0; at < stream_size; at++) {
		AUTO_ERROR struct error *error = NULL;

		stream[at] ^= (uint8_t)(1 << at % 8);
		error = receive(input_of(stream, stream_size), false);
		stream[at] ^= (uint8_t)(1 << at % 8);
		if (!error)
			fail_msg("byte %zu may be anything", at);
	}
}

static void test_goes_on_after_its_end(void **unused)
{
	uint8_t *longer = calloc(1, stream_size + 1);

	memcpy(longer, stream, stream_size);
	assert_error_with(receive(input_of(longer, stream_size + 1), false),
			  "goes on after its end");
	free(longer);
}

/* Where the first record is: behind RAM's blocks. */
static size_t first_record(void)
{
	const uint8_t *name = memmem(stream, stream_size, "\4mem0", 5);

	assert_non_null(name);
	/* Name, size, flags, footer, start of the END section. */
	return (size_t)(name - stream) + 5 + 8 + 8 + 5 + 5;
}

/* Puts @value of @size bytes @offset behind the start of the first record, and wants @message. */
static void check_record_refused(size_t offset, size_t size, uint64_t value, const char *message)
{
	uint8_t *place = stream + first_record() + offset, old[8];
	struct error *error;

	memcpy(old, place, size);
	if (size == 8)
		put_be64(place, value);
	else
		put_be32(place, (uint32_t)value);
	error = receive(input_of(stream, stream_size), true);
	memcpy(place, old, size);
	assert_error_with(error, message);
}

/* Also when somebody has made the checksums fit. */
static void test_bad_records(void **unused)
{
	check_record_refused(0, 8, 0x1001, "has the flags 0x1, not 0x400");
	check_record_refused(0, 8, PAGE | RAM_FLAG_CHUNK, "place of a chunk");
	check_record_refused(0, 8, MIB(64) | RAM_FLAG_CHUNK,
			     "is 0x4000000, and block memory0 has 0x82000 bytes");
	check_record_refused(0, 8, 2 * SNAPSHOT_CHUNK_SIZE | RAM_FLAG_CHUNK,
			     "are beyond the end of block memory0");
	check_record_refused(8, 4, BLOCKS, "block of a chunk at offset");
	check_record_refused(8, 4, 1, "are beyond the end of block mem0");
	check_record_refused(12, 8, 0, "is not that of zeros, and no page comes");
	check_record_refused(12, 8, 3, "does not fit: the stream is damaged");
	check_record_refused(20, 8, 3, "does not fit: the stream is damaged");
}

static void test_a_chunk_comes_twice(void **unused)
{
	size_t record = first_record(), size = SNAPSHOT_RECORD_SIZE + PAGE;
	uint8_t *twice = malloc(stream_size + size);

	memcpy(twice, stream, record + size);
	memcpy(twice + record + size, stream + record, stream_size - record);
	assert_error_with(receive(input_of(twice, stream_size + size), true),
			  "is 0x0 of block memory0, which came already");
	free(twice);
}

static void test_becomes_a_file(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_SNAPSHOT_FILE struct snapshot_file *converted = NULL;
	const char *path = in_folder("converted.snap");

	assert_no_error(snapshot_receive(channel_for(input_of(stream, stream_size), CHANNEL_READ),
					 false, &file));
	assert_no_error(snapshot_convert(file, path, NULL));
	assert_no_error(snapshot_file_open(path, NULL, &converted));
	assert_content(converted, blocks, BLOCKS);
	assert_int_equal(snapshot_file_section(converted, "test/numbers", 0)->size, 8);
}

static void test_a_damaged_stream_leaves_no_file(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	const char *path = in_folder("converted.snap");

	assert_no_error(snapshot_receive(
	    channel_for(input_of(stream, stream_size - 1), CHANNEL_READ), false, &file));
	assert_error_with(snapshot_convert(file, path, NULL), "cut off");
	assert_int_equal(access(path, F_OK), -1);
}

static void test_each_reader_knows_the_other_kind(void **unused)
{
	struct snapshot_file *file;
	const char *path = in_folder("stream");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(pwrite(fd, stream, stream_size, 0), stream_size);
	assert_true(snapshot_is_stream(fd));
	close(fd);
	assert_error_with(snapshot_file_open(path, NULL, &file), "snapshot convert");
	path = in_folder("file.snap");
	write_file(path, blocks, BLOCKS, NULL, NULL);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_false(snapshot_is_stream(fd));
	assert_error_with(receive(fd, false), "lacks the capability x-godwit-stream");
}

static void test_sending_to_nobody(void **unused)
{
	struct snapshot_block_plan plan = {.name = "memory0", .size = PAGE};
	struct snapshot_sender *sender;
	struct error *error;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_no_error(
	    snapshot_sender_create(channel_for(ends[1], CHANNEL_WRITE), &plan, 1, &sender));
	close(ends[0]);
	error = snapshot_sender_begin(sender);
	assert_error_with(error, "its reader has gone away");
	snapshot_sender_destroy(sender);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_what_is_sent_arrives),
	    TEST(test_arrives_in_pieces),
	    TEST(test_sent_through_a_full_pipe),
	    TEST(test_cut_off_anywhere),
	    TEST(test_changed_anywhere),
	    TEST(test_goes_on_after_its_end),
	    TEST(test_bad_records),
	    TEST(test_a_chunk_comes_twice),
	    TEST(test_becomes_a_file),
	    TEST(test_a_damaged_stream_leaves_no_file),
	    TEST(test_each_reader_knows_the_other_kind),
	    TEST(test_sending_to_nobody),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
