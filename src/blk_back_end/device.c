/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device of device.h. Runs on the main thread. The front-end controls what it asks for and in what order,
 * as far as the session lets it (vhost_user/back_end.h), configuration writes and the state that it loads.
 */
#include "blk_back_end/device.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "base/state.h"
#include "blk_back_end/queue.h"

#define LOCK_RETRY_NS  (20 * NS_PER_MS)
#define LOCK_TELL_NS   NS_PER_SECOND
#define STATE_LIMIT_NS (5 * NS_PER_SECOND) /* for a state of some bytes */
#define STATE_MAX      4096U
#define STATE_VERSION  1U

/* Of virtio, beside the disk's: version 1, indirect tables, event indexes, packed rings. */
#define FEATURES (1ULL << 28 | 1ULL << 29 | 1ULL << 32 | 1ULL << 34)

#define PROTOCOL                                                                                   \
	(VHOST_USER_PROTOCOL_MQ | VHOST_USER_PROTOCOL_LOG_SHMFD | VHOST_USER_PROTOCOL_REPLY_ACK |  \
	 VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_PAGEFAULT |                         \
	 VHOST_USER_PROTOCOL_CONFIG | VHOST_USER_PROTOCOL_INFLIGHT_SHMFD |                         \
	 VHOST_USER_PROTOCOL_RESET_DEVICE | VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS |              \
	 VHOST_USER_PROTOCOL_STATUS | VHOST_USER_PROTOCOL_DEVICE_STATE)

/* --- The lock of the session ------------------------------------------------------------------- */

static void lock(struct blk_device *device)
{
	pthread_rwlock_wrlock(&device->session_lock);
}

static void unlock(struct blk_device *device)
{
	pthread_rwlock_unlock(&device->session_lock);
	for (uint16_t i = 0; i < device->disk.queues; i++)
		if (__atomic_exchange_n(&device->queues[i].missed, false, __ATOMIC_SEQ_CST))
			blk_back_queue_wake(&device->queues[i]);
}

/* --- The lock of the disk ---------------------------------------------------------------------- */

static void try_lock_disk(void *context)
{
	struct blk_device *device = context;
	struct error *error = blk_file_lock(&device->disk.file);

	if (error) {
		if (!device->lock_waited_ns)
			device->lock_waited_ns = clock_monotonic_ns();
		if (device->lock_waited_ns > 0 &&
		    clock_monotonic_ns() - device->lock_waited_ns > LOCK_TELL_NS) {
			log_warning("%s; the guest's requests wait for it", error_message(error));
			device->lock_waited_ns = -1;
		}
		error_free(error);
		event_timer_arm(device->lock_timer, LOCK_RETRY_NS);
		return;
	}
	device->lock_waited_ns = 0;
	__atomic_store_n(&device->locked, true, __ATOMIC_SEQ_CST);
	for (uint16_t i = 0; i < device->disk.queues; i++)
		blk_back_queue_wake(&device->queues[i]);
}

static void unlock_disk(struct blk_device *device)
{
	event_timer_cancel(device->lock_timer);
	device->lock_waited_ns = 0;
	if (device->locked)
		blk_file_unlock(&device->disk.file);
	__atomic_store_n(&device->locked, false, __ATOMIC_SEQ_CST);
}

/* --- What the session asks --------------------------------------------------------------------- */

static struct error *set_features(void *context, uint64_t features)
{
	struct blk_device *device = context;
	uint8_t writeback = device->disk.writeback;

	/* Said again when the log goes on and off: then the cache mode stays as the driver set it. */
	if (features == device->features)
		return NULL;
	device->features = features;
	blk_disk_accept(&device->disk, features);
	/* Where a state is loaded first, it has what the driver chose. */
	if (device->loaded)
		blk_disk_write_config(&device->disk, features, BLK_CONFIG_WRITEBACK, &writeback, 1);
	device->loaded = false;
	return NULL;
}

static struct error *get_config(void *context, uint32_t offset, uint32_t size, uint8_t *bytes)
{
	const struct blk_device *device = context;
	uint32_t there = offset < BLK_CONFIG_SIZE ? MIN(size, BLK_CONFIG_SIZE - offset) : 0;

