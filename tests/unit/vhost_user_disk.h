/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk of a few sectors whose work is done by a back-end on a thread of its own, which listens at a
 * socket, serves one front-end after the other, and dies, hangs or lies when a test tells it to.
 */
#ifndef GODWIT_TESTS_VHOST_USER_DISK_H
#define GODWIT_TESTS_VHOST_USER_DISK_H

#include "cmocka_prelude.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "vhost_user/back_end.h"
#include "vhost_user/inflight.h"
#include "vhost_user/socket.h"

#define DISK_RINGS   4
#define DISK_ENTRIES 256
#define DISK_SECTORS 64
#define DISK_WAIT_MS 20000

struct disk_ring {
	bool running;
	uint16_t next; /* in the available ring */
	uint16_t again[DISK_ENTRIES], again_count;
	struct vhost_user_inflight_queue inflight;
	bool inflight_begun;
};

struct disk {
	char folder[40], path[64];
	struct vhost_user_back_end_options options; /* may be changed before disk_listen */
	uint8_t config[60], image[DISK_SECTORS][512];
	int listener, wake;
	bool connects; /* to the front-end's socket, each time that it has no session */
	pthread_t thread;
	struct vhost_user_back_end *back;
	struct disk_ring rings[DISK_RINGS];
	char ended[256]; /* why the last session has ended */
	/* Atomic. */
	bool stop, die, change;
	bool hold;     /* requests are taken and not done */
	bool mark_all; /* pages that were written, and all others */
	unsigned int sessions, requests, taken;
	uint64_t features;
};

static inline struct error *disk_features(void *context, uint64_t features)
{
	struct disk *disk = context;

	__atomic_store_n(&disk->features, features, __ATOMIC_RELEASE);
	return NULL;
}

static inline struct error *disk_get_config(void *context, uint32_t offset, uint32_t size,
					    uint8_t *bytes)
{
	struct disk *disk = context;

	if (!range_contains(0, sizeof(disk->config), offset, size))
		return error_new(EINVAL, "outside");
	memcpy(bytes, disk->config + offset, size);
	return NULL;
}

static inline struct error *disk_set_config(void *context, uint32_t offset, uint32_t size,
					    const uint8_t *bytes, bool migration)
{
	struct disk *disk = context;

	if (offset != 32 || size != 1)
		return error_new(EACCES, "read-only");
	disk->config[32] = bytes[0];
	return NULL;
}

static inline struct error *disk_start_ring(void *context, uint32_t index)
{
	struct disk *disk = context;
	struct disk_ring *ring = &disk->rings[index];
	const struct vhost_user_back_end_ring *info = vhost_user_back_end_ring(disk->back, index);
	size_t size;
	void *bytes = vhost_user_back_end_inflight(disk->back, index, &size);

	*ring = (struct disk_ring){.running = true, .next = (uint16_t)info->base};
	if (!bytes)
		return NULL;
	TRY(vhost_user_inflight_begin_split(&ring->inflight, bytes, DISK_ENTRIES,
					    get_le16((uint8_t *)info->used + 2), ring->again,
					    &ring->again_count));
	ring->next = (uint16_t)(ring->next + ring->again_count);
	ring->inflight_begun = true;
	return NULL;
}

static inline struct error *disk_stop_ring(void *context, uint32_t index, uint32_t *base)
{
	struct disk *disk = context;

	disk->rings[index].running = false;
	*base = disk->rings[index].next;
	return NULL;
}

static const struct vhost_user_back_end_ops disk_ops = {
    .set_features = disk_features,
    .get_config = disk_get_config,
    .set_config = disk_set_config,
    .start_ring = disk_start_ring,
    .stop_ring = disk_stop_ring,
};

