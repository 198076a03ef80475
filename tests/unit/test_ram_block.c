/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM blocks: backings, committing and discarding, and what a host that runs dry answers. */
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "cmocka_prelude.h"
#include "memory/ram_block.h"

static struct error *take(const char *text, struct ram_backing_options *backing)
{
	AUTO_OPTIONS struct options *options = NULL;

	TRY(options_parse(text, "size", &options));
	TRY(ram_backing_options_take(options, backing));
	options_take(options, "size");
	return options_finish(options);
}

static void backings_are_named(void **state)
{
	static const char *const names[] = {"memfd", "hugetlb-2M", "hugetlb-1G", "anon",
					    "file:/tmp/x"};
	struct ram_backing_options backing;
	char option[64], text[64];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(option, sizeof(option), "1G,backing=%s", names[i]);
		assert_no_error(take(option, &backing));
		assert_string_equal(ram_backing_describe(&backing, text, sizeof(text)), names[i]);
		ram_backing_options_clear(&backing);
	}
	assert_no_error(take("1G", &backing));
	assert_int_equal(backing.backing, RAM_BACKING_MEMFD);
	assert_error_with(take("1G,backing=disk", &backing), "'disk' is not known");
	assert_error_with(take("1G,backing=file:", &backing), "not known");
}

static void blocks_are_aligned_for_large_pages(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_ANON, .host_node = -1};
	AUTO_RAM_BLOCK struct ram_block *block = NULL;

	assert_no_error(ram_block_create("x", &options, MIB(2) + 4096, &block));
	assert_true(is_aligned((uintptr_t)block->host, MIB(2)));
}

static void a_size_that_is_not_whole_pages_is_refused(void **state)
{
	struct ram_backing_options options = {
	    .backing = RAM_BACKING_HUGETLB, .page_size = MIB(2), .host_node = -1};
	struct ram_block *block;

	assert_error_with(ram_block_create("x", &options, MIB(3), &block), "multiple");
}

/* A tmpfs of a few MiB in a mount namespace of this process, to run dry. */
static void a_full_file_system_refuses_to_commit(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_FILE, .host_node = -1};
	char directory[] = "/tmp/godwit-ram-XXXXXX", path[64];
	struct ram_block *block;
	struct stat info;

	assert_non_null(mkdtemp(directory));
	if (mount("none", directory, "tmpfs", 0, "size=4m") < 0) {
		rmdir(directory);
		skip();
	}
	snprintf(path, sizeof(path), "%s/ram", directory);
	options.path = path;
	assert_no_error(ram_block_create("x", &options, MIB(16), &block));
	assert_int_equal(ram_block_commit(block, 0, MIB(2)), 0);
	assert_int_equal(ram_block_commit(block, MIB(2), MIB(8)), -ENOSPC);
	/* Nothing of the refused range stays. */
	assert_int_equal(fstat(block->fd, &info), 0);
	assert_int_equal(info.st_blocks * 512, MIB(2));
	assert_int_equal(ram_block_discard(block, 0, MIB(2)), 0);
	assert_int_equal(ram_block_commit(block, MIB(4), MIB(4)), 0);
	ram_block_destroy(block);
	umount(directory);
	rmdir(directory);
}

/* What the host holds, pages that were allocated and not touched included. */
static uint64_t held(const struct ram_block *block)
{
	struct stat info;

	if (block->fd < 0)
		return ram_block_resident(block);
	assert_int_equal(fstat(block->fd, &info), 0);
	return (uint64_t)info.st_blocks * 512;
}

