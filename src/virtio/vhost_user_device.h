/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio devices whose work another process does, the back-end, over the vhost-user protocol: it has
 * the guest's memory, the rings, and the eventfds of doorbells and interrupts. This process gives
 * them to it, takes them back, and keeps what a driver sees of the device in its registers.
 *
 * A back-end may be there when the machine is made or come later, and may go: see
 * docs/vhost-user.md. Errors of a back-end are logged and kept for reports; none stops the machine.
 */
#ifndef GODWIT_VIRTIO_VHOST_USER_DEVICE_H
#define GODWIT_VIRTIO_VHOST_USER_DEVICE_H

#include "virtio/virtio_device.h"

/*
 * Creates a device of @kind from the text behind that option, which for the first three begins with
 * "vhost-user:SOCKET":
 *	"disk"		[,queues=N]
 *	"net"		[,queues=N][,mac=MAC], pairs of queues
 *	"fs"		,tag=T[,queues=N]
 *	"vhost-user"	socket=SOCKET,type=NAME|ID[,queues=N][,config-size=N]
 * and each [,queue-size=N][,listen=on][,postcopy=table|slots][,id=ID]. With listen=on the back-end connects to SOCKET, otherwise
 * it listens there. @index is that of the device among those of its kind, for its
 * default id and, with @vm_name, for its default MAC address. The back-end is looked for when the
 * device is realized: what it refuses then refuses the machine; if nobody is there the device waits.
 */
struct error *vhost_user_device_create(const char *kind, const char *text, const char *vm_name,
				       uint32_t index, struct virtio_device **device) MUST_CHECK;
/* Whether the @text of an option means such a device: it begins with "vhost-user:". */
bool vhost_user_device_wanted(const char *text);

struct vhost_user_device_status {
	const char *socket; /* as long as the device lives */
	bool connected;
	uint32_t slots_used, slots_max; /* pieces of memory that the back-end holds, and can hold */
	uint64_t excess;		/* bytes of these that are not plugged */
	uint64_t sessions, messages;	/* so far */
};
/* False: @device is another kind of device. Any thread. */
bool vhost_user_device_status(struct virtio_device *device,
			      struct vhost_user_device_status *status);

#endif
