/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A back-end of a guest that runs before its memory has come (post-copy, lazy restore): what it
 * touches and is not there yet is brought for it as for everybody else, if it can be told of its
 * faults (PAGEFAULT). Others get neither memory nor rings before all of it is there; the device
 * stalls so long.
 *
 * Runs on the device's loop; faults are served by who serves all others (memory/userfault.h). The back-end
 * controls where it says that it has mapped memory, and when it faults.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "memory/userfault.h"
#include "virtio/vhost_user_device_private.h"

/*
 * By one table, which every back-end with PAGEFAULT can take; by slots, which few can and QEMU's
 * library ends the session over, only where we were told to.
 */
static enum vhost_user_postcopy dialect_of(const struct vhost_user_device *vhost)
{
	return vhost->postcopy_slots && vhost->protocol & VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS
		   ? VHOST_USER_POSTCOPY_SLOTS
		   : VHOST_USER_POSTCOPY_TABLE;
}

static bool can_wait_for_pages(const struct vhost_user_device *vhost)
{
	if (vhost->memory_given)
		return vhost->remote;
	return vhost->protocol & VHOST_USER_PROTOCOL_PAGEFAULT && !vhost->cannot_wait &&
	       (dialect_of(vhost) == VHOST_USER_POSTCOPY_SLOTS ||
		vhost->blocks <= VHOST_USER_TABLE_MAX);
}

bool vhost_user_faults_wait(struct vhost_user_device *vhost)
{
	if (!vhost->missing || can_wait_for_pages(vhost))
		return false;
	if (!vhost->waits)
		log_warning("%s '%s': the back-end at %s cannot wait for memory that is still to "
			    "come: the device stands still until all of it is there",
			    vhost->device.ops->type, vhost->device.id, vhost->socket);
	vhost->waits = true;
	return true;
}

bool vhost_user_faults_fixed(const struct vhost_user_device *vhost)
{
	if (!vhost->remote || dialect_of(vhost) == VHOST_USER_POSTCOPY_SLOTS)
		return false;
	for (uint16_t i = 0; i < vhost->queues; i++)
		if (vhost->rings[i].running)
			return true;
	return false;
}

/* --- Beginning --------------------------------------------------------------------------------- */

/* The back-end has said where it has mapped what, and touches nothing before this returns. */
static struct error *ranges_ready(void *context)
{
	struct vhost_user_device *vhost = context;
	AUTO_FREE struct userfault_mapping *mappings = NULL;
	struct vhost_user_client_range range;
	size_t count = 0;

	while (vhost_user_front_end_client_range(vhost->front, count, &range))
		count++;
	mappings = calloc(count + 1, sizeof(*mappings));
	if (!mappings)
		return error_system(ENOMEM, "its faults");
	for (size_t i = 0; i < count; i++) {
		const struct memory_region *region;

		if (!vhost_user_front_end_client_range(vhost->front, i, &range))
			break;
		/* What we have sent lies in one region. */
		region = memory_map_find(vhost->device.map, range.guest_address);
		mappings[i] = (struct userfault_mapping){
		    .address = range.address,
		    .size = range.size,
		    .block = region->block,
		    .offset = region->block_offset + (range.guest_address - region->address),
		};
	}
	return userfault_remote_map(vhost->remote, mappings, count);
}

static struct error *begin(struct vhost_user_device *vhost)
{
	int fd;

	TRY(vhost_user_front_end_advise_postcopy(vhost->front, &fd));
	TRY(userfault_remote_create(vhost->missing, fd, &vhost->remote));
	vhost_user_front_end_on_ranges(vhost->front, ranges_ready, vhost);
	TRY(vhost_user_front_end_listen_postcopy(vhost->front, dialect_of(vhost)));
	return vhost_user_front_end_begin_memory(vhost->front, vhost->memory);
}

struct error *vhost_user_faults_give_memory(struct vhost_user_device *vhost)
{
	struct error *error;

	if (!vhost->missing)
		return vhost_user_front_end_begin_memory(vhost->front, vhost->memory);
	error = begin(vhost);
	/* Of one that is merely gone the successor can. */
	vhost->cannot_wait =
	    error && error_code(error) != ECONNRESET && error_code(error) != ETIMEDOUT;
	return error;
}

/* --- The end ----------------------------------------------------------------------------------- */

void vhost_user_faults_hang_up(struct vhost_user_device *vhost)
{
	userfault_remote_destroy(TAKE_PTR(vhost->remote));
}

static void end(struct vhost_user_device *vhost)
{
	struct error *error;

	if (!vhost->remote)
		return;
	error = vhost_user_front_end_end_postcopy(vhost->front);
	if (error)
		vhost_user_connection_failed(vhost, error);
	else
		vhost_user_faults_hang_up(vhost);
}

void vhost_user_faults_set(struct virtio_device *device, struct userfault *userfault)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);

	vhost->missing = userfault;
	vhost->cannot_wait = vhost->waits = false;
	if (!userfault) {
		end(vhost);
		vhost_user_rings_start(vhost);
		vhost_user_connection_settle(vhost);
	}
}
