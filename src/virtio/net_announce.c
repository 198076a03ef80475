/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The announcements of net_announce.h: RFC 903 requests for the guest's own protocol address, to
 * everybody. Nobody has to answer; a bridge learns from the source address of the frame.
 *
 * Best effort: a frame that the interface does not take is not repeated, the next round follows.
 * Nobody outside controls anything here but the address.
 *
 * System calls: write.
 */
#include "virtio/net_announce.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "virtio/net_header.h"

#define FIRST_DELAY_NS (50 * NS_PER_MS)
#define MORE_DELAY_NS  (100 * NS_PER_MS) /* longer by this each time */

#define ETHERTYPE_RARP	0x8035
#define HARDWARE_TYPE	1      /* Ethernet */
#define PROTOCOL_TYPE	0x0800 /* IPv4 */
#define REQUEST_REVERSE 3

/* Of the frame, big-endian. */
enum frame_offset {
	FRAME_DESTINATION = 0,
	FRAME_SOURCE = 6,
	FRAME_TYPE = 12,
	FRAME_HARDWARE = 14,
	FRAME_PROTOCOL = 16,
	FRAME_HARDWARE_SIZE = 18,
	FRAME_PROTOCOL_SIZE = 19,
	FRAME_OPERATION = 20,
	FRAME_SENDER_MAC = 22,
	FRAME_TARGET_MAC = 32,
};

static void send_frame(const struct net_announce *announce)
{
	uint8_t packet[NET_HEADER_SIZE + NET_ANNOUNCE_SIZE] = {0};
	uint8_t *frame = packet + NET_HEADER_SIZE;

	memset(frame + FRAME_DESTINATION, 0xff, 6);
	memcpy(frame + FRAME_SOURCE, announce->mac, 6);
	put_be16(frame + FRAME_TYPE, ETHERTYPE_RARP);
	put_be16(frame + FRAME_HARDWARE, HARDWARE_TYPE);
	put_be16(frame + FRAME_PROTOCOL, PROTOCOL_TYPE);
	frame[FRAME_HARDWARE_SIZE] = 6;
	frame[FRAME_PROTOCOL_SIZE] = 4;
	put_be16(frame + FRAME_OPERATION, REQUEST_REVERSE);
	memcpy(frame + FRAME_SENDER_MAC, announce->mac, 6);
	memcpy(frame + FRAME_TARGET_MAC, announce->mac, 6);
	if (write(announce->fd, packet, sizeof(packet)) < 0)
		log_debug("an announcement was not sent: %s", strerrordesc_np(errno));
}

static void next_round(void *context)
{
	struct net_announce *announce = context;

	send_frame(announce);
	if (++announce->round < NET_ANNOUNCE_ROUNDS)
		event_timer_arm(announce->timer, FIRST_DELAY_NS + announce->round * MORE_DELAY_NS);
}

struct error *net_announce_init(struct net_announce *announce, struct event_loop *loop, int fd)
{
	*announce = (struct net_announce){.fd = fd};
	return event_timer_create(loop, next_round, announce, &announce->timer);
}

void net_announce_cleanup(struct net_announce *announce)
{
	event_timer_destroy(TAKE_PTR(announce->timer));
}

void net_announce_start(struct net_announce *announce, const uint8_t mac[6])
{
	memcpy(announce->mac, mac, 6);
	announce->round = 0;
	event_timer_arm(announce->timer, 0);
}

void net_announce_stop(struct net_announce *announce)
{
	event_timer_cancel(announce->timer);
}
