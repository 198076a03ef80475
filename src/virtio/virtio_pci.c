/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI transport (virtio 1.2 section 4.1): the registers that a driver sees, interrupts, and the
 * window into them through configuration space. Doorbells are in virtio_pci_doorbell.c.
 *
 * One 64-bit BAR:
 *	0x0000 common configuration	0x1000 ISR status	0x2000 device configuration
 *	0x3000 MSI-X table		0x4000 MSI-X pending	0x5000 doorbells, 4 bytes each
 *
 * Threads: registers are accessed by vCPUs, under `lock`. What concerns the device (status,
 * enabling a queue, device configuration) is carried to the device's loop, with the lock held; the
 * loop never takes it. Vectors and the ISR status are atomic because the device's threads interrupt
 * without the lock.
 *
 * The guest controls every offset, size and value. Accesses of any size and alignment work, as if
 * bytes were written one after the other and then every register touched was written at once. Only
 * creation can fail.
 */
#include "virtio/virtio_pci.h"

#include <assert.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "pci/pci_registers.h"
#include "virtio/virtio_pci_internal.h"

#define VENDOR_VIRTIO	0x1af4
#define DEVICE_ID_BASE	0x1040
#define REVISION_MODERN 1
#define QUEUES_MAX	(PCI_MSIX_VECTORS_MAX - 1)
#define ISR_QUEUE	1
#define ISR_CONFIG	2
#define BAR_SIZE	0x8000
#define AREA_SIZE	0x1000

/* Areas of the BAR, by offset / AREA_SIZE. */
enum area { AREA_COMMON, AREA_ISR, AREA_DEVICE, AREA_MSIX_TABLE, AREA_MSIX_PBA, AREA_NOTIFY };

/* cfg_type of the vendor capabilities (section 4.1.4). */
enum capability_type {
	CAPABILITY_COMMON = 1,
	CAPABILITY_NOTIFY = 2,
	CAPABILITY_ISR = 3,
	CAPABILITY_DEVICE = 4,
	CAPABILITY_PCI = 5,
};

/* Fields of a vendor capability, relative to its start. */
#define CAPABILITY_BAR	  4
#define CAPABILITY_OFFSET 8
#define CAPABILITY_LENGTH 12
#define CAPABILITY_DATA	  16 /* CAPABILITY_PCI: the window; CAPABILITY_NOTIFY: the multiplier */

/* The common configuration (section 4.1.4.3). */
#define COMMON_SIZE 60
enum common_register {
	DEVICE_FEATURE_SELECT,
	DEVICE_FEATURE,
	DRIVER_FEATURE_SELECT,
	DRIVER_FEATURE,
	CONFIG_VECTOR,
	QUEUE_COUNT,
	DEVICE_STATUS,
	CONFIG_GENERATION,
	QUEUE_SELECT,
	QUEUE_SIZE,
	QUEUE_VECTOR,
	QUEUE_ENABLE,
	QUEUE_NOTIFY_OFFSET,
	QUEUE_DESCRIPTORS,
	QUEUE_DRIVER,
	QUEUE_DEVICE,
	QUEUE_NOTIFY_DATA,
	QUEUE_RESET,
	COMMON_REGISTERS
};
static const struct {
	uint8_t offset, size; /* bytes */
} common_registers[COMMON_REGISTERS] = {
    [DEVICE_FEATURE_SELECT] = {0, 4}, [DEVICE_FEATURE] = {4, 4},
    [DRIVER_FEATURE_SELECT] = {8, 4}, [DRIVER_FEATURE] = {12, 4},
    [CONFIG_VECTOR] = {16, 2},	      [QUEUE_COUNT] = {18, 2},
    [DEVICE_STATUS] = {20, 1},	      [CONFIG_GENERATION] = {21, 1},
    [QUEUE_SELECT] = {22, 2},	      [QUEUE_SIZE] = {24, 2},
    [QUEUE_VECTOR] = {26, 2},	      [QUEUE_ENABLE] = {28, 2},
    [QUEUE_NOTIFY_OFFSET] = {30, 2},  [QUEUE_DESCRIPTORS] = {32, 8},
    [QUEUE_DRIVER] = {40, 8},	      [QUEUE_DEVICE] = {48, 8},
    [QUEUE_NOTIFY_DATA] = {56, 2},    [QUEUE_RESET] = {58, 2},
};

