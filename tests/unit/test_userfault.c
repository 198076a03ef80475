/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages that are missing or protected, on every backing that userfaultfd serves. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "memory/userfault.h"

#define PAGES 8

struct fixture {
	struct userfault *userfault;
	struct ram_block *block;
	struct userfault_watcher watcher;
	uint8_t *source; /* what a missing page becomes; NULL: not claimed */
	bool claim_writes;
	uint32_t missing[PAGES], written[PAGES];
	uint8_t before[PAGES]; /* first byte of a protected page when it was about to be written */
};

static bool on_missing(void *context, struct ram_block *block, uint64_t offset)
{
	struct fixture *f = context;

	__atomic_fetch_add(&f->missing[offset / block->page_size], 1, __ATOMIC_SEQ_CST);
	if (!f->source)
		return false;
	memset(f->source, (int)(offset / block->page_size) + 1, block->page_size);
	return userfault_copy(f->userfault, block, offset, f->source, block->page_size) == 0;
}

static bool on_written(void *context, struct ram_block *block, uint64_t offset)
{
	struct fixture *f = context;
	uint64_t page = offset / block->page_size;

	f->before[page] = block->host[offset];
	__atomic_fetch_add(&f->written[page], 1, __ATOMIC_SEQ_CST);
	return f->claim_writes &&
	       userfault_unprotect(f->userfault, block, offset, block->page_size) == 0;
}

static const struct userfault_ops ops = {.missing = on_missing, .written = on_written};

static void stop(struct fixture *f)
{
	if (f->watcher.ops)
		userfault_unwatch(f->userfault, f->block, &f->watcher);
	userfault_destroy(f->userfault);
	ram_block_destroy(f->block);
	free(f->source);
}

static void start(struct fixture *f, enum ram_backing backing, uint64_t page_size)
{
	struct ram_backing_options options = {
	    .backing = backing, .page_size = page_size, .host_node = -1};
	struct error *error = userfault_create(2, &f->userfault);

	if (error) { /* no privilege for it here */
		error_free(error);
		skip();
	}
	page_size = ram_backing_page_size(&options);
	assert_null(ram_block_create("test", &options, PAGES * page_size, &f->block));
	/* A pool without pages would end the test with a signal. */
	if (backing == RAM_BACKING_HUGETLB &&
	    ram_block_commit(f->block, 0, PAGES * page_size) != 0) {
		stop(f);
		skip();
	}
	if (backing == RAM_BACKING_HUGETLB)
		assert_int_equal(ram_block_discard(f->block, 0, PAGES * page_size), 0);
	f->watcher = (struct userfault_watcher){.ops = &ops, .context = f};
	f->source = malloc(page_size);
}

static void check_missing(enum ram_backing backing, uint64_t page_size)
{
	struct fixture f = {0};

	start(&f, backing, page_size);
	page_size = f.block->page_size;
	f.block->host[2 * page_size] = 77;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(f.block->host[2 * page_size], 77); /* was there before */
	assert_int_equal(f.missing[2], 0);
	assert_int_equal(f.block->host[5 * page_size + 100], 6); /* a read brings it */
	f.block->host[6 * page_size] = 1;			 /* and so does a write */
	assert_int_equal(f.block->host[6 * page_size + 1], 7);
	assert_int_equal(f.missing[5], 1);
	assert_int_equal(f.missing[6], 1);
	free(f.source);
	f.source = NULL;
	assert_int_equal(f.block->host[7 * page_size], 0); /* nobody's: zeros */
	stop(&f);
}

