/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory that comes out of a snapshot file when it is touched, and otherwise by and by. */
#include "ram_snapshot_fixture.h"

/* --- Lazily ------------------------------------------------------------------------------------ */

struct news {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool completed, failed;
};

static void on_completed(void *context)
{
	struct news *news = context;

	pthread_mutex_lock(&news->lock);
	news->completed = true;
	pthread_cond_signal(&news->changed);
	pthread_mutex_unlock(&news->lock);
}

static void on_failed(void *context, struct error *error)
{
	struct news *news = context;

	error_free(error);
	pthread_mutex_lock(&news->lock);
	news->failed = true;
	pthread_cond_signal(&news->changed);
	pthread_mutex_unlock(&news->lock);
}

static const struct ram_lazy_ops lazy_ops = {.completed = on_completed, .failed = on_failed};

static void load_lazily(enum ram_backing backing, bool ask)
{
	struct news news = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
	struct memory from, to;
	struct snapshot_file *file;
	struct ram_lazy_progress progress;
	struct ram_lazy *lazy;

	create_two(&from, &to, backing, &to);
	fill(&from, 4);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 2, NULL);
	assert_null(snapshot_file_open(path, NULL, &file));
	assert_null(ram_load_check(to.map, file));
	assert_null(ram_lazy_create(to.map, file, to.userfault, &lazy_ops, &news, &lazy));
	if (ask)
		check(&to, 4); /* everything comes because it is asked for */
	assert_null(ram_lazy_start(lazy, 2));
	pthread_mutex_lock(&news.lock);
	while (!news.completed && !news.failed)
		pthread_cond_wait(&news.changed, &news.lock);
	pthread_mutex_unlock(&news.lock);
	assert_true(news.completed);
	ram_lazy_progress(lazy, &progress);
	assert_int_equal(progress.done, progress.total);
	ram_lazy_destroy(lazy);
	check(&to, 4);
	snapshot_file_close(file);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_anonymous_memory_comes_when_it_is_touched(void **unused)
{
	load_lazily(RAM_BACKING_ANON, true);
}

static void test_memfd_comes_when_it_is_touched(void **unused)
{
	load_lazily(RAM_BACKING_MEMFD, true);
}

static void test_huge_pages_come_when_they_are_touched(void **unused)
{
	load_lazily(RAM_BACKING_HUGETLB, true);
}

static void test_everything_comes_by_itself(void **unused)
{
	load_lazily(RAM_BACKING_ANON, false);
}

static void test_memory_that_was_given_back_does_not_come_again(void **unused)
{
	struct news news = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
	struct memory from, to;
	struct snapshot_file *file;
	struct ram_lazy *lazy;

	create_two(&from, &to, RAM_BACKING_ANON, &to);
	fill(&from, 4);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 2, NULL);
	assert_null(snapshot_file_open(path, NULL, &file));
	assert_null(ram_lazy_create(to.map, file, to.userfault, &lazy_ops, &news, &lazy));
	/* One page of a chunk, and several chunks. */
	assert_int_equal(ram_block_discard(to.blocks[0], PAGE, PAGE), 0);
	assert_int_equal(ram_block_discard(to.blocks[0], MIB(1), KIB(768)), 0);
	assert_int_equal(memory_region_unplug(to.map, to.elastic, UNIT, UNIT), 0);
	assert_int_equal(to.blocks[0]->host[PAGE], 0);
	assert_int_equal(to.blocks[0]->host[2 * PAGE], pattern(0, 2 * PAGE, 4));
	assert_null(ram_lazy_start(lazy, 2));
	pthread_mutex_lock(&news.lock);
	while (!news.completed && !news.failed)
		pthread_cond_wait(&news.changed, &news.lock);
	pthread_mutex_unlock(&news.lock);
	ram_lazy_destroy(lazy);
	for (uint64_t offset = MIB(1); offset < MIB(1) + KIB(768); offset += PAGE)
		assert_int_equal(to.blocks[0]->host[offset], 0);
	assert_int_equal(ram_block_resident(to.blocks[2]), 0);
	snapshot_file_close(file);
	memory_destroy(&from);
	memory_destroy(&to);
}

/* Bytes that the host has taken for @block, written to or not. */
static uint64_t taken(const struct ram_block *block)
{
	struct stat info;

	if (block->fd < 0)
		return ram_block_resident(block);
	assert_int_equal(fstat(block->fd, &info), 0);
	return (uint64_t)info.st_blocks * 512;
}

/* Pages of zeros are not brought; yet where memory is to be certain none may be missing. */
static void load_certainly(enum ram_backing backing)
{
	struct news news = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
	struct memory from, to;
	struct snapshot_file *file;
	struct ram_lazy *lazy;

	assert_true(memory_create_with(&from, backing, true));
	assert_true(memory_create_with(&to, backing, true));
	if (!open_userfault(&to)) {
		memory_destroy(&from);
		memory_destroy(&to);
		skip();
	}
	fill(&from, 4);
	save(&from, path, SNAPSHOT_DIRECT_OFF, 2, NULL);
	assert_null(snapshot_file_open(path, NULL, &file));
	assert_int_equal(taken(to.blocks[1]), 0);
	assert_null(ram_lazy_create(to.map, file, to.userfault, &lazy_ops, &news, &lazy));
	assert_null(ram_lazy_start(lazy, 2));
	pthread_mutex_lock(&news.lock);
	while (!news.completed && !news.failed)
		pthread_cond_wait(&news.changed, &news.lock);
	pthread_mutex_unlock(&news.lock);
	assert_int_equal(taken(to.blocks[0]), BLOCK_SIZE);
	assert_int_equal(taken(to.blocks[1]), BLOCK_SIZE);
	assert_int_equal(taken(to.blocks[2]), UNIT);
	ram_lazy_destroy(lazy);
	/* What is plugged from here on is taken at once. */
	assert_int_equal(memory_region_plug(to.map, to.elastic, 2 * UNIT, UNIT), 0);
	assert_int_equal(taken(to.blocks[2]), 2 * UNIT);
	check(&to, 4);
	snapshot_file_close(file);
	memory_destroy(&from);
	memory_destroy(&to);
}

static void test_preallocated_memory_is_all_there_in_the_end(void **unused)
{
	load_certainly(RAM_BACKING_ANON);
}

static void test_a_file_on_tmpfs_is_all_there_in_the_end(void **unused)
{
	load_certainly(RAM_BACKING_FILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_anonymous_memory_comes_when_it_is_touched),
	    cmocka_unit_test(test_memfd_comes_when_it_is_touched),
	    cmocka_unit_test(test_huge_pages_come_when_they_are_touched),
	    cmocka_unit_test(test_everything_comes_by_itself),
	    cmocka_unit_test(test_memory_that_was_given_back_does_not_come_again),
	    cmocka_unit_test(test_preallocated_memory_is_all_there_in_the_end),
	    cmocka_unit_test(test_a_file_on_tmpfs_is_all_there_in_the_end),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
