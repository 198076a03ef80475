/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end's rings: what the front-end sets up, and when the device runs them.
 *
 * Runs on the session's thread. The front-end controls indices, sizes, addresses and descriptors. A
 * ring starts with SET_VRING_KICK and only when all of it is in mapped memory; its addresses are
 * looked up again whenever memory changes, before the old memory goes.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "vhost_user/back_end_private.h"

/* Bytes of the three parts (virtio 1.2, 2.7 and 2.8): descriptors, available, used. */
static void part_sizes(const struct vhost_user_back_end *back, uint64_t ring_size,
		       uint64_t sizes[3])
{
	bool packed = back->features & RING_PACKED;

	sizes[0] = 16 * ring_size;
	sizes[1] = packed ? 4 : 6 + 2 * ring_size;
	sizes[2] = packed ? 4 : 6 + 8 * ring_size;
}

static struct error *resolve(const struct vhost_user_back_end *back, const struct back_table *table,
			     uint32_t index, void *parts[3])
{
	const struct back_ring *ring = &back->rings[index];
	const uint64_t users[] = {ring->address.descriptor, ring->address.available,
				  ring->address.used};
	static const uint8_t alignments[] = {16, 2, 4};
	uint64_t sizes[3];

	part_sizes(back, ring->is.size, sizes);
	for (unsigned int i = 0; i < 3; i++) {
		parts[i] = back_user(table, users[i], sizes[i]);
		if (!parts[i] || (uintptr_t)parts[i] % alignments[i])
			return error_new(EINVAL,
					 "ring %" PRIu32 " is at user address %#" PRIx64
					 ", where there is no memory for it",
					 index, users[i]);
	}
	return NULL;
}

static void set_parts(const struct back_table *table, struct back_ring *ring, void *parts[3])
{
	ring->descriptor_address = back_guest_address(table, ring->address.descriptor);
	ring->is.descriptor = parts[0];
	ring->is.available = parts[1];
	ring->is.used = parts[2];
}

struct error *back_resolve_rings(struct vhost_user_back_end *back, const struct back_table *table,
				 bool commit)
{
	const struct vhost_user_back_end_ops *ops = back->options.ops;

	if (commit && ops->memory_goes)
		ops->memory_goes(back->options.context, 0, 0);
	for (uint32_t i = 0; i < back->options.queues; i++) {
		void *parts[3];

		if (!back->rings[i].is.started)
			continue;
		TRY(resolve(back, table, i, parts));
		if (commit)
			set_parts(table, &back->rings[i], parts);
	}
	return NULL;
}

bool back_ring_uses(const struct vhost_user_back_end *back, const struct vhost_user_region *region)
{
	for (uint32_t i = 0; i < back->options.queues; i++) {
		const struct back_ring *ring = &back->rings[i];
		const uint64_t users[] = {ring->address.descriptor, ring->address.available,
					  ring->address.used};
		uint64_t sizes[3];

		if (!ring->is.started)
			continue;
		part_sizes(back, ring->is.size, sizes);
		for (unsigned int j = 0; j < 3; j++) {
			if (ranges_overlap(users[j], sizes[j], region->user_address, region->size))
				return true;
		}
	}
	return false;
}

/* --- Starting and stopping --------------------------------------------------------------------- */

static struct error *start(struct vhost_user_back_end *back, uint32_t index)
{
	struct back_ring *ring = &back->rings[index];
	struct error *error;
	void *parts[3];

	if (ring->is.started)
		return NULL;
	if (!ring->is.size || !ring->has_address)
		return error_new(EPROTO, "ring %" PRIu32 " starts without a size or an address",
				 index);
	if (back->gated)
		return error_new(
		    EPROTO, "ring %" PRIu32 " starts before post-copy's memory is ready", index);
	TRY(resolve(back, &back->table, index, parts));
	set_parts(&back->table, ring, parts);
	ring->is.started = true;
	error = back->options.ops->start_ring(back->options.context, index);
	if (error)
		ring->is.started = false;
	return error;
}

static struct error *stop(struct vhost_user_back_end *back, uint32_t index)
{
	struct back_ring *ring = &back->rings[index];
	uint32_t base = ring->is.base;

	if (!ring->is.started)
		return NULL;
	TRY(back->options.ops->stop_ring(back->options.context, index, &base));
	ring->is.started = false;
	ring->is.base = base;
	ring->is.descriptor = ring->is.available = ring->is.used = NULL;
	close_fd(&ring->is.kick);
	return NULL;
}

