/* SPDX-License-Identifier: BSD-2-Clause */
/* See vcpu_throttle.h. The guest controls how much it runs and writes; nothing of it can fail. */
#include "kvm/vcpu_throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/thread.h"

/*
 * How long a processor runs between two rests, about. Shorter costs more exits; longer makes rests so long
 * that a guest's watchdogs and networks notice: with the least share one is a second.
 */
#define RUN_NS	 (10 * NS_PER_MS)
#define REST_MAX NS_PER_SECOND

struct throttled {
	double share;	 /* of its time that it may run; under the lock */
	uint64_t cpu_ns; /* that it had run at the last look; the thread's */
	uint64_t before; /* that it had written at the last note; under the lock, as the next one */
	uint64_t written; /* between the last two notes */
};

struct vcpu_throttle {
	struct kvm_vcpus *vcpus;
	uint32_t count;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stopping;	/* under the lock, as the next one */
	bool slowing;	/* some share is less than 1 */
	uint64_t pages; /* written between the last two notes, by whomever */
	struct throttled throttled[];
};

void vcpu_throttle_divide(const uint64_t *written, uint32_t count, double factor, double *parts)
{
	double left = 0, limit;
	uint32_t above = count;

	for (uint32_t i = 0; i < count; i++)
		left += (double)written[i] * factor;
	limit = above ? left / above : 0;
	/* What those below the limit leave is for the others: the limit rises until nobody more is below. */
	for (bool changed = true; changed && above;) {
		double rest = left;
		uint32_t now = 0;

		for (uint32_t i = 0; i < count; i++) {
			if ((double)written[i] <= limit)
				rest -= (double)written[i];
			else
				now++;
		}
		changed = now && now != above;
		above = now;
		if (now)
			limit = rest / now;
	}
	for (uint32_t i = 0; i < count; i++)
		parts[i] =
		    written[i] && (double)written[i] > limit ? limit / (double)written[i] : 1;
}

bool vcpu_throttle_explains(const uint64_t *written, uint32_t count, uint64_t pages)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += written[i];
	return sum && sum >= pages / 2;
}

static void look_at(struct vcpu_throttle *throttle, uint32_t index, double share)
{
	struct throttled *throttled = &throttle->throttled[index];
	struct kvm_vcpu_statistics statistics;
	double run, debt;

	kvm_vcpus_statistics(throttle->vcpus, index, &statistics);
	run = (double)(statistics.cpu_ns - throttled->cpu_ns);
	throttled->cpu_ns = statistics.cpu_ns;
	debt = run * (1 - share) / share;
	/* Less than this is the price of the rest itself. */
	if (share < 1 && debt >= NS_PER_MS)
		kvm_vcpus_rest(throttle->vcpus, index,
			       clock_monotonic_ns() + (int64_t)MIN(debt, (double)REST_MAX));
}

static void *throttle_thread(void *context)
{
	struct vcpu_throttle *throttle = context;

	pthread_mutex_lock(&throttle->lock);
	while (!throttle->stopping) {
		int64_t until = clock_monotonic_ns() + RUN_NS;
		const struct timespec when = {.tv_sec = until / NS_PER_SECOND,
					      .tv_nsec = until % NS_PER_SECOND};

		if (!throttle->slowing) {
			pthread_cond_wait(&throttle->changed, &throttle->lock);
			continue;
		}
		for (uint32_t i = 0; i < throttle->count; i++)
			look_at(throttle, i, throttle->throttled[i].share);
		pthread_cond_clockwait(&throttle->changed, &throttle->lock, CLOCK_MONOTONIC, &when);
	}
	pthread_mutex_unlock(&throttle->lock);
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static void throttle_free(struct vcpu_throttle *throttle)
{
	pthread_cond_destroy(&throttle->changed);
	pthread_mutex_destroy(&throttle->lock);
	free(throttle);
}

struct error *vcpu_throttle_start(struct kvm_vcpus *vcpus, struct vcpu_throttle **result)
{
	uint32_t count = kvm_vcpus_count(vcpus);
	struct vcpu_throttle *throttle =
	    calloc(1, sizeof(*throttle) + count * sizeof(throttle->throttled[0]));
	struct error *error;

	if (!throttle)
		return error_system(ENOMEM, "slowing the guest");
	throttle->vcpus = vcpus;
	throttle->count = count;
	pthread_mutex_init(&throttle->lock, NULL);
	pthread_cond_init(&throttle->changed, NULL);
	for (uint32_t i = 0; i < count; i++) {
		struct kvm_vcpu_statistics statistics;

		kvm_vcpus_statistics(vcpus, i, &statistics);
		throttle->throttled[i] = (struct throttled){
		    .share = 1, .cpu_ns = statistics.cpu_ns, .before = kvm_vcpus_written(vcpus, i)};
	}
	error = thread_start(&throttle->thread, "slow", throttle_thread, throttle);
	if (error)
		throttle_free(throttle);
	else
		*result = throttle;
	return error;
}

void vcpu_throttle_stop(struct vcpu_throttle *throttle)
{
	if (!throttle)
		return;
	pthread_mutex_lock(&throttle->lock);
	throttle->stopping = true;
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
	pthread_join(throttle->thread, NULL);
	for (uint32_t i = 0; i < throttle->count; i++)
		kvm_vcpus_rest(throttle->vcpus, i, 0);
	throttle_free(throttle);
}

void vcpu_throttle_note(struct vcpu_throttle *throttle, uint64_t pages)
{
	pthread_mutex_lock(&throttle->lock);
	throttle->pages = pages;
	for (uint32_t i = 0; i < throttle->count; i++) {
		struct throttled *throttled = &throttle->throttled[i];
		uint64_t now = kvm_vcpus_written(throttle->vcpus, i);

		throttled->written = now - throttled->before;
		throttled->before = now;
	}
	pthread_mutex_unlock(&throttle->lock);
}

bool vcpu_throttle_slow(struct vcpu_throttle *throttle, double factor)
{
	uint64_t written[KVM_VCPUS_MAX];
	double parts[KVM_VCPUS_MAX];
	bool known;

	pthread_mutex_lock(&throttle->lock);
	for (uint32_t i = 0; i < throttle->count; i++)
		written[i] = throttle->throttled[i].written;
	known = vcpu_throttle_explains(written, throttle->count, throttle->pages);
	vcpu_throttle_divide(written, throttle->count, factor, parts);
	for (uint32_t i = 0; i < throttle->count; i++) {
		struct throttled *throttled = &throttle->throttled[i];
		struct kvm_vcpu_statistics statistics;

		throttled->share =
		    MAX(throttled->share * (known ? parts[i] : factor), VCPU_THROTTLE_MIN);
		kvm_vcpus_statistics(throttle->vcpus, i, &statistics);
		if (!throttle->slowing) /* what it ran before is free */
			throttled->cpu_ns = statistics.cpu_ns;
	}
	throttle->slowing = true;
	pthread_cond_broadcast(&throttle->changed);
	pthread_mutex_unlock(&throttle->lock);
	return known;
}

double vcpu_throttle_least(struct vcpu_throttle *throttle)
{
	double least = 1;

	pthread_mutex_lock(&throttle->lock);
	for (uint32_t i = 0; i < throttle->count; i++)
		least = MIN(least, throttle->throttled[i].share);
	pthread_mutex_unlock(&throttle->lock);
	return least;
}
