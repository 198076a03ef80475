/* SPDX-License-Identifier: BSD-2-Clause */
/* Sessions of a migration: strangers are kept out, and what is not complete comes to an end. */
#include "migration_link_ends.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

static int knock(const struct migration_link *link)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	address.sin_port = htons((uint16_t)atoi(strrchr(migration_link_address(link), ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* What is answered to @hello: a status, or -1 for a connection that is closed without one. */
static int say_hello(int fd, const uint8_t hello[WIRE_HELLO_SIZE])
{
	uint8_t answer[WIRE_ANSWER_SIZE];

	assert_int_equal(send(fd, hello, WIRE_HELLO_SIZE, MSG_NOSIGNAL), WIRE_HELLO_SIZE);
	if (recv(fd, answer, sizeof(answer), MSG_WAITALL) != sizeof(answer))
		return -1;
	return answer[10];
}

static int introduce(int fd, enum wire_channel channel, uint16_t index, uint16_t count,
		     uint8_t session, uint32_t flags)
{
	struct wire_hello hello = {
	    .channel = channel, .index = index, .count = count, .flags = flags};
	uint8_t bytes[WIRE_HELLO_SIZE];

	memset(hello.session, session, sizeof(hello.session));
	wire_put_hello(bytes, &hello);
	return say_hello(fd, bytes);
}

static void test_strangers_are_refused(void **unused)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0"};
	uint8_t bytes[WIRE_HELLO_SIZE] = "GET / HTTP/1.1\r\n";
	int fds[12];
	struct end end;

	listen_at(&end, &options);
	for (int i = 0; i < 12; i++)
		fds[i] = knock(end.link);
	assert_int_equal(say_hello(fds[0], bytes), WIRE_STATUS_MALFORMED);
	/* Nothing but a main connection comes first, and nobody goes on with what was not. */
	assert_int_equal(introduce(fds[1], WIRE_CHANNEL_DATA, 0, 2, 5, 0), WIRE_STATUS_SESSION);
	assert_int_equal(introduce(fds[2], WIRE_CHANNEL_MAIN, 0, 2, 5, WIRE_HELLO_RESUME),
			 WIRE_STATUS_SESSION);
	assert_int_equal(introduce(fds[3], WIRE_CHANNEL_MAIN, 0, 2, 5, 0), WIRE_STATUS_OK);
	assert_int_equal(introduce(fds[4], WIRE_CHANNEL_MAIN, 0, 2, 5, 0), WIRE_STATUS_SESSION);
	assert_int_equal(introduce(fds[5], WIRE_CHANNEL_DATA, 0, 2, 6, 0), WIRE_STATUS_SESSION);
	assert_int_equal(introduce(fds[6], WIRE_CHANNEL_DATA, 0, 3, 5, 0), WIRE_STATUS_CHANNEL);
	assert_int_equal(introduce(fds[7], WIRE_CHANNEL_DATA, 1, 2, 5, 0), WIRE_STATUS_OK);
	assert_int_equal(introduce(fds[8], WIRE_CHANNEL_DATA, 1, 2, 5, 0), WIRE_STATUS_CHANNEL);
	assert_int_equal(introduce(fds[9], WIRE_CHANNEL_POSTCOPY, 0, 2, 5, WIRE_HELLO_POSTCOPY),
			 WIRE_STATUS_CHANNEL);
	assert_int_equal(introduce(fds[10], WIRE_CHANNEL_DATA, 0, 2, 5, 0), WIRE_STATUS_OK);
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	assert_int_equal(migration_link_channels(end.link), 2);
	migration_link_close(end.link);
	for (int i = 0; i < 12; i++)
		close(fds[i]);
}

/* Many that say nothing, or half of something, do not keep a source from coming in. */
static void test_silent_strangers_are_in_nobodys_way(void **unused)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0"};
	struct migration_link *source;
	int fds[60];
	struct pollfd gone;
	struct end end;

	listen_at(&end, &options);
	for (int i = 0; i < 60; i++) {
		fds[i] = knock(end.link);
		assert_int_equal(send(fds[i], "GODWMIGR", 8, 0), 8);
	}
	options.address = migration_link_address(end.link);
	options.channels = 2;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, 2, false);
	gone = (struct pollfd){.fd = fds[0], .events = POLLIN};
	assert_int_equal(poll(&gone, 1, 10000), 1); /* the eldest gave way */
	migration_link_close(source);
	migration_link_close(end.link);
	for (int i = 0; i < 60; i++)
		close(fds[i]);
}

