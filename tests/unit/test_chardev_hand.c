/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices that go on in another process: here both are in one, with descriptors of their
 * own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/chardev.h"
#include "base/clock.h"

struct side {
	struct chardev *chardev;
	char received[4096];
	size_t size;
};

struct fixture {
	struct event_loop *loop;
	struct event_timer *timer;
	struct side old, new;
	char directory[32], text[80];
	const char *path;
	int client;
};

static size_t receive(void *context, const uint8_t *data, size_t size)
{
	struct side *side = context;

	assert_true(side->size + size < sizeof(side->received));
	memcpy(side->received + side->size, data, size);
	side->size += size;
	return size;
}

static const struct chardev_handlers handlers = {.receive = receive};

static void stop(void *context)
{
	event_loop_stop(context);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->directory, "/tmp/chardev-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->text, sizeof(f->text), "unix:%s/x", f->directory);
	f->path = f->text + strlen("unix:");
	f->client = -1;
	assert_null(event_loop_create(&f->loop));
	assert_null(event_timer_create(f->loop, stop, f->loop, &f->timer));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_fd(&f->client);
	chardev_destroy(f->old.chardev);
	chardev_destroy(f->new.chardev);
	event_loop_destroy(f->loop);
	unlink(f->path);
	rmdir(f->directory);
	free(f);
	return 0;
}

/* Lets the loop do what there is to do. */
static void settle(struct fixture *f)
{
	event_timer_arm(f->timer, 10 * NS_PER_MS);
	event_loop_run(f->loop);
}

static void begin(struct fixture *f, const char *text)
{
	assert_null(chardev_create(text, &f->old.chardev));
	assert_null(chardev_attach(f->old.chardev, f->loop, &handlers, &f->old));
}

static void connect_client(struct fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	f->client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(f->client, (struct sockaddr *)&address, sizeof(address)), 0);
	settle(f);
}

static int copy(int fd)
{
	return fd < 0 ? -1 : dup(fd);
}

/* What the new process inherits. */
static void share(struct fixture *f, const char *text)
{
	struct chardev_descriptors descriptors;
	int in;

	assert_null(chardev_share(f->old.chardev, &descriptors));
	in = descriptors.in;
	descriptors.in = copy(in);
	descriptors.out = descriptors.out == in ? descriptors.in : copy(descriptors.out);
	descriptors.listen = copy(descriptors.listen);
	descriptors.slave = copy(descriptors.slave);
	descriptors.kept = copy(descriptors.kept);
	assert_null(chardev_adopt(text, &descriptors, &f->new.chardev));
	assert_null(chardev_attach(f->new.chardev, f->loop, &handlers, &f->new));
}

static void save(struct fixture *f)
{
	AUTO_STATE struct state *state = state_save_begin(false);

	chardev_state(f->old.chardev, state);
	assert_null(state_finish(state));
}

static void hand_over(struct fixture *f)
{
	chardev_release(f->old.chardev);
	assert_null(chardev_take_over(f->new.chardev));
	chardev_unshare(f->new.chardev);
	chardev_destroy(f->old.chardev);
	f->old.chardev = NULL;
}

static void say(struct fixture *f, const char *text)
{
	assert_int_equal(write(f->client, text, strlen(text)), strlen(text));
	settle(f);
}

static void check_heard(struct fixture *f, const char *text)
{
	char bytes[256] = "";
	ssize_t size = read(f->client, bytes, sizeof(bytes) - 1);

	assert_int_equal(size, strlen(text));
	assert_string_equal(bytes, text);
}

static void check_received(const struct side *side, const char *text)
{
	assert_int_equal(side->size, strlen(text));
	assert_memory_equal(side->received, text, strlen(text));
}

static void a_client_stays_connected(void **state)
{
	struct fixture *f = *state;

	begin(f, f->text);
	connect_client(f);
	share(f, f->text);
	hand_over(f);
	chardev_write(f->new.chardev, "out", 3);
	say(f, "in");
	check_heard(f, "out");
	check_received(&f->new, "in");
	assert_int_equal(access(f->path, F_OK), 0);
	chardev_destroy(f->new.chardev);
	f->new.chardev = NULL;
	assert_int_not_equal(access(f->path, F_OK), 0);
}

static void who_comes_meanwhile_is_the_new_process_s_client(void **state)
{
	struct fixture *f = *state;

	begin(f, f->text);
	share(f, f->text);
	connect_client(f);
	say(f, "hello");
	check_received(&f->old, "");
	hand_over(f);
	settle(f);
	check_received(&f->new, "hello");
}

static void output_that_nobody_took_goes_along(void **state)
{
	struct fixture *f = *state;

	begin(f, f->text);
	chardev_write(f->old.chardev, "early ", 6);
	share(f, f->text);
	chardev_write(f->old.chardev, "late", 4);
	hand_over(f);
	connect_client(f);
	check_heard(f, "early late");
}

static void nothing_is_read_by_who_has_not_the_device(void **state)
{
	struct fixture *f = *state;

	begin(f, f->text);
	connect_client(f);
	share(f, f->text);
	say(f, "a");
	check_received(&f->old, "a");
	save(f);
	say(f, "b");
	check_received(&f->old, "a");
	check_received(&f->new, "");
	hand_over(f);
	settle(f);
	check_received(&f->new, "b");
}

static void it_is_taken_back(void **state)
{
	struct fixture *f = *state;

	begin(f, f->text);
	share(f, f->text);
	save(f);
	chardev_release(f->old.chardev);
	chardev_destroy(f->new.chardev);
	f->new.chardev = NULL;
	assert_null(chardev_take_over(f->old.chardev));
	chardev_unshare(f->old.chardev);
	connect_client(f);
	chardev_write(f->old.chardev, "out", 3);
	say(f, "in");
	check_heard(f, "out");
	check_received(&f->old, "in");
}

static void a_pseudo_terminal_goes_along(void **state)
{
	struct fixture *f = *state;
	char name[80];

	begin(f, "pty");
	snprintf(name, sizeof(name), "%s", chardev_name(f->old.chardev));
	f->client = open(name + strlen("pty:"), O_RDWR | O_NOCTTY | O_NONBLOCK);
	assert_true(f->client >= 0);
	share(f, "pty");
	assert_string_equal(chardev_name(f->new.chardev), name);
	hand_over(f);
	chardev_write(f->new.chardev, "out", 3);
	say(f, "in");
	check_heard(f, "out");
	check_received(&f->new, "in");
}

static void what_has_not_come_along_is_refused(void **state)
{
	static const char *const texts[] = {"unix:/tmp/x", "file:/tmp/x", "pty", "tty"};
	const struct chardev_descriptors none = {-1, -1, -1, -1, -1};
	struct chardev *chardev;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct error *error = chardev_adopt(texts[i], &none, &chardev);

		assert_non_null(error);
		assert_non_null(strstr(error_message(error), "has not come along"));
		error_free(error);
	}
	assert_null(chardev_adopt("null", &none, &chardev));
	chardev_destroy(chardev);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_client_stays_connected),
	    TEST(who_comes_meanwhile_is_the_new_process_s_client),
	    TEST(output_that_nobody_took_goes_along),
	    TEST(nothing_is_read_by_who_has_not_the_device),
	    TEST(it_is_taken_back),
	    TEST(a_pseudo_terminal_goes_along),
	    TEST(what_has_not_come_along_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