/* What a register access carries to the device's loop. */
struct register_request {
	struct virtio_pci *pci;
	uint8_t status;
	uint64_t features;
	uint16_t queue;
	struct virtqueue_layout layout;
	uint32_t offset, size;
	void *data;
	const void *new_data;
};

static struct virtio_pci *from_function(struct pci_function *function)
{
	return CONTAINER_OF(function, struct virtio_pci, function);
}

static uint8_t get_status(const struct virtio_device *device)
{
	return __atomic_load_n(&device->status, __ATOMIC_ACQUIRE);
}

static uint16_t load_vector(const uint16_t *vector)
{
	return __atomic_load_n(vector, __ATOMIC_RELAXED);
}

/* With source_lock held. */
static void attach_source(struct virtio_pci *pci, struct virtio_pci_queue *queue)
{
	if (queue->source >= 0)
		pci_function_msix_connect(&pci->function, load_vector(&queue->vector),
					  queue->source);
}

static void detach_source(struct virtio_pci *pci, struct virtio_pci_queue *queue)
{
	if (queue->source >= 0)
		pci_function_msix_disconnect(&pci->function, load_vector(&queue->vector),
					     queue->source);
}

static void connect_queue(void *transport, uint16_t index, int fd)
{
	struct virtio_pci *pci = transport;
	struct virtio_pci_queue *queue = &pci->queues[index];

	pthread_mutex_lock(&pci->source_lock);
	detach_source(pci, queue);
	queue->source = fd;
	attach_source(pci, queue);
	pthread_mutex_unlock(&pci->source_lock);
}

static void store_vector(struct virtio_pci *pci, uint16_t *vector, uint64_t value)
{
	/* A vector that does not exist reads back as none (section 4.1.5.1.2.1). */
	__atomic_store_n(
	    vector, value < pci->function.msix_vectors ? (uint16_t)value : VIRTIO_PCI_NO_VECTOR,
	    __ATOMIC_RELAXED);
}

static void store_queue_vector(struct virtio_pci *pci, struct virtio_pci_queue *queue,
			       uint64_t value)
{
	pthread_mutex_lock(&pci->source_lock);
	detach_source(pci, queue);
	store_vector(pci, &queue->vector, value);
	attach_source(pci, queue);
	pthread_mutex_unlock(&pci->source_lock);
}

static void interrupt(struct virtio_pci *pci, uint16_t *vector, uint8_t isr)
{
	if (__atomic_load_n(&pci->function.msix_gate, __ATOMIC_ACQUIRE) == PCI_MSIX_OFF)
		__atomic_fetch_or(&pci->isr, isr, __ATOMIC_ACQ_REL);
	else
		pci_function_msix_notify(&pci->function, load_vector(vector));
}

static void interrupt_queue(void *transport, uint16_t queue)
{
	struct virtio_pci *pci = transport;

	interrupt(pci, &pci->queues[queue].vector, ISR_QUEUE);
}

static void interrupt_config(void *transport)
{
	struct virtio_pci *pci = transport;

	interrupt(pci, &pci->config_vector, ISR_CONFIG);
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt_queue = interrupt_queue,
    .interrupt_config = interrupt_config,
    .connect_queue = connect_queue,
    .state = virtio_pci_state,
};

static void set_status_on_loop(void *context)
{
	const struct register_request *request = context;
	struct virtio_pci *pci = request->pci;
	struct virtio_device *device = pci->device;

	if (!request->status)
		virtio_pci_doorbells_detach(pci);
	else if (!(get_status(device) & VIRTIO_STATUS_FEATURES_OK))
		device->driver_features = request->features;
	virtio_device_set_status(device, request->status);
	if (get_status(device) & VIRTIO_STATUS_DRIVER_OK)
		virtio_pci_doorbells_attach(pci);
}

static void enable_queue_on_loop(void *context)
{
	const struct register_request *request = context;
	struct virtio_device *device = request->pci->device;

	device->queues[request->queue].ring.layout = request->layout;
	virtio_device_enable_queue(device, request->queue);
}