	memset(bytes, 0, size);
	if (there)
		blk_disk_read_config(&device->disk, offset, bytes, there);
	return NULL;
}

static struct error *set_config(void *context, uint32_t offset, uint32_t size, const uint8_t *bytes,
				bool migration)
{
	struct blk_device *device = context;

	if (!range_contains(0, BLK_CONFIG_SIZE, offset, size))
		return error_new(EINVAL,
				 "%" PRIu32 " bytes at %" PRIu32
				 " are not in the configuration space of a disk",
				 size, offset);
	blk_disk_write_config(&device->disk, device->features, offset, bytes, size);
	return NULL;
}

static struct error *start_ring(void *context, uint32_t ring)
{
	struct blk_device *device = context;

	TRY(blk_back_queue_start(&device->queues[ring]));
	if (!device->running++)
		try_lock_disk(device);
	return NULL;
}

static void enable_ring(void *context, uint32_t ring, bool enabled)
{
	struct blk_back_queue *queue = &((struct blk_device *)context)->queues[ring];

	__atomic_store_n(&queue->enabled, enabled, __ATOMIC_SEQ_CST);
	__atomic_store_n(&queue->missed, true, __ATOMIC_SEQ_CST);
}

static struct error *stop_ring(void *context, uint32_t ring, uint32_t *base)
{
	struct blk_device *device = context;

	blk_back_queue_stop(&device->queues[ring], base);
	if (!--device->running)
		unlock_disk(device);
	return NULL;
}

static void memory_goes(void *context, uint64_t guest_address, uint64_t size)
{
	struct blk_device *device = context;

	for (uint16_t i = 0; i < device->disk.queues; i++)
		blk_back_queue_leave(&device->queues[i], guest_address, size);
}

static void reset(void *context)
{
	struct blk_device *device = context;

	device->features = 0;
	device->loaded = false;
	blk_disk_accept(&device->disk, 0);
	for (uint16_t i = 0; i < device->disk.queues; i++)
		__atomic_store_n(&device->queues[i].enabled, false, __ATOMIC_SEQ_CST);
}

/* --- State ------------------------------------------------------------------------------------- */

static struct error *wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd item = {fd, events, 0};
	int64_t left = deadline - clock_monotonic_ns();
	int ready = poll(&item, 1, left > 0 ? (int)(left / NS_PER_MS) + 1 : 0);

	if (ready < 0 && errno != EINTR)
		return error_system(errno, "the disk's state");
	return ready || left > 0 ? NULL : error_new(ETIMEDOUT, "the disk's state does not move");
}

static struct error *save_state(struct blk_device *device, int fd)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	int64_t deadline = clock_monotonic_ns() + STATE_LIMIT_NS;
	const uint8_t *bytes;
	size_t size, sent = 0;

	blk_disk_state(&device->disk, device->features, state);
	TRY(state_finish(state));
	bytes = state_bytes(state, &size);
	while (sent < size) {
		ssize_t count;

		TRY(wait_for(fd, POLLOUT, deadline));
		count = write(fd, bytes + sent, size - sent);
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return error_system(errno, "the disk's state");
		sent += count > 0 ? (size_t)count : 0;
	}
	return NULL;
}

static struct error *load_state(struct blk_device *device, int fd)
{
	int64_t deadline = clock_monotonic_ns() + STATE_LIMIT_NS;
	AUTO_STATE struct state *state = NULL;
	uint8_t bytes[STATE_MAX];
	size_t have = 0;
	ssize_t count;

	do {
		TRY(wait_for(fd, POLLIN, deadline));
		count = read(fd, bytes + have, sizeof(bytes) - have);
		if (count < 0 && errno != EINTR && errno != EAGAIN)
			return error_system(errno, "the disk's state");
		have += count > 0 ? (size_t)count : 0;
		if (have == sizeof(bytes))
			return error_new(EPROTO, "the disk's state has %u bytes or more",
					 STATE_MAX);
	} while (count);
	state = state_load_begin(bytes, have, STATE_VERSION);
	blk_disk_state(&device->disk, device->features, state);
	return state_finish(state);
}

