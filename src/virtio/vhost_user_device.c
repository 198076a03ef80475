/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device of vhost_user_device.h as the transport and the machine see it: its options, and its
 * operations, which come down to giving the rings to the back-end and taking them back.
 *
 * Runs on the device's loop; every operation may wait for the back-end, as long as a time limit
 * allows. The guest controls when the operations come.
 */
#include "virtio/vhost_user_device.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/options.h"
#include "virtio/net.h"
#include "virtio/vhost_user_device_private.h"

#define PREFIX		   "vhost-user:"
#define QUEUES_MAX	   64
#define QUEUE_SIZE_DEFAULT 256
#define FS_TAG_SIZE	   36

/* --- Operations -------------------------------------------------------------------------------- */

static struct error *realize(struct virtio_device *device)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);

	TRY(vhost_user_shadow_begin(vhost));
	vhost_user_log_begin(vhost);
	return vhost_user_connection_begin(vhost);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	memcpy(data, vhost_user_device_of(device)->config + offset, size);
}

static void config_write(struct virtio_device *device, uint32_t offset, const void *data,
			 uint32_t size)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	struct error *error;

	if (!vhost->front || !vhost->type.config_theirs)
		return;
	error = vhost_user_front_end_set_config(vhost->front, offset, size, data, false);
	if (error && error_code(error) != EREMOTEIO) { /* a back-end may refuse what it likes */
		vhost_user_connection_failed(vhost, error);
		return;
	}
	error_free(error);
	vhost->config_stale = true;
	vhost_user_connection_settle(vhost);
}

static void start_later(void *context)
{
	struct vhost_user_device *vhost = context;

	vhost_user_rings_start(vhost);
	vhost_user_connection_settle(vhost);
}

static void run(struct virtio_device *device)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);

	vhost->wanted = true;
	/* The back-end may have to wait for rings that are not there yet, and we for it, but nobody for us. */
	if (!vhost->missing || event_loop_post(device->loop, start_later, vhost))
		vhost_user_rings_start(vhost);
	if (device->loaded)
		vhost_user_net_announce(vhost);
	vhost_user_connection_settle(vhost);
}

static void rest(struct virtio_device *device)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);

	vhost->wanted = false;
	vhost_user_rings_stop(vhost);
	vhost_user_connection_settle(vhost);
}

/* The doorbell rings in the other process; this is for what may have come before. */
static void queue_notify(struct virtio_device *device, uint16_t queue)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	const uint64_t one = 1;
	int fd = device->queues[queue].notify_fd;

	if (queue >= vhost->queues) {
		vhost_user_net_control(vhost);
		return;
	}

	/* It fails only if the counter is full, which is as good. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
}

static struct error *reset_back_end(struct vhost_user_device *vhost)
{
	if (vhost->protocol & VHOST_USER_PROTOCOL_RESET_DEVICE)
		TRY(vhost_user_front_end_reset(vhost->front));
	return vhost->memory_given ? vhost_user_front_end_tidy_memory(vhost->front) : NULL;
}

static void reset(struct virtio_device *device)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	struct error *error;

	rest(device);
	vhost_user_rings_reset(vhost);
	vhost_user_net_reset(vhost);
	error = vhost->front && device->active ? reset_back_end(vhost) : NULL;
	if (error)
		vhost_user_connection_failed(vhost, error);
	vhost_user_connection_settle(vhost);
}

/* --- Being taken along ------------------------------------------------------------------------- */

static struct error *check_movable(const struct vhost_user_device *vhost, enum virtio_move how)
{
	const char *id = vhost->device.id;

	if (how == VIRTIO_MOVE_HANDED)
		return error_new(EOPNOTSUPP,
				 "'%s' is worked by another process, the back-end at %s, whose "
				 "connection is not handed over: a VM with such a device cannot be "
				 "updated while it runs",
				 id, vhost->socket);
	if (vhost->type.stateful && vhost->sessions &&
	    !(vhost->protocol & VHOST_USER_PROTOCOL_DEVICE_STATE))
		return error_new(EOPNOTSUPP,
				 "'%s' is worked by another process, the back-end at %s, which has "
				 "a state of its own that it cannot hand over (DEVICE_STATE): a VM "
				 "with such a device cannot be saved or moved",
				 id, vhost->socket);
	if ((how == VIRTIO_MOVE_LOGGED || vhost->type.stateful) && !vhost->sessions)
		return error_new(ENOENT,
				 "'%s' is worked by another process, and the back-end at %s is "
				 "not there: start it first",
				 id, vhost->socket);
	if (how == VIRTIO_MOVE_LOGGED && !vhost_user_log_offered(vhost->offered, vhost->protocol))
		return error_new(EOPNOTSUPP,
				 "'%s' is worked by another process, the back-end at %s, which "
				 "does not log what it writes (LOG_SHMFD): a VM with such a device "
				 "can be saved, and not moved",
				 id, vhost->socket);
	return NULL;
}

