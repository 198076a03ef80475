/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a back-end is to hold of the guest's memory: a listener of the memory map that keeps a planner
 * (vhost_user/memory.h), and tells the back-end of each change while there is one.
 *
 * Changes come on the threads of elastic devices, with the map's lock held, and are carried to the
 * device's loop, to which the session belongs; that thread never takes the map's lock. They wait for
 * the back-end's answer, at most for the session's time limit.
 *
 * What can fail: a back-end refuses an addition, which then is refused to whoever plugs. One that
 * breaks its session holds nothing by the books from then on; memory changes without it, and
 * its successor gets what is plugged by then.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "virtio/vhost_user_device_private.h"

struct change {
	struct vhost_user_device *vhost;
	struct vhost_user_range range;
	bool plug;
	int failure;
};

static struct vhost_user_device *from_listener(struct memory_listener *listener)
{
	return CONTAINER_OF(listener, struct vhost_user_device, listener);
}

/* The books, without a message. */
static struct error *note(struct vhost_user_device *vhost, const struct vhost_user_range *range,
			  bool plug)
{
	struct vhost_user_plan plan AUTO_VHOST_USER_PLAN = {0};

	return vhost_user_memory_change(vhost->memory, range, !plug, range, plug, &plan);
}

static void refuse(struct change *change, struct error *error)
{
	struct vhost_user_device *vhost = change->vhost;

	log_warning("%s '%s': %s", vhost->device.ops->type, vhost->device.id, error_message(error));
	error_free(error);
	change->failure = -EBUSY;
	/* It was not given, so nothing is sent. */
	error = vhost_user_front_end_change_memory(vhost->front, &change->range, 1, NULL, 0);
	if (error)
		vhost_user_connection_failed(vhost, error);
}

static void change_on_loop(void *context)
{
	struct change *change = context;
	struct vhost_user_device *vhost = change->vhost;
	struct error *error;

	/* It would have to map anew what it works with. The guest asks again. */
	if (vhost_user_faults_fixed(vhost)) {
		change->failure = -EBUSY;
		return;
	}
	if (!vhost->front || !vhost->memory_given) {
		error = note(vhost, &change->range, change->plug);
		if (error)
			change->failure = -EBUSY; /* memory is short */
		error_free(error);
		return;
	}
	error = vhost_user_front_end_change_memory(vhost->front, &change->range, !change->plug,
						   &change->range, change->plug);
	if (error && error_code(error) == EREMOTEIO && change->plug)
		refuse(change, error);
	else if (error)
		vhost_user_connection_failed(vhost, error);
	vhost_user_connection_settle(vhost);
}

static int change(struct memory_listener *listener, const struct memory_region *region,
		  uint64_t offset, uint64_t size, bool plug)
{
	struct change change = {.vhost = from_listener(listener),
				.range = {region->address + offset, size},
				.plug = plug};

	event_loop_call(change.vhost->device.loop, change_on_loop, &change);
	return change.failure;
}

static int on_plug(struct memory_listener *listener, struct memory_region *region, uint64_t offset,
		   uint64_t size)
{
	return change(listener, region, offset, size, true);
}

static int on_unplug(struct memory_listener *listener, struct memory_region *region,
		     uint64_t offset, uint64_t size)
{
	return change(listener, region, offset, size, false);
}

/* Only while the machine is being made. */
static struct error *on_region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct vhost_user_device *vhost = from_listener(listener);
	const struct ram_block *block = region->block;
	struct vhost_user_block entry = {
	    .region = {.guest_address = region->address,
		       .size = region->size,
		       .user_address = (uintptr_t)block->host + region->block_offset,
		       .offset = region->block_offset},
	    .fd = block->fd,
	    .unit = region->unit,
	};
	char backing[256];

	if (block->fd < 0 || block->clone)
		return error_usage(
		    "the memory of '%s' is private to the VM (backing=%s), and a back-end has to "
		    "map it: use backing=memfd, hugetlb or a file",
		    block->name, ram_backing_describe(&block->options, backing, sizeof(backing)));

	TRY(vhost_user_memory_add_block(vhost->memory, &entry));
	vhost->blocks++;
	for (uint64_t offset = 0; region->unit && offset < region->size; offset += region->unit) {
		struct vhost_user_range range = {region->address + offset, region->unit};

		if (memory_region_all_plugged(region, offset, region->unit))
			TRY(note(vhost, &range, true));
	}
	return NULL;
}

static void on_region_remove(struct memory_listener *listener, struct memory_region *region)
{
}

struct error *vhost_user_shadow_begin(struct vhost_user_device *vhost)
{
	vhost->memory = vhost_user_memory_create();
	if (!vhost->memory)
		return error_system(ENOMEM, "the books of its memory");
	vhost->listener = (struct memory_listener){.region_add = on_region_add,
						   .region_remove = on_region_remove,
						   .plug = on_plug,
						   .unplug = on_unplug,
						   .hands_out = true};
	TRY(memory_map_add_listener(vhost->device.map, &vhost->listener));
	vhost->listening = true;
	return NULL;
}

void vhost_user_shadow_end(struct vhost_user_device *vhost)
{
	if (vhost->listening)
		memory_map_remove_listener(vhost->device.map, &vhost->listener);
	vhost->listening = false;
	vhost_user_memory_destroy(TAKE_PTR(vhost->memory));
}
