/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end's session: requests and their replies, negotiation, the back-end's own channel.
 *
 * Runs on the caller's thread, which waits in front_wait alone: for the reply and for requests of
 * the back-end at once, for a back-end may wait for the answer to its request before it goes on. The
 * back-end controls all that arrives; whatever is wrong with it ends the session.
 */
#include "vhost_user/front_end.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "base/clock.h"
#include "vhost_user/front_end_private.h"

/* Requests of the back-end that are handled before one looks at anything else again. */
#define SERVE_MAX 16U

/* --- Errors ------------------------------------------------------------------------------------ */

struct error *front_refused(struct vhost_user_front_end *front, struct error *error)
{
	return error_prefix(error, "back-end %s", front->name);
}

struct error *front_give_up(struct vhost_user_front_end *front, struct error *error)
{
	vhost_user_socket_close(&front->socket);
	vhost_user_socket_close(&front->backend);
	if (!front->broken)
		front->broken = strdup(error_message(error));
	return error;
}

struct error *front_fail(struct vhost_user_front_end *front, struct error *error)
{
	return front_refused(front, front_give_up(front, error));
}

static struct error *check_broken(const struct vhost_user_front_end *front)
{
	if (front->socket.fd >= 0)
		return NULL;
	return error_new(ECONNRESET, "back-end %s was given up: %s", front->name,
			 front->broken ? front->broken : "its connection is closed");
}

/* --- The back-end's channel -------------------------------------------------------------------- */

static struct error *handle_backend(struct vhost_user_front_end *front,
				    struct vhost_user_message *message)
{
	const struct vhost_user_front_end_events *events = front->events;
	bool ring = message->type->payload == VHOST_USER_RING_STATE;

	TRY(vhost_user_message_decode(message, message->type->payload, message->type->fds));
	TRY(vhost_user_message_allowed(message->type, front->offered, front->protocol));
	if (ring && message->state.index >= VHOST_USER_RINGS_MAX)
		return error_new(EPROTO, "%s names ring %" PRIu32, message->type->name,
				 message->state.index);
	if (!events)
		return NULL;
	switch (message->type->request) {
	case VHOST_USER_BACKEND_CONFIG_CHANGE:
		if (events->config_changed)
			events->config_changed(front->context);
		break;
	case VHOST_USER_BACKEND_VRING_CALL:
		if (events->ring_called)
			events->ring_called(front->context, message->state.index);
		break;
	case VHOST_USER_BACKEND_VRING_ERR:
		if (events->ring_failed)
			events->ring_failed(front->context, message->state.index);
		break;
	default:
		break;
	}
	return NULL;
}

static struct error *serve_one(struct vhost_user_front_end *front, bool *got)
{
	struct vhost_user_message message AUTO_VHOST_USER_MESSAGE = {0};

	TRY(vhost_user_socket_receive(&front->backend, &message, 0, got));
	if (!*got)
		return NULL;
	TRY(handle_backend(front, &message));
	if (message.flags & VHOST_USER_NEED_REPLY &&
	    front_has(front, VHOST_USER_PROTOCOL_REPLY_ACK)) {
		struct vhost_user_message reply = {
		    .type = message.type, .flags = VHOST_USER_REPLY, .payload = VHOST_USER_U64};

		/* Who does not read answers gets no more requests through. */
		return vhost_user_socket_send(&front->backend, &reply, 0);
	}
	return NULL;
}

struct error *vhost_user_front_end_serve(struct vhost_user_front_end *front)
{
	TRY(check_broken(front));
	for (unsigned int i = 0; i < SERVE_MAX && front->backend.fd >= 0; i++) {
		bool got;
		struct error *error = serve_one(front, &got);

		if (error && error_code(error) == ECONNRESET) {
			/* It may have no more to say. */
			error_free(error);
			vhost_user_socket_close(&front->backend);
			return NULL;
		}
		if (error)
			return front_fail(front, error);
		if (!got)
			return NULL;
	}
	return NULL;
}

/* --- Requests ---------------------------------------------------------------------------------- */

struct vhost_user_message front_message(uint32_t request, enum vhost_user_payload payload)
{
	return (struct vhost_user_message){
	    .type = vhost_user_message_type(VHOST_USER_MAIN, request), .payload = payload};
}

bool front_has(const struct vhost_user_front_end *front, uint64_t protocol)
{
	return (front->protocol & protocol) == protocol;
}

struct error *front_send(struct vhost_user_front_end *front, struct vhost_user_message *message,
			 bool acknowledged)
{
	struct error *error;

	TRY(check_broken(front));
	error = vhost_user_message_allowed(message->type, front->offered, front->protocol);
	if (error)
		return front_refused(front, error);
	if (acknowledged && front_has(front, VHOST_USER_PROTOCOL_REPLY_ACK))
		message->flags |= VHOST_USER_NEED_REPLY;
	error = vhost_user_socket_send(&front->socket, message,
				       clock_monotonic_ns() + front->time_limit_ns);
	return error ? front_fail(front, error) : NULL;
}

