/* SPDX-License-Identifier: BSD-2-Clause */
/* What is written is read; what is not as it should be is refused by name; names stay whole. */
#include "snapshot_driver.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "snapshot/snapshot_parts.h"

/* Two blocks: one with gaps and a short last chunk, one of zeros. */
static void make_blocks(struct test_block blocks[2])
{
	blocks[0] = block_create("ram", 200);
	blocks[1] = block_create("hot0", 64);
	for (uint64_t page = 0; page < 200; page++)
		fill_page(&blocks[0], page, page % 3 == 0 ? 0 : 7);
	for (uint64_t page = 64; page < 128; page++)
		fill_page(&blocks[0], page, 0);
}

static void free_blocks(struct test_block blocks[2])
{
	free(blocks[0].bytes);
	free(blocks[1].bytes);
}

static void test_written_file_reads_back(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	const char *path = in_folder("one");
	struct test_block blocks[2];

	make_blocks(blocks);
	write_file(path, blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(path, NULL, &file));
	assert_false(file->foreign);
	assert_content(file, blocks, 2);
	free_blocks(blocks);
}

static void test_sections_read_back(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];
	uint32_t numbers[2] = {};
	const struct state_part part = {
	    .name = "test/numbers", .version = 1, .visit = numbers_state, .context = numbers};
	const struct state_part missing = {
	    .name = "test/other", .version = 1, .visit = numbers_state, .context = numbers};

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_no_error(snapshot_file_load(file, &part));
	assert_int_equal(numbers[0], 0x01020304);
	assert_int_equal(numbers[1], 0x05060708);
	assert_error_with(snapshot_file_load(file, &missing),
			  "section test/other, instance 0, is missing");
	free_blocks(blocks);
}

static void test_zero_chunks_are_known_without_reading(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_false(snapshot_chunk_is_zero(&file->blocks[0], 0));
	assert_true(snapshot_chunk_is_zero(&file->blocks[0], 1));
	assert_true(snapshot_chunk_is_zero(&file->blocks[1], 0));
	free_blocks(blocks);
}

static void test_pages_stand_at_aligned_places(void **unused)
{
	struct test_block blocks[2];
	struct snapshot_writer *writer;

	make_blocks(blocks);
	writer = writer_create(in_folder("one"), blocks, 2, NULL);
	assert_int_equal(snapshot_writer_page_offset(writer, 0, 0), MIB(1));
	assert_int_equal(snapshot_writer_page_offset(writer, 0, 3), MIB(1) + 3 * PAGE);
	assert_int_equal(snapshot_writer_page_offset(writer, 1, 0), MIB(2));
	snapshot_writer_destroy(writer);
	free_blocks(blocks);
}

static void test_holes_take_no_space(void **unused)
{
	struct test_block blocks[2] = {block_create("ram", 25600), block_create("hot0", 64)};
	struct snapshot_writer *writer = writer_create(in_folder("one"), blocks, 2, NULL);

	fill_page(&blocks[0], 9000, 1);
	write_pages(writer, blocks, 2, NULL);
	assert_no_error(snapshot_writer_finish(writer));
	assert_true(snapshot_writer_size(writer) > MIB(100));
	assert_true(snapshot_writer_allocated(writer) < KIB(256));
	snapshot_writer_destroy(writer);
	free_blocks(blocks);
}

