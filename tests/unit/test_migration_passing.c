/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors that go along with what a transport sends. */
#include "migration_pair.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Two ends of a UNIX socket; what one attaches goes with its next bytes. */
static void passing_pair(struct transport *ends[2])
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	for (int i = 0; i < 2; i++)
		assert_no_error(transport_adopt(fds[i], "pair", &ends[i]));
}

static void send_byte(struct transport *transport, char byte)
{
	assert_no_error(transport_send(transport, &(struct iovec){&byte, 1}, 1));
}

static char receive_byte(struct transport *transport)
{
	size_t got;
	char byte;

	assert_no_error(transport_receive(transport, &(struct iovec){&byte, 1}, 1, 1, &got));
	assert_int_equal(got, 1);
	return byte;
}

static void test_descriptors_go_along(void **unused)
{
	int files[2] = {memfd_create("a", 0), memfd_create("b", 0)}, taken[TRANSPORT_PASSED_MAX];
	struct transport *ends[2];
	struct stat sent, come;

	passing_pair(ends);
	transport_expect(ends[1]);
	send_byte(ends[0], 'x');
	assert_no_error(transport_attach(ends[0], files, 2));
	send_byte(ends[0], 'y');
	send_byte(ends[0], 'z');
	assert_int_equal(receive_byte(ends[1]), 'x');
	assert_int_equal(transport_take(ends[1], taken), 0);
	assert_int_equal(receive_byte(ends[1]), 'y');
	assert_int_equal(receive_byte(ends[1]), 'z');
	assert_int_equal(transport_take(ends[1], taken), 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fstat(files[i], &sent), 0);
		assert_int_equal(fstat(taken[i], &come), 0);
		assert_int_equal(sent.st_ino, come.st_ino);
		assert_true(fcntl(taken[i], F_GETFD) & FD_CLOEXEC);
		close(files[i]);
		close(taken[i]);
	}
	assert_int_equal(transport_take(ends[1], taken), 0);
	transport_close(ends[0]);
	transport_close(ends[1]);
}

/* Whether somebody else has @fd's pipe open for writing. */
static bool is_open_elsewhere(int fd)
{
	struct pollfd poll_fd = {.fd = fd};

	assert_true(poll(&poll_fd, 1, 0) >= 0);
	return !(poll_fd.revents & POLLHUP);
}

/* A peer must not fill this process with descriptors. */
static void test_descriptors_that_nobody_takes_are_closed(void **unused)
{
	struct transport *ends[2];
	int ends_of_pipe[2];

	for (int expects = 0; expects < 2; expects++) {
		assert_int_equal(pipe(ends_of_pipe), 0);
		passing_pair(ends);
		if (expects)
			transport_expect(ends[1]);
		assert_no_error(transport_attach(ends[0], &ends_of_pipe[1], 1));
		send_byte(ends[0], 'x');
		close(ends_of_pipe[1]);
		assert_true(is_open_elsewhere(ends_of_pipe[0])); /* on its way */
		receive_byte(ends[1]);
		assert_int_equal(is_open_elsewhere(ends_of_pipe[0]), expects);
		transport_close(ends[1]);
		assert_false(is_open_elsewhere(ends_of_pipe[0]));
		transport_close(ends[0]);
		close(ends_of_pipe[0]);
	}
}

static void test_too_many_descriptors_end_the_connection(void **unused)
{
	struct transport *ends[2];
	int files[100], ends_of_pipe[2];
	struct iovec part;
	size_t got;
	char byte;

	assert_int_equal(pipe(ends_of_pipe), 0);
	for (size_t i = 0; i < 100; i++)
		files[i] = ends_of_pipe[1];
	passing_pair(ends);
	transport_expect(ends[1]);
	for (int i = 0; i < 2; i++) {
		assert_no_error(transport_attach(ends[0], files, 100));
		send_byte(ends[0], 'x');
	}
	close(ends_of_pipe[1]);
	receive_byte(ends[1]);
	part = (struct iovec){&byte, 1};
	assert_error_with(transport_receive(ends[1], &part, 1, 1, &got),
			  "more than 128 descriptors have come along");
	transport_close(ends[0]);
	transport_close(ends[1]);
	assert_false(is_open_elsewhere(ends_of_pipe[0]));
	close(ends_of_pipe[0]);
}

static void test_descriptors_go_nowhere_but_over_unix_sockets(void **unused)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t size = sizeof(address);
	struct transport *transport;
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_no_error(transport_adopt(fd, "tcp", &transport));
	assert_error_with(transport_attach(transport, &listener, 1),
			  "tcp: descriptors go along with UNIX sockets without TLS only");
	transport_close(transport);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_descriptors_go_along),
	    cmocka_unit_test(test_descriptors_that_nobody_takes_are_closed),
	    cmocka_unit_test(test_too_many_descriptors_end_the_connection),
	    cmocka_unit_test(test_descriptors_go_nowhere_but_over_unix_sockets),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