/* A read (0) or write (1) of one sector: header, data, status. */
static inline void disk_execute(struct disk *disk, uint32_t index, uint16_t head)
{
	const struct vhost_user_back_end_ring *info = vhost_user_back_end_ring(disk->back, index);
	struct disk_ring *ring = &disk->rings[index];
	uint8_t *descriptors = info->descriptor, *used = info->used, *parts[3];
	uint16_t entry = head, used_index = get_le16(used + 2);
	uint32_t type;
	uint64_t sector, at[3];

	for (int i = 0; i < 3; i++) {
		uint8_t *raw = descriptors + entry % info->size * 16;

		at[i] = get_le64(raw);
		parts[i] = vhost_user_back_end_guest(disk->back, get_le64(raw), get_le32(raw + 8));
		assert_non_null(parts[i]);
		entry = get_le16(raw + 14);
	}
	type = get_le32(parts[0]);
	sector = get_le64(parts[0] + 8);
	*parts[2] = sector >= DISK_SECTORS;
	if (sector < DISK_SECTORS && type)
		memcpy(disk->image[sector], parts[1], 512);
	else if (sector < DISK_SECTORS)
		memcpy(parts[1], disk->image[sector], 512);
	for (int i = type ? 2 : 1; i < 3; i++)
		vhost_user_back_end_wrote(disk->back, at[i], i == 1 ? 512 : 1);
	if (__atomic_load_n(&disk->mark_all, __ATOMIC_ACQUIRE))
		vhost_user_back_end_wrote(disk->back, 0, UINT64_MAX);
	if (ring->inflight_begun)
		vhost_user_inflight_give_split(&ring->inflight, head);
	put_le32(used + 4 + used_index % info->size * 8, head);
	put_le32(used + 8 + used_index % info->size * 8, 513);
	used_index++;
	__atomic_store_n((uint16_t *)(void *)(used + 2), htole16(used_index), __ATOMIC_RELEASE);
	vhost_user_back_end_wrote_used(disk->back, index, 0, 4 + info->size * 8);
	if (ring->inflight_begun)
		vhost_user_inflight_gave_split(&ring->inflight, &head, 1, used_index);
	__atomic_fetch_add(&disk->requests, 1, __ATOMIC_RELAXED);
	vhost_user_back_end_call(disk->back, index);
}

static inline void disk_serve_ring(struct disk *disk, uint32_t index)
{
	const struct vhost_user_back_end_ring *info = vhost_user_back_end_ring(disk->back, index);
	struct disk_ring *ring = &disk->rings[index];
	const uint8_t *available = info->available;

	if (!ring->running || !info->enabled)
		return;
	for (uint16_t i = 0; i < ring->again_count; i++)
		disk_execute(disk, index, ring->again[i]);
	ring->again_count = 0;
	while (le16toh(__atomic_load_n((const uint16_t *)(const void *)(available + 2),
				       __ATOMIC_ACQUIRE)) != ring->next) {
		uint16_t head = get_le16(available + 4 + ring->next++ % info->size * 2);

		if (ring->inflight_begun)
			vhost_user_inflight_take_split(&ring->inflight, head);
		__atomic_fetch_add(&disk->taken, 1, __ATOMIC_RELEASE);
		if (!__atomic_load_n(&disk->hold, __ATOMIC_ACQUIRE))
			disk_execute(disk, index, head);
	}
}

static inline void disk_hang_up(struct disk *disk, struct error *error)
{
	snprintf(disk->ended, sizeof(disk->ended), "%s", error ? error_message(error) : "told to");
	error_free(error);
	vhost_user_back_end_close(TAKE_PTR(disk->back));
	memset(disk->rings, 0, sizeof(disk->rings));
}

static inline void disk_accept(struct disk *disk)
{
	struct error *error;
	int fd = -1;

	if (disk->connects)
		error_free(
		    vhost_user_connect(disk->path, clock_monotonic_ns() + NS_PER_SECOND, &fd));
	else
		assert_no_error(vhost_user_accept(disk->listener, 0, &fd));
	if (fd < 0)
		return;
	error = vhost_user_back_end_open(fd, &disk->options, &disk->back);
	assert_no_error(error);
	__atomic_fetch_add(&disk->sessions, 1, __ATOMIC_RELEASE);
}