bool back_any_runs(const struct vhost_user_back_end *back)
{
	for (uint32_t i = 0; i < back->options.queues; i++) {
		if (back->rings[i].is.started)
			return true;
	}
	return false;
}

void back_stop_rings(struct vhost_user_back_end *back)
{
	for (uint32_t i = 0; i < back->options.queues; i++) {
		error_free(stop(back, i));
		back->rings[i].is.started = false;
	}
}

static void set_enabled(struct vhost_user_back_end *back, uint32_t index, bool enabled)
{
	struct vhost_user_back_end_ring *ring = &back->rings[index].is;

	if (ring->enabled == enabled)
		return;
	ring->enabled = enabled;
	if (back->options.ops->enable_ring)
		back->options.ops->enable_ring(back->options.context, index, enabled);
}

void back_enable_all(struct vhost_user_back_end *back)
{
	for (uint32_t i = 0; i < back->options.queues; i++)
		set_enabled(back, i, true);
}

void back_close_rings(struct vhost_user_back_end *back)
{
	for (uint32_t i = 0; i < VHOST_USER_RINGS_MAX; i++) {
		struct vhost_user_back_end_ring *ring = &back->rings[i].is;

		close_fd(&ring->kick);
		close_fd(&ring->call);
		close_fd(&ring->error);
	}
}

const struct vhost_user_back_end_ring *
vhost_user_back_end_ring(const struct vhost_user_back_end *back, uint32_t index)
{
	return &back->rings[index].is;
}

uint64_t vhost_user_back_end_descriptor_address(const struct vhost_user_back_end *back,
						uint32_t index)
{
	return back->rings[index].descriptor_address;
}

/* --- Requests ---------------------------------------------------------------------------------- */

static struct error *set_num(struct vhost_user_back_end *back,
			     const struct vhost_user_message *message)
{
	struct vhost_user_back_end_ring *ring = &back->rings[message->state.index].is;
	uint32_t size = message->state.num;

	if (!size || size > back->options.queue_size ||
	    (!(back->features & RING_PACKED) && !is_power_of_two(size)))
		return error_new(EPROTO, "%s is %" PRIu32 " for ring %" PRIu32, message->type->name,
				 size, message->state.index);
	if (ring->started)
		return error_new(EPROTO, "%s for ring %" PRIu32 ", which runs", message->type->name,
				 message->state.index);
	ring->size = size;
	return NULL;
}

static struct error *set_base(struct vhost_user_back_end *back,
			      const struct vhost_user_message *message)
{
	struct vhost_user_back_end_ring *ring = &back->rings[message->state.index].is;

	if (ring->started)
		return error_new(EPROTO, "%s for ring %" PRIu32 ", which runs", message->type->name,
				 message->state.index);
	if (!(back->features & RING_PACKED) && message->state.num > UINT16_MAX)
		return error_new(EPROTO, "%s of a split ring is %#" PRIx32, message->type->name,
				 message->state.num);
	ring->base = message->state.num;
	return NULL;
}

static struct error *set_address(struct vhost_user_back_end *back,
				 const struct vhost_user_message *message)
{
	struct back_ring *ring = &back->rings[message->address.index];
	struct vhost_user_ring_address old = ring->address;
	struct error *error;
	void *parts[3];

	if (message->address.flags & ~VHOST_USER_RING_LOG)
		return error_new(EPROTO, "%s has flags %#" PRIx32, message->type->name,
				 message->address.flags);
	ring->address = message->address;
	ring->has_address = true;
	if (!ring->is.started)
		return NULL;
	error = resolve(back, &back->table, message->address.index, parts);
	if (error) {
		ring->address = old;
		return error;
	}
	if (back->options.ops->memory_goes)
		back->options.ops->memory_goes(back->options.context, 0, 0);
	set_parts(&back->table, ring, parts);
	return NULL;
}

/*
 * Signals are written to it: that must neither wait nor raise SIGPIPE, so it is no pipe and no socket.
 * The other side sees that it does not block any more, as with other back-ends.
 */
static struct error *prepare_eventfd(const struct vhost_user_message *message)
{
	int fd = message->fd_count ? message->fds[0] : -1, type, flags;
	socklen_t size = sizeof(type);

