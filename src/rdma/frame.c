/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ethernet frames that carry packets of RoCE v2, see frame.h. Runs on any thread: there is no state. A
 * stranger controls every byte that is decoded.
 */
#include "rdma/frame.h"

#include <string.h>

#include "base/bytes.h"

#define ETHERNET_SIZE	  14U
#define ETHERTYPE_V4	  0x0800
#define ETHERTYPE_V6	  0x86dd
#define V4_SIZE		  20U
#define V6_SIZE		  40U
#define UDP_SIZE	  8U
#define PROTOCOL_UDP	  17
#define V4_VERSION_LENGTH 0x45 /* no options */
#define V4_DONT_FRAGMENT  0x4000
#define HOP_LIMIT	  64

/* The UDP header and what follows, @size bytes. */
static bool decode_udp(const uint8_t *udp, size_t size, struct rdma_frame *frame)
{
	if (size < UDP_SIZE || get_be16(udp + 2) != GODWIT_RDMA_UDP_PORT ||
	    get_be16(udp + 4) != size)
		return false;
	frame->ends.source_port = get_be16(udp);
	frame->datagram = udp + UDP_SIZE;
	frame->size = (uint32_t)(size - UDP_SIZE);
	return true;
}

static void map_v4(const uint8_t v4[4], uint8_t address[16])
{
	memset(address + 10, 0xff, 2);
	memcpy(address + 12, v4, 4);
}

static bool decode_v4(const uint8_t *ip, size_t size, struct rdma_frame *frame)
{
	uint16_t whole, fragment;

	if (size < V4_SIZE || ip[0] != V4_VERSION_LENGTH || ip[9] != PROTOCOL_UDP)
		return false;
	whole = get_be16(ip + 2);
	fragment = get_be16(ip + 6);
	if (whole < V4_SIZE || whole > size || fragment & ~V4_DONT_FRAGMENT)
		return false;
	frame->fragment.id = get_be16(ip + 4);
	frame->fragment.dont_fragment = fragment;
	map_v4(ip + 12, frame->ends.source);
	map_v4(ip + 16, frame->ends.destination);
	return decode_udp(ip + V4_SIZE, whole - V4_SIZE, frame);
}

static bool decode_v6(const uint8_t *ip, size_t size, struct rdma_frame *frame)
{
	uint16_t payload;

	if (size < V6_SIZE || ip[0] >> 4 != 6 || ip[6] != PROTOCOL_UDP)
		return false;
	payload = get_be16(ip + 4);
	if (payload > size - V6_SIZE)
		return false;
	memcpy(frame->ends.source, ip + 8, 16);
	memcpy(frame->ends.destination, ip + 24, 16);
	/* These stand for IPv4, which this is not. */
	if (rdma_address_is_v4(frame->ends.source) || rdma_address_is_v4(frame->ends.destination))
		return false;
	return decode_udp(ip + V6_SIZE, payload, frame);
}

bool rdma_frame_decode(const uint8_t *bytes, size_t size, struct rdma_frame *frame)
{
	*frame = (struct rdma_frame){0};
	if (size < ETHERNET_SIZE)
		return false;
	switch (get_be16(bytes + 12)) {
	case ETHERTYPE_V4:
		return decode_v4(bytes + ETHERNET_SIZE, size - ETHERNET_SIZE, frame);
	case ETHERTYPE_V6:
		return decode_v6(bytes + ETHERNET_SIZE, size - ETHERNET_SIZE, frame);
	default:
		return false;
	}
}

uint32_t rdma_frame_headers_size(const struct godwit_rdma_ends *ends)
{
	return ETHERNET_SIZE + UDP_SIZE +
	       (rdma_address_is_v4(ends->destination) ? V4_SIZE : V6_SIZE);
}

/* The Internet sum of @size bytes, an even number, with @sum (RFC 1071). */
static uint16_t add_up(uint32_t sum, const uint8_t *bytes, uint32_t size)
{
	for (uint32_t i = 0; i < size; i += 2)
		sum += get_be16(bytes + i);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

uint16_t rdma_frame_pseudo_sum(const struct godwit_rdma_ends *ends, uint32_t size)
{
	uint32_t skip = rdma_address_is_v4(ends->destination) ? 12 : 0, sum;

	sum = add_up(PROTOCOL_UDP + size + UDP_SIZE, ends->source + skip, 16 - skip);
	return add_up(sum, ends->destination + skip, 16 - skip);
}

void rdma_frame_encode_headers(const struct godwit_rdma_ends *ends, const uint8_t mac[6],
			       uint32_t size, uint8_t *headers)
{
	bool v4 = rdma_address_is_v4(ends->destination);
	uint8_t *ip = headers + ETHERNET_SIZE, *udp = ip + (v4 ? V4_SIZE : V6_SIZE);
	uint16_t udp_size = (uint16_t)(size + UDP_SIZE);

	memset(headers, 0, rdma_frame_headers_size(ends));
	memcpy(headers, ends->next_hop, 6);
	memcpy(headers + 6, mac, 6);
	put_be16(headers + 12, v4 ? ETHERTYPE_V4 : ETHERTYPE_V6);
	if (v4) {
		ip[0] = V4_VERSION_LENGTH;
		put_be16(ip + 2, (uint16_t)(udp_size + V4_SIZE));
		put_be16(ip + 6, V4_DONT_FRAGMENT);
		ip[8] = HOP_LIMIT;
		ip[9] = PROTOCOL_UDP;
		memcpy(ip + 12, ends->source + 12, 4);
		memcpy(ip + 16, ends->destination + 12, 4);
		put_be16(ip + 10, (uint16_t)~add_up(0, ip, V4_SIZE));
	} else {
		ip[0] = 6 << 4;
		put_be16(ip + 4, udp_size);
		ip[6] = PROTOCOL_UDP;
		ip[7] = HOP_LIMIT;
		memcpy(ip + 8, ends->source, 16);
		memcpy(ip + 24, ends->destination, 16);
	}
	put_be16(udp, ends->source_port);
	put_be16(udp + 2, GODWIT_RDMA_UDP_PORT);
	put_be16(udp + 4, udp_size);
}
