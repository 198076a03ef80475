/* SPDX-License-Identifier: BSD-2-Clause */
/* Character devices: buffering without clients, flow control, clients that come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

#include "base/chardev.h"
#include "base/clock.h"

struct fixture {
	struct event_loop *loop;
	struct event_timer *timer;
	struct chardev *chardev;
	char directory[32], path[64], text[80];
	uint8_t received[2 * CHARDEV_INPUT_SIZE + 4096];
	size_t received_size;
	size_t take_limit; /* of one call of receive */
	unsigned int changes;
};

static size_t receive(void *context, const uint8_t *data, size_t size)
{
	struct fixture *f = context;
	size_t taken = size < f->take_limit ? size : f->take_limit;

	assert_true(f->received_size + taken <= sizeof(f->received));
	memcpy(f->received + f->received_size, data, taken);
	f->received_size += taken;
	return taken;
}

static void changed(void *context)
{
	struct fixture *f = context;

	f->changes++;
}

static const struct chardev_handlers handlers = {.receive = receive, .changed = changed};

static void stop(void *context)
{
	event_loop_stop(context);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->take_limit = SIZE_MAX;
	strcpy(f->directory, "/tmp/chardev-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/x", f->directory);
	assert_null(event_loop_create(&f->loop));
	assert_null(event_timer_create(f->loop, stop, f->loop, &f->timer));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	chardev_destroy(f->chardev);
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

static void create(struct fixture *f, const char *kind)
{
	snprintf(f->text, sizeof(f->text), "%s%s", kind, strchr(kind, ':') ? f->path : "");
	assert_null(chardev_create(f->text, &f->chardev));
	assert_null(chardev_attach(f->chardev, f->loop, &handlers, f));
}

static int connect_client(struct fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void assert_error(const char *text, const char *fragment)
{
	struct chardev *chardev = NULL;
	struct error *error = chardev_create(text, &chardev);

	assert_non_null(error);
	assert_non_null(strstr(error_message(error), fragment));
	error_free(error);
}

static void an_unknown_kind_is_refused_by_name(void **state)
{
	assert_error("serial:/dev/x", "serial:/dev/x");
}

static void a_path_that_is_missing_is_refused(void **state)
{
	assert_error("unix:", "unix:");
}

static void a_file_gets_what_is_written(void **state)
{
	struct fixture *f = *state;
	char buffer[16] = {0};
	int fd;

	create(f, "file:");
	chardev_write(f->chardev, "hello ", 6);
	chardev_write(f->chardev, "guest", 5);
	fd = open(f->path, O_RDONLY);
	assert_int_equal(read(fd, buffer, sizeof(buffer)), 11);
	assert_string_equal(buffer, "hello guest");
	close(fd);
}

static void keep_output(void *context, const void *data, size_t size)
{
	struct fixture *f = context;

	memcpy(f->received + f->received_size, data, size);
	f->received_size += size;
}

static void a_watcher_sees_what_nobody_takes(void **state)
{
	struct fixture *f = *state;
	const struct chardev_watcher watcher = {.output = keep_output, .context = f};

	assert_null(chardev_create("null", &f->chardev));
	chardev_write(f->chardev, "before ", 7);
	chardev_watch_output(f->chardev, &watcher);
	chardev_write(f->chardev, "mean", 4);
	chardev_write(f->chardev, "while", 5);
	chardev_watch_output(f->chardev, NULL);
	chardev_write(f->chardev, " after", 6);
	assert_int_equal(f->received_size, 9);
	assert_memory_equal(f->received, "meanwhile", 9);
}

static void only_the_owner_may_connect(void **state)
{
	struct fixture *f = *state;
	struct stat status;

	create(f, "unix:");
	assert_int_equal(stat(f->path, &status), 0);
	assert_int_equal(status.st_mode & 077, 0);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, f->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	create(f, "unix:");
}

static void a_socket_in_use_is_not_replaced(void **state)
{
	struct fixture *f = *state;

	create(f, "unix:");
	assert_error(f->text, f->path);
}

static void a_file_that_is_no_socket_is_not_replaced(void **state)
{
	struct fixture *f = *state;

	close(open(f->path, O_CREAT | O_WRONLY, 0600));
	snprintf(f->text, sizeof(f->text), "unix:%s", f->path);
	assert_error(f->text, f->path);
	assert_int_equal(access(f->path, F_OK), 0);
}

static void destroying_removes_the_socket(void **state)
{
	struct fixture *f = *state;

	create(f, "unix:");
	chardev_destroy(f->chardev);
	f->chardev = NULL;
	assert_int_not_equal(access(f->path, F_OK), 0);
}

static void a_late_client_gets_what_was_written_before(void **state)
{
	struct fixture *f = *state;
	char buffer[16] = {0};
	int fd;

	create(f, "unix:");
	chardev_write(f->chardev, "early", 5);
	fd = connect_client(f);
	settle(f);
	assert_int_equal(read(fd, buffer, sizeof(buffer)), 5);
	assert_string_equal(buffer, "early");
	close(fd);
}

static void without_a_client_the_last_64_kib_are_kept(void **state)
{
	struct fixture *f = *state;
	uint8_t block[1000], buffer[4096];
	size_t total = 0;
	ssize_t count;
	int fd;

	create(f, "unix:");
	for (int i = 0; i < 100; i++) {
		memset(block, i, sizeof(block));
		chardev_write(f->chardev, block, sizeof(block));
	}
	assert_int_equal(chardev_dropped(f->chardev), 100000 - CHARDEV_OUTPUT_SIZE);
	fd = connect_client(f);
	for (int rounds = 0; rounds < 40; rounds++) {
		settle(f);
		while ((count = read(fd, buffer, sizeof(buffer))) > 0) {
			for (ssize_t i = 0; i < count; i++)
				assert_int_equal(
				    buffer[i],
				    (100000 - CHARDEV_OUTPUT_SIZE + total + (size_t)i) / 1000);
			total += (size_t)count;
		}
	}
	assert_int_equal(total, CHARDEV_OUTPUT_SIZE);
	close(fd);
}

static void a_client_that_does_not_read_does_not_block_the_writer(void **state)
{
	struct fixture *f = *state;
	uint8_t block[4096] = {0};
	int fd;

	create(f, "unix:");
	fd = connect_client(f);
	settle(f);
	for (int i = 0; i < 1000; i++)
		chardev_write(f->chardev, block, sizeof(block));
	assert_true(chardev_dropped(f->chardev) > 0);
	close(fd);
}

static void input_arrives(void **state)
{
	struct fixture *f = *state;
	int fd;

	create(f, "unix:");
	fd = connect_client(f);
	assert_int_equal(write(fd, "abc", 3), 3);
	settle(f);
	assert_int_equal(f->received_size, 3);
	assert_memory_equal(f->received, "abc", 3);
	close(fd);
}

static void what_the_receiver_does_not_take_comes_later(void **state)
{
	struct fixture *f = *state;
	int fd;

	create(f, "unix:");
	f->take_limit = 2;
	fd = connect_client(f);
	assert_int_equal(write(fd, "abcde", 5), 5);
	settle(f);
	assert_int_equal(f->received_size, 2);
	settle(f);
	assert_int_equal(f->received_size, 2);
	chardev_set_receiving(f->chardev, true);
	assert_int_equal(f->received_size, 4);
	chardev_set_receiving(f->chardev, true);
	assert_memory_equal(f->received, "abcde", 5);
	close(fd);
}

static void a_sender_is_stopped_when_nothing_is_received(void **state)
{
	struct fixture *f = *state;
	uint8_t block[4096] = {0};
	size_t sent = 0;
	ssize_t count;
	int fd;

	create(f, "unix:");
	chardev_set_receiving(f->chardev, false);
	fd = connect_client(f);
	for (int i = 0; i < 20; i++) {
		settle(f);
		while ((count = write(fd, block, sizeof(block))) > 0)
			sent += (size_t)count;
		assert_true(sent < 2 << 20);
	}
	assert_int_equal(f->received_size, 0);
	close(fd);
}

static void what_a_client_sent_before_it_left_is_not_lost(void **state)
{
	struct fixture *f = *state;
	uint8_t block[2 * CHARDEV_INPUT_SIZE];
	int fd;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7);
	create(f, "unix:");
	chardev_set_receiving(f->chardev, false);
	fd = connect_client(f);
	settle(f);
	assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	close(fd);
	settle(f);
	chardev_set_receiving(f->chardev, true);
	settle(f);
	assert_int_equal(f->received_size, sizeof(block));
	assert_memory_equal(f->received, block, sizeof(block));
	assert_false(chardev_connected(f->chardev));
}

static void a_second_client_is_served_after_the_first(void **state)
{
	struct fixture *f = *state;
	int first, second;

	create(f, "unix:");
	first = connect_client(f);
	second = connect_client(f);
	assert_int_equal(write(second, "2", 1), 1);
	settle(f);
	assert_int_equal(f->received_size, 0);
	close(first);
	settle(f);
	settle(f);
	assert_int_equal(f->received_size, 1);
	close(second);
	settle(f);
	assert_int_equal(f->changes, 4);
}

static void half_a_close_leaves_the_output(void **state)
{
	struct fixture *f = *state;
	char buffer[8];
	int fd;

	create(f, "unix:");
	fd = connect_client(f);
	shutdown(fd, SHUT_WR);
	settle(f);
	chardev_write(f->chardev, "out", 3);
	assert_int_equal(read(fd, buffer, sizeof(buffer)), 3);
	close(fd);
}

static void a_pseudo_terminal_carries_both_directions(void **state)
{
	struct fixture *f = *state;
	char buffer[8];
	int fd;

	create(f, "pty");
	chardev_write(f->chardev, "a\n", 2);
	fd = open(chardev_name(f->chardev) + strlen("pty:"), O_RDWR | O_NOCTTY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, buffer, sizeof(buffer)), 2);
	assert_memory_equal(buffer, "a\n", 2);
	assert_int_equal(write(fd, "\x01x", 2), 2);
	settle(f);
	assert_int_equal(f->received_size, 2);
	close(fd);
}

