/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all virtio devices have in common: life cycle, status register, pausing, misbehaviour of the
 * guest.
 *
 * Runs on the device's loop. `status` and `quiesced` are read by the threads of single queues, and
 * NEEDS_RESET is set by them, so both are atomic. The guest controls the status register and the
 * features. Only creation can fail.
 */
#include "virtio/virtio_device.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

#define OFFERED_ALWAYS                                                                             \
	(VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC) |             \
	 VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) | VIRTIO_FEATURE(VIRTIO_F_RING_PACKED))
#define DRIVER_BITS                                                                                \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
	 VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

static uint8_t get_status(const struct virtio_device *device)
{
	return __atomic_load_n(&device->status, __ATOMIC_ACQUIRE);
}

struct error *virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
				 void (*state)(struct virtio_device *device, struct state *state),
				 const char *id, uint16_t queue_count, uint16_t queue_size)
{
	struct error *error;

	*device = (struct virtio_device){.ops = ops, .state = state, .features = OFFERED_ALWAYS};
	snprintf(device->id, sizeof(device->id), "%s", id);
	device->queues = calloc(queue_count, sizeof(*device->queues));
	if (!device->queues)
		return error_system(ENOMEM, "%s '%s'", ops->type, id);
	error = event_loop_create(&device->loop);
	if (error) {
		free(TAKE_PTR(device->queues));
		return error_prefix(error, "%s '%s'", ops->type, id);
	}
	pthread_mutex_init(&device->lock, NULL);
	device->queue_count = queue_count;
	for (uint16_t i = 0; i < queue_count; i++) {
		virtqueue_init(&device->queues[i].ring, device, i, queue_size);
		device->queues[i].loop = device->loop;
		device->queues[i].notify_fd = -1;
	}
	return NULL;
}

void virtio_device_cleanup(struct virtio_device *device)
{
	event_loop_join(device->loop);
	event_loop_destroy(TAKE_PTR(device->loop));
	free(TAKE_PTR(device->queues));
	pthread_mutex_destroy(&device->lock);
}

void virtio_device_destroy(struct virtio_device *device)
{
	if (!device)
		return;
	event_loop_join(device->loop);
	device->ops->destroy(device);
}

uint8_t virtio_device_status(const struct virtio_device *device)
{
	bool absent = __atomic_load_n(&device->absent, __ATOMIC_ACQUIRE);

	return get_status(device) | (absent ? VIRTIO_STATUS_NEEDS_RESET : 0);
}

bool virtio_device_running(const struct virtio_device *device)
{
	return (get_status(device) & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
		   VIRTIO_STATUS_DRIVER_OK &&
	       !__atomic_load_n(&device->quiesced, __ATOMIC_ACQUIRE);
}

static void interrupt_config(struct virtio_device *device)
{
	if (device->transport_ops)
		device->transport_ops->interrupt_config(device->transport);
}

void virtio_device_needs_reset(struct virtio_device *device, const char *reason)
{
	uint8_t before =
	    __atomic_fetch_or(&device->status, VIRTIO_STATUS_NEEDS_RESET, __ATOMIC_ACQ_REL);

	if (before & VIRTIO_STATUS_NEEDS_RESET)
		return;
	pthread_mutex_lock(&device->lock);
	device->violations++;
	snprintf(device->last_violation, sizeof(device->last_violation), "%s", reason);
	if (rate_limit_pass(&device->violation_log))
		log_warning("%s '%s' needs a reset: %s (%" PRIu64 " times so far)",
			    device->ops->type, device->id, reason, device->violations);
	pthread_mutex_unlock(&device->lock);
	if (before & VIRTIO_STATUS_DRIVER_OK) /* section 2.1.2 */
		interrupt_config(device);
}

void virtio_device_config_changed(struct virtio_device *device)
{
	__atomic_fetch_add(&device->config_generation, 1, __ATOMIC_RELEASE);
	if (get_status(device) & VIRTIO_STATUS_DRIVER_OK)
		interrupt_config(device);
}

static bool features_acceptable(struct virtio_device *device)
{
	uint64_t features = device->driver_features;

	return !(features & ~device->features) && features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1) &&
	       (!device->ops->accept_features || device->ops->accept_features(device, features));
}

