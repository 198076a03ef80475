/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request to a virtio-blk device (virtio 1.2 section 5.2.6): what a chain of buffers asks for,
 * checked. Whoever owns the ring puts the chain's buffers there: they are guest memory that stays.
 *
 * The guest controls every byte of the chain, and how header, data and status are spread over its
 * buffers. What is checked here is copied out of guest memory first, so that it cannot change
 * between check and use.
 */
#ifndef GODWIT_BLK_BLK_REQUEST_H
#define GODWIT_BLK_BLK_REQUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/iov.h"

/* Request types (5.2.6). */
#define BLK_T_IN	   0
#define BLK_T_OUT	   1
#define BLK_T_FLUSH	   4
#define BLK_T_GET_ID	   8
#define BLK_T_DISCARD	   11
#define BLK_T_WRITE_ZEROES 13

/* The answer in the last byte of a request. */
enum blk_status { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

#define BLK_HEADER_SIZE 16 /* bytes: le32 type, le32 reserved, le64 sector */
#define BLK_RANGE_SIZE	16 /* bytes: le64 sector, le32 sectors, le32 flags */
#define BLK_ID_SIZE	20 /* bytes */

#define BLK_SEGMENTS_MAX                                                                           \
	254 /* data buffers that a driver may use: a chain of 256 with header and status */
/* Entries set aside for a chain: a buffer takes one more for each border of memory regions that it
 * crosses. */
#define BLK_BUFFERS_MAX (BLK_SEGMENTS_MAX + 2 + 16)
#define BLK_RANGES_MAX	16 /* discard or write-zeroes ranges in a request */
/* Of one range, in sectors: 1 GiB, so that no single operation of the host takes minutes. */
#define BLK_RANGE_SECTORS_MAX (1U << 21)

enum blk_work {
	BLK_READ,
	BLK_WRITE,
	BLK_SYNC,    /* everything completed so far reaches the storage */
	BLK_DISCARD, /* ranges: contents are no longer needed */
	BLK_ZERO,    /* ranges: read as zeros afterwards */
};

struct blk_range {
	uint64_t offset, size; /* bytes in the file */
	bool unmap;	       /* BLK_ZERO: the storage may be given back */
};

struct blk_request {
	/* The chain: buffers[0 .. out_count) are to be read, the in_count behind them to be written. */
	uint16_t out_count, in_count;
	uint64_t out_size, in_size; /* bytes; together less than 4 GiB */
	struct blk_request *next;   /* in whichever list it is */
	enum blk_work work;
	bool writing_zeros; /* a range that the file cannot zero by itself is being overwritten */
	bool unmap;	    /* of the present range */
	bool syncing;	    /* the work is done and is being made stable */
	uint8_t retries;    /* without progress */
	uint8_t range_count, range_next;
	uint16_t data_first, data_count; /* what is left: data[data_first .. data_count) */
	uint64_t offset;		 /* of it in the file, bytes */
	uint64_t remaining;		 /* of it, bytes */
	struct blk_range ranges[BLK_RANGES_MAX];
	struct iovec data[BLK_BUFFERS_MAX]; /* a copy: the buffers without header and status */
	struct iovec buffers[BLK_BUFFERS_MAX];
};

/* What requests may do. */
struct blk_limits {
	uint64_t sectors;   /* of 512 bytes */
	uint32_t alignment; /* of offset and length of reads and writes, bytes; at least 512 */
	bool readonly;
	bool discard, write_zeroes; /* negotiated */
	char id[BLK_ID_SIZE];	    /* padded with zeros, not terminated */
};

enum blk_parse {
	BLK_MALFORMED, /* no room for a header or a status: nothing can be answered */
	BLK_ANSWERED,  /* *status says how; there is nothing to do */
	BLK_TO_DO,     /* request->work and what belongs to it is set */
};

/* Reads the request out of its buffers. */
enum blk_parse blk_request_parse(struct blk_request *request, const struct blk_limits *limits,
				 enum blk_status *status);
/*
 * Writes @status, for which there is room as blk_request_parse has seen. Returns what the used ring says of
 * the length: bytes written from the start on (2.7.8.2), that is all of them on success; otherwise
 * nothing is promised about the data, and the status alone counts where it is all there is.
 */
uint32_t blk_request_answer(struct blk_request *request, enum blk_status status);
/* Marks the first @size bytes of the remaining data as done. */
void blk_request_advance(struct blk_request *request, uint64_t size);
/* Takes the next range into offset and remaining; false when all are done. */
bool blk_request_next_range(struct blk_request *request);
/* Whether a remaining buffer is not aligned to @address bytes, or its length not to @length bytes.
 */
bool blk_request_misaligned(const struct blk_request *request, uint32_t address, uint32_t length);

#endif
