/* SPDX-License-Identifier: BSD-2-Clause */
/* Which pages of a block are there, however they came to be, and that looking makes none. */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "migration/ram_presence.h"

#define PAGE KIB(4)
#define SIZE MIB(12)

static struct ram_block *create_block(enum ram_backing backing, char *path)
{
	struct ram_backing_options options = {.backing = backing, .path = path, .host_node = -1};
	struct ram_block *block;

	assert_no_error(ram_block_create("memory0", &options, SIZE, &block));
	assert_int_equal(ram_block_commit(block, 0, SIZE), 0);
	return block;
}

static void write_page(const struct ram_block *block, uint64_t page)
{
	assert_int_equal(pwrite(block->fd, "content", 8, (off_t)(page * PAGE)), 8);
}

static blkcnt_t blocks_of(const struct ram_block *block)
{
	struct stat stat;

	assert_int_equal(fstat(block->fd, &stat), 0);
	return stat.st_blocks;
}

static void test_pages_are_found_mapped_or_not(void **unused)
{
	struct ram_block *block = create_block(RAM_BACKING_MEMFD, NULL);
	struct ram_presence *presence;
	blkcnt_t before;

	block->host[3 * PAGE] = 1;	       /* in the page tables */
	write_page(block, 5);		       /* in the file alone */
	write_page(block, 64);		       /* another chunk */
	write_page(block, MIB(4) / PAGE + 63); /* another stretch */
	block->host[MIB(8)] = 1;
	before = blocks_of(block);
	assert_no_error(ram_presence_create(&presence));
	assert_int_equal(ram_presence_chunk(presence, block, 0), 1ULL << 3 | 1ULL << 5);
	assert_int_equal(ram_presence_chunk(presence, block, KIB(256)), 1);
	assert_int_equal(ram_presence_chunk(presence, block, KIB(512)), 0);
	assert_int_equal(ram_presence_chunk(presence, block, MIB(4)), 1ULL << 63);
	assert_int_equal(ram_presence_chunk(presence, block, MIB(8)), 1);
	assert_int_equal(blocks_of(block), before);
	ram_presence_destroy(presence);
	ram_block_destroy(block);
}

static void test_pages_that_appear_are_found_after_forgetting(void **unused)
{
	struct ram_block *block = create_block(RAM_BACKING_MEMFD, NULL);
	struct ram_presence *presence;

	assert_no_error(ram_presence_create(&presence));
	assert_int_equal(ram_presence_chunk(presence, block, 0), 0);
	block->host[0] = 1;
	write_page(block, 1);
	ram_presence_forget(presence);
	assert_int_equal(ram_presence_chunk(presence, block, 0), 3);
	ram_presence_destroy(presence);
	ram_block_destroy(block);
}

static void test_pages_that_only_the_disk_has_are_found(void **unused)
{
	char path[] = "presence-XXXXXX";
	int fd = mkstemp(path);
	struct ram_presence *presence;
	struct ram_block *block;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	close(fd);
	block = create_block(RAM_BACKING_FILE, path);
	unlink(path);
	write_page(block, 7);
	write_page(block, MIB(8) / PAGE);
	/* Where the file system has a disk, what was written leaves memory. */
	assert_int_equal(fdatasync(block->fd), 0);
	assert_int_equal(posix_fadvise(block->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	assert_no_error(ram_presence_create(&presence));
	assert_int_equal(ram_presence_chunk(presence, block, 0), 1ULL << 7);
	assert_int_equal(ram_presence_chunk(presence, block, MIB(4)), 0);
	assert_int_equal(ram_presence_chunk(presence, block, MIB(8)), 1);
	ram_presence_destroy(presence);
	ram_block_destroy(block);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pages_are_found_mapped_or_not),
	    cmocka_unit_test(test_pages_that_appear_are_found_after_forgetting),
	    cmocka_unit_test(test_pages_that_only_the_disk_has_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
