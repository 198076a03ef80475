/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The raw file or block device behind a virtio-blk device: opening, locking and measuring it.
 *
 * Everything here happens once, when the device is created; the user controls the path, whoever
 * made the file its content and size. Requests go through blk_ring.h. The size is fixed when the
 * file is opened: growing it later is not seen, and where it was truncated behind our back requests
 * fail.
 */
#ifndef GODWIT_BLK_BLK_FILE_H
#define GODWIT_BLK_BLK_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define BLK_SECTOR 512 /* bytes: the unit of the protocol, whatever the block size */

struct blk_file_options {
	const char *path;
	bool readonly;
	bool direct; /* O_DIRECT: past the host's page cache */
	bool lock;   /* refuse a file that another process uses in a way that conflicts */
	bool later;  /* not yet: blk_file_lock does when it is asked to */
	/*
	 * The open file of another process of this host, with its lock, in place of opening @path.
	 */
	bool handed;
	int handed_fd; /* taken over, also on error */
};

struct blk_file {
	char *path;
	int fd;
	bool readonly, direct, block_device;
	bool lock;     /* as in the options */
	bool shared;   /* another process has the same open file, and so the same lock, */
	bool away;     /* and goes on with it */
	uint64_t size; /* bytes */
	uint64_t
	    sectors; /* of BLK_SECTOR; the last may reach past the end and reads as zeros there */
	uint32_t block_size; /* bytes, the unit of I/O the guest should use; with direct it must */
	uint32_t physical_size;	   /* bytes, what the storage writes without reading first */
	uint32_t optimal_size;	   /* bytes, 0 unknown */
	uint32_t memory_alignment; /* bytes that buffers must be aligned to; 1 unless direct */
	bool can_punch; /* ranges can be given back to the storage, and read as zeros then */
};

/* Fills *file; undone by blk_file_close, which must also be called after an error. Errors name the
 * path. */
struct error *blk_file_open(struct blk_file *file,
			    const struct blk_file_options *options) MUST_CHECK;
/*
 * Takes the lock that the options asked for, or gives it back. Idempotent. The lock of a file that
 * is shared is not given back, but left to the other process.
 */
struct error *blk_file_lock(struct blk_file *file) MUST_CHECK;
void blk_file_unlock(struct blk_file *file);
/*
 * Another process has the descriptor, which stays the file's, as well (blk_file_options.handed);
 * or not any more.
 */
void blk_file_share(struct blk_file *file, bool share);
/* Everything that was written is on the storage. */
struct error *blk_file_sync(const struct blk_file *file) MUST_CHECK;
/* Releases the lock with the descriptor. */
void blk_file_close(struct blk_file *file);

#endif
