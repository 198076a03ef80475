/* SPDX-License-Identifier: BSD-2-Clause */
/* A migration's connections over real addresses, for tests: one end listens in a thread of its own. */
#ifndef GODWIT_TESTS_MIGRATION_LINK_ENDS_H
#define GODWIT_TESTS_MIGRATION_LINK_ENDS_H

#include "migration_pair.h"

#include <pthread.h>

/* For the sockets and pipes of a test; make_folder and remove_folder belong to a group. */
static char link_folder[] = "/tmp/godwit-link-XXXXXX";

static inline const char *socket_address(void)
{
	static char address[64];

	snprintf(address, sizeof(address), "unix:%s/socket", link_folder);
	return address;
}

static inline int make_folder(void **unused)
{
	return !mkdtemp(link_folder);
}

static inline int remove_folder(void **unused)
{
	return rmdir(link_folder);
}

struct end {
	struct migration_link *link;
	struct error *error;
	pthread_t thread;
};

static inline void *accept_link(void *context)
{
	struct end *end = context;

	end->error = migration_link_accept(end->link);
	return NULL;
}

static inline void listen_at(struct end *end, const struct migration_link_options *options)
{
	*end = (struct end){};
	assert_no_error(migration_link_open(MIGRATION_DESTINATION, options, &end->link));
	assert_int_equal(pthread_create(&end->thread, NULL, accept_link, end), 0);
}

static inline void stop_listening(struct end *end)
{
	migration_link_cancel(end->link);
	pthread_join(end->thread, NULL);
	error_free(end->error);
	migration_link_close(end->link);
}

static inline void send_bytes(struct transport *transport, const char *text)
{
	struct iovec part = {(void *)(uintptr_t)text, strlen(text)};

	assert_no_error(transport_send(transport, &part, 1));
}

static inline void expect_bytes(struct transport *transport, const char *text)
{
	char bytes[64];
	struct iovec part = {bytes, strlen(text)};
	size_t got;

	assert_no_error(transport_receive(transport, &part, 1, strlen(text), &got));
	assert_int_equal(got, strlen(text));
	assert_memory_equal(bytes, text, got);
}

/* Every connection carries what is sent, both ways, and each is the one that it should be. */
static inline void check_link(struct migration_link *source, struct migration_link *destination,
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

/* A source finds the way to who listens at @end, at @address, with one connection for data. Ends both. */
static inline void check_arrival(struct end *end, struct migration_link_options *options,
				 const char *address)
{
	struct migration_link *source;

	options->address = address;
	options->channels = 1;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, options, &source));
	assert_no_error(migration_link_connect(source));
	pthread_join(end->thread, NULL);
	assert_no_error(end->error);
	check_link(source, end->link, 1, false);
	migration_link_close(source);
	migration_link_close(end->link);
}

static inline void check_addresses(const char *listen, const char *connect, uint32_t channels,
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

#endif
