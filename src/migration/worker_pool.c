/* SPDX-License-Identifier: BSD-2-Clause */
/* The threads of worker_pool.h: one queue, one lock. Jobs are long; the queue is not what they wait
 * for. */
#include "migration/worker_pool.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/thread.h"

struct worker_pool {
	pthread_mutex_t lock;
	pthread_cond_t submitted, done;
	struct worker_job *first, **last;
	bool ending;
	uint32_t count;
	pthread_t threads[];
};

static void *work(void *context)
{
	struct worker_pool *pool = context;
	struct worker_job *job;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!pool->first && !pool->ending)
			pthread_cond_wait(&pool->submitted, &pool->lock);
		job = pool->first;
		if (!job)
			break;
		pool->first = job->next;
		if (!pool->first)
			pool->last = &pool->first;
		pthread_mutex_unlock(&pool->lock);
		job->run(job->context);
		pthread_mutex_lock(&pool->lock);
		job->done = true;
		pthread_cond_broadcast(&pool->done);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

struct error *worker_pool_create(const char *name, uint32_t count, struct worker_pool **result)
{
	AUTO_WORKER_POOL struct worker_pool *pool =
	    calloc(1, sizeof(*pool) + count * sizeof(pool->threads[0]));

	if (!pool)
		return error_system(ENOMEM, "threads");
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->submitted, NULL);
	pthread_cond_init(&pool->done, NULL);
	pool->last = &pool->first;
	for (uint32_t i = 0; i < count; i++) {
		char text[32];

		snprintf(text, sizeof(text), "%s%u", name, i);
		TRY(thread_start(&pool->threads[i], text, work, pool));
		pool->count++;
	}
	*result = TAKE_PTR(pool);
	return NULL;
}

void worker_pool_destroy(struct worker_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->submitted);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->done);
	pthread_cond_destroy(&pool->submitted);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void worker_pool_submit(struct worker_pool *pool, struct worker_job *job)
{
	pthread_mutex_lock(&pool->lock);
	job->next = NULL;
	job->done = false;
	*pool->last = job;
	pool->last = &job->next;
	pthread_cond_signal(&pool->submitted);
	pthread_mutex_unlock(&pool->lock);
}

void worker_pool_wait(struct worker_pool *pool, struct worker_job *job)
{
	pthread_mutex_lock(&pool->lock);
	while (!job->done)
		pthread_cond_wait(&pool->done, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}
