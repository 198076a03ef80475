/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Elastic memory that follows the guest's need (--elastic …,auto=MIN..MAX): asks the balloon device
 * for the guest's statistics, lets auto_policy.h decide, requests sizes of the automatic virtio-mem
 * devices, and tells about it.
 *
 * Everything here belongs to the machine's main loop, on which a timer runs it.
 */
#ifndef GODWIT_MACHINE_AUTO_MEMORY_H
#define GODWIT_MACHINE_AUTO_MEMORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "virtio/virtio_device.h"

struct auto_memory;

struct auto_memory_device {
	struct virtio_device *device; /* virtio-mem */
	uint64_t minimum, maximum;    /* bytes, multiples of its block size */
};

struct auto_memory_options {
	struct event_loop *loop;
	struct virtio_device *balloon;
	const struct auto_memory_device *devices; /* copied */
	uint32_t count;
	uint64_t boot; /* bytes of memory that the guest has without elastic devices */
	/*
	 * Called for every decision that changes a request, and when growth that is needed becomes
	 * impossible:
	 * @decision is borrowed, {action, reason, before, after, used, available, total, wanted,
	 * devices: [{id, size}]}, bytes; action is "grow", "shrink" or "hold". For the event
	 * ELASTIC_AUTO_DECISION.
	 */
	void (*handler)(void *context, json_t *decision);
	void *context;
};

/* Starts following. The devices must outlive the result. The balloon's polling interval is set to a
 * second. */
struct error *auto_memory_create(const struct auto_memory_options *options,
				 struct auto_memory **result) MUST_CHECK;
/* Accepts NULL. */
void auto_memory_destroy(struct auto_memory *memory);
/* Stops deciding while the guest does not run; old numbers do not count afterwards. Accepts NULL.
 */
void auto_memory_pause(struct auto_memory *memory, bool paused);
#endif