static void test_file_is_for_its_owner_alone(void **unused)
{
	struct test_block blocks[2];
	struct stat status;

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	assert_int_equal(stat(in_folder("one"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	free_blocks(blocks);
}

static void test_snapshot_without_memory(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;

	write_file(in_folder("none"), NULL, 0, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("none"), NULL, &file));
	assert_int_equal(file->block_count, 0);
}

static int count_files(void)
{
	DIR *directory = opendir(folder);
	struct dirent *entry;
	int count = 0;

	while ((entry = readdir(directory)) != NULL)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

static void test_abandoned_save_leaves_the_old_file(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];
	struct snapshot_writer *writer;

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	writer = writer_create(in_folder("one"), blocks, 1, NULL);
	write_pages(writer, blocks, 1, NULL);
	assert_int_equal(count_files(), 2);
	snapshot_writer_destroy(writer);
	assert_int_equal(count_files(), 1);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_content(file, blocks, 2);
	free_blocks(blocks);
}

static void test_partial_file_is_refused(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];
	struct snapshot_writer *writer;
	char path[300];
	DIR *directory;
	struct dirent *entry;

	make_blocks(blocks);
	writer = writer_create(in_folder("one"), blocks, 2, NULL);
	write_pages(writer, blocks, 2, NULL);
	directory = opendir(folder);
	while ((entry = readdir(directory)) != NULL)
		if (strstr(entry->d_name, "one.partial-"))
			snprintf(path, sizeof(path), "%s/%.200s", folder, entry->d_name);
	closedir(directory);
	assert_error_with(snapshot_file_open(path, NULL, &file),
			  "magic number at offset 0x0 is 0: the file was not written to its end");
	snapshot_writer_destroy(writer);
	free_blocks(blocks);
}

/* A file size limit stands for a full disk: writes beyond it fail. */
static void test_failed_write_leaves_the_old_file(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct rlimit limit, low;
	struct test_block blocks[2];
	struct snapshot_writer *writer;

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	writer = writer_create(in_folder("one"), blocks, 2, NULL);
	write_pages(writer, blocks, 2, NULL);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	low = (struct rlimit){MIB(2), limit.rlim_max};
	setrlimit(RLIMIT_FSIZE, &low);
	assert_error_with(snapshot_writer_finish(writer), "cannot write");
	setrlimit(RLIMIT_FSIZE, &limit);
	snapshot_writer_destroy(writer);
	assert_int_equal(count_files(), 1);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_content(file, blocks, 2);
	free_blocks(blocks);
}

static void test_link_stays_a_link(void **unused)
{
	struct test_block blocks[2];
	struct stat status;

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	assert_int_equal(symlink("one", in_folder("link")), 0);
	write_file(in_folder("link"), blocks, 1, NULL, NULL);
	assert_int_equal(lstat(in_folder("link"), &status), 0);
	assert_true(S_ISLNK(status.st_mode));
	assert_int_equal(count_files(), 2);
	free_blocks(blocks);
}

static struct error *try_create(const char *path, const char *name, uint64_t size,
				const struct snapshot_file *base)
{
	const struct snapshot_writer_options options = {.path = path, .base = base};
	struct snapshot_block_plan plans[2] = {{.size = size}, {.name = "second", .size = PAGE}};
	struct snapshot_writer *writer = NULL;
	struct error *error;

	snprintf(plans[0].name, sizeof(plans[0].name), "%s", name);
	error = snapshot_writer_create(&options, plans, 2, &writer);
	snapshot_writer_destroy(writer);
	return error;
}

static void test_plans_that_cannot_be_written_are_refused(void **unused)
{
	const char *path = in_folder("x");

	assert_error_with(try_create(path, "second", PAGE, NULL), "block second is there twice");
	assert_error_with(try_create(path, "", PAGE, NULL), "cannot be written");
	assert_error_with(try_create(path, "a\"b", PAGE, NULL), "cannot be written");
	assert_error_with(try_create(path, "a", 0, NULL), "whole pages");
	assert_error_with(try_create(path, "a", PAGE + 1, NULL), "whole pages");
	assert_error_with(try_create(path, "a", SNAPSHOT_RAM_MAX, NULL), "whole pages");
	assert_error_with(try_create(folder, "a", PAGE, NULL), "is not a plain file");
	assert_error_with(try_create(in_folder("no/such"), "a", PAGE, NULL),
			  "cannot use the folder");
	assert_int_equal(count_files(), 0);
}

static void test_sections_that_cannot_be_written_are_refused(void **unused)
{
	struct test_block block = block_create("ram", 1);
	struct snapshot_writer *writer = writer_create(in_folder("x"), &block, 1, NULL);

	assert_error_with(snapshot_writer_add_bytes(writer, "test/numbers", 0, 1, "", 0),
			  "is there twice");
	assert_error_with(snapshot_writer_add_bytes(writer, "a b", 0, 1, "", 0), "printable");
	assert_no_error(snapshot_writer_add_bytes(writer, "test/numbers", 1, 1, "", 0));
	snapshot_writer_page_offset(writer, 0, 0);
	assert_error_with(snapshot_writer_add_bytes(writer, "late", 0, 1, "", 0),
			  "after the first page");
	snapshot_writer_destroy(writer);
	free(block.bytes);
}

/* --- Chains ------------------------------------------------------------------------------------ */

/* base ← middle ← top, each with changes; the blocks as the top has them. */
static void make_chain(struct test_block blocks[2])
{
	struct test_block old[2];
	AUTO_SNAPSHOT_FILE struct snapshot_file *base = NULL;
	AUTO_SNAPSHOT_FILE struct snapshot_file *middle = NULL;

	make_blocks(blocks);
	make_blocks(old);
	write_file(in_folder("base"), blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("base"), NULL, &base));
	fill_page(&blocks[0], 10, 99);
	fill_page(&blocks[1], 63, 98);
	write_file(in_folder("middle"), blocks, 2, base, old);
	for (int i = 0; i < 2; i++)
		memcpy(old[i].bytes, blocks[i].bytes, blocks[i].pages * PAGE);
	assert_no_error(snapshot_file_open(in_folder("middle"), NULL, &middle));
	fill_page(&blocks[0], 11, 97);
	fill_page(&blocks[0], 13, 0);
	fill_page(&blocks[0], 199, 96);
	write_file(in_folder("top"), blocks, 2, middle, old);
	free_blocks(old);
}

