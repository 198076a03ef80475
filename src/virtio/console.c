/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-console with one port: queue 0 carries input to the guest, queue 1 its output.
 *
 * Runs on the device's loop, and so does its character device. Output is handed over at once and
 * never waits. Input waits at the character device while the guest gives no buffers, has no driver
 * or is paused; whatever ends that asks for it again with chardev_set_receiving. Nothing is in
 * flight between two events.
 *
 * The guest controls the queues and the output, whoever is at the terminal the input.
 */
#include "virtio/console.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/handed.h"

#define FEATURE_SIZE 0 /* the configuration holds the terminal's size */
#define QUEUE_INPUT  0
#define QUEUE_OUTPUT 1
#define QUEUE_COUNT  2
#define QUEUE_SIZE   128
#define BUFFERS_MAX  (QUEUE_SIZE + 8) /* and some for buffers that cross regions */
#define CONFIG_SIZE  12		      /* u16 columns, u16 rows, u32 max_nr_ports, u32 emerg_wr */

struct virtio_console {
	struct virtio_device device;
	struct chardev *backend;
	struct iovec buffers[BUFFERS_MAX];
};

static struct virtio_console *from_device(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_console, device);
}

static void malformed(struct virtio_console *console, struct virtqueue *ring,
		      struct virtqueue_chain *chain, const char *reason)
{
	virtqueue_discard(ring, chain);
	virtio_device_needs_reset(&console->device, reason);
}

/* Takes as much input as the guest has buffers for. */
static size_t receive(void *context, const uint8_t *data, size_t size)
{
	struct virtio_console *console = context;
	struct virtqueue *ring = &console->device.queues[QUEUE_INPUT].ring;
	struct virtqueue_chain chain = {.iov = console->buffers, .iov_max = BUFFERS_MAX};
	size_t taken = 0;

	while (taken < size && virtio_device_running(&console->device)) {
		size_t stretch;

		if (virtqueue_pop(ring, &chain) <= 0) {
			/* The driver's next buffer brings us back here, by way of queue_notify. */
			if (!virtqueue_notifications(ring, true))
				break;
			virtqueue_notifications(ring, false);
			continue;
		}
		if (chain.out_count || !chain.in_count) {
			malformed(console, ring, &chain, "an input buffer is not just writable");
			break;
		}
		stretch = MIN(size - taken, chain.in_size);
		if (!virtqueue_chain_write(&chain, 0, data + taken, stretch))
			stretch = 0;
		virtqueue_push(ring, &chain, (uint32_t)stretch);
		taken += stretch;
	}
	virtqueue_notify(ring);
	return taken;
}

static void send_output(struct virtio_console *console)
{
	struct virtqueue *ring = &console->device.queues[QUEUE_OUTPUT].ring;
	struct virtqueue_chain chain = {.iov = console->buffers, .iov_max = BUFFERS_MAX};

	do {
		virtqueue_notifications(ring, false);
		while (virtio_device_running(&console->device) && virtqueue_pop(ring, &chain) > 0) {
			if (chain.in_count) {
				malformed(console, ring, &chain, "an output buffer is writable");
				return;
			}
			for (uint16_t i = 0; i < chain.out_count; i++)
				chardev_write(console->backend, chain.iov[i].iov_base,
					      chain.iov[i].iov_len);
			virtqueue_push(ring, &chain, 0);
		}
		virtqueue_notify(ring);
	} while (virtio_device_running(&console->device) && virtqueue_notifications(ring, true));
}

static void queue_notify(struct virtio_device *device, uint16_t index)
{
	struct virtio_console *console = from_device(device);

	if (index == QUEUE_OUTPUT) {
		send_output(console);
		return;
	}
	virtqueue_notifications(&device->queues[QUEUE_INPUT].ring, false);
	chardev_set_receiving(console->backend, true);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	uint16_t columns = 0, rows = 0;
	uint8_t config[CONFIG_SIZE] = {0};

	chardev_terminal_size(from_device(device)->backend, &columns, &rows);
	put_le16(config, columns);
	put_le16(config + 2, rows);
	put_le32(config + 4, 1);
	memcpy(data, config + offset, size);
}