/* Waits for something on either channel; false: the deadline has passed. */
static bool front_wait(struct vhost_user_front_end *front, int64_t deadline_ns)
{
	struct pollfd items[] = {{.fd = front->socket.fd, .events = POLLIN},
				 {.fd = front->backend.fd, .events = POLLIN}};

	for (;;) {
		int64_t left = MAX(deadline_ns - clock_monotonic_ns(), (int64_t)0);
		struct timespec time = {left / NS_PER_SECOND, left % NS_PER_SECOND};
		int count = ppoll(items, ARRAY_SIZE(items), &time, NULL);

		/* Who keeps the other channel busy gains no time by it. */
		if (count > 0)
			return left > 0 || items[0].revents;
		if (!count || errno != EINTR)
			return false;
	}
}

static struct error *receive_any(struct vhost_user_front_end *front,
				 const struct vhost_user_message_type *type,
				 struct vhost_user_message *reply)
{
	int64_t deadline_ns = clock_monotonic_ns() + front->time_limit_ns;
	bool got;

	for (;;) {
		TRY(vhost_user_socket_receive(&front->socket, reply, 0, &got));
		if (got)
			return NULL;
		if (!front_wait(front, deadline_ns))
			return error_new(ETIMEDOUT, "%s is not answered within %" PRId64 " ms",
					 type->name, (int64_t)(front->time_limit_ns / NS_PER_MS));
		TRY(vhost_user_front_end_serve(front));
	}
}

static struct error *receive_reply(struct vhost_user_front_end *front,
				   const struct vhost_user_message_type *type,
				   enum vhost_user_payload payload, enum vhost_user_fds fds,
				   struct vhost_user_message *reply)
{
	TRY(receive_any(front, type, reply));
	if (reply->type != type)
		return error_new(EPROTO, "%s is answered with %s", type->name, reply->type->name);
	if (!reply->raw_size && type->reply_may_be_empty && payload == type->reply)
		payload = VHOST_USER_EMPTY;
	else if (reply->raw_size > sizeof(uint64_t) && type->reply_may_repeat &&
		 payload == type->reply)
		payload = type->payload;
	return vhost_user_message_decode(reply, payload, fds);
}

struct error *front_receive(struct vhost_user_front_end *front,
			    const struct vhost_user_message_type *type,
			    enum vhost_user_payload payload, enum vhost_user_fds fds,
			    struct vhost_user_message *reply)
{
	struct error *error;

	TRY(check_broken(front));
	error = receive_reply(front, type, payload, fds, reply);
	if (!error)
		return NULL;
	vhost_user_message_close(reply);
	if (front->socket.fd < 0)
		return error; /* the other channel has ended it, and said so */
	return front_fail(front, error);
}

struct error *front_receive_ack(struct vhost_user_front_end *front,
				const struct vhost_user_message_type *type)
{
	struct vhost_user_message reply;

	TRY(front_receive(front, type, VHOST_USER_U64, VHOST_USER_FDS_NONE, &reply));
	if (!reply.u64)
		return NULL;
	return front_refused(
	    front, error_new(EREMOTEIO, "it refuses %s (%#" PRIx64 ")", type->name, reply.u64));
}

struct error *front_request(struct vhost_user_front_end *front, struct vhost_user_message *message,
			    struct vhost_user_message *reply)
{
	const struct vhost_user_message_type *type = message->type;

	if (type->reply != VHOST_USER_NO_REPLY) {
		TRY(front_send(front, message, false));
		return front_receive(front, type, type->reply, type->reply_fds, reply);
	}
	TRY(front_send(front, message, true));
	return message->flags & VHOST_USER_NEED_REPLY ? front_receive_ack(front, type) : NULL;
}

struct error *front_ask(struct vhost_user_front_end *front, uint32_t request, uint64_t *value)
{
	struct vhost_user_message message = front_message(request, VHOST_USER_EMPTY), reply = {0};

	TRY(front_request(front, &message, &reply));
	if (value)
		*value = reply.u64;
	return NULL;
}

struct error *front_tell(struct vhost_user_front_end *front, uint32_t request, uint64_t value)
{
	struct vhost_user_message message = front_message(request, VHOST_USER_U64);

	message.u64 = value;
	return front_request(front, &message, NULL);
}

struct error *front_settle(struct vhost_user_front_end *front)
{
	/* Requests are handled in order: the answer to this one says that the others are done. */
	return front_has(front, VHOST_USER_PROTOCOL_REPLY_ACK)
		   ? NULL
		   : front_ask(front, VHOST_USER_GET_FEATURES, NULL);
}

/* --- The session ------------------------------------------------------------------------------- */

