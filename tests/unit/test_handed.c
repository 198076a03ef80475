/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors in JSON, and a disk's file that two processes have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "blk/blk_file.h"
#include "machine/machine_hand.h"
#include "virtio/handed.h"

static int open_null(void)
{
	int fd = open("/dev/null", O_RDWR);

	assert_true(fd > STDERR_FILENO);
	return fd;
}

static void a_descriptor_is_taken_once_and_is_nobody_elses(void **state)
{
	json_t *object = json_object();
	int fd = open_null();

	handed_put(object, "it", fd);
	handed_put(object, "none", -1);
	assert_int_equal(json_object_size(object), 1);
	assert_int_equal(handed_take(object, "it"), fd);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(handed_take(object, "it"), -1);
	close(fd);
	json_decref(object);
}

static void a_list_keeps_its_order(void **state)
{
	int fds[] = {open_null(), open_null(), open_null()}, taken[4];
	json_t *object = json_object();

	handed_put_list(object, "some", fds, 3);
	assert_int_equal(handed_take_list(object, "some", taken, 4), 3);
	assert_memory_equal(fds, taken, sizeof(fds));
	handed_put_list(object, "some", fds, 3);
	assert_int_equal(handed_take_list(object, "some", taken, 2), 2);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	json_decref(object);
}

static void what_is_no_descriptor_is_refused(void **state)
{
	static const char *const texts[] = {
	    "{\"it\": 5}",
	    "{\"it\": {\"fd\": \"5\"}}",
	    "{\"it\": {\"fd\": 1}}",
	    "{\"it\": {\"fd\": -7}}",
	    "{\"it\": {\"fd\": 4294967299}}",
	    "{\"it\": null}",
	    "{\"it\": {\"fd\": 99999}}",
	    "{}",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		json_t *object = json_loads(texts[i], 0, NULL);

		assert_int_equal(handed_take(object, "it"), -1);
		json_decref(object);
	}
}

static bool count(void *context, int fd)
{
	*(int *)context += fd;
	return true;
}

static void all_of_a_document_are_found(void **state)
{
	json_t *document =
	    json_loads("{\"a\": {\"fd\": 1}, \"offloads\": 64, \"devices\": [{\"q\": "
		       "[{\"fd\": 10}, {\"fd\": 100}]}, {}]}",
		       0, NULL);
	int sum = 0;

	assert_true(handed_each(document, count, &sum));
	assert_int_equal(sum, 111);
	json_decref(document);
}

static struct error *read_document(const char *text)
{
	int fd = memfd_create("document", 0);
	json_t *handed = NULL;
	struct error *error;

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	error = machine_hand_read(fd, &handed);
	json_decref(handed);
	return error;
}

static void a_document_of_another_version_is_refused(void **state)
{
	static const char *const texts[] = {
	    "", "{}", "[1]", "{\"version\": 2}", "{\"version\": 1} more", "{\"version\": \"1\"}"};

	assert_null(read_document("{\"version\": 1}"));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct error *error = read_document(texts[i]);

		assert_non_null(error);
		assert_non_null(strstr(error_message(error), "not of version 1"));
		error_free(error);
	}
}

/*
 * --- Disks -------------------------------------------------------------------------------------
 */

static char path[] = "/tmp/handed-XXXXXX";

static int make_file(void **state)
{
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, 65536), 0);
	close(fd);
	return 0;
}

static int remove_file(void **state)
{
	return unlink(path);
}

static bool is_locked(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
	close(fd);
	return lock.l_type != F_UNLCK;
}

static void open_old(struct blk_file *old)
{
	const struct blk_file_options options = {.path = path, .lock = true};

	assert_null(blk_file_open(old, &options));
	blk_file_share(old, true);
}

static void open_new(struct blk_file *new, const struct blk_file *old)
{
	const struct blk_file_options options = {
	    .path = path, .lock = true, .later = true, .handed = true, .handed_fd = dup(old->fd)};

	assert_null(blk_file_open(new, &options));
}

static void a_lock_outlives_who_gives_the_disk_away(void **state)
{
	struct blk_file old, new;

	open_old(&old);
	open_new(&new, &old);
	blk_file_unlock(&old);
	assert_true(is_locked());
	assert_null(blk_file_lock(&new));
	blk_file_close(&old);
	assert_true(is_locked());
	blk_file_share(&new, false);
	blk_file_unlock(&new);
	assert_false(is_locked());
	blk_file_close(&new);
}

static void a_lock_outlives_who_does_not_take_the_disk(void **state)
{
	struct blk_file old, new;

	open_old(&old);
	open_new(&new, &old);
	blk_file_unlock(&old);
	blk_file_close(&new);
	assert_null(blk_file_lock(&old));
	assert_true(is_locked());
	blk_file_share(&old, false);
	blk_file_close(&old);
	assert_false(is_locked());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_descriptor_is_taken_once_and_is_nobody_elses),
	    cmocka_unit_test(a_list_keeps_its_order),
	    cmocka_unit_test(what_is_no_descriptor_is_refused),
	    cmocka_unit_test(all_of_a_document_are_found),
	    cmocka_unit_test(a_document_of_another_version_is_refused),
	    cmocka_unit_test(a_lock_outlives_who_gives_the_disk_away),
	    cmocka_unit_test(a_lock_outlives_who_does_not_take_the_disk),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
