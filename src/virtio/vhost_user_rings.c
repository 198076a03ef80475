/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rings of a device whose back-end is another process: given to it with their doorbells and interrupts, taken
 * back with the position at which they go on.
 *
 * A back-end that dies does not say where it was. With an in-flight buffer its successor knows; and
 * where requests are done in the order in which they came, or none was under way, the used ring says it.
 * In all other cases nobody knows which requests are to be done (again), and the device needs a
 * reset: nothing is done twice, and nothing is passed over silently.
 *
 * The guest controls where its rings are and what is in them; a back-end the positions it answers.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "virtio/vhost_user_device_private.h"

/* A back-end gives a ring back when its requests are done, and a disk may take its time. */
#define STOP_LIMIT_NS	 (30 * NS_PER_SECOND)
#define REQUEST_LIMIT_NS (10 * NS_PER_SECOND)

static struct virtqueue *queue_of(struct vhost_user_device *vhost, uint16_t index)
{
	return &vhost->device.queues[index].ring;
}

/* --- Interrupts that KVM has not taken --------------------------------------------------------- */

static void handle_call(void *context, uint32_t events)
{
	struct vhost_user_ring *ring = context;
	struct vhost_user_device *vhost = ring->owner;
	const struct virtio_transport_ops *transport = vhost->device.transport_ops;
	uint64_t count;

	/* Where the host listens it was quicker: then there is nothing left. */
	if (read(ring->call, &count, sizeof(count)) == sizeof(count) && transport)
		transport->interrupt_queue(vhost->device.transport,
					   (uint16_t)(ring - vhost->rings));
}

struct error *vhost_user_rings_create(struct vhost_user_device *vhost)
{
	vhost->rings = calloc(vhost->queues, sizeof(*vhost->rings));
	if (!vhost->rings)
		return error_system(ENOMEM, "its rings");
	for (uint16_t i = 0; i < vhost->queues; i++)
		vhost->rings[i] = (struct vhost_user_ring){.owner = vhost, .call = -1};
	for (uint16_t i = 0; i < vhost->queues; i++) {
		struct vhost_user_ring *ring = &vhost->rings[i];

		ring->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (ring->call < 0)
			return error_system(errno, "its interrupts");
		TRY(event_loop_add(vhost->device.loop, ring->call, EPOLLIN, handle_call, ring,
				   &ring->call_source));
		vhost->device.queues[i].remote = true;
	}
	return NULL;
}

void vhost_user_rings_destroy(struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; vhost->rings && i < vhost->queues; i++) {
		event_source_remove(TAKE_PTR(vhost->rings[i].call_source));
		close_fd(&vhost->rings[i].call);
	}
	free(TAKE_PTR(vhost->rings));
	close_fd(&vhost->inflight_fd);
}

static void connect_interrupt(struct vhost_user_device *vhost, uint16_t index, bool connect)
{
	const struct virtio_transport_ops *transport = vhost->device.transport_ops;

	if (transport && transport->connect_queue)
		transport->connect_queue(vhost->device.transport, index,
					 connect ? vhost->rings[index].call : -1);
}

/* --- Where to go on ---------------------------------------------------------------------------- */

/* The index of a split ring's part at @address; false: the guest has taken the memory away. */
static bool read_index(struct vhost_user_device *vhost, uint64_t address, uint16_t *index)
{
	uint8_t bytes[2];

	if (!memory_read(vhost->device.map, address + 2, bytes, sizeof(bytes)))
		return false;
	*index = get_le16(bytes);
	return true;
}

/* False: the device needs a reset. */
static bool find_position(struct vhost_user_device *vhost, uint16_t index)
{
	struct vhost_user_ring *ring = &vhost->rings[index];
	const struct virtqueue_layout *layout = &queue_of(vhost, index)->layout;
	uint16_t available, used;
	char reason[96];

	if (!ring->lost)
		return true;
	if (!read_index(vhost, layout->driver, &available) ||
	    !read_index(vhost, layout->device, &used)) {
		virtio_device_needs_reset(&vhost->device, "a ring is not in memory any more");
		return false;
	}
	if (vhost->type.stateful) {
		virtio_device_needs_reset(&vhost->device,
					  "the back-end has died, and its successor knows nothing "
					  "of what the driver does");
		return false;
	}
	if (available != used && !vhost->type.in_order && vhost->inflight_fd < 0) {
		snprintf(reason, sizeof(reason),
			 "the back-end has died with %u requests that nobody knows",
			 (uint16_t)(available - used));
		virtio_device_needs_reset(&vhost->device, reason);
		return false;
	}
	ring->base = used;
	ring->lost = false;
	return true;
}

/* --- Starting ---------------------------------------------------------------------------------- */

/* A buffer for what is under way, made by the first back-end and given to all of them. */
static struct error *give_inflight(struct vhost_user_device *vhost)
{
	uint16_t size = 0;

