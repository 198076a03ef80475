/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-mem (virtio 1.2 section 5.15), see mem.h.
 *
 * The device says how much memory it wants the guest to have (`requested`); the guest's driver asks
 * to plug and unplug blocks until it got there. This file decides whether each request is legal and
 * carries it out through the memory map, which commits and returns host memory and keeps everybody
 * else out. The device never takes a block away by itself, except at a system reset.
 *
 * Answers: ERROR to what no correct driver does (misaligned, outside the usable region, in the
 * wrong state), NACK to a plug beyond `requested` (the driver looks again), BUSY when the host has
 * no memory or no room to map it. A request that is too short or unknown is malformed: the device
 * needs a reset.
 *
 * Reasons: the driver does not say why it stopped. It reacts to a change of `requested` at once and
 * works without pausing, so a device that is not there yet and heard nothing for GUEST_QUIET_NS is
 * waiting for the driver's own retry timer: it could not plug (no memory for its page descriptors),
 * or could not empty blocks.
 *
 * After a BUSY the driver waits 50 s or more by itself, unless the configuration changes. When what
 * was short may be there again, the device raises the interrupt, so that the guest retries within
 * seconds.
 *
 * Threads: requests are carried out on the device's loop, status and new sizes come from any
 * thread. The guest controls the request's bytes and when they come.
 */
#include "virtio/mem.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"

#define QUEUE_SIZE     128
#define USABLE_SLACK   MIB(256) /* beyond `requested`, so that the guest is not tied to one place */
#define GUEST_QUIET_NS (5 * NS_PER_SECOND)
#define BUSY_RETRY_NS  (2 * NS_PER_SECOND)
#define CHAIN_BUFFERS  8

/* Feature bits (5.15.3). */
#define F_ACPI_PXM		 0
#define F_UNPLUGGED_INACCESSIBLE 1
#define F_PERSISTENT_SUSPEND	 2

/* Configuration layout (5.15.4), little-endian. */
enum config_offset {
	CONFIG_BLOCK_SIZE = 0,
	CONFIG_NODE_ID = 8,
	CONFIG_ADDRESS = 16,
	CONFIG_REGION_SIZE = 24,
	CONFIG_USABLE_SIZE = 32,
	CONFIG_PLUGGED_SIZE = 40,
	CONFIG_REQUESTED_SIZE = 48,
	CONFIG_SIZE = 56,
};

/* Requests and responses (5.15.6), little-endian. */
#define REQUEST_SIZE	24
#define REQUEST_TYPE	0
#define REQUEST_ADDRESS 8
#define REQUEST_BLOCKS	16
#define RESPONSE_SIZE	10
#define RESPONSE_TYPE	0
#define RESPONSE_STATE	8

enum request_type { REQUEST_PLUG, REQUEST_UNPLUG, REQUEST_UNPLUG_ALL, REQUEST_STATE };
enum response_type { RESPONSE_ACK, RESPONSE_NACK, RESPONSE_BUSY, RESPONSE_ERROR };
enum block_state { STATE_PLUGGED, STATE_UNPLUGGED, STATE_MIXED };

struct virtio_mem {
	struct virtio_device device; /* first: the device is cast back */
	struct memory_region *region;
	uint64_t block_size;
	uint16_t node;
	struct iovec buffers[CHAIN_BUFFERS];
	struct event_timer *timer; /* looks again when the guest was quiet, or after BUSY */
	void (*handler)(void *context);
	void *handler_context;

	/*
	 * Guards what follows for other threads; `plugged` changes on the device's loop alone,
	 * which may therefore read it without the lock. Never held across a change of the memory
	 * map, which can take seconds.
	 */
	pthread_mutex_t lock;
	uint64_t requested, usable, plugged; /* bytes */
	bool driver;			     /* a driver has claimed the device */
	bool host_busy;			     /* the last plug was answered BUSY */
	bool config_dirty;		     /* requested changed and the driver was not told yet */
	int64_t last_heard_ns;
	enum virtio_mem_reason reason, reported;
	uint64_t reported_plugged;
};

static struct virtio_mem *mem_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_mem, device);
}

const char *virtio_mem_reason_name(enum virtio_mem_reason reason)
{
	static const char *const names[] = {
	    [VIRTIO_MEM_READY] = "ready",	  [VIRTIO_MEM_PENDING] = "pending",
	    [VIRTIO_MEM_BUSY] = "busy",		  [VIRTIO_MEM_GUEST_OOM] = "guest-out-of-memory",
	    [VIRTIO_MEM_NO_DRIVER] = "no-driver", [VIRTIO_MEM_GUEST_REFUSES] = "guest-refuses",
	};

	return names[reason];
}

