/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every byte of a small file that is not a page, changed in several ways, and the file cut off at
 * every such byte: each is refused when the file is opened. With the checksum of all that put right
 * (what somebody who means harm would do) a change is refused, or the file reads in full or fails
 * to, and nothing worse happens: the sanitizers watch.
 */
#include "snapshot_driver.h"

#include <sys/mman.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "snapshot/snapshot_diff.h"
#include "snapshot/snapshot_map.h"
#include "snapshot/snapshot_parts.h"

#define SIZE_MAX_FILE MIB(3)

static uint8_t original[SIZE_MAX_FILE];
static size_t original_size;
static uint64_t pages_start[2], pages_end[2]; /* of the two blocks */
static uint64_t checksum_at;

static struct error *open_bytes(int fd, bool damaged, struct snapshot_file **file)
{
	const struct snapshot_open_options options = {.without_base = true, .damaged = damaged};
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return snapshot_file_open(path, &options, file);
}

/* A file of two blocks, the second with a base's pages when @base is there. */
static void load_original(const struct snapshot_file *base, const struct test_block *old,
			  struct test_block blocks[2])
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_CLOSE int fd = -1;
	ssize_t size;

	write_file(in_folder("small"), blocks, 2, base, old);
	assert_no_error(snapshot_file_open(in_folder("small"), NULL, &file));
	for (int i = 0; i < 2; i++) {
		pages_start[i] = file->blocks[i].pages_offset;
		pages_end[i] = pages_start[i] + file->blocks[i].size;
	}
	fd = open(in_folder("small"), O_RDONLY);
	size = pread(fd, original, sizeof(original), 0);
	assert_true(size > 0 && size < (ssize_t)sizeof(original));
	original_size = (size_t)size;
	for (uint64_t at = pages_end[1]; at + 8 < original_size; at++)
		if (get_be64(original + at) == SNAPSHOT_END_MAGIC)
			checksum_at = at + 8 + 16 + 8;
	assert_true(checksum_at);
}

static int make_small_file(void **unused)
{
	struct test_block blocks[2];

	if (make_folder(NULL))
		return -1;
	blocks[0] = block_create("ram", 70);
	blocks[1] = block_create("hot0", 3);
	for (uint64_t page = 0; page < 70; page += 2)
		fill_page(&blocks[0], page, 3);
	fill_page(&blocks[1], 1, 4);
	load_original(NULL, NULL, blocks);
	free(blocks[0].bytes);
	free(blocks[1].bytes);
	return 0;
}

/* The same with a base that has pages of both blocks. */
static int make_based_file(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *base = NULL;
	struct test_block blocks[2], old[2];

	if (make_folder(NULL))
		return -1;
	for (int i = 0; i < 2; i++) {
		blocks[i] = block_create(i ? "hot0" : "ram", i ? 3 : 70);
		old[i] = block_create(i ? "hot0" : "ram", i ? 3 : 70);
		for (uint64_t page = 0; page < blocks[i].pages; page += 2) {
			fill_page(&blocks[i], page, page % 4 ? 3 : 5);
			fill_page(&old[i], page, 5);
		}
	}
	write_file(in_folder("base"), old, 2, NULL, NULL);
	assert_no_error(snapshot_file_open(in_folder("base"), NULL, &base));
	load_original(base, old, blocks);
	for (int i = 0; i < 2; i++) {
		free(blocks[i].bytes);
		free(old[i].bytes);
	}
	return 0;
}

static bool is_page(uint64_t at)
{
	return (at >= pages_start[0] && at < pages_end[0]) ||
	       (at >= pages_start[1] && at < pages_end[1]);
}

/*
 * The next byte to change after @at: all but those of pages, and of the zeros in front of pages,
 * which are all alike, some.
 */
static uint64_t next_byte(uint64_t at)
{
	for (at++; at < original_size; at++) {
		if (is_page(at))
			continue;
		if (at > 4096 && at < pages_start[0] - 16 && at % 65521)
			continue;
		if (at > pages_end[0] + 4096 && at < pages_start[1] - 16 && at % 65521)
			continue;
		return at;
	}
	return at;
}

static int original_fd(void)
{
	int fd = memfd_create("snapshot", 0);

	assert_int_equal(pwrite(fd, original, original_size, 0), (ssize_t)original_size);
	return fd;
}