static void read_config_on_loop(void *context)
{
	const struct register_request *request = context;

	virtio_device_read_config(request->pci->device, request->offset, request->data,
				  request->size);
}

static void write_config_on_loop(void *context)
{
	const struct register_request *request = context;

	virtio_device_write_config(request->pci->device, request->offset, request->new_data,
				   request->size);
}

/* The driver's view after a reset; with the lock held or before a driver can see it. */
static void reset_registers(struct virtio_pci *pci)
{
	pci->device_feature_select = 0;
	pci->driver_feature_select = 0;
	pci->driver_features = 0;
	pci->queue_select = 0;
	store_vector(pci, &pci->config_vector, VIRTIO_PCI_NO_VECTOR);
	for (uint16_t i = 0; i < pci->device->queue_count; i++) {
		store_queue_vector(pci, &pci->queues[i], VIRTIO_PCI_NO_VECTOR);
		pci->queues[i].enabled = false;
		pci->queues[i].layout =
		    (struct virtqueue_layout){.size = pci->device->queues[i].ring.size_max};
	}
	__atomic_store_n(&pci->isr, 0, __ATOMIC_RELEASE);
}

static void write_status(struct virtio_pci *pci, uint8_t status)
{
	struct register_request request = {
	    .pci = pci, .status = status, .features = pci->driver_features};

	event_loop_call(pci->device->loop, set_status_on_loop, &request);
	if (!status)
		reset_registers(pci);
}

static void enable_queue(struct virtio_pci *pci, uint16_t index)
{
	struct register_request request = {
	    .pci = pci, .queue = index, .layout = pci->queues[index].layout};

	if (pci->queues[index].enabled)
		return;
	event_loop_call(pci->device->loop, enable_queue_on_loop, &request);
	pci->queues[index].enabled = pci->device->queues[index].ring.enabled;
}

/* The queue that queue_select names, or NULL. */
static struct virtio_pci_queue *selected_queue(struct virtio_pci *pci)
{
	return pci->queue_select < pci->device->queue_count ? &pci->queues[pci->queue_select]
							    : NULL;
}

static uint64_t read_queue_register(struct virtio_pci *pci, enum common_register which)
{
	const struct virtio_pci_queue *queue = selected_queue(pci);

	if (!queue)
		return 0; /* a size of 0 says that the queue does not exist */
	switch (which) {
	case QUEUE_SIZE:
		return queue->layout.size;
	case QUEUE_VECTOR:
		return load_vector(&queue->vector);
	case QUEUE_ENABLE:
		return queue->enabled;
	case QUEUE_NOTIFY_OFFSET:
		return pci->queue_select;
	case QUEUE_DESCRIPTORS:
		return queue->layout.descriptors;
	case QUEUE_DRIVER:
		return queue->layout.driver;
	case QUEUE_DEVICE:
		return queue->layout.device;
	default: /* features that are not offered */
		return 0;
	}
}

static uint64_t read_register(struct virtio_pci *pci, enum common_register which)
{
	const struct virtio_device *device = pci->device;

	switch (which) {
	case DEVICE_FEATURE_SELECT:
		return pci->device_feature_select;
	case DEVICE_FEATURE:
		return pci->device_feature_select < 2
			   ? (uint32_t)(device->features >> (32 * pci->device_feature_select))
			   : 0;
	case DRIVER_FEATURE_SELECT:
		return pci->driver_feature_select;
	case DRIVER_FEATURE:
		return pci->driver_feature_select < 2
			   ? (uint32_t)(pci->driver_features >> (32 * pci->driver_feature_select))
			   : 0;
	case CONFIG_VECTOR:
		return load_vector(&pci->config_vector);
	case QUEUE_COUNT:
		return device->queue_count;
	case DEVICE_STATUS:
		return virtio_device_status(device);
	case CONFIG_GENERATION:
		return __atomic_load_n(&device->config_generation, __ATOMIC_ACQUIRE) & 0xff;
	case QUEUE_SELECT:
		return pci->queue_select;
	default:
		return read_queue_register(pci, which);
	}
}

