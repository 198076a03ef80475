/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The codec of the transport headers.
 *
 * Runs on any thread: there is no state. A peer controls every byte that is decoded: nothing is read
 * past the end, and what a field means is for the queue pair to judge.
 */
#include "rdma/packet.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

#define SEND	    (RDMA_IS_SEND | RDMA_HAS_PAYLOAD)
#define WRITE	    (RDMA_IS_WRITE | RDMA_HAS_PAYLOAD)
#define WRITE_FIRST (WRITE | RDMA_BEGINS | RDMA_HAS_RETH)
#define ONLY	    (RDMA_BEGINS | RDMA_ENDS)
#define RESPONSE    (RDMA_IS_RESPONSE | RDMA_HAS_PAYLOAD)
#define ATOMIC	    (RDMA_IS_ATOMIC | ONLY | RDMA_HAS_ATOMIC)

static const uint32_t operations[] = {
    [RDMA_SEND_FIRST] = SEND | RDMA_BEGINS,
    [RDMA_SEND_MIDDLE] = SEND,
    [RDMA_SEND_LAST] = SEND | RDMA_ENDS,
    [RDMA_SEND_LAST_IMMEDIATE] = SEND | RDMA_ENDS | RDMA_HAS_IMMEDIATE,
    [RDMA_SEND_ONLY] = SEND | ONLY,
    [RDMA_SEND_ONLY_IMMEDIATE] = SEND | ONLY | RDMA_HAS_IMMEDIATE,
    [RDMA_WRITE_FIRST] = WRITE_FIRST,
    [RDMA_WRITE_MIDDLE] = WRITE,
    [RDMA_WRITE_LAST] = WRITE | RDMA_ENDS,
    [RDMA_WRITE_LAST_IMMEDIATE] = WRITE | RDMA_ENDS | RDMA_HAS_IMMEDIATE,
    [RDMA_WRITE_ONLY] = WRITE_FIRST | RDMA_ENDS,
    [RDMA_WRITE_ONLY_IMMEDIATE] = WRITE_FIRST | RDMA_ENDS | RDMA_HAS_IMMEDIATE,
    [RDMA_READ_REQUEST] = RDMA_IS_READ | ONLY | RDMA_HAS_RETH,
    [RDMA_READ_RESPONSE_FIRST] = RESPONSE | RDMA_BEGINS | RDMA_HAS_AETH,
    [RDMA_READ_RESPONSE_MIDDLE] = RESPONSE,
    [RDMA_READ_RESPONSE_LAST] = RESPONSE | RDMA_ENDS | RDMA_HAS_AETH,
    [RDMA_READ_RESPONSE_ONLY] = RESPONSE | ONLY | RDMA_HAS_AETH,
    [RDMA_ACKNOWLEDGE] = RDMA_IS_RESPONSE | ONLY | RDMA_HAS_AETH,
    [RDMA_ATOMIC_ACKNOWLEDGE] = RDMA_IS_RESPONSE | ONLY | RDMA_HAS_AETH | RDMA_HAS_ATOMIC_ACK,
    [RDMA_COMPARE_SWAP] = ATOMIC,
    [RDMA_FETCH_ADD] = ATOMIC,
    [RDMA_SEND_LAST_INVALIDATE] = SEND | RDMA_ENDS | RDMA_HAS_INVALIDATE,
    [RDMA_SEND_ONLY_INVALIDATE] = SEND | ONLY | RDMA_HAS_INVALIDATE,
};

uint32_t rdma_opcode_flags(uint8_t opcode)
{
	uint8_t operation = opcode & (uint8_t)~RDMA_SERVICE_MASK;

	if (operation >= ARRAY_SIZE(operations))
		return 0;
	switch (opcode & RDMA_SERVICE_MASK) {
	case RDMA_SERVICE_RC:
		return operations[operation];
	case RDMA_SERVICE_UC:
		return operation <= RDMA_WRITE_ONLY_IMMEDIATE ? operations[operation] : 0;
	case RDMA_SERVICE_UD:
		if (operation != RDMA_SEND_ONLY && operation != RDMA_SEND_ONLY_IMMEDIATE)
			return 0;
		return operations[operation] | RDMA_HAS_DETH;
	default:
		return 0;
	}
}

static uint32_t headers_size(uint32_t flags)
{
	return RDMA_BTH_SIZE + (flags & RDMA_HAS_DETH ? 8 : 0) + (flags & RDMA_HAS_RETH ? 16 : 0) +
	       (flags & RDMA_HAS_ATOMIC ? 28 : 0) + (flags & RDMA_HAS_AETH ? 4 : 0) +
	       (flags & RDMA_HAS_ATOMIC_ACK ? 8 : 0) + (flags & RDMA_HAS_IMMEDIATE ? 4 : 0) +
	       (flags & RDMA_HAS_INVALIDATE ? 4 : 0);
}