struct move_request {
	struct vhost_user_device *vhost;
	enum virtio_move how;
	struct error *error;
};

static void movable_on_loop(void *context)
{
	struct move_request *request = context;

	request->error = check_movable(request->vhost, request->how);
}

static struct error *movable(struct virtio_device *device, enum virtio_move how)
{
	struct move_request request = {vhost_user_device_of(device), how, NULL};

	event_loop_call(device->loop, movable_on_loop, &request);
	return request.error;
}

/* The driver's view of the configuration; another one that is there now is told when it resumes. */
static void config_state(struct vhost_user_device *vhost, struct state *state)
{
	uint8_t seen[VHOST_USER_CONFIG_MAX];
	uint32_t size = vhost->ops.config_size;

	memcpy(seen, vhost->config, sizeof(seen));
	state_same(state, "configuration size", size);
	state_buffer(state, "configuration", seen, size);
	if (state_loading(state) && !state_failed(state) && memcmp(seen, vhost->config, size))
		__atomic_fetch_add(&vhost->device.config_generation, 1, __ATOMIC_RELEASE);
}

static void ring_state(struct vhost_user_device *vhost, uint16_t index, struct state *state)
{
	struct vhost_user_ring *ring = &vhost->rings[index];

	if (!state_loading(state) && ring->lost) {
		state_fail(state, error_new(EAGAIN,
					    "its back-end at %s has gone in the middle of "
					    "its work: wait until it is back",
					    vhost->socket));
		return;
	}
	state_u32(state, "ring position", &ring->base);
	state_check(state, ring->base <= UINT16_MAX, "ring position", "is too large");
}

/* The rings rest, and what the back-end itself knows has gone as a stream: where the rings go on. */
static void visit_state(struct virtio_device *device, struct state *state)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	struct error *error = check_movable(vhost, VIRTIO_MOVE_STOPPED);

	if (error)
		state_fail(state, error);
	else if (state_loading(state) && device->absent)
		state_fail(state, error_new(ENOENT,
					    "its back-end at %s is not there: start it "
					    "first",
					    vhost->socket));
	if (state_failed(state))
		return;
	config_state(vhost, state);
	state_same(state, "rings", vhost->queues);
	for (uint16_t i = 0; i < vhost->queues && !state_failed(state); i++)
		ring_state(vhost, i, state);
	if (vhost->pairs)
		net_control_state(&vhost->control, device->active ? device->driver_features : 0,
				  vhost->pairs, state);
	if (state_failed(state))
		vhost_user_rings_reset(vhost);
}

/* --- Reports ----------------------------------------------------------------------------------- */

static void describe_memory(const struct vhost_user_device *vhost, json_t *object)
{
	uint64_t excess = vhost_user_memory_excess(vhost->memory);

	if (!vhost->memory_given)
		return;
	json_object_set_new(object, "memory",
			    json_pack("{s:I, s:I, s:I, s:b}", "slots",
				      (json_int_t)vhost_user_memory_held(vhost->memory), "maximum",
				      (json_int_t)vhost_user_memory_limit(vhost->memory), "excess",
				      (json_int_t)excess, "exact", !excess));
}

static void describe(struct virtio_device *device, json_t *object)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);
	char protocol[24];
	json_t *back_end;

	snprintf(protocol, sizeof(protocol), "0x%" PRIx64, vhost->protocol);
	back_end = json_pack("{s:s, s:b, s:s, s:I}", "socket", vhost->socket, "connected",
			     vhost->front != NULL, "protocol", protocol, "sessions",
			     (json_int_t)vhost->sessions);
	if (vhost->trouble[0])
		json_object_set_new(back_end, "trouble", json_string(vhost->trouble));
	describe_memory(vhost, back_end);
	json_object_set_new(object, "back-end", back_end);
}

static void destroy(struct virtio_device *device)
{
	struct vhost_user_device *vhost = vhost_user_device_of(device);

	vhost_user_log_end(vhost);
	vhost_user_connection_end(vhost);
	close_fd(&vhost->state_fd);
	vhost_user_shadow_end(vhost);
	vhost_user_rings_destroy(vhost);
	virtio_device_cleanup(device);
	free(vhost->socket);
	free(vhost);
}

