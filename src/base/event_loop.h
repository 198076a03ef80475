/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An event loop: one thread waits for file descriptors, timers and calls posted by other threads.
 *
 * Everything but event_loop_post, event_loop_call and event_loop_stop is for the loop's own thread,
 * or for before it runs. Handlers run on the loop's thread, one at a time. A source may be removed
 * from any handler, its own included: it will not be called again.
 */
#ifndef GODWIT_BASE_EVENT_LOOP_H
#define GODWIT_BASE_EVENT_LOOP_H

#include <stdint.h>

#include "base/error.h"

struct event_loop;
struct event_source; /* a watched descriptor */
struct event_timer;

/* @events: the EPOLL* bits that are ready. */
typedef void (*event_handler)(void *context, uint32_t events);
typedef void (*event_callback)(void *context);

struct error *event_loop_create(struct event_loop **loop) MUST_CHECK;
/* Frees the loop, its sources and timers; it must not be running. Accepts NULL. */
void event_loop_destroy(struct event_loop *loop);

/* Runs on the calling thread until event_loop_stop. */
void event_loop_run(struct event_loop *loop);
/*
 * Makes event_loop_run return after the handler in progress and the calls queued so far; one that
 * has not started yet returns at once. Any thread, and signal handlers.
 */
void event_loop_stop(struct event_loop *loop);
/* Starts a thread named @name (15 characters) that runs the loop; event_loop_join stops and reaps it. */
struct error *event_loop_start_thread(struct event_loop *loop, const char *name) MUST_CHECK;
/* Stops the loop's thread, if it was started, and waits for it. Not from the loop's own thread. */
void event_loop_join(struct event_loop *loop);

/* Watches @fd, which the caller keeps and closes after removing the source, for EPOLL* @events. */
struct error *event_loop_add(struct event_loop *loop, int fd, uint32_t events,
			     event_handler handler, void *context,
			     struct event_source **source) MUST_CHECK;
void event_source_set_events(struct event_source *source, uint32_t events);
/* Accepts NULL. */
void event_source_remove(struct event_source *source);

/* A timer that is not armed yet; on expiry @callback runs once (arm it again to repeat). */
struct error *event_timer_create(struct event_loop *loop, event_callback callback, void *context,
				 struct event_timer **timer) MUST_CHECK;
/* Fires @delay_ns from now; replaces an earlier arming. */
void event_timer_arm(struct event_timer *timer, int64_t delay_ns);
void event_timer_cancel(struct event_timer *timer);
/* Accepts NULL. */
void event_timer_destroy(struct event_timer *timer);

/* Queues @callback to run on the loop's thread. Any thread. 0 or -ENOMEM. */
int event_loop_post(struct event_loop *loop, event_callback callback, void *context) MUST_CHECK;
/*
 * Runs @callback on the loop's thread and waits until it returned. On the loop's own thread, or
 * when the loop runs nowhere, calls it directly. Never call it while holding a lock that a handler
 * takes.
 */
void event_loop_call(struct event_loop *loop, event_callback callback, void *context);

DEFINE_CLEANUP(event_loop, struct event_loop *, event_loop_destroy)
#define AUTO_EVENT_LOOP AUTO(cleanup_event_loop)

#endif
