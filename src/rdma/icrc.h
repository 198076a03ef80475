/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The invariant CRC of RoCE v2 (InfiniBand architecture, annex A17.3.3): over the IP and UDP headers
 * and the whole packet, except for what routers change. It is the last four bytes of a packet.
 *
 * IPv4 addresses are IPv6 addresses ::ffff:a.b.c.d. Headers have no options; the port of the
 * destination is 4791. Sizes are of what follows the UDP header, without the four bytes.
 */
#ifndef GODWIT_RDMA_ICRC_H
#define GODWIT_RDMA_ICRC_H

#include <godwit/rdma.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/crc.h"

#define RDMA_ICRC_SIZE 4U

/* What the CRC of a packet covers of IPv4; nothing of IPv6. */
struct rdma_fragment {
	uint16_t id;
	bool dont_fragment;
};

/* True if @address is an IPv4 address. */
bool rdma_address_is_v4(const uint8_t address[16]);
/* True if @address is none (::). */
bool rdma_address_is_none(const uint8_t address[16]);

/* The CRC of @packet, which has at least a base header (12 bytes); put_le32 stores it. */
uint32_t rdma_icrc(const struct rdma_crc *crc, const struct godwit_rdma_ends *ends,
		   struct rdma_fragment fragment, const uint8_t *packet, size_t size);

/*
 * Registers after the headers in front of packets, of those that came last: most packets are like another one.
 * All zero: none.
 */
struct rdma_icrc_memo {
	struct {
		struct godwit_rdma_ends ends;
		struct rdma_fragment fragment;
		size_t size;
		uint32_t state;
	} heads[64]; /* by identification */
};

/* The same CRC as rdma_icrc's. */
uint32_t rdma_icrc_again(const struct rdma_crc *crc, struct rdma_icrc_memo *memo,
			 const struct godwit_rdma_ends *ends, struct rdma_fragment fragment,
			 const uint8_t *packet, size_t size);

/*
 * True if @received is the packet's CRC for some identification of IPv4, which becomes *@fragment: a
 * socket does not tell it. Of random damage 1 in 32768 passes: 17 bits of the CRC are spent on what is
 * found. In *@fragment the one that is expected, with which it is quicker. @factor is
 * rdma_crc_rewind_factor(rdma_icrc_rewinds(@size)).
 */
bool rdma_icrc_find(const struct rdma_crc *crc, struct rdma_icrc_memo *memo,
		    const struct godwit_rdma_ends *ends, struct rdma_fragment *fragment,
		    const uint8_t *packet, size_t size, uint32_t received, uint32_t factor);
uint32_t rdma_icrc_rewinds(size_t size);

#endif
