/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is left to do here for a network device whose packets a back-end carries: the configuration
 * space, of which back-ends have none, and with several queue pairs the control queue, by which a
 * driver says how many of them it uses.
 *
 * Runs on the device's loop. The guest controls the commands; each is answered OK or ERR, and one
 * without room for the answer needs a reset.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/net.h"
#include "virtio/net_header.h"
#include "virtio/vhost_user_device_private.h"

#define CONTROL_BATCH 16

/* Offsets in the configuration (5.1.4). */
#define CONFIG_MAC	 0
#define CONFIG_STATUS	 6
#define CONFIG_MAX_PAIRS 8

#define LINK_UP 1

/* Those of a back-end that concern packets only, and so nothing here. */
#define FEATURES_PASSED                                                                            \
	(1ULL << NET_F_CSUM | 1ULL << NET_F_GUEST_CSUM | 1ULL << NET_F_GUEST_TSO4 |                \
	 1ULL << NET_F_GUEST_TSO6 | 1ULL << NET_F_GUEST_ECN | 1ULL << NET_F_GUEST_UFO |            \
	 1ULL << NET_F_HOST_TSO4 | 1ULL << NET_F_HOST_TSO6 | 1ULL << NET_F_HOST_ECN |              \
	 1ULL << NET_F_HOST_UFO | 1ULL << NET_F_MRG_RXBUF | 1ULL << NET_F_GUEST_USO4 |             \
	 1ULL << NET_F_GUEST_USO6 | 1ULL << NET_F_HOST_USO |                                       \
	 VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC) | VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) |             \
	 VIRTIO_FEATURE(VIRTIO_F_VERSION_1))

uint64_t vhost_user_net_features(const struct vhost_user_device *vhost, uint64_t theirs)
{
	uint64_t own = 1ULL << NET_F_MAC | 1ULL << NET_F_STATUS;

	if (vhost->pairs > 1)
		own |= 1ULL << NET_F_CTRL_VQ | 1ULL << NET_F_MQ;
	return (theirs & FEATURES_PASSED) | own;
}

bool vhost_user_net_accept(struct virtio_device *device, uint64_t features)
{
	/* Without MQ the control queue would be where a back-end has its third ring. */
	return net_features_valid(features) &&
	       !(features & 1ULL << NET_F_CTRL_VQ) == !(features & 1ULL << NET_F_MQ);
}

void vhost_user_net_init(struct vhost_user_device *vhost, const uint8_t mac[6])
{
	memcpy(vhost->config + CONFIG_MAC, mac, 6);
	put_le16(vhost->config + CONFIG_MAX_PAIRS, vhost->pairs);
	net_control_reset(&vhost->control, mac, 0);
}

void vhost_user_net_link(struct vhost_user_device *vhost, bool up)
{
	if (!vhost->pairs || get_le16(vhost->config + CONFIG_STATUS) == (up ? LINK_UP : 0))
		return;
	put_le16(vhost->config + CONFIG_STATUS, up ? LINK_UP : 0);
	virtio_device_config_changed(&vhost->device);
}

void vhost_user_net_reset(struct vhost_user_device *vhost)
{
	net_control_reset(&vhost->control, vhost->config + CONFIG_MAC, 0);
}

void vhost_user_net_announce(struct vhost_user_device *vhost)
{
	struct error *error;

	if (!vhost->pairs || !vhost->front || !(vhost->protocol & VHOST_USER_PROTOCOL_RARP))
		return;
	error = vhost_user_front_end_send_rarp(vhost->front, vhost->config + CONFIG_MAC);
	if (error && vhost_user_front_end_broken(vhost->front)) {
		vhost_user_connection_failed(vhost, error);
		return;
	}
	error_free(error); /* one that refuses has no network to tell */
}

bool vhost_user_net_enabled(const struct vhost_user_device *vhost, uint16_t ring)
{
	return !vhost->pairs || ring / 2 < vhost->control.pairs;
}

/* --- The control queue ------------------------------------------------------------------------- */

/* Tells the back-end which rings are in use from now on. Without one, the next hears it. */
static void use_pairs(struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; i < vhost->queues && vhost->front; i++) {
		struct error *error;

		if (!vhost->rings[i].running)
			continue;
		error = vhost_user_front_end_enable_ring(vhost->front, i,
							 vhost_user_net_enabled(vhost, i));
		if (error)
			vhost_user_connection_failed(vhost, error);
		else
			vhost->ops.queue_notify(&vhost->device, i);
	}
}

static uint8_t execute(struct vhost_user_device *vhost, const struct virtqueue_chain *chain)
{
	struct net_control next = vhost->control;
	unsigned int changed;

	if (!net_control_execute(&next, vhost->device.driver_features, vhost->pairs, chain,
				 &changed))
		return NET_CONTROL_ERR;
	vhost->control = next;
	if (changed & NET_CONTROL_PAIRS)
		use_pairs(vhost);
	return NET_CONTROL_OK;
}

static void run_later(void *context)
{
	struct vhost_user_device *vhost = context;

	if (virtio_device_running(&vhost->device))
		vhost_user_net_control(vhost);
}

void vhost_user_net_control(struct vhost_user_device *vhost)
{
	struct virtqueue *ring = &vhost->device.queues[vhost->queues].ring;
	struct virtqueue_chain chain = {.iov = vhost->control_iov,
					.iov_max = ARRAY_SIZE(vhost->control_iov)};
	int left = CONTROL_BATCH, popped = 0;

	do {
		virtqueue_notifications(ring, false);
		while (left && (popped = virtqueue_pop(ring, &chain)) > 0) {
			uint8_t answer = execute(vhost, &chain);

			left--;
			if (!virtqueue_chain_write(&chain, 0, &answer, 1)) {
				virtqueue_discard(ring, &chain);
				virtio_device_needs_reset(
				    &vhost->device, "a control command has no room for its answer");
				return;
			}
			virtqueue_push(ring, &chain, 1);
		}
	} while (left && popped == 0 && virtqueue_notifications(ring, true));
	virtqueue_notify(ring);
	/* The back-end hears of each: let the loop do other work in between. */
	if (!left && event_loop_post(vhost->device.loop, run_later, vhost))
		virtqueue_notifications(ring, true);
	vhost_user_connection_settle(vhost);
}