static void write_queue_register(struct virtio_pci *pci, enum common_register which, uint64_t value)
{
	struct virtio_pci_queue *queue = selected_queue(pci);

	if (!queue)
		return;
	if (which == QUEUE_VECTOR) {
		store_queue_vector(pci, queue, value);
		return;
	}
	if (queue->enabled) /* its layout is final */
		return;
	switch (which) {
	case QUEUE_SIZE:
		queue->layout.size = (uint16_t)value;
		break;
	case QUEUE_ENABLE:
		if (value == 1)
			enable_queue(pci, pci->queue_select);
		break;
	case QUEUE_DESCRIPTORS:
		queue->layout.descriptors = value;
		break;
	case QUEUE_DRIVER:
		queue->layout.driver = value;
		break;
	case QUEUE_DEVICE:
		queue->layout.device = value;
		break;
	default: /* read-only, or a feature that is not offered */
		break;
	}
}

static void write_register(struct virtio_pci *pci, enum common_register which, uint64_t value)
{
	uint32_t shift;

	switch (which) {
	case DEVICE_FEATURE_SELECT:
		pci->device_feature_select = (uint32_t)value;
		break;
	case DRIVER_FEATURE_SELECT:
		pci->driver_feature_select = (uint32_t)value;
		break;
	case DRIVER_FEATURE:
		if (pci->driver_feature_select >= 2)
			break;
		shift = 32 * pci->driver_feature_select;
		pci->driver_features &= ~((uint64_t)UINT32_MAX << shift);
		pci->driver_features |= value << shift;
		break;
	case CONFIG_VECTOR:
		store_vector(pci, &pci->config_vector, value);
		break;
	case DEVICE_STATUS:
		write_status(pci, (uint8_t)value);
		break;
	case QUEUE_SELECT:
		pci->queue_select = (uint16_t)value;
		break;
	default:
		write_queue_register(pci, which, value);
	}
}

/* @size is at most 8. The accessed part of a register, if any, as [first, last) bytes of the
 * access. */
static bool register_overlap(enum common_register which, uint64_t offset, uint32_t size,
			     uint32_t *first, uint32_t *last)
{
	uint64_t start = common_registers[which].offset;
	uint64_t end = start + common_registers[which].size;

	if (!ranges_overlap(start, end - start, offset, size))
		return false;
	*first = (uint32_t)(MAX(start, offset) - offset);
	*last = (uint32_t)(MIN(end, offset + size) - offset);
	return true;
}

static void common_read(struct virtio_pci *pci, uint64_t offset, uint8_t *data, uint32_t size)
{
	uint32_t first, last;

	pthread_mutex_lock(&pci->lock);
	for (enum common_register which = 0; which < COMMON_REGISTERS; which++) {
		uint8_t bytes[8];

		if (!register_overlap(which, offset, size, &first, &last))
			continue;
		put_le64(bytes, read_register(pci, which));
		memcpy(data + first, bytes + (offset + first - common_registers[which].offset),
		       last - first);
	}
	pthread_mutex_unlock(&pci->lock);
}

static void common_write(struct virtio_pci *pci, uint64_t offset, const uint8_t *data,
			 uint32_t size)
{
	uint32_t first, last;

	pthread_mutex_lock(&pci->lock);
	for (enum common_register which = 0; which < COMMON_REGISTERS; which++) {
		uint8_t bytes[8];

		if (!register_overlap(which, offset, size, &first, &last))
			continue;
		put_le64(bytes, read_register(pci, which));
		memcpy(bytes + (offset + first - common_registers[which].offset), data + first,
		       last - first);
		write_register(pci, which, get_le64(bytes));
	}
	pthread_mutex_unlock(&pci->lock);
}

static void bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
		     uint32_t size)
{
	struct virtio_pci *pci = from_function(function);
	struct register_request request = {.pci = pci, .data = data, .size = size};

	memset(data, 0, size);
	switch (offset / AREA_SIZE) {
	case AREA_COMMON:
		common_read(pci, offset, data, size);
		break;
	case AREA_ISR:
		if (offset == AREA_ISR * AREA_SIZE)
			*(uint8_t *)data = __atomic_exchange_n(&pci->isr, 0, __ATOMIC_ACQ_REL);
		break;
	case AREA_DEVICE:
		request.offset = (uint32_t)offset - AREA_DEVICE * AREA_SIZE;
		event_loop_call(pci->device->loop, read_config_on_loop, &request);
		break;
	}
}