static const struct virtio_device_ops device_ops = {
    .realize = realize,
    .config_read = config_read,
    .config_write = config_write,
    .activate = run,
    .queue_notify = queue_notify,
    .reset = reset,
    .quiesce = rest,
    .resume = run,
    .memory_comes = vhost_user_faults_set,
    .movable = movable,
    .describe = describe,
    .destroy = destroy,
};

struct status_request {
	struct vhost_user_device *vhost;
	struct vhost_user_device_status *status;
};

static void status_on_loop(void *context)
{
	const struct status_request *request = context;
	struct vhost_user_device *vhost = request->vhost;
	struct vhost_user_device_status *status = request->status;

	*status = (struct vhost_user_device_status){.socket = vhost->socket,
						    .connected = vhost->front != NULL,
						    .sessions = vhost->sessions,
						    .messages = vhost->messages};
	if (!vhost->front)
		return;
	status->messages += vhost_user_front_end_sent(vhost->front);
	status->slots_max = vhost_user_front_end_slots(vhost->front);
	if (!vhost->memory_given)
		return;
	status->slots_used = vhost_user_memory_held(vhost->memory);
	status->slots_max = vhost_user_memory_limit(vhost->memory);
	status->excess = vhost_user_memory_excess(vhost->memory);
}

bool vhost_user_device_status(struct virtio_device *device, struct vhost_user_device_status *status)
{
	struct status_request request = {vhost_user_device_of(device), status};

	if (device->ops->realize != realize)
		return false;
	event_loop_call(device->loop, status_on_loop, &request);
	return true;
}

/* --- Creation ---------------------------------------------------------------------------------- */

struct description {
	struct vhost_user_type type;
	char *socket;
	char id[32];
	char tag[FS_TAG_SIZE + 1];
	uint8_t mac[6];
	uint16_t pairs;
	uint16_t queues, queue_size;
	bool listen, postcopy_slots;
};

bool vhost_user_device_wanted(const char *text)
{
	return strncmp(text, PREFIX, strlen(PREFIX)) == 0;
}

