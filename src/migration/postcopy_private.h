/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of postcopy_destination.h share: postcopy_destination.c has its life, its beginning,
 * and memory that is given back; postcopy_place.c puts pages in place; postcopy_request.c has faults and what
 * the source is asked and told.
 *
 * A page is *lacking* from begin until it is in place or given back, and *expected* until the source
 * has sent it: who clears that bit has the page's only copy in hand. Between the two it is on its way
 * into memory. Of a page of the host that is larger than 4 KiB, `lacking` is cleared for all of it at
 * once.
 *
 * A block's lock (readers: who puts a page in place, who asks for one; writer: who gives memory back)
 * makes a page that is given back stay so.
 */
#ifndef GODWIT_MIGRATION_POSTCOPY_PRIVATE_H
#define GODWIT_MIGRATION_POSTCOPY_PRIVATE_H

#include <pthread.h>

#include "migration/postcopy_destination.h"
#include "migration/ram_table.h"

#define POSTCOPY_QUEUE                                                                             \
	1024 /* faults that wait for being asked for; if there are more, all are sought */

struct postcopy_block {
	struct postcopy_destination *destination;
	struct ram_block *ram;
	uint32_t index;
	uint64_t pages, whole;	      /* pages of 4 KiB: in the block, in a page of the host */
	uint64_t *lacking, *expected; /* atomic words */
	uint64_t
	    *asked; /* atomic words: somebody waits for the page of the host that begins here */
	pthread_rwlock_t lock;
	struct ram_block_watcher discards;
	bool watched;
};

/* A page of the host that comes in parts, over one connection. */
struct postcopy_assembly {
	uint32_t block;
	uint64_t first, left; /* pages; nothing is left: no such page */
	bool content;	      /* not all of it is zeros */
	uint8_t *bytes;
};

struct postcopy_request {
	uint32_t block;
	uint64_t first, count; /* pages */
};

struct postcopy_destination {
	struct ram_table table;
	struct userfault *userfault;
	struct userfault_watcher watcher;
	const struct postcopy_destination_ops *ops;
	void *context;
	struct postcopy_block *blocks;
	bool pending; /* atomic */
	bool begun;
	struct postcopy_assembly *assemblies; /* one a connection */
	uint32_t connections;
	uint8_t *assembly_bytes;
	uint64_t assembly_size; /* of all of them; 0: all pages are small */
	uint64_t total, lacking, dropped, asked, requests; /* all but the first are atomic */

	pthread_t thread;
	bool thread_started;
	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	struct migration_link *link; /* NULL: nothing can be sent */
	bool sending, stopping;
	bool seek; /* some that wait are in `asked` only */
	struct postcopy_request queue[POSTCOPY_QUEUE];
	uint32_t queue_first, queue_count;
};

/* The bits of word @word that belong to [@first, @first + @count). */
static inline uint64_t postcopy_mask(uint64_t word, uint64_t first, uint64_t count)
{
	uint64_t start = first > word * 64 ? first - word * 64 : 0;
	uint64_t end = first + count - word * 64;

	return (end < 64 ? (1ULL << end) - 1 : UINT64_MAX) & (UINT64_MAX << start);
}

static inline bool postcopy_test(const uint64_t *bits, uint64_t page)
{
	return __atomic_load_n(&bits[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

/* @count pages are not lacking any more. Tells when none is. */
void postcopy_settle(struct postcopy_destination *destination, uint64_t count);

/* postcopy_request.c */

/* On a fault: true if the page is lacking; it is then asked for. */
bool postcopy_ask(struct postcopy_block *block, uint64_t first);
void *postcopy_request_thread(void *destination);

#endif