static void bar_write(struct pci_function *function, int bar, uint64_t offset, const void *data,
		      uint32_t size)
{
	struct virtio_pci *pci = from_function(function);
	struct register_request request = {.pci = pci, .new_data = data, .size = size};

	switch (offset / AREA_SIZE) {
	case AREA_COMMON:
		common_write(pci, offset, data, size);
		break;
	case AREA_DEVICE:
		request.offset = (uint32_t)offset - AREA_DEVICE * AREA_SIZE;
		event_loop_call(pci->device->loop, write_config_on_loop, &request);
		break;
	case AREA_NOTIFY:
		virtio_pci_doorbell_ring(pci, offset - VIRTIO_PCI_NOTIFY_OFFSET);
		break;
	}
}

/* The window of the PCI configuration access capability; false if it shows nothing. */
static bool window(const struct virtio_pci *pci, uint32_t *offset, uint32_t *length)
{
	const uint8_t *capability = pci->function.config + pci->pci_capability;

	*offset = get_le32(capability + CAPABILITY_OFFSET);
	*length = get_le32(capability + CAPABILITY_LENGTH);
	return capability[CAPABILITY_BAR] == 0 && (*length == 1 || *length == 2 || *length == 4) &&
	       is_aligned(*offset, *length) && range_contains(0, BAR_SIZE, *offset, *length);
}

static bool config_read(struct pci_function *function, uint32_t offset, uint32_t size,
			uint32_t *value)
{
	struct virtio_pci *pci = from_function(function);
	uint32_t data = pci->pci_capability + CAPABILITY_DATA, window_offset, length;

	if (offset == data && window(pci, &window_offset, &length))
		pci_function_bar_read(function, 0, window_offset, function->config + data, length);
	return false; /* the bytes as they are now */
}

static bool config_write(struct pci_function *function, uint32_t offset, uint32_t size,
			 uint32_t value)
{
	struct virtio_pci *pci = from_function(function);
	uint32_t data = pci->pci_capability + CAPABILITY_DATA, window_offset, length;
	uint8_t bytes[4];

	if (!range_contains(data, sizeof(bytes), offset, size))
		return false;
	put_le32(bytes, value);
	memcpy(function->config + offset, bytes, size);
	if (offset == data && window(pci, &window_offset, &length))
		pci_function_bar_write(function, 0, window_offset, function->config + data, length);
	return true;
}

static void bus_master_changed(struct pci_function *function, bool enabled)
{
	virtio_device_set_bus_master(from_function(function)->device, enabled);
}

static void function_reset(struct pci_function *function)
{
	struct virtio_pci *pci = from_function(function);

	pthread_mutex_lock(&pci->lock);
	write_status(pci, 0);
	pthread_mutex_unlock(&pci->lock);
}

static void bar_moved(struct pci_function *function, int bar)
{
	virtio_pci_doorbells_move(from_function(function));
}

static const struct pci_function_ops function_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .bar_moved = bar_moved,
    .bus_master_changed = bus_master_changed,
    .config_read = config_read,
    .config_write = config_write,
    .reset = function_reset,
    .destroy = virtio_pci_destroy,
};

/* Appends a vendor capability (section 4.1.4) with @extra bytes of zeros; its offset or 0. */
static uint8_t add_capability(struct virtio_pci *pci, enum capability_type type, uint32_t offset,
			      uint32_t length, uint8_t extra)
{
	uint8_t body[CAPABILITY_DATA + 4 - 2] = {0};

	body[0] = CAPABILITY_DATA + extra;
	body[1] = type;
	put_le32(body + CAPABILITY_OFFSET - 2, offset);
	put_le32(body + CAPABILITY_LENGTH - 2, length);
	return pci_function_add_capability(&pci->function, PCI_CAPABILITY_VENDOR, body,
					   CAPABILITY_DATA - 2 + extra);
}