static void device_reset(struct virtio_device *device)
{
	/* First, so that the threads of queues stop; they may still set NEEDS_RESET until `reset`
	 * is done. */
	__atomic_store_n(&device->status, 0, __ATOMIC_RELEASE);
	device->ops->reset(device);
	device->active = false;
	device->loaded = false;
	for (uint16_t i = 0; i < device->queue_count; i++)
		virtqueue_reset(&device->queues[i].ring);
	device->driver_features = 0;
	device->quiesce_reasons &= ~VIRTIO_QUIESCE_ABANDONED;
	__atomic_store_n(&device->quiesced, device->quiesce_reasons != 0, __ATOMIC_RELEASE);
	__atomic_store_n(&device->status, 0, __ATOMIC_RELEASE);
}

static void take_up_again(struct virtio_device *device);

/* Starts the device if the driver is ready and nothing holds it back. */
static void try_activate(struct virtio_device *device)
{
	if (device->active || !virtio_device_running(device))
		return;
	device->active = true;
	device->ops->activate(device);
}

void virtio_device_set_status(struct virtio_device *device, uint8_t status)
{
	uint8_t before = get_status(device), added = status & ~before & DRIVER_BITS;

	if (!status) {
		device_reset(device);
		return;
	}
	/* Until its reset is over, which a driver waits for. */
	if (__atomic_load_n(&device->absent, __ATOMIC_RELAXED))
		return;
	/* Bits go back to 0 by a reset only (section 2.1.1), so what @status lacks stays. */
	if (added & VIRTIO_STATUS_FEATURES_OK && !features_acceptable(device))
		added &= ~VIRTIO_STATUS_FEATURES_OK;
	if (added & VIRTIO_STATUS_DRIVER_OK && !((before | added) & VIRTIO_STATUS_FEATURES_OK)) {
		added &= ~VIRTIO_STATUS_DRIVER_OK;
		virtio_device_needs_reset(device, "DRIVER_OK without FEATURES_OK");
	}
	__atomic_fetch_or(&device->status, added, __ATOMIC_ACQ_REL);
	if (added & VIRTIO_STATUS_DRIVER_OK)
		take_up_again(device);
	try_activate(device);
}

void virtio_device_enable_queue(struct virtio_device *device, uint16_t index)
{
	struct virtqueue *ring;
	uint8_t status = get_status(device);

	if (index >= device->queue_count)
		return;
	ring = &device->queues[index].ring;
	if (ring->enabled || ring->broken)
		return;
	if (!(status & VIRTIO_STATUS_FEATURES_OK) || status & VIRTIO_STATUS_DRIVER_OK) {
		virtio_device_needs_reset(device, "a queue was enabled outside of initialisation");
		return;
	}
	if (virtqueue_enable(ring, device->map, device->driver_features))
		virtio_device_needs_reset(device, "a queue could not be enabled");
}

void virtio_device_notify_queue(struct virtio_device *device, uint16_t index)
{
	if (virtio_device_running(device) && device->queues[index].ring.enabled)
		device->ops->queue_notify(device, index);
}

void virtio_device_read_config(struct virtio_device *device, uint32_t offset, void *data,
			       uint32_t size)
{
	uint32_t limit = device->ops->config_size;
	uint32_t inside = offset < limit ? MIN(size, limit - offset) : 0;

	memset(data, 0, size);
	if (inside)
		device->ops->config_read(device, offset, data, inside);
}

void virtio_device_write_config(struct virtio_device *device, uint32_t offset, const void *data,
				uint32_t size)
{
	uint32_t limit = device->ops->config_size;
	uint32_t inside = offset < limit ? MIN(size, limit - offset) : 0;

	if (inside && device->ops->config_write)
		device->ops->config_write(device, offset, data, inside);
}

/* What quiesce, resume and the replay of doorbells carry to a loop. */
struct loop_request {
	struct virtio_device *device;
	enum virtio_quiesce_reason reason;
	uint16_t queue;
};

static void nothing(void *context)
{
}

static void quiesce_on_loop(void *context)
{
	const struct loop_request *request = context;
	struct virtio_device *device = request->device;
	uint8_t before = device->quiesce_reasons;

	device->quiesce_reasons |= request->reason;
	if (before)
		return;
	__atomic_store_n(&device->quiesced, true, __ATOMIC_RELEASE);
	/* A handler that looked at `quiesced` before is done once its loop has taken a call. */
	for (uint16_t i = 0; i < device->queue_count; i++)
		if (device->queues[i].loop != device->loop)
			event_loop_call(device->queues[i].loop, nothing, NULL);
	if (device->active)
		device->ops->quiesce(device);
}

