/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end's rings and the log of what the back-end writes.
 *
 * Runs on the caller's thread. The guest controls ring addresses: they are translated, and must be
 * plugged memory. The back-end controls the position that a stopped ring is said to be at; what it
 * means is checked by who uses it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "vhost_user/front_end_private.h"

#define RING_PACKED (1ULL << 34) /* VIRTIO_F_RING_PACKED */

static struct error *check_index(struct vhost_user_front_end *front, uint32_t index)
{
	if (index < VHOST_USER_RINGS_MAX && (!front->queues || index < front->queues))
		return NULL;
	return front_refused(
	    front, error_new(EINVAL, "it has %" PRIu32 " queues, and no queue %" PRIu32,
			     front->queues ? front->queues : VHOST_USER_RINGS_MAX, index));
}

static struct error *tell_ring(struct vhost_user_front_end *front, uint32_t request, uint32_t index,
			       uint32_t value)
{
	struct vhost_user_message message = front_message(request, VHOST_USER_RING_STATE);

	message.state.index = index;
	message.state.num = value;
	return front_request(front, &message, NULL);
}

static struct error *tell_fd(struct vhost_user_front_end *front, uint32_t request, uint32_t index,
			     int fd)
{
	struct vhost_user_message message = front_message(request, VHOST_USER_U64);

	message.u64 = index | (fd < 0 ? VHOST_USER_NO_FD : 0);
	message.fds[0] = fd;
	message.fd_count = fd >= 0;
	return front_request(front, &message, NULL);
}

/* --- Addresses --------------------------------------------------------------------------------- */

/* The three parts of a ring and their sizes (virtio 1.2, 2.7 and 2.8). */
static void ring_ranges(const struct vhost_user_front_end *front,
			const struct vhost_user_ring_setup *setup,
			struct vhost_user_range ranges[3])
{
	bool packed = front->features & RING_PACKED;
	uint64_t size = setup->size;

	ranges[0] = (struct vhost_user_range){setup->descriptor, 16 * size};
	ranges[1] = (struct vhost_user_range){setup->available, packed ? 4 : 6 + 2 * size};
	ranges[2] = (struct vhost_user_range){setup->used, packed ? 4 : 6 + 8 * size};
}

static struct error *translate(struct vhost_user_front_end *front, uint32_t index,
			       const struct vhost_user_ring_setup *setup,
			       struct vhost_user_range ranges[3],
			       struct vhost_user_ring_address *address)
{
	uint64_t user[3];

	if (!front->memory)
		return front_refused(front, error_new(EINVAL, "it has no memory yet"));
	ring_ranges(front, setup, ranges);
	for (unsigned int i = 0; i < 3; i++) {
		if (!vhost_user_memory_user_address(front->memory, ranges[i].guest_address,
						    ranges[i].size, &user[i]))
			return front_refused(front, error_new(EFAULT,
							      "ring %" PRIu32 " is at 0x%" PRIx64
							      ", where the guest has no memory",
							      index, ranges[i].guest_address));
	}
	*address =
	    (struct vhost_user_ring_address){.index = index,
					     .flags = front->logging ? VHOST_USER_RING_LOG : 0,
					     .descriptor = user[0],
					     .available = user[1],
					     .used = user[2],
					     .log = setup->used};
	return NULL;
}

static struct error *tell_address(struct vhost_user_front_end *front,
				  const struct vhost_user_ring_address *address)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_SET_VRING_ADDR, VHOST_USER_RING_ADDRESS);

	message.address = *address;
	return front_request(front, &message, NULL);
}

/* --- Rings ------------------------------------------------------------------------------------- */

/* For back-ends that begin only with the first kick, and for what was kicked before. */
static void inject_kick(int kick)
{
	const uint64_t one = 1;

	/* It fails only if the counter is full, which is as good. */
	if (kick >= 0 && write(kick, &one, sizeof(one)) < 0)
		return;
}

static struct error *start_ring(struct vhost_user_front_end *front, uint32_t index,
				const struct vhost_user_ring_setup *setup,
				const struct vhost_user_ring_address *address)
{
	TRY(tell_ring(front, VHOST_USER_SET_VRING_NUM, index, setup->size));
	TRY(tell_ring(front, VHOST_USER_SET_VRING_BASE, index, setup->base));
	TRY(tell_address(front, address));
	TRY(tell_fd(front, VHOST_USER_SET_VRING_CALL, index, setup->call));
	if (setup->error >= 0)
		TRY(tell_fd(front, VHOST_USER_SET_VRING_ERR, index, setup->error));
	/* The ring runs from here on. */
	TRY(tell_fd(front, VHOST_USER_SET_VRING_KICK, index, setup->kick));
	return front_settle(front);
}

