/* SPDX-License-Identifier: BSD-2-Clause */
/* Two ends of a link over TCP with TLS, for tests. */
#ifndef GODWIT_TESTS_MIGRATION_TLS_PAIR_H
#define GODWIT_TESTS_MIGRATION_TLS_PAIR_H

#include "migration_pair.h"

#include <pthread.h>
#include <stdio.h>

#include "tls_files.h"

struct pair_accepting {
	struct migration_link *link;
	struct error *error;
};

static inline void *pair_accept(void *context)
{
	struct pair_accepting *accepting = context;

	accepting->error = migration_link_accept(accepting->link);
	return NULL;
}

static inline void pair_links_tls(uint32_t channels, bool postcopy, struct migration_link **source,
				  struct migration_link **destination)
{
	char folder[] = "/tmp/godwit-tls-XXXXXX", address[64];
	struct tls_authority authority = tls_certify(NULL, "authority", NULL, time(NULL) + 86400);
	struct migration_link_options options = {.address = "tcp:127.0.0.1:0", .tls = folder};
	struct pair_accepting accepting = {};
	pthread_t thread;

	tls_folder(folder, &authority, "localhost", time(NULL) + 86400);
	tls_forget(&authority);
	assert_no_error(migration_link_open(MIGRATION_DESTINATION, &options, &accepting.link));
	snprintf(address, sizeof(address), "tcp:localhost%s",
		 strrchr(migration_link_address(accepting.link), ':'));
	options.address = address;
	options.channels = channels;
	options.postcopy = postcopy;
	assert_no_error(migration_link_open(MIGRATION_SOURCE, &options, source));
	assert_int_equal(pthread_create(&thread, NULL, pair_accept, &accepting), 0);
	assert_no_error(migration_link_connect(*source));
	pthread_join(thread, NULL);
	assert_no_error(accepting.error);
	*destination = accepting.link;
	tls_folder_remove(folder);
}

#endif