static void test_chain_reads_back(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	assert_no_error(snapshot_file_open(in_folder("top"), NULL, &file));
	assert_non_null(file->base->base);
	assert_content(file, blocks, 2);
	assert_string_equal(file->base_path, "middle");
	free_blocks(blocks);
}

static void test_chain_stores_only_what_changed(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	assert_no_error(snapshot_file_open(in_folder("top"), NULL, &file));
	assert_int_equal(__builtin_popcountll(file->blocks[0].stored[0]), 1);
	assert_int_equal(__builtin_popcountll(file->blocks[0].stored[3]), 1);
	assert_int_equal(file->blocks[1].stored[0], 0);
	assert_int_equal(file->blocks[1].inherited[0], UINT64_C(1) << 63);
	free_blocks(blocks);
}

static void test_missing_base_is_refused_by_name(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	assert_int_equal(rename(in_folder("base"), in_folder("moved")), 0);
	assert_error_with(snapshot_file_open(in_folder("top"), NULL, &file),
			  "middle builds on base: ");
	free_blocks(blocks);
}

static void test_other_base_is_refused_by_its_id(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	write_file(in_folder("base"), blocks, 2, NULL, NULL);
	assert_error_with(snapshot_file_open(in_folder("top"), NULL, &file), "give the right base");
	free_blocks(blocks);
}

static void test_base_may_be_named(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];
	struct snapshot_open_options options = {.base = NULL};

	make_chain(blocks);
	assert_int_equal(rename(in_folder("base"), in_folder("moved")), 0);
	options.base = in_folder("moved");
	assert_no_error(snapshot_file_open(in_folder("middle"), &options, &file));
	snapshot_file_close(TAKE_PTR(file));
	assert_error_with(snapshot_file_open(in_folder("moved"), &options, &file),
			  "give it no base");
	free_blocks(blocks);
}

static void test_chain_of_itself_is_refused(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];
	struct snapshot_open_options options = {.base = NULL};

	make_chain(blocks);
	options.base = in_folder("top");
	assert_error_with(snapshot_file_open(in_folder("top"), &options, &file),
			  "give the right base");
	free_blocks(blocks);
}

static void test_inherited_pages_need_the_base(void **unused)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];
	const struct snapshot_open_options options = {.without_base = true};
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	assert_no_error(snapshot_file_open(in_folder("top"), &options, &file));
	assert_null(file->base);
	assert_int_equal(snapshot_chunk_read(&file->blocks[0], 0, buffer), -ENOLINK);
	assert_error_with(snapshot_chunk_error(&file->blocks[0], 0, -ENOLINK), "in the base");
	free_blocks(blocks);
}

static void test_base_cannot_be_written_over(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_chain(blocks);
	assert_no_error(snapshot_file_open(in_folder("top"), NULL, &file));
	assert_error_with(try_create(in_folder("base"), "ram", PAGE, file),
			  "is what the new snapshot builds on");
	assert_error_with(try_create(in_folder("top"), "ram", PAGE, file),
			  "is what the new snapshot builds on");
	free_blocks(blocks);
}

