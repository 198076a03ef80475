/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The commands of a network device's control queue (virtio 1.2 section 5.1.6.5), without the queue:
 * what a command asks for is worked out on a copy of the state, so that the device can apply it to
 * the interface first and keep the old state if that fails. No thread, no allocation; the guest
 * controls every byte.
 */
#ifndef GODWIT_VIRTIO_NET_CONTROL_H
#define GODWIT_VIRTIO_NET_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"
#include "virtio/virtqueue.h"

#define NET_CONTROL_OK	0
#define NET_CONTROL_ERR 1

/* Unicast and multicast addresses kept; a longer table takes everything of that kind, as the spec
 * allows. */
#define NET_CONTROL_MACS 64
/* The most addresses that net_control_filter lists: the table, the device's own, broadcast. */
#define NET_CONTROL_FILTER_MACS (NET_CONTROL_MACS + 2)

/* What a driver can set. */
struct net_control {
	uint8_t mac[6];
	bool promiscuous;
	bool all_multicast;
	bool unicast_overflow, multicast_overflow; /* the table was too long to keep */
	uint16_t unicast_count, mac_count;	   /* of macs; unicast ones first */
	uint8_t macs[NET_CONTROL_MACS][6];
	uint64_t offloads; /* of NET_GUEST_OFFLOADS, those switched on */
	uint16_t pairs;	   /* queue pairs in use */
};

/* What a command changed. */
#define NET_CONTROL_FILTER   1
#define NET_CONTROL_OFFLOADS 2
#define NET_CONTROL_PAIRS    4

/* The state after reset, before any command: one pair, no filter, the negotiated offloads on. */
void net_control_reset(struct net_control *control, const uint8_t mac[6], uint64_t features);

/*
 * Carries out the command in the readable part of @chain on *@control. @features are the negotiated
 * ones and
 * @pairs_max what the device offers. True: to be answered with OK once the NET_CONTROL_* of
 * *@changed are applied; false: to be answered with ERR, and *@control may be partly changed.
 */
bool net_control_execute(struct net_control *control, uint64_t features, uint16_t pairs_max,
			 const struct virtqueue_chain *chain, unsigned int *changed);

/*
 * The state (base/state.h) of a device with @features negotiated and @pairs_max pairs offered. What
 * is loaded is what commands can have brought about.
 */
void net_control_state(struct net_control *control, uint64_t features, uint16_t pairs_max,
		       struct state *state);

/*
 * The addresses that the interface should let through, unicast first, into @macs; returns how many.
 * 0: all.
 * *@all_multicast is set if every multicast address is welcome.
 */
uint16_t net_control_filter(const struct net_control *control,
			    uint8_t macs[NET_CONTROL_FILTER_MACS][6], bool *all_multicast);

#endif