/* --- Where the resize stands
 * ----------------------------------------------------------------------- */

static enum virtio_mem_reason judge(const struct virtio_mem *mem)
{
	if (mem->plugged == mem->requested)
		return VIRTIO_MEM_READY;
	if (!mem->driver)
		return VIRTIO_MEM_NO_DRIVER;
	if (mem->host_busy && mem->plugged < mem->requested)
		return VIRTIO_MEM_BUSY;
	/* A guest that stands still cannot be heard. */
	if (__atomic_load_n(&mem->device.quiesced, __ATOMIC_ACQUIRE) ||
	    clock_monotonic_ns() - mem->last_heard_ns < GUEST_QUIET_NS)
		return VIRTIO_MEM_PENDING;
	return mem->plugged < mem->requested ? VIRTIO_MEM_GUEST_OOM : VIRTIO_MEM_GUEST_REFUSES;
}

/* Tells the owner of changes and arms the timer while the outcome is open. Device's loop. */
static void review(struct virtio_mem *mem)
{
	bool changed;
	enum virtio_mem_reason reason;

	pthread_mutex_lock(&mem->lock);
	reason = mem->reason = judge(mem);
	changed = reason != mem->reported || mem->plugged != mem->reported_plugged;
	mem->reported = reason;
	mem->reported_plugged = mem->plugged;
	pthread_mutex_unlock(&mem->lock);
	if (reason == VIRTIO_MEM_PENDING)
		event_timer_arm(mem->timer, GUEST_QUIET_NS);
	else if (reason == VIRTIO_MEM_BUSY)
		event_timer_arm(mem->timer, BUSY_RETRY_NS);
	if (changed && mem->handler)
		mem->handler(mem->handler_context);
}

static void on_timer(void *context)
{
	struct virtio_mem *mem = context;
	bool retry;

	pthread_mutex_lock(&mem->lock);
	retry = mem->host_busy && mem->driver && mem->plugged < mem->requested;
	pthread_mutex_unlock(&mem->lock);
	if (retry)
		virtio_device_config_changed(&mem->device);
	review(mem);
}

/* The part of the region that the driver may use; never shrinks while the guest runs (5.15.6.2). */
static void grow_usable(struct virtio_mem *mem)
{
	uint64_t slack = MAX(USABLE_SLACK, 2 * mem->block_size);
	uint64_t wanted = mem->requested ? MIN(mem->region->size, mem->requested + slack) : 0;

	mem->usable = MAX(mem->usable, align_down(wanted, mem->block_size));
}

/* --- Requests
 * -------------------------------------------------------------------------------------- */

/* Checks a range a driver names; true and *offset, *size if it is made of blocks of the usable
 * region. */
static bool check_range(struct virtio_mem *mem, uint64_t address, uint16_t blocks, uint64_t *offset,
			uint64_t *size)
{
	uint64_t usable;

	pthread_mutex_lock(&mem->lock);
	usable = mem->usable;
	pthread_mutex_unlock(&mem->lock);
	*size = blocks * mem->block_size;
	*offset = address - mem->region->address;
	return blocks && is_aligned(address, mem->block_size) &&
	       range_contains(mem->region->address, usable, address, *size);
}

static enum response_type plug(struct virtio_mem *mem, uint64_t address, uint16_t blocks)
{
	uint64_t offset, size, requested;
	bool busy;

	if (!check_range(mem, address, blocks, &offset, &size) ||
	    memory_region_any_plugged(mem->region, offset, size))
		return RESPONSE_ERROR;
	pthread_mutex_lock(&mem->lock);
	requested = mem->requested;
	pthread_mutex_unlock(&mem->lock);
	if (size > requested || mem->plugged > requested - size)
		return RESPONSE_NACK;
	busy = memory_region_plug(mem->device.map, mem->region, offset, size) != 0;
	pthread_mutex_lock(&mem->lock);
	mem->host_busy = busy;
	mem->plugged += busy ? 0 : size;
	pthread_mutex_unlock(&mem->lock);
	return busy ? RESPONSE_BUSY : RESPONSE_ACK;
}