static void notify_on_loop(void *context)
{
	const struct loop_request *request = context;

	virtio_device_notify_queue(request->device, request->queue);
}

/*
 * What the device told the driver just before it was saved may have got lost on the way into the
 * processors that were saved; a driver expects interrupts that mean nothing (section 2.9).
 */
static void interrupt_again(struct virtio_device *device)
{
	if (!device->loaded)
		return;
	device->loaded = false;
	if (!(get_status(device) & VIRTIO_STATUS_DRIVER_OK) || !device->transport_ops)
		return;
	for (uint16_t i = 0; i < device->queue_count; i++)
		if (device->queues[i].ring.enabled)
			device->transport_ops->interrupt_queue(device->transport, i);
	/* Not where nothing ever changed: Linux logs the size of a disk each time. */
	if (device->config_generation || get_status(device) & VIRTIO_STATUS_NEEDS_RESET)
		interrupt_config(device);
}

static void resume_on_loop(void *context)
{
	struct loop_request *request = context;
	struct virtio_device *device = request->device;
	uint8_t before = device->quiesce_reasons;

	device->quiesce_reasons &= ~request->reason;
	if (!before || device->quiesce_reasons)
		return;
	__atomic_store_n(&device->quiesced, false, __ATOMIC_RELEASE);
	if (device->active)
		device->ops->resume(device);
	else
		try_activate(device);
	/* Doorbells that rang meanwhile were dropped. */
	for (uint16_t i = 0; i < device->queue_count && device->active; i++) {
		request->queue = i;
		event_loop_call(device->queues[i].loop, notify_on_loop, request);
	}
	interrupt_again(device);
}

void virtio_device_quiesce(struct virtio_device *device)
{
	struct loop_request request = {.device = device, .reason = VIRTIO_QUIESCE_MACHINE};

	event_loop_call(device->loop, quiesce_on_loop, &request);
}

void virtio_device_resume(struct virtio_device *device)
{
	struct loop_request request = {.device = device, .reason = VIRTIO_QUIESCE_MACHINE};

	event_loop_call(device->loop, resume_on_loop, &request);
}

void virtio_device_hold(struct virtio_device *device, bool hold)
{
	struct loop_request request = {.device = device, .reason = VIRTIO_QUIESCE_HELD};

	if (device->foreign)
		event_loop_call(device->loop, hold ? quiesce_on_loop : resume_on_loop, &request);
}

/* --- What only one process may hold ------------------------------------------------------------ */

struct hand_request {
	struct virtio_device *device;
	json_t *handed;
	struct error *error;
};

static void sync_on_loop(void *context)
{
	struct hand_request *request = context;

	request->error = request->device->ops->sync(request->device);
}

static void release_on_loop(void *context)
{
	struct hand_request *request = context;

	request->device->ops->release(request->device);
}

static void take_over_on_loop(void *context)
{
	struct hand_request *request = context;

	request->error = request->device->ops->take_over(request->device);
}

static void share_on_loop(void *context)
{
	struct hand_request *request = context;

	request->error = request->device->ops->share(request->device, request->handed);
}

struct error *virtio_device_share(struct virtio_device *device, json_t *handed)
{
	struct hand_request request = {.device = device, .handed = handed};

	if (device->ops->share)
		event_loop_call(device->loop, share_on_loop, &request);
	return request.error;
}

struct error *virtio_device_sync(struct virtio_device *device)
{
	struct hand_request request = {.device = device};

	if (device->ops->sync)
		event_loop_call(device->loop, sync_on_loop, &request);
	return request.error;
}

void virtio_device_release(struct virtio_device *device)
{
	struct hand_request request = {.device = device};

	if (device->ops->release)
		event_loop_call(device->loop, release_on_loop, &request);
}

struct error *virtio_device_take_over(struct virtio_device *device)
{
	struct hand_request request = {.device = device};

	if (device->ops->take_over)
		event_loop_call(device->loop, take_over_on_loop, &request);
	return request.error;
}

struct memory_request {
	struct virtio_device *device;
	struct userfault *userfault;
};

static void new_generation_on_loop(void *context)
{
	struct virtio_device *device = context;

	device->ops->new_generation(device);
}

