/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A Linux tap interface as the back-end of a network device: one descriptor a queue, each read or
 * write is one Ethernet frame behind a 12-byte virtio header (linux:
 * Documentation/networking/tuntap.rst).
 *
 * Not locked. The calls below are ioctls that the kernel serialises; any thread may make them.
 */
#ifndef GODWIT_VIRTIO_TAP_H
#define GODWIT_VIRTIO_TAP_H

#include <jansson.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifndef TUN_F_USO4 /* headers before Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define TAP_QUEUES_MAX 64

struct tap {
	char name[IFNAMSIZ];	 /* of the interface; "" for injected descriptors */
	int fds[TAP_QUEUES_MAX]; /* non-blocking */
	uint32_t queue_count;
	bool multi_queue;      /* opened with IFF_MULTI_QUEUE: queues can be detached */
	unsigned int offloads; /* the TUN_F_* flags that the kernel knows */
	bool shared;	       /* another process has the same descriptors, */
	bool away;	       /* and uses them: nothing is changed about the interface */
};

/* No interface and no descriptor: what tap_close accepts. */
void tap_init(struct tap *tap);
/*
 * Opens interface @name with @queues queues (1 to TAP_QUEUES_MAX), all attached. It is created if
 * it does not exist; an empty @name lets the kernel choose one ("tap0", …). The interface is not
 * brought up: addresses and bridges are the operator's.
 */
struct error *tap_open(struct tap *tap, const char *name, uint32_t queues) MUST_CHECK;
/*
 * Makes a back-end of @count connected sockets that keep frames apart (SOCK_SEQPACKET), for tests:
 * takes them over and makes them non-blocking. Offloads, filters and attaching succeed without
 * doing anything.
 */
void tap_from_sockets(struct tap *tap, const int *fds, uint32_t count);
/*
 * Another process of this host is to go on with the interface, which cannot be opened twice if it
 * has one queue: puts in @handed (virtio/handed.h) what tap_adopt takes there; NULL: none is any
 * more. Only one of them changes anything about the interface: this one until tap_release, the
 * other one from tap_take_over on.
 */
void tap_share(struct tap *tap, json_t *handed);
struct error *tap_adopt(struct tap *tap, json_t *handed) MUST_CHECK;
void tap_release(struct tap *tap);
void tap_take_over(struct tap *tap);
/*
 * Clears the filter and the offloads and closes the descriptors; an interface that is not persistent goes away. One
 * that is keeps its filter if the process is killed instead, until it is opened with tap_open again.
 */
void tap_close(struct tap *tap);

/* Sets the interface's MTU unless it is @mtu already. */
struct error *tap_set_mtu(struct tap *tap, uint16_t mtu) MUST_CHECK;
/* Lets the kernel hand over frames that still need what the TUN_F_* flags say. 0 or a negative
 * errno. */
int tap_set_offloads(struct tap *tap, unsigned int offloads) MUST_CHECK;
/*
 * Drops in the kernel what is sent to none of @macs (@count of them, unicast ones first): exact for
 * the first eight, by a hash for further multicast ones. @all_multicast takes all of those. A
 * @count of 0, and more than eight unicast addresses, take everything. 0 or a negative errno.
 */
int tap_set_filter(struct tap *tap, const uint8_t (*macs)[6], uint16_t count,
		   bool all_multicast) MUST_CHECK;
#define TAP_FILTER_MAX 80
/* Detached queues get no frames. A no-op for an interface without IFF_MULTI_QUEUE. 0 or a negative
 * errno. */
int tap_attach_queue(struct tap *tap, uint32_t queue, bool attach) MUST_CHECK;

#endif
