/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A back-end for disks in a process of its own, and a machine in front of it: a front-end of the library, guest
 * memory, and a driver of split and packed rings. A ring has 64 slots, each with room for a request
 * with 4 KiB of data.
 */
#ifndef GODWIT_TESTS_BLK_FRONT_H
#define GODWIT_TESTS_BLK_FRONT_H

#include "cmocka_prelude.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "blk/blk_request.h"
#include "blk_back_end/server.h"
#include "vhost_user/front_end.h"
#include "vhost_user/socket.h"

#define F_FLUSH	       (1ULL << 9)
#define F_CONFIG_WCE   (1ULL << 11)
#define F_DISCARD      (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)
#define F_INDIRECT     (1ULL << 28)
#define F_EVENT	       (1ULL << 29)
#define F_VERSION_1    (1ULL << 32)
#define F_PACKED       (1ULL << 34)

#define FRONT_LIMIT (60 * NS_PER_SECOND)
#define FRONT_RAM   MIB(4)
#define FRONT_USER  0x100000000ULL
#define RING_SIZE   256U
#define SLOTS	    64U /* of three descriptors at most */
#define RINGS_MAX   4U
#define DATA_SIZE   4096U

/* Where things are in the guest. */
#define RING_AT(index)	     ((index)*0x10000ULL)
#define RING_AVAILABLE	     0x2000U
#define RING_USED	     0x3000U
#define SLOT_AT(index, slot) (MIB(1) + ((index)*SLOTS + (slot)) * 0x2000ULL)
#define SLOT_STATUS	     512U
#define SLOT_DATA	     4096U

struct front_ring {
	int kick, call, error;
	uint16_t available, used; /* positions: split: count freely */
	bool available_wrap, used_wrap;
	bool busy[SLOTS];
	uint8_t count[SLOTS]; /* descriptors */
	uint16_t waiting;     /* slots that are busy */
};

struct front {
	pid_t child;
	char path[64], socket[80];
	int file; /* the disk, opened again */
	struct server_options options;
	struct vhost_user_front_end *front;
	struct vhost_user_memory *memory;
	int ram;
	uint8_t *bytes;
	uint64_t features;
	uint32_t queues;
	struct front_ring rings[RINGS_MAX];
	struct vhost_user_inflight inflight;
	int inflight_fd;
	int not_in_child; /* a descriptor that it closes; 0: none */
};

/* --- The back-end's process -------------------------------------------------------------------- */

static inline void front_start_process(struct front *front)
{
	pid_t parent = getpid();

	front->child = fork();
	assert_true(front->child >= 0);
	if (!front->child) {
		struct error *error;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(9);
		if (front->not_in_child)
			close(front->not_in_child);
		error = server_run(&front->options);
		if (error)
			fprintf(stderr, "back-end: %s\n", error_message(error));
		_exit(!!error);
	}
}

/* Returns how it ended, as of waitpid. */
static inline int front_end_process(struct front *front, int signal)
{
	int status;

	assert_int_equal(kill(front->child, signal), 0);
	assert_int_equal(waitpid(front->child, &status, 0), front->child);
	front->child = 0;
	return status;
}

/* --- The session ------------------------------------------------------------------------------- */

static inline void front_connect(struct front *front)
{
	struct vhost_user_front_end_options options = {
	    .name = "disk", .protocol = VHOST_USER_PROTOCOL_USUAL, .time_limit_ns = FRONT_LIMIT};
	int64_t deadline = clock_monotonic_ns() + FRONT_LIMIT;
	struct error *error;
	int fd;

	while ((error = vhost_user_connect(front->socket, deadline, &fd))) {
		assert_true(clock_monotonic_ns() < deadline);
		error_free(error);
		usleep(1000);
	}
	assert_no_error(vhost_user_front_end_open(fd, &options, &front->front));
}

/* Features, memory, the in-flight buffer: what is before the rings. */
static inline void front_begin_session(struct front *front)
{
	uint16_t queues = (uint16_t)front->queues;

	front_connect(front);
	assert_no_error(vhost_user_front_end_set_features(front->front, front->features));
	if (vhost_user_front_end_protocol(front->front) & VHOST_USER_PROTOCOL_INFLIGHT_SHMFD) {
		if (front->inflight_fd < 0)
			assert_no_error(vhost_user_front_end_get_inflight(
			    front->front, queues, RING_SIZE, &front->inflight,
			    &front->inflight_fd));
		assert_no_error(vhost_user_front_end_set_inflight(front->front, &front->inflight,
								  front->inflight_fd));
	}
	assert_no_error(vhost_user_front_end_begin_memory(front->front, front->memory));
}

static inline uint32_t ring_start_base(const struct front *front)
{
	return front->features & F_PACKED ? 0x80008000U : 0;
}