static bool unplug_range(struct virtio_mem *mem, uint64_t offset, uint64_t size)
{
	if (memory_region_unplug(mem->device.map, mem->region, offset, size))
		return false;
	pthread_mutex_lock(&mem->lock);
	mem->plugged -= size;
	pthread_mutex_unlock(&mem->lock);
	return true;
}

static enum response_type unplug(struct virtio_mem *mem, uint64_t address, uint16_t blocks)
{
	uint64_t offset, size;

	if (!check_range(mem, address, blocks, &offset, &size) ||
	    !memory_region_all_plugged(mem->region, offset, size))
		return RESPONSE_ERROR;
	return unplug_range(mem, offset, size) ? RESPONSE_ACK : RESPONSE_BUSY;
}

/* Unplugs everything, run by run, and lets the usable region shrink to what is requested. */
static enum response_type unplug_all(struct virtio_mem *mem)
{
	const struct memory_region *region = mem->region;
	size_t blocks = region->size / mem->block_size;
	size_t first = 0;

	/* Only this thread changes the marks, so they can be searched as they are. */
	while ((first = bitmap_next_set(region->plugged, first, blocks)) < blocks) {
		size_t end = bitmap_next_clear(region->plugged, first, blocks);

		if (!unplug_range(mem, first * mem->block_size, (end - first) * mem->block_size))
			return RESPONSE_BUSY;
		first = end;
	}
	pthread_mutex_lock(&mem->lock);
	mem->usable = 0;
	grow_usable(mem);
	pthread_mutex_unlock(&mem->lock);
	return RESPONSE_ACK;
}

static enum response_type query(struct virtio_mem *mem, uint64_t address, uint16_t blocks,
				enum block_state *result)
{
	uint64_t offset, size;

	if (!check_range(mem, address, blocks, &offset, &size))
		return RESPONSE_ERROR;
	if (memory_region_all_plugged(mem->region, offset, size))
		*result = STATE_PLUGGED;
	else if (memory_region_any_plugged(mem->region, offset, size))
		*result = STATE_MIXED;
	else
		*result = STATE_UNPLUGGED;
	return RESPONSE_ACK;
}

/* Carries out one request; false if it is malformed. */
static bool execute(struct virtio_mem *mem, const uint8_t request[REQUEST_SIZE],
		    uint8_t response[RESPONSE_SIZE])
{
	uint64_t address = get_le64(request + REQUEST_ADDRESS);
	uint16_t blocks = get_le16(request + REQUEST_BLOCKS);
	enum block_state block_state = STATE_PLUGGED;
	enum response_type type;

	switch (get_le16(request + REQUEST_TYPE)) {
	case REQUEST_PLUG:
		type = plug(mem, address, blocks);
		break;
	case REQUEST_UNPLUG:
		type = unplug(mem, address, blocks);
		break;
	case REQUEST_UNPLUG_ALL:
		type = unplug_all(mem);
		break;
	case REQUEST_STATE:
		type = query(mem, address, blocks, &block_state);
		break;
	default:
		return false;
	}
	memset(response, 0, RESPONSE_SIZE);
	put_le16(response + RESPONSE_TYPE, (uint16_t)type);
	put_le16(response + RESPONSE_STATE, (uint16_t)block_state);
	pthread_mutex_lock(&mem->lock);
	mem->last_heard_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&mem->lock);
	return true;
}

/*
 * Answers one chain; false if it was malformed. An unplug waits for all read sections, and a popped
 * chain holds one: so the request is copied, the chain put back, and taken again for the response.
 * It is checked again then, as it must be: the guest may have unplugged the very memory it lies in,
 * or have changed the ring, which is its own affair.
 */
static bool handle_chain(struct virtio_mem *mem, struct virtqueue *queue,
			 struct virtqueue_chain *chain)
{
	uint8_t request[REQUEST_SIZE], response[RESPONSE_SIZE];
	bool complete = virtqueue_chain_read(chain, 0, request, sizeof(request)) &&
			chain->in_size >= sizeof(response);

	virtqueue_unpop(queue, chain);
	if (!complete || !execute(mem, request, response) || virtqueue_pop(queue, chain) != 1)
		return false;
	if (!virtqueue_chain_write(chain, 0, response, sizeof(response))) {
		virtqueue_discard(queue, chain);
		return false;
	}
	virtqueue_push(queue, chain, sizeof(response));
	return true;
}