/*
 * A state fits into any pipe and is saved at once. What is to be loaded comes after the answer to this
 * request: it is read when the front-end asks whether it worked.
 */
static struct error *transfer_state(void *context, bool save, int fd)
{
	struct blk_device *device = context;
	AUTO_CLOSE int owned = fd;

	close_fd(&device->load_fd);
	if (!save) {
		device->load_fd = TAKE_FD(owned);
		return NULL;
	}
	return save_state(device, owned);
}

static struct error *check_state(void *context)
{
	struct blk_device *device = context;
	struct error *error;

	if (device->load_fd < 0)
		return NULL;
	error = load_state(device, device->load_fd);
	close_fd(&device->load_fd);
	device->loaded = !error;
	if (error)
		log_error("disk '%s': %s", device->disk.name, error_message(error));
	return error;
}

/* --- The session ------------------------------------------------------------------------------- */

static const struct vhost_user_back_end_ops back_end_ops = {
    .set_features = set_features,
    .get_config = get_config,
    .set_config = set_config,
    .start_ring = start_ring,
    .enable_ring = enable_ring,
    .stop_ring = stop_ring,
    .memory_goes = memory_goes,
    .transfer_state = transfer_state,
    .check_state = check_state,
    .reset = reset,
};

struct error *blk_device_open(struct blk_device *device, int fd, uint32_t slots)
{
	struct vhost_user_back_end_options options = {
	    .features = FEATURES | device->disk.features,
	    .protocol = PROTOCOL,
	    .queues = device->disk.queues,
	    .queue_size = BLK_DEVICE_RING_MAX,
	    .slots = slots,
	    .time_limit_ns = 5 * NS_PER_SECOND,
	    .ops = &back_end_ops,
	    .context = device,
	};

	reset(device);
	return vhost_user_back_end_open(fd, &options, &device->back);
}

struct error *blk_device_process(struct blk_device *device)
{
	struct error *error;

	lock(device);
	error = vhost_user_back_end_process(device->back);
	unlock(device);
	return error;
}

bool blk_device_is_stuck(const struct blk_device *device)
{
	return device->back && device->running && vhost_user_back_end_in_postcopy(device->back);
}

void blk_device_close(struct blk_device *device)
{
	if (!device->back)
		return;
	lock(device);
	vhost_user_back_end_close(device->back);
	device->back = NULL;
	unlock(device);
	close_fd(&device->load_fd);
}

static struct error *make_session_lock(struct blk_device *device)
{
	pthread_rwlockattr_t attributes;
	int status;

	/* Otherwise queues that always have something to do would keep the front-end waiting. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	status = pthread_rwlock_init(&device->session_lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	device->session_lock_made = !status;
	return status ? error_system(status, "a lock") : NULL;
}

struct error *blk_device_create(struct blk_device *device, const struct blk_disk_options *options,
				struct event_loop *loop)
{
	*device = (struct blk_device){.loop = loop, .disk.file.fd = -1, .load_fd = -1};
	TRY(make_session_lock(device));
	TRY(event_timer_create(loop, try_lock_disk, device, &device->lock_timer));
	TRY(blk_disk_open(&device->disk, options));
	device->queues = calloc(options->queues, sizeof(*device->queues));
	if (!device->queues)
		return error_system(ENOMEM, "disk '%s'", options->file.path);
	for (uint16_t i = 0; i < options->queues; i++)
		device->queues[i].engine.ring.event_fd = -1;
	for (uint16_t i = 0; i < options->queues; i++)
		TRY(blk_back_queue_create(&device->queues[i], device, i));
	return NULL;
}

void blk_device_destroy(struct blk_device *device)
{
	for (uint16_t i = 0; device->queues && i < device->disk.queues; i++)
		blk_back_queue_destroy(&device->queues[i]);
	free(device->queues);
	event_timer_destroy(device->lock_timer);
	blk_disk_close(&device->disk);
	if (device->session_lock_made)
		pthread_rwlock_destroy(&device->session_lock);
	close_fd(&device->load_fd);
	*device = (struct blk_device){.disk.file.fd = -1, .load_fd = -1};
}