/* One round: waits for anything, and does it. */
static inline void disk_turn(struct disk *disk)
{
	struct pollfd items[2 + DISK_RINGS];
	uint64_t count;

	items[0] = (struct pollfd){disk->wake, POLLIN, 0};
	items[1] = (struct pollfd){disk->back ? vhost_user_back_end_fd(disk->back) : disk->listener,
				   POLLIN, 0};
	for (uint32_t i = 0; i < DISK_RINGS; i++)
		items[2 + i] = (struct pollfd){
		    disk->rings[i].running ? vhost_user_back_end_ring(disk->back, i)->kick : -1,
		    POLLIN, 0};
	assert_true(poll(items, ARRAY_SIZE(items), disk->connects ? 20 : -1) >= 0);
	if (items[0].revents && read(disk->wake, &count, sizeof(count)) < 0)
		return;
	if (__atomic_exchange_n(&disk->die, false, __ATOMIC_ACQ_REL) && disk->back)
		disk_hang_up(disk, NULL);
	else if ((items[1].revents || disk->connects) && !disk->back)
		disk_accept(disk);
	else if (items[1].revents) {
		struct error *error = vhost_user_back_end_process(disk->back);

		if (error)
			disk_hang_up(disk, error);
	}
	if (disk->back && __atomic_exchange_n(&disk->change, false, __ATOMIC_ACQ_REL))
		assert_no_error(vhost_user_back_end_config_changed(disk->back));
	for (uint32_t i = 0; i < DISK_RINGS && disk->back; i++) {
		if (!disk->rings[i].running)
			continue;
		if (items[2 + i].revents &&
		    read(vhost_user_back_end_ring(disk->back, i)->kick, &count, sizeof(count)) < 0)
			continue;
		disk_serve_ring(disk, i);
	}
}

static inline void *disk_run(void *context)
{
	struct disk *disk = context;

	while (!__atomic_load_n(&disk->stop, __ATOMIC_ACQUIRE))
		disk_turn(disk);
	if (disk->back)
		disk_hang_up(disk, NULL);
	return NULL;
}

/* Prepares a disk; nobody listens yet. */
static inline void disk_prepare(struct disk *disk)
{
	*disk = (struct disk){.listener = -1, .wake = -1};
	strcpy(disk->folder, "/tmp/godwit-disk-XXXXXX");
	assert_non_null(mkdtemp(disk->folder));
	snprintf(disk->path, sizeof(disk->path), "%s/socket", disk->folder);
	put_le64(disk->config, DISK_SECTORS);
	put_le16(disk->config + 34, 9); /* queues, of which a driver is to see its own number */
	for (int i = 0; i < DISK_SECTORS; i++)
		memset(disk->image[i], i + 1, 512);
	disk->options = (struct vhost_user_back_end_options){
	    .features = 1ULL << 32 | 1ULL << 34 | 1ULL << 28 | 1ULL << 12 | 1ULL << 9,
	    .protocol = VHOST_USER_PROTOCOL_KNOWN,
	    .queues = DISK_RINGS,
	    .queue_size = DISK_ENTRIES,
	    .time_limit_ns = 5 * NS_PER_SECOND,
	    .ops = &disk_ops,
	    .context = disk};
}

static inline void disk_listen(struct disk *disk)
{
	disk->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(disk->wake >= 0);
	if (!disk->connects)
		assert_no_error(vhost_user_listen(disk->path, &disk->listener));
	assert_int_equal(pthread_create(&disk->thread, NULL, disk_run, disk), 0);
}

static inline void disk_wake(struct disk *disk)
{
	const uint64_t one = 1;

	assert_int_equal(write(disk->wake, &one, sizeof(one)), sizeof(one));
}

/* As if the process died: it hangs up at once. The socket goes on listening. */
static inline void disk_die(struct disk *disk)
{
	__atomic_store_n(&disk->die, true, __ATOMIC_RELEASE);
	disk_wake(disk);
}

static inline void disk_change_config(struct disk *disk)
{
	__atomic_store_n(&disk->change, true, __ATOMIC_RELEASE);
	disk_wake(disk);
}

/* Waits until @counter, which the disk counts up, is at least @value. */
static inline void disk_wait(const unsigned int *counter, unsigned int value)
{
	for (int i = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value; i++) {
		assert_true(i < DISK_WAIT_MS);
		usleep(1000);
	}
}

/* Also when it has never listened. */
static inline void disk_end(struct disk *disk)
{
	if (disk->wake >= 0) {
		__atomic_store_n(&disk->stop, true, __ATOMIC_RELEASE);
		disk_wake(disk);
		pthread_join(disk->thread, NULL);
		if (disk->listener >= 0)
			close(disk->listener);
		close(disk->wake);
	}
	unlink(disk->path);
	rmdir(disk->folder);
}

#endif