static void a_pseudo_terminal_does_not_echo(void **state)
{
	struct fixture *f = *state;

	create(f, "pty");
	chardev_write(f->chardev, "login: ", 7);
	settle(f);
	assert_int_equal(f->received_size, 0);
}

/* Runs @test with standard input and output on a pseudo-terminal, whose other side is *terminal. */
static void with_terminal(struct fixture *f, void (*test)(struct fixture *f, int terminal))
{
	int terminal = posix_openpt(O_RDWR | O_NOCTTY), slave;
	int saved_in = dup(STDIN_FILENO), saved_out = dup(STDOUT_FILENO);

	fflush(stdout);
	assert_int_equal(grantpt(terminal) | unlockpt(terminal), 0);
	slave = open(ptsname(terminal), O_RDWR | O_NOCTTY);
	dup2(slave, STDIN_FILENO);
	dup2(slave, STDOUT_FILENO);
	create(f, "tty");
	test(f, terminal);
	chardev_destroy(f->chardev);
	f->chardev = NULL;
	dup2(saved_in, STDIN_FILENO);
	dup2(saved_out, STDOUT_FILENO);
	close(saved_in);
	close(saved_out);
	close(slave);
	close(terminal);
}

static void escape(void *context)
{
	struct fixture *f = context;

	f->changes += 100;
}