static void check_written(enum ram_backing backing, uint64_t page_size)
{
	struct fixture f = {.claim_writes = true};

	start(&f, backing, page_size);
	page_size = f.block->page_size;
	free(f.source);
	f.source = NULL;
	for (uint32_t i = 0; i < 4; i++)
		f.block->host[i * page_size] = 10;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(userfault_protect(f.userfault, f.block, 0, f.block->size), 0);
	assert_int_equal(f.block->host[page_size], 10); /* reads are free */
	assert_int_equal(f.written[1], 0);
	f.block->host[page_size] = 20;
	assert_int_equal(f.before[1], 10);
	f.block->host[page_size] = 30;
	assert_int_equal(f.written[1], 1); /* the second write is free as well */
	f.claim_writes = false;
	f.block->host[2 * page_size] = 40; /* nobody's: it may be written */
	assert_int_equal(f.block->host[2 * page_size], 40);
	f.block->host[6 * page_size] = 50; /* was never there: missing, not protected */
	assert_int_equal(f.missing[6], 1);
	assert_int_equal(f.written[6], 0);
	userfault_unwatch(f.userfault, f.block, &f.watcher);
	f.block->host[3 * page_size] = 60; /* protected once, but nobody watches */
	assert_int_equal(f.written[3], 0);
	stop(&f);
}

#define DEFINE_BACKING_TESTS(name, backing, page)                                                  \
	static void test_missing_pages_of_##name##_come_from_the_watcher(void **unused)            \
	{                                                                                          \
		check_missing(backing, page);                                                      \
	}                                                                                          \
	static void test_writes_to_protected_pages_of_##name##_are_noticed(void **unused)          \
	{                                                                                          \
		check_written(backing, page);                                                      \
	}

DEFINE_BACKING_TESTS(anonymous_memory, RAM_BACKING_ANON, 0)
DEFINE_BACKING_TESTS(memfd, RAM_BACKING_MEMFD, 0)
DEFINE_BACKING_TESTS(huge_pages, RAM_BACKING_HUGETLB, MIB(2))

static void test_the_kernels_own_accesses_wait_as_well(void **unused)
{
	struct fixture f = {0};
	int pipes[2];
	uint8_t byte;

	start(&f, RAM_BACKING_MEMFD, 0);
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(write(pipes[1], f.block->host + 3 * f.block->page_size, 1), 1);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	assert_int_equal(byte, 4);
	close(pipes[0]);
	close(pipes[1]);
	stop(&f);
}

static void test_copying_over_present_pages_leaves_them(void **unused)
{
	struct fixture f = {0};
	uint8_t *bytes = malloc(KIB(16));

	start(&f, RAM_BACKING_MEMFD, 0);
	memset(bytes, 9, KIB(16));
	f.block->host[KIB(4)] = 1;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(userfault_copy(f.userfault, f.block, 0, bytes, KIB(16)), 0);
	assert_int_equal(f.block->host[0], 9);
	assert_int_equal(f.block->host[KIB(4)], 1);
	assert_int_equal(f.block->host[KIB(8)], 9);
	assert_int_equal(f.block->host[KIB(12)], 9);
	assert_int_equal(userfault_zero(f.userfault, f.block, 0, KIB(32)), 0);
	assert_int_equal(f.block->host[0], 9);
	assert_int_equal(f.block->host[KIB(28)], 0);
	assert_int_equal(f.missing[7], 0);
	free(bytes);
	stop(&f);
}

static void test_two_watchers_share_a_block(void **unused)
{
	struct fixture f = {0};
	struct fixture second = {.claim_writes = true};

	start(&f, RAM_BACKING_MEMFD, 0);
	second.userfault = f.userfault;
	second.block = f.block;
	second.watcher = (struct userfault_watcher){.ops = &ops, .context = &second};
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_null(userfault_watch(f.userfault, f.block, &second.watcher));
	assert_int_equal(f.block->host[0], 1); /* the first brings it */
	assert_int_equal(second.missing[0], 0);
	assert_int_equal(userfault_protect(f.userfault, f.block, 0, f.block->size), 0);
	f.block->host[0] = 2;
	assert_int_equal(second.written[0], 1); /* the second wants the write */
	userfault_unwatch(f.userfault, f.block, &second.watcher);
	assert_int_equal(f.block->host[KIB(4)], 2); /* the first still watches */
	stop(&f);
}

