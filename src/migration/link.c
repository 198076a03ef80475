/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a link and the messages of its main connection, link.h. The peer controls every byte
 * that is received; a frame's length is checked before there is room for it.
 */
#include "migration/link.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include "base/checked.h"
#include "migration/link_private.h"

#define PAYLOAD_MINIMUM WIRE_SMALL_MAX

/* --- Life -------------------------------------------------------------------------------------- */

void migration_link_close(struct migration_link *link)
{
	if (!link)
		return;
	transport_listener_close(link->listener);
	transport_close(link->main);
	for (uint32_t i = 0; i < ARRAY_SIZE(link->data); i++)
		transport_close(link->data[i]);
	tls_credentials_free(link->tls);
	transport_address_free(link->address);
	close_fd(&link->cancel_fd);
	pthread_mutex_destroy(&link->send_lock);
	pthread_mutex_destroy(&link->lock);
	free(link->payload);
	free(link);
}

static struct error *create(enum migration_side side, struct migration_link **result)
{
	struct migration_link *link = calloc(1, sizeof(*link));

	if (!link)
		return error_system(ENOMEM, "a migration");
	link->side = side;
	link->timeout_ms = LINK_TIMEOUT_MS;
	pthread_mutex_init(&link->lock, NULL);
	pthread_mutex_init(&link->send_lock, NULL);
	link->payload_size = PAYLOAD_MINIMUM;
	link->payload = malloc(link->payload_size);
	link->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	*result = link;
	if (!link->payload)
		return error_system(ENOMEM, "a migration");
	return link->cancel_fd < 0 ? error_system(errno, "a migration") : NULL;
}

static struct error *choose_session(struct migration_link *link, const uint8_t *resume)
{
	link->resumes = resume != NULL;
	if (resume)
		memcpy(link->session, resume, WIRE_SESSION_SIZE);
	else if (link->side == MIGRATION_SOURCE &&
		 getrandom(link->session, WIRE_SESSION_SIZE, 0) != WIRE_SESSION_SIZE)
		return error_system(errno, "an id for the migration");
	return NULL;
}

static struct error *load_tls(struct migration_link *link,
			      const struct migration_link_options *options)
{
	const char *name = options->tls_name;

	if (!options->tls)
		return NULL;
	if (!name && link->address->kind == TRANSPORT_TCP)
		name = link->address->host;
	return tls_credentials_load(options->tls, link->side == MIGRATION_DESTINATION, name,
				    &link->tls);
}

struct error *migration_link_open(enum migration_side side,
				  const struct migration_link_options *options,
				  struct migration_link **result)
{
	AUTO_MIGRATION_LINK struct migration_link *link = NULL;
	bool listening = side == MIGRATION_DESTINATION;

	if (!listening && (options->channels < 1 || options->channels > WIRE_CHANNELS_MAX))
		return error_usage("%u channels: there can be 1 to %d", options->channels,
				   WIRE_CHANNELS_MAX);
	TRY(create(side, &link));
	TRY(transport_address_parse(options->address, listening, &link->address));
	TRY(choose_session(link, options->resume));
	TRY(load_tls(link, options));
	if (options->timeout_ms)
		link->timeout_ms = options->timeout_ms;
	if (!listening) {
		link->channels = options->channels;
		link->postcopy = options->postcopy;
	} else if (link->address->kind != TRANSPORT_FD && link->address->kind != TRANSPORT_EXEC) {
		TRY(transport_listen(link->address, &link->listener));
	}
	*result = TAKE_PTR(link);
	return NULL;
}

struct error *migration_link_assemble(enum migration_side side, struct transport *main,
				      struct transport **data, uint32_t channels, bool postcopy,
				      struct migration_link **result)
{
	struct migration_link *link = NULL;
	struct error *error = create(side, &link);

	for (uint32_t i = 0; i < channels + (postcopy ? 1 : 0); i++) {
		if (link)
			link->data[i] = data[i];
		else
			transport_close(data[i]);
	}
	if (!link) {
		transport_close(main);
		return error;
	}
	link->main = main;
	link->channels = channels;
	link->postcopy = postcopy;
	if (error)
		migration_link_close(link);
	else
		*result = link;
	return error;
}

void link_publish(struct migration_link *link, struct transport **place,
		  struct transport *transport)
{
	pthread_mutex_lock(&link->lock);
	*place = transport;
	if (link->cancelled)
		transport_cancel(transport);
	pthread_mutex_unlock(&link->lock);
}

void migration_link_cancel(struct migration_link *link)
{
	pthread_mutex_lock(&link->lock);
	link->cancelled = true;
	eventfd_write(link->cancel_fd, 1);
	if (link->main)
		transport_cancel(link->main);
	for (uint32_t i = 0; i < ARRAY_SIZE(link->data); i++)
		if (link->data[i])
			transport_cancel(link->data[i]);
	pthread_mutex_unlock(&link->lock);
}

void migration_link_set_timeout(struct migration_link *link, uint32_t ms)
{
	transport_set_timeout(link->main, ms);
}

/* --- What it is -------------------------------------------------------------------------------- */

const char *migration_link_address(const struct migration_link *link)
{
	if (link->listener)
		return transport_listener_name(link->listener);
	return link->address ? link->address->text : transport_name(link->main);
}

enum migration_side migration_link_side(const struct migration_link *link)
{
	return link->side;
}

const uint8_t *migration_link_session(const struct migration_link *link)
{
	return link->session;
}

uint32_t migration_link_channels(const struct migration_link *link)
{
	return link->channels;
}

