/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The threads of a migration: all exist before its first byte, and do whatever there is to do:
 * memory, states of devices. Jobs belong to who submits them; nothing is allocated for one.
 *
 * Threads: any may submit. Jobs are started in the order of their submission.
 */
#ifndef GODWIT_MIGRATION_WORKER_POOL_H
#define GODWIT_MIGRATION_WORKER_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define WORKER_POOL_MAX 256

struct worker_pool;

/*
 * Something to do. Zeroed but for @run and @context; not moved or freed until it is done, or, if it
 * is submitted again and again, until the pool is destroyed.
 */
struct worker_job {
	void (*run)(void *context);
	void *context;
	struct worker_job *next; /* the pool's */
	bool done;		 /* the pool's */
};

/* Starts @count threads, "@name0" and so on. */
struct error *worker_pool_create(const char *name, uint32_t count,
				 struct worker_pool **pool) MUST_CHECK;
/* Does what was submitted, then ends the threads. Accepts NULL. */
void worker_pool_destroy(struct worker_pool *pool);
DEFINE_CLEANUP(worker_pool, struct worker_pool *, worker_pool_destroy)
#define AUTO_WORKER_POOL AUTO(cleanup_worker_pool)

/* A job may be submitted again, by anybody, once it is about to return. */
void worker_pool_submit(struct worker_pool *pool, struct worker_job *job);
/* Waits until @job, which was submitted, is done. Not for one that somebody submits again. */
void worker_pool_wait(struct worker_pool *pool, struct worker_job *job);

#endif