static inline void front_start_ring(struct front *front, uint32_t index, uint32_t base)
{
	struct front_ring *ring = &front->rings[index];
	struct vhost_user_ring_setup setup = {.size = RING_SIZE,
					      .base = base,
					      .descriptor = RING_AT(index),
					      .available = RING_AT(index) + RING_AVAILABLE,
					      .used = RING_AT(index) + RING_USED,
					      .kick = ring->kick,
					      .call = ring->call,
					      .error = ring->error};

	assert_no_error(vhost_user_front_end_start_ring(front->front, index, &setup));
	assert_no_error(vhost_user_front_end_enable_ring(front->front, index, true));
}

static inline void front_reset_ring(struct front *front, uint32_t index)
{
	struct front_ring *ring = &front->rings[index];

	memset(front->bytes + RING_AT(index), 0, 0x10000);
	ring->available = ring->used = ring->waiting = 0;
	ring->available_wrap = ring->used_wrap = true;
	memset(ring->busy, 0, sizeof(ring->busy));
}

static inline void front_prepare(struct front *front, uint64_t disk_size, uint64_t features,
				 uint32_t queues)
{
	strcpy(front->path, "/tmp/godwit-test-blk-XXXXXX");
	front->file = mkstemp(front->path);
	assert_true(front->file >= 0);
	assert_int_equal(ftruncate(front->file, (off_t)disk_size), 0);
	snprintf(front->socket, sizeof(front->socket), "%s.sock", front->path);
	front->options.listen = front->socket;
	front->options.fd = -1;
	front->options.slots = 0;
	front->options.disk.file.path = front->path;
	front->options.disk.file.lock = front->options.disk.file.later = true;
	front->options.disk.name = "disk";
	if (!front->options.disk.serial)
		front->options.disk.serial = "the serial";
	front->options.disk.queues = (uint16_t)queues;
	front->features = features | F_VERSION_1;
	front->queues = queues;
	front->inflight_fd = -1;
	front->ram = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(front->ram, FRONT_RAM), 0);
	front->bytes = mmap(NULL, FRONT_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, front->ram, 0);
	assert_true(front->bytes != MAP_FAILED);
	front->memory = vhost_user_memory_create();
	assert_non_null(front->memory);
	assert_no_error(vhost_user_memory_add_block(
	    front->memory,
	    &(struct vhost_user_block){{0, FRONT_RAM, FRONT_USER, 0}, front->ram, 0}));
	for (uint32_t i = 0; i < queues; i++) {
		front->rings[i].kick = eventfd(0, EFD_CLOEXEC);
		front->rings[i].call = eventfd(0, EFD_CLOEXEC);
		front->rings[i].error = eventfd(0, EFD_CLOEXEC);
		front_reset_ring(front, i);
	}
}

/* Everything, with a disk of @disk_size bytes. */
static inline void front_begin(struct front *front, uint64_t disk_size, uint64_t features,
			       uint32_t queues)
{
	front_prepare(front, disk_size, features, queues);
	front_start_process(front);
	front_begin_session(front);
	for (uint32_t i = 0; i < queues; i++)
		front_start_ring(front, i, ring_start_base(front));
}

static inline void front_end(struct front *front)
{
	vhost_user_front_end_close(front->front);
	if (front->child)
		assert_int_equal(front_end_process(front, SIGTERM), 0);
	vhost_user_memory_destroy(front->memory);
	munmap(front->bytes, FRONT_RAM);
	close(front->ram);
	close(front->file);
	if (front->inflight_fd >= 0)
		close(front->inflight_fd);
	for (uint32_t i = 0; i < front->queues; i++) {
		close(front->rings[i].kick);
		close(front->rings[i].call);
		close(front->rings[i].error);
	}
	unlink(front->path);
	unlink(front->socket);
}

/* --- The driver -------------------------------------------------------------------------------- */

static inline uint8_t *front_data(struct front *front, uint32_t index, uint32_t slot)
{
	return front->bytes + SLOT_AT(index, slot) + SLOT_DATA;
}

static inline uint8_t front_status(struct front *front, uint32_t index, uint32_t slot)
{
	return front->bytes[SLOT_AT(index, slot) + SLOT_STATUS];
}

struct front_buffer {
	uint64_t address;
	uint32_t size;
	bool writable;
};

