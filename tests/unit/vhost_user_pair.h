/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both ends of vhost-user against each other: a front-end in the test's thread, and a device on a
 * thread of its own that notes what it is told. Descriptors are counted, so that a test can say that none is left.
 */
#ifndef GODWIT_TESTS_VHOST_USER_PAIR_H
#define GODWIT_TESTS_VHOST_USER_PAIR_H

#include "cmocka_prelude.h"

#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "vhost_user/back_end.h"
#include "vhost_user/front_end.h"

/* Descriptors that this process has open. */
static inline unsigned int open_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static inline int memory_file(uint64_t size)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

struct device {
	struct vhost_user_back_end *back;
	pthread_t thread;
	char ended[256]; /* why its session has ended */
	uint8_t config[64];
	uint64_t features;
	uint32_t started, stopped, enabled, gone, reset;
	uint8_t status;
	char state[64]; /* saved, or loaded */
	bool refuse_ring, state_failed;
	uint32_t base; /* of a ring that stops */
};

static inline struct error *device_features(void *context, uint64_t features)
{
	((struct device *)context)->features = features;
	return NULL;
}

static inline struct error *device_get_config(void *context, uint32_t offset, uint32_t size,
					      uint8_t *bytes)
{
	struct device *device = context;

	if (!range_contains(0, sizeof(device->config), offset, size))
		return error_new(EINVAL, "outside");
	memcpy(bytes, device->config + offset, size);
	return NULL;
}

static inline struct error *device_set_config(void *context, uint32_t offset, uint32_t size,
					      const uint8_t *bytes, bool migration)
{
	struct device *device = context;

	if (!range_contains(0, sizeof(device->config), offset, size) || (!offset && !migration))
		return error_new(EACCES, "read-only");
	memcpy(device->config + offset, bytes, size);
	return NULL;
}

static inline struct error *device_start(void *context, uint32_t ring)
{
	struct device *device = context;

	if (device->refuse_ring)
		return error_new(EBUSY, "not now");
	device->started++;
	return NULL;
}

static inline struct error *device_stop(void *context, uint32_t ring, uint32_t *base)
{
	struct device *device = context;

	device->stopped++;
	*base = device->base + ring;
	return NULL;
}

static inline void device_enable(void *context, uint32_t ring, bool enabled)
{
	struct device *device = context;

	device->enabled += enabled ? 1 : -1;
}

static inline void device_memory_goes(void *context, uint64_t address, uint64_t size)
{
	((struct device *)context)->gone += !!size;
}

static inline struct error *device_transfer(void *context, bool save, int fd)
{
	struct device *device = context;
	ssize_t count = save ? write(fd, device->state, sizeof(device->state))
			     : read(fd, device->state, sizeof(device->state));

	close(fd);
	return count < 0 ? error_system(errno, "state") : NULL;
}

static inline struct error *device_check(void *context)
{
	return ((struct device *)context)->state_failed ? error_new(EIO, "failed") : NULL;
}

static inline void device_status(void *context, uint8_t status)
{
	((struct device *)context)->status = status;
}

static inline void device_reset(void *context)
{
	((struct device *)context)->reset++;
}

static inline void device_kicked(void *context, uint32_t ring)
{
}

static const struct vhost_user_back_end_ops device_ops = {
    .set_features = device_features,
    .get_config = device_get_config,
    .set_config = device_set_config,
    .start_ring = device_start,
    .stop_ring = device_stop,
    .enable_ring = device_enable,
    .memory_goes = device_memory_goes,
    .transfer_state = device_transfer,
    .check_state = device_check,
    .set_status = device_status,
    .reset = device_reset,
    .ring_kicked = device_kicked,
};

static inline struct vhost_user_back_end_options device_options(struct device *device)
{
	return (struct vhost_user_back_end_options){.features = 1ULL << 32 | 1ULL << 34 | 1,
						    .protocol = VHOST_USER_PROTOCOL_KNOWN,
						    .queues = 4,
						    .queue_size = 1024,
						    .time_limit_ns = 60 * NS_PER_SECOND,
						    .ops = &device_ops,
						    .context = device};
}

/* Handles requests until the session ends. */
static inline void *device_run(void *context)
{
	struct device *device = context;
	struct error *error = NULL;

	while (!error) {
		struct pollfd item = {vhost_user_back_end_fd(device->back), POLLIN, 0};

		if (poll(&item, 1, -1) < 0)
			break;
		error = vhost_user_back_end_process(device->back);
	}
	if (error)
		snprintf(device->ended, sizeof(device->ended), "%s", error_message(error));
	error_free(error);
	vhost_user_back_end_close(device->back);
	device->back = NULL;
	return NULL;
}

/* A device at @fd. */
static inline void device_begin(struct device *device, int fd,
				const struct vhost_user_back_end_options *options)
{
	assert_no_error(vhost_user_back_end_open(fd, options, &device->back));
	assert_int_equal(pthread_create(&device->thread, NULL, device_run, device), 0);
}

static inline void make_pair(int ends[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

static inline struct vhost_user_front_end_options front_options(void)
{
	return (struct vhost_user_front_end_options){.name = "it",
						     .protocol = VHOST_USER_PROTOCOL_USUAL,
						     .time_limit_ns = 60 * NS_PER_SECOND};
}

#define RAM_SIZE  MIB(4)
#define RAM_USER  0x100000000ULL
#define HOT_GUEST MIB(1024)
#define HOT_SIZE  MIB(64)
#define HOT_USER  0x200000000ULL
#define HOT_UNIT  MIB(2)

struct pair {
	struct device device;
	struct vhost_user_front_end *front;
	struct vhost_user_memory *memory;
	int ram, hot;
	unsigned int descriptors; /* open before */
};

/* A machine with fixed memory at 0 and elastic memory at HOT_GUEST, nothing of that plugged. */
static inline struct vhost_user_memory *machine_memory(int ram, int hot)
{
	struct vhost_user_memory *memory = vhost_user_memory_create();

	assert_non_null(memory);
	assert_no_error(vhost_user_memory_add_block(
	    memory, &(struct vhost_user_block){{0, RAM_SIZE, RAM_USER, 0}, ram, 0}));
	assert_no_error(vhost_user_memory_add_block(
	    memory, &(struct vhost_user_block){{HOT_GUEST, HOT_SIZE, HOT_USER, 0}, hot, HOT_UNIT}));
	return memory;
}

/* Options may be NULL: the usual ones. */
static inline void pair_begin(struct pair *pair, const struct vhost_user_front_end_options *front,
			      const struct vhost_user_back_end_options *back)
{
	struct vhost_user_front_end_options usual_front = front_options();
	struct vhost_user_back_end_options usual_back =
	    back ? *back : device_options(&pair->device);
	int ends[2];

	pair->descriptors = open_descriptors();
	pair->ram = memory_file(RAM_SIZE);
	pair->hot = memory_file(HOT_SIZE);
	pair->memory = machine_memory(pair->ram, pair->hot);
	make_pair(ends);
	usual_back.context = &pair->device;
	device_begin(&pair->device, ends[1], &usual_back);
	assert_no_error(
	    vhost_user_front_end_open(ends[0], front ? front : &usual_front, &pair->front));
}

/* Hangs up; then nothing is left open. */
static inline void pair_end(struct pair *pair)
{
	vhost_user_front_end_close(pair->front);
	pthread_join(pair->device.thread, NULL);
	vhost_user_memory_destroy(pair->memory);
	close(pair->ram);
	close(pair->hot);
	assert_int_equal(open_descriptors(), pair->descriptors);
}

#endif
