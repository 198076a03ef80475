/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end's memory messages: a plan (memory.h) becomes ADD_MEM_REG and REM_MEM_REG, several of
 * them under way at once, or one SET_MEM_TABLE for a back-end that knows only that; and, during
 * post-copy, the addresses that the back-end answers with.
 *
 * Runs on the caller's thread. What can fail: the back-end refuses an addition, which leaves a
 * hole that is named; everything else ends the session. The back-end controls the addresses in its
 * answers: they must be of the regions asked about, whole pages, and not overlap.
 */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "vhost_user/front_end_private.h"

#define PAGE 4096U

/* --- Where the back-end has mapped what -------------------------------------------------------- */

static void forget_range(struct vhost_user_front_end *front, uint64_t guest_address)
{
	for (size_t i = 0; i < front->range_count; i++) {
		if (front->ranges[i].guest_address == guest_address) {
			front->ranges[i] = front->ranges[--front->range_count];
			return;
		}
	}
}

/* Takes over where the back-end says that it has mapped @sent. */
static struct error *learn_range(struct vhost_user_front_end *front,
				 const struct vhost_user_message_type *type,
				 const struct vhost_user_region *sent,
				 const struct vhost_user_region *answer)
{
	uint64_t end;

	if (answer->guest_address != sent->guest_address || answer->size != sent->size)
		return error_new(EPROTO,
				 "%s is answered for memory at 0x%" PRIx64 " of %#" PRIx64
				 " bytes, not for that at 0x%" PRIx64,
				 type->name, answer->guest_address, answer->size,
				 sent->guest_address);
	/* libvhost-user fills in a copy of the message that it sends back. */
	if (answer->user_address == sent->user_address)
		return error_new(EOPNOTSUPP,
				 "%s is answered with the address that it had: the back-end does "
				 "not say where it has mapped memory",
				 type->name);
	if (!is_aligned(answer->user_address, PAGE) ||
	    !checked_add(answer->user_address, answer->size, &end))
		return error_new(EPROTO, "%s is answered with address %#" PRIx64, type->name,
				 answer->user_address);
	for (size_t i = 0; i < front->range_count; i++) {
		const struct vhost_user_client_range *range = &front->ranges[i];

		if (ranges_overlap(range->address, range->size, answer->user_address, answer->size))
			return error_new(EPROTO,
					 "%s is answered with address %#" PRIx64
					 ", which is that of other memory",
					 type->name, answer->user_address);
	}
	if (front->range_count == front->range_capacity) {
		size_t capacity = front->range_capacity ? 2 * front->range_capacity : 16;
		struct vhost_user_client_range *ranges =
		    reallocarray(front->ranges, capacity, sizeof(*ranges));

		if (!ranges)
			return error_system(ENOMEM, "its memory");
		front->ranges = ranges;
		front->range_capacity = capacity;
	}
	front->ranges[front->range_count++] = (struct vhost_user_client_range){
	    answer->guest_address, answer->size, answer->user_address};
	return NULL;
}

bool vhost_user_front_end_client_range(const struct vhost_user_front_end *front, size_t index,
				       struct vhost_user_client_range *range)
{
	if (index >= front->range_count)
		return false;
	*range = front->ranges[index];
	return true;
}

void vhost_user_front_end_on_ranges(struct vhost_user_front_end *front,
				    struct error *(*ready)(void *context), void *context)
{
	front->ranges_ready = ready;
	front->ranges_context = context;
}

/* Before the back-end is told that it may touch what it has answered for. */
static struct error *ranges_ready(struct vhost_user_front_end *front)
{
	struct error *error =
	    front->ranges_ready ? front->ranges_ready(front->ranges_context) : NULL;

	return error ? front_fail(front, error) : NULL;
}

/* --- One table --------------------------------------------------------------------------------- */

static struct vhost_user_message table_message(const struct vhost_user_memory *memory)
{
	struct vhost_user_message message =
	    front_message(VHOST_USER_SET_MEM_TABLE, VHOST_USER_REGIONS);
	struct vhost_user_cursor cursor = {0};
	struct vhost_user_change mapping;

	while (vhost_user_memory_next(memory, &cursor, &mapping)) {
		message.fds[message.fd_count++] = mapping.fd;
		message.regions.list[message.regions.count++] = mapping.region;
	}
	return message;
}

static struct error *send_table_for_postcopy(struct vhost_user_front_end *front,
					     struct vhost_user_message *message)
{
	struct vhost_user_message reply;
	struct vhost_user_message go = front_message(VHOST_USER_SET_MEM_TABLE, VHOST_USER_U64);

	TRY(front_send(front, message, false));
	TRY(front_receive(front, message->type, VHOST_USER_REGIONS, VHOST_USER_FDS_NONE, &reply));
	if (reply.regions.count != message->regions.count)
		return front_fail(
		    front,
		    error_new(EPROTO, "%s is answered for %" PRIu32 " regions, not %" PRIu32,
			      message->type->name, reply.regions.count, message->regions.count));
	front->range_count = 0;
	for (uint32_t i = 0; i < reply.regions.count; i++) {
		struct error *error = learn_range(front, message->type, &message->regions.list[i],
						  &reply.regions.list[i]);

		if (error)
			return front_fail(front, error);
	}
	TRY(ranges_ready(front));
	return front_send(front, &go, false);
}

static struct error *send_table(struct vhost_user_front_end *front)
{
	struct vhost_user_message message;
	struct error *error;

