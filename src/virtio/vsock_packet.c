/* SPDX-License-Identifier: BSD-2-Clause */
/* The codec of vsock_packet.h: little-endian, no padding. Any bytes decode; what they mean is
 * judged elsewhere. */
#include "virtio/vsock_packet.h"

#include "base/bytes.h"

enum wire_offset {
	WIRE_SRC_CID = 0,
	WIRE_DST_CID = 8,
	WIRE_SRC_PORT = 16,
	WIRE_DST_PORT = 20,
	WIRE_LEN = 24,
	WIRE_TYPE = 28,
	WIRE_OP = 30,
	WIRE_FLAGS = 32,
	WIRE_BUF_ALLOC = 36,
	WIRE_FWD_CNT = 40,
};
_Static_assert(WIRE_FWD_CNT + 4 == VSOCK_HEADER_SIZE, "the header ends with fwd_cnt");

void vsock_header_decode(const uint8_t wire[VSOCK_HEADER_SIZE], struct vsock_header *header)
{
	*header = (struct vsock_header){
	    .src_cid = get_le64(wire + WIRE_SRC_CID),
	    .dst_cid = get_le64(wire + WIRE_DST_CID),
	    .src_port = get_le32(wire + WIRE_SRC_PORT),
	    .dst_port = get_le32(wire + WIRE_DST_PORT),
	    .size = get_le32(wire + WIRE_LEN),
	    .type = get_le16(wire + WIRE_TYPE),
	    .op = get_le16(wire + WIRE_OP),
	    .flags = get_le32(wire + WIRE_FLAGS),
	    .buf_alloc = get_le32(wire + WIRE_BUF_ALLOC),
	    .fwd_cnt = get_le32(wire + WIRE_FWD_CNT),
	};
}

void vsock_header_encode(const struct vsock_header *header, uint8_t wire[VSOCK_HEADER_SIZE])
{
	put_le64(wire + WIRE_SRC_CID, header->src_cid);
	put_le64(wire + WIRE_DST_CID, header->dst_cid);
	put_le32(wire + WIRE_SRC_PORT, header->src_port);
	put_le32(wire + WIRE_DST_PORT, header->dst_port);
	put_le32(wire + WIRE_LEN, header->size);
	put_le16(wire + WIRE_TYPE, header->type);
	put_le16(wire + WIRE_OP, header->op);
	put_le32(wire + WIRE_FLAGS, header->flags);
	put_le32(wire + WIRE_BUF_ALLOC, header->buf_alloc);
	put_le32(wire + WIRE_FWD_CNT, header->fwd_cnt);
}

void vsock_header_reset(const struct vsock_header *packet, struct vsock_header *reply)
{
	*reply = (struct vsock_header){
	    .src_cid = packet->dst_cid,
	    .dst_cid = packet->src_cid,
	    .src_port = packet->dst_port,
	    .dst_port = packet->src_port,
	    .type = packet->type,
	    .op = VSOCK_OP_RST,
	};
}