static void test_unchanged_file_is_accepted(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_CLOSE int fd = original_fd();

	assert_no_error(open_bytes(fd, false, &file));
}

static void test_every_changed_byte_is_refused(void **unused)
{
	static const uint8_t changes[] = {0x01, 0xff};
	AUTO_CLOSE int fd = original_fd();

	for (uint64_t at = next_byte(UINT64_MAX); at < original_size; at = next_byte(at)) {
		for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
			AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
			AUTO_ERROR struct error *error = NULL;
			uint8_t byte = original[at] ^ changes[i];

			pwrite(fd, &byte, 1, (off_t)at);
			error = open_bytes(fd, false, &file);
			if (!error)
				fail_msg("byte 0x%zx ^ 0x%02x is accepted", (size_t)at, changes[i]);
		}
		pwrite(fd, original + at, 1, (off_t)at);
	}
}

static void test_file_cut_off_anywhere_is_refused(void **unused)
{
	AUTO_CLOSE int fd = original_fd();

	for (uint64_t end = original_size - 1; end > 0; end--) {
		AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
		AUTO_ERROR struct error *error = NULL;

		/* Of pages and of zeros, some. */
		if (end < pages_end[1] && end > 4096 && end % 4093)
			continue;
		assert_int_equal(ftruncate(fd, (off_t)end), 0);
		error = open_bytes(fd, false, &file);
		if (!error)
			fail_msg("a file of 0x%zx bytes is accepted", (size_t)end);
	}
}

static void test_file_that_goes_on_is_refused(void **unused)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_CLOSE int fd = original_fd();

	assert_int_equal(pwrite(fd, "", 1, (off_t)original_size), 1);
	assert_error_with(open_bytes(fd, false, &file), "file size at offset");
}

/* Puts the checksum of what is not a page right. */
static void mend_checksum(int fd, const uint8_t *bytes)
{
	XXH3_state_t *hash = XXH3_createState();
	uint8_t raw[8];

	XXH3_64bits_reset(hash);
	XXH3_64bits_update(hash, bytes, pages_start[0]);
	XXH3_64bits_update(hash, bytes + pages_end[0], pages_start[1] - pages_end[0]);
	XXH3_64bits_update(hash, bytes + pages_end[1], checksum_at - pages_end[1]);
	XXH3_64bits_update(hash, bytes + checksum_at + 8, original_size - checksum_at - 8);
	put_be64(raw, XXH3_64bits_digest(hash));
	XXH3_freeState(hash);
	pwrite(fd, raw, sizeof(raw), (off_t)checksum_at);
}

/* What somebody would do with a file that opens: read all of it. */
static void use_file(const struct snapshot_file *file)
{
	static uint8_t buffer[SNAPSHOT_CHUNK_SIZE];

	for (uint32_t i = 0; i < file->block_count; i++) {
		const struct snapshot_block *block = &file->blocks[i];
		uint64_t counts[SNAPSHOT_PAGE_KINDS];

		error_free(snapshot_block_count(block, counts));
		for (uint64_t chunk = 0; chunk < snapshot_block_chunks(block); chunk++)
			(void)snapshot_chunk_read(block, chunk, buffer);
	}
}

static void test_changed_byte_with_the_checksum_put_right_does_no_harm(void **unused)
{
	static const uint8_t changes[] = {0x01, 0xff};
	AUTO_CLOSE int fd = original_fd();
	int accepted = 0, refused = 0;

	for (uint64_t at = next_byte(UINT64_MAX); at < original_size; at = next_byte(at)) {
		if (at >= checksum_at && at < checksum_at + 8)
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
			AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
			AUTO_ERROR struct error *error = NULL;
			uint8_t byte = original[at] ^ changes[i];

			pwrite(fd, &byte, 1, (off_t)at);
			error = open_bytes(fd, true, &file);
			if (!error)
				use_file(file);
			*(error ? &refused : &accepted) += 1;
		}
		pwrite(fd, original + at, 1, (off_t)at);
	}
	/* Free to change are ids, bodies of sections, checksums, names and the description. */
	assert_true(refused > 300);
	assert_true(accepted > 300);
}