bool migration_link_has_postcopy(const struct migration_link *link)
{
	return link->postcopy;
}

struct transport *migration_link_data(const struct migration_link *link, uint32_t index)
{
	return link->data[index];
}

const char *link_label(const struct migration_link *link, enum wire_channel channel, uint32_t index,
		       char text[32])
{
	if (channel == WIRE_CHANNEL_MAIN)
		return "main";
	if (channel == WIRE_CHANNEL_POSTCOPY)
		return "postcopy";
	snprintf(text, 32, "data connection %u", index);
	return text;
}

/* --- Messages ---------------------------------------------------------------------------------- */

static struct error *send_parts(struct migration_link *link, struct iovec *parts, size_t count)
{
	struct error *error;

	pthread_mutex_lock(&link->send_lock);
	error = transport_send(link->main, parts, count);
	pthread_mutex_unlock(&link->send_lock);
	return error;
}

struct error *migration_link_send(struct migration_link *link,
				  const struct migration_message *message)
{
	uint8_t bytes[WIRE_FRAME_SIZE + WIRE_PAYLOAD_MAX];
	struct iovec parts[2] = {{bytes, wire_put_message(bytes, message)}};
	size_t count = 1;

	if (!migration_message_is_from(message->type, link->side == MIGRATION_SOURCE))
		return error_new(EINVAL, "%s is not ours to send",
				 migration_message_name(message->type));
	switch (message->type) {
	case MIGRATION_CONFIG:
	case MIGRATION_REFUSE:
	case MIGRATION_ABORT:
		if (message->size >
		    (message->type == MIGRATION_CONFIG ? WIRE_CONFIG_MAX : WIRE_TEXT_MAX))
			return error_new(E2BIG, "%s of %zu bytes is too long",
					 migration_message_name(message->type), message->size);
		parts[count++] = (struct iovec){(void *)(uintptr_t)message->text, message->size};
		break;
	case MIGRATION_RECEIVED:
	case MIGRATION_PENDING:
	case MIGRATION_PLUGGED:
		parts[count++] = (struct iovec){(void *)(uintptr_t)message->bitmap.bytes,
						8 * (size_t)message->bitmap.words};
		break;
	default:
		break;
	}
	return send_parts(link, parts, count);
}

struct error *migration_link_attach(struct migration_link *link, const int *fds, uint32_t count)
{
	return transport_attach(link->main, fds, count);
}

void migration_link_expect(struct migration_link *link)
{
	transport_expect(link->main);
}

uint32_t migration_link_take(struct migration_link *link, int fds[TRANSPORT_PASSED_MAX])
{
	return transport_take(link->main, fds);
}

struct error *migration_link_send_type(struct migration_link *link,
				       enum migration_message_type type)
{
	return migration_link_send(link, &(struct migration_message){.type = type});
}

struct error *migration_link_send_text(struct migration_link *link,
				       enum migration_message_type type, const char *text)
{
	char clean[WIRE_TEXT_MAX];
	size_t size = strnlen(text, sizeof(clean));

	for (size_t i = 0; i < size; i++)
		clean[i] = (text[i] >= 0 && text[i] < 0x20) || text[i] == 0x7f ? ' ' : text[i];
	return migration_link_send(
	    link, &(struct migration_message){.type = type, .text = clean, .size = size});
}

struct error *migration_link_send_bitmap(struct migration_link *link,
					 enum migration_message_type type, uint16_t block,
					 uint64_t first, const uint64_t *words, uint64_t count)
{
	uint8_t bytes[8 * 512];

	while (count) {
		uint32_t some = (uint32_t)MIN(count, (uint64_t)512);
		struct migration_message message = {.type = type};

		wire_put_bitmap(bytes, words, some);
		message.bitmap.block = block;
		message.bitmap.words = some;
		message.bitmap.first = first;
		message.bitmap.bytes = bytes;
		TRY(migration_link_send(link, &message));
		words += some;
		first += some;
		count -= some;
	}
	return NULL;
}

static struct error *receive_exactly(struct migration_link *link, void *bytes, size_t size)
{
	struct iovec part = {bytes, size};
	size_t got;

	TRY(transport_receive(link->main, &part, 1, size, &got));
	return got < size ? error_new(ECONNRESET, "%s: the other end has closed the connection",
				      transport_name(link->main))
			  : NULL;
}

/* Only a configuration is large, and comes once. */
static struct error *make_room(struct migration_link *link, size_t size)
{
	uint8_t *larger;

	if (size <= link->payload_size)
		return NULL;
	larger = realloc(link->payload, size);
	if (!larger)
		return error_system(ENOMEM, "%s: no room for %zu bytes", transport_name(link->main),
				    size);
	link->payload = larger;
	link->payload_size = size;
	return NULL;
}

struct error *migration_link_receive(struct migration_link *link, struct migration_message *message)
{
	const char *name = transport_name(link->main);
	enum migration_message_type type;
	uint8_t frame[WIRE_FRAME_SIZE];
	uint32_t length;

	TRY(receive_exactly(link, frame, sizeof(frame)));
	TRY(error_prefix(wire_get_frame(frame, &type, &length), "%s", name));
	if (!migration_message_is_from(type, link->side == MIGRATION_DESTINATION))
		return error_new(EBADMSG, "%s: the other end must not send %s", name,
				 migration_message_name(type));
	TRY(make_room(link, length));
	if (length)
		TRY(receive_exactly(link, link->payload, length));
	return error_prefix(wire_get_message(type, link->payload, length, message), "%s", name);
}
