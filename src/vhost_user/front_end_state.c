/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the front-end asks of the device as a whole: features, configuration space, the in-flight
 * buffer, its state, post-copy.
 *
 * Runs on the caller's thread. The back-end controls replies and the descriptors in them, which are
 * looked at before they are handed on: a buffer must be as large as it says, and a userfaultfd one.
 */
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "vhost_user/front_end_private.h"

#define INFLIGHT_MAX MIB(64) /* 256 queues of 4096 entries take 32 MiB */

/* --- The device -------------------------------------------------------------------------------- */

struct error *vhost_user_front_end_set_features(struct vhost_user_front_end *front,
						uint64_t features)
{
	const uint64_t own = VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;

	if (features & (~front->offered | own))
		return front_refused(front,
				     error_new(EINVAL, "it does not offer features %#" PRIx64,
					       features & (~front->offered | own)));
	front->features = features;
	return front_send_features(front);
}

struct error *vhost_user_front_end_set_status(struct vhost_user_front_end *front, uint8_t status)
{
	return front_tell(front, VHOST_USER_SET_STATUS, status);
}

struct error *vhost_user_front_end_get_status(struct vhost_user_front_end *front, uint8_t *status)
{
	uint64_t value = 0;

	TRY(front_ask(front, VHOST_USER_GET_STATUS, &value));
	if (value > UINT8_MAX)
		return front_fail(front,
				  error_new(EPROTO, "VHOST_USER_GET_STATUS is %#" PRIx64, value));
	*status = (uint8_t)value;
	return NULL;
}

struct error *vhost_user_front_end_reset(struct vhost_user_front_end *front)
{
	if (front->live_rings)
		return front_refused(
		    front, error_new(EBUSY, "%" PRIu32 " rings run still", front->live_rings));
	TRY(front_ask(front, VHOST_USER_RESET_DEVICE, NULL));
	front->logging = false;
	return front_settle(front);
}

struct error *vhost_user_front_end_set_mtu(struct vhost_user_front_end *front, uint16_t mtu)
{
	return front_tell(front, VHOST_USER_NET_SET_MTU, mtu);
}

struct error *vhost_user_front_end_send_rarp(struct vhost_user_front_end *front,
					     const uint8_t mac[6])
{
	uint8_t bytes[8] = {0};

	memcpy(bytes, mac, 6);
	return front_tell(front, VHOST_USER_SEND_RARP, get_le64(bytes));
}

/* --- Configuration space ----------------------------------------------------------------------- */

static struct error *config_message(struct vhost_user_front_end *front, uint32_t request,
				    uint32_t offset, uint32_t size,
				    struct vhost_user_message *message)
{
	if (!size || size > VHOST_USER_CONFIG_MAX)
		return front_refused(front,
				     error_new(EINVAL,
					       "%" PRIu32 " bytes of configuration space are "
					       "not 1 to 256",
					       size));
	*message = front_message(request, VHOST_USER_CONFIG);
	message->config = (struct vhost_user_config){.offset = offset, .size = size};
	return NULL;
}

struct error *vhost_user_front_end_get_config(struct vhost_user_front_end *front, uint32_t offset,
					      uint32_t size, void *bytes)
{
	struct vhost_user_message message, reply;

	TRY(config_message(front, VHOST_USER_GET_CONFIG, offset, size, &message));
	TRY(front_request(front, &message, &reply));
	if (reply.payload == VHOST_USER_EMPTY)
		return front_refused(front,
				     error_new(EREMOTEIO,
					       "it refuses to tell %" PRIu32
					       " bytes of its configuration space at %" PRIu32,
					       size, offset));
	if (reply.config.offset != offset || reply.config.size != size)
		return front_fail(front, error_new(EPROTO,
						   "%s has %" PRIu32 " bytes at %" PRIu32
						   ", not %" PRIu32 " at %" PRIu32,
						   message.type->name, reply.config.size,
						   reply.config.offset, size, offset));
	memcpy(bytes, reply.config.bytes, size);
	return NULL;
}

struct error *vhost_user_front_end_set_config(struct vhost_user_front_end *front, uint32_t offset,
					      uint32_t size, const void *bytes, bool migration)
{
	struct vhost_user_message message;

	TRY(config_message(front, VHOST_USER_SET_CONFIG, offset, size, &message));
	message.config.flags = migration;
	memcpy(message.config.bytes, bytes, size);
	TRY(front_request(front, &message, NULL));
	return front_settle(front);
}

/* --- What is in flight ------------------------------------------------------------------------- */

static struct error *check_inflight(const struct vhost_user_inflight *asked,
				    const struct vhost_user_inflight *inflight, int fd)
{
	struct stat status;
	uint64_t end;

	if (!inflight->size || inflight->size > INFLIGHT_MAX ||
	    !checked_add(inflight->offset, inflight->size, &end))
		return error_new(EPROTO,
				 "VHOST_USER_GET_INFLIGHT_FD is a buffer of %" PRIu64
				 " bytes at %" PRIu64,
				 inflight->size, inflight->offset);
	if (inflight->queues != asked->queues || inflight->queue_size != asked->queue_size)
		return error_new(
		    EPROTO, "VHOST_USER_GET_INFLIGHT_FD is about %u queues of %u, not %u of %u",
		    inflight->queues, inflight->queue_size, asked->queues, asked->queue_size);
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || (uint64_t)status.st_size < end)
		return error_new(EPROTO, "VHOST_USER_GET_INFLIGHT_FD comes with a descriptor that "
					 "is no file, or one that is too short");
	return NULL;
}

