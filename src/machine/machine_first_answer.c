/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Watching for a guest's first answer, see machine_first_answer.h.
 *
 * Text is searched as it goes by, in each source by itself, on the thread that writes to it: a
 * vCPU's for the serial port, the device's loop for a console. Whoever finds it notes the time and
 * posts to the main loop. Calls to a port are made and watched by the main loop.
 *
 * What can fail: memory, descriptors; then a call is made later. The guest controls what it says and
 * whether it takes a call, and can thereby only be late.
 */
#include "machine/machine_first_answer.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/chardev.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "base/text_search.h"
#include "machine/machine_private.h"
#include "virtio/console.h"
#include "virtio/vsock.h"
#include "virtio/vsock_host.h"

#define CALL_AGAIN_FIRST (1 * NS_PER_MS) /* after a call that was not taken; doubles each time */
#define CALL_AGAIN_MAX	 (100 * NS_PER_MS)

/* Where the guest says something. */
struct source {
	struct machine_first_answer *answer;
	struct chardev_watcher watcher;
	struct text_search search;
};

struct machine_first_answer {
	struct machine *machine;
	char *name;
	void (*told)(void *context);
	void *context;
	int64_t time_ns; /* atomic */

	/* console: */
	const char *text; /* in name */
	struct source *sources;
	uint32_t source_count;

	/* vsock: */
	uint32_t port;
	const char *path; /* the device's; NULL: console */
	int fd;		  /* of a call, or -1 */
	struct event_source *call;
	struct event_timer *again;
	int64_t delay_ns;
};

/* --- What is asked for ------------------------------------------------------------------------- */

/* It goes into reports, which are JSON, and lines. */
static struct error *check_text(const char *name, const char *text)
{
	json_t *json = json_string(text);

	json_decref(json);
	if (!json)
		return error_usage("the text must be UTF-8");
	if (!*text || strlen(text) > TEXT_SEARCH_MAX)
		return error_usage("'%s': the text must have 1 to %d bytes", name, TEXT_SEARCH_MAX);
	for (const char *at = text; *at; at++)
		if ((uint8_t)*at < ' ')
			return error_usage("the text must be on one line, and byte %d of it is %#x",
					   (int)(at - text) + 1, (uint8_t)*at);
	return NULL;
}

static struct error *parse(const char *name, const char **text, uint32_t *port)
{
	uint64_t number = 0;

	*text = NULL;
	if (strncmp(name, "console:", 8) == 0) {
		*text = name + 8;
		return check_text(name, *text);
	}
	if (strncmp(name, "vsock:", 6) != 0)
		return error_usage("'%s' is not console:TEXT or vsock:PORT", name);
	TRY(error_prefix(number_parse(name + 6, UINT32_MAX, &number), "'%s'", name));
	*port = (uint32_t)number;
	return NULL;
}

struct error *machine_first_answer_check(const char *name)
{
	const char *text;
	uint32_t port;

	return parse(name, &text, &port);
}

/* --- It came ----------------------------------------------------------------------------------- */

static void tell(void *context)
{
	struct machine_first_answer *answer = context;

	answer->told(answer->context);
}

