/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop of event_loop.h: epoll, one timerfd for all timers, one eventfd for calls of other
 * threads.
 *
 * The loop owns its sources, timers and the queue of posted calls. `lock` guards the queue and who
 * runs the loop; everything else belongs to the thread that runs it (or to the one that owns the
 * loop before it runs).
 *
 * A batch of epoll_wait may hold an event of a source that an earlier handler of the same batch
 * removed. A removed source is therefore unlinked at once but freed only after the batch, and
 * marked so that it is skipped.
 *
 * Only creation can fail (descriptors, memory). Nothing here is controlled by a guest.
 */
#include "base/event_loop.h"

#include <assert.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/thread.h"

#define BATCH_MAX 32

struct event_source {
	struct event_loop *loop;
	struct event_source *next, *previous;
	event_handler handler;
	void *context;
	int fd;
	uint32_t events;
	bool removed; /* waits in loop->removed to be freed after the batch */
};

struct event_timer {
	struct event_loop *loop;
	struct event_timer *next, *previous;
	event_callback callback;
	void *context;
	int64_t deadline; /* CLOCK_MONOTONIC */
	bool armed;
};

struct posted_call {
	struct posted_call *next;
	event_callback callback;
	void *context;
	sem_t *done; /* of event_loop_call, whose stack holds this call; NULL: allocated by
			event_loop_post */
};

struct event_loop {
	int epoll_fd, wake_fd, timer_fd;
	struct event_source *sources;
	struct event_source *removed;
	struct event_timer *timers; /* unsorted: a loop has a handful */
	bool dispatching;
	bool stop; /* atomic; stays set until event_loop_run has seen it */

	pthread_mutex_t lock;
	struct posted_call *posted, **posted_end; /* in order */
	bool running;				  /* a thread runs the loop or is about to */
	bool owner_known;			  /* and it is this one */
	pthread_t owner;

	bool thread_started;
	pthread_t thread;
};

static void loop_wake(struct event_loop *loop)
{
	uint64_t one = 1;

	/* Cannot fail but with EAGAIN, when the counter is full and the loop is awake anyway. */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN);
}

static void drain_counter(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
}

/* Runs the calls that were queued when it was called. Returns false if there were none. */
static bool loop_run_posted(struct event_loop *loop)
{
	struct posted_call *call, *next;

	pthread_mutex_lock(&loop->lock);
	call = loop->posted;
	loop->posted = NULL;
	loop->posted_end = &loop->posted;
	pthread_mutex_unlock(&loop->lock);
	if (!call)
		return false;
	for (; call; call = next) {
		sem_t *done = call->done;

		next = call->next;
		call->callback(call->context);
		if (done)
			sem_post(done); /* *call is gone now */
		else
			free(call);
	}
	return true;
}

static void handle_wake(void *context, uint32_t events)
{
	struct event_loop *loop = context;

	drain_counter(loop->wake_fd);
	loop_run_posted(loop);
}

/* The armed timer that expires first, or NULL. */
static struct event_timer *loop_next_timer(struct event_loop *loop)
{
	struct event_timer *first = NULL;

	for (struct event_timer *timer = loop->timers; timer; timer = timer->next)
		if (timer->armed && (!first || timer->deadline < first->deadline))
			first = timer;
	return first;
}

static void loop_program_timer(struct event_loop *loop)
{
	struct event_timer *first = loop_next_timer(loop);
	struct itimerspec when = {0};

	if (first) {
		int64_t deadline = MAX(first->deadline, 1); /* zero would disarm */

		when.it_value.tv_sec = deadline / NS_PER_SECOND;
		when.it_value.tv_nsec = deadline % NS_PER_SECOND;
	}
	if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL))
		assert(!"timerfd_settime with a valid time");
}

static void handle_timer(void *context, uint32_t events)
{
	struct event_loop *loop = context;
	int64_t now = clock_monotonic_ns();
	struct event_timer *timer;

	drain_counter(loop->timer_fd);
	/* A callback may arm, cancel and destroy any timer, so look again after each. */
	while ((timer = loop_next_timer(loop)) && timer->deadline <= now) {
		timer->armed = false;
		timer->callback(timer->context);
	}
	loop_program_timer(loop);
}