/* Puts a chain of @count buffers (1 to 3) into the ring, as @slot's. */
static inline void front_put(struct front *front, uint32_t index, uint16_t slot,
			     const struct front_buffer *buffers, uint8_t count)
{
	struct front_ring *ring = &front->rings[index];
	uint8_t *table = front->bytes + RING_AT(index), *first = NULL;
	uint16_t first_flags = 0;

	assert_false(ring->busy[slot]);
	ring->busy[slot] = true;
	ring->count[slot] = count;
	ring->waiting++;
	for (uint8_t i = 0; i < count; i++) {
		bool packed = front->features & F_PACKED;
		uint16_t at = packed ? ring->available : (uint16_t)(3 * slot + i);
		uint16_t flags = (i + 1 < count) | (buffers[i].writable ? 2 : 0);
		uint8_t *entry = table + (size_t)16 * at;

		put_le64(entry, buffers[i].address);
		put_le32(entry + 8, buffers[i].size);
		if (!packed) {
			put_le16(entry + 12, flags);
			put_le16(entry + 14, (uint16_t)(at + 1));
			continue;
		}
		put_le16(entry + 12, slot);
		flags |= ring->available_wrap ? 0x80 : 0x8000;
		if (!first) {
			first = entry;
			first_flags = flags;
		} else {
			put_le16(entry + 14, flags);
		}
		if (++ring->available == RING_SIZE) {
			ring->available = 0;
			ring->available_wrap = !ring->available_wrap;
		}
	}
	if (first) {
		__atomic_store_n((uint16_t *)(void *)(first + 14), first_flags, __ATOMIC_RELEASE);
		return;
	}
	put_le16(table + RING_AVAILABLE + 4 + 2 * (ring->available % RING_SIZE),
		 (uint16_t)(3 * slot));
	ring->available++;
	__atomic_store_n((uint16_t *)(void *)(table + RING_AVAILABLE + 2), ring->available,
			 __ATOMIC_RELEASE);
}

/* A request with @size bytes of the slot's data. */
static inline void front_request(struct front *front, uint32_t index, uint16_t slot, uint32_t type,
				 uint64_t sector, uint32_t size)
{
	uint64_t at = SLOT_AT(index, slot);
	struct front_buffer buffers[3] = {{at, BLK_HEADER_SIZE, false}};
	uint8_t count = 1;

	put_le32(front->bytes + at, type);
	put_le32(front->bytes + at + 4, 0);
	put_le64(front->bytes + at + 8, sector);
	front->bytes[at + SLOT_STATUS] = 0xff;
	if (size)
		buffers[count++] = (struct front_buffer){at + SLOT_DATA, size,
							 type == BLK_T_IN || type == BLK_T_GET_ID};
	buffers[count++] = (struct front_buffer){at + SLOT_STATUS, 1, true};
	front_put(front, index, slot, buffers, count);
}

static inline void front_kick(struct front *front, uint32_t index)
{
	assert_int_equal(eventfd_write(front->rings[index].kick, 1), 0);
}

/* Takes one slot out of what the device has used; -1: there is nothing. */
static inline int front_reap(struct front *front, uint32_t index)
{
	struct front_ring *ring = &front->rings[index];
	uint8_t *table = front->bytes + RING_AT(index), *entry;
	uint32_t slot;

	if (front->features & F_PACKED) {
		uint16_t flags;

		entry = table + (size_t)16 * ring->used;
		flags = __atomic_load_n((uint16_t *)(void *)(entry + 14), __ATOMIC_ACQUIRE);
		if (!!(flags & 0x80) != ring->used_wrap || !!(flags & 0x8000) != ring->used_wrap)
			return -1;
		slot = get_le16(entry + 12);
		assert_true(slot < SLOTS);
		ring->used += ring->count[slot];
		if (ring->used >= RING_SIZE) {
			ring->used -= RING_SIZE;
			ring->used_wrap = !ring->used_wrap;
		}
	} else {
		if (__atomic_load_n((uint16_t *)(void *)(table + RING_USED + 2),
				    __ATOMIC_ACQUIRE) == ring->used)
			return -1;
		entry = table + RING_USED + 4 + 8 * (size_t)(ring->used % RING_SIZE);
		slot = get_le32(entry) / 3;
		assert_int_equal(get_le32(entry) % 3, 0);
		assert_true(slot < SLOTS);
		ring->used++;
	}
	/* Given back twice, or never given. */
	assert_true(ring->busy[slot]);
	ring->busy[slot] = false;
	ring->waiting--;
	return (int)slot;
}

/* Waits at most @limit_ms for an interrupt. */
static inline void front_wait(struct front *front, uint32_t index, int limit_ms)
{
	struct pollfd item = {front->rings[index].call, POLLIN, 0};
	eventfd_t count;

	if (poll(&item, 1, limit_ms) > 0)
		assert_int_equal(eventfd_read(front->rings[index].call, &count), 0);
}

/* Waits until the device says that a ring is malformed. */
static inline void front_wait_broken(struct front *front, uint32_t index)
{
	struct pollfd item = {front->rings[index].error, POLLIN, 0};

	assert_int_equal(poll(&item, 1, FRONT_LIMIT / NS_PER_MS), 1);
}

static inline uint16_t front_finish(struct front *front, uint32_t index)
{
	int64_t deadline = clock_monotonic_ns() + FRONT_LIMIT;
	int slot;

	while ((slot = front_reap(front, index)) < 0) {
		assert_true(clock_monotonic_ns() < deadline);
		front_wait(front, index, 1000);
	}
	return (uint16_t)slot;
}

/* One request, on slot 0; returns its status. */
static inline uint8_t front_do(struct front *front, uint32_t index, uint32_t type, uint64_t sector,
			       uint32_t size)
{
	front_request(front, index, 0, type, sector, size);
	front_kick(front, index);
	assert_int_equal(front_finish(front, index), 0);
	return front_status(front, index, 0);
}

#endif
