/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end's session: requests in, answers out.
 *
 * Runs on the thread that calls vhost_user_back_end_process. The front-end controls everything that
 * arrives. A request that breaks the protocol (code EPROTO) ends the session; one that cannot be done
 * is refused where the front-end has asked to be told, and ends the session otherwise, as the
 * specification has it.
 */
#include "vhost_user/back_end.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "vhost_user/back_end_private.h"

#define SLOTS_USUAL 509U
#define PROCESS_MAX 64U /* requests in one go, so that the device has its turn */

/* --- The session ------------------------------------------------------------------------------- */

/* Without its callback a feature is not there. */
static uint64_t possible_protocol(const struct vhost_user_back_end_options *options)
{
	uint64_t protocol = options->protocol & VHOST_USER_PROTOCOL_KNOWN &
			    ~(VHOST_USER_PROTOCOL_RARP | VHOST_USER_PROTOCOL_MTU);

	if (!options->ops->get_config)
		protocol &= ~VHOST_USER_PROTOCOL_CONFIG;
	if (!options->ops->transfer_state)
		protocol &= ~VHOST_USER_PROTOCOL_DEVICE_STATE;
	if (!options->ops->ring_kicked)
		protocol &= ~VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS;
	return protocol;
}

static struct error *check_options(const struct vhost_user_back_end_options *options)
{
	if (!options->queues || options->queues > VHOST_USER_RINGS_MAX ||
	    !is_power_of_two(options->queue_size) || options->queue_size > 32768 ||
	    options->slots > VHOST_USER_SLOTS_MAX)
		return error_new(EINVAL,
				 "%" PRIu32 " queues of %" PRIu32 " entries, %" PRIu32 " slots",
				 options->queues, options->queue_size, options->slots);
	return NULL;
}

struct error *vhost_user_back_end_open(int fd, const struct vhost_user_back_end_options *options,
				       struct vhost_user_back_end **result)
{
	AUTO_VHOST_USER_BACK_END struct vhost_user_back_end *back = NULL;
	AUTO_CLOSE int socket = fd;

	*result = NULL;
	TRY(check_options(options));
	back = calloc(1, sizeof(*back));
	if (!back)
		return error_system(ENOMEM, "cannot begin a session");
	back->options = *options;
	back->socket.fd = back->backend.fd = back->userfault = -1;
	for (uint32_t i = 0; i < VHOST_USER_RINGS_MAX; i++)
		back->rings[i].is.kick = back->rings[i].is.call = back->rings[i].is.error = -1;
	if (!options->slots)
		back->options.slots = SLOTS_USUAL;
	back->offered_protocol = possible_protocol(options);
	back->offered = options->features | VHOST_USER_F_PROTOCOL_FEATURES;
	if (back->offered_protocol & VHOST_USER_PROTOCOL_LOG_SHMFD)
		back->offered |= VHOST_F_LOG_ALL;
	TRY(vhost_user_socket_init(&back->socket, TAKE_FD(socket), VHOST_USER_MAIN, false));
	*result = TAKE_PTR(back);
	return NULL;
}

void vhost_user_back_end_close(struct vhost_user_back_end *back)
{
	if (!back)
		return;
	back_stop_rings(back);
	back_close_rings(back);
	back_free_table(back, &back->table);
	back_unmap(&back->log);
	back_unmap(&back->inflight);
	close_fd(&back->userfault);
	vhost_user_socket_close(&back->backend);
	vhost_user_socket_close(&back->socket);
	free(back);
}

int vhost_user_back_end_fd(const struct vhost_user_back_end *back)
{
	return back->socket.fd;
}

