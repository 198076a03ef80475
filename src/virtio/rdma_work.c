/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Work requests of the RDMA device: from send queues in guest memory into the engine, which holds a part
 * of a long queue at a time.
 *
 * Runs on the device's loop. The guest controls elements and the producer's index. An element is copied
 * before it is looked at; one that makes no sense goes to the engine as work that is refused in its
 * turn, so that everything before it completes. How much is done in one go is limited, so that a
 * guest that posts without end keeps the device from nothing else.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define ELEMENT_DATA 208U
#define ELEMENT_MAX  (ELEMENT_DATA + INLINE_MAX)
#define SEGMENT_SIZE 16U
#define FEED_MAX     256U /* work requests of a pair before others have their turn */

#define FLAG_FENCE     1U
#define FLAG_SIGNALED  2U
#define FLAG_SOLICITED 4U
#define FLAG_INLINE    8U

/* Both at once is what no service can. */
#define REFUSED (GODWIT_RDMA_WITH_IMMEDIATE | GODWIT_RDMA_WITH_INVALIDATE)

enum opcode {
	OPCODE_WRITE = 0,
	OPCODE_WRITE_IMMEDIATE = 1,
	OPCODE_SEND = 2,
	OPCODE_SEND_IMMEDIATE = 3,
	OPCODE_READ = 4,
	OPCODE_COMPARE_SWAP = 5,
	OPCODE_FETCH_ADD = 6,
	OPCODE_INVALIDATE = 7,
	OPCODE_BIND = 8,
	OPCODE_SEND_INVALIDATE = 9,
	OPCODE_REGISTER = 32,
};

struct godwit_rdma_segment adapter_segment_decode(const uint8_t *bytes)
{
	return (struct godwit_rdma_segment){get_le64(bytes), get_le32(bytes + 8),
					    get_le32(bytes + 12)};
}

/* --- Decoding ---------------------------------------------------------------------------------- */

static void decode_datagram(const struct virtio_rdma *rdma, const uint8_t *bytes,
			    struct godwit_rdma_work *work)
{
	uint8_t index = bytes[84];

	/* An empty source is one that no port sends from: the datagram is lost, as one without a way. */
	if (index < GIDS_MAX)
		memcpy(work->source, rdma->gids[index], sizeof(work->source));
	memcpy(work->next_hop, bytes + 58, sizeof(work->next_hop));
	memcpy(work->destination, bytes + 64, sizeof(work->destination));
	work->destination_pair = get_le32(bytes + 24) & 0xffffff;
	work->queue_key = get_le32(bytes + 28);
}

static void decode_remote(const uint8_t *bytes, struct godwit_rdma_work *work)
{
	work->remote_address = get_le64(bytes + 24);
	work->remote_key = get_le32(bytes + 32);
}

static void decode_atomic(const uint8_t *bytes, struct godwit_rdma_work *work)
{
	work->remote_address = get_le64(bytes + 24);
	work->compare = work->swap = get_le64(bytes + 32);
	if (work->operation == GODWIT_RDMA_COMPARE_SWAP)
		work->swap = get_le64(bytes + 40);
	work->remote_key = get_le32(bytes + 48);
}

static void decode_bind(const uint8_t *bytes, struct godwit_rdma_work *work)
{
	work->bind_address = get_le64(bytes + 24);
	work->bind_size = get_le64(bytes + 32);
	work->region = get_le32(bytes + 40);
	work->window = get_le32(bytes + 44);
	work->bind_key = get_le32(bytes + 48);
	work->bind_access = get_le32(bytes + 52);
}

static void decode_register(const uint8_t *bytes, struct godwit_rdma_work *work)
{
	work->bind_address = get_le64(bytes + 24);
	work->bind_size = get_le64(bytes + 32);
	work->register_data[0] = get_le64(bytes + 40);
	work->register_data[1] = (uint64_t)get_le32(bytes + 48) << 32 | get_le32(bytes + 52);
	work->bind_key = get_le32(bytes + 56);
	work->bind_access = get_le32(bytes + 60);
}

/* Operation, flags and what they need beside the data. False: there is no such opcode. */
static bool decode_operation(const struct adapter_pair *pair, const uint8_t *bytes,
			     struct godwit_rdma_work *work)
{
	uint32_t flags = get_le32(bytes + 16);