/* Opens the file with @size bytes at @at replaced, and its checksum right. */
static struct error *with_change(uint64_t at, const void *change, size_t size)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	AUTO_FREE uint8_t *bytes = malloc(original_size);
	AUTO_CLOSE int fd = original_fd();

	memcpy(bytes, original, original_size);
	memcpy(bytes + at, change, size);
	pwrite(fd, change, size, (off_t)at);
	mend_checksum(fd, bytes);
	return open_bytes(fd, false, &file);
}

static uint64_t find(const char *text)
{
	const uint8_t *found = memmem(original, original_size, text, strlen(text));

	assert_non_null(found);
	return (uint64_t)(found - original);
}

static void test_fields_are_refused_by_name_and_offset(void **unused)
{
	/* START: name, instance 4, version 4, size; block: length, name, size, header, bitmap. */
	uint64_t ram = find("\x03ram") + 4, block = ram + 8 + 8, header = block + 4 + 8;
	uint8_t large[8], bits[8];
	char expected[64];

	put_be64(large, UINT64_C(1) << 62);
	assert_no_error(with_change(0, "QEVM", 4));
	assert_error_with(with_change(4, "\0\0\0\4", 4), "stream version at offset 0x4 is 4");
	assert_error_with(with_change(13, "godwit-9", 8),
			  "machine's name at offset 0xd is 'godwit-9'");
	assert_error_with(with_change(find("mapped-ram"), "mapped-rum", 10),
			  "is 'mapped-rum', which this godwit does not know");
	snprintf(expected, sizeof(expected), "size of RAM at offset 0x%zx", (size_t)ram + 8);
	assert_error_with(with_change(ram + 8, large, 8), expected);
	snprintf(expected, sizeof(expected), "size of a RAM block at offset 0x%zx",
		 (size_t)block + 4);
	assert_error_with(with_change(block + 4, large, 8), expected);
	snprintf(expected, sizeof(expected), "mapped-ram version at offset 0x%zx", (size_t)header);
	assert_error_with(with_change(header, "\0\0\0\2", 4), expected);
	snprintf(expected, sizeof(expected), "page size at offset 0x%zx", (size_t)header + 4);
	assert_error_with(with_change(header + 4, large, 8), expected);
	snprintf(expected, sizeof(expected), "bitmap offset at offset 0x%zx", (size_t)header + 12);
	assert_error_with(with_change(header + 12, large, 8), expected);
	snprintf(expected, sizeof(expected), "pages offset at offset 0x%zx", (size_t)header + 20);
	assert_error_with(with_change(header + 20, large, 8), expected);
	put_le64(bits, UINT64_MAX);
	assert_error_with(with_change(header + 28 + 8, bits, 8),
			  "has bits for pages that it does not have");
	put_le64(bits, 0);
	assert_error_with(with_change(header + 28, bits, 8), "whose checksum is not that of zeros");
	assert_error_with(with_change(pages_start[0] - 9, "x", 1),
			  "is 0x78: only zeros belong there");
	assert_error_with(with_change(checksum_at - 32, large, 8), "mark of completion");
	assert_error_with(with_change(checksum_at - 24, large, 8), "these are two files");
	assert_error_with(with_change(checksum_at - 8, large, 8), "file size at offset");
}

static void test_inherited_pages_are_checked(void **unused)
{
	uint64_t table = find("godwit/inherited") + 16 + 4 + 4 + 4;
	uint8_t bits[8];

	put_le64(bits, UINT64_MAX);
	assert_error_with(with_change(table, bits, 8), "are stored as well");
	assert_error_with(with_change(table + 16, bits, 8), "are beyond its end");
}

#define TEST(name, setup) cmocka_unit_test_setup_teardown(name, setup, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_unchanged_file_is_accepted, make_small_file),
	    TEST(test_every_changed_byte_is_refused, make_small_file),
	    TEST(test_every_changed_byte_is_refused, make_based_file),
	    TEST(test_file_cut_off_anywhere_is_refused, make_small_file),
	    TEST(test_file_that_goes_on_is_refused, make_small_file),
	    TEST(test_changed_byte_with_the_checksum_put_right_does_no_harm, make_small_file),
	    TEST(test_changed_byte_with_the_checksum_put_right_does_no_harm, make_based_file),
	    TEST(test_fields_are_refused_by_name_and_offset, make_small_file),
	    TEST(test_inherited_pages_are_checked, make_based_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
