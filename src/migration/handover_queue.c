/* SPDX-License-Identifier: BSD-2-Clause */
/* The queue of handover_queue.h. */
#include "migration/handover_queue.h"

#include "base/clock.h"

void handover_queue_init(struct handover_queue *queue)
{
	pthread_condattr_t attributes;

	*queue = (struct handover_queue){};
	pthread_mutex_init(&queue->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&queue->changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

void handover_queue_destroy(struct handover_queue *queue)
{
	pthread_cond_destroy(&queue->changed);
	pthread_mutex_destroy(&queue->lock);
}

bool handover_queue_post(struct handover_queue *queue, enum handover_event event)
{
	bool posted = false;

	pthread_mutex_lock(&queue->lock);
	while (!queue->closed && queue->count == HANDOVER_QUEUE_SIZE)
		pthread_cond_wait(&queue->changed, &queue->lock);
	if (!queue->closed) {
		queue->events[(queue->first + queue->count++) % HANDOVER_QUEUE_SIZE] = event;
		pthread_cond_broadcast(&queue->changed);
		posted = true;
	}
	pthread_mutex_unlock(&queue->lock);
	return posted;
}

bool handover_queue_take(struct handover_queue *queue, int timeout_ms, enum handover_event *event)
{
	int64_t until = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
	const struct timespec when = {.tv_sec = until / NS_PER_SECOND,
				      .tv_nsec = until % NS_PER_SECOND};
	bool taken = false;
	int failure = 0;

	pthread_mutex_lock(&queue->lock);
	while (!queue->closed && !queue->count && !failure)
		failure = timeout_ms < 0
			      ? pthread_cond_wait(&queue->changed, &queue->lock)
			      : pthread_cond_timedwait(&queue->changed, &queue->lock, &when);
	if (!queue->closed && queue->count) {
		*event = queue->events[queue->first];
		queue->first = (queue->first + 1) % HANDOVER_QUEUE_SIZE;
		queue->count--;
		pthread_cond_broadcast(&queue->changed);
		taken = true;
	}
	pthread_mutex_unlock(&queue->lock);
	return taken;
}

bool handover_queue_is_closed(struct handover_queue *queue)
{
	bool closed;

	pthread_mutex_lock(&queue->lock);
	closed = queue->closed;
	pthread_mutex_unlock(&queue->lock);
	return closed;
}

void handover_queue_close(struct handover_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->closed = true;
	pthread_cond_broadcast(&queue->changed);
	pthread_mutex_unlock(&queue->lock);
}

bool handover_event_of_message(enum migration_message_type type, enum handover_event *event)
{
	static const struct {
		enum migration_message_type type;
		enum handover_event event;
	} events[] = {
	    {MIGRATION_SWITCH_BEGIN, HANDOVER_EVENT_SWITCH_BEGIN},
	    {MIGRATION_GO, HANDOVER_EVENT_GO},
	    {MIGRATION_ABORT, HANDOVER_EVENT_ABORT},
	    {MIGRATION_LOADED, HANDOVER_EVENT_LOADED},
	    {MIGRATION_RUNNING, HANDOVER_EVENT_RUNNING},
	    {MIGRATION_RUNNING_LACKING, HANDOVER_EVENT_RUNNING_LACKING},
	    {MIGRATION_REJECTED, HANDOVER_EVENT_REJECTED},
	};

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (events[i].type == type) {
			*event = events[i].event;
			return true;
		}
	return false;
}
