/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads a snapshot that comes as a sequential stream. Nothing in it is trusted: every field is
 * checked before it is used, an error names it and its offset. The sections are verified before
 * they are handed out. Each chunk can be verified when it is there; only snapshot_receiver_finish
 * says that nothing is missing and every chunk is where it belongs.
 *
 *	snapshot_receive		the sections, and the names and sizes of the blocks
 *	snapshot_receiver_next …	a chunk
 *	    snapshot_receiver_pages	its pages
 *	snapshot_receiver_finish
 *
 * Memory: the sections (64 MiB at most), and a bit for each chunk.
 *
 * Threads: one at a time; cancel from any.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_RECEIVE_H
#define GODWIT_SNAPSHOT_SNAPSHOT_RECEIVE_H

#include "base/channel.h"
#include "snapshot/snapshot_file.h"

struct snapshot_receiver;

/*
 * Begins with what @channel, which it takes over also on error, brings next. *@file has the
 * sections and the blocks, of which only name and size are known, and the rest comes through its
 * member `receiver`. It is closed with snapshot_file_close. @damaged as in snapshot_open_options.
 */
struct error *snapshot_receive(struct channel *channel, bool damaged,
			       struct snapshot_file **file) MUST_CHECK;
/*
 * Whether the file @fd holds a stream, by its first bytes. False for what cannot be read at any
 * place, such as a pipe.
 */
bool snapshot_is_stream(int fd);

/* What stands in front of a chunk's pages. */
struct snapshot_record {
	uint32_t block;	 /* index in the file's blocks */
	uint64_t chunk;	 /* of the block */
	uint64_t stored; /* bit n: its page n comes; the others are zeros */
	struct snapshot_checksum checksum;
};

/* The next chunk, none of them twice; *@more is false when there is none. */
struct error *snapshot_receiver_next(struct snapshot_receiver *receiver,
				     struct snapshot_record *record, bool *more) MUST_CHECK;
/*
 * Reads all pages of the record to their places in the chunk that begins at @bytes; the other pages
 * are not touched.
 */
struct error *snapshot_receiver_pages(struct snapshot_receiver *receiver,
				      const struct snapshot_record *record,
				      uint8_t *bytes) MUST_CHECK;
/* An error about a chunk whose content does not have its checksum. */
struct error *snapshot_receiver_bad_chunk(const struct snapshot_receiver *receiver,
					  const struct snapshot_record *record) MUST_CHECK;
/* After the last chunk: that the stream is whole, and that its channel ended well. */
struct error *snapshot_receiver_finish(struct snapshot_receiver *receiver) MUST_CHECK;
/* When anything about the stream failed with @error: as channel_explain. */
struct error *snapshot_receiver_explain(struct snapshot_receiver *receiver,
					struct error *error) MUST_CHECK;
/* Makes all of these fail from now on, also while they wait, with code ECANCELED. */
void snapshot_receiver_cancel(struct snapshot_receiver *receiver);

/* For snapshot_file_close. Accepts NULL. */
void snapshot_receiver_destroy(struct snapshot_receiver *receiver);

#endif
