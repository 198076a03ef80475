/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Calls to the main loop, machine_main_call.h. What a call on its way points to outlives everything
 * else: the loop has no way to take a call back.
 */
#include "machine/machine_main_call.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/checked.h"

struct main_calls_shared {
	struct event_loop *loop;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t users; /* calls on their way, and the owner */
	bool abandoned;
};

struct call {
	struct main_calls_shared *shared;
	void (*run)(void *context);
	void *context;
	bool *done; /* NULL: nobody waits */
};

struct error *main_calls_init(struct main_calls *calls, struct event_loop *loop)
{
	calls->shared = calloc(1, sizeof(*calls->shared));
	if (!calls->shared)
		return error_system(ENOMEM, "a migration");
	calls->shared->loop = loop;
	calls->shared->users = 1;
	pthread_mutex_init(&calls->shared->lock, NULL);
	pthread_cond_init(&calls->shared->changed, NULL);
	return NULL;
}

static void leave(struct main_calls_shared *shared)
{
	bool last;

	pthread_mutex_lock(&shared->lock);
	last = --shared->users == 0;
	pthread_mutex_unlock(&shared->lock);
	if (!last)
		return;
	pthread_cond_destroy(&shared->changed);
	pthread_mutex_destroy(&shared->lock);
	free(shared);
}

void main_calls_abandon(struct main_calls *calls)
{
	if (!calls->shared)
		return;
	pthread_mutex_lock(&calls->shared->lock);
	calls->shared->abandoned = true;
	pthread_cond_broadcast(&calls->shared->changed);
	pthread_mutex_unlock(&calls->shared->lock);
}

void main_calls_destroy(struct main_calls *calls)
{
	main_calls_abandon(calls);
	if (calls->shared)
		leave(TAKE_PTR(calls->shared));
}

/* On the main loop. `done` is on the stack of who waits, who is gone once the calls are abandoned. */
static void arrive(void *context)
{
	struct call *call = context;
	struct main_calls_shared *shared = call->shared;
	bool abandoned;

	pthread_mutex_lock(&shared->lock);
	abandoned = shared->abandoned;
	pthread_mutex_unlock(&shared->lock);
	if (!abandoned)
		call->run(call->context);
	pthread_mutex_lock(&shared->lock);
	if (call->done && !shared->abandoned)
		*call->done = true;
	pthread_cond_broadcast(&shared->changed);
	pthread_mutex_unlock(&shared->lock);
	leave(shared);
	free(call);
}

static bool post(struct main_calls_shared *shared, void (*run)(void *context), void *context,
		 bool *done)
{
	struct call *call = malloc(sizeof(*call));

	if (!call)
		return false;
	*call = (struct call){.shared = shared, .run = run, .context = context, .done = done};
	pthread_mutex_lock(&shared->lock);
	shared->users++;
	pthread_mutex_unlock(&shared->lock);
	if (event_loop_post(shared->loop, arrive, call) == 0)
		return true;
	leave(shared);
	free(call);
	return false;
}

bool main_call(struct main_calls *calls, void (*run)(void *context), void *context)
{
	struct main_calls_shared *shared = calls->shared;
	bool done = false;

	if (!post(shared, run, context, &done))
		return false;
	pthread_mutex_lock(&shared->lock);
	while (!done && !shared->abandoned)
		pthread_cond_wait(&shared->changed, &shared->lock);
	pthread_mutex_unlock(&shared->lock);
	return done;
}

void main_calls_post(struct main_calls *calls, void (*run)(void *context), void *context)
{
	(void)post(calls->shared, run, context, NULL);
}
