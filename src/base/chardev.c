/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices, see chardev.h: buffering, flow control, clients that come and go.
 *
 * Runs on the thread of the loop, but for chardev_write, which any thread may call: `lock` guards
 * the output side. A writer that leaves bytes in the buffer wakes the loop with kick_fd. Only
 * create and attach can fail. The guest controls the output, whoever is at the other end the input.
 */
#include "base/chardev.h"

#include <assert.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/chardev_internal.h"
#include "base/checked.h"

#define CTRL_A 1

static struct error *create(const char *text, const struct chardev_descriptors *descriptors,
			    struct chardev **result)
{
	struct chardev *chardev = calloc(1, sizeof(*chardev));
	struct error *error;

	if (!chardev)
		return error_system(ENOMEM, "character device '%s'", text);
	chardev->in_fd = chardev->out_fd = chardev->listen_fd = chardev->slave_fd = -1;
	chardev->kept_fd = -1;
	chardev->receiving = true;
	pthread_mutex_init(&chardev->lock, NULL);
	chardev->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	chardev->name = strdup(text);
	chardev->output = malloc(CHARDEV_OUTPUT_SIZE);
	if (chardev->kick_fd < 0)
		error = error_system(errno, "character device '%s'", text);
	else if (!chardev->name || !chardev->output)
		error = error_system(ENOMEM, "character device '%s'", text);
	else if (descriptors)
		error = chardev_open_handed(chardev, text, descriptors);
	else
		error = chardev_open(chardev, text);
	if (error) {
		chardev_destroy(chardev);
		return error;
	}
	chardev_terminal_size(chardev, &chardev->columns, &chardev->rows);
	*result = chardev;
	return NULL;
}

struct error *chardev_create(const char *text, struct chardev **result)
{
	return create(text, NULL, result);
}

struct error *chardev_adopt(const char *text, const struct chardev_descriptors *descriptors,
			    struct chardev **result)
{
	return create(text, descriptors, result);
}

void chardev_destroy(struct chardev *chardev)
{
	if (!chardev)
		return;
	chardev_detach(chardev);
	chardev_close(chardev);
	close_fd(&chardev->kick_fd);
	pthread_mutex_destroy(&chardev->lock);
	free(chardev->name);
	free(chardev->output);
	free(chardev);
}

static void count_dropped(struct chardev *chardev, size_t size)
{
	__atomic_fetch_add(&chardev->dropped, size, __ATOMIC_RELAXED);
}

/* Forgets the first @size bytes of the buffer. With the lock held, as all down to chardev_write. */
static void output_consume(struct chardev *chardev, size_t size)
{
	chardev->output_start = (chardev->output_start + size) % CHARDEV_OUTPUT_SIZE;
	chardev->output_used -= size;
}

void chardev_output_append(struct chardev *chardev, const uint8_t *data, size_t size)
{
	size_t end, first;

	if (size > CHARDEV_OUTPUT_SIZE) {
		count_dropped(chardev, size - CHARDEV_OUTPUT_SIZE);
		data += size - CHARDEV_OUTPUT_SIZE;
		size = CHARDEV_OUTPUT_SIZE;
	}
	if (size > CHARDEV_OUTPUT_SIZE - chardev->output_used) {
		size_t excess = size - (CHARDEV_OUTPUT_SIZE - chardev->output_used);

		count_dropped(chardev, excess);
		output_consume(chardev, excess);
	}
	end = (chardev->output_start + chardev->output_used) % CHARDEV_OUTPUT_SIZE;
	first = MIN(size, CHARDEV_OUTPUT_SIZE - end);
	memcpy(chardev->output + end, data, first);
	memcpy(chardev->output, data + first, size - first);
	chardev->output_used += size;
}