/* The terminal is not ours, so it is not in raw mode: input is given by the line. */
static void type_escapes(struct fixture *f, int terminal)
{
	static const char keys[] = "a\x01\x01"
				   "b\x01"
				   "c\x01xd\n";

	chardev_set_escape_handler(f->chardev, escape, f);
	if (write(terminal, keys, sizeof(keys) - 1) < 0)
		fail();
	settle(f);
}

static void the_escape_key_is_told_from_input(void **state)
{
	struct fixture *f = *state;

	with_terminal(f, type_escapes);
	assert_int_equal(f->changes, 100);
	assert_int_equal(f->received_size, 7);
	assert_memory_equal(f->received,
			    "a\x01"
			    "b\x01"
			    "cd\n",
			    7);
}

static void check_flags(struct fixture *f, int terminal)
{
	f->changes = fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK ? 1 : 0;
}

static void the_shells_terminal_is_not_made_non_blocking(void **state)
{
	struct fixture *f = *state;

	with_terminal(f, check_flags);
	assert_int_equal(f->changes, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(an_unknown_kind_is_refused_by_name),
	    TEST(a_path_that_is_missing_is_refused),
	    TEST(a_file_gets_what_is_written),
	    TEST(a_watcher_sees_what_nobody_takes),
	    TEST(only_the_owner_may_connect),
	    TEST(a_stale_socket_is_replaced),
	    TEST(a_socket_in_use_is_not_replaced),
	    TEST(a_file_that_is_no_socket_is_not_replaced),
	    TEST(destroying_removes_the_socket),
	    TEST(a_late_client_gets_what_was_written_before),
	    TEST(without_a_client_the_last_64_kib_are_kept),
	    TEST(a_client_that_does_not_read_does_not_block_the_writer),
	    TEST(input_arrives),
	    TEST(what_the_receiver_does_not_take_comes_later),
	    TEST(a_sender_is_stopped_when_nothing_is_received),
	    TEST(what_a_client_sent_before_it_left_is_not_lost),
	    TEST(a_second_client_is_served_after_the_first),
	    TEST(half_a_close_leaves_the_output),
	    TEST(a_pseudo_terminal_carries_both_directions),
	    TEST(a_pseudo_terminal_does_not_echo),
	    TEST(the_escape_key_is_told_from_input),
	    TEST(the_shells_terminal_is_not_made_non_blocking),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
