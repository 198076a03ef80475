/* SPDX-License-Identifier: BSD-2-Clause */
/* Channels: all bytes arrive in their order, over whatever; the end, failures and cancelling. */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/channel.h"

#define SIZE (3 << 20) /* more than any kernel buffer takes */

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 31 + i / 256);
}

static struct channel *channel_for(int fd, enum channel_direction direction)
{
	struct channel *channel;

	assert_no_error(channel_open(fd, direction, "it", &channel));
	return channel;
}

/* Reads everything and checks it; returns how many bytes there were. */
static size_t read_all(struct channel *channel)
{
	uint8_t bytes[7001];
	size_t total = 0, got;

	for (;;) {
		assert_no_error(channel_read(channel, bytes, sizeof(bytes), &got));
		if (!got)
			return total;
		for (size_t i = 0; i < got; i++)
			assert_int_equal(bytes[i], byte_at(total + i));
		total += got;
	}
}

static void *write_all(void *context)
{
	struct channel *channel = context;
	uint8_t *bytes = malloc(SIZE);
	struct iovec parts[] = {
	    {bytes, 1}, {bytes + 1, 0}, {bytes + 1, 5000}, {bytes + 5001, SIZE - 5001}};

	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = byte_at(i);
	assert_no_error(channel_write(channel, parts, 4));
	assert_no_error(channel_finish(channel));
	free(bytes);
	return NULL;
}

static void check_transfer(int from, int to)
{
	struct channel *writer = channel_for(to, CHANNEL_WRITE);
	struct channel *reader = channel_for(from, CHANNEL_READ);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_all, writer), 0);
	assert_int_equal(read_all(reader), SIZE);
	pthread_join(thread, NULL);
	assert_no_error(channel_finish(reader));
	channel_close(reader);
	channel_close(writer);
}

static void test_pipe(void **unused)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	check_transfer(ends[0], ends[1]);
}

static void test_socket(void **unused)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	check_transfer(ends[0], ends[1]);
}

static void test_commands(void **unused)
{
	char path[] = "/tmp/godwit-channel-XXXXXX", command[128];
	int fd = mkstemp(path);
	struct channel *channel;

	close(fd);
	snprintf(command, sizeof(command), "cat > %s", path);
	assert_no_error(channel_open_command(command, CHANNEL_WRITE, &channel));
	write_all(channel); /* the command has ended when this returns */
	channel_close(channel);
	snprintf(command, sizeof(command), "cat %s", path);
	assert_no_error(channel_open_command(command, CHANNEL_READ, &channel));
	assert_int_equal(read_all(channel), SIZE);
	assert_no_error(channel_finish(channel));
	channel_close(channel);
	unlink(path);
}

static void test_failing_command(void **unused)
{
	struct channel *channel;
	uint8_t byte;
	size_t got;

	assert_no_error(channel_open_command("exit 3", CHANNEL_READ, &channel));
	assert_no_error(channel_read(channel, &byte, 1, &got));
	assert_int_equal(got, 0);
	assert_error_with(channel_finish(channel), "'exit 3' failed with exit status 3");
	channel_close(channel);

	assert_no_error(
	    channel_open_command("cat >/dev/null; kill -9 $$", CHANNEL_WRITE, &channel));
	assert_error_with(channel_finish(channel), "was ended by signal 9");
	channel_close(channel);
}

static void test_reason_of_a_failure(void **unused)
{
	struct channel *channel;

	assert_no_error(channel_open_command("exit 4", CHANNEL_READ, &channel));
	assert_error_with(channel_explain(channel, error_new(EBADMSG, "it is cut off")),
			  "'exit 4' failed with exit status 4: it is cut off");
	channel_close(channel);
	/* That it cannot write any more is our doing. */
	assert_no_error(channel_open_command("cat /dev/zero", CHANNEL_READ, &channel));
	assert_error_with(channel_explain(channel, error_new(EBADMSG, "it is bad")),
			  "exec:cat /dev/zero: it is bad");
	channel_close(channel);
}

static void test_more_than_the_end(void **unused)
{
	struct channel *channel;

	assert_no_error(channel_open_command("echo more", CHANNEL_READ, &channel));
	assert_error_with(channel_finish(channel), "goes on after its end");
	channel_close(channel);
}

static void test_reader_gone(void **unused)
{
	uint8_t byte = 0;
	struct iovec part = {&byte, 1};
	struct channel *channel;
	struct error *error;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	channel = channel_for(ends[1], CHANNEL_WRITE);
	close(ends[0]);
	error = channel_write(channel, &part, 1);
	assert_non_null(error);
	assert_int_equal(error_code(error), EPIPE);
	error_free(error);
	channel_close(channel);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	channel = channel_for(ends[1], CHANNEL_WRITE);
	close(ends[0]);
	part = (struct iovec){&byte, 1};
	assert_error_with(channel_write(channel, &part, 1), "its reader has gone away");
	channel_close(channel);
}

