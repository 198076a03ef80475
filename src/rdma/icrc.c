/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The invariant CRC. What routers change (traffic class, hop limit, flow label, checksums, and the
 * congestion bits of the base header) counts as ones.
 *
 * Runs on any thread: there is no state but the caller's memos. A peer controls every byte.
 */
#include "rdma/icrc.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

#define LINK_SIZE 8U /* of the local route header that InfiniBand has: all ones */
#define UDP_SIZE  8U
#define V4_SIZE	  20U
#define V6_SIZE	  40U
#define BTH_SIZE  12U

static const uint8_t v4_prefix[12] = {[10] = 0xff, [11] = 0xff};

bool rdma_address_is_v4(const uint8_t address[16])
{
	return !memcmp(address, v4_prefix, sizeof(v4_prefix));
}

bool rdma_address_is_none(const uint8_t address[16])
{
	static const uint8_t none[16];

	return !memcmp(address, none, sizeof(none));
}

/* The register after the headers before the packet. */
static uint32_t start(const struct rdma_crc *crc, const struct godwit_rdma_ends *ends,
		      struct rdma_fragment fragment, size_t size)
{
	uint8_t head[LINK_SIZE + V6_SIZE + UDP_SIZE], *ip = head + LINK_SIZE, *udp;
	uint16_t udp_size = (uint16_t)(size + RDMA_ICRC_SIZE + UDP_SIZE);

	memset(head, 0xff, sizeof(head));
	if (rdma_address_is_v4(ends->destination)) {
		ip[0] = 0x45;
		put_be16(ip + 2, (uint16_t)(udp_size + V4_SIZE));
		put_be16(ip + 4, fragment.id);
		put_be16(ip + 6, fragment.dont_fragment ? 0x4000 : 0);
		ip[9] = 17;
		memcpy(ip + 12, ends->source + 12, 4);
		memcpy(ip + 16, ends->destination + 12, 4);
		udp = ip + V4_SIZE;
	} else {
		ip[0] = 0x6f;
		put_be16(ip + 4, udp_size);
		ip[6] = 17;
		memcpy(ip + 8, ends->source, 16);
		memcpy(ip + 24, ends->destination, 16);
		udp = ip + V6_SIZE;
	}
	put_be16(udp, ends->source_port);
	put_be16(udp + 2, GODWIT_RDMA_UDP_PORT);
	put_be16(udp + 4, udp_size);
	return rdma_crc_update(crc, UINT32_MAX, head, (size_t)(udp - head) + UDP_SIZE);
}

static uint32_t finish(const struct rdma_crc *crc, uint32_t state, const uint8_t *packet,
		       size_t size)
{
	uint8_t base[BTH_SIZE];

	memcpy(base, packet, sizeof(base));
	base[4] = 0xff;
	state = rdma_crc_update(crc, state, base, sizeof(base));
	return ~rdma_crc_update(crc, state, packet + sizeof(base), size - sizeof(base));
}

uint32_t rdma_icrc(const struct rdma_crc *crc, const struct godwit_rdma_ends *ends,
		   struct rdma_fragment fragment, const uint8_t *packet, size_t size)
{
	return finish(crc, start(crc, ends, fragment, size), packet, size);
}

static bool are_same(const struct godwit_rdma_ends *a, const struct godwit_rdma_ends *b)
{
	return a->source_port == b->source_port &&
	       !memcmp(a->source, b->source, sizeof(a->source)) &&
	       !memcmp(a->destination, b->destination, sizeof(a->destination));
}

uint32_t rdma_icrc_again(const struct rdma_crc *crc, struct rdma_icrc_memo *memo,
			 const struct godwit_rdma_ends *ends, struct rdma_fragment fragment,
			 const uint8_t *packet, size_t size)
{
	size_t at = fragment.id % ARRAY_SIZE(memo->heads);

	/* No packet has the size 0. */
	if (memo->heads[at].size != size || memo->heads[at].fragment.id != fragment.id ||
	    memo->heads[at].fragment.dont_fragment != fragment.dont_fragment ||
	    !are_same(&memo->heads[at].ends, ends)) {
		memo->heads[at].ends = *ends;
		memo->heads[at].fragment = fragment;
		memo->heads[at].size = size;
		memo->heads[at].state = start(crc, ends, fragment, size);
	}
	return finish(crc, memo->heads[at].state, packet, size);
}

uint32_t rdma_icrc_rewinds(size_t size)
{
	/* From the identification on: itself, the rest of the IP header, the UDP header, the packet. */
	return (uint32_t)(4 + 12 + UDP_SIZE + size);
}

bool rdma_icrc_find(const struct rdma_crc *crc, struct rdma_icrc_memo *memo,
		    const struct godwit_rdma_ends *ends, struct rdma_fragment *fragment,
		    const uint8_t *packet, size_t size, uint32_t received, uint32_t factor)
{
	uint32_t differs = rdma_icrc_again(crc, memo, ends, *fragment, packet, size) ^ received,
		 bytes;

	if (!differs)
		return true;
	if (!rdma_address_is_v4(ends->destination))
		return false;
	/* The four bytes of the header that would have to be different: identification, fragment. */
	bytes = rdma_crc_rewind(differs, factor);
	if (bytes & 0xffbf0000)
		return false;
	fragment->id ^= (uint16_t)((bytes & 0xff) << 8 | (bytes >> 8 & 0xff));
	fragment->dont_fragment ^= bytes >> 22 & 1;
	return true;
}
