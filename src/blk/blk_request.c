/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parsing of virtio-blk requests, see blk_request.h. Pure but for what it reads and writes in
 * the buffers; runs on the queue's thread, allocates nothing.
 */
#include "blk/blk_request.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/iov.h"
#include "blk/blk_file.h"

#define RANGE_UNMAP 1U /* the only flag of a range */

static enum blk_parse answer(enum blk_status *status, enum blk_status value)
{
	*status = value;
	return BLK_ANSWERED;
}

static bool read_out(const struct blk_request *request, uint64_t offset, void *bytes, size_t size)
{
	return iov_copy_out_at(request->buffers, request->out_count, offset, bytes, size);
}

/* Turns sectors into bytes, if all of them are on the disk. */
static bool on_disk(const struct blk_limits *limits, uint64_t sector, uint64_t bytes,
		    uint64_t *offset)
{
	uint64_t sectors = bytes / BLK_SECTOR;

	if (bytes % BLK_SECTOR || !range_contains(0, limits->sectors, sector, sectors))
		return false;
	*offset = sector * BLK_SECTOR; /* at most the size of the disk */
	return true;
}

/* Reads and writes: @size bytes of data at @sector, in the chain's readable or writable part. */
static enum blk_parse parse_data(struct blk_request *request, const struct blk_limits *limits,
				 uint64_t sector, enum blk_status *status)
{
	bool reading = request->work == BLK_READ;

	request->remaining = reading ? request->in_size - 1 : request->out_size - BLK_HEADER_SIZE;
	if (!on_disk(limits, sector, request->remaining, &request->offset) ||
	    request->offset % limits->alignment || request->remaining % limits->alignment)
		return answer(status, BLK_S_IOERR);
	if (!request->remaining)
		return answer(status, BLK_S_OK);
	if (reading) {
		memcpy(request->data, request->buffers + request->out_count,
		       request->in_count * sizeof(*request->data));
		request->data_first = 0;
		request->data_count =
		    iov_truncate(request->data, request->in_count, request->remaining);
	} else {
		memcpy(request->data, request->buffers,
		       request->out_count * sizeof(*request->data));
		request->data_first = iov_skip(request->data, request->out_count, BLK_HEADER_SIZE);
		request->data_count = request->out_count;
	}
	return BLK_TO_DO;
}

static enum blk_parse parse_ranges(struct blk_request *request, const struct blk_limits *limits,
				   enum blk_status *status)
{
	uint64_t size = request->out_size - BLK_HEADER_SIZE;

	if (!size || size % BLK_RANGE_SIZE || size / BLK_RANGE_SIZE > BLK_RANGES_MAX)
		return answer(status, BLK_S_IOERR);
	request->range_count = (uint8_t)(size / BLK_RANGE_SIZE);
	request->range_next = 0;
	for (uint8_t i = 0; i < request->range_count; i++) {
		struct blk_range *range = &request->ranges[i];
		uint8_t raw[BLK_RANGE_SIZE];
		uint32_t sectors, flags;

		if (!read_out(request, BLK_HEADER_SIZE + i * BLK_RANGE_SIZE, raw, sizeof(raw)))
			return answer(status, BLK_S_IOERR);
		sectors = get_le32(raw + 8);
		flags = get_le32(raw + 12);
		if (flags & ~RANGE_UNMAP || (flags && request->work == BLK_DISCARD))
			return answer(status, BLK_S_UNSUPP);
		range->unmap = flags & RANGE_UNMAP;
		range->size = (uint64_t)sectors * BLK_SECTOR;
		if (sectors > BLK_RANGE_SECTORS_MAX ||
		    !on_disk(limits, get_le64(raw), range->size, &range->offset))
			return answer(status, BLK_S_IOERR);
	}
	return blk_request_next_range(request) ? BLK_TO_DO : answer(status, BLK_S_OK);
}

static enum blk_parse parse_id(struct blk_request *request, const struct blk_limits *limits,
			       enum blk_status *status)
{
	bool right = request->in_size == BLK_ID_SIZE + 1 &&
		     iov_copy_in_at(request->buffers + request->out_count, request->in_count, 0,
				    limits->id, BLK_ID_SIZE);

	return answer(status, right ? BLK_S_OK : BLK_S_IOERR);
}

enum blk_parse blk_request_parse(struct blk_request *request, const struct blk_limits *limits,
				 enum blk_status *status)
{
	uint8_t header[BLK_HEADER_SIZE];
	uint64_t sector;

	if (!read_out(request, 0, header, sizeof(header)) || !request->in_size)
		return BLK_MALFORMED;
	request->writing_zeros = false;
	request->syncing = false;
	request->retries = 0;
	request->remaining = 0;
	sector = get_le64(header + 8);
	switch (get_le32(header)) {
	case BLK_T_IN:
		request->work = BLK_READ;
		return parse_data(request, limits, sector, status);
	case BLK_T_OUT:
		request->work = BLK_WRITE;
		if (limits->readonly)
			return answer(status, BLK_S_IOERR);
		return parse_data(request, limits, sector, status);
	case BLK_T_FLUSH:
		request->work = BLK_SYNC;
		return limits->readonly ? answer(status, BLK_S_OK) : BLK_TO_DO;
	case BLK_T_GET_ID:
		return parse_id(request, limits, status);
	case BLK_T_DISCARD:
		request->work = BLK_DISCARD;
		if (!limits->discard)
			return answer(status, BLK_S_UNSUPP);
		return parse_ranges(request, limits, status);
	case BLK_T_WRITE_ZEROES:
		request->work = BLK_ZERO;
		if (!limits->write_zeroes)
			return answer(status, BLK_S_UNSUPP);
		return parse_ranges(request, limits, status);
	default:
		return answer(status, BLK_S_UNSUPP);
	}
}

uint32_t blk_request_answer(struct blk_request *request, enum blk_status status)
{
	uint32_t size = (uint32_t)request->in_size;
	uint8_t byte = (uint8_t)status;
	bool written = iov_copy_in_at(request->buffers + request->out_count, request->in_count,
				      size - 1, &byte, 1);

	return written && (status == BLK_S_OK || size == 1) ? size : 0;
}

void blk_request_advance(struct blk_request *request, uint64_t size)
{
	request->offset += size;
	request->remaining -= size;
	request->data_first += iov_skip(request->data + request->data_first,
					request->data_count - request->data_first, size);
}

bool blk_request_next_range(struct blk_request *request)
{
	while (request->range_next < request->range_count) {
		const struct blk_range *range = &request->ranges[request->range_next++];

		request->offset = range->offset;
		request->remaining = range->size;
		request->unmap = range->unmap;
		if (range->size)
			return true;
	}
	return false;
}

bool blk_request_misaligned(const struct blk_request *request, uint32_t address, uint32_t length)
{
	for (uint16_t i = request->data_first; i < request->data_count; i++)
		if (!is_aligned((uintptr_t)request->data[i].iov_base, address) ||
		    !is_aligned(request->data[i].iov_len, length))
			return true;
	return false;
}
