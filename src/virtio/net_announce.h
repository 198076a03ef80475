/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tells the network where a guest is now, after it was loaded on another host or behind another
 * interface: reverse ARP requests with its address, which bridges and switches learn from. A few of
 * them, since the first may come before a port forwards.
 *
 * Belongs to the device's loop.
 */
#ifndef GODWIT_VIRTIO_NET_ANNOUNCE_H
#define GODWIT_VIRTIO_NET_ANNOUNCE_H

#include <stdint.h>

#include "base/event_loop.h"

#define NET_ANNOUNCE_ROUNDS 5
#define NET_ANNOUNCE_SIZE   60 /* bytes of a frame: the least that Ethernet has */

struct net_announce {
	struct event_timer *timer;
	int fd; /* of the interface; not owned */
	uint8_t mac[6];
	int round; /* rounds done */
};

/* @fd takes frames behind a virtio header. Undone by net_announce_cleanup, also after an error. */
struct error *net_announce_init(struct net_announce *announce, struct event_loop *loop,
				int fd) MUST_CHECK;
void net_announce_cleanup(struct net_announce *announce);
/* Announces @mac from now on, NET_ANNOUNCE_ROUNDS times within a second or two. */
void net_announce_start(struct net_announce *announce, const uint8_t mac[6]);
void net_announce_stop(struct net_announce *announce);

#endif