	if (flags & FLAG_SIGNALED)
		work->flags |= GODWIT_RDMA_SIGNALED;
	if (flags & FLAG_SOLICITED)
		work->flags |= GODWIT_RDMA_SOLICITED;
	if (flags & FLAG_FENCE)
		work->flags |= GODWIT_RDMA_FENCED;
	work->operation = GODWIT_RDMA_SEND;
	switch (get_le32(bytes + 12)) {
	case OPCODE_SEND_IMMEDIATE:
		work->flags |= GODWIT_RDMA_WITH_IMMEDIATE;
		work->immediate = get_be32(bytes + 20);
		break;
	case OPCODE_SEND_INVALIDATE:
		work->flags |= GODWIT_RDMA_WITH_INVALIDATE;
		work->invalidate = get_le32(bytes + 20);
		break;
	case OPCODE_SEND:
		break;
	case OPCODE_WRITE_IMMEDIATE:
		work->flags |= GODWIT_RDMA_WITH_IMMEDIATE;
		work->immediate = get_be32(bytes + 20);
		/* fall through */
	case OPCODE_WRITE:
		work->operation = GODWIT_RDMA_WRITE;
		decode_remote(bytes, work);
		break;
	case OPCODE_READ:
		work->operation = GODWIT_RDMA_READ;
		decode_remote(bytes, work);
		break;
	case OPCODE_COMPARE_SWAP:
		work->operation = GODWIT_RDMA_COMPARE_SWAP;
		decode_atomic(bytes, work);
		break;
	case OPCODE_FETCH_ADD:
		work->operation = GODWIT_RDMA_FETCH_ADD;
		decode_atomic(bytes, work);
		break;
	case OPCODE_INVALIDATE:
		work->operation = GODWIT_RDMA_INVALIDATE;
		work->invalidate = get_le32(bytes + 20);
		break;
	case OPCODE_BIND:
		work->operation = GODWIT_RDMA_BIND;
		decode_bind(bytes, work);
		break;
	case OPCODE_REGISTER:
		work->operation = GODWIT_RDMA_REGISTER;
		decode_register(bytes, work);
		break;
	default:
		return false;
	}
	if (pair->service == GODWIT_RDMA_DATAGRAM)
		decode_datagram(pair->rdma, bytes, work);
	return true;
}

static bool has_data(const struct godwit_rdma_work *work)
{
	return work->operation >= GODWIT_RDMA_SEND && work->operation <= GODWIT_RDMA_FETCH_ADD;
}

/* @segments and @bytes hold the data of @work as long as it is used. */
static bool decode(const struct adapter_pair *pair, const uint8_t *bytes,
		   struct godwit_rdma_work *work, struct godwit_rdma_segment *segments)
{
	uint32_t length = get_le32(bytes + 184), count = get_le32(bytes + 196);

	work->id = get_le64(bytes);
	if (!decode_operation(pair, bytes, work))
		return false;
	if (!has_data(work))
		return true;
	if (get_le32(bytes + 16) & FLAG_INLINE) {
		work->bytes = bytes + ELEMENT_DATA;
		work->byte_count = length;
		return length <= pair->send_inline;
	}
	if (count > pair->send_segments)
		return false;
	for (uint32_t i = 0; i < count; i++)
		segments[i] = adapter_segment_decode(bytes + ELEMENT_DATA + i * SEGMENT_SIZE);
	work->segments = segments;
	work->segment_count = count;
	return true;
}

/* --- Feeding ----------------------------------------------------------------------------------- */

void adapter_pair_will_feed(struct adapter_pair *pair)
{
	struct virtio_rdma *rdma = pair->rdma;

	if (pair->feed_listed)
		return;
	pair->feed_listed = true;
	pair->feed_next = NULL;
	if (rdma->feed)
		rdma->feed_last->feed_next = pair;
	else
		rdma->feed = pair;
	rdma->feed_last = pair;
}

void adapter_pair_will_not_feed(struct adapter_pair *pair)
{
	struct virtio_rdma *rdma = pair->rdma;
	struct adapter_pair *before = NULL;

	if (!pair->feed_listed)
		return;
	for (struct adapter_pair *at = rdma->feed; at != pair; at = at->feed_next)
		before = at;
	if (before)
		before->feed_next = pair->feed_next;
	else
		rdma->feed = pair->feed_next;
	if (rdma->feed_last == pair)
		rdma->feed_last = before;
	pair->feed_listed = false;
}

/* Gives the engine the next work request. False: there is none, or its memory is not there. */
static bool feed_one(struct adapter_pair *pair)
{
	struct godwit_rdma_segment segments[SEGMENTS_MAX];
	struct adapter_ring *ring = &pair->sends;
	struct godwit_rdma_work work = {0};
	uint8_t bytes[ELEMENT_MAX];
	uint32_t producer,
	    size = ELEMENT_DATA + MAX(pair->send_inline, SEGMENT_SIZE * pair->send_segments);

	if (!adapter_ring_load(pair->rdma, ring, RING_PRODUCER, &producer) ||
	    producer == ring->own || !adapter_ring_read(pair->rdma, ring, ring->own, bytes, size))
		return false;
	if (!decode(pair, bytes, &work, segments))
		work = (struct godwit_rdma_work){
		    .id = work.id, .operation = GODWIT_RDMA_SEND, .flags = REFUSED};
	ring->own = adapter_ring_next(ring, ring->own);
	/* Before: if the pair has failed it is flushed, and told to be done, at once. */
	pair->in_engine++;
	return !godwit_rdma_pair_send(pair->pair, &work);
}

static void feed(struct adapter_pair *pair)
{
	uint32_t fed = 0;

	if (godwit_rdma_pair_state(pair->pair) < GODWIT_RDMA_RTS)
		return;
	while (pair->in_engine < IN_ENGINE_MAX && pair->in_engine < pair->sends.slots &&
	       feed_one(pair)) {
		if (++fed < FEED_MAX)
			continue;
		adapter_pair_will_feed(pair);
		return;
	}
}

void adapter_pairs_feed(struct virtio_rdma *rdma)
{
	/* Those that are listed now: who wants another turn has it later. */
	struct adapter_pair *last = rdma->feed_last, *pair;

	if (!rdma->feed)
		return;
	do {
		pair = rdma->feed;
		rdma->feed = pair->feed_next;
		pair->feed_listed = false;
		feed(pair);
	} while (pair != last);
}
