/* SPDX-License-Identifier: BSD-2-Clause */
/* The connections of a migration with TLS: whose certificates are taken, and that much goes through. */
#include "migration_link_ends.h"

#include "tls_files.h"

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
	return make_folder(unused);
}

static int remove_certificates(void **unused)
{
	tls_folder_remove(good);
	tls_folder_remove(expired);
	tls_folder_remove(other_host);
	tls_folder_remove(foreign);
	return remove_folder(unused);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tls),
	    cmocka_unit_test(test_tls_with_wrong_certificates),
	    cmocka_unit_test(test_tls_against_none),
	    cmocka_unit_test(test_tls_without_files),
	    cmocka_unit_test(test_much_over_tls),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
