/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network device (virtio 1.2 section 5.1) over a tap interface of the host.
 *
 * With one queue pair all its work is on the device's loop; with more, each pair has a loop and a
 * thread of its own, and the device's loop keeps the configuration and the control queue.
 */
#ifndef GODWIT_VIRTIO_NET_H
#define GODWIT_VIRTIO_NET_H

#include "virtio/net_pair.h"
#include "virtio/tap.h"
#include "virtio/virtio_device.h"

struct virtio_net_options {
	const char *id;
	uint8_t mac[6];
	uint16_t mtu;	     /* told to the driver; 0: not told */
	bool on_device_loop; /* all pairs on the device's loop, for a test that has one thread */
};

/*
 * Creates a device from @text: "tap:IF[,mac=XX:XX:XX:XX:XX:XX][,queues=N][,mtu=N][,id=ID]". "tap:"
 * without a name lets the kernel choose one. Without mac= the address follows from @vm_name and
 * @index, so that it is the same at every start; without id= it is "net@index".
 */
struct error *virtio_net_create(const char *text, const char *vm_name, uint32_t index,
				struct virtio_device **device) MUST_CHECK;
/*
 * The same with the interface of another process, unless @handed is NULL
 * (virtio_device_ops.share).
 */
struct error *virtio_net_create_handed(const char *text, const char *vm_name, uint32_t index,
				       json_t *handed, struct virtio_device **device) MUST_CHECK;
/* Creates a device over @tap, one queue pair for each of its queues. Takes *@tap over, also on
 * error. */
struct error *virtio_net_create_on_tap(const struct virtio_net_options *options, struct tap *tap,
				       struct virtio_device **device) MUST_CHECK;

/*
 * Lets @taker have the frames that it wants of those that come for the guest; there is one at a time.
 * *@fd: another descriptor of the interface, which the caller closes, for frames behind a header
 * (net_header.h); *@cuts: they may be long datagrams of UDP that the kernel cuts apart
 * (NET_GSO_UDP_L4). Undone by virtio_net_keep_frames. Neither is for a loop of @device's.
 */
struct error *virtio_net_share_frames(struct virtio_device *device, const struct net_taker *taker,
				      int *fd, bool *cuts) MUST_CHECK;
void virtio_net_keep_frames(struct virtio_device *device);

/* Parses all of @text, a unicast address other than zero, into @mac. */
struct error *virtio_net_parse_mac(const char *text, uint8_t mac[6]) MUST_CHECK;
/* The locally administered address of the @index-th device of a machine called @vm_name. */
void virtio_net_default_mac(const char *vm_name, uint32_t index, uint8_t mac[6]);

#endif
