/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a back-end (DEVICE_STATE), as a stream of its device (virtio_device.h): bytes that only
 * back-ends understand, through a pipe from one or to one. A back-end without it has nothing to say, and
 * takes nothing.
 *
 * Saving and loading are on threads of whoever moves the machine, and ask the device's loop for what
 * concerns the session. The back-end controls what it says, how much, and how slowly: it is given up
 * when nothing comes for some time, or not all in a longer one. Who receives it bounds how much.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "virtio/vhost_user_device_private.h"

#define PIECE	 (64U << 10)
#define WAIT_MS	 10000
#define LIMIT_NS (60 * NS_PER_SECOND) /* the guest stands still */

struct transfer {
	struct vhost_user_device *vhost;
	enum vhost_user_direction direction;
	int fd; /* our end; -1: there is nothing to transfer */
	struct error *error;
};

/* --- On the device's loop ---------------------------------------------------------------------- */

static bool offered(const struct vhost_user_device *vhost)
{
	return vhost->protocol & VHOST_USER_PROTOCOL_DEVICE_STATE;
}

static struct error *check_there(const struct vhost_user_device *vhost,
				 enum vhost_user_direction direction)
{
	if (!vhost->front)
		return error_new(EAGAIN, "its back-end at %s is not there: %s", vhost->socket,
				 direction == VHOST_USER_SAVE ? "wait until it is back"
							      : "start it first");
	if (!offered(vhost))
		return error_new(EOPNOTSUPP,
				 "its back-end at %s cannot take over the state of another one "
				 "(DEVICE_STATE)",
				 vhost->socket);
	return NULL;
}

static struct error *begin(struct transfer *transfer)
{
	bool save = transfer->direction == VHOST_USER_SAVE;
	AUTO_CLOSE int mine = -1;
	AUTO_CLOSE int theirs = -1;
	int ends[2], other;

	if (save && !offered(transfer->vhost))
		return NULL;
	TRY(check_there(transfer->vhost, transfer->direction));
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_system(errno, "the state of a back-end");
	mine = ends[!save];
	theirs = ends[save];
	TRY(vhost_user_front_end_begin_state(transfer->vhost->front, transfer->direction, theirs,
					     &other));
	if (other >= 0) {
		close_fd(&mine);
		mine = other;
	}
	if (fcntl(mine, F_SETFL, O_NONBLOCK) < 0)
		return error_system(errno, "the state of a back-end");
	transfer->fd = TAKE_FD(mine);
	return NULL;
}

/* A session that has ended with @error ends here, too. */
static void settle(struct transfer *transfer, struct error *error)
{
	struct vhost_user_device *vhost = transfer->vhost;

	transfer->error = error;
	if (error && vhost->front && vhost_user_front_end_broken(vhost->front))
		vhost_user_connection_failed(
		    vhost, error_new(error_code(error), "%s", error_message(error)));
	vhost_user_connection_settle(vhost);
}

static void begin_on_loop(void *context)
{
	struct transfer *transfer = context;

	settle(transfer, begin(transfer));
}

static void check_on_loop(void *context)
{
	struct transfer *transfer = context;
	struct error *error = check_there(transfer->vhost, transfer->direction);

	settle(transfer, error ?: vhost_user_front_end_check_state(transfer->vhost->front));
}

static struct error *ask(struct transfer *transfer, event_callback callback)
{
	event_loop_call(transfer->vhost->device.loop, callback, transfer);
	return transfer->error;
}

/* --- The pipe ---------------------------------------------------------------------------------- */

static struct error *wait_for(const struct transfer *transfer, short events, int64_t deadline_ns)
{
	struct pollfd item = {.fd = transfer->fd, .events = events};
	int ready = poll(&item, 1, WAIT_MS);

	if (ready < 0 && errno != EINTR)
		return error_system(errno, "the state of the back-end at %s",
				    transfer->vhost->socket);
	if (!ready || clock_monotonic_ns() > deadline_ns)
		return error_new(ETIMEDOUT, "the state of the back-end at %s does not %s in time",
				 transfer->vhost->socket, events == POLLIN ? "come" : "go");
	return NULL;
}

static struct error *pass_on(const struct transfer *transfer, virtio_emit emit, void *context)
{
	int64_t deadline_ns = clock_monotonic_ns() + LIMIT_NS;
	AUTO_FREE uint8_t *piece = malloc(PIECE);
	ssize_t count;

	if (!piece)
		return error_system(ENOMEM, "the state of a back-end");
	do {
		TRY(wait_for(transfer, POLLIN, deadline_ns));
		count = read(transfer->fd, piece, PIECE);
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return error_system(errno, "the state of the back-end at %s",
					    transfer->vhost->socket);
		if (count > 0)
			TRY(emit(context, piece, (size_t)count));
	} while (count);
	return NULL;
}

static struct error *write_all(const struct transfer *transfer, const uint8_t *bytes, size_t size)
{
	int64_t deadline_ns = clock_monotonic_ns() + LIMIT_NS;

	while (size) {
		ssize_t count;

		TRY(wait_for(transfer, POLLOUT, deadline_ns));
		count = write(transfer->fd, bytes, size);
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return error_system(errno, "the back-end at %s does not take its state",
					    transfer->vhost->socket);
		bytes += count > 0 ? count : 0;
		size -= count > 0 ? (size_t)count : 0;
	}
	return NULL;
}

/* --- The stream -------------------------------------------------------------------------------- */

static struct error *save(struct virtio_device *device, bool stopped, virtio_emit emit,
			  void *context)
{
	struct transfer transfer = {vhost_user_device_of(device), VHOST_USER_SAVE, -1, NULL};
	struct error *error;

	/* They have nothing to say before their rings are stopped. */
	if (!stopped)
		return NULL;
	TRY(ask(&transfer, begin_on_loop));
	if (transfer.fd < 0)
		return NULL;
	error = pass_on(&transfer, emit, context);
	close_fd(&transfer.fd);
	if (error)
		return error;
	return ask(&transfer, check_on_loop);
}

static struct error *load(struct virtio_device *device, const void *bytes, size_t size, bool last)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	struct transfer transfer = {vhost, VHOST_USER_LOAD, vhost->state_fd, NULL};

	if (size && transfer.fd < 0) {
		TRY(ask(&transfer, begin_on_loop));
		vhost->state_fd = transfer.fd;
	}
	TRY(write_all(&transfer, bytes, size));
	/* Nobody had a state, or there is more. */
	if (!last || transfer.fd < 0)
		return NULL;
	close_fd(&vhost->state_fd);
	return ask(&transfer, check_on_loop);
}

const struct virtio_stream_ops vhost_user_stream_ops = {.save = save, .load = load};