static void mem_queue_notify(struct virtio_device *device, uint16_t index)
{
	struct virtio_mem *mem = mem_of(device);
	struct virtqueue *queue = &device->queues[index].ring;
	struct virtqueue_chain chain = {.iov = mem->buffers, .iov_max = CHAIN_BUFFERS};
	int result = 0;

	if (!virtio_device_running(device))
		return;
	do {
		virtqueue_notifications(queue, false);
		while ((result = virtqueue_pop(queue, &chain)) > 0) {
			if (!handle_chain(mem, queue, &chain)) {
				virtio_device_needs_reset(device, "malformed virtio-mem request");
				return;
			}
			virtqueue_notify(queue);
		}
	} while (result == 0 && virtqueue_notifications(queue, true));
	if (result < 0)
		virtio_device_needs_reset(device, "malformed ring");
	review(mem);
}

/* --- The device
 * ------------------------------------------------------------------------------------ */

static void mem_config_read(struct virtio_device *device, uint32_t offset, void *data,
			    uint32_t size)
{
	struct virtio_mem *mem = mem_of(device);
	uint8_t config[CONFIG_SIZE] = {0};

	pthread_mutex_lock(&mem->lock);
	put_le64(config + CONFIG_BLOCK_SIZE, mem->block_size);
	put_le16(config + CONFIG_NODE_ID, mem->node);
	put_le64(config + CONFIG_ADDRESS, mem->region->address);
	put_le64(config + CONFIG_REGION_SIZE, mem->region->size);
	put_le64(config + CONFIG_USABLE_SIZE, mem->usable);
	put_le64(config + CONFIG_PLUGGED_SIZE, mem->plugged);
	put_le64(config + CONFIG_REQUESTED_SIZE, mem->requested);
	pthread_mutex_unlock(&mem->lock);
	memcpy(data, config + offset, size);
}

/* Unplugged memory cannot be used here whether a driver knows the feature or not, so both kinds are
 * welcome. */
static void mem_activate(struct virtio_device *device)
{
	struct virtio_mem *mem = mem_of(device);

	pthread_mutex_lock(&mem->lock);
	mem->driver = true;
	mem->last_heard_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&mem->lock);
	review(mem);
}

/* A device reset leaves plugged blocks and their content alone (5.15.6.2). */
static void mem_reset(struct virtio_device *device)
{
	struct virtio_mem *mem = mem_of(device);

	event_timer_cancel(mem->timer);
	pthread_mutex_lock(&mem->lock);
	mem->driver = false;
	mem->host_busy = false;
	pthread_mutex_unlock(&mem->lock);
	review(mem);
}

/* After a system reset all memory that a guest sees is boot memory; a driver gets its requested
 * size back. */
static void mem_system_reset(struct virtio_device *device)
{
	struct virtio_mem *mem = mem_of(device);

	if (unplug_all(mem) != RESPONSE_ACK)
		log_warning("%s: memory is still in use by a device after the reset", device->id);
	review(mem);
}

/* Requests are carried out to the end before anything else runs on the loop; there is nothing to
 * wait for. */
static void mem_quiesce(struct virtio_device *device)
{
}

static void mem_resume(struct virtio_device *device)
{
	struct virtio_mem *mem = mem_of(device);
	bool tell;

	pthread_mutex_lock(&mem->lock);
	tell = mem->config_dirty && mem->driver;
	mem->config_dirty = false;
	mem->last_heard_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&mem->lock);
	if (tell)
		virtio_device_config_changed(device);
}

/*
 * What was plugged ahead of the state, by a migration that brought the content, and is none of
 * @plugged any more.
 */
static void unplug_others(struct virtio_mem *mem, const uint64_t *plugged, struct state *state)
{
	struct memory_region *region = mem->region;
	size_t blocks = region->size / mem->block_size, block = 0;

	while ((block = bitmap_next_set(region->plugged, block, blocks)) < blocks) {
		if (!bitmap_test(plugged, block) &&
		    memory_region_unplug(mem->device.map, region, block * mem->block_size,
					 mem->block_size)) {
			state_fail(state, error_new(EBUSY, "elastic memory '%s' is in use",
						    mem->device.id));
			return;
		}
		block++;
	}
}

/* Takes out of @plugged, and counts, what is plugged already. */
static void count_plugged(struct virtio_mem *mem, uint64_t *plugged)
{
	size_t blocks = mem->region->size / mem->block_size;
	uint64_t size = bitmap_count_range(mem->region->plugged, 0, blocks) * mem->block_size;

	for (size_t i = 0; i < bitmap_words(blocks); i++)
		plugged[i] &= ~mem->region->plugged[i];
	pthread_mutex_lock(&mem->lock);
	mem->plugged += size;
	pthread_mutex_unlock(&mem->lock);
}