/* What is wanted, offered and makes sense together. */
static uint64_t choose_protocol(uint64_t wanted, uint64_t offered)
{
	const uint64_t inband_needs =
	    VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_REPLY_ACK;
	uint64_t chosen = wanted & offered & VHOST_USER_PROTOCOL_KNOWN;

	if ((chosen & inband_needs) != inband_needs)
		chosen &= ~VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS;
	return chosen;
}

static struct error *negotiate(struct vhost_user_front_end *front, uint64_t wanted)
{
	uint64_t offered, value;

	TRY(front_ask(front, VHOST_USER_GET_FEATURES, &front->offered));
	TRY(front_ask(front, VHOST_USER_SET_OWNER, NULL));
	front->slots = VHOST_USER_TABLE_MAX;
	if (!(front->offered & VHOST_USER_F_PROTOCOL_FEATURES))
		return NULL;
	TRY(front_ask(front, VHOST_USER_GET_PROTOCOL_FEATURES, &offered));
	wanted = choose_protocol(wanted, offered);
	TRY(front_tell(front, VHOST_USER_SET_PROTOCOL_FEATURES, wanted));
	front->protocol = wanted;
	if (front_has(front, VHOST_USER_PROTOCOL_MQ)) {
		TRY(front_ask(front, VHOST_USER_GET_QUEUE_NUM, &value));
		if (!value)
			return front_fail(front,
					  error_new(EPROTO, "VHOST_USER_GET_QUEUE_NUM is 0"));
		front->queues = (uint32_t)MIN(value, (uint64_t)VHOST_USER_RINGS_MAX);
	}
	if (front_has(front, VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS)) {
		TRY(front_ask(front, VHOST_USER_GET_MAX_MEM_SLOTS, &value));
		if (!value)
			return front_fail(front,
					  error_new(EPROTO, "VHOST_USER_GET_MAX_MEM_SLOTS is 0"));
		front->slots = (uint32_t)MIN(value, (uint64_t)VHOST_USER_SLOTS_MAX);
	}
	return NULL;
}

static struct error *open_channel(struct vhost_user_front_end *front)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_EMPTY);
	AUTO_CLOSE int theirs = -1;
	int ends[2];

	if (!front_has(front, VHOST_USER_PROTOCOL_BACKEND_REQ))
		return NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_system(errno, "back-end %s: cannot make its channel", front->name);
	theirs = ends[1];
	TRY(vhost_user_socket_init(&front->backend, ends[0], VHOST_USER_BACKEND, false));
	message.fds[0] = theirs;
	message.fd_count = 1;
	return front_request(front, &message, NULL);
}

struct error *vhost_user_front_end_open(int fd, const struct vhost_user_front_end_options *options,
					struct vhost_user_front_end **result)
{
	AUTO_VHOST_USER_FRONT_END struct vhost_user_front_end *front = calloc(1, sizeof(*front));

	*result = NULL;
	if (front) {
		front->socket.fd = -1;
		front->backend.fd = -1;
		front->name = strdup(options->name);
	}
	if (!front || !front->name) {
		close(fd);
		return error_system(ENOMEM, "back-end %s", options->name);
	}
	front->time_limit_ns = options->time_limit_ns;
	front->events = options->events;
	front->context = options->context;
	TRY(front_refused(front,
			  vhost_user_socket_init(&front->socket, fd, VHOST_USER_MAIN, true)));
	TRY(negotiate(front, options->protocol));
	TRY(open_channel(front));
	*result = TAKE_PTR(front);
	return NULL;
}

void vhost_user_front_end_close(struct vhost_user_front_end *front)
{
	if (!front)
		return;
	vhost_user_socket_close(&front->socket);
	vhost_user_socket_close(&front->backend);
	free(front->ranges);
	free(front->broken);
	free(front->name);
	free(front);
}

void vhost_user_front_end_limit(struct vhost_user_front_end *front, int64_t time_limit_ns)
{
	front->time_limit_ns = time_limit_ns;
}

uint64_t vhost_user_front_end_features(const struct vhost_user_front_end *front)
{
	return front->offered & ~VHOST_USER_F_PROTOCOL_FEATURES;
}

uint64_t vhost_user_front_end_protocol(const struct vhost_user_front_end *front)
{
	return front->protocol;
}

uint32_t vhost_user_front_end_queues(const struct vhost_user_front_end *front)
{
	return front->queues;
}

uint32_t vhost_user_front_end_slots(const struct vhost_user_front_end *front)
{
	return front->slots;
}

const char *vhost_user_front_end_broken(const struct vhost_user_front_end *front)
{
	return front->broken;
}

uint64_t vhost_user_front_end_sent(const struct vhost_user_front_end *front)
{
	return front->socket.sent;
}

int vhost_user_front_end_fd(const struct vhost_user_front_end *front)
{
	return front->socket.fd;
}

int vhost_user_front_end_backend_fd(const struct vhost_user_front_end *front)
{
	return front->backend.fd;
}