static void test_what_a_watcher_leaves_missing_reads_as_zeros(void **unused)
{
	struct fixture f = {0};

	start(&f, RAM_BACKING_MEMFD, 0);
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	userfault_unwatch(f.userfault, f.block, &f.watcher);
	assert_int_equal(f.block->host[0], 0);
	assert_int_equal(f.missing[0], 0);
	stop(&f);
}

static void test_discarded_pages_are_missing_again(void **unused)
{
	struct fixture f = {0};

	start(&f, RAM_BACKING_ANON, 0);
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(f.block->host[0], 1);
	assert_int_equal(ram_block_discard(f.block, 0, KIB(4)), 0);
	assert_int_equal(f.block->host[0], 1);
	assert_int_equal(f.missing[0], 2);
	stop(&f);
}

static void test_a_file_on_a_disk_is_refused(void **unused)
{
	char path[] = "/var/tmp/godwit-test-XXXXXX";
	struct ram_backing_options options = {
	    .backing = RAM_BACKING_FILE, .path = path, .host_node = -1};
	AUTO_ERROR struct error *error = NULL;
	struct ram_block *block;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	if (ram_block_create("test", &options, KIB(16), &block)) {
		unlink(path);
		skip();
	}
	error = userfault_supports(block);
	ram_block_destroy(block);
	unlink(path);
	if (!error) /* /var/tmp is a tmpfs here */
		skip();
	assert_non_null(strstr(error_message(error), "file on a disk"));
}

/* What must be missing and is not stays as it is, and is told; userfault_copy goes on behind it. */
static void test_fill_says_what_is_there_already(void **unused)
{
	struct fixture f = {0};
	uint8_t *content;
	uint64_t page;

	start(&f, RAM_BACKING_MEMFD, 0);
	page = f.block->page_size;
	content = malloc(PAGES * page);
	memset(content, 9, PAGES * page);
	f.block->host[2 * page] = 77;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	assert_int_equal(userfault_fill(f.userfault, f.block, 0, content, 4 * page), -EEXIST);
	assert_int_equal(userfault_fill(f.userfault, f.block, 2 * page, NULL, page), -EEXIST);
	assert_int_equal(f.block->host[page], 9);
	assert_int_equal(f.block->host[2 * page], 77);
	assert_int_equal(userfault_fill(f.userfault, f.block, 3 * page, NULL, page), 0);
	assert_int_equal(f.block->host[3 * page], 0);
	assert_int_equal(userfault_copy(f.userfault, f.block, 0, content, 5 * page), 0);
	assert_int_equal(f.block->host[2 * page], 77);
	assert_int_equal(f.block->host[4 * page], 9);
	assert_int_equal(f.missing[1] + f.missing[2] + f.missing[3] + f.missing[4], 0);
	free(content);
	stop(&f);
}

/* --- Another process's mapping, which here is one more of this process's ----------------------- */

struct other {
	uint8_t *alias;
	struct userfault_remote *remote;
};

static void share(struct fixture *f, struct other *other)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct userfault_mapping mapping = {.size = f->block->size, .block = f->block};

	assert_true(fd >= 0 && !ioctl(fd, UFFDIO_API, &api));
	other->alias =
	    mmap(NULL, f->block->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->block->fd, 0);
	assert_ptr_not_equal(other->alias, MAP_FAILED);
	range.range = (struct uffdio_range){(uintptr_t)other->alias, f->block->size};
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
	mapping.address = (uintptr_t)other->alias;
	assert_null(userfault_remote_create(f->userfault, fd, &other->remote));
	assert_null(userfault_remote_map(other->remote, &mapping, 1));
}

static void part(struct fixture *f, struct other *other)
{
	munmap(other->alias, f->block->size);
	userfault_remote_destroy(other->remote);
	stop(f);
}