uint64_t vhost_user_back_end_features(const struct vhost_user_back_end *back)
{
	return back->features & ~(VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
}

uint64_t vhost_user_back_end_protocol(const struct vhost_user_back_end *back)
{
	return back->protocol;
}

/* --- Requests ---------------------------------------------------------------------------------- */

static struct error *set_features(struct vhost_user_back_end *back, uint64_t features)
{
	const struct vhost_user_back_end_ops *ops = back->options.ops;

	if (features & ~back->offered)
		return error_new(EPROTO,
				 "VHOST_USER_SET_FEATURES has %#" PRIx64 ", which was not offered",
				 features & ~back->offered);
	/* Rings are of one form, and devices of one mind, as long as they run. */
	if ((features ^ back->features) & ~(VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES) &&
	    back_any_runs(back))
		return error_new(EPROTO,
				 "VHOST_USER_SET_FEATURES changes %#" PRIx64 " while a ring runs",
				 features ^ back->features);
	back->features = features;
	if (ops->set_features)
		TRY(ops->set_features(back->options.context, vhost_user_back_end_features(back)));
	if (!(features & VHOST_USER_F_PROTOCOL_FEATURES))
		back_enable_all(back);
	return NULL;
}

static struct error *set_protocol(struct vhost_user_back_end *back, uint64_t protocol)
{
	const uint64_t needed = VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_REPLY_ACK;

	if (protocol & ~back->offered_protocol)
		return error_new(EPROTO,
				 "VHOST_USER_SET_PROTOCOL_FEATURES has %#" PRIx64
				 ", which was not offered",
				 protocol & ~back->offered_protocol);
	if (protocol & VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS && (protocol & needed) != needed)
		return error_new(EPROTO, "INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK");
	back->protocol = protocol;
	return NULL;
}

static struct error *get_config(struct vhost_user_back_end *back,
				const struct vhost_user_message *message,
				struct vhost_user_message *reply)
{
	struct error *error;

	reply->type = message->type;
	reply->payload = VHOST_USER_CONFIG;
	reply->config = message->config;
	error = back->options.ops->get_config(back->options.context, message->config.offset,
					      message->config.size, reply->config.bytes);
	if (error)
		reply->payload = VHOST_USER_EMPTY; /* which says that it failed */
	error_free(error);
	return NULL;
}

static struct error *set_config(struct vhost_user_back_end *back,
				const struct vhost_user_message *message)
{
	const struct vhost_user_config *config = &message->config;

	if (config->flags > 1)
		return error_new(EPROTO, "%s has flags %#" PRIx32, message->type->name,
				 config->flags);
	if (!back->options.ops->set_config)
		return error_new(EACCES, "the configuration space cannot be written");
	return back->options.ops->set_config(back->options.context, config->offset, config->size,
					     config->bytes, config->flags & 1);
}

static struct error *reset(struct vhost_user_back_end *back)
{
	back_stop_rings(back);
	for (uint32_t i = 0; i < back->options.queues; i++)
		back->rings[i].is.enabled = false;
	back->features = 0;
	if (back->options.ops->reset)
		back->options.ops->reset(back->options.context);
	return NULL;
}

static struct error *set_status(struct vhost_user_back_end *back, uint64_t status)
{
	if (status > UINT8_MAX)
		return error_new(EPROTO, "VHOST_USER_SET_STATUS is %#" PRIx64, status);
	back->status = (uint8_t)status;
	if (back->options.ops->set_status)
		back->options.ops->set_status(back->options.context, back->status);
	return NULL;
}

static struct error *set_channel(struct vhost_user_back_end *back,
				 struct vhost_user_message *message)
{
	vhost_user_socket_close(&back->backend);
	return vhost_user_socket_init(&back->backend, vhost_user_message_take_fd(message, 0),
				      VHOST_USER_BACKEND, true);
}

static void answer(struct vhost_user_message *reply, const struct vhost_user_message *message,
		   uint64_t value)
{
	reply->type = message->type;
	reply->payload = VHOST_USER_U64;
	reply->u64 = value;
}

static struct error *handle(struct vhost_user_back_end *back, struct vhost_user_message *message,
			    struct vhost_user_message *reply)
{
	switch (message->type->request) {
	case VHOST_USER_GET_FEATURES:
		answer(reply, message, back->offered);
		return NULL;
	case VHOST_USER_SET_FEATURES:
		return set_features(back, message->u64);
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		answer(reply, message, back->offered_protocol);
		return NULL;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		return set_protocol(back, message->u64);
	case VHOST_USER_GET_QUEUE_NUM:
		answer(reply, message, back->options.queues);
		return NULL;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		answer(reply, message, back->options.slots);
		return NULL;
	case VHOST_USER_SET_OWNER:
	case VHOST_USER_RESET_OWNER: /* deprecated, and to be ignored */
	case VHOST_USER_SET_LOG_FD:  /* nobody is told that there is news in the log */
		return NULL;
	case VHOST_USER_SET_MEM_TABLE:
		return back_set_table(back, message, reply);
	case VHOST_USER_ADD_MEM_REG:
		return back_add_region(back, message, reply);
	case VHOST_USER_REM_MEM_REG:
		return back_remove_region(back, message, reply);
	case VHOST_USER_SET_BACKEND_REQ_FD:
		return set_channel(back, message);
	case VHOST_USER_GET_CONFIG:
		return get_config(back, message, reply);
	case VHOST_USER_SET_CONFIG:
		return set_config(back, message);
	case VHOST_USER_RESET_DEVICE:
		return reset(back);
	case VHOST_USER_SET_STATUS:
		return set_status(back, message->u64);
	case VHOST_USER_GET_STATUS:
		answer(reply, message, back->status);
		return NULL;
	case VHOST_USER_SET_LOG_BASE:
	case VHOST_USER_GET_INFLIGHT_FD:
	case VHOST_USER_SET_INFLIGHT_FD:
	case VHOST_USER_SET_DEVICE_STATE_FD:
	case VHOST_USER_CHECK_DEVICE_STATE:
	case VHOST_USER_POSTCOPY_ADVISE:
	case VHOST_USER_POSTCOPY_LISTEN:
	case VHOST_USER_POSTCOPY_END:
		return back_state_request(back, message, reply);
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_ADDR:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
	case VHOST_USER_SET_VRING_ENABLE:
	case VHOST_USER_VRING_KICK:
		return back_ring_request(back, message, reply);
	default:
		return error_new(EPROTO, "%s is not for this device", message->type->name);
	}
}

/* The number that ends post-copy's list of addresses has the name of what it ends. */
static bool ends_addresses(const struct vhost_user_back_end *back,
			   const struct vhost_user_message *message)
{
	return message->type->request == VHOST_USER_ADD_MEM_REG && message->raw_size == 8 &&
	       back->postcopy == BACK_POSTCOPY_LISTENS;
}

static struct error *decode(struct vhost_user_back_end *back, struct vhost_user_message *message)
{
	if (ends_addresses(back, message))
		TRY(vhost_user_message_decode(message, VHOST_USER_U64, VHOST_USER_FDS_NONE));
	else
		TRY(vhost_user_message_decode(message, message->type->payload, message->type->fds));
	return vhost_user_message_allowed(message->type, back->offered, back->protocol);
}

static struct error *process(struct vhost_user_back_end *back, struct vhost_user_message *message)
{
	struct vhost_user_message reply AUTO_VHOST_USER_MESSAGE = {0};
	uint64_t before = back->protocol;
	bool told = message->flags & VHOST_USER_NEED_REPLY;
	struct error *error;

	TRY(decode(back, message));
	error = handle(back, message, &reply);
	/* Negotiated by this very request is too late for an answer to it. */
	told = told && before & VHOST_USER_PROTOCOL_REPLY_ACK;
	if (error &&
	    (error_code(error) == EPROTO || !told || message->type->reply != VHOST_USER_NO_REPLY))
		return error;
	if (!reply.type && !told) {
		error_free(error);
		return NULL;
	}
	if (!reply.type)
		answer(&reply, message, error ? 1 : 0);
	error_free(error);
	reply.flags = VHOST_USER_REPLY;
	return vhost_user_socket_send(&back->socket, &reply,
				      clock_monotonic_ns() + back->options.time_limit_ns);
}

struct error *vhost_user_back_end_process(struct vhost_user_back_end *back)
{
	for (unsigned int i = 0; i < PROCESS_MAX; i++) {
		struct vhost_user_message message AUTO_VHOST_USER_MESSAGE = {0};
		bool got;

		TRY(vhost_user_socket_receive(&back->socket, &message, 0, &got));
		if (!got)
			return NULL;
		TRY(process(back, &message));
	}
	return NULL;
}

struct error *vhost_user_back_end_config_changed(struct vhost_user_back_end *back)
{
	struct vhost_user_message message = {
	    .type = vhost_user_message_type(VHOST_USER_BACKEND, VHOST_USER_BACKEND_CONFIG_CHANGE)};
	struct error *error;

	TRY(vhost_user_message_allowed(message.type, back->offered, back->protocol));
	if (back->backend.fd < 0)
		return error_new(ENOTCONN, "the front-end has no channel for the back-end");
	error = vhost_user_socket_send(&back->backend, &message,
				       clock_monotonic_ns() + back->options.time_limit_ns);
	if (error)
		vhost_user_socket_close(&back->backend);
	return error;
}
