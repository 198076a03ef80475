/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keeps events that a guest can repeat at will to one a second, as QEMU does (qapi/events: "Note:
 * rate-limited"): the first goes out at once, of those that follow within the second only the last,
 * when the second is over. Kept apart by event and subject ("id" or "qom-path" of the data).
 */
#ifndef GODWIT_CONTROL_EVENT_THROTTLE_H
#define GODWIT_CONTROL_EVENT_THROTTLE_H

#include <jansson.h>

#include "base/error.h"
#include "base/event_loop.h"

struct event_throttle;

/* Where events go; @event is borrowed. */
typedef void (*event_emitter)(void *context, json_t *event);

struct error *event_throttle_create(struct event_loop *loop, event_emitter emit, void *context,
				    struct event_throttle **throttle) MUST_CHECK;
/* Drops what is held back; accepts NULL. */
void event_throttle_destroy(struct event_throttle *throttle);
/* @data is borrowed and may be NULL. The time stamp is that of this call. */
void event_throttle_submit(struct event_throttle *throttle, const char *name, json_t *data);
/* Sends what is held back now: before the end. */
void event_throttle_flush(struct event_throttle *throttle);

#endif