	if (fd < 0)
		return NULL;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_GETPIPE_SZ) >= 0 ||
	    !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_new(EPROTO, "%s comes with a descriptor that is no eventfd",
				 message->type->name);
	return NULL;
}

static struct error *set_fd(struct vhost_user_back_end *back, struct vhost_user_message *message)
{
	uint32_t index = message->u64 & 0xff;
	struct vhost_user_back_end_ring *ring = &back->rings[index].is;
	int *fd = message->type->request == VHOST_USER_SET_VRING_KICK	? &ring->kick
		  : message->type->request == VHOST_USER_SET_VRING_CALL ? &ring->call
									: &ring->error;

	TRY(prepare_eventfd(message));
	/* Whoever waits on the old one must not go on. */
	if (fd == &ring->kick)
		TRY(stop(back, index));
	else if (ring->started && back->options.ops->memory_goes)
		back->options.ops->memory_goes(back->options.context, 0, 0);
	close_fd(fd);
	*fd = vhost_user_message_take_fd(message, 0);
	if (fd == &ring->kick)
		return start(back, index);
	/* What was signalled on the old one may have been missed; one too many does no harm. */
	if (fd == &ring->call && ring->started)
		vhost_user_back_end_call(back, index);
	return NULL;
}

static struct error *get_base(struct vhost_user_back_end *back,
			      const struct vhost_user_message *message,
			      struct vhost_user_message *reply)
{
	TRY(stop(back, message->state.index));
	reply->type = message->type;
	reply->payload = VHOST_USER_RING_STATE;
	reply->state.index = message->state.index;
	reply->state.num = back->rings[message->state.index].is.base;
	return NULL;
}

static struct error *enable(struct vhost_user_back_end *back,
			    const struct vhost_user_message *message)
{
	if (message->state.num > 1)
		return error_new(EPROTO, "%s is %" PRIu32, message->type->name, message->state.num);
	set_enabled(back, message->state.index, message->state.num);
	return NULL;
}

/* The ring that a request is about. */
static struct error *check_ring(const struct vhost_user_back_end *back,
				const struct vhost_user_message *message)
{
	uint64_t index = message->payload == VHOST_USER_U64
			     ? message->u64 & ~(uint64_t)VHOST_USER_NO_FD
			 : message->payload == VHOST_USER_RING_ADDRESS ? message->address.index
								       : message->state.index;

	if (index < back->options.queues)
		return NULL;
	return error_new(EPROTO, "%s is about ring %#" PRIx64 ": there are %" PRIu32,
			 message->type->name, index, back->options.queues);
}

struct error *back_ring_request(struct vhost_user_back_end *back,
				struct vhost_user_message *message,
				struct vhost_user_message *reply)
{
	TRY(check_ring(back, message));
	switch (message->type->request) {
	case VHOST_USER_SET_VRING_NUM:
		return set_num(back, message);
	case VHOST_USER_SET_VRING_BASE:
		return set_base(back, message);
	case VHOST_USER_SET_VRING_ADDR:
		return set_address(back, message);
	case VHOST_USER_GET_VRING_BASE:
		return get_base(back, message, reply);
	case VHOST_USER_SET_VRING_ENABLE:
		return enable(back, message);
	case VHOST_USER_VRING_KICK:
		TRY(start(back, message->state.index));
		if (back->options.ops->ring_kicked)
			back->options.ops->ring_kicked(back->options.context, message->state.index);
		return NULL;
	default:
		return set_fd(back, message);
	}
}

/* --- Signals ----------------------------------------------------------------------------------- */

void vhost_user_back_end_call(struct vhost_user_back_end *back, uint32_t index)
{
	const uint64_t one = 1;
	int fd = back->rings[index].is.call;

	/* It fails only if the counter is full, which is as good. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
	if (fd < 0 && back->protocol & VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS &&
	    back->backend.fd >= 0) {
		struct vhost_user_message message = {
		    .type =
			vhost_user_message_type(VHOST_USER_BACKEND, VHOST_USER_BACKEND_VRING_CALL),
		    .payload = VHOST_USER_RING_STATE,
		    .state = {index, 0}};
		struct error *error = vhost_user_socket_send(&back->backend, &message, 0);

		/* Who does not read them has lost them. */
		if (error)
			vhost_user_socket_close(&back->backend);
		error_free(error);
	}
}
