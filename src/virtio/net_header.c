/* SPDX-License-Identifier: BSD-2-Clause */
/* Features and frame headers of net_header.h. The guest controls every byte of a header. */
#include "virtio/net_header.h"

#include <linux/if_tun.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/tap.h"

#define BIT(n) (1ULL << (n))

struct dependency {
	uint64_t feature;
	uint64_t any_of;
};

static const struct dependency dependencies[] = {
    {BIT(NET_F_GUEST_TSO4), BIT(NET_F_GUEST_CSUM)},
    {BIT(NET_F_GUEST_TSO6), BIT(NET_F_GUEST_CSUM)},
    {BIT(NET_F_GUEST_ECN), BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_TSO6)},
    {BIT(NET_F_GUEST_UFO), BIT(NET_F_GUEST_CSUM)},
    {BIT(NET_F_GUEST_USO4), BIT(NET_F_GUEST_CSUM)},
    {BIT(NET_F_GUEST_USO6), BIT(NET_F_GUEST_CSUM)},
    {BIT(NET_F_HOST_TSO4), BIT(NET_F_CSUM)},
    {BIT(NET_F_HOST_TSO6), BIT(NET_F_CSUM)},
    {BIT(NET_F_HOST_ECN), BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6)},
    {BIT(NET_F_HOST_UFO), BIT(NET_F_CSUM)},
    {BIT(NET_F_HOST_USO), BIT(NET_F_CSUM)},
    {BIT(NET_F_CTRL_RX), BIT(NET_F_CTRL_VQ)},
    {BIT(NET_F_CTRL_VLAN), BIT(NET_F_CTRL_VQ)},
    {BIT(NET_F_GUEST_ANNOUNCE), BIT(NET_F_CTRL_VQ)},
    {BIT(NET_F_MQ), BIT(NET_F_CTRL_VQ)},
    {BIT(NET_F_CTRL_MAC_ADDR), BIT(NET_F_CTRL_VQ)},
};

bool net_features_valid(uint64_t features)
{
	for (size_t i = 0; i < ARRAY_SIZE(dependencies); i++)
		if (features & dependencies[i].feature && !(features & dependencies[i].any_of))
			return false;
	return true;
}

unsigned int net_tap_offloads(uint64_t features)
{
	unsigned int offloads = 0;

	/* Nothing can be segmented for later without the checksum left for later too. */
	if (!(features & BIT(NET_F_GUEST_CSUM)))
		return 0;
	offloads |= TUN_F_CSUM;
	if (features & BIT(NET_F_GUEST_TSO4))
		offloads |= TUN_F_TSO4;
	if (features & BIT(NET_F_GUEST_TSO6))
		offloads |= TUN_F_TSO6;
	if (offloads & (TUN_F_TSO4 | TUN_F_TSO6) && features & BIT(NET_F_GUEST_ECN))
		offloads |= TUN_F_TSO_ECN;
	if (features & BIT(NET_F_GUEST_UFO))
		offloads |= TUN_F_UFO;
	/* The kernel takes these two together or not at all. */
	if (features & BIT(NET_F_GUEST_USO4) && features & BIT(NET_F_GUEST_USO6))
		offloads |= TUN_F_USO4 | TUN_F_USO6;
	return offloads;
}

/* The feature that allows @gso_type without its ECN bit, or 64 if there is no such type. */
static unsigned int gso_feature(uint8_t gso_type)
{
	switch (gso_type) {
	case NET_GSO_TCPV4:
		return NET_F_HOST_TSO4;
	case NET_GSO_TCPV6:
		return NET_F_HOST_TSO6;
	case NET_GSO_UDP:
		return NET_F_HOST_UFO;
	case NET_GSO_UDP_L4:
		return NET_F_HOST_USO;
	default:
		return 64;
	}
}

static bool gso_valid(const uint8_t *header, uint64_t features)
{
	uint8_t type = header[NET_HEADER_GSO_TYPE] & ~NET_GSO_ECN;
	unsigned int feature = gso_feature(type);

	if (feature == 64 || !(features & BIT(feature)))
		return false;
	if (header[NET_HEADER_GSO_TYPE] & NET_GSO_ECN &&
	    ((type != NET_GSO_TCPV4 && type != NET_GSO_TCPV6) || !(features & BIT(NET_F_HOST_ECN))))
		return false;
	return header[NET_HEADER_FLAGS] & NET_HEADER_NEEDS_CSUM &&
	       get_le16(header + NET_HEADER_GSO_SIZE);
}

bool net_header_sanitize(uint8_t header[NET_HEADER_SIZE], uint64_t features, uint64_t frame_size)
{
	if (frame_size < NET_FRAME_MIN || frame_size > NET_FRAME_MAX)
		return false;
	header[NET_HEADER_FLAGS] &= NET_HEADER_NEEDS_CSUM;
	put_le16(header + NET_HEADER_NUM_BUFFERS, 0);
	if (header[NET_HEADER_FLAGS]) {
		uint32_t end = (uint32_t)get_le16(header + NET_HEADER_CSUM_START) +
			       get_le16(header + NET_HEADER_CSUM_OFFSET) + 2;

		if (!(features & BIT(NET_F_CSUM)) || end > frame_size)
			return false;
	} else {
		put_le16(header + NET_HEADER_CSUM_START, 0);
		put_le16(header + NET_HEADER_CSUM_OFFSET, 0);
	}
	if (header[NET_HEADER_GSO_TYPE] != NET_GSO_NONE)
		return gso_valid(header, features);
	put_le16(header + NET_HEADER_HDR_LEN, 0);
	put_le16(header + NET_HEADER_GSO_SIZE, 0);
	return true;
}
