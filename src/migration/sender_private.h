/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of sender.h share: sender.c has its life, rounds and barriers; send_channel.c makes
 * records of pages and sends them over one connection; send_device.c states and credits;
 * send_compress.c is about zstd.
 */
#ifndef GODWIT_MIGRATION_SENDER_PRIVATE_H
#define GODWIT_MIGRATION_SENDER_PRIVATE_H

#include <pthread.h>

#include "migration/bandwidth.h"
#include "migration/ram_presence.h"
#include "migration/ram_table.h"
#include "migration/send_compress.h"
#include "migration/sender.h"

/* What one call to the kernel carries: few calls, and yet the receiver has something to do soon. */
#define SEND_RECORDS 64
#define SEND_PARTS   1024
#define SEND_BYTES   (1 << 20)
/* Parts of one record at most: every other page, and its head. */
#define SEND_RECORD_PARTS (WIRE_WINDOW_PAGES / 2 + 1)

/* What a connection takes from the bitmaps at once: as much as ram_presence looks up at once. */
#define PIECE_PAGES 1024

struct send_channel {
	struct migration_sender *sender;
	struct transport *transport;
	struct worker_job job;
	bool unlimited;	      /* not held up by the limit of bandwidth */
	size_t owed;	      /* bytes that were sent and not taken of the limit yet */
	pthread_mutex_t lock; /* guards the connection and all that follows */
	uint32_t waiting;     /* atomic: others who want the lock */
	bool claims;	      /* a page of the host, which others leave alone; the sender's lock */
	uint32_t claimed_block;
	uint64_t claimed_page; /* its first */
	struct ram_presence *presence;
	struct compressor *compressor; /* NULL: not wanted */
	int section;		       /* a read section while there are parts; -1: none */
	uint32_t records, parts;
	size_t bytes;		    /* of the parts */
	struct migration_sent sent; /* not yet added to the sender's */
	uint8_t heads[SEND_RECORDS][WIRE_RECORD_SIZE];
	struct iovec part[SEND_PARTS];
};

struct send_device {
	uint32_t next;	      /* index of the next chunk */
	uint32_t indexes;     /* below which there is credit */
	uint64_t sent, bytes; /* likewise */
	bool ended;
};

struct migration_sender {
	struct migration_link *link;
	struct ram_table table;
	uint64_t *first_piece; /* of each block, and the end */
	uint32_t channel_count;
	struct send_channel **channels; /* the one for requested pages behind the last one */
	struct worker_pool *workers;
	struct bandwidth *bandwidth;
	uint64_t round;

	uint64_t *const *pending; /* of the round that runs */
	bool fresh;
	bool whole;	     /* migration_sender_keep_whole */
	uint64_t next_piece; /* atomic */
	bool interrupted;    /* atomic */
	uint32_t turn;	     /* atomic; which connection the next chunk tries first */

	pthread_mutex_t lock; /* guards the next ones */
	pthread_cond_t changed;
	struct send_device *devices;
	uint32_t device_count;
	bool stopping; /* also read without the lock */
	struct error *error;
	struct migration_sent sent;
};

static inline bool sender_stopping(const struct migration_sender *sender)
{
	return __atomic_load_n(&sender->stopping, __ATOMIC_RELAXED);
}

/* Ends everything with @error, which is taken over, unless it has ended. Returns what to say. */
struct error *sender_fail(struct migration_sender *sender, struct error *error) MUST_CHECK;
/* The error of a sender that has ended, or NULL. */
struct error *sender_check(struct migration_sender *sender) MUST_CHECK;

struct error *send_channel_create(struct migration_sender *sender, struct transport *transport,
				  const struct migration_sender_options *options,
				  struct send_channel **channel) MUST_CHECK;
void send_channel_destroy(struct send_channel *channel);
/* Locks it; whoever sends pages over it gives way. */
void send_channel_enter(struct send_channel *channel);
/* With the lock, after something was sent: lets others in who wait. */
void send_channel_give_way(struct send_channel *channel);
/*
 * With the lock: the pages of the window of @block from @first on that are in @words become part of
 * what is sent next, which may be now.
 */
struct error *send_channel_add(struct send_channel *channel, uint32_t block, uint64_t first,
			       uint64_t words[WIRE_WINDOW_WORDS], bool fresh) MUST_CHECK;
/* With the lock: sends what was added. */
struct error *send_channel_flush(struct send_channel *channel) MUST_CHECK;
/*
 * With the lock, nothing added, nothing claimed: waits for the limit of bandwidth where that was not
 * done before. In post-copy, whoever takes a page sends it at once, for somebody may wait for it.
 */
struct error *send_channel_pay(struct send_channel *channel) MUST_CHECK;
/* With the lock, nothing added: sends @record and its @bytes. */
struct error *send_channel_record(struct send_channel *channel, const struct wire_record *record,
				  const void *bytes) MUST_CHECK;
/* Takes the bits of a window out of @pending, whose block has @pages pages. False: there are none. */
bool send_take_window(uint64_t *pending, uint64_t pages, uint64_t first,
		      uint64_t words[WIRE_WINDOW_WORDS]);

#endif
