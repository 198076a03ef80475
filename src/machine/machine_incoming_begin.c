/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine that comes from elsewhere, before it is one, machine_incoming.h: waits for a source, and
 * understands what it says of the machine.
 *
 * The main thread, and one that cancels what it waits for. The source controls what it says; nothing
 * of it is used here but the description, which is read with care (machine_description.h).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/checked.h"
#include "base/thread.h"
#include "machine/machine_incoming_private.h"

#define LINK_TIMEOUT_MS 30000 /* for a sign of life */

void machine_incoming_close(struct machine_incoming *incoming)
{
	if (!incoming)
		return;
	migration_receiver_destroy(incoming->receiver);
	incoming_postcopy_end(incoming);
	incoming_load_clear(incoming);
	free(incoming->address);
	free(incoming->tls);
	machine_description_free(incoming->description);
	migration_link_close(incoming->link);
	close_fd(&incoming->token_fd);
	main_calls_destroy(&incoming->calls);
	handover_queue_destroy(&incoming->events);
	error_free(incoming->reason);
	error_free(incoming->loss);
	pthread_cond_destroy(&incoming->changed);
	pthread_mutex_destroy(&incoming->order);
	pthread_mutex_destroy(&incoming->lock);
	free(incoming);
}

/* Cancels a link when somebody no longer wants to wait for it. */
struct watch {
	struct migration_link *link;
	int cancel_fd, stop_fd;
};

static void *watch_thread(void *context)
{
	const struct watch *watch = context;
	struct pollfd fds[] = {{.fd = watch->cancel_fd, .events = POLLIN},
			       {.fd = watch->stop_fd, .events = POLLIN}};

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[0].revents)
		migration_link_cancel(watch->link);
	return NULL;
}

static struct error *receive_description(struct machine_incoming *incoming)
{
	struct migration_message message;

	migration_link_expect(incoming->link);
	TRY(migration_link_receive(incoming->link, &message));
	if (message.type != MIGRATION_CONFIG)
		return error_new(EBADMSG, "the source begins with %s instead of CONFIG",
				 migration_message_name(message.type));
	return machine_description_read(message.text, message.size, &incoming->description);
}

static struct error *accept_source(struct machine_incoming *incoming)
{
	struct error *error;

	TRY(migration_link_accept(incoming->link));
	migration_link_set_timeout(incoming->link, LINK_TIMEOUT_MS);
	error = receive_description(incoming);
	if (error)
		machine_incoming_refuse(incoming, error);
	return error;
}

static struct error *accept_watched(struct machine_incoming *incoming, int cancel_fd)
{
	AUTO_CLOSE int stop_fd = eventfd(0, EFD_CLOEXEC);
	struct watch watch = {.link = incoming->link, .cancel_fd = cancel_fd, .stop_fd = stop_fd};
	struct error *error;
	pthread_t thread;

	if (stop_fd < 0)
		return error_system(errno, "a migration");
	TRY(thread_start(&thread, "incoming", watch_thread, &watch));
	error = accept_source(incoming);
	eventfd_write(stop_fd, 1);
	pthread_join(thread, NULL);
	return error;
}

/* Where to wait again, if that can be done. */
static struct error *keep_address(struct machine_incoming *incoming,
				  const struct machine_incoming_options *options)
{
	const char *address = migration_link_address(incoming->link);

	if (strncmp(address, "fd:", 3) != 0 && strncmp(address, "exec:", 5) != 0) {
		incoming->address = strdup(address);
		if (!incoming->address)
			return error_system(ENOMEM, "a migration");
	}
	incoming->tls = options->tls ? strdup(options->tls) : NULL;
	return options->tls && !incoming->tls ? error_system(ENOMEM, "a migration") : NULL;
}

struct error *machine_incoming_accept(const struct machine_incoming_options *options,
				      struct machine_incoming **result)
{
	const struct migration_link_options link = {.address = options->address,
						    .tls = options->tls};
	struct machine_incoming *incoming = calloc(1, sizeof(*incoming));
	struct error *error;

	if (!incoming)
		return error_system(ENOMEM, "a migration");
	pthread_mutex_init(&incoming->lock, NULL);
	pthread_mutex_init(&incoming->order, NULL);
	pthread_cond_init(&incoming->changed, NULL);
	incoming->lost = options->lost;
	incoming->started = options->started;
	incoming->context = options->context;
	incoming->token_fd = options->update ? options->token_fd : -1;
	handover_queue_init(&incoming->events);
	handover_init(&incoming->handover, HANDOVER_DESTINATION);
	error = migration_link_open(MIGRATION_DESTINATION, &link, &incoming->link);
	if (!error)
		error = keep_address(incoming, options);
	if (!error && options->listening)
		options->listening(options->context, migration_link_address(incoming->link));
	if (!error)
		error = accept_watched(incoming, options->cancel_fd);
	if (error) {
		machine_incoming_close(incoming);
		return error;
	}
	*result = incoming;
	return NULL;
}

/* Memory that has come along as descriptors. */
static struct error *adopt_memory(const struct machine_incoming *incoming,
				  struct machine_config *config)
{
	uint32_t expected = machine_description_descriptors(incoming->description), count;
	int fds[TRANSPORT_PASSED_MAX];

	count = migration_link_take(incoming->link, fds);
	for (uint32_t i = 0; i < count; i++) {
		if (count == expected && count <= ARRAY_SIZE(config->adopted))
			config->adopted[config->adopted_count++] = fds[i];
		else
			close(fds[i]);
	}
	return count == expected
		   ? NULL
		   : error_new(EBADMSG,
			       "%u descriptors of memory have come along, and %u were to: nobody "
			       "may pass the connection on",
			       count, expected);
}

struct error *machine_incoming_config(const struct machine_incoming *incoming,
				      struct machine_config *config)
{
	TRY(machine_description_config(incoming->description, config));
	TRY(adopt_memory(incoming, config));
	config->incoming = true;
	/* Memory that is to be certain must not be there before its pages come. */
	config->lazy = migration_link_has_postcopy(incoming->link);
	return NULL;
}

void machine_incoming_refuse(struct machine_incoming *incoming, const struct error *error)
{
	error_free(
	    migration_link_send_text(incoming->link, MIGRATION_REFUSE, error_message(error)));
}