static void check_remote(enum ram_backing backing)
{
	struct fixture f = {0};
	struct other other;
	uint64_t page;

	start(&f, backing, 0);
	page = f.block->page_size;
	f.block->host[page] = 77;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	share(&f, &other);
	assert_int_equal(other.alias[page], 77); /* was there before */
	assert_int_equal(other.alias[2 * page + 100], 3);
	other.alias[3 * page] = 1;
	assert_int_equal(f.block->host[3 * page + 1], 4); /* and is the same here */
	assert_int_equal(f.missing[1], 0);
	assert_int_equal(f.missing[2] + f.missing[3], 2);
	free(f.source);
	f.source = NULL;
	assert_int_equal(other.alias[4 * page], 0); /* nobody's: zeros */
	userfault_unwatch(f.userfault, f.block, &f.watcher);
	assert_int_equal(other.alias[5 * page], 0); /* nobody watches */
	other.alias[6 * page] = 1;
	assert_int_equal(f.block->host[6 * page], 1);
	part(&f, &other);
}

static void test_other_processes_wait_for_small_pages(void **unused)
{
	check_remote(RAM_BACKING_MEMFD);
}

static void test_other_processes_wait_for_huge_pages(void **unused)
{
	check_remote(RAM_BACKING_HUGETLB);
}

static bool claim(void *context, struct ram_block *block, uint64_t offset)
{
	struct fixture *f = context;

	__atomic_fetch_add(&f->missing[offset / block->page_size], 1, __ATOMIC_SEQ_CST);
	return true;
}

static void *touch(void *context)
{
	return (void *)(uintptr_t) * (uint8_t *)context;
}

static void test_who_waits_elsewhere_goes_on_when_the_page_has_come(void **unused)
{
	static const struct userfault_ops claims = {.missing = claim, .written = on_written};
	struct fixture f = {0};
	struct other other;
	pthread_t thread;
	void *seen;

	start(&f, RAM_BACKING_MEMFD, 0);
	f.watcher.ops = &claims;
	assert_null(userfault_watch(f.userfault, f.block, &f.watcher));
	share(&f, &other);
	assert_int_equal(pthread_create(&thread, NULL, touch, other.alias + KIB(8)), 0);
	for (int i = 0; !__atomic_load_n(&f.missing[2], __ATOMIC_SEQ_CST); i++) {
		assert_true(i < 60000);
		usleep(1000);
	}
	memset(f.source, 9, KIB(4));
	assert_int_equal(userfault_fill(f.userfault, f.block, KIB(8), f.source, KIB(4)), 0);
	assert_int_equal(pthread_join(thread, &seen), 0);
	assert_int_equal((uintptr_t)seen, 9);
	part(&f, &other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fill_says_what_is_there_already),
	    cmocka_unit_test(test_other_processes_wait_for_small_pages),
	    cmocka_unit_test(test_other_processes_wait_for_huge_pages),
	    cmocka_unit_test(test_who_waits_elsewhere_goes_on_when_the_page_has_come),
	    cmocka_unit_test(test_missing_pages_of_anonymous_memory_come_from_the_watcher),
	    cmocka_unit_test(test_missing_pages_of_memfd_come_from_the_watcher),
	    cmocka_unit_test(test_missing_pages_of_huge_pages_come_from_the_watcher),
	    cmocka_unit_test(test_writes_to_protected_pages_of_anonymous_memory_are_noticed),
	    cmocka_unit_test(test_writes_to_protected_pages_of_memfd_are_noticed),
	    cmocka_unit_test(test_writes_to_protected_pages_of_huge_pages_are_noticed),
	    cmocka_unit_test(test_the_kernels_own_accesses_wait_as_well),
	    cmocka_unit_test(test_copying_over_present_pages_leaves_them),
	    cmocka_unit_test(test_two_watchers_share_a_block),
	    cmocka_unit_test(test_what_a_watcher_leaves_missing_reads_as_zeros),
	    cmocka_unit_test(test_discarded_pages_are_missing_again),
	    cmocka_unit_test(test_a_file_on_a_disk_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