void virtio_device_new_generation(struct virtio_device *device)
{
	if (device->ops->new_generation)
		event_loop_call(device->loop, new_generation_on_loop, device);
}

static void memory_comes_on_loop(void *context)
{
	const struct memory_request *request = context;

	request->device->ops->memory_comes(request->device, request->userfault);
}

void virtio_device_memory_comes(struct virtio_device *device, struct userfault *userfault)
{
	struct memory_request request = {device, userfault};

	if (device->ops->memory_comes)
		event_loop_call(device->loop, memory_comes_on_loop, &request);
}

/* --- Bus mastering, reports -------------------------------------------------------------------- */

static void take_up_again(struct virtio_device *device)
{
	struct loop_request request = {.device = device, .reason = VIRTIO_QUIESCE_ABANDONED};

	resume_on_loop(&request);
}

/*
 * The queues may belong to a kernel that is no more: the next one turns bus mastering on before it
 * resets the device, and by then what those queues point to is its own memory. So turning it off
 * takes DRIVER_OK away, as QEMU does, until a driver sets it (again).
 */
static void bus_master_off_on_loop(void *context)
{
	struct loop_request *request = context;
	struct virtio_device *device = request->device;

	quiesce_on_loop(request);
	if (!device->active)
		return;
	device->quiesce_reasons |= VIRTIO_QUIESCE_ABANDONED;
	__atomic_fetch_and(&device->status, (uint8_t)~VIRTIO_STATUS_DRIVER_OK, __ATOMIC_ACQ_REL);
}

void virtio_device_set_bus_master(struct virtio_device *device, bool enable)
{
	struct loop_request request = {.device = device, .reason = VIRTIO_QUIESCE_BUS_MASTER};

	event_loop_call(device->loop, enable ? resume_on_loop : bus_master_off_on_loop, &request);
}

static json_t *describe_status(uint8_t status)
{
	static const struct {
		uint8_t bit;
		const char *name;
	} names[] = {
	    {VIRTIO_STATUS_ACKNOWLEDGE, "acknowledge"}, {VIRTIO_STATUS_DRIVER, "driver"},
	    {VIRTIO_STATUS_FEATURES_OK, "features-ok"}, {VIRTIO_STATUS_DRIVER_OK, "driver-ok"},
	    {VIRTIO_STATUS_NEEDS_RESET, "needs-reset"}, {VIRTIO_STATUS_FAILED, "failed"},
	};
	json_t *array = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (status & names[i].bit)
			json_array_append_new(array, json_string(names[i].name));
	return array;
}

static json_t *describe_queue(const struct virtqueue *ring)
{
	return json_pack("{s:b, s:i, s:I, s:i}", "enabled", ring->enabled, "size",
			 ring->layout.size, "chains",
			 (json_int_t)__atomic_load_n(&ring->chains, __ATOMIC_RELAXED), "in-flight",
			 __atomic_load_n(&ring->in_flight, __ATOMIC_RELAXED));
}

struct describe_request {
	struct virtio_device *device;
	json_t *object;
};

static void describe_on_loop(void *context)
{
	struct describe_request *request = context;
	struct virtio_device *device = request->device;
	json_t *object = json_object(), *queues = json_array();
	char features[24];

	snprintf(features, sizeof(features), "0x%" PRIx64, device->driver_features);
	json_object_set_new(object, "id", json_string(device->id));
	json_object_set_new(object, "type", json_string(device->ops->type));
	json_object_set_new(object, "status", describe_status(get_status(device)));
	json_object_set_new(object, "features", json_string(features));
	for (uint16_t i = 0; i < device->queue_count; i++)
		json_array_append_new(queues, describe_queue(&device->queues[i].ring));
	json_object_set_new(object, "queues", queues);
	pthread_mutex_lock(&device->lock);
	json_object_set_new(object, "violations", json_integer((json_int_t)device->violations));
	if (device->violations)
		json_object_set_new(object, "last-violation", json_string(device->last_violation));
	pthread_mutex_unlock(&device->lock);
	if (device->ops->describe)
		device->ops->describe(device, object);
	request->object = object;
}

json_t *virtio_device_describe(struct virtio_device *device)
{
	struct describe_request request = {.device = device};

	event_loop_call(device->loop, describe_on_loop, &request);
	return request.object;
}
