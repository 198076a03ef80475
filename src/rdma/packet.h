/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The transport headers of InfiniBand and RoCE v2 (InfiniBand architecture, chapter 9): what follows
 * the UDP header, without the invariant CRC at the end (icrc.h).
 *
 *	base header, extended headers as the operation has them, payload, 0 to 3 zeros
 *
 * One table says which headers an operation has; both directions go through it.
 */
#ifndef GODWIT_RDMA_PACKET_H
#define GODWIT_RDMA_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDMA_BTH_SIZE	  12U
#define RDMA_HEADERS_MAX  40U /* the longest: BTH and AtomicETH */
#define RDMA_MTU_MAX	  4096U
#define RDMA_PACKET_MAX	  (RDMA_HEADERS_MAX + RDMA_MTU_MAX)
#define RDMA_PKEY_DEFAULT 0xffffU

/* Sequence numbers, queue pair numbers and counters of messages have 24 bits. */
#define RDMA_24_BITS 0xffffffU

/* The highest three bits of an operation code. */
enum rdma_service {
	RDMA_SERVICE_RC = 0x00,
	RDMA_SERVICE_UC = 0x20,
	RDMA_SERVICE_UD = 0x60,
};
#define RDMA_SERVICE_MASK 0xe0U

/* The others. */
enum rdma_operation {
	RDMA_SEND_FIRST = 0x00,
	RDMA_SEND_MIDDLE = 0x01,
	RDMA_SEND_LAST = 0x02,
	RDMA_SEND_LAST_IMMEDIATE = 0x03,
	RDMA_SEND_ONLY = 0x04,
	RDMA_SEND_ONLY_IMMEDIATE = 0x05,
	RDMA_WRITE_FIRST = 0x06,
	RDMA_WRITE_MIDDLE = 0x07,
	RDMA_WRITE_LAST = 0x08,
	RDMA_WRITE_LAST_IMMEDIATE = 0x09,
	RDMA_WRITE_ONLY = 0x0a,
	RDMA_WRITE_ONLY_IMMEDIATE = 0x0b,
	RDMA_READ_REQUEST = 0x0c,
	RDMA_READ_RESPONSE_FIRST = 0x0d,
	RDMA_READ_RESPONSE_MIDDLE = 0x0e,
	RDMA_READ_RESPONSE_LAST = 0x0f,
	RDMA_READ_RESPONSE_ONLY = 0x10,
	RDMA_ACKNOWLEDGE = 0x11,
	RDMA_ATOMIC_ACKNOWLEDGE = 0x12,
	RDMA_COMPARE_SWAP = 0x13,
	RDMA_FETCH_ADD = 0x14,
	RDMA_SEND_LAST_INVALIDATE = 0x16,
	RDMA_SEND_ONLY_INVALIDATE = 0x17,
};

/* What an operation is, and which headers it has. */
#define RDMA_IS_SEND	    (1U << 0)
#define RDMA_IS_WRITE	    (1U << 1)
#define RDMA_IS_READ	    (1U << 2) /* a request */
#define RDMA_IS_ATOMIC	    (1U << 3) /* a request */
#define RDMA_IS_RESPONSE    (1U << 4) /* of a responder, acknowledgements too */
#define RDMA_BEGINS	    (1U << 5) /* first or only packet of a message */
#define RDMA_ENDS	    (1U << 6) /* last or only */
#define RDMA_HAS_DETH	    (1U << 7)
#define RDMA_HAS_RETH	    (1U << 8)
#define RDMA_HAS_ATOMIC	    (1U << 9)
#define RDMA_HAS_AETH	    (1U << 10)
#define RDMA_HAS_ATOMIC_ACK (1U << 11)
#define RDMA_HAS_IMMEDIATE  (1U << 12)
#define RDMA_HAS_INVALIDATE (1U << 13)
#define RDMA_HAS_PAYLOAD    (1U << 14)

/* The kinds of an acknowledgement's syndrome (its highest three bits), and the codes of a refusal. */
#define RDMA_ACK		0x1fU /* credits are not used */
#define RDMA_RNR_NAK		0x20U /* and a timer's code */
#define RDMA_NAK_SEQUENCE	0x60U
#define RDMA_NAK_INVALID	0x61U
#define RDMA_NAK_ACCESS		0x62U
#define RDMA_NAK_OPERATION	0x63U
#define RDMA_SYNDROME_KIND	0x60U
#define RDMA_SYNDROME_KIND_ACK	0x00U
#define RDMA_SYNDROME_KIND_NAK	0x60U
#define RDMA_SYNDROME_CODE_MASK 0x1fU

struct rdma_packet {
	uint8_t opcode;
	bool solicited, ack_request;
	uint16_t pkey;
	uint32_t queue_pair, psn; /* of the destination */
	uint32_t flags;		  /* decoded: rdma_opcode_flags */
	/* Those that the operation has. */
	uint64_t address;	/* RETH, AtomicETH */
	uint32_t key;		/* RETH, AtomicETH */
	uint32_t length;	/* RETH: of the whole message or read */
	uint64_t swap, compare; /* AtomicETH; @swap is what a fetch-and-add adds */
	uint64_t original;	/* AtomicAckETH */
	uint8_t syndrome;	/* AETH */
	uint32_t messages;	/* AETH: counter of messages, 24 bits */
	uint32_t queue_key;	/* DETH */
	uint32_t source;	/* DETH: queue pair */
	uint32_t immediate;	/* ImmDt, as a number of the wire's order */
	uint32_t invalidate;	/* IETH */
	const uint8_t *payload; /* decoded: in the packet's bytes */
	uint32_t payload_size;
};

/* RDMA_IS_… and RDMA_HAS_… of @opcode with its service; 0: there is no such operation. */
uint32_t rdma_opcode_flags(uint8_t opcode);
/* Bytes before the payload. @opcode is one that there is. */
uint32_t rdma_headers_size(uint8_t opcode);
/* The bytes of a whole packet with @payload_size bytes, the zeros at its end included. */
uint32_t rdma_packet_size(uint8_t opcode, uint32_t payload_size);

/*
 * Takes @bytes apart. False: too short, of another version, an operation that there is not, or with a
 * payload where none belongs. Fields that the operation does not have are zero.
 */
bool rdma_packet_decode(const uint8_t *bytes, size_t size, struct rdma_packet *packet);
/*
 * Writes the headers, for a payload of @packet->payload_size bytes, which the caller puts at the
 * returned place, and the zeros behind it. @bytes has room for rdma_packet_size.
 */
uint8_t *rdma_packet_encode(const struct rdma_packet *packet, uint8_t *bytes);

/* @a - @b in the ring of sequence numbers, from -2^23 to 2^23 - 1. */
static inline int32_t rdma_psn_difference(uint32_t a, uint32_t b)
{
	return (int32_t)((a - b) << 8) >> 8;
}

static inline uint32_t rdma_psn_add(uint32_t psn, uint32_t more)
{
	return (psn + more) & RDMA_24_BITS;
}

#endif