static struct error *take_socket(struct description *description, const char *socket)
{
	if (!socket || !*socket)
		return error_usage("it names no socket");
	if (strlen(socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return error_usage("the path of the socket, %s, is too long", socket);
	description->socket = strdup(socket);
	return description->socket ? NULL : error_system(ENOMEM, "a socket's name");
}

/* type=NAME or type=NUMBER. */
static struct error *take_type(struct description *description, struct options *options)
{
	const char *name = options_take(options, "type");
	const struct vhost_user_type *type = name ? vhost_user_type_find(name) : NULL;
	char *end = NULL;
	unsigned long id = name ? strtoul(name, &end, 10) : 0;

	if (!name)
		return error_usage("it gives no type: add type=NAME or type=NUMBER");
	if (!type && (end == name || *end || id < 1 || id > 63))
		return error_usage(
		    "type=%s is neither a type that is known (blk, fs, console, rng, "
		    "scsi, gpu, input, vsock, sound, i2c, gpio) nor a number, 1 to 63",
		    name);
	if (!type) {
		type = vhost_user_type_numbered((uint16_t)id);
		description->type = *type;
		description->type.id = (uint16_t)id;
	} else {
		description->type = *type;
	}
	if (description->type.id == VIRTIO_ID_NET || description->type.id == VIRTIO_ID_MEM)
		return error_usage("type=%s is not a device that a back-end can work alone", name);
	return NULL;
}

static struct error *take_sizes(struct description *description, struct options *options)
{
	uint64_t queues = description->type.queues, size = QUEUE_SIZE_DEFAULT;
	uint64_t config = description->type.config_size;

	TRY(options_take_number(options, "queues", QUEUES_MAX, &queues));
	TRY(options_take_number(options, "queue-size", VIRTQUEUE_SIZE_MAX, &size));
	if (description->type.config_theirs && !description->type.queues_field)
		TRY(options_take_number(options, "config-size", VHOST_USER_CONFIG_MAX, &config));
	if (!queues)
		return error_usage("queues=0: a device has at least one");
	if (!is_power_of_two(size) || size < 4)
		return error_usage("queue-size=%" PRIu64 " is not a power of two, 4 to %d", size,
				   VIRTQUEUE_SIZE_MAX);
	if (description->type.id == VIRTIO_ID_NET)
		description->pairs = (uint16_t)queues;
	description->queues =
	    (uint16_t)(queues + description->pairs + description->type.queues_before);
	description->queue_size = (uint16_t)size;
	description->type.config_size = (uint32_t)config;
	return NULL;
}

static struct error *take_postcopy(struct description *description, struct options *options)
{
	const char *dialect = options_take(options, "postcopy") ?: "table";

	description->postcopy_slots = !strcmp(dialect, "slots");
	if (!description->postcopy_slots && strcmp(dialect, "table") != 0)
		return error_usage("postcopy=%s is neither table nor slots", dialect);
	return NULL;
}

static struct error *take_tag(struct description *description, struct options *options)
{
	const char *tag = options_take(options, "tag");

	if (!tag || !*tag)
		return error_usage("it gives no tag: add tag=NAME, by which the guest mounts it");
	if (strlen(tag) > FS_TAG_SIZE)
		return error_usage("tag=%s has more than %d bytes", tag, FS_TAG_SIZE);
	snprintf(description->tag, sizeof(description->tag), "%s", tag);
	return NULL;
}

static struct error *take_mac(struct description *description, struct options *options,
			      const char *vm_name, uint32_t index)
{
	const char *mac = options_take(options, "mac");

	if (mac)
		return virtio_net_parse_mac(mac, description->mac);
	virtio_net_default_mac(vm_name, index, description->mac);
	return NULL;
}

static struct error *describe_text(const char *kind, const char *text, const char *vm_name,
				   uint32_t index, struct description *description)
{
	AUTO_OPTIONS struct options *options = NULL;
	bool generic = !strcmp(kind, "vhost-user"), fs = !strcmp(kind, "fs");
	bool net = !strcmp(kind, "net");
	const char *socket, *id;

	TRY(options_parse(text, generic ? NULL : "back-end", &options));
	socket = options_take(options, generic ? "socket" : "back-end");
	if (!generic && socket && !vhost_user_device_wanted(socket))
		return error_usage("%s is no back-end: begin with vhost-user:SOCKET", socket);
	TRY(take_socket(description, generic || !socket ? socket : socket + strlen(PREFIX)));
	if (generic)
		TRY(take_type(description, options));
	else
		description->type = *vhost_user_type_find(fs || net ? kind : "blk");
	TRY(take_sizes(description, options));
	TRY(options_take_bool(options, "listen", &description->listen));
	TRY(take_postcopy(description, options));
	if (fs)
		TRY(take_tag(description, options));
	if (net)
		TRY(take_mac(description, options, vm_name, index));
	id = options_take(options, "id");
	if (id)
		snprintf(description->id, sizeof(description->id), "%s", id);
	else
		snprintf(description->id, sizeof(description->id),
			 index || generic || net ? "%s%u" : "%s", kind, index);
	return options_finish(options);
}

static struct error *create(const struct description *description, struct virtio_device **result)
{
	struct vhost_user_device *vhost = calloc(1, sizeof(*vhost));
	struct error *error;

	if (!vhost)
		return error_system(ENOMEM, "device '%s'", description->id);
	vhost->type = description->type;
	vhost->queues = description->queues;
	vhost->inflight_fd = -1;
	vhost->listen_fd = -1;
	vhost->state_fd = -1;
	vhost->listen = description->listen;
	vhost->postcopy_slots = description->postcopy_slots;
	vhost->ops = device_ops;
	vhost->ops.type = vhost->type.type;
	vhost->ops.id = vhost->type.id;
	vhost->ops.pci_class = vhost->type.pci_class;
	vhost->ops.config_size = vhost->type.config_size;
	vhost->pairs = description->pairs;
	if (vhost->pairs)
		vhost->ops.accept_features = vhost_user_net_accept;
	error = virtio_device_init(&vhost->device, &vhost->ops, visit_state, description->id,
				   vhost->queues + (vhost->pairs > 1), description->queue_size);
	if (error) {
		free(vhost);
		return error;
	}
	vhost->device.features = 0; /* until a back-end offers some */
	vhost->device.loadable = UINT64_MAX;
	vhost->device.absent = true;
	vhost->device.foreign = true;
	vhost->device.stream = &vhost_user_stream_ops;
	vhost->socket = strdup(description->socket);
	error = vhost->socket ? vhost_user_rings_create(vhost) : error_system(ENOMEM, "a socket");
	if (error) {
		destroy(&vhost->device);
		return error;
	}
	if (vhost->pairs)
		vhost_user_net_init(vhost, description->mac);
	if (description->tag[0]) {
		memcpy(vhost->config, description->tag, FS_TAG_SIZE);
		put_le32(vhost->config + FS_TAG_SIZE, vhost->queues - vhost->type.queues_before);
	}
	*result = &vhost->device;
	return NULL;
}

struct error *vhost_user_device_create(const char *kind, const char *text, const char *vm_name,
				       uint32_t index, struct virtio_device **device)
{
	struct description description = {0};
	struct error *error = describe_text(kind, text, vm_name, index, &description);

	if (!error)
		error = create(&description, device);
	free(description.socket);
	return error;
}
