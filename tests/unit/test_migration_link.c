/* SPDX-License-Identifier: BSD-2-Clause */
/* The connections of a migration: over every kind of transport, and what is said on them. */
#include "migration_link_ends.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

static void test_tcp(void **unused)
{
	check_addresses("tcp:127.0.0.1:0", NULL, 4, false, NULL);
	check_addresses("tcp:127.0.0.1:0", NULL, 1, true, NULL);
	check_addresses("tcp:127.0.0.1:0", NULL, 64, true, NULL);
}

static void test_tcp_version_6(void **unused)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	AUTO_CLOSE int fd = socket(AF_INET6, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		skip(); /* this machine has none */
	check_addresses("tcp:[::1]:0", NULL, 2, false, NULL);
}

static void test_tcp_at_every_address(void **unused)
{
	struct migration_link_options options = {.address = "tcp::0"};
	char address[64];
	struct end end;

	listen_at(&end, &options);
	snprintf(address, sizeof(address), "tcp:127.0.0.1%s",
		 strrchr(migration_link_address(end.link), ':'));
	check_arrival(&end, &options, address);
}

static void test_unix(void **unused)
{
	check_addresses(socket_address(), NULL, 3, true, NULL);
	assert_int_equal(access(socket_address() + 5, F_OK), -1); /* it is gone again */
}

static void test_stale_socket_is_replaced(void **unused)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, socket_address() + 5);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	check_addresses(socket_address(), NULL, 1, false, NULL);
}

static void test_vsock(void **unused)
{
	struct sockaddr_vm address = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = 41833};
	AUTO_CLOSE int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	AUTO_CLOSE int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		skip(); /* this kernel has no vsock that leads back to itself */
	check_addresses("vsock:1:41834", "vsock:1:41834", 2, true, NULL);
	check_addresses("vsock::41835", "vsock:1:41835", 1, false, NULL);
}

static void test_descriptors(void **unused)
{
	char source[128] = "fd:", destination[128] = "fd:";
	int ends[2];

	for (int i = 0; i < 4; i++) {
		size_t here = strlen(source), there = strlen(destination);

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
		snprintf(source + here, sizeof(source) - here, i ? "+fd:%d" : "%d", ends[0]);
		snprintf(destination + there, sizeof(destination) - there, i ? "+fd:%d" : "%d",
			 ends[1]);
	}
	check_addresses(destination, source, 2, true, NULL);
}

static void test_too_few_descriptors(void **unused)
{
	struct migration_link_options options = {.channels = 2};
	uint8_t answer[WIRE_ANSWER_SIZE];
	struct migration_link *link;
	char address[32];
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	snprintf(address, sizeof(address), "fd:%d", ends[0]);
	options.address = address;
	options.timeout_ms = 5000;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &link));
	wire_put_answer(answer, WIRE_STATUS_OK);
	assert_int_equal(write(ends[1], answer, sizeof(answer)), sizeof(answer));
	assert_error_with(migration_link_connect(link), "has 1 descriptors, and there is none for");
	migration_link_close(link);
	close(ends[1]);
}

/* Whoever is at their other ends must learn that nobody will come. */
static void test_unused_descriptors_are_closed(void **unused)
{
	struct migration_link_options options = {.channels = 2};
	struct migration_link *link;
	int ends[3][2];
	struct error *error;
	char address[64];
	char byte;

	for (int side = 0; side < 2; side++) {
		for (int i = 0; i < 3; i++)
			assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]), 0);
		snprintf(address, sizeof(address), "fd:%d+%d+%d", ends[0][0], ends[1][0],
			 ends[2][0]);
		options.address = address;
		/* Until it connects they are the caller's. */
		assert_no_error(migration_link_open(side ? MIGRATION_DESTINATION : MIGRATION_SOURCE,
						    &options, &link));
		migration_link_close(link);
		for (int i = 0; i < 3; i++)
			assert_true(fcntl(ends[i][0], F_GETFD) >= 0);
		assert_no_error(migration_link_open(side ? MIGRATION_DESTINATION : MIGRATION_SOURCE,
						    &options, &link));
		assert_int_equal(shutdown(ends[0][1], SHUT_WR), 0);
		error = side ? migration_link_accept(link) : migration_link_connect(link);
		assert_non_null(error);
		error_free(error);
		migration_link_close(link);
		for (int i = 0; i < 3; i++) {
			while (recv(ends[i][1], &byte, 1, MSG_DONTWAIT) == 1)
				;
			assert_int_equal(recv(ends[i][1], &byte, 1, MSG_DONTWAIT), 0);
			close(ends[i][1]);
		}
	}
}