uint32_t rdma_headers_size(uint8_t opcode)
{
	return headers_size(rdma_opcode_flags(opcode));
}

uint32_t rdma_packet_size(uint8_t opcode, uint32_t payload_size)
{
	return rdma_headers_size(opcode) + ((payload_size + 3) & ~3U);
}

static uint32_t get_be24(const uint8_t *bytes)
{
	return get_be32(bytes) & RDMA_24_BITS;
}

bool rdma_packet_decode(const uint8_t *bytes, size_t size, struct rdma_packet *packet)
{
	uint32_t flags, pad;
	const uint8_t *next = bytes + RDMA_BTH_SIZE;

	*packet = (struct rdma_packet){0};
	if (size < RDMA_BTH_SIZE || bytes[1] & 0x0f)
		return false;
	flags = rdma_opcode_flags(bytes[0]);
	pad = bytes[1] >> 4 & 3;
	if (!flags || size < headers_size(flags) + pad)
		return false;
	packet->opcode = bytes[0];
	packet->flags = flags;
	packet->solicited = bytes[1] & 0x80;
	packet->pkey = get_be16(bytes + 2);
	packet->queue_pair = get_be24(bytes + 4);
	packet->ack_request = bytes[8] & 0x80;
	packet->psn = get_be24(bytes + 8);
	if (flags & RDMA_HAS_DETH) {
		packet->queue_key = get_be32(next);
		packet->source = get_be24(next + 4);
		next += 8;
	}
	if (flags & (RDMA_HAS_RETH | RDMA_HAS_ATOMIC)) {
		packet->address = get_be64(next);
		packet->key = get_be32(next + 8);
		next += 12;
	}
	if (flags & RDMA_HAS_RETH) {
		packet->length = get_be32(next);
		next += 4;
	}
	if (flags & RDMA_HAS_ATOMIC) {
		packet->swap = get_be64(next);
		packet->compare = get_be64(next + 8);
		next += 16;
	}
	if (flags & RDMA_HAS_AETH) {
		packet->syndrome = next[0];
		packet->messages = get_be24(next);
		next += 4;
	}
	if (flags & RDMA_HAS_ATOMIC_ACK) {
		packet->original = get_be64(next);
		next += 8;
	}
	if (flags & RDMA_HAS_IMMEDIATE) {
		packet->immediate = get_be32(next);
		next += 4;
	}
	if (flags & RDMA_HAS_INVALIDATE) {
		packet->invalidate = get_be32(next);
		next += 4;
	}
	packet->payload = next;
	packet->payload_size = (uint32_t)(size - (size_t)(next - bytes) - pad);
	return flags & RDMA_HAS_PAYLOAD || !(packet->payload_size + pad);
}

uint8_t *rdma_packet_encode(const struct rdma_packet *packet, uint8_t *bytes)
{
	uint32_t flags = rdma_opcode_flags(packet->opcode), pad = -packet->payload_size & 3;
	uint8_t *next = bytes + RDMA_BTH_SIZE;

	bytes[0] = packet->opcode;
	bytes[1] = (uint8_t)((packet->solicited ? 0x80 : 0) | pad << 4);
	put_be16(bytes + 2, packet->pkey);
	put_be32(bytes + 4, packet->queue_pair & RDMA_24_BITS);
	put_be32(bytes + 8, (packet->ack_request ? 1U << 31 : 0) | (packet->psn & RDMA_24_BITS));
	if (flags & RDMA_HAS_DETH) {
		put_be32(next, packet->queue_key);
		put_be32(next + 4, packet->source & RDMA_24_BITS);
		next += 8;
	}
	if (flags & (RDMA_HAS_RETH | RDMA_HAS_ATOMIC)) {
		put_be64(next, packet->address);
		put_be32(next + 8, packet->key);
		next += 12;
	}
	if (flags & RDMA_HAS_RETH) {
		put_be32(next, packet->length);
		next += 4;
	}
	if (flags & RDMA_HAS_ATOMIC) {
		put_be64(next, packet->swap);
		put_be64(next + 8, packet->compare);
		next += 16;
	}
	if (flags & RDMA_HAS_AETH) {
		put_be32(next,
			 (uint32_t)packet->syndrome << 24 | (packet->messages & RDMA_24_BITS));
		next += 4;
	}
	if (flags & RDMA_HAS_ATOMIC_ACK) {
		put_be64(next, packet->original);
		next += 8;
	}
	if (flags & RDMA_HAS_IMMEDIATE) {
		put_be32(next, packet->immediate);
		next += 4;
	}
	if (flags & RDMA_HAS_INVALIDATE) {
		put_be32(next, packet->invalidate);
		next += 4;
	}
	memset(next + packet->payload_size, 0, pad);
	return next;
}
