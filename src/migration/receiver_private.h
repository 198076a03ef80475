/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of receiver.h share: receiver.c has its life, barriers and the end;
 * receive_channel.c reads records of one connection and puts pages into memory; receive_device.c
 * has the pool, the order of chunks and the credit.
 */
#ifndef GODWIT_MIGRATION_RECEIVER_PRIVATE_H
#define GODWIT_MIGRATION_RECEIVER_PRIVATE_H

#include <pthread.h>

#include "migration/ram_table.h"
#include "migration/receiver.h"
#include "migration/worker_pool.h"

#define AHEAD_SIZE	  65536 /* bytes that are received before it is known what they are */
#define DEVICE_WINDOW_MAX 256	/* chunks that one device may have on their way */

struct receive_channel {
	struct migration_receiver *receiver;
	uint32_t index;
	struct transport *transport;
	struct worker_job job;
	bool placing;	/* the receiver's, for the present record */
	bool requested; /* the connection for requested pages: it has no barriers */
	uint8_t *ahead; /* AHEAD_SIZE; of which [start, end) is not used yet */
	size_t start, end;
	bool large;	     /* the last record was: nothing is to be gained by receiving ahead */
	uint8_t *frame;	     /* what was compressed, a window at most */
	uint8_t *content;    /* a window, when it does not go straight into memory */
	void *decompression; /* a ZSTD_DCtx */
};

enum chunk_state { CHUNK_ABSENT, CHUNK_ARRIVING, CHUNK_HERE };

struct receive_chunk {
	enum chunk_state state;
	uint32_t place; /* in the pool */
	uint32_t length;
};

struct receive_device {
	struct migration_receiver *receiver;
	struct worker_job job;
	bool loading;	    /* the job is submitted or runs */
	bool ended;	    /* all is loaded */
	bool busy;	    /* has sent more than one chunk */
	uint32_t next;	    /* the chunk to load */
	uint32_t limit;	    /* chunks below this may come */
	uint32_t announced; /* limit, as the source was told */
	uint64_t last;	    /* the last chunk's index, when it is known; else UINT64_MAX */
	uint32_t top;	    /* no chunk came with this index or above */
	uint64_t arrived;   /* chunks */
	struct receive_chunk *chunks; /* index n at n % DEVICE_WINDOW_MAX, or fewer */
};

struct migration_receiver {
	struct migration_link *link;
	struct ram_table table;
	/* Of each block: pages that may not be zeros. Atomic words, whole windows. */
	uint64_t **filled;
	bool *written; /* of each block: ram_place_is_written */
	bool *huge;    /* likewise: is written, and made of huge pages; atomic */
	/*
	 * Of each block: the kernel writes to a file for one at a time, and lets the others spin. (Of memory
	 * with gaps, over two connections: 0.57 s of processor time a GiB without these, 0.46 s with.)
	 */
	pthread_mutex_t *writing;
	const struct migration_receiver_ops *ops;
	void *context;
	bool placing; /* atomic */
	struct worker_pool *workers;
	uint32_t channel_count, barrier_count; /* all connections; those with barriers */
	struct receive_channel *channels;

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	bool stopping;	 /* also read without the lock */
	bool loaded;	 /* ops->all_loaded has returned */
	bool over;	 /* ops->ended is being called, or was */
	bool told;	 /* ops->ended has returned */
	bool data_ended; /* a connection with barriers is at its end */
	struct error *error;
	uint64_t round;
	uint32_t arrived; /* connections at the barrier */
	uint32_t ended;	  /* connections at their end */

	struct receive_device *devices;
	uint32_t device_count, loaded_count, busy_count;
	uint32_t window; /* of each device's chunks array */
	struct receive_chunk *chunks;
	uint8_t *pool;
	uint32_t places, granted; /* of the pool; promised to devices or in use */
	uint32_t *free_places, free_count;
	uint32_t peak;

	struct migration_received received; /* atomic */
};

static inline bool receiver_stopping(const struct migration_receiver *receiver)
{
	return __atomic_load_n(&receiver->stopping, __ATOMIC_RELAXED);
}

/* Ends everything with @error, which is taken over, unless it has ended. */
void receiver_fail(struct migration_receiver *receiver, struct error *error);
/* The last device has ended. */
void receiver_all_loaded(struct migration_receiver *receiver);
/* Waits until all connections are here. */
struct error *receiver_pass_barrier(struct migration_receiver *receiver, uint64_t round) MUST_CHECK;
/* A connection has come to its end. */
struct error *receiver_end_channel(struct migration_receiver *receiver, bool requested) MUST_CHECK;

struct error *receive_channel_init(struct receive_channel *channel,
				   struct migration_receiver *receiver, uint32_t index) MUST_CHECK;
void receive_channel_clear(struct receive_channel *channel);
/* Takes everything until the connection is closed, also after its end. */
struct error *receive_channel_run(struct receive_channel *channel) MUST_CHECK;

struct error *receive_devices_init(struct migration_receiver *receiver,
				   const struct migration_receiver_options *options) MUST_CHECK;
void receive_devices_clear(struct migration_receiver *receiver);
/* Tells the source what each device may send at first. */
struct error *receive_devices_start(struct migration_receiver *receiver) MUST_CHECK;
/* Where the bytes of a chunk go, whose record is @record, or why it is refused. */
struct error *receive_devices_expect(struct migration_receiver *receiver,
				     const struct wire_record *record, uint8_t **bytes) MUST_CHECK;
/* With the lock: no chunk comes any more. An error names a device whose state is not whole. */
struct error *receive_devices_check(const struct migration_receiver *receiver) MUST_CHECK;
/* They are there. */
void receive_devices_arrived(struct migration_receiver *receiver, const struct wire_record *record);

#endif