static void test_pipe_is_refused(void **unused)
{
	struct migration_link_options options = {.channels = 1};
	struct migration_link *link;
	char address[32];
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	snprintf(address, sizeof(address), "fd:%d", ends[0]);
	options.address = address;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &link));
	assert_error_with(migration_link_connect(link), "is not a socket");
	migration_link_close(link);
	close(ends[1]);
}

/* Two commands that meet at a named pipe each way. */
static void test_commands(void **unused)
{
	char source[256], destination[256];
	static const char *const names[] = {"main", "0", "1", "postcopy"};

	for (int i = 0; i < 4; i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/up-%s", link_folder, names[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
		snprintf(path, sizeof(path), "%s/down-%s", link_folder, names[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
	}
	snprintf(destination, sizeof(destination),
		 "exec:cd %s; cat < up-$GODWIT_CHANNEL & exec cat > down-$GODWIT_CHANNEL",
		 link_folder);
	/* A shell gives its background commands no input, so that the first one needs another. */
	snprintf(source, sizeof(source),
		 "exec:cd %s; exec 3<&0; cat <&3 > up-$GODWIT_CHANNEL & exec cat < "
		 "down-$GODWIT_CHANNEL",
		 link_folder);
	check_addresses(destination, source, 2, true, NULL);
	for (int i = 0; i < 4; i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/up-%s", link_folder, names[i]);
		unlink(path);
		snprintf(path, sizeof(path), "%s/down-%s", link_folder, names[i]);
		unlink(path);
	}
}

static void test_bad_addresses(void **unused)
{
	static const struct {
		const char *address, *text;
	} bad[] = {
	    {"file:/x", "is not an address"},
	    {"tcp:host", "has no port"},
	    {"tcp:host:", "has no port"},
	    {"tcp::4444", "has no host"},
	    {"tcp:::1:4444", "put an IPv6 address in brackets"},
	    {"unix:", "its path must have"},
	    {"vsock:3", "is not complete"},
	    {"vsock:x:1", "vsock:x:1"},
	    {"fd:7+x", "fd:7+x"},
	    {"fd:7+fd:7", "names descriptor 7 twice"},
	    {"exec:", "has no command"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct migration_link_options options = {.address = bad[i].address, .channels = 1};
		struct migration_link *link;

		assert_error_with(migration_link_open(MIGRATION_SOURCE, &options, &link),
				  bad[i].text);
	}
}

static void test_nobody_listens(void **unused)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:1", .channels = 1};
	struct migration_link *link;

	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &link));
	assert_error_with(migration_link_connect(link), "cannot connect to tcp:127.0.0.1:1, main");
	migration_link_close(link);
}

static void test_bitmap_in_parts(void **unused)
{
	struct migration_link *source, *destination;
	struct migration_message message;
	uint64_t words[1500], got[1500] = {};
	uint32_t count = 0;

	pair_links(1, false, &source, &destination);
	for (uint64_t i = 0; i < 1500; i++)
		words[i] = i * 0x123456789abcdef;
	assert_no_error(migration_link_send_bitmap(source, MIGRATION_PENDING, 2, 100, words, 1500));
	while (count < 1500) {
		assert_no_error(migration_link_receive(destination, &message));
		assert_int_equal(message.type, MIGRATION_PENDING);
		assert_int_equal(message.bitmap.block, 2);
		assert_int_equal(message.bitmap.first, 100 + count);
		for (uint32_t i = 0; i < message.bitmap.words; i++)
			got[count++] = wire_bitmap_word(&message, i);
	}
	assert_memory_equal(words, got, sizeof(words));
	migration_link_close(source);
	migration_link_close(destination);
}

static void test_wrong_side_cannot_send(void **unused)
{
	struct pair_ends ends;
	struct migration_link *link = pair_link(MIGRATION_SOURCE, 1, false, &ends);

	assert_error_with(migration_link_send_type(link, MIGRATION_RUNNING),
			  "RUNNING is not ours to send");
	migration_link_close(link);
	pair_ends_close(&ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tcp),
	    cmocka_unit_test(test_tcp_version_6),
	    cmocka_unit_test(test_tcp_at_every_address),
	    cmocka_unit_test(test_unix),
	    cmocka_unit_test(test_stale_socket_is_replaced),
	    cmocka_unit_test(test_vsock),
	    cmocka_unit_test(test_descriptors),
	    cmocka_unit_test(test_too_few_descriptors),
	    cmocka_unit_test(test_unused_descriptors_are_closed),
	    cmocka_unit_test(test_pipe_is_refused),
	    cmocka_unit_test(test_commands),
	    cmocka_unit_test(test_bad_addresses),
	    cmocka_unit_test(test_nobody_listens),
	    cmocka_unit_test(test_bitmap_in_parts),
	    cmocka_unit_test(test_wrong_side_cannot_send),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
