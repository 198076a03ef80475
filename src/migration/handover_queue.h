/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events on their way to the one thread that owns a handover (handover.h): from the connection, from
 * the machine, from an operator, in their order, each once. A fixed number of places: the peer, which
 * could send any number, waits.
 *
 * Threads: any may post, one takes.
 */
#ifndef GODWIT_MIGRATION_HANDOVER_QUEUE_H
#define GODWIT_MIGRATION_HANDOVER_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/handover.h"
#include "migration/wire.h"

#define HANDOVER_QUEUE_SIZE 16

struct handover_queue {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum handover_event events[HANDOVER_QUEUE_SIZE];
	uint32_t first, count;
	bool closed;
};

void handover_queue_init(struct handover_queue *queue);
void handover_queue_destroy(struct handover_queue *queue);

/* Waits for a place. False: it was closed. */
bool handover_queue_post(struct handover_queue *queue, enum handover_event event);
/* Waits for an event, at most @timeout_ms (-1: for ever). False: none came, or it was closed. */
bool handover_queue_take(struct handover_queue *queue, int timeout_ms, enum handover_event *event);
bool handover_queue_is_closed(struct handover_queue *queue);
/* Nobody waits any more. */
void handover_queue_close(struct handover_queue *queue);

/* The event that a message of the peer is. False: it is none of the handover's. */
bool handover_event_of_message(enum migration_message_type type, enum handover_event *event);

#endif