	if (!(vhost_user_front_end_protocol(vhost->front) & VHOST_USER_PROTOCOL_INFLIGHT_SHMFD))
		return NULL;
	if (vhost->inflight_fd < 0) {
		for (uint16_t i = 0; i < vhost->queues; i++)
			size = MAX(size, queue_of(vhost, i)->size_max);
		TRY(vhost_user_front_end_get_inflight(vhost->front, vhost->queues, size,
						      &vhost->inflight, &vhost->inflight_fd));
	}
	return vhost_user_front_end_set_inflight(vhost->front, &vhost->inflight,
						 vhost->inflight_fd);
}

/* What comes before the first ring of a session, and after the driver has chosen its features. */
static struct error *prepare(struct vhost_user_device *vhost)
{
	/* The others, if there are any, are done here. */
	TRY(vhost_user_front_end_set_features(vhost->front,
					      vhost->device.driver_features &
						  vhost_user_front_end_features(vhost->front)));
	if (!vhost->memory_given)
		TRY(vhost_user_faults_give_memory(vhost));
	vhost->memory_given = true;
	TRY(vhost_user_log_give(vhost));
	return give_inflight(vhost);
}

static struct error *start_ring(struct vhost_user_device *vhost, uint16_t index)
{
	struct vhost_user_ring *ring = &vhost->rings[index];
	const struct virtqueue_layout *layout = &queue_of(vhost, index)->layout;
	const struct vhost_user_ring_setup setup = {
	    .size = layout->size,
	    .base = ring->base,
	    .descriptor = layout->descriptors,
	    .available = layout->driver,
	    .used = layout->device,
	    .kick = vhost->device.queues[index].notify_fd,
	    .call = ring->call,
	    .error = -1,
	};

	TRY(vhost_user_front_end_start_ring(vhost->front, index, &setup));
	ring->running = true;
	connect_interrupt(vhost, index, true);
	TRY(vhost_user_front_end_enable_ring(vhost->front, index,
					     vhost_user_net_enabled(vhost, index)));
	/* A back-end may have dropped what rang before it was enabled. */
	vhost->ops.queue_notify(&vhost->device, index);
	return NULL;
}

static struct error *start_rings(struct vhost_user_device *vhost)
{
	TRY(prepare(vhost));
	for (uint16_t i = 0; i < vhost->queues; i++)
		if (queue_of(vhost, i)->enabled && !vhost->rings[i].running)
			TRY(start_ring(vhost, i));
	return NULL;
}

static bool any_rests(struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; i < vhost->queues; i++)
		if (queue_of(vhost, i)->enabled && !vhost->rings[i].running)
			return true;
	return false;
}

void vhost_user_rings_start(struct vhost_user_device *vhost)
{
	struct error *error;

	if (!vhost->wanted || !vhost->front || !virtio_device_running(&vhost->device) ||
	    !any_rests(vhost) || vhost_user_faults_wait(vhost))
		return;
	for (uint16_t i = 0; i < vhost->queues; i++)
		if (queue_of(vhost, i)->enabled && !find_position(vhost, i))
			return;
	error = start_rings(vhost);
	if (!error)
		return;
	if (error_code(error) != EFAULT) {
		vhost_user_connection_failed(vhost, error);
		return;
	}
	/* Only the guest can have put a ring where there is no memory. */
	error_free(error);
	vhost_user_rings_stop(vhost);
	virtio_device_needs_reset(&vhost->device, "a ring is not in memory");
}

/* --- Stopping ---------------------------------------------------------------------------------- */

static void stopped(struct vhost_user_device *vhost, uint16_t index)
{
	struct vhost_user_ring *ring = &vhost->rings[index];

	connect_interrupt(vhost, index, false);
	ring->running = false;
	/* What it has said until now is said; later on it is nobody's. */
	handle_call(ring, EPOLLIN);
}

void vhost_user_rings_stop(struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; i < vhost->queues && vhost->front; i++) {
		struct error *error;

		if (!vhost->rings[i].running)
			continue;
		vhost_user_front_end_limit(vhost->front, STOP_LIMIT_NS);
		error = vhost_user_front_end_stop_ring(vhost->front, i, &vhost->rings[i].base);
		vhost_user_front_end_limit(vhost->front, REQUEST_LIMIT_NS);
		/*
		 * It stays enabled otherwise, and is when it is started again. What rings then, before all of it is
		 * there, ends the thread that works it in back-ends made with rust-vmm (seen with virtiofsd 1.13).
		 */
		if (!error)
			error = vhost_user_front_end_enable_ring(vhost->front, i, false);
		if (error)
			vhost_user_connection_failed(vhost, error); /* which loses those that run */
		else
			stopped(vhost, i);
	}
}

void vhost_user_rings_lose(struct vhost_user_device *vhost)
{
	bool any = false;

	for (uint16_t i = 0; i < vhost->queues; i++) {
		bool running = vhost->rings[i].running;

		/* With a back-end that has a state of its own that is gone, too: loaded, or at rest. */
		vhost->rings[i].lost |= running || (vhost->type.stateful && vhost->device.active &&
						    queue_of(vhost, i)->enabled);
		any |= running;
		if (running)
			stopped(vhost, i);
	}
	if (any)
		vhost_user_log_lost(vhost);
}

void vhost_user_rings_reset(struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; i < vhost->queues; i++) {
		vhost->rings[i].base = 0;
		vhost->rings[i].lost = false;
	}
	close_fd(&vhost->inflight_fd);
}