static void loop_free_removed(struct event_loop *loop)
{
	while (loop->removed) {
		struct event_source *source = loop->removed;

		loop->removed = source->next;
		free(source);
	}
}

struct error *event_loop_create(struct event_loop **result)
{
	struct event_loop *loop = calloc(1, sizeof(*loop));
	struct event_source *internal;
	struct error *error;

	if (!loop)
		return error_system(ENOMEM, "cannot create an event loop");
	pthread_mutex_init(&loop->lock, NULL);
	loop->posted_end = &loop->posted;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timer_fd < 0) {
		error = error_system(errno, "cannot create an event loop");
		event_loop_destroy(loop);
		return error;
	}
	error = event_loop_add(loop, loop->wake_fd, EPOLLIN, handle_wake, loop, &internal);
	if (!error)
		error =
		    event_loop_add(loop, loop->timer_fd, EPOLLIN, handle_timer, loop, &internal);
	if (error) {
		event_loop_destroy(loop);
		return error;
	}
	*result = loop;
	return NULL;
}

void event_loop_destroy(struct event_loop *loop)
{
	if (!loop)
		return;
	assert(!loop->running);
	while (loop->sources)
		event_source_remove(loop->sources);
	loop_free_removed(loop);
	while (loop->timers)
		event_timer_destroy(loop->timers);
	while (loop->posted) {
		struct posted_call *call = loop->posted;

		loop->posted = call->next;
		free(call); /* event_loop_call queues nothing while the loop is not running */
	}
	close_fd(&loop->epoll_fd);
	close_fd(&loop->wake_fd);
	close_fd(&loop->timer_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

static void loop_dispatch(struct event_loop *loop, const struct epoll_event *events, int count)
{
	loop->dispatching = true;
	for (int i = 0; i < count && !__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE); i++) {
		struct event_source *source = events[i].data.ptr;
		uint32_t ready;

		if (source->removed)
			continue;
		/* An earlier handler may have lost interest in some of it. */
		ready = events[i].events & (source->events | EPOLLERR | EPOLLHUP);
		if (ready)
			source->handler(source->context, ready);
	}
	loop->dispatching = false;
	loop_free_removed(loop);
}

void event_loop_run(struct event_loop *loop)
{
	struct epoll_event events[BATCH_MAX];
	bool finished = false;

	pthread_mutex_lock(&loop->lock);
	assert(!loop->owner_known);
	loop->running = true;
	loop->owner = pthread_self();
	loop->owner_known = true;
	pthread_mutex_unlock(&loop->lock);

	while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
		int count = epoll_wait(loop->epoll_fd, events, BATCH_MAX, -1);

		if (count > 0)
			loop_dispatch(loop, events, count);
		else
			assert(errno == EINTR);
	}
	/* Nobody may wait for ever for a call that was queued too late. */
	while (!finished) {
		loop->dispatching = true;
		loop_run_posted(loop);
		loop->dispatching = false;
		loop_free_removed(loop);
		pthread_mutex_lock(&loop->lock);
		finished = !loop->posted;
		if (finished) {
			loop->running = false;
			loop->owner_known = false;
			__atomic_store_n(&loop->stop, false, __ATOMIC_RELEASE);
		}
		pthread_mutex_unlock(&loop->lock);
	}
}

void event_loop_stop(struct event_loop *loop)
{
	__atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
	loop_wake(loop);
}

static void *loop_thread(void *context)
{
	event_loop_run(context);
	return NULL;
}

struct error *event_loop_start_thread(struct event_loop *loop, const char *name)
{
	struct error *error;

	assert(!loop->thread_started);
	/* From here on calls are queued, so that none runs beside the thread that is about to
	 * start. */
	pthread_mutex_lock(&loop->lock);
	loop->running = true;
	pthread_mutex_unlock(&loop->lock);
	error = thread_start(&loop->thread, name, loop_thread, loop);
	if (error) {
		pthread_mutex_lock(&loop->lock);
		loop->running = false;
		pthread_mutex_unlock(&loop->lock);
		return error;
	}
	loop->thread_started = true;
	return NULL;
}

