/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What userfault.c, which has this process's own mappings, and userfault_remote.c, which has those of
 * others, share.
 */
#ifndef GODWIT_MEMORY_USERFAULT_PRIVATE_H
#define GODWIT_MEMORY_USERFAULT_PRIVATE_H

#include <pthread.h>

#include "memory/userfault.h"

#define USERFAULT_BLOCKS_MAX  256
#define USERFAULT_THREADS_MAX 16

struct watched_block {
	struct ram_block *block;
	struct userfault_watcher *watchers[2];
};

struct userfault {
	int fd;
	int stop_fd;
	pthread_rwlock_t lock; /* guards blocks */
	struct watched_block blocks[USERFAULT_BLOCKS_MAX];
	uint32_t block_count;
	void *zeros; /* a huge page of zeros, read-only, never touched for writing */
	uint64_t zeros_size;
	pthread_t threads[USERFAULT_THREADS_MAX];
	uint32_t thread_count;
	uint64_t missing, written;	  /* atomic */
	pthread_rwlock_t remotes_lock;	  /* guards the next one, and what belongs to each */
	struct userfault_remote *remotes; /* also read without the lock: whether there are any */
};

/* With `lock`: whether a watcher has claimed the missing page of @block at @offset. Counts it. */
bool userfault_offer_missing(struct userfault *userfault, const struct ram_block *block,
			     uint64_t offset);
/* A range of @block has come: who waits for it elsewhere goes on. */
void userfault_wake_remotes(struct userfault *userfault, const struct ram_block *block,
			    uint64_t offset, uint64_t size);

#endif