/* Writes without blocking; how much of it went, which may be nothing. */
static size_t write_some(struct chardev *chardev, const void *data, size_t size)
{
	ssize_t written = chardev->out_is_socket
			      ? send(chardev->out_fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
			      : write(chardev->out_fd, data, size);

	if (written >= 0)
		return (size_t)written;
	if (errno != EAGAIN && errno != EINTR && !chardev->writes_directly)
		chardev->out_failed = true; /* until somebody connects anew */
	return 0;
}

static bool output_possible(const struct chardev *chardev)
{
	return chardev->out_fd >= 0 && !chardev->out_failed;
}

void chardev_output_flush(struct chardev *chardev)
{
	while (chardev->output_used && output_possible(chardev)) {
		size_t stretch =
		    MIN(chardev->output_used, CHARDEV_OUTPUT_SIZE - chardev->output_start);
		size_t written =
		    write_some(chardev, chardev->output + chardev->output_start, stretch);

		output_consume(chardev, written);
		if (written < stretch)
			break;
	}
}

void chardev_write(struct chardev *chardev, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	size_t written = 0;
	uint64_t one = 1;

	if (chardev->watcher)
		chardev->watcher->output(chardev->watcher->context, data, size);
	if (chardev->is_null)
		return;
	pthread_mutex_lock(&chardev->lock);
	if (!chardev->output_used && output_possible(chardev))
		written = write_some(chardev, bytes, size);
	if (written < size && chardev->writes_directly)
		count_dropped(chardev, size - written);
	else if (written < size)
		chardev_output_append(chardev, bytes + written, size - written);
	/* Only while somebody can take it; a client that comes is given it then. */
	if (chardev->output_used && output_possible(chardev) &&
	    write(chardev->kick_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN);
	pthread_mutex_unlock(&chardev->lock);
}

void chardev_watch_output(struct chardev *chardev, const struct chardev_watcher *watcher)
{
	chardev->watcher = watcher;
}

static void changed(struct chardev *chardev)
{
	if (chardev->handlers && chardev->handlers->changed)
		chardev->handlers->changed(chardev->context);
}

/* Room for input, less the byte that a Ctrl-A kept back may add (and may have added). */
static size_t input_space(struct chardev *chardev)
{
	if (chardev->input_start == chardev->input_end)
		chardev->input_start = chardev->input_end = 0;
	return chardev->input_end < CHARDEV_INPUT_SIZE ? CHARDEV_INPUT_SIZE - chardev->input_end - 1
						       : 0;
}

void chardev_update_events(struct chardev *chardev)
{
	bool shared = chardev->in_fd == chardev->out_fd, output;
	uint32_t in_events = 0;

	pthread_mutex_lock(&chardev->lock);
	output = chardev->output_used && output_possible(chardev);
	pthread_mutex_unlock(&chardev->lock);
	if (!chardev->in_closed && !chardev->still && input_space(chardev))
		in_events |= EPOLLIN;
	if (shared && output)
		in_events |= EPOLLOUT;
	if (chardev->in_source)
		event_source_set_events(chardev->in_source, in_events);
	if (chardev->out_source)
		event_source_set_events(chardev->out_source, output ? EPOLLOUT : 0);
	if (chardev->listen_source)
		event_source_set_events(chardev->listen_source,
					chardev->out_fd < 0 && !chardev->shared ? EPOLLIN : 0);
}

static void input_byte(struct chardev *chardev, uint8_t byte)
{
	bool escaped = chardev->escape_pending;

	chardev->escape_pending = false;
	if (!chardev->is_terminal) {
		chardev->input[chardev->input_end++] = byte;
	} else if (!escaped && byte == CTRL_A) {
		chardev->escape_pending = true;
	} else if (escaped && byte == 'x' && chardev->escape) {
		chardev->escape(chardev->escape_context);
	} else {
		/* Ctrl-A and something else: the guest gets both, one key late. */
		if (escaped && byte != CTRL_A)
			chardev->input[chardev->input_end++] = CTRL_A;
		chardev->input[chardev->input_end++] = byte;
	}
}

static void notice_terminal_size(struct chardev *chardev)
{
	uint16_t columns, rows;

	if (!chardev_terminal_size(chardev, &columns, &rows) ||
	    (columns == chardev->columns && rows == chardev->rows))
		return;
	chardev->columns = columns;
	chardev->rows = rows;
	changed(chardev);
}

/* Reads once, as much as there is room for. */
static void input_fill(struct chardev *chardev)
{
	uint8_t bytes[512];
	ssize_t count;

	if (chardev->in_fd < 0 || chardev->in_closed || !input_space(chardev))
		return;
	count = read(chardev->in_fd, bytes, MIN(input_space(chardev), sizeof(bytes)));
	if (count < 0 && (errno == EAGAIN || errno == EINTR) && !chardev->hung_up)
		return;
	if (count <= 0) {
		chardev->in_closed = true;
		return;
	}
	for (ssize_t i = 0; i < count; i++)
		input_byte(chardev, bytes[i]);
	if (chardev->is_terminal)
		notice_terminal_size(chardev);
}

static void input_deliver(struct chardev *chardev)
{
	if (chardev->delivering || !chardev->handlers)
		return;
	chardev->delivering = true;
	while (chardev->receiving && chardev->input_start < chardev->input_end) {
		size_t size = chardev->input_end - chardev->input_start;
		size_t taken;

		chardev->receiving = false; /* the handler may turn it on again meanwhile */
		taken = chardev->handlers->receive(chardev->context,
						   chardev->input + chardev->input_start, size);
		assert(taken <= size);
		chardev->input_start += taken;
		if (taken == size)
			chardev->receiving = true;
	}
	chardev->delivering = false;
}

/* Nobody is at the other end any more: of a socket another client may come, the rest is over. */
static void disconnect(struct chardev *chardev)
{
	event_source_remove(TAKE_PTR(chardev->in_source));
	if (chardev->listen_fd < 0)
		return;
	pthread_mutex_lock(&chardev->lock);
	close_fd(&chardev->out_fd);
	chardev->in_fd = -1;
	chardev->out_failed = false;
	pthread_mutex_unlock(&chardev->lock);
	chardev->in_closed = false;
	chardev->hung_up = false;
	changed(chardev);
}

/* Passes input on as far as it goes and sees to it that we are called for what comes next. */
static void settle(struct chardev *chardev)
{
	input_deliver(chardev);
	while (chardev->hung_up && chardev->in_source) {
		/* What the other side sent before it went is still to be read. */
		if (chardev->in_closed || !chardev->handlers) {
			disconnect(chardev);
		} else if (!input_space(chardev)) {
			/* Its events could not be silenced; chardev_set_receiving comes back here.
			 */
			event_source_remove(TAKE_PTR(chardev->in_source));
		} else {
			input_fill(chardev);
			input_deliver(chardev);
		}
	}
	chardev_update_events(chardev);
}

static void handle_in(void *context, uint32_t events)
{
	struct chardev *chardev = context;

	pthread_mutex_lock(&chardev->lock);
	if (events & EPOLLOUT)
		chardev_output_flush(chardev);
	pthread_mutex_unlock(&chardev->lock);
	if (events & (EPOLLHUP | EPOLLERR))
		chardev->hung_up = true;
	if (events & EPOLLIN)
		input_fill(chardev);
	settle(chardev);
}

static void handle_out(void *context, uint32_t events)
{
	struct chardev *chardev = context;

	pthread_mutex_lock(&chardev->lock);
	if (events & EPOLLOUT)
		chardev_output_flush(chardev);
	if (events & (EPOLLHUP | EPOLLERR))
		chardev->out_failed = true;
	pthread_mutex_unlock(&chardev->lock);
	if (events & (EPOLLHUP | EPOLLERR))
		event_source_remove(TAKE_PTR(chardev->out_source));
	chardev_update_events(chardev);
}

static void handle_kick(void *context, uint32_t events)
{
	struct chardev *chardev = context;
	uint64_t count;

	if (read(chardev->kick_fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
	chardev_update_events(chardev);
}

static void handle_listen(void *context, uint32_t events)
{
	struct chardev *chardev = context;
	AUTO_CLOSE int fd = accept4(chardev->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	AUTO_ERROR struct error *error = NULL;

	if (fd < 0)
		return;
	error = event_loop_add(chardev->loop, fd, 0, handle_in, chardev, &chardev->in_source);
	if (error)
		return;
	pthread_mutex_lock(&chardev->lock);
	chardev->in_fd = fd;
	chardev->out_fd = TAKE_FD(fd);
	chardev_output_flush(chardev);
	pthread_mutex_unlock(&chardev->lock);
	changed(chardev);
	chardev_update_events(chardev);
}

/* Watches @fd unless it is -1; one that never blocks, such as a regular file, cannot be watched. */
static struct error *watch(struct chardev *chardev, int fd, event_handler handler,
			   struct event_source **source)
{
	struct error *error;

	if (fd < 0)
		return NULL;
	error = event_loop_add(chardev->loop, fd, 0, handler, chardev, source);
	if (error && error_code(error) == EPERM) {
		error_free(error);
		return NULL;
	}
	return error;
}

struct error *chardev_watch(struct chardev *chardev)
{
	bool shared = chardev->in_fd == chardev->out_fd;

	TRY(watch(chardev, chardev->in_fd, handle_in, &chardev->in_source));
	if (!shared && !chardev->writes_directly)
		TRY(watch(chardev, chardev->out_fd, handle_out, &chardev->out_source));
	return watch(chardev, chardev->listen_fd, handle_listen, &chardev->listen_source);
}

void chardev_unwatch(struct chardev *chardev)
{
	event_source_remove(TAKE_PTR(chardev->in_source));
	event_source_remove(TAKE_PTR(chardev->out_source));
	event_source_remove(TAKE_PTR(chardev->listen_source));
}

struct error *chardev_attach(struct chardev *chardev, struct event_loop *loop,
			     const struct chardev_handlers *handlers, void *context)
{
	struct error *error;

	assert(!chardev->loop);
	chardev->loop = loop;
	chardev->handlers = handlers;
	chardev->context = context;
	error = chardev->away ? NULL : chardev_watch(chardev);
	if (!error)
		error = event_loop_add(loop, chardev->kick_fd, EPOLLIN, handle_kick, chardev,
				       &chardev->kick_source);
	if (error) {
		chardev_detach(chardev);
		return error_prefix(error, "character device '%s'", chardev->name);
	}
	chardev_update_events(chardev);
	return NULL;
}

void chardev_detach(struct chardev *chardev)
{
	chardev_unwatch(chardev);
	event_source_remove(TAKE_PTR(chardev->kick_source));
	chardev->loop = NULL;
	chardev->handlers = NULL;
}

void chardev_set_receiving(struct chardev *chardev, bool receiving)
{
	chardev->receiving = receiving;
	if (!receiving || !chardev->loop || chardev->delivering)
		return;
	input_deliver(chardev);
	if (chardev->hung_up && !chardev->in_source && chardev->in_fd >= 0) {
		/* The rest of what a client sent before it left. */
		while (!chardev->in_closed && input_space(chardev)) {
			input_fill(chardev);
			input_deliver(chardev);
		}
		if (chardev->in_closed)
			disconnect(chardev);
	}
	chardev_update_events(chardev);
}

void chardev_state(struct chardev *chardev, struct state *state)
{
	size_t kept = chardev->input_end - chardev->input_start;
	uint8_t input[CHARDEV_INPUT_SIZE];
	uint32_t count;

	memcpy(input, chardev->input + chardev->input_start, kept);
	count = state_count(state, "input", (uint32_t)kept, CHARDEV_INPUT_SIZE);
	state_buffer(state, "input bytes", input, count);
	if (!state_loading(state) && chardev->shared) {
		chardev->still = true;
		chardev_update_events(chardev);
	}
	if (!state_loading(state) || state_failed(state))
		return;
	/* Of a person who types at both machines the last keys may be lost. */
	kept = MIN(kept, CHARDEV_INPUT_SIZE - count);
	memmove(chardev->input + count, chardev->input + chardev->input_start, kept);
	memcpy(chardev->input, input, count);
	chardev->input_start = 0;
	chardev->input_end = count + kept;
	chardev->receiving = false;
	chardev_update_events(chardev);
}

void chardev_set_escape_handler(struct chardev *chardev, event_callback handler, void *context)
{
	chardev->escape = handler;
	chardev->escape_context = context;
}

bool chardev_terminal_size(const struct chardev *chardev, uint16_t *columns, uint16_t *rows)
{
	struct winsize size;

	/* A pseudo-terminal of ours has a size too, but only its user's terminal could set it. */
	if (chardev->slave_fd >= 0 || chardev->out_is_socket || chardev->out_fd < 0 ||
	    ioctl(chardev->out_fd, TIOCGWINSZ, &size))
		return false;
	*columns = size.ws_col;
	*rows = size.ws_row;
	return size.ws_col && size.ws_row;
}

bool chardev_connected(const struct chardev *chardev)
{
	return chardev->listen_fd < 0 || chardev->in_fd >= 0;
}

const char *chardev_name(const struct chardev *chardev)
{
	return chardev->name;
}

uint64_t chardev_dropped(const struct chardev *chardev)
{
	return __atomic_load_n(&chardev->dropped, __ATOMIC_RELAXED);
}