static void backend_changed(void *context)
{
	struct virtio_console *console = context;

	if (console->device.features & VIRTIO_FEATURE(FEATURE_SIZE))
		virtio_device_config_changed(&console->device);
}

static const struct chardev_handlers backend_handlers = {
    .receive = receive,
    .changed = backend_changed,
};

/* Input that came earlier waits for the guest's buffers. */
static void start(struct virtio_device *device)
{
	chardev_set_receiving(from_device(device)->backend, true);
}

/* `receive` takes nothing while the device does not run. */
static void no_work(struct virtio_device *device)
{
}

/* The terminal here may have another size than the one that the driver knows. */
static void visit_state(struct virtio_device *device, struct state *state)
{
	struct virtio_console *console = from_device(device);
	uint16_t columns = 0, rows = 0, old_columns, old_rows;

	chardev_terminal_size(console->backend, &columns, &rows);
	old_columns = columns;
	old_rows = rows;
	state_u16(state, "columns", &old_columns);
	state_u16(state, "rows", &old_rows);
	if (old_columns != columns || old_rows != rows)
		__atomic_fetch_add(&device->config_generation, 1, __ATOMIC_RELEASE);
	chardev_state(console->backend, state);
}

static void describe(struct virtio_device *device, json_t *object)
{
	const struct virtio_console *console = from_device(device);

	json_object_set_new(object, "backend", json_string(chardev_name(console->backend)));
	json_object_set_new(object, "dropped",
			    json_integer((json_int_t)chardev_dropped(console->backend)));
}

static struct error *share(struct virtio_device *device, json_t *handed)
{
	struct virtio_console *console = from_device(device);

	if (handed)
		return handed_put_chardev(handed, console->backend);
	chardev_unshare(console->backend);
	return NULL;
}

static void release(struct virtio_device *device)
{
	chardev_release(from_device(device)->backend);
}

static struct error *take_over(struct virtio_device *device)
{
	return chardev_take_over(from_device(device)->backend);
}

static void destroy(struct virtio_device *device)
{
	struct virtio_console *console = from_device(device);

	chardev_destroy(console->backend);
	virtio_device_cleanup(device);
	free(console);
}

static const struct virtio_device_ops console_ops = {
    .type = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .pci_class = 0x078000, /* communication controller, other */
    .config_size = CONFIG_SIZE,
    .config_read = config_read,
    .activate = start,
    .queue_notify = queue_notify,
    .reset = no_work,
    .quiesce = no_work,
    .resume = start,
    .share = share,
    .release = release,
    .take_over = take_over,
    .describe = describe,
    .destroy = destroy,
};

struct chardev *virtio_console_backend(const struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_console, device)->backend;
}

struct error *virtio_console_create(const char *id, struct chardev *backend,
				    struct virtio_device **device)
{
	struct virtio_console *console = calloc(1, sizeof(*console));
	uint16_t columns, rows;
	struct error *error;

	if (!console) {
		chardev_destroy(backend);
		return error_system(ENOMEM, "virtio-console '%s'", id);
	}
	error = virtio_device_init(&console->device, &console_ops, visit_state, id, QUEUE_COUNT,
				   QUEUE_SIZE);
	if (error) {
		chardev_destroy(backend);
		free(console);
		return error;
	}
	console->backend = backend;
	/* A driver that comes from a terminal finds a size of 0 elsewhere, which says nothing. */
	console->device.loadable = VIRTIO_FEATURE(FEATURE_SIZE);
	if (chardev_terminal_size(backend, &columns, &rows))
		console->device.features |= VIRTIO_FEATURE(FEATURE_SIZE);
	error = chardev_attach(backend, console->device.loop, &backend_handlers, console);
	if (error) {
		destroy(&console->device);
		return error_prefix(error, "virtio-console '%s'", id);
	}
	*device = &console->device;
	return NULL;
}