/* Plugs the blocks of @plugged, which is read from a state. */
static void plug_loaded(struct virtio_mem *mem, const uint64_t *plugged, struct state *state)
{
	const struct memory_region *region = mem->region;
	size_t blocks = region->size / mem->block_size, first = 0;

	while ((first = bitmap_next_set(plugged, first, blocks)) < blocks) {
		size_t end = bitmap_next_clear(plugged, first, blocks);
		uint64_t size = (end - first) * mem->block_size;
		char text[SIZE_TEXT_MAX], total[SIZE_TEXT_MAX];

		if (memory_region_plug(mem->device.map, mem->region, first * mem->block_size,
				       size)) {
			size_format(size, text);
			size_format(bitmap_count_range(plugged, 0, blocks) * mem->block_size,
				    total);
			state_fail(state,
				   error_new(ENOMEM,
					     "elastic memory '%s': the host has no room for %s of "
					     "the %s that were plugged; free memory (or enlarge "
					     "the pool of huge pages) and try again",
					     mem->device.id, text, total));
			return;
		}
		pthread_mutex_lock(&mem->lock);
		mem->plugged += size;
		pthread_mutex_unlock(&mem->lock);
		first = end;
	}
}

/* The sizes that the driver knows; the machine may ask for another one afterwards. */
static void sizes_state(struct virtio_mem *mem, struct state *state)
{
	uint64_t requested = mem->requested, usable = mem->usable;

	state_same(state, "block size", mem->block_size);
	state_same(state, "region size", mem->region->size);
	state_same(state, "address", mem->region->address);
	state_same(state, "node", mem->node);
	state_u64(state, "requested", &requested);
	state_check(state, requested <= mem->region->size && is_aligned(requested, mem->block_size),
		    "requested", "is not a possible size");
	state_u64(state, "usable", &usable);
	state_check(state, usable <= mem->region->size && is_aligned(usable, mem->block_size),
		    "usable", "is not a possible size");
	state_bool(state, "host busy", &mem->host_busy);
	state_bool(state, "configuration changed", &mem->config_dirty);
	if (!state_loading(state) || state_failed(state))
		return;
	mem->requested = requested;
	mem->usable = usable;
	grow_usable(mem);
}

/*
 * The blocks that are plugged, and plugged they are when this has loaded them: memory's content is
 * loaded after it, or has come before into blocks that were plugged for it.
 */
static void mem_state(struct virtio_device *device, struct state *state)
{
	struct virtio_mem *mem = mem_of(device);
	size_t blocks = mem->region->size / mem->block_size;
	AUTO_FREE uint64_t *plugged = NULL;

	pthread_mutex_lock(&mem->lock);
	sizes_state(mem, state);
	pthread_mutex_unlock(&mem->lock);
	if (!state_loading(state)) {
		state_bitmap(state, "plugged", mem->region->plugged, blocks);
		return;
	}
	plugged = bitmap_create(blocks);
	if (!plugged || mem->plugged) {
		state_fail(state, error_new(plugged ? EBUSY : ENOMEM, "elastic memory '%s': %s",
					    device->id,
					    plugged ? "blocks are plugged already"
						    : "no memory for its map of blocks"));
		return;
	}
	state_bitmap(state, "plugged", plugged, blocks);
	if (!state_check(state,
			 bitmap_next_set(plugged, mem->usable / mem->block_size, blocks) == blocks,
			 "plugged", "has blocks outside of the usable part"))
		return;
	unplug_others(mem, plugged, state);
	if (state_failed(state))
		return;
	count_plugged(mem, plugged);
	plug_loaded(mem, plugged, state);
	pthread_mutex_lock(&mem->lock);
	mem->driver = device->active;
	mem->last_heard_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&mem->lock);
	review(mem);
}

static void mem_describe(struct virtio_device *device, json_t *object)
{
	struct virtio_mem_status status;

	virtio_mem_status(device, &status);
	json_object_set_new(object, "requested", json_integer((json_int_t)status.requested));
	json_object_set_new(object, "plugged", json_integer((json_int_t)status.plugged));
	json_object_set_new(object, "reason", json_string(virtio_mem_reason_name(status.reason)));
}

