/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The limit of bandwidth.h. A bucket of tokens seen from the other side: instead of tokens, the time
 * is kept at which all that was taken will have been earned. Waiting is for a time that is known, so
 * nobody has to be woken but when the limit changes or somebody is in a hurry.
 */
#include "migration/bandwidth.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"

#define BURST_NS (50 * NS_PER_MS) /* of the rate, after a pause */

struct bandwidth {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t rate; /* atomic for who does not lock */
	int64_t free_at;
	uint64_t changes;
	bool hurry;
	bool cancelled;
};

int64_t bandwidth_schedule(int64_t *free_at, int64_t now, uint64_t rate, uint64_t bytes)
{
	/* 2^63 ns are 292 years; at a byte a second that is what a chunk of 1 GiB takes. */
	double duration = (double)bytes / (double)rate * (double)NS_PER_SECOND;
	int64_t start = MAX(*free_at, now - BURST_NS);

	*free_at = duration < (double)(INT64_MAX / 4) ? start + (int64_t)duration : INT64_MAX / 2;
	return start;
}

struct error *bandwidth_create(uint64_t rate, struct bandwidth **result)
{
	struct bandwidth *bandwidth = calloc(1, sizeof(*bandwidth));
	pthread_condattr_t attributes;

	if (!bandwidth)
		return error_system(ENOMEM, "a limit of bandwidth");
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&bandwidth->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&bandwidth->lock, NULL);
	bandwidth->rate = rate;
	*result = bandwidth;
	return NULL;
}

void bandwidth_destroy(struct bandwidth *bandwidth)
{
	if (!bandwidth)
		return;
	pthread_cond_destroy(&bandwidth->changed);
	pthread_mutex_destroy(&bandwidth->lock);
	free(bandwidth);
}

uint64_t bandwidth_rate(const struct bandwidth *bandwidth)
{
	return __atomic_load_n(&bandwidth->rate, __ATOMIC_RELAXED);
}

static void change(struct bandwidth *bandwidth, uint64_t rate, bool cancel)
{
	pthread_mutex_lock(&bandwidth->lock);
	__atomic_store_n(&bandwidth->rate, rate, __ATOMIC_RELAXED);
	bandwidth->free_at = 0; /* what was taken at another rate is forgotten */
	bandwidth->changes++;
	if (cancel)
		__atomic_store_n(&bandwidth->cancelled, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&bandwidth->changed);
	pthread_mutex_unlock(&bandwidth->lock);
}

void bandwidth_set(struct bandwidth *bandwidth, uint64_t rate)
{
	change(bandwidth, rate, false);
}

void bandwidth_cancel(struct bandwidth *bandwidth)
{
	change(bandwidth, 0, true);
}

void bandwidth_set_hurry(struct bandwidth *bandwidth, bool on)
{
	pthread_mutex_lock(&bandwidth->lock);
	bandwidth->hurry = on;
	pthread_cond_broadcast(&bandwidth->changed);
	pthread_mutex_unlock(&bandwidth->lock);
}

static void wait_until(struct bandwidth *bandwidth, int64_t when)
{
	struct timespec time = {.tv_sec = when / NS_PER_SECOND, .tv_nsec = when % NS_PER_SECOND};

	pthread_cond_timedwait(&bandwidth->changed, &bandwidth->lock, &time);
}

bool bandwidth_take(struct bandwidth *bandwidth, uint64_t bytes)
{
	if (!bandwidth_rate(bandwidth))
		return !__atomic_load_n(&bandwidth->cancelled, __ATOMIC_RELAXED);
	pthread_mutex_lock(&bandwidth->lock);
	while (bandwidth->rate) {
		uint64_t changes = bandwidth->changes;
		int64_t when = bandwidth_schedule(&bandwidth->free_at, clock_monotonic_ns(),
						  bandwidth->rate, bytes);

		while (changes == bandwidth->changes && !bandwidth->hurry &&
		       clock_monotonic_ns() < when)
			wait_until(bandwidth, when);
		if (changes == bandwidth->changes)
			break;
	}
	pthread_mutex_unlock(&bandwidth->lock);
	return !__atomic_load_n(&bandwidth->cancelled, __ATOMIC_RELAXED);
}
