/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-rng: fills the guest's buffers with getrandom(2).
 *
 * Runs on the device's loop; requests complete at once, so there is never one in flight between two
 * events. The guest controls the buffers; one request gets a bounded amount, since the
 * specification lets a device give less than was asked for, and the host's time is not the guest's.
 */
#include "virtio/rng.h"

#include <errno.h>
#include <sys/random.h>

#include "base/checked.h"

#define QUEUE_SIZE  64
#define BUFFERS_MAX (QUEUE_SIZE + 8) /* and some for buffers that cross regions */

struct virtio_rng {
	struct virtio_device device;
	uint64_t bytes; /* given so far */
	struct iovec buffers[BUFFERS_MAX];
};

static struct virtio_rng *from_device(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_rng, device);
}

/* Returns how many bytes were written. */
static uint32_t fill(struct virtqueue_chain *chain)
{
	const struct iovec *in = virtqueue_chain_in(chain);
	size_t left = MIN(chain->in_size, VIRTIO_RNG_REQUEST_MAX);
	uint32_t written = 0;

	for (uint16_t i = 0; i < chain->in_count && left; i++) {
		size_t size = MIN(left, in[i].iov_len), done = 0;

		while (done < size) {
			ssize_t count = getrandom((uint8_t *)in[i].iov_base + done, size - done, 0);

			if (count < 0 && errno == EINTR)
				continue;
			if (count <= 0)
				return written;
			done += (size_t)count;
			written += (uint32_t)count;
		}
		left -= size;
	}
	return written;
}

static void queue_notify(struct virtio_device *device, uint16_t index)
{
	struct virtio_rng *rng = from_device(device);
	struct virtqueue *ring = &device->queues[index].ring;
	struct virtqueue_chain chain = {.iov = rng->buffers, .iov_max = BUFFERS_MAX};

	do {
		virtqueue_notifications(ring, false);
		while (virtio_device_running(device) && virtqueue_pop(ring, &chain) > 0) {
			uint32_t written;

			if (chain.out_count || !chain.in_count) {
				virtqueue_discard(ring, &chain);
				virtio_device_needs_reset(device, "a request is not just writable");
				return;
			}
			written = fill(&chain);
			rng->bytes += written;
			virtqueue_push(ring, &chain, written);
		}
		virtqueue_notify(ring);
	} while (virtio_device_running(device) && virtqueue_notifications(ring, true));
}

/* A generator has no state that a guest could miss. */
static void visit_state(struct virtio_device *device, struct state *state)
{
}

/* Nothing is in flight between events, so there is nothing to do for these. */
static void no_work(struct virtio_device *device)
{
}

static void describe(struct virtio_device *device, json_t *object)
{
	json_object_set_new(object, "bytes", json_integer((json_int_t)from_device(device)->bytes));
}

static void destroy(struct virtio_device *device)
{
	virtio_device_cleanup(device);
	free(from_device(device));
}

static const struct virtio_device_ops rng_ops = {
    .type = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00, /* of no defined kind, as other VMMs have it */
    .activate = no_work,
    .queue_notify = queue_notify,
    .reset = no_work,
    .quiesce = no_work,
    .resume = no_work,
    .describe = describe,
    .destroy = destroy,
};

struct error *virtio_rng_create(const char *id, struct virtio_device **device)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	struct error *error;

	if (!rng)
		return error_system(ENOMEM, "virtio-rng '%s'", id);
	error = virtio_device_init(&rng->device, &rng_ops, visit_state, id, 1, QUEUE_SIZE);
	if (error) {
		free(rng);
		return error;
	}
	*device = &rng->device;
	return NULL;
}