static void *cancel_soon(void *channel)
{
	usleep(20000);
	channel_cancel(channel);
	return NULL;
}

static void test_cancel_while_it_waits(void **unused)
{
	static uint8_t bytes[4 << 20];
	struct iovec part = {bytes, sizeof(bytes)};
	struct channel *channel;
	struct error *error;
	pthread_t thread;
	size_t got;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	channel = channel_for(ends[0], CHANNEL_READ);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, channel), 0);
	error = channel_read(channel, bytes, 1, &got);
	assert_non_null(error);
	assert_int_equal(error_code(error), ECANCELED);
	error_free(error);
	pthread_join(thread, NULL);
	channel_close(channel);
	close(ends[1]);

	/* A command that never reads, and has to be ended. */
	assert_no_error(channel_open_command("sleep 1000", CHANNEL_WRITE, &channel));
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, channel), 0);
	assert_error_with(channel_write(channel, &part, 1), "cancelled");
	pthread_join(thread, NULL);
	assert_error_with(channel_finish(channel), "still runs");
	channel_close(channel);
}

static void test_cancel_by_a_descriptor(void **unused)
{
	struct channel *channel;
	struct error *error;
	int ends[2], signal_ends[2];
	uint8_t byte;
	size_t got;

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(pipe(signal_ends), 0);
	channel = channel_for(ends[0], CHANNEL_READ);
	channel_cancel_when(channel, signal_ends[0]);
	assert_int_equal(write(ends[1], "xy", 2), 2);
	assert_no_error(channel_read(channel, &byte, 1, &got));
	assert_int_equal(write(signal_ends[1], "x", 1), 1);
	/* Also what is there already is not read any more, and the descriptor's bytes are not ours. */
	error = channel_read(channel, &byte, 1, &got);
	assert_non_null(error);
	assert_int_equal(error_code(error), ECANCELED);
	error_free(error);
	channel_cancel_when(channel, -1);
	assert_no_error(channel_read(channel, &byte, 1, &got));
	assert_int_equal(read(signal_ends[0], &byte, 1), 1);
	channel_close(channel);
	close(ends[1]);
	close(signal_ends[0]);
	close(signal_ends[1]);
}

static void test_refused_descriptors(void **unused)
{
	struct channel *channel;

	assert_error_with(channel_open(-1, CHANNEL_READ, "it", &channel),
			  "it: Bad file descriptor");
	assert_error_with(channel_open(open("/tmp", O_RDONLY), CHANNEL_READ, "it", &channel),
			  "is a folder");
	assert_error_with(channel_open(open("/dev/null", O_WRONLY), CHANNEL_READ, "it", &channel),
			  "is not open for reading");
	assert_error_with(channel_open(open("/dev/null", O_RDONLY), CHANNEL_WRITE, "it", &channel),
			  "is not open for writing");
}

/* What is shared with others is left as it was. */
static void test_descriptor_blocks_again(void **unused)
{
	int ends[2], kept;

	assert_int_equal(pipe(ends), 0);
	kept = dup(ends[1]);
	channel_close(channel_for(ends[1], CHANNEL_WRITE));
	assert_false(fcntl(kept, F_GETFL) & O_NONBLOCK);
	close(kept);
	close(ends[0]);
}

static void test_file_with_more(void **unused)
{
	int fd = memfd_create("more", MFD_CLOEXEC);
	struct channel *channel;
	uint8_t byte;
	size_t got;

	assert_int_equal(pwrite(fd, "ab", 2, 0), 2);
	channel = channel_for(fd, CHANNEL_READ);
	assert_no_error(channel_read(channel, &byte, 1, &got));
	assert_int_equal(got, 1);
	assert_error_with(channel_finish(channel), "goes on after its end");
	channel_close(channel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pipe),
	    cmocka_unit_test(test_socket),
	    cmocka_unit_test(test_commands),
	    cmocka_unit_test(test_failing_command),
	    cmocka_unit_test(test_reason_of_a_failure),
	    cmocka_unit_test(test_more_than_the_end),
	    cmocka_unit_test(test_reader_gone),
	    cmocka_unit_test(test_cancel_while_it_waits),
	    cmocka_unit_test(test_cancel_by_a_descriptor),
	    cmocka_unit_test(test_refused_descriptors),
	    cmocka_unit_test(test_descriptor_blocks_again),
	    cmocka_unit_test(test_file_with_more),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
