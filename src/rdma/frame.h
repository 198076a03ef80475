/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ethernet frames that carry packets of RoCE v2 (InfiniBand architecture, annex A17): UDP to port 4791 over
 * IPv4 without options or IPv6 without extension headers. Pure functions; a stranger controls what is
 * decoded.
 */
#ifndef GODWIT_RDMA_FRAME_H
#define GODWIT_RDMA_FRAME_H

#include "rdma/icrc.h"

#define RDMA_FRAME_HEADERS_MAX 62U /* bytes: Ethernet, IPv6, UDP */

struct rdma_frame {
	struct godwit_rdma_ends ends; /* without next_hop */
	struct rdma_fragment fragment;
	const uint8_t *datagram; /* what follows the UDP header, the CRC included */
	uint32_t size;
};

/*
 * Looks into the frame @bytes. False: it is anything else, or a fragment, or shorter than it says. Of the
 * datagram nothing is looked at, and no checksum.
 */
bool rdma_frame_decode(const uint8_t *bytes, size_t size, struct rdma_frame *frame);

/* The size of the headers of a frame between @ends. */
uint32_t rdma_frame_headers_size(const struct godwit_rdma_ends *ends);
/*
 * Writes them, for a datagram of @size bytes, the CRC included, in the one fragment {0, true}, from the
 * Ethernet address @mac. UDP's checksum is 0: there is the CRC.
 */
void rdma_frame_encode_headers(const struct godwit_rdma_ends *ends, const uint8_t mac[6],
			       uint32_t size, uint8_t *headers);
/* The sum (RFC 1071, not inverted) of what UDP's checksum has beside the datagram and its header. */
uint16_t rdma_frame_pseudo_sum(const struct godwit_rdma_ends *ends, uint32_t size);

#endif
