/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the front-end share. */
#ifndef GODWIT_VHOST_USER_FRONT_END_PRIVATE_H
#define GODWIT_VHOST_USER_FRONT_END_PRIVATE_H

#include "vhost_user/front_end.h"
#include "vhost_user/socket.h"

/* Requests whose acknowledgement is awaited: enough to hide a round trip, and what they are answered
 * with fits into any socket's buffer, so that no side waits for the other to read. */
#define PENDING_MAX 16U

struct front_ring {
	bool live;
	struct vhost_user_ring_address address; /* as the back-end knows it */
};

struct vhost_user_front_end {
	struct vhost_user_socket socket, backend;
	char *name, *broken;
	int64_t time_limit_ns;
	const struct vhost_user_front_end_events *events;
	void *context;
	uint64_t offered, features; /* offered ones with VHOST_USER_F_PROTOCOL_FEATURES */
	uint64_t protocol;
	uint32_t queues, slots;
	struct front_ring rings[VHOST_USER_RINGS_MAX];
	uint32_t live_rings;
	bool logging;
	struct vhost_user_memory *memory; /* borrowed */
	enum vhost_user_postcopy postcopy;
	struct vhost_user_client_range *ranges; /* of post-copy */
	size_t range_count, range_capacity;
	struct error *(*ranges_ready)(void *context);
	void *ranges_context;
};

/* A message of the main channel. */
struct vhost_user_message front_message(uint32_t request, enum vhost_user_payload payload);
/* Ends the session for @error, which is returned as it is. */
struct error *front_give_up(struct vhost_user_front_end *front, struct error *error) MUST_CHECK;
/* Ends the session for @error, which is returned with the back-end's name. */
struct error *front_fail(struct vhost_user_front_end *front, struct error *error) MUST_CHECK;
/* @error with the back-end's name; the session goes on. */
struct error *front_refused(struct vhost_user_front_end *front, struct error *error) MUST_CHECK;

/*
 * Sends @message, after a look whether it may be sent; asks for an acknowledgement where there can be
 * one and the message has no reply (@acknowledged).
 */
struct error *front_send(struct vhost_user_front_end *front, struct vhost_user_message *message,
			 bool acknowledged) MUST_CHECK;
/* The reply to @type, which has the form @payload and @fds. The caller closes it. */
struct error *front_receive(struct vhost_user_front_end *front,
			    const struct vhost_user_message_type *type,
			    enum vhost_user_payload payload, enum vhost_user_fds fds,
			    struct vhost_user_message *reply) MUST_CHECK;
/* The acknowledgement of @type; code EREMOTEIO if it is not 0. */
struct error *front_receive_ack(struct vhost_user_front_end *front,
				const struct vhost_user_message_type *type) MUST_CHECK;
bool front_has(const struct vhost_user_front_end *front, uint64_t protocol);

/* Sends @message and waits for its reply (table) into @reply, or its acknowledgement if there is one. */
struct error *front_request(struct vhost_user_front_end *front, struct vhost_user_message *message,
			    struct vhost_user_message *reply) MUST_CHECK;
/* A request with one number or none, answered with one (@value) or none (NULL). */
struct error *front_ask(struct vhost_user_front_end *front, uint32_t request,
			uint64_t *value) MUST_CHECK;
struct error *front_tell(struct vhost_user_front_end *front, uint32_t request,
			 uint64_t value) MUST_CHECK;
/* Returns when the back-end has handled everything sent so far, acknowledged or not. */
struct error *front_settle(struct vhost_user_front_end *front) MUST_CHECK;
/* Tells the back-end about @features and whether it logs. */
struct error *front_send_features(struct vhost_user_front_end *front) MUST_CHECK;

#endif
