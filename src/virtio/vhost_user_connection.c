/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The connection of a device to its back-end: found when the device is made, or as soon as somebody
 * listens at the socket; lost when the back-end hangs up, breaks the protocol or does not answer;
 * and found again. A session that begins is given what the last one had.
 *
 * Until a back-end has been there once nobody knows what the device can do: to a driver its reset is
 * not over. Afterwards the device is there with or without a back-end, and stalls without.
 *
 * The back-end controls everything that it says. What it offers has to include what the driver uses;
 * what does not fit is refused with words, and tried again later.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "vhost_user/socket.h"
#include "virtio/vhost_user_device_private.h"

#define REQUEST_LIMIT_NS (10 * NS_PER_SECOND)
#define CONNECT_LIMIT_NS NS_PER_SECOND
#define PAUSE_FIRST_NS	 (50 * NS_PER_MS)
#define PAUSE_LAST_NS	 (2 * NS_PER_SECOND)

/*
 * Features that driver and back-end may agree on: those of the device itself, and of the transport
 * those that need nothing of us. Packed rings are left out: where one goes on cannot be seen in it.
 */
#define FEATURES_PASSED                                                                            \
	(0xffffffULL | 0xfffcULL << 48 | VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC) |                  \
	 VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) | VIRTIO_FEATURE(VIRTIO_F_VERSION_1))

/* --- The end ----------------------------------------------------------------------------------- */

static void hang_up(struct vhost_user_device *vhost)
{
	event_source_remove(TAKE_PTR(vhost->front_source));
	event_source_remove(TAKE_PTR(vhost->backend_source));
	if (vhost->front)
		vhost->messages += vhost_user_front_end_sent(vhost->front);
	vhost_user_front_end_close(TAKE_PTR(vhost->front));
	vhost_user_faults_hang_up(vhost);
	vhost->memory_given = false;
	vhost->config_stale = false;
}

static void retry_later(struct vhost_user_device *vhost)
{
	event_timer_arm(vhost->retry, vhost->pause_ns);
	vhost->pause_ns = MIN(2 * vhost->pause_ns, PAUSE_LAST_NS);
}

static void note_trouble(struct vhost_user_device *vhost, const struct error *error)
{
	const char *message = error_message(error);
	bool same = !strncmp(vhost->trouble, message, sizeof(vhost->trouble) - 1);

	snprintf(vhost->trouble, sizeof(vhost->trouble), "%s", message);
	if (!same || rate_limit_pass(&vhost->trouble_log))
		log_warning("%s '%s': %s", vhost->device.ops->type, vhost->device.id, message);
}

void vhost_user_connection_failed(struct vhost_user_device *vhost, struct error *error)
{
	note_trouble(vhost, error);
	error_free(error);
	hang_up(vhost);
	vhost_user_rings_lose(vhost);
	vhost_user_net_link(vhost, false);
	retry_later(vhost);
}

/* --- Configuration ----------------------------------------------------------------------------- */

static struct error *read_config(struct vhost_user_device *vhost,
				 uint8_t config[VHOST_USER_CONFIG_MAX])
{
	uint32_t size = vhost->ops.config_size, field = vhost->type.queues_field;

	if (!size || !vhost->type.config_theirs)
		return NULL;
	TRY(vhost_user_front_end_get_config(vhost->front, 0, size, config));
	/* A driver asks for as many queues as this says, and there are not more than these. */
	if (field)
		put_le16(config + field, vhost->queues - vhost->type.queues_before);
	return NULL;
}

static struct error *update_config(struct vhost_user_device *vhost)
{
	uint8_t config[VHOST_USER_CONFIG_MAX];

	memcpy(config, vhost->config, sizeof(config));
	TRY(read_config(vhost, config));
	if (!memcmp(config, vhost->config, sizeof(config)))
		return NULL;
	memcpy(vhost->config, config, sizeof(config));
	if (vhost->sessions) /* nobody has seen it before */
		virtio_device_config_changed(&vhost->device);
	return NULL;
}

static void config_changed(void *context)
{
	struct vhost_user_device *vhost = context;

	vhost->config_stale = true;
}

