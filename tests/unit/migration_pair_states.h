/* SPDX-License-Identifier: BSD-2-Clause */
/* Both ends of a migration that states of devices go through, for tests; the source hears of credits. */
#ifndef GODWIT_TESTS_MIGRATION_PAIR_STATES_H
#define GODWIT_TESTS_MIGRATION_PAIR_STATES_H

#include "migration_pair.h"

#include <pthread.h>

struct pair_states {
	struct migration_link *source, *destination;
	struct migration_sender *sender;
	struct migration_receiver *receiver;
	pthread_t credits;
};

static inline void *pair_states_take_credits(void *context)
{
	struct pair_states *ends = context;
	struct migration_message message;
	struct error *error;

	while (!(error = migration_link_receive(ends->source, &message)))
		if (message.type == MIGRATION_STATE_CREDIT)
			assert_no_error(migration_sender_credit(ends->sender, &message));
	error_free(error);
	return NULL;
}

/* With all of it made. */
static inline void pair_states_begin(struct pair_states *ends)
{
	assert_int_equal(pthread_create(&ends->credits, NULL, pair_states_take_credits, ends), 0);
}

static inline void pair_states_end(struct pair_states *ends)
{
	migration_link_cancel(ends->source);
	pthread_join(ends->credits, NULL);
	migration_sender_destroy(ends->sender);
	migration_link_close(ends->source);
	migration_receiver_destroy(ends->receiver);
	migration_link_close(ends->destination);
}

#endif