static void mem_destroy(struct virtio_device *device)
{
	struct virtio_mem *mem = mem_of(device);

	event_loop_join(device->loop);
	event_timer_destroy(mem->timer);
	virtio_device_cleanup(device);
	pthread_mutex_destroy(&mem->lock);
	free(mem);
}

static const struct virtio_device_ops mem_ops = {
    .type = "virtio-mem",
    .id = VIRTIO_ID_MEM,
    .pci_class = 0x00ff00,
    .config_size = CONFIG_SIZE,
    .config_read = mem_config_read,
    .activate = mem_activate,
    .queue_notify = mem_queue_notify,
    .reset = mem_reset,
    .system_reset = mem_system_reset,
    .quiesce = mem_quiesce,
    .resume = mem_resume,
    .describe = mem_describe,
    .destroy = mem_destroy,
};

/* --- For the owner
 * --------------------------------------------------------------------------------- */

static struct error *check_size(const struct virtio_mem *mem, uint64_t size)
{
	char text[SIZE_TEXT_MAX], limit[SIZE_TEXT_MAX];

	if (!is_aligned(size, mem->block_size))
		return error_usage("%s is not a multiple of the block size of '%s', %s",
				   size_format(size, text), mem->device.id,
				   size_format(mem->block_size, limit));
	if (size > mem->region->size)
		return error_usage("%s is more than the maximum of '%s', %s",
				   size_format(size, text), mem->device.id,
				   size_format(mem->region->size, limit));
	return NULL;
}

struct error *virtio_mem_create(const struct virtio_mem_options *options, struct memory_map *map,
				struct virtio_device **device)
{
	struct virtio_mem *mem = calloc(1, sizeof(*mem));
	struct error *error;

	if (!mem)
		return error_system(ENOMEM, "elastic memory '%s'", options->id);
	error = virtio_device_init(&mem->device, &mem_ops, mem_state, options->id, 1, QUEUE_SIZE);
	if (error) {
		free(mem);
		return error;
	}
	pthread_mutex_init(&mem->lock, NULL);
	mem->device.map = map;
	mem->device.features |= VIRTIO_FEATURE(F_ACPI_PXM) |
				VIRTIO_FEATURE(F_UNPLUGGED_INACCESSIBLE) |
				VIRTIO_FEATURE(F_PERSISTENT_SUSPEND);
	mem->region = options->region;
	mem->block_size = options->region->unit;
	mem->node = options->node;
	mem->reason = VIRTIO_MEM_READY;
	error = check_size(mem, options->requested);
	if (!error)
		error = event_timer_create(mem->device.loop, on_timer, mem, &mem->timer);
	if (error) {
		mem_destroy(&mem->device);
		return error;
	}
	mem->requested = options->requested;
	grow_usable(mem);
	*device = &mem->device;
	return NULL;
}

static void on_requested(void *context)
{
	struct virtio_mem *mem = context;
	bool tell;

	pthread_mutex_lock(&mem->lock);
	tell = mem->config_dirty && mem->driver && !mem->device.quiesced;
	if (tell)
		mem->config_dirty = false;
	pthread_mutex_unlock(&mem->lock);
	if (tell)
		virtio_device_config_changed(&mem->device);
	review(mem);
}

struct error *virtio_mem_request(struct virtio_device *device, uint64_t size)
{
	struct virtio_mem *mem = mem_of(device);

	TRY(check_size(mem, size));
	pthread_mutex_lock(&mem->lock);
	mem->requested = size;
	grow_usable(mem);
	mem->host_busy = false;
	mem->config_dirty = true;
	mem->last_heard_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&mem->lock);
	if (event_loop_post(device->loop, on_requested, mem))
		return error_system(ENOMEM, "cannot tell the guest of the new size of '%s'",
				    device->id);
	return NULL;
}

void virtio_mem_status(struct virtio_device *device, struct virtio_mem_status *status)
{
	struct virtio_mem *mem = mem_of(device);

	pthread_mutex_lock(&mem->lock);
	*status = (struct virtio_mem_status){.requested = mem->requested,
					     .plugged = mem->plugged,
					     .maximum = mem->region->size,
					     .block_size = mem->block_size,
					     .address = mem->region->address,
					     .node = mem->node,
					     .reason = judge(mem)};
	pthread_mutex_unlock(&mem->lock);
}

void virtio_mem_set_handler(struct virtio_device *device, void (*handler)(void *context),
			    void *context)
{
	struct virtio_mem *mem = mem_of(device);

	mem->handler = handler;
	mem->handler_context = context;
}
