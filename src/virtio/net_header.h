/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The feature bits of a network device, which of them may stand together, and the header in front
 * of every frame (virtio 1.2 sections 5.1.3 and 5.1.6). Pure functions over values; no thread, no
 * state.
 */
#ifndef GODWIT_VIRTIO_NET_HEADER_H
#define GODWIT_VIRTIO_NET_HEADER_H

#include <stdbool.h>
#include <stdint.h>

/* Feature bits (5.1.3). */
#define NET_F_CSUM		  0
#define NET_F_GUEST_CSUM	  1
#define NET_F_CTRL_GUEST_OFFLOADS 2
#define NET_F_MTU		  3
#define NET_F_MAC		  5
#define NET_F_GUEST_TSO4	  7
#define NET_F_GUEST_TSO6	  8
#define NET_F_GUEST_ECN		  9
#define NET_F_GUEST_UFO		  10
#define NET_F_HOST_TSO4		  11
#define NET_F_HOST_TSO6		  12
#define NET_F_HOST_ECN		  13
#define NET_F_HOST_UFO		  14
#define NET_F_MRG_RXBUF		  15
#define NET_F_STATUS		  16
#define NET_F_CTRL_VQ		  17
#define NET_F_CTRL_RX		  18
#define NET_F_CTRL_VLAN		  19
#define NET_F_CTRL_RX_EXTRA	  20
#define NET_F_GUEST_ANNOUNCE	  21
#define NET_F_MQ		  22
#define NET_F_CTRL_MAC_ADDR	  23
#define NET_F_GUEST_USO4	  54
#define NET_F_GUEST_USO6	  55
#define NET_F_HOST_USO		  56
#define NET_F_SPEED_DUPLEX	  63

/* The offloads of received packets: those that a driver may switch with CTRL_GUEST_OFFLOADS. */
#define NET_GUEST_OFFLOADS                                                                         \
	(1ULL << NET_F_GUEST_CSUM | 1ULL << NET_F_GUEST_TSO4 | 1ULL << NET_F_GUEST_TSO6 |          \
	 1ULL << NET_F_GUEST_ECN | 1ULL << NET_F_GUEST_UFO | 1ULL << NET_F_GUEST_USO4 |            \
	 1ULL << NET_F_GUEST_USO6)

/* The header (5.1.6), little-endian: 12 bytes, since VIRTIO_F_VERSION_1 is always negotiated. */
#define NET_HEADER_SIZE 12
enum net_header_offset {
	NET_HEADER_FLAGS = 0,
	NET_HEADER_GSO_TYPE = 1,
	NET_HEADER_HDR_LEN = 2,
	NET_HEADER_GSO_SIZE = 4,
	NET_HEADER_CSUM_START = 6,
	NET_HEADER_CSUM_OFFSET = 8,
	NET_HEADER_NUM_BUFFERS = 10,
};
#define NET_HEADER_NEEDS_CSUM 1 /* flags */
#define NET_HEADER_DATA_VALID 2
#define NET_GSO_NONE	      0 /* gso_type */
#define NET_GSO_TCPV4	      1
#define NET_GSO_UDP	      3
#define NET_GSO_TCPV6	      4
#define NET_GSO_UDP_L4	      5
#define NET_GSO_ECN	      0x80 /* beside a TCP type */

#define NET_FRAME_MIN 14 /* bytes: an Ethernet header */
/* The largest frame that the specification knows (5.1.6.3), with two VLAN tags. */
#define NET_FRAME_MAX (65589 + 8)

/* Whether @features holds with each bit the ones that it requires (5.1.3.1). */
bool net_features_valid(uint64_t features);

/* The TUN_F_* flags for TUNSETOFFLOAD that let through what the driver takes: bits of
 * NET_GUEST_OFFLOADS. */
unsigned int net_tap_offloads(uint64_t features);

/*
 * Checks the header of a frame to transmit, a private copy of what the driver wrote, against the
 * negotiated
 * @features and the frame of @frame_size bytes, and clears what the device has to ignore (unknown
 * flags, fields that the flags do not cover). False: the frame is to be dropped.
 */
bool net_header_sanitize(uint8_t header[NET_HEADER_SIZE], uint64_t features, uint64_t frame_size);

#endif