static void test_base_is_found_from_another_folder(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *base = NULL;
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_blocks(blocks);
	assert_int_equal(mkdir(in_folder("a"), 0700), 0);
	assert_int_equal(mkdir(in_folder("b"), 0700), 0);
	write_file(in_folder("a/base"), blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("a/base"), NULL, &base));
	write_file(in_folder("b/top"), blocks, 2, base, blocks);
	assert_no_error(snapshot_file_open(in_folder("b/top"), NULL, &file));
	assert_string_equal(file->base_path, "../a/base");
	assert_content(file, blocks, 2);
	free_blocks(blocks);
}

static void test_chain_is_never_longer_than_a_reader_takes(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block block = block_create("ram", 1);
	char name[16] = "0";

	fill_page(&block, 0, 1);
	write_file(in_folder(name), &block, 1, NULL, NULL);
	for (int i = 1; i < SNAPSHOT_CHAIN_MAX; i++) {
		assert_no_error(snapshot_file_open(in_folder(name), NULL, &file));
		snprintf(name, sizeof(name), "%d", i);
		write_file(in_folder(name), &block, 1, file, &block);
		snapshot_file_close(TAKE_PTR(file));
	}
	assert_no_error(snapshot_file_open(in_folder(name), NULL, &file));
	assert_content(file, &block, 1);
	assert_error_with(try_create(in_folder("last"), "ram", PAGE, file), "flatten it first");
	free(block.bytes);
}

/* --- Damage ------------------------------------------------------------------------------------ */

static void patch(const char *path, uint64_t offset, const void *bytes, size_t size)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY);

	assert_int_equal(pwrite(fd, bytes, size, (off_t)offset), (ssize_t)size);
}

static void test_changed_page_is_found(void **unused)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	patch(in_folder("one"), MIB(1) + PAGE + 77, "\x5a", 1);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_int_equal(snapshot_chunk_read(&file->blocks[0], 0, buffer), -EBADMSG);
	assert_int_equal(snapshot_chunk_read(&file->blocks[0], 2, buffer), 0);
	assert_error_with(snapshot_chunk_error(&file->blocks[0], 0, -EBADMSG),
			  "(file offset 0x100000)");
	free_blocks(blocks);
}

static void test_what_is_in_a_hole_does_not_matter(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	patch(in_folder("one"), MIB(1), "stale", 5); /* page 0 is zeros */
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_content(file, blocks, 2);
	free_blocks(blocks);
}

static void test_file_that_shrinks_while_open_fails_to_read(void **unused)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct test_block blocks[2];

	make_blocks(blocks);
	write_file(in_folder("one"), blocks, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("one"), NULL, &file));
	assert_int_equal(truncate(in_folder("one"), MIB(1)), 0);
	assert_int_equal(snapshot_chunk_read(&file->blocks[0], 0, buffer), -EIO);
	free_blocks(blocks);
}

static void test_things_that_are_no_files_are_refused(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;

	assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
	assert_error_with(snapshot_file_open(in_folder("pipe"), NULL, &file),
			  "is not a plain file");
	assert_error_with(snapshot_file_open(folder, NULL, &file), "is not a plain file");
	assert_error_with(snapshot_file_open(in_folder("none"), NULL, &file), "No such file");
	patch("/dev/null", 0, "", 0);
	close(open(in_folder("empty"), O_CREAT | O_WRONLY, 0600));
	assert_error_with(snapshot_file_open(in_folder("empty"), NULL, &file), "is cut off");
	assert_error_with(snapshot_file_open("/proc/self/exe", NULL, &file), "this is no snapshot");
}

/* --- Parts ------------------------------------------------------------------------------------- */

static struct error *reload_memory(const struct snapshot_memory *memory)
{
	AUTO_STATE struct state *saved = state_save_begin(false);
	AUTO_FREE struct snapshot_memory *copy = calloc(1, sizeof(*copy));
	struct state_part part = {.name = SNAPSHOT_SECTION_MEMORY,
				  .version = 1,
				  .visit = snapshot_memory_state,
				  .context = (void *)memory};
	struct error *error;
	const void *bytes;
	size_t size;

	assert_no_error(state_visit(saved, &part));
	bytes = state_bytes(saved, &size);
	{
		AUTO_STATE struct state *loaded = state_load_begin(bytes, size, 1);

		part.context = copy;
		error = state_visit(loaded, &part);
	}
	if (!error)
		assert_memory_equal(copy, memory, sizeof(*copy));
	return error;
}