/* A main connection and no other, until @patience is over or @leaves; then a real source comes. */
static void check_half_session(uint32_t patience, bool leaves)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0",
						 .timeout_ms = patience};
	struct end end;
	char byte;
	int fd;

	listen_at(&end, &options);
	fd = knock(end.link);
	assert_int_equal(introduce(fd, WIRE_CHANNEL_MAIN, 0, 2, 5, 0), WIRE_STATUS_OK);
	if (leaves)
		shutdown(fd, SHUT_WR);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
	close(fd);
	check_arrival(&end, &options, migration_link_address(end.link));
}

static void test_source_that_goes_before_all_is_connected(void **unused)
{
	check_half_session(30000, true);
}

static void test_source_that_does_not_connect_all(void **unused)
{
	check_half_session(1500, false);
}

static void test_going_on_with_a_session(void **unused)
{
	uint8_t session[WIRE_SESSION_SIZE], other[WIRE_SESSION_SIZE] = {1};
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0", .resume = session};
	struct migration_link *source;
	char address[64];
	struct end end;

	memset(session, 9, sizeof(session));
	listen_at(&end, &options);
	snprintf(address, sizeof(address), "%s", migration_link_address(end.link));
	options.address = address;
	options.channels = 1;
	options.resume = other;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_error_with(migration_link_connect(source), "another migration");
	migration_link_close(source);
	options.resume = NULL;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_error_with(migration_link_connect(source), "another migration");
	migration_link_close(source);
	options.resume = session;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, 1, false);
	migration_link_close(source);
	migration_link_close(end.link);
}

static void test_another_version(void **unused)
{
	struct migration_link_options options = {.channels = 1};
	uint8_t answer[WIRE_ANSWER_SIZE];
	struct migration_link *source;
	char address[32];
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	snprintf(address, sizeof(address), "fd:%d", ends[0]);
	options.address = address;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	wire_put_answer(answer, WIRE_STATUS_VERSION);
	answer[8] = 7;
	assert_int_equal(write(ends[1], answer, sizeof(answer)), sizeof(answer));
	assert_error_with(migration_link_connect(source), "the destination speaks version 7");
	migration_link_close(source);
	close(ends[1]);
}

static void *cancel_soon(void *context)
{
	usleep(20000);
	migration_link_cancel(context);
	return NULL;
}

static void test_cancelling_while_it_waits(void **unused)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0", .channels = 1};
	struct migration_link *source, *destination;
	struct migration_message message;
	struct pair_ends ends;
	pthread_t thread;

	assert_no_error(migration_link_open(MIGRATION_DESTINATION, &options, &destination));
	options.address = migration_link_address(destination);
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	/* It is connected, by the kernel, and waits for an answer. */
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, source), 0);
	assert_error_with(migration_link_connect(source), "cancelled");
	pthread_join(thread, NULL);
	migration_link_close(source);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, destination), 0);
	assert_error_with(migration_link_accept(destination), "cancelled");
	pthread_join(thread, NULL);
	migration_link_close(destination);
	source = pair_link(MIGRATION_SOURCE, 1, false, &ends);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, source), 0);
	assert_error_with(migration_link_receive(source, &message), "cancelled");
	pthread_join(thread, NULL);
	migration_link_close(source);
	pair_ends_close(&ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_strangers_are_refused),
	    cmocka_unit_test(test_silent_strangers_are_in_nobodys_way),
	    cmocka_unit_test(test_source_that_goes_before_all_is_connected),
	    cmocka_unit_test(test_source_that_does_not_connect_all),
	    cmocka_unit_test(test_going_on_with_a_session),
	    cmocka_unit_test(test_another_version),
	    cmocka_unit_test(test_cancelling_while_it_waits),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