struct error *vhost_user_front_end_start_ring(struct vhost_user_front_end *front, uint32_t index,
					      const struct vhost_user_ring_setup *setup)
{
	struct vhost_user_ring_address address;
	struct vhost_user_range ranges[3];
	struct error *error;

	TRY(check_index(front, index));
	if (front->rings[index].live || !setup->size)
		return front_refused(front,
				     error_new(EINVAL, "ring %" PRIu32 " %s", index,
					       setup->size ? "runs already" : "has no size"));
	TRY(translate(front, index, setup, ranges, &address));
	vhost_user_memory_pin(front->memory, index, ranges);
	error = start_ring(front, index, setup, &address);
	if (error) {
		/* Refused before it ran: SET_VRING_KICK comes last. */
		vhost_user_memory_unpin(front->memory, index);
		return error;
	}
	front->rings[index] = (struct front_ring){.live = true, .address = address};
	front->live_rings++;
	inject_kick(setup->kick);
	return NULL;
}

struct error *vhost_user_front_end_enable_ring(struct vhost_user_front_end *front, uint32_t index,
					       bool enable)
{
	TRY(check_index(front, index));
	if (!(front->offered & VHOST_USER_F_PROTOCOL_FEATURES))
		return NULL; /* SET_FEATURES has enabled all */
	TRY(tell_ring(front, VHOST_USER_SET_VRING_ENABLE, index, enable));
	return front_settle(front);
}

struct error *vhost_user_front_end_set_call(struct vhost_user_front_end *front, uint32_t index,
					    int call)
{
	TRY(check_index(front, index));
	TRY(tell_fd(front, VHOST_USER_SET_VRING_CALL, index, call));
	return front_settle(front);
}

struct error *vhost_user_front_end_kick(struct vhost_user_front_end *front, uint32_t index)
{
	TRY(check_index(front, index));
	return tell_ring(front, VHOST_USER_VRING_KICK, index, 0);
}

struct error *vhost_user_front_end_stop_ring(struct vhost_user_front_end *front, uint32_t index,
					     uint32_t *base)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_GET_VRING_BASE, VHOST_USER_RING_STATE);
	struct vhost_user_message reply;

	TRY(check_index(front, index));
	if (!front->rings[index].live)
		return front_refused(front,
				     error_new(EINVAL, "ring %" PRIu32 " is stopped", index));
	message.state.index = index;
	message.state.num = 0;
	TRY(front_request(front, &message, &reply));
	if (reply.state.index != index)
		return front_fail(front,
				  error_new(EPROTO, "%s is about ring %" PRIu32 ", not %" PRIu32,
					    message.type->name, reply.state.index, index));
	if (!(front->features & RING_PACKED) && reply.state.num > UINT16_MAX)
		return front_fail(front, error_new(EPROTO, "%s of a split ring is %#" PRIx32,
						   message.type->name, reply.state.num));
	front->rings[index].live = false;
	front->live_rings--;
	vhost_user_memory_unpin(front->memory, index);
	if (base)
		*base = reply.state.num;
	return NULL;
}

/* --- The log ----------------------------------------------------------------------------------- */

struct error *front_send_features(struct vhost_user_front_end *front)
{
	uint64_t features = front->features | (front->logging ? VHOST_F_LOG_ALL : 0) |
			    (front->offered & VHOST_USER_F_PROTOCOL_FEATURES);

	TRY(front_tell(front, VHOST_USER_SET_FEATURES, features));
	return front_settle(front);
}

static struct error *set_logging(struct vhost_user_front_end *front, bool logging)
{
	front->logging = logging;
	TRY(front_send_features(front));
	for (uint32_t i = 0; i < VHOST_USER_RINGS_MAX; i++) {
		struct vhost_user_ring_address *address = &front->rings[i].address;

		if (!front->rings[i].live)
			continue;
		address->flags = logging ? VHOST_USER_RING_LOG : 0;
		TRY(tell_address(front, address));
	}
	return front_settle(front);
}

struct error *vhost_user_front_end_start_log(struct vhost_user_front_end *front, int fd,
					     uint64_t offset, uint64_t size)
{
	struct vhost_user_message message = front_message(VHOST_USER_SET_LOG_BASE, VHOST_USER_LOG);
	struct vhost_user_message reply;

	if (!(front->offered & VHOST_F_LOG_ALL))
		return front_refused(front, error_new(EOPNOTSUPP, "it cannot log what it writes "
								  "(no VHOST_F_LOG_ALL)"));
	message.log.size = size;
	message.log.offset = offset;
	message.fds[0] = fd;
	message.fd_count = 1;
	TRY(front_request(front, &message, &reply));
	return set_logging(front, true);
}

struct error *vhost_user_front_end_stop_log(struct vhost_user_front_end *front)
{
	return front->logging ? set_logging(front, false) : NULL;
}