void event_loop_join(struct event_loop *loop)
{
	if (!loop->thread_started)
		return;
	event_loop_stop(loop);
	pthread_join(loop->thread, NULL);
	loop->thread_started = false;
	/* The thread may have ended before this stop: it must not end the next run. */
	__atomic_store_n(&loop->stop, false, __ATOMIC_RELEASE);
}

struct error *event_loop_add(struct event_loop *loop, int fd, uint32_t events,
			     event_handler handler, void *context, struct event_source **result)
{
	struct event_source *source = calloc(1, sizeof(*source));
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (!source)
		return error_system(ENOMEM, "cannot watch a file descriptor");
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		free(source);
		return error_system(errno, "cannot watch file descriptor %d", fd);
	}
	source->loop = loop;
	source->fd = fd;
	source->events = events;
	source->handler = handler;
	source->context = context;
	source->next = loop->sources;
	if (source->next)
		source->next->previous = source;
	loop->sources = source;
	*result = source;
	return NULL;
}

void event_source_set_events(struct event_source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (source->events == events)
		return;
	source->events = events;
	if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event))
		assert(!"the descriptor of a source was closed before the source was removed");
}

void event_source_remove(struct event_source *source)
{
	struct event_loop *loop;

	if (!source)
		return;
	loop = source->loop;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	if (source->next)
		source->next->previous = source->previous;
	if (source->previous)
		source->previous->next = source->next;
	else
		loop->sources = source->next;
	if (!loop->dispatching) {
		free(source);
		return;
	}
	source->removed = true;
	source->next = loop->removed;
	loop->removed = source;
}

struct error *event_timer_create(struct event_loop *loop, event_callback callback, void *context,
				 struct event_timer **result)
{
	struct event_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return error_system(ENOMEM, "cannot create a timer");
	timer->loop = loop;
	timer->callback = callback;
	timer->context = context;
	timer->next = loop->timers;
	if (timer->next)
		timer->next->previous = timer;
	loop->timers = timer;
	*result = timer;
	return NULL;
}

void event_timer_arm(struct event_timer *timer, int64_t delay_ns)
{
	int64_t now = clock_monotonic_ns();

	if (__builtin_add_overflow(now, MAX(delay_ns, 0), &timer->deadline))
		timer->deadline = INT64_MAX;
	timer->armed = true;
	loop_program_timer(timer->loop);
}

void event_timer_cancel(struct event_timer *timer)
{
	if (!timer->armed)
		return;
	timer->armed = false;
	loop_program_timer(timer->loop);
}

void event_timer_destroy(struct event_timer *timer)
{
	if (!timer)
		return;
	event_timer_cancel(timer);
	if (timer->next)
		timer->next->previous = timer->previous;
	if (timer->previous)
		timer->previous->next = timer->next;
	else
		timer->loop->timers = timer->next;
	free(timer);
}

/* With the lock held. */
static void loop_enqueue(struct event_loop *loop, struct posted_call *call)
{
	call->next = NULL;
	*loop->posted_end = call;
	loop->posted_end = &call->next;
}

int event_loop_post(struct event_loop *loop, event_callback callback, void *context)
{
	struct posted_call *call = calloc(1, sizeof(*call));

	if (!call)
		return -ENOMEM;
	call->callback = callback;
	call->context = context;
	pthread_mutex_lock(&loop->lock);
	loop_enqueue(loop, call);
	pthread_mutex_unlock(&loop->lock);
	loop_wake(loop);
	return 0;
}

void event_loop_call(struct event_loop *loop, event_callback callback, void *context)
{
	struct posted_call call = {.callback = callback, .context = context};
	bool direct;
	sem_t done;

	pthread_mutex_lock(&loop->lock);
	direct =
	    !loop->running || (loop->owner_known && pthread_equal(loop->owner, pthread_self()));
	if (!direct) {
		sem_init(&done, 0, 0);
		call.done = &done;
		loop_enqueue(loop, &call);
	}
	pthread_mutex_unlock(&loop->lock);
	if (direct) {
		callback(context);
		return;
	}
	loop_wake(loop);
	while (sem_wait(&done) && errno == EINTR)
		;
	sem_destroy(&done);
}