	if (vhost_user_memory_held(front->memory) > VHOST_USER_TABLE_MAX)
		return front_refused(front, error_new(ENOSPC, "more than 8 pieces of memory do not "
							      "go into one table"));
	message = table_message(front->memory);
	if (front->postcopy)
		return send_table_for_postcopy(front, &message);
	error = front_request(front, &message, NULL);
	if (error)
		return front_give_up(front, error); /* what it holds is not known any more */
	return front_settle(front);
}

/* --- Slots ------------------------------------------------------------------------------------- */

static struct error *send_change(struct vhost_user_front_end *front,
				 const struct vhost_user_change *change)
{
	struct vhost_user_message message = front_message(
	    change->add ? VHOST_USER_ADD_MEM_REG : VHOST_USER_REM_MEM_REG, VHOST_USER_REGION);

	message.region = change->region;
	if (change->add) {
		message.fds[0] = change->fd;
		message.fd_count = 1;
	} else {
		forget_range(front, change->region.guest_address);
	}
	/* Additions during post-copy have an answer of their own. */
	return front_send(front, &message, !(change->add && front->postcopy));
}

static struct error *receive_addresses(struct vhost_user_front_end *front,
				       const struct vhost_user_message_type *type,
				       const struct vhost_user_change *change)
{
	struct vhost_user_message reply;
	struct error *error;

	TRY(front_receive(front, type, VHOST_USER_REGION, VHOST_USER_FDS_NONE, &reply));
	error = learn_range(front, type, &change->region, &reply.region);
	return error ? front_fail(front, error) : NULL;
}

/* The answer to @change. A refused addition is kept in *@refused, the first of them. */
static struct error *receive_change(struct vhost_user_front_end *front,
				    const struct vhost_user_change *change, struct error **refused)
{
	const struct vhost_user_message_type *type = vhost_user_message_type(
	    VHOST_USER_MAIN, change->add ? VHOST_USER_ADD_MEM_REG : VHOST_USER_REM_MEM_REG);
	struct error *error;

	if (change->add && front->postcopy)
		return receive_addresses(front, type, change);
	if (!front_has(front, VHOST_USER_PROTOCOL_REPLY_ACK))
		return NULL;
	error = front_receive_ack(front, type);
	if (!error || error_code(error) != EREMOTEIO)
		return error;
	error = error_prefix(error, "memory at 0x%" PRIx64, change->region.guest_address);
	if (!change->add) /* what it still holds is not known any more */
		return front_give_up(front, error);
	vhost_user_memory_refused(front->memory, &change->region);
	if (*refused)
		error_free(error);
	else
		*refused = error;
	return NULL;
}

static struct error *exchange_changes(struct vhost_user_front_end *front,
				      const struct vhost_user_plan *plan, struct error **refused)
{
	size_t answered = 0;

	for (size_t i = 0; i < plan->count; i++) {
		if (i - answered == PENDING_MAX)
			TRY(receive_change(front, &plan->list[answered++], refused));
		TRY(send_change(front, &plan->list[i]));
	}
	while (answered < plan->count)
		TRY(receive_change(front, &plan->list[answered++], refused));
	return NULL;
}

static struct error *send_slots(struct vhost_user_front_end *front,
				const struct vhost_user_plan *plan)
{
	struct error *refused = NULL, *error = exchange_changes(front, plan, &refused);

	if (!error && front->postcopy) {
		struct vhost_user_message go =
		    front_message(VHOST_USER_ADD_MEM_REG, VHOST_USER_U64);

		error = ranges_ready(front);
		if (!error)
			error = front_send(front, &go, false);
	} else if (!error) {
		error = front_settle(front);
	}
	if (!error)
		return refused;
	error_free(refused);
	return error;
}

/* --- Changes ----------------------------------------------------------------------------------- */

static bool by_table(const struct vhost_user_front_end *front)
{
	return !front_has(front, VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS) ||
	       front->postcopy == VHOST_USER_POSTCOPY_TABLE;
}

static struct error *send_plan(struct vhost_user_front_end *front,
			       const struct vhost_user_plan *plan)
{
	if (!plan->count)
		return NULL;
	return by_table(front) ? send_table(front) : send_slots(front, plan);
}

struct error *vhost_user_front_end_begin_memory(struct vhost_user_front_end *front,
						struct vhost_user_memory *memory)
{
	struct vhost_user_plan plan AUTO_VHOST_USER_PLAN = {0};
	uint32_t limit = by_table(front) ? VHOST_USER_TABLE_MAX : front->slots;

	TRY(front_refused(front, vhost_user_memory_begin(memory, limit, &plan)));
	front->memory = memory;
	return send_plan(front, &plan);
}

/* Without memory to plan with the session cannot go on. */
static struct error *plan_failed(struct vhost_user_front_end *front, struct error *error)
{
	return error_code(error) == ENOMEM ? front_fail(front, error) : front_refused(front, error);
}

struct error *vhost_user_front_end_change_memory(struct vhost_user_front_end *front,
						 const struct vhost_user_range *gone,
						 size_t gone_count,
						 const struct vhost_user_range *come,
						 size_t come_count)
{
	struct vhost_user_plan plan AUTO_VHOST_USER_PLAN = {0};
	struct error *error;

	if (!front->memory)
		return front_refused(front, error_new(EINVAL, "it has no memory yet"));
	error = vhost_user_memory_change(front->memory, gone, gone_count, come, come_count, &plan);
	return error ? plan_failed(front, error) : send_plan(front, &plan);
}

struct error *vhost_user_front_end_tidy_memory(struct vhost_user_front_end *front)
{
	struct vhost_user_plan plan AUTO_VHOST_USER_PLAN = {0};
	struct error *error;

	if (!front->memory)
		return NULL;
	error = vhost_user_memory_tidy(front->memory, !front->live_rings, &plan);
	return error ? plan_failed(front, error) : send_plan(front, &plan);
}