static void test_memory_layout_is_checked(void **unused)
{
	AUTO_FREE struct snapshot_memory *memory = calloc(1, sizeof(*memory));

	memory->count = 2;
	memory->ranges[0] = (struct snapshot_range){"ram", 0, 0, MIB(3)};
	memory->ranges[1] = (struct snapshot_range){"ram", GIB(4), MIB(3), MIB(1)};
	assert_no_error(reload_memory(memory));
	memory->ranges[1].address = MIB(2);
	assert_error_with(reload_memory(memory), "below the end of the one before");
	memory->ranges[1].address = UINT64_MAX - PAGE + 1;
	assert_error_with(reload_memory(memory), "beyond 64 bits");
	memory->ranges[1].address = 1;
	assert_error_with(reload_memory(memory), "not whole pages");
}

static void test_plugged_bits_are_loaded(void **unused)
{
	uint64_t bits = 0x15;
	struct snapshot_plugged plugged = {"hot0", MIB(10), MIB(2), &bits}, loaded = {};
	AUTO_STATE struct state *saved = state_save_begin(false);
	AUTO_STATE struct state *load = NULL;
	struct state_part part = {.name = SNAPSHOT_SECTION_PLUGGED,
				  .version = 1,
				  .visit = snapshot_plugged_state,
				  .context = &plugged};
	const void *bytes;
	size_t size;

	assert_no_error(state_visit(saved, &part));
	bytes = state_bytes(saved, &size);
	load = state_load_begin(bytes, size, 1);
	part.context = &loaded;
	assert_no_error(state_visit(load, &part));
	assert_string_equal(loaded.block, "hot0");
	assert_int_equal(loaded.size, MIB(10));
	assert_int_equal(loaded.bits[0], 0x15);
	free(loaded.bits);
}

static void test_checksum_of_zeros_is_zero_and_of_nothing_else(void **unused)
{
	static uint8_t chunk[SNAPSHOT_CHUNK_SIZE];

	assert_true(snapshot_checksum_is_zero(snapshot_checksum(chunk, sizeof(chunk))));
	assert_true(snapshot_checksum_is_zero(snapshot_checksum(chunk, PAGE)));
	chunk[sizeof(chunk) - 1] = 1;
	assert_false(snapshot_checksum_is_zero(snapshot_checksum(chunk, sizeof(chunk))));
	assert_true(snapshot_checksum_is_zero(snapshot_checksum(chunk, sizeof(chunk) - 1)));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_written_file_reads_back),
	    TEST(test_sections_read_back),
	    TEST(test_zero_chunks_are_known_without_reading),
	    TEST(test_pages_stand_at_aligned_places),
	    TEST(test_holes_take_no_space),
	    TEST(test_file_is_for_its_owner_alone),
	    TEST(test_snapshot_without_memory),
	    TEST(test_abandoned_save_leaves_the_old_file),
	    TEST(test_partial_file_is_refused),
	    TEST(test_failed_write_leaves_the_old_file),
	    TEST(test_link_stays_a_link),
	    TEST(test_plans_that_cannot_be_written_are_refused),
	    TEST(test_sections_that_cannot_be_written_are_refused),
	    TEST(test_chain_reads_back),
	    TEST(test_chain_stores_only_what_changed),
	    TEST(test_missing_base_is_refused_by_name),
	    TEST(test_other_base_is_refused_by_its_id),
	    TEST(test_base_may_be_named),
	    TEST(test_chain_of_itself_is_refused),
	    TEST(test_inherited_pages_need_the_base),
	    TEST(test_base_cannot_be_written_over),
	    TEST(test_base_is_found_from_another_folder),
	    TEST(test_chain_is_never_longer_than_a_reader_takes),
	    TEST(test_changed_page_is_found),
	    TEST(test_what_is_in_a_hole_does_not_matter),
	    TEST(test_file_that_shrinks_while_open_fails_to_read),
	    TEST(test_things_that_are_no_files_are_refused),
	    TEST(test_memory_layout_is_checked),
	    TEST(test_plugged_bits_are_loaded),
	    TEST(test_checksum_of_zeros_is_zero_and_of_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
