/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes a snapshot as a sequential stream into a channel: the same sections as in a file, then
 * chunks of memory one after another, then the mark of completion (docs/snapshot-format.md).
 *
 *	snapshot_sender_create	names the blocks
 *	snapshot_head_add_…	states of devices, configuration
 *	snapshot_sender_begin	everything in front of the chunks goes out
 *	snapshot_sender_chunk …
 *	snapshot_sender_finish	the mark of completion, the end of the channel
 *
 * Threads: one at a time; cancel from any. Errors: of the channel; nothing can be sent after one.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_SEND_H
#define GODWIT_SNAPSHOT_SNAPSHOT_SEND_H

#include "base/channel.h"
#include "base/error.h"
#include "snapshot/snapshot_checksum.h"
#include "snapshot/snapshot_head.h"
#include "snapshot/snapshot_writer.h"

struct snapshot_sender;

/* Takes @channel over, also on error. Blocks as for snapshot_writer_create. Writes nothing yet. */
struct error *snapshot_sender_create(struct channel *channel,
				     const struct snapshot_block_plan *blocks, uint32_t block_count,
				     struct snapshot_sender **sender) MUST_CHECK;
/* Accepts NULL. Without snapshot_sender_finish, who reads gets a stream that is cut off. */
void snapshot_sender_destroy(struct snapshot_sender *sender);
DEFINE_CLEANUP(snapshot_sender, struct snapshot_sender *, snapshot_sender_destroy)
#define AUTO_SNAPSHOT_SENDER AUTO(cleanup_snapshot_sender)

/* Sections are added to it before snapshot_sender_begin. */
struct snapshot_head *snapshot_sender_head(struct snapshot_sender *sender);
struct error *snapshot_sender_begin(struct snapshot_sender *sender) MUST_CHECK;
/*
 * Sends chunk @chunk of block @block, whose content begins at @bytes: the pages in @stored (bit n:
 * its n-th page; others are zeros, and not looked at), with the @checksum of the whole. Each chunk
 * once, in any order; one that is left out is zeros.
 */
struct error *snapshot_sender_chunk(struct snapshot_sender *sender, uint32_t block, uint64_t chunk,
				    uint64_t stored, struct snapshot_checksum checksum,
				    const uint8_t *bytes) MUST_CHECK;
/* The end; as durable as the channel makes it (channel_finish). */
struct error *snapshot_sender_finish(struct snapshot_sender *sender) MUST_CHECK;
/* Makes all of these fail from now on, also while they wait, with code ECANCELED. */
void snapshot_sender_cancel(struct snapshot_sender *sender);
/* Bytes sent so far. */
uint64_t snapshot_sender_size(const struct snapshot_sender *sender);

#endif