static void reserved_pages_stay_missing(void **state)
{
	static const enum ram_backing backings[] = {RAM_BACKING_ANON, RAM_BACKING_MEMFD,
						    RAM_BACKING_FILE};
	char path[] = "/dev/shm/godwit-ram-XXXXXX";

	close(mkstemp(path));
	for (size_t i = 0; i < ARRAY_SIZE(backings); i++) {
		struct ram_backing_options options = {
		    .backing = backings[i], .path = path, .host_node = -1, .prealloc = true};
		struct ram_block *block;

		assert_no_error(ram_block_create("x", &options, MIB(4), &block));
		ram_block_set_reserving(block);
		assert_int_equal(ram_block_commit(block, 0, MIB(4)), 0);
		assert_int_equal(held(block), 0);
		ram_block_end_reserving(block);
		assert_int_equal(ram_block_commit(block, 0, MIB(2)), 0);
		assert_int_equal(held(block), MIB(2));
		ram_block_destroy(block);
	}
	unlink(path);
}

static void a_full_file_system_refuses_to_reserve(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_FILE, .host_node = -1};
	char directory[] = "/tmp/godwit-ram-XXXXXX", path[64];
	struct ram_block *block;

	assert_non_null(mkdtemp(directory));
	if (mount("none", directory, "tmpfs", 0, "size=4m") < 0) {
		rmdir(directory);
		skip();
	}
	snprintf(path, sizeof(path), "%s/ram", directory);
	options.path = path;
	assert_no_error(ram_block_create("x", &options, MIB(16), &block));
	ram_block_set_reserving(block);
	assert_int_equal(ram_block_commit(block, 0, MIB(2)), 0);
	assert_int_equal(ram_block_commit(block, 0, MIB(8)), -ENOSPC);
	ram_block_destroy(block);
	umount(directory);
	rmdir(directory);
}

static void a_dry_pool_of_huge_pages_refuses_to_commit(void **state)
{
	struct ram_backing_options options = {
	    .backing = RAM_BACKING_HUGETLB, .page_size = MIB(2), .host_node = -1};
	struct ram_block *block;
	AUTO_FCLOSE FILE *pool = fopen("/proc/sys/vm/nr_hugepages", "r+");
	int pages = 0;

	if (!pool || fscanf(pool, "%d", &pages) != 1 || pages)
		skip(); /* someone else's pool is not ours to empty */
	rewind(pool);
	if (fprintf(pool, "4\n") < 0 || fflush(pool) != 0)
		skip();
	assert_no_error(ram_block_create("x", &options, MIB(32), &block));
	assert_int_equal(ram_block_commit(block, 0, MIB(4)), 0);
	memset(block->host, 1, MIB(4));
	assert_true(ram_block_commit(block, MIB(4), MIB(8)) < 0);
	assert_int_equal(ram_block_resident(block), MIB(4));
	assert_int_equal(ram_block_commit(block, MIB(8), MIB(4)), 0);
	ram_block_destroy(block);
	rewind(pool);
	fprintf(pool, "0\n");
	fflush(pool);
}

static void a_file_of_another_size_is_refused(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_FILE, .host_node = -1};
	char path[] = "/tmp/godwit-ram-XXXXXX";
	struct ram_block *block;
	AUTO_CLOSE int fd = mkstemp(path);

	assert_true(fd >= 0);
	options.path = path;
	assert_int_equal(write(fd, "precious", 8), 8);
	assert_error_with(ram_block_create("x", &options, MIB(2), &block), "has 8, not 2M");
	unlink(path);
}

static void a_file_in_use_is_refused(void **state)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_FILE, .host_node = -1};
	AUTO_RAM_BLOCK struct ram_block *block = NULL;
	char path[] = "/tmp/godwit-ram-XXXXXX";
	AUTO_CLOSE int fd = mkstemp(path);
	struct ram_block *second;

	assert_true(fd >= 0);
	options.path = path;
	assert_no_error(ram_block_create("x", &options, MIB(2), &block));
	assert_error_with(ram_block_create("y", &options, MIB(2), &second), "in use");
	unlink(path);
}

static const struct ram_backing_options plain = {.backing = RAM_BACKING_MEMFD, .host_node = -1};

