/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory into a snapshot file and back: in place, while it is written to, eagerly, lazily. */
#include "ram_snapshot_fixture.h"

static void round_trip(enum ram_backing backing, enum snapshot_direct direct, uint32_t channels)
{
	struct memory from, to;

	create_two(&from, &to, backing, NULL);
	fill(&from, 1);
	save(&from, path, direct, channels, NULL);
	check(&from, 1);
	load(&to, path, direct, channels);
	check(&to, 1);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_anonymous_memory_comes_back(void **unused)
{
	round_trip(RAM_BACKING_ANON, SNAPSHOT_DIRECT_OFF, 2);
}

static void test_huge_pages_come_back(void **unused)
{
	round_trip(RAM_BACKING_HUGETLB, SNAPSHOT_DIRECT_OFF, 2);
}

static void test_memory_comes_back_past_the_page_cache(void **unused)
{
	round_trip(RAM_BACKING_ANON, SNAPSHOT_DIRECT_ON, 3);
}

static void test_memory_comes_back_past_the_page_cache_if_that_is_possible(void **unused)
{
	round_trip(RAM_BACKING_ANON, SNAPSHOT_DIRECT_AUTO, 2);
}

static void test_saving_fills_no_holes(void **unused)
{
	struct memory memory;
	uint64_t before, used = 0;

	assert_true(memory_create(&memory, RAM_BACKING_MEMFD));
	fill(&memory, 1);
	before = ram_block_resident(memory.blocks[0]);
	save(&memory, path, SNAPSHOT_DIRECT_OFF, 1, NULL);
	assert_int_equal(ram_block_resident(memory.blocks[0]), before);
	assert_true(ram_block_resident(memory.blocks[2]) <= UNIT);
	for (uint64_t offset = 0; offset < BLOCK_SIZE; offset += PAGE)
		used += pattern(0, offset, 1) ? PAGE : 0;
	assert_true(before <= used + MIB(2)); /* and the test itself did not, either */
	memory_destroy(&memory);
}

static void test_loading_fills_no_holes(void **unused)
{
	struct memory from, to;

	create_two(&from, &to, RAM_BACKING_MEMFD, NULL);
	fill(&from, 1);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 1, NULL);
	load(&to, path, SNAPSHOT_DIRECT_OFF, 1);
	assert_true(ram_block_resident(to.blocks[0]) <= ram_block_resident(from.blocks[0]));
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_the_file_is_as_sparse_as_memory(void **unused)
{
	struct memory memory;
	uint64_t stored = 0;
	struct stat status;

	assert_true(memory_create(&memory, RAM_BACKING_MEMFD));
	fill(&memory, 1);
	for (int i = 0; i < BLOCKS; i++)
		for (uint64_t offset = 0; offset < memory.blocks[i]->size; offset += PAGE)
			stored += is_plugged(i, offset) && pattern(i, offset, 1) ? PAGE : 0;
	save(&memory, path, SNAPSHOT_DIRECT_ON, 2, NULL);
	assert_int_equal(stat(path, &status), 0);
	/* Bitmaps, checksums and the file system's own blocks beside the pages. */
	assert_in_range((uint64_t)status.st_blocks * 512, stored, stored + KIB(512));
	memory_destroy(&memory);
}

static void test_only_changes_are_stored_over_a_base(void **unused)
{
	struct memory from, to;
	struct snapshot_file *base, *file;
	uint64_t stored = 0;

	create_two(&from, &to, RAM_BACKING_ANON, NULL);
	fill(&from, 1);
	save(&from, base_path, SNAPSHOT_DIRECT_OFF, 2, NULL);
	from.blocks[0]->host[PAGE] ^= 0xff;		    /* changed */
	from.blocks[1]->host[3 * PAGE] = 1;		    /* was zero */
	memset(from.blocks[1]->host + MIB(1), 0, KIB(256)); /* is zero now */
	assert_null(snapshot_file_open(base_path, NULL, &base));
	save(&from, path, SNAPSHOT_DIRECT_OFF, 2, base);
	snapshot_file_close(base);
	assert_null(snapshot_file_open(path, NULL, &file));
	for (int i = 0; i < BLOCKS; i++)
		for (uint64_t chunk = 0; chunk < snapshot_block_chunks(&file->blocks[i]); chunk++)
			stored += (uint64_t)__builtin_popcountll(file->blocks[i].stored[chunk]);
	assert_int_equal(stored, 2);
	snapshot_file_close(file);
	load(&to, path, SNAPSHOT_DIRECT_OFF, 2);
	for (int i = 0; i < BLOCKS; i++)
		assert_memory_equal(from.blocks[i]->host, to.blocks[i]->host, from.blocks[i]->size);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_a_damaged_page_is_refused(void **unused)
{
	struct ram_load_options options = {.channels = 2};
	struct memory from, to;
	struct snapshot_file *file;
	struct ram_load *loading;
	struct error *error;
	uint8_t byte = 0x55;

	create_two(&from, &to, RAM_BACKING_ANON, NULL);
	fill(&from, 1);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 1, NULL);
	assert_null(snapshot_file_open(path, NULL, &file));
	FILE *raw = fopen(path, "r+");

	fseek(raw, (long)(file->blocks[1].pages_offset + PAGE + 5), SEEK_SET);
	fwrite(&byte, 1, 1, raw);
	fclose(raw);
	assert_null(ram_load_create(to.map, file, &options, &loading));
	error = ram_load_run(loading);
	assert_non_null(error);
	assert_non_null(strstr(error_message(error), "memory1"));
	error_free(error);
	ram_load_destroy(loading);
	snapshot_file_close(file);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_content_for_unplugged_memory_is_refused(void **unused)
{
	struct memory from, to;
	struct snapshot_file *file;
	struct error *error;

	create_two(&from, &to, RAM_BACKING_ANON, NULL);
	fill(&from, 1);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 1, NULL);
	assert_int_equal(memory_region_unplug(to.map, to.elastic, UNIT, UNIT), 0);
	assert_null(snapshot_file_open(path, NULL, &file));
	error = ram_load_check(to.map, file);
	assert_non_null(error);
	assert_non_null(strstr(error_message(error), "not plugged"));
	error_free(error);
	snapshot_file_close(file);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_a_cancelled_save_leaves_the_old_file(void **unused)
{
	struct ram_save_options options = {.channels = 2};
	struct memory memory;
	struct snapshot_writer *writer;
	struct ram_save *saving;
	struct error *error;

	assert_true(memory_create(&memory, RAM_BACKING_ANON));
	fill(&memory, 1);
	save(&memory, path, SNAPSHOT_DIRECT_OFF, 1, NULL);
	writer = writer_for(&memory, path, false, NULL);
	assert_null(ram_save_create(memory.map, writer, &options, &saving));
	ram_save_cancel(saving);
	error = ram_save_run(saving);
	assert_int_equal(error_code(error), ECANCELED);
	error_free(error);
	ram_save_destroy(saving);
	snapshot_writer_destroy(writer);
	memory_destroy(&memory);
	assert_true(memory_create(&memory, RAM_BACKING_ANON));
	load(&memory, path, SNAPSHOT_DIRECT_OFF, 1);
	check(&memory, 1);
	memory_destroy(&memory);
}

/* --- As a stream ------------------------------------------------------------------------------- */

static struct snapshot_sender *sender_for(struct memory *memory, int fd)
{
	struct snapshot_block_plan plans[BLOCKS];
	struct snapshot_sender *sender;
	struct channel *channel;

	assert_int_equal(ram_save_plan(memory->map, plans, BLOCKS), BLOCKS);
	assert_null(channel_open(fd, CHANNEL_WRITE, "stream", &channel));
	assert_null(snapshot_sender_create(channel, plans, BLOCKS, &sender));
	assert_null(snapshot_sender_begin(sender));
	return sender;
}

/* The descriptor of a stream with @memory's content, at its start. */
static int stream_of(struct memory *memory)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct snapshot_sender *sender = sender_for(memory, dup(fd));
	struct ram_save_options options = {.channels = 3, .sender = sender};
	struct ram_save_progress progress;
	struct ram_save *saving;

	assert_null(ram_save_create(memory->map, NULL, &options, &saving));
	assert_null(ram_save_run(saving));
	ram_save_progress(saving, &progress);
	assert_int_equal(progress.done, progress.total);
	ram_save_destroy(saving);
	assert_null(snapshot_sender_finish(sender));
	snapshot_sender_destroy(sender);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* Fills @memory from @fd, or tells why not. */
static struct error *receive(struct memory *memory, int fd)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_RAM_RECEIVE struct ram_receive *receiving = NULL;
	struct ram_load_progress progress;
	struct channel *channel;

	assert_null(channel_open(fd, CHANNEL_READ, "stream", &channel));
	assert_null(snapshot_receive(channel, false, &file));
	TRY(ram_receive_create(memory->map, file, &receiving));
	TRY(ram_receive_run(receiving));
	ram_receive_progress(receiving, &progress);
	assert_int_equal(progress.done, progress.total);
	return NULL;
}

static void test_memory_comes_back_from_a_stream(void **unused)
{
	struct memory from, to;

	create_two(&from, &to, RAM_BACKING_ANON, NULL);
	fill(&from, 1);
	assert_null(receive(&to, stream_of(&from)));
	assert_true(ram_block_resident(to.blocks[0]) <= ram_block_resident(from.blocks[0]));
	check(&to, 1);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_a_stream_goes_from_one_end_of_memory_to_the_other(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct snapshot_record record;
	struct channel *channel;
	uint64_t place, last = 0;
	struct memory from;
	uint8_t *chunk = malloc(SNAPSHOT_CHUNK_SIZE);
	bool more;

	assert_true(memory_create(&from, RAM_BACKING_ANON));
	fill(&from, 1);
	assert_null(channel_open(stream_of(&from), CHANNEL_READ, "stream", &channel));
	assert_null(snapshot_receive(channel, false, &file));
	for (;;) {
		assert_null(snapshot_receiver_next(file->receiver, &record, &more));
		if (!more)
			break;
		place = (uint64_t)record.block << 32 | (record.chunk + 1);
		assert_true(place > last);
		last = place;
		assert_null(snapshot_receiver_pages(file->receiver, &record, chunk));
	}
	free(chunk);
	memory_destroy(&from);
}

static void test_a_stream_for_unplugged_memory_is_refused(void **unused)
{
	struct memory from, to;
	struct error *error;

	create_two(&from, &to, RAM_BACKING_ANON, NULL);
	fill(&from, 1);
	assert_int_equal(memory_region_unplug(to.map, to.elastic, UNIT, UNIT), 0);
	error = receive(&to, stream_of(&from));
	assert_non_null(error);
	assert_non_null(strstr(error_message(error), "not plugged"));
	error_free(error);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void *cancel_soon(void *saving)
{
	usleep(20000);
	ram_save_cancel(saving);
	return NULL;
}

static void test_a_save_that_nobody_reads_can_be_cancelled(void **unused)
{
	struct snapshot_sender *sender;
	struct ram_save_options options = {.channels = 2};
	struct ram_save *saving;
	struct memory from;
	struct error *error;
	pthread_t thread;
	int ends[2];

	assert_true(memory_create(&from, RAM_BACKING_ANON));
	fill(&from, 1);
	assert_int_equal(pipe(ends), 0);
	sender = options.sender = sender_for(&from, ends[1]);
	assert_null(ram_save_create(from.map, NULL, &options, &saving));
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, saving), 0);
	error = ram_save_run(saving);
	assert_int_equal(error_code(error), ECANCELED);
	error_free(error);
	pthread_join(thread, NULL);
	ram_save_destroy(saving);
	snapshot_sender_destroy(sender);
	close(ends[0]);
	memory_destroy(&from);
}

/* --- While it is written to -------------------------------------------------------------------- */

struct scribbler {
	struct memory *memory;
	bool stop;	/* atomic */
	uint64_t steps; /* atomic: writes so far */
};

/* Writes to every page again and again, in an order of its own, and gives some back. */
static void *scribble(void *context)
{
	struct scribbler *scribbler = context;
	uint64_t step = 0;

	while (!__atomic_load_n(&scribbler->stop, __ATOMIC_RELAXED)) {
		struct ram_block *block = scribbler->memory->blocks[step % 2];
		uint64_t pages = block->size / PAGE;
		uint64_t offset = step * 7919 % pages * PAGE;

		memset(block->host + offset, (int)(step | 1), PAGE);
		if (step % 97 == 0)
			assert_int_equal(ram_block_discard(block,
							   align_down(offset, block->page_size),
							   block->page_size),
					 0);
		step++;
		__atomic_store_n(&scribbler->steps, step, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Returns when the first write has happened: what is saved from now on is being written to. */
static void start_scribbling(struct scribbler *scribbler, struct memory *memory, pthread_t *thread)
{
	*scribbler = (struct scribbler){.memory = memory};
	assert_int_equal(pthread_create(thread, NULL, scribble, scribbler), 0);
	while (!__atomic_load_n(&scribbler->steps, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void save_live(enum ram_backing backing)
{
	struct ram_save_options options = {.channels = 2};
	struct scribbler scribbler = {};
	struct memory from, to;
	struct snapshot_writer *writer;
	struct ram_save *saving;
	pthread_t thread;

	create_two(&from, &to, backing, &from);
	for (int round = 0; round < 5; round++) {
		fill(&from, 2);
		writer = writer_for(&from, path, false, NULL);
		assert_null(ram_save_create(from.map, writer, &options, &saving));
		assert_null(ram_save_watch(saving, from.userfault));
		/* What the guest does before the moment belongs to the image. */
		memset(from.blocks[0]->host, 0, from.blocks[0]->size);
		memset(from.blocks[1]->host, 0, from.blocks[1]->size);
		fill(&from, 3);
		assert_null(ram_save_protect(saving));
		start_scribbling(&scribbler, &from, &thread);
		assert_null(ram_save_run(saving));
		__atomic_store_n(&scribbler.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		assert_null(snapshot_writer_finish(writer));
		ram_save_destroy(saving);
		snapshot_writer_destroy(writer);
		for (int i = 0; i < 2; i++) /* for the next round */
			assert_int_equal(ram_block_discard(from.blocks[i], 0, from.blocks[i]->size),
					 0);
	}
	load(&to, path, SNAPSHOT_DIRECT_OFF, 2);
	check(&to, 3);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_memory_that_is_written_to_is_sent_as_it_was(void **unused)
{
	struct ram_save_options options = {.channels = 2};
	struct scribbler scribbler = {};
	struct memory from, to;
	struct ram_save *saving;
	pthread_t thread;
	int fd = memfd_create("stream", MFD_CLOEXEC);

	create_two(&from, &to, RAM_BACKING_ANON, &from);
	fill(&from, 3);
	options.sender = sender_for(&from, dup(fd));
	assert_null(ram_save_create(from.map, NULL, &options, &saving));
	assert_null(ram_save_watch(saving, from.userfault));
	assert_null(ram_save_protect(saving));
	start_scribbling(&scribbler, &from, &thread);
	assert_null(ram_save_run(saving));
	__atomic_store_n(&scribbler.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	ram_save_destroy(saving);
	assert_null(snapshot_sender_finish(options.sender));
	snapshot_sender_destroy(options.sender);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_null(receive(&to, fd));
	check(&to, 3);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_anonymous_memory_that_is_written_to_is_saved_as_it_was(void **unused)
{
	save_live(RAM_BACKING_ANON);
}

static void test_memfd_that_is_written_to_is_saved_as_it_was(void **unused)
{
	save_live(RAM_BACKING_MEMFD);
}

static void test_huge_pages_that_are_written_to_are_saved_as_they_were(void **unused)
{
	save_live(RAM_BACKING_HUGETLB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_anonymous_memory_comes_back),
	    cmocka_unit_test(test_huge_pages_come_back),
	    cmocka_unit_test(test_memory_comes_back_past_the_page_cache),
	    cmocka_unit_test(test_memory_comes_back_past_the_page_cache_if_that_is_possible),
	    cmocka_unit_test(test_saving_fills_no_holes),
	    cmocka_unit_test(test_loading_fills_no_holes),
	    cmocka_unit_test(test_the_file_is_as_sparse_as_memory),
	    cmocka_unit_test(test_only_changes_are_stored_over_a_base),
	    cmocka_unit_test(test_a_damaged_page_is_refused),
	    cmocka_unit_test(test_content_for_unplugged_memory_is_refused),
	    cmocka_unit_test(test_a_cancelled_save_leaves_the_old_file),
	    cmocka_unit_test(test_memory_comes_back_from_a_stream),
	    cmocka_unit_test(test_a_stream_goes_from_one_end_of_memory_to_the_other),
	    cmocka_unit_test(test_a_stream_for_unplugged_memory_is_refused),
	    cmocka_unit_test(test_a_save_that_nobody_reads_can_be_cancelled),
	    cmocka_unit_test(test_memory_that_is_written_to_is_sent_as_it_was),
	    cmocka_unit_test(test_anonymous_memory_that_is_written_to_is_saved_as_it_was),
	    cmocka_unit_test(test_memfd_that_is_written_to_is_saved_as_it_was),
	    cmocka_unit_test(test_huge_pages_that_are_written_to_are_saved_as_they_were),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