static const struct vhost_user_front_end_events front_events = {.config_changed = config_changed};

void vhost_user_connection_settle(struct vhost_user_device *vhost)
{
	while (vhost->front && vhost->config_stale) {
		struct error *error;

		vhost->config_stale = false;
		error = update_config(vhost);
		if (error)
			vhost_user_connection_failed(vhost, error);
	}
}

/* --- What the back-end says -------------------------------------------------------------------- */

static void handle_front(void *context, uint32_t events)
{
	struct vhost_user_device *vhost = context;

	vhost_user_connection_failed(
	    vhost, error_new(ECONNRESET, "the back-end at %s has %s; waiting for it to come back",
			     vhost->socket,
			     events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)
				 ? "hung up"
				 : "sent something that it was not asked for"));
}

static void handle_backend(void *context, uint32_t events)
{
	struct vhost_user_device *vhost = context;
	struct error *error = vhost_user_front_end_serve(vhost->front);

	if (error)
		vhost_user_connection_failed(vhost, error);
	vhost_user_connection_settle(vhost);
}

static struct error *watch(struct vhost_user_device *vhost)
{
	int backend = vhost_user_front_end_backend_fd(vhost->front);

	TRY(event_loop_add(vhost->device.loop, vhost_user_front_end_fd(vhost->front),
			   EPOLLIN | EPOLLRDHUP, handle_front, vhost, &vhost->front_source));
	return backend < 0 ? NULL
			   : event_loop_add(vhost->device.loop, backend, EPOLLIN, handle_backend,
					    vhost, &vhost->backend_source);
}

/* --- The beginning ----------------------------------------------------------------------------- */

/* What the driver may be offered, if the back-end offers @theirs. */
static uint64_t offer(const struct vhost_user_device *vhost, uint64_t theirs)
{
	return vhost->pairs ? vhost_user_net_features(vhost, theirs) : theirs & FEATURES_PASSED;
}

static struct error *check_features(const struct vhost_user_device *vhost, uint64_t features)
{
	const struct virtio_device *device = &vhost->device;
	uint64_t missing = device->active ? device->driver_features & ~offer(vhost, features) : 0;

	if (!(features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1)))
		return error_new(EOPNOTSUPP, "the back-end at %s is of before virtio 1.0",
				 vhost->socket);
	if (missing)
		return error_new(EOPNOTSUPP,
				 "the back-end at %s lacks features that the driver uses "
				 "(0x%" PRIx64 "): start it as it was before, or reset the guest",
				 vhost->socket, missing);
	return NULL;
}

static struct error *check_offer(const struct vhost_user_device *vhost)
{
	const struct vhost_user_front_end *front = vhost->front;
	uint32_t queues = vhost_user_front_end_queues(front);
	uint32_t slots = vhost_user_front_end_slots(front);
	uint64_t protocol = vhost_user_front_end_protocol(front);

	TRY(check_features(vhost, vhost_user_front_end_features(front)));
	if (queues && queues < vhost->queues)
		return error_usage("the back-end at %s has %" PRIu32 " queues, and the device "
				   "is to have %u: use a lower queues=, or give it more",
				   vhost->socket, queues, vhost->queues);
	if (slots < vhost->blocks)
		return error_usage("the back-end at %s takes %" PRIu32 " pieces of memory, and "
				   "the machine has %" PRIu32 ": use fewer --memory and --elastic",
				   vhost->socket, slots, vhost->blocks);
	if (vhost->ops.config_size && vhost->type.config_theirs &&
	    !(protocol & VHOST_USER_PROTOCOL_CONFIG))
		return error_usage("the back-end at %s has no configuration space, and a device "
				   "of the type %s needs one",
				   vhost->socket, vhost->type.name);
	if (vhost->log.words &&
	    !vhost_user_log_offered(vhost_user_front_end_features(front), protocol))
		return error_new(EOPNOTSUPP,
				 "the back-end at %s does not log what it writes, and the machine "
				 "is being moved",
				 vhost->socket);
	return NULL;
}