/* Any thread. */
static void note(struct machine_first_answer *answer)
{
	int64_t never = 0;

	if (!__atomic_compare_exchange_n(&answer->time_ns, &never, clock_monotonic_ns(), false,
					 __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		return;
	if (event_loop_post(answer->machine->loop, tell, answer) < 0)
		log_error("no memory to tell that the guest has answered");
}

int64_t machine_first_answer_time(const struct machine_first_answer *answer)
{
	return __atomic_load_n(&answer->time_ns, __ATOMIC_ACQUIRE);
}

const char *machine_first_answer_name(const struct machine_first_answer *answer)
{
	return answer->name;
}

/* --- What the guest says ----------------------------------------------------------------------- */

static void output(void *context, const void *data, size_t size)
{
	struct source *source = context;
	struct machine_first_answer *answer = source->answer;

	if (!machine_first_answer_time(answer) && text_search_feed(&source->search, data, size))
		note(answer);
}

static void add_source(struct machine_first_answer *answer, struct chardev *chardev)
{
	struct source *source = &answer->sources[answer->source_count++];

	*source = (struct source){.answer = answer, .watcher = {.output = output}};
	source->watcher.context = source;
	text_search_init(&source->search, answer->text);
	chardev_watch_output(chardev, &source->watcher);
}

static struct error *watch_consoles(struct machine_first_answer *answer)
{
	struct machine *machine = answer->machine;
	struct virtio_device *device;

	answer->sources =
	    calloc(1 + (size_t)machine->config.device_count, sizeof(*answer->sources));
	if (!answer->sources)
		return error_system(ENOMEM, "first answer");
	add_source(answer, machine->serial_chardev);
	for (uint32_t i = 0; (device = machine_device(machine, i)); i++)
		if (strcmp(device->ops->type, "virtio-console") == 0)
			add_source(answer, virtio_console_backend(device));
	return NULL;
}

/* --- Calling the guest ------------------------------------------------------------------------- */

static void hang_up(struct machine_first_answer *answer)
{
	event_source_remove(TAKE_PTR(answer->call));
	close_fd(&answer->fd);
}

static void call_later(struct machine_first_answer *answer)
{
	hang_up(answer);
	event_timer_arm(answer->again, answer->delay_ns);
	answer->delay_ns = MIN(answer->delay_ns * 2, CALL_AGAIN_MAX);
}

static void call_readable(void *context, uint32_t events)
{
	struct machine_first_answer *answer = context;
	int taken = vsock_host_called(answer->fd);

	if (taken < 0) {
		call_later(answer);
	} else if (taken > 0) {
		note(answer);
		hang_up(answer);
	}
}

static void call_guest(void *context)
{
	struct machine_first_answer *answer = context;
	AUTO_ERROR struct error *error = NULL;

	answer->fd = vsock_host_call(answer->path, answer->port);
	if (answer->fd >= 0)
		error = event_loop_add(answer->machine->loop, answer->fd, EPOLLIN, call_readable,
				       answer, &answer->call);
	if (answer->fd < 0 || error)
		call_later(answer);
}

static struct error *prepare_calls(struct machine_first_answer *answer)
{
	struct virtio_device *device = machine_device_of_type(answer->machine, "virtio-vsock");

	if (!device)
		return error_usage("'%s': the machine has no --vsock", answer->name);
	answer->path = virtio_vsock_path(device);
	answer->delay_ns = CALL_AGAIN_FIRST;
	return event_timer_create(answer->machine->loop, call_guest, answer, &answer->again);
}

void machine_first_answer_begin(struct machine_first_answer *answer)
{
	if (answer->path)
		call_guest(answer);
}

/* --- Life -------------------------------------------------------------------------------------- */

struct error *machine_first_answer_create(struct machine *machine, const char *text,
					  void (*told)(void *context), void *context,
					  struct machine_first_answer **result)
{
	struct machine_first_answer *answer = calloc(1, sizeof(*answer));
	struct error *error;

	if (!answer)
		return error_system(ENOMEM, "first answer");
	answer->machine = machine;
	answer->fd = -1;
	answer->told = told;
	answer->context = context;
	answer->name = strdup(text);
	error = answer->name ? parse(answer->name, &answer->text, &answer->port)
			     : error_system(ENOMEM, "first answer");
	if (!error)
		error = answer->text ? watch_consoles(answer) : prepare_calls(answer);
	if (error) {
		machine_first_answer_destroy(answer);
		return error;
	}
	*result = answer;
	return NULL;
}

void machine_first_answer_destroy(struct machine_first_answer *answer)
{
	if (!answer)
		return;
	hang_up(answer);
	event_timer_destroy(answer->again);
	free(answer->sources);
	free(answer->name);
	free(answer);
}
