/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The connections of a migration: over every kind of transport, with TLS and without; sessions keep
 * strangers out.
 */
#include "migration_pair.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tls_files.h"

struct end {
	struct migration_link *link;
	struct error *error;
	pthread_t thread;
};

static void *accept_link(void *context)
{
	struct end *end = context;

	end->error = migration_link_accept(end->link);
	return NULL;
}

static void listen_at(struct end *end, const struct migration_link_options *options)
{
	*end = (struct end){};
	assert_no_error(migration_link_open(MIGRATION_DESTINATION, options, &end->link));
	assert_int_equal(pthread_create(&end->thread, NULL, accept_link, end), 0);
}

static void stop_listening(struct end *end)
{
	migration_link_cancel(end->link);
	pthread_join(end->thread, NULL);
	error_free(end->error);
	migration_link_close(end->link);
}

static void send_bytes(struct transport *transport, const char *text)
{
	struct iovec part = {(void *)(uintptr_t)text, strlen(text)};

	assert_no_error(transport_send(transport, &part, 1));
}

static void expect_bytes(struct transport *transport, const char *text)
{
	char bytes[64];
	struct iovec part = {bytes, strlen(text)};
	size_t got;

	assert_no_error(transport_receive(transport, &part, 1, strlen(text), &got));
	assert_int_equal(got, strlen(text));
	assert_memory_equal(bytes, text, got);
}

/* Every connection carries what is sent, both ways, and each is the one that it should be. */
static void check_link(struct migration_link *source, struct migration_link *destination,
		       uint32_t channels, bool postcopy)
{
	static char config[100000];
	struct migration_message message = {.type = MIGRATION_CONFIG};

	assert_int_equal(migration_link_channels(destination), channels);
	assert_int_equal(migration_link_has_postcopy(destination), postcopy);
	assert_memory_equal(migration_link_session(source), migration_link_session(destination),
			    WIRE_SESSION_SIZE);
	for (uint32_t i = 0; i < channels + postcopy; i++) {
		char text[32];

		snprintf(text, sizeof(text), "connection %u", i);
		send_bytes(migration_link_data(source, i), text);
		expect_bytes(migration_link_data(destination, i), text);
	}
	memset(config, 'x', sizeof(config));
	message.text = config;
	message.size = sizeof(config);
	assert_no_error(migration_link_send(source, &message));
	assert_no_error(migration_link_receive(destination, &message));
	assert_int_equal(message.type, MIGRATION_CONFIG);
	assert_int_equal(message.size, sizeof(config));
	assert_memory_equal(message.text, config, sizeof(config));
	assert_no_error(migration_link_send_text(destination, MIGRATION_REFUSE, "no\033 CPU"));
	assert_no_error(migration_link_receive(source, &message));
	assert_int_equal(message.size, 7);
	assert_memory_equal(message.text, "no  CPU", 7);
}

static void check_addresses(const char *listen, const char *connect, uint32_t channels,
			    bool postcopy, const char *tls)
{
	struct migration_link_options options = {.address = listen, .tls = tls};
	struct migration_link *source;
	struct end end;

	listen_at(&end, &options);
	options.address = connect ?: migration_link_address(end.link);
	options.channels = channels;
	options.postcopy = postcopy;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, channels, postcopy);
	migration_link_close(source);
	migration_link_close(end.link);
}

/* --- Transports -------------------------------------------------------------------------------- */

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
	struct migration_link *source;
	char address[64];
	struct end end;

	listen_at(&end, &options);
	snprintf(address, sizeof(address), "tcp:127.0.0.1%s",
		 strrchr(migration_link_address(end.link), ':'));
	options.address = address;
	options.channels = 1;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, 1, false);
	migration_link_close(source);
	migration_link_close(end.link);
}

static char folder[] = "/tmp/godwit-link-XXXXXX";