static void adopted_memory_is_the_same(void **state)
{
	AUTO_RAM_BLOCK struct ram_block *block = NULL, *other = NULL;

	assert_no_error(ram_block_create("x", &plain, MIB(4), &block));
	strcpy((char *)block->host + MIB(3), "before");
	assert_no_error(ram_block_adopt("x", &plain, MIB(4), dup(block->fd), &other));
	assert_string_equal((char *)other->host + MIB(3), "before");
	strcpy((char *)other->host, "after");
	assert_string_equal((char *)block->host, "after");
}

/* The process that has it may go on with it: no failure here may take anything from it. */
static void borrowed_memory_is_not_given_back(void **state)
{
	struct ram_backing_options options = plain;
	AUTO_RAM_BLOCK struct ram_block *block = NULL, *other = NULL;

	options.prealloc = true;
	assert_no_error(ram_block_create("x", &options, MIB(4), &block));
	strcpy((char *)block->host, "kept");
	assert_no_error(ram_block_adopt("x", &options, MIB(4), dup(block->fd), &other));
	assert_int_equal(ram_block_commit(other, 0, MIB(4)), 0);
	assert_int_equal(ram_block_resident(block), 4096);
	assert_int_equal(ram_block_discard(other, 0, MIB(4)), -EBUSY);
	assert_string_equal((char *)block->host, "kept");
	ram_block_own(other);
	assert_int_equal(ram_block_commit(other, 0, MIB(2)), 0);
	assert_int_equal(ram_block_resident(other), MIB(2));
	assert_int_equal(ram_block_discard(other, 0, MIB(4)), 0);
	assert_int_equal(block->host[0], 0);
}

static void what_is_not_such_memory_is_not_adopted(void **state)
{
	struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct ram_backing_options huge = {.backing = RAM_BACKING_HUGETLB, .host_node = -1};
	AUTO_RAM_BLOCK struct ram_block *block = NULL, *private = NULL, *other = NULL;
	char path[64];
	int ends[2];

	assert_no_error(ram_block_create("x", &plain, MIB(4), &block));
	assert_no_error(ram_block_create("y", &anonymous, MIB(4), &private));
	assert_error_with(ram_block_check_shareable(private), "memory 'y' is anonymous");
	assert_no_error(ram_block_check_shareable(block));
	assert_error_with(ram_block_adopt("x", &anonymous, MIB(4), dup(block->fd), &other),
			  "memory 'x' is anonymous");
	assert_error_with(ram_block_adopt("x", &plain, MIB(8), dup(block->fd), &other),
			  "has 4194304 bytes instead of 8388608");
	assert_error_with(ram_block_adopt("x", &huge, MIB(4), dup(block->fd), &other),
			  "has other pages");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", block->fd);
	assert_error_with(ram_block_adopt("x", &plain, MIB(4), open(path, O_RDONLY), &other),
			  "is not memory");
	assert_int_equal(pipe(ends), 0);
	assert_error_with(ram_block_adopt("x", &plain, MIB(4), ends[0], &other), "is not memory");
	assert_int_equal(fcntl(ends[0], F_GETFD), -1); /* taken over */
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(backings_are_named),
	    cmocka_unit_test(blocks_are_aligned_for_large_pages),
	    cmocka_unit_test(a_size_that_is_not_whole_pages_is_refused),
	    cmocka_unit_test(a_full_file_system_refuses_to_commit),
	    cmocka_unit_test(reserved_pages_stay_missing),
	    cmocka_unit_test(a_full_file_system_refuses_to_reserve),
	    cmocka_unit_test(a_dry_pool_of_huge_pages_refuses_to_commit),
	    cmocka_unit_test(a_file_of_another_size_is_refused),
	    cmocka_unit_test(a_file_in_use_is_refused),
	    cmocka_unit_test(adopted_memory_is_the_same),
	    cmocka_unit_test(borrowed_memory_is_not_given_back),
	    cmocka_unit_test(what_is_not_such_memory_is_not_adopted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
