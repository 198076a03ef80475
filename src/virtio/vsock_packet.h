/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packet header of a socket device (virtio 1.2 section 5.10.6) and its encoding. Pure
 * functions.
 */
#ifndef GODWIT_VIRTIO_VSOCK_PACKET_H
#define GODWIT_VIRTIO_VSOCK_PACKET_H

#include <stdint.h>

#define VSOCK_HEADER_SIZE 44 /* bytes on the wire */
#define VSOCK_HOST_CID	  2

enum vsock_type { VSOCK_TYPE_STREAM = 1, VSOCK_TYPE_SEQPACKET = 2 };

enum vsock_op {
	VSOCK_OP_INVALID = 0,
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};

/* Flags of a SHUTDOWN: its sender will not receive, or send, any more. */
#define VSOCK_SHUTDOWN_RECEIVE 1
#define VSOCK_SHUTDOWN_SEND    2
#define VSOCK_SHUTDOWN_BOTH    3

struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t size; /* of the payload, bytes: `len` */
	uint16_t type; /* enum vsock_type, or what the guest made of it */
	uint16_t op;   /* enum vsock_op, or what the guest made of it */
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
};

void vsock_header_decode(const uint8_t wire[VSOCK_HEADER_SIZE], struct vsock_header *header);
void vsock_header_encode(const struct vsock_header *header, uint8_t wire[VSOCK_HEADER_SIZE]);
/* The RST that answers @packet: source and destination swapped, everything else zero. */
void vsock_header_reset(const struct vsock_header *packet, struct vsock_header *reply);

#endif