static const char *socket_address(void)
{
	static char address[64];

	snprintf(address, sizeof(address), "unix:%s/socket", folder);
	return address;
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

		snprintf(path, sizeof(path), "%s/up-%s", folder, names[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
		snprintf(path, sizeof(path), "%s/down-%s", folder, names[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
	}
	snprintf(destination, sizeof(destination),
		 "exec:cd %s; cat < up-$GODWIT_CHANNEL & exec cat > down-$GODWIT_CHANNEL", folder);
	/* A shell gives its background commands no input, so that the first one needs another. */
	snprintf(source, sizeof(source),
		 "exec:cd %s; exec 3<&0; cat <&3 > up-$GODWIT_CHANNEL & exec cat < "
		 "down-$GODWIT_CHANNEL",
		 folder);
	check_addresses(destination, source, 2, true, NULL);
	for (int i = 0; i < 4; i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/up-%s", folder, names[i]);
		unlink(path);
		snprintf(path, sizeof(path), "%s/down-%s", folder, names[i]);
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

/* --- TLS --------------------------------------------------------------------------------------- */

static char good[] = "/tmp/godwit-tls-XXXXXX", foreign[] = "/tmp/godwit-tls-XXXXXX";
static char expired[] = "/tmp/godwit-tls-XXXXXX", other_host[] = "/tmp/godwit-tls-XXXXXX";

static int make_certificates(void **unused)
{
	time_t now = time(NULL), later = now + 86400;
	struct tls_authority authority = tls_certify(NULL, "authority", NULL, later);
	struct tls_authority another = tls_certify(NULL, "authority", NULL, later);

	tls_folder(good, &authority, "localhost", later);
	tls_folder(expired, &authority, "localhost", now - 10);
	tls_folder(other_host, &authority, "elsewhere", later);
	tls_folder(foreign, &another, "localhost", later);
	tls_forget(&authority);
	tls_forget(&another);
	return !mkdtemp(folder);
}

static int remove_certificates(void **unused)
{
	tls_folder_remove(good);
	tls_folder_remove(expired);
	tls_folder_remove(other_host);
	tls_folder_remove(foreign);
	rmdir(folder);
	return 0;
}

static const char *port_of(const struct migration_link *link, char address[64])
{
	snprintf(address, 64, "tcp:localhost%s", strrchr(migration_link_address(link), ':'));
	return address;
}

static void check_tls(const char *here, const char *there, const char *text)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0", .tls = there};
	struct migration_link *source;
	struct error *error;
	char address[64];
	struct end end;

	listen_at(&end, &options);
	options.address = port_of(end.link, address);
	options.tls = here;
	options.channels = 2;
	options.timeout_ms = 10000;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	error = migration_link_connect(source);
	if (text) {
		assert_error_with(error, text);
		migration_link_close(source);
		stop_listening(&end);
		return;
	}
	assert_no_error(error);
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, 2, false);
	migration_link_close(source);
	migration_link_close(end.link);
}

static void test_tls(void **unused)
{
	check_tls(good, good, NULL);
	check_addresses(socket_address(), NULL, 3, true, good);
}

static void test_tls_with_wrong_certificates(void **unused)
{
	check_tls(good, foreign, "certificate of the other end is refused");
	check_tls(good, expired, "certificate of the other end is refused");
	check_tls(good, other_host, "certificate of the other end is refused");
	/* Here the destination refuses, and says so. */
	check_tls(expired, good, "the other end");
}

static void test_tls_against_none(void **unused)
{
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0", .tls = good};
	struct migration_link *source;
	char address[64];
	struct end end;

	listen_at(&end, &options);
	options.address = port_of(end.link, address);
	options.tls = NULL;
	options.channels = 1;
	options.timeout_ms = 10000;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_error_with(migration_link_connect(source), "main: ");
	migration_link_close(source);
	stop_listening(&end);
}

static void test_tls_without_files(void **unused)
{
	struct migration_link_options options = {
	    .address = "tcp:localhost:1", .channels = 1, .tls = "/nonexistent"};
	struct migration_link *link;

	assert_error_with(migration_link_open(MIGRATION_SOURCE, &options, &link),
			  "cannot read '/nonexistent/ca-cert.pem'");
}

static void *echo(void *context)
{
	uint8_t *bytes = malloc(MIB(3));
	struct iovec part = {bytes, MIB(3)};
	size_t got;

	assert_no_error(transport_receive(context, &part, 1, MIB(3), &got));
	part = (struct iovec){bytes, MIB(3)};
	assert_no_error(transport_send(context, &part, 1));
	free(bytes);
	return NULL;
}

/* Much in both directions, in parts of odd sizes, over one session. */
static void test_much_over_tls(void **unused)
{
	struct tls_credentials *server, *client;
	struct transport *here, *there;
	uint8_t *sent = malloc(MIB(3)), *got = malloc(MIB(3));
	struct iovec parts[] = {
	    {sent, 80}, {sent + 80, 0}, {sent + 80, 100000}, {sent + 100080, MIB(3) - 100080}};
	struct iovec into[] = {{got, 5}, {got + 5, 70000}, {got + 70005, MIB(3) - 70005}};
	pthread_t thread;
	size_t size;
	int other;

	for (size_t i = 0; i < MIB(3); i++)
		sent[i] = (uint8_t)(i * 31 + i / 4096);
	assert_no_error(tls_credentials_load(good, true, NULL, &server));
	assert_no_error(tls_credentials_load(good, false, "localhost", &client));
	here = pair_transport("here", &other);
	assert_no_error(transport_adopt(other, "there", &there));
	assert_no_error(transport_start_tls(here, client));
	assert_no_error(transport_start_tls(there, server));
	for (short here_events = 1, there_events = 1; here_events || there_events;) {
		assert_no_error(transport_try_handshake(here, &here_events));
		assert_no_error(transport_try_handshake(there, &there_events));
	}
	assert_int_equal(pthread_create(&thread, NULL, echo, there), 0);
	assert_no_error(transport_send(here, parts, 4));
	assert_no_error(transport_receive(here, into, 3, MIB(3), &size));
	pthread_join(thread, NULL);
	assert_memory_equal(sent, got, MIB(3));
	transport_close(here);
	transport_close(there);
	tls_credentials_free(server);
	tls_credentials_free(client);
	free(sent);
	free(got);
}

/* --- Sessions ---------------------------------------------------------------------------------- */

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
	struct migration_link *source;
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
	options.address = migration_link_address(end.link);
	options.channels = 1;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end.thread, NULL);
	assert_no_error(end.error);
	check_link(source, end.link, 1, false);
	migration_link_close(source);
	migration_link_close(end.link);
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

/* --- Messages ---------------------------------------------------------------------------------- */

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
	    cmocka_unit_test(test_tls),
	    cmocka_unit_test(test_tls_with_wrong_certificates),
	    cmocka_unit_test(test_tls_against_none),
	    cmocka_unit_test(test_tls_without_files),
	    cmocka_unit_test(test_much_over_tls),
	    cmocka_unit_test(test_strangers_are_refused),
	    cmocka_unit_test(test_silent_strangers_are_in_nobodys_way),
	    cmocka_unit_test(test_source_that_goes_before_all_is_connected),
	    cmocka_unit_test(test_source_that_does_not_connect_all),
	    cmocka_unit_test(test_going_on_with_a_session),
	    cmocka_unit_test(test_another_version),
	    cmocka_unit_test(test_cancelling_while_it_waits),
	    cmocka_unit_test(test_bitmap_in_parts),
	    cmocka_unit_test(test_wrong_side_cannot_send),
	    cmocka_unit_test(test_descriptors_go_along),
	    cmocka_unit_test(test_descriptors_that_nobody_takes_are_closed),
	    cmocka_unit_test(test_too_many_descriptors_end_the_connection),
	    cmocka_unit_test(test_descriptors_go_nowhere_but_over_unix_sockets),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