static bool add_capabilities(struct virtio_pci *pci)
{
	uint8_t *config = pci->function.config, *writable = pci->function.writable;
	uint32_t config_size = pci->device->ops->config_size;
	uint8_t notify;

	if (!add_capability(pci, CAPABILITY_COMMON, AREA_COMMON * AREA_SIZE, COMMON_SIZE, 0) ||
	    !add_capability(pci, CAPABILITY_ISR, AREA_ISR * AREA_SIZE, 1, 0) ||
	    (config_size &&
	     !add_capability(pci, CAPABILITY_DEVICE, AREA_DEVICE * AREA_SIZE, config_size, 0)))
		return false;
	notify = add_capability(pci, CAPABILITY_NOTIFY, VIRTIO_PCI_NOTIFY_OFFSET,
				pci->device->queue_count * VIRTIO_PCI_NOTIFY_MULTIPLIER, 4);
	pci->pci_capability = add_capability(pci, CAPABILITY_PCI, 0, 0, 4);
	if (!notify || !pci->pci_capability)
		return false;
	put_le32(config + notify + CAPABILITY_DATA, VIRTIO_PCI_NOTIFY_MULTIPLIER);
	writable[pci->pci_capability + CAPABILITY_BAR] = 0xff;
	memset(writable + pci->pci_capability + CAPABILITY_OFFSET, 0xff, 12);
	return true;
}

static struct error *create_queues(struct virtio_pci *pci)
{
	struct virtio_device *device = pci->device;

	for (uint16_t i = 0; i < device->queue_count; i++) {
		pci->queues[i].pci = pci;
		pci->queues[i].index = i;
		pci->queues[i].source = -1;
		device->queues[i].notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (device->queues[i].notify_fd < 0)
			return error_system(errno, "%s: cannot create a doorbell", device->id);
	}
	return NULL;
}

struct error *virtio_pci_create(struct virtio_device *device, struct pci_function **function)
{
	struct virtio_pci *pci;
	struct error *error;

	assert(device->ops->config_size <= AREA_SIZE);
	if (device->queue_count > QUEUES_MAX)
		return error_new(EINVAL, "%s: %u queues, at most %u are possible", device->id,
				 device->queue_count, QUEUES_MAX);
	pci = calloc(1, sizeof(*pci) + device->queue_count * sizeof(pci->queues[0]));
	if (!pci)
		return error_system(ENOMEM, "%s: PCI function", device->id);
	pci->device = device;
	pthread_mutex_init(&pci->lock, NULL);
	pthread_mutex_init(&pci->source_lock, NULL);
	pci_function_init(&pci->function, &function_ops, device->id, VENDOR_VIRTIO,
			  DEVICE_ID_BASE + device->ops->id, REVISION_MODERN, device->ops->pci_class,
			  VENDOR_VIRTIO, DEVICE_ID_BASE + device->ops->id);
	/* Prefetchable, so that it may lie in any window above 4 GiB. */
	pci_function_add_bar(&pci->function, 0, BAR_SIZE, true, true);
	device->transport = pci;
	device->transport_ops = &transport_ops;
	error = create_queues(pci);
	if (!error && !add_capabilities(pci))
		error = error_new(ENOSPC, "%s: no room for the virtio capabilities", device->id);
	if (!error)
		error =
		    pci_function_add_msix(&pci->function, device->queue_count + 1, 0,
					  AREA_MSIX_TABLE * AREA_SIZE, AREA_MSIX_PBA * AREA_SIZE);
	if (error) {
		virtio_pci_destroy(&pci->function);
		return error;
	}
	reset_registers(pci);
	virtio_device_set_bus_master(device, false);
	*function = &pci->function;
	return NULL;
}

void virtio_pci_destroy(struct pci_function *function)
{
	struct virtio_pci *pci = from_function(function);
	struct virtio_device *device = pci->device;

	virtio_pci_doorbells_detach(pci);
	for (uint16_t i = 0; i < device->queue_count; i++)
		close_fd(&device->queues[i].notify_fd);
	device->transport_ops = NULL;
	device->transport = NULL;
	pci_function_cleanup(function);
	pthread_mutex_destroy(&pci->source_lock);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}