struct error *vhost_user_front_end_get_inflight(struct vhost_user_front_end *front, uint16_t queues,
						uint16_t queue_size,
						struct vhost_user_inflight *inflight, int *fd)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_INFLIGHT);
	struct vhost_user_message reply AUTO_VHOST_USER_MESSAGE = {0};
	struct error *error;

	*fd = -1;
	message.inflight = (struct vhost_user_inflight){.queues = queues, .queue_size = queue_size};
	TRY(front_request(front, &message, &reply));
	error = check_inflight(&message.inflight, &reply.inflight, reply.fds[0]);
	if (error)
		return front_fail(front, error);
	*inflight = reply.inflight;
	*fd = vhost_user_message_take_fd(&reply, 0);
	return NULL;
}

struct error *vhost_user_front_end_set_inflight(struct vhost_user_front_end *front,
						const struct vhost_user_inflight *inflight, int fd)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_SET_INFLIGHT_FD, VHOST_USER_INFLIGHT);

	message.inflight = *inflight;
	message.fds[0] = fd;
	message.fd_count = 1;
	TRY(front_request(front, &message, NULL));
	return front_settle(front);
}

/* --- State ------------------------------------------------------------------------------------- */

struct error *vhost_user_front_end_begin_state(struct vhost_user_front_end *front,
					       enum vhost_user_direction direction, int fd,
					       int *other)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_SET_DEVICE_STATE_FD, VHOST_USER_TRANSFER);
	struct vhost_user_message reply AUTO_VHOST_USER_MESSAGE = {0};

	*other = -1;
	if (front->live_rings)
		return front_refused(
		    front, error_new(EBUSY, "%" PRIu32 " rings run still", front->live_rings));
	message.transfer.direction = direction;
	message.transfer.phase = 0; /* stopped: there is no other */
	message.fds[0] = fd;
	message.fd_count = 1;
	TRY(front_request(front, &message, &reply));
	if (reply.u64 & 0xff) {
		if (reply.fd_count)
			return front_fail(front,
					  error_new(EPROTO, "%s is refused, with a descriptor",
						    message.type->name));
		return front_refused(
		    front, error_new(EREMOTEIO, "it refuses to %s its state (%#" PRIx64 ")",
				     direction == VHOST_USER_SAVE ? "save" : "load", reply.u64));
	}
	*other = vhost_user_message_take_fd(&reply, 0);
	return NULL;
}

struct error *vhost_user_front_end_check_state(struct vhost_user_front_end *front)
{
	uint64_t result = 0;

	TRY(front_ask(front, VHOST_USER_CHECK_DEVICE_STATE, &result));
	if (!result)
		return NULL;
	return front_refused(
	    front,
	    error_new(EREMOTEIO, "the transfer of its state has failed (%#" PRIx64 ")", result));
}

/* --- Post-copy --------------------------------------------------------------------------------- */

/* Whether @fd is a userfaultfd: to wake no page is wrong with one, and unknown to anything else. */
static bool is_userfault(int fd)
{
	struct uffdio_range nothing = {0};

	return ioctl(fd, UFFDIO_WAKE, &nothing) < 0 && errno == EINVAL;
}

struct error *vhost_user_front_end_advise_postcopy(struct vhost_user_front_end *front,
						   int *userfault)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_POSTCOPY_ADVISE, VHOST_USER_EMPTY);
	struct vhost_user_message reply AUTO_VHOST_USER_MESSAGE = {0};

	*userfault = -1;
	TRY(front_request(front, &message, &reply));
	if (!is_userfault(reply.fds[0]))
		return front_fail(front, error_new(EPROTO,
						   "%s comes with a descriptor that is no "
						   "userfaultfd",
						   message.type->name));
	*userfault = vhost_user_message_take_fd(&reply, 0);
	return NULL;
}

struct error *vhost_user_front_end_listen_postcopy(struct vhost_user_front_end *front,
						   enum vhost_user_postcopy dialect)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_POSTCOPY_LISTEN, VHOST_USER_EMPTY);
	struct vhost_user_message reply;

	if (front->memory)
		return front_refused(front,
				     error_new(EINVAL, "it has memory already: post-copy begins "
						       "before that"));
	if (dialect == VHOST_USER_POSTCOPY_SLOTS &&
	    !front_has(front, VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS))
		return front_refused(front, error_new(EOPNOTSUPP, "it has no memory slots for "
								  "post-copy"));
	/* Some answer only when they are asked to, as if it were an acknowledgement. */
	message.flags = VHOST_USER_NEED_REPLY;
	TRY(front_request(front, &message, &reply));
	if (reply.u64)
		return front_refused(front, error_new(EREMOTEIO, "it refuses %s (%#" PRIx64 ")",
						      message.type->name, reply.u64));
	front->postcopy = dialect;
	return NULL;
}

struct error *vhost_user_front_end_end_postcopy(struct vhost_user_front_end *front)
{
	uint64_t result = 0;

	TRY(front_ask(front, VHOST_USER_POSTCOPY_END, &result));
	front->postcopy = VHOST_USER_POSTCOPY_OFF;
	front->range_count = 0;
	if (!result)
		return NULL;
	return front_refused(
	    front, error_new(EREMOTEIO, "it could not end post-copy (%#" PRIx64 ")", result));
}