/* A connection to whoever is there. */
static struct error *find_back_end(struct vhost_user_device *vhost, int *fd)
{
	if (!vhost->listen)
		return vhost_user_connect(vhost->socket, clock_monotonic_ns() + CONNECT_LIMIT_NS,
					  fd);
	TRY(vhost_user_accept(vhost->listen_fd, 0, fd));
	return *fd >= 0 ? NULL : error_new(ENOENT, "nobody has connected to %s yet", vhost->socket);
}

static struct error *open_session(struct vhost_user_device *vhost)
{
	const struct vhost_user_front_end_options options = {
	    .name = vhost->socket,
	    .protocol = VHOST_USER_PROTOCOL_USUAL,
	    .time_limit_ns = REQUEST_LIMIT_NS,
	    .events = &front_events,
	    .context = vhost,
	};
	int fd;

	TRY(find_back_end(vhost, &fd));
	TRY(vhost_user_front_end_open(fd, &options, &vhost->front));
	TRY(check_offer(vhost));
	TRY(update_config(vhost));
	return watch(vhost);
}

/* The session is good: what it offers is what the device is from now on. */
static void take_up(struct vhost_user_device *vhost)
{
	__atomic_store_n(&vhost->device.features,
			 offer(vhost, vhost_user_front_end_features(vhost->front)),
			 __ATOMIC_RELAXED);
	vhost->device.loadable = 0;
	__atomic_store_n(&vhost->device.absent, false, __ATOMIC_RELEASE);
	vhost->offered = vhost_user_front_end_features(vhost->front);
	vhost->protocol = vhost_user_front_end_protocol(vhost->front);
	vhost->sessions++;
	vhost->pause_ns = PAUSE_FIRST_NS;
	if (vhost->trouble[0])
		log_warning("%s '%s': the back-end at %s is there", vhost->device.ops->type,
			    vhost->device.id, vhost->socket);
	vhost->trouble[0] = '\0';
	vhost_user_net_link(vhost, true);
	vhost_user_rings_start(vhost);
	vhost_user_connection_settle(vhost);
}

static bool nobody_there(const struct error *error)
{
	return error_code(error) == ENOENT || error_code(error) == ECONNREFUSED;
}

static void try_again(void *context)
{
	struct vhost_user_device *vhost = context;
	struct error *error;

	event_timer_cancel(vhost->retry);
	error = open_session(vhost);

	if (!error) {
		take_up(vhost);
	} else if (nobody_there(error) && vhost->trouble[0]) {
		error_free(error); /* why it went says more */
		retry_later(vhost);
	} else {
		vhost_user_connection_failed(vhost, error);
	}
}

/*
 * Somebody has connected. Told once for each, so that those who come while there is a session wait, as
 * they would at another's socket, and are found when it ends.
 */
static void handle_listener(void *context, uint32_t events)
{
	struct vhost_user_device *vhost = context;

	if (!vhost->front)
		try_again(vhost);
}

static struct error *begin_listening(struct vhost_user_device *vhost)
{
	if (!vhost->listen)
		return NULL;
	TRY(vhost_user_listen(vhost->socket, &vhost->listen_fd));
	return event_loop_add(vhost->device.loop, vhost->listen_fd, EPOLLIN | EPOLLET,
			      handle_listener, vhost, &vhost->listen_source);
}

struct error *vhost_user_connection_begin(struct vhost_user_device *vhost)
{
	struct error *error;

	vhost->pause_ns = PAUSE_FIRST_NS;
	TRY(event_timer_create(vhost->device.loop, try_again, vhost, &vhost->retry));
	TRY(begin_listening(vhost));
	error = open_session(vhost);
	if (!error) {
		take_up(vhost);
		return NULL;
	}
	if (!nobody_there(error))
		return error;
	vhost_user_connection_failed(vhost, error_prefix(error, "waiting for its back-end"));
	return NULL;
}

void vhost_user_connection_end(struct vhost_user_device *vhost)
{
	hang_up(vhost);
	event_timer_destroy(TAKE_PTR(vhost->retry));
	event_source_remove(TAKE_PTR(vhost->listen_source));
	if (vhost->listen_fd >= 0)
		unlink(vhost->socket);
	close_fd(&vhost->listen_fd);
}
