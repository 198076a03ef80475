/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state that all virtio devices have in common, around that of the device itself and of its
 * transport: status, negotiated features, queues.
 *
 * Visits on the device's loop, where everything here belongs. Whoever made the bytes of a load
 * controls every value; they are held to what a driver could have brought about. A load that fails
 * leaves a device as after a reset.
 */
#include <inttypes.h>
#include <stdio.h>

#include "virtio/virtio_device.h"

#define STATUS_BITS                                                                                \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
	 VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)

struct visit {
	struct virtio_device *device;
	struct state *state;
};

static void refuse_features(struct state *state, uint64_t missing)
{
	char bits[256] = "";
	size_t used = 0;

	for (unsigned int bit = 0; bit < 64; bit++)
		if (missing >> bit & 1)
			used += (size_t)snprintf(bits + used, sizeof(bits) - used, "%s%u",
						 used ? ", " : "", bit);
	state_fail(state,
		   error_new(EOPNOTSUPP,
			     "driver features: the driver uses feature bits %s, which this device "
			     "does not offer; configure it as it was where the state was saved",
			     bits));
}

static void load_features(struct virtio_device *device, struct state *state, uint64_t features)
{
	uint64_t missing = features & ~(device->features | device->loadable);

	if (state_failed(state))
		return;
	if (missing) {
		refuse_features(state, missing);
		return;
	}
	device->driver_features = features;
	state_check(
	    state,
	    features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1) &&
		(!device->ops->accept_features || device->ops->accept_features(device, features)),
	    "driver features", "is a set that the device does not accept");
}

static void common_state(struct virtio_device *device, struct state *state)
{
	uint8_t status = __atomic_load_n(&device->status, __ATOMIC_ACQUIRE);
	uint64_t features = device->driver_features;
	uint32_t generation = __atomic_load_n(&device->config_generation, __ATOMIC_ACQUIRE);

	state_u8(state, "status", &status);
	state_check(state, !(status & ~STATUS_BITS), "status", "has unknown bits");
	state_check(state,
		    !(status & VIRTIO_STATUS_DRIVER_OK) || status & VIRTIO_STATUS_FEATURES_OK,
		    "status", "has DRIVER_OK without FEATURES_OK");
	state_bool(state, "active", &device->active);
	state_check(state, !device->active || status & VIRTIO_STATUS_FEATURES_OK, "active",
		    "is set without a driver");
	state_u64(state, "driver features", &features);
	state_u32(state, "config generation", &generation);
	if (!state_loading(state))
		return;
	/* Before FEATURES_OK they are whatever a driver wrote. */
	if (status & VIRTIO_STATUS_FEATURES_OK)
		load_features(device, state, features);
	else
		device->driver_features = features;
	__atomic_store_n(&device->config_generation, generation, __ATOMIC_RELEASE);
	/* In use once, and abandoned when its bus mastering went off. */
	if (device->active && !(status & VIRTIO_STATUS_DRIVER_OK))
		device->quiesce_reasons |= VIRTIO_QUIESCE_ABANDONED;
	/* The device is quiesced: nothing comes of it yet. */
	__atomic_store_n(&device->status, status, __ATOMIC_RELEASE);
}

static void queue_state(struct virtio_device *device, uint16_t index, struct state *state)
{
	struct virtqueue *ring = &device->queues[index].ring;

	virtqueue_state(ring, device->map, device->driver_features, state);
	state_check(state, !ring->enabled || device->status & VIRTIO_STATUS_FEATURES_OK, "enabled",
		    "is set before features were negotiated");
	state_check(state, !ring->broken || device->status & VIRTIO_STATUS_NEEDS_RESET, "broken",
		    "is set in a device that needs no reset");
}

static bool untouched(const struct virtio_device *device)
{
	return !device->status && !device->active && !device->loaded;
}

static void visit_on_loop(void *context)
{
	const struct visit *visit = context;
	struct virtio_device *device = visit->device;
	struct state *state = visit->state;

	if (!device->quiesced) {
		state_fail(state, error_new(EBUSY, "the device is running"));
		return;
	}
	if (state_loading(state) && !untouched(device)) {
		state_fail(state, error_new(EBUSY, "the device is in use by a driver"));
		return;
	}
	common_state(device, state);
	state_same(state, "queues", device->queue_count);
	for (uint16_t i = 0; i < device->queue_count && !state_failed(state); i++)
		queue_state(device, i, state);
	if (!state_failed(state))
		device->state(device, state);
	if (!state_loading(state))
		return;
	if (state_failed(state))
		virtio_device_set_status(device, 0);
	else
		device->loaded = true;
}

static void visit(void *context, struct state *state)
{
	struct virtio_device *device = context;
	struct visit visit = {.device = device, .state = state};

	event_loop_call(device->loop, visit_on_loop, &visit);
	if (device->transport_ops && device->transport_ops->state)
		device->transport_ops->state(device->transport, state);
}

void virtio_device_state_part(struct virtio_device *device, struct state_part *part)
{
	*part = (struct state_part){.version = 1, .visit = visit, .context = device};
	snprintf(part->name, sizeof(part->name), "%s/%s", device->id, device->ops->type);
}
