/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library libgodwit-vhost-user: what the public header promises, over this folder's two ends. Only
 * what it declares is visible (vhost_user_public.map).
 *
 * Runs on the caller's threads. Sessions and memory are those of the folder behind another name; values
 * that are passed are alike, which is asserted.
 */
#include <errno.h>
#include <godwit/vhost_user.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "vhost_user/back_end.h"
#include "vhost_user/front_end.h"
#include "vhost_user/socket.h"

#define SAME(public, own)                                                                          \
	_Static_assert(sizeof(struct public) == sizeof(struct own), #public " is like " #own)
SAME(godwit_vhost_user_range, vhost_user_range);
SAME(godwit_vhost_user_ring, vhost_user_ring_setup);
SAME(godwit_vhost_user_inflight, vhost_user_inflight);
SAME(godwit_vhost_user_client_range, vhost_user_client_range);
SAME(godwit_vhost_user_back_ring, vhost_user_back_end_ring);

struct godwit_vhost_user_front {
	struct vhost_user_front_end *front;
	struct vhost_user_front_end_events events;
	int (*ready)(void *context);
	void *context;
};

struct godwit_vhost_user_back {
	struct vhost_user_back_end *back;
	struct vhost_user_back_end_ops ops;
	const struct godwit_vhost_user_device *device;
	void *context;
};

/* The result for @error, which is freed or becomes *@message. */
static int give(struct error *error, char **message)
{
	int code;

	if (message)
		*message = error ? strdup(error_message(error)) : NULL;
	if (!error)
		return 0;
	code = error_code(error);
	error_free(error);
	return code > 0 ? -code : -EINVAL;
}

/* --- Connections ------------------------------------------------------------------------------- */

int godwit_vhost_user_connect(const char *path, int64_t limit_ns, int *fd, char **message)
{
	return give(vhost_user_connect(path, clock_monotonic_ns() + limit_ns, fd), message);
}

int godwit_vhost_user_listen(const char *path, int *fd, char **message)
{
	return give(vhost_user_listen(path, fd), message);
}

int godwit_vhost_user_accept(int listener, int64_t limit_ns, int *fd, char **message)
{
	return give(vhost_user_accept(listener, clock_monotonic_ns() + limit_ns, fd), message);
}

/* --- Memory ------------------------------------------------------------------------------------ */

/* The same object under its public name. */
static struct vhost_user_memory *own_memory(const struct godwit_vhost_user_memory *memory)
{
	return (struct vhost_user_memory *)memory;
}

struct godwit_vhost_user_memory *godwit_vhost_user_memory_create(void)
{
	return (struct godwit_vhost_user_memory *)vhost_user_memory_create();
}

void godwit_vhost_user_memory_destroy(struct godwit_vhost_user_memory *memory)
{
	vhost_user_memory_destroy(own_memory(memory));
}

int godwit_vhost_user_memory_add(struct godwit_vhost_user_memory *memory,
				 const struct godwit_vhost_user_block *block, char **message)
{
	const struct vhost_user_block own = {
	    .region = {block->guest_address, block->size, block->user_address, block->offset},
	    .fd = block->fd,
	    .unit = block->unit};

	return give(vhost_user_memory_add_block(own_memory(memory), &own), message);
}

uint32_t godwit_vhost_user_memory_held(const struct godwit_vhost_user_memory *memory)
{
	return vhost_user_memory_held(own_memory(memory));
}

uint64_t godwit_vhost_user_memory_excess(const struct godwit_vhost_user_memory *memory)
{
	return vhost_user_memory_excess(own_memory(memory));
}

/* --- The front-end ----------------------------------------------------------------------------- */

int godwit_vhost_user_front_open(int fd, const struct godwit_vhost_user_front_options *options,
				 struct godwit_vhost_user_front **result, char **message)
{
	struct godwit_vhost_user_front *front = calloc(1, sizeof(*front));
	struct error *error;

	*result = NULL;
	if (!front) {
		close(fd);
		return give(error_system(ENOMEM, "back-end %s", options->name), message);
	}
	front->context = options->context;
	front->events.config_changed = options->config_changed;
	error = vhost_user_front_end_open(
	    fd,
	    &(struct vhost_user_front_end_options){
		.name = options->name,
		.protocol = options->protocol & ~VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS,
		.time_limit_ns = options->limit_ns,
		.events = &front->events,
		.context = front->context},
	    &front->front);
	if (error)
		free(front);
	else
		*result = front;
	return give(error, message);
}

void godwit_vhost_user_front_close(struct godwit_vhost_user_front *front)
{
	if (front)
		vhost_user_front_end_close(front->front);
	free(front);
}

void godwit_vhost_user_front_limit(struct godwit_vhost_user_front *front, int64_t limit_ns)
{
	vhost_user_front_end_limit(front->front, limit_ns);
}

int godwit_vhost_user_front_begin_memory(struct godwit_vhost_user_front *front,
					 struct godwit_vhost_user_memory *memory, char **message)
{
	return give(vhost_user_front_end_begin_memory(front->front, own_memory(memory)), message);
}

static struct error *ranges_ready(void *context)
{
	const struct godwit_vhost_user_front *front = context;
	int result = front->ready(front->context);

	return result ? error_system(-result, "its memory cannot be used") : NULL;
}

int godwit_vhost_user_front_listen_postcopy(struct godwit_vhost_user_front *front, bool slots,
					    int (*ready)(void *context), char **message)
{
	front->ready = ready;
	vhost_user_front_end_on_ranges(front->front, ready ? ranges_ready : NULL, front);
	return give(
	    vhost_user_front_end_listen_postcopy(front->front, slots ? VHOST_USER_POSTCOPY_SLOTS
								     : VHOST_USER_POSTCOPY_TABLE),
	    message);
}

int godwit_vhost_user_front_begin_state(struct godwit_vhost_user_front *front, bool load, int fd,
					int *other, char **message)
{
	return give(vhost_user_front_end_begin_state(
			front->front, load ? VHOST_USER_LOAD : VHOST_USER_SAVE, fd, other),
		    message);
}

uint64_t godwit_vhost_user_front_features(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_features(front->front);
}

uint64_t godwit_vhost_user_front_protocol(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_protocol(front->front);
}

uint32_t godwit_vhost_user_front_queues(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_queues(front->front);
}

uint32_t godwit_vhost_user_front_slots(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_slots(front->front);
}

int godwit_vhost_user_front_fd(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_fd(front->front);
}

int godwit_vhost_user_front_backend_fd(const struct godwit_vhost_user_front *front)
{
	return vhost_user_front_end_backend_fd(front->front);
}

int godwit_vhost_user_front_serve(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_serve(front->front), message);
}

int godwit_vhost_user_front_set_features(struct godwit_vhost_user_front *front, uint64_t features,
					 char **message)
{
	return give(vhost_user_front_end_set_features(front->front, features), message);
}

int godwit_vhost_user_front_set_status(struct godwit_vhost_user_front *front, uint8_t status,
				       char **message)
{
	return give(vhost_user_front_end_set_status(front->front, status), message);
}

int godwit_vhost_user_front_reset(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_reset(front->front), message);
}

int godwit_vhost_user_front_get_config(struct godwit_vhost_user_front *front, uint32_t offset,
				       uint32_t size, void *bytes, char **message)
{
	return give(vhost_user_front_end_get_config(front->front, offset, size, bytes), message);
}

int godwit_vhost_user_front_set_config(struct godwit_vhost_user_front *front, uint32_t offset,
				       uint32_t size, const void *bytes, bool migration,
				       char **message)
{
	return give(vhost_user_front_end_set_config(front->front, offset, size, bytes, migration),
		    message);
}

int godwit_vhost_user_front_change_memory(struct godwit_vhost_user_front *front,
					  const struct godwit_vhost_user_range *gone,
					  size_t gone_count,
					  const struct godwit_vhost_user_range *come,
					  size_t come_count, char **message)
{
	return give(vhost_user_front_end_change_memory(
			front->front, (const struct vhost_user_range *)gone, gone_count,
			(const struct vhost_user_range *)come, come_count),
		    message);
}

int godwit_vhost_user_front_tidy_memory(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_tidy_memory(front->front), message);
}

int godwit_vhost_user_front_start_ring(struct godwit_vhost_user_front *front, uint32_t index,
				       const struct godwit_vhost_user_ring *ring, char **message)
{
	return give(vhost_user_front_end_start_ring(front->front, index,
						    (const struct vhost_user_ring_setup *)ring),
		    message);
}

int godwit_vhost_user_front_enable_ring(struct godwit_vhost_user_front *front, uint32_t index,
					bool enable, char **message)
{
	return give(vhost_user_front_end_enable_ring(front->front, index, enable), message);
}

int godwit_vhost_user_front_set_call(struct godwit_vhost_user_front *front, uint32_t index,
				     int call, char **message)
{
	return give(vhost_user_front_end_set_call(front->front, index, call), message);
}

int godwit_vhost_user_front_stop_ring(struct godwit_vhost_user_front *front, uint32_t index,
				      uint32_t *base, char **message)
{
	return give(vhost_user_front_end_stop_ring(front->front, index, base), message);
}

int godwit_vhost_user_front_start_log(struct godwit_vhost_user_front *front, int fd,
				      uint64_t offset, uint64_t size, char **message)
{
	return give(vhost_user_front_end_start_log(front->front, fd, offset, size), message);
}

int godwit_vhost_user_front_stop_log(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_stop_log(front->front), message);
}

int godwit_vhost_user_front_get_inflight(struct godwit_vhost_user_front *front, uint16_t queues,
					 uint16_t queue_size,
					 struct godwit_vhost_user_inflight *inflight, int *fd,
					 char **message)
{
	return give(vhost_user_front_end_get_inflight(front->front, queues, queue_size,
						      (struct vhost_user_inflight *)inflight, fd),
		    message);
}

int godwit_vhost_user_front_set_inflight(struct godwit_vhost_user_front *front,
					 const struct godwit_vhost_user_inflight *inflight, int fd,
					 char **message)
{
	return give(vhost_user_front_end_set_inflight(
			front->front, (const struct vhost_user_inflight *)inflight, fd),
		    message);
}

int godwit_vhost_user_front_check_state(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_check_state(front->front), message);
}

int godwit_vhost_user_front_advise_postcopy(struct godwit_vhost_user_front *front, int *userfault,
					    char **message)
{
	return give(vhost_user_front_end_advise_postcopy(front->front, userfault), message);
}

int godwit_vhost_user_front_end_postcopy(struct godwit_vhost_user_front *front, char **message)
{
	return give(vhost_user_front_end_end_postcopy(front->front), message);
}

bool godwit_vhost_user_front_client_range(const struct godwit_vhost_user_front *front, size_t index,
					  struct godwit_vhost_user_client_range *range)
{
	return vhost_user_front_end_client_range(front->front, index,
						 (struct vhost_user_client_range *)range);
}

/* --- The back-end ------------------------------------------------------------------------------ */

/* The device's answer as an error. */
static struct error *refused(int result)
{
	return result ? error_system(result < 0 ? -result : EIO, "the device refuses") : NULL;
}

static struct error *set_features(void *context, uint64_t features)
{
	const struct godwit_vhost_user_back *back = context;

	return back->device->set_features
		   ? refused(back->device->set_features(back->context, features))
		   : NULL;
}

static struct error *get_config(void *context, uint32_t offset, uint32_t size, uint8_t *bytes)
{
	const struct godwit_vhost_user_back *back = context;

	return refused(back->device->get_config(back->context, offset, size, bytes));
}

static struct error *set_config(void *context, uint32_t offset, uint32_t size, const uint8_t *bytes,
				bool migration)
{
	const struct godwit_vhost_user_back *back = context;

	return refused(back->device->set_config(back->context, offset, size, bytes, migration));
}

static struct error *start_ring(void *context, uint32_t ring)
{
	const struct godwit_vhost_user_back *back = context;

	return refused(back->device->start_ring(back->context, ring));
}

static void enable_ring(void *context, uint32_t ring, bool enabled)
{
	const struct godwit_vhost_user_back *back = context;

	if (back->device->enable_ring)
		back->device->enable_ring(back->context, ring, enabled);
}

static struct error *stop_ring(void *context, uint32_t ring, uint32_t *base)
{
	const struct godwit_vhost_user_back *back = context;

	return refused(back->device->stop_ring(back->context, ring, base));
}

static void memory_goes(void *context, uint64_t guest_address, uint64_t size)
{
	const struct godwit_vhost_user_back *back = context;

	if (back->device->memory_goes)
		back->device->memory_goes(back->context, guest_address, size);
}

static struct error *transfer_state(void *context, bool save, int fd)
{
	const struct godwit_vhost_user_back *back = context;

	return refused(back->device->transfer_state(back->context, save, fd));
}

static struct error *check_state(void *context)
{
	const struct godwit_vhost_user_back *back = context;

	return back->device->check_state ? refused(back->device->check_state(back->context)) : NULL;
}

static void reset(void *context)
{
	const struct godwit_vhost_user_back *back = context;

	if (back->device->reset)
		back->device->reset(back->context);
}

static struct error *open_back(int fd, const struct godwit_vhost_user_back_options *options,
			       struct godwit_vhost_user_back *back)
{
	const struct godwit_vhost_user_device *device = options->device;

	back->device = device;
	back->context = options->context;
	back->ops = (struct vhost_user_back_end_ops){
	    .set_features = set_features,
	    .get_config = device->get_config ? get_config : NULL,
	    .set_config = device->set_config ? set_config : NULL,
	    .start_ring = start_ring,
	    .enable_ring = enable_ring,
	    .stop_ring = stop_ring,
	    .memory_goes = memory_goes,
	    .transfer_state = device->transfer_state ? transfer_state : NULL,
	    .check_state = check_state,
	    .reset = reset};
	return vhost_user_back_end_open(
	    fd,
	    &(struct vhost_user_back_end_options){.features = options->features,
						  .protocol = options->protocol,
						  .queues = options->queues,
						  .queue_size = options->queue_size,
						  .slots = options->slots,
						  .time_limit_ns = options->limit_ns,
						  .ops = &back->ops,
						  .context = back},
	    &back->back);
}

int godwit_vhost_user_back_open(int fd, const struct godwit_vhost_user_back_options *options,
				struct godwit_vhost_user_back **result, char **message)
{
	struct godwit_vhost_user_back *back = calloc(1, sizeof(*back));
	struct error *error;

	*result = NULL;
	if (!back) {
		close(fd);
		return give(error_system(ENOMEM, "cannot begin a session"), message);
	}
	error = open_back(fd, options, back);
	if (error)
		free(back);
	else
		*result = back;
	return give(error, message);
}

void godwit_vhost_user_back_close(struct godwit_vhost_user_back *back)
{
	if (back)
		vhost_user_back_end_close(back->back);
	free(back);
}

bool godwit_vhost_user_back_ring(const struct godwit_vhost_user_back *back, uint32_t index,
				 struct godwit_vhost_user_back_ring *ring)
{
	if (index >= VHOST_USER_RINGS_MAX)
		return false;
	memcpy(ring, vhost_user_back_end_ring(back->back, index), sizeof(*ring));
	return true;
}

void *godwit_vhost_user_back_guest(const struct godwit_vhost_user_back *back,
				   uint64_t guest_address, uint64_t *size)
{
	return vhost_user_back_end_guest_part(back->back, guest_address, size);
}

int godwit_vhost_user_back_fd(const struct godwit_vhost_user_back *back)
{
	return vhost_user_back_end_fd(back->back);
}

int godwit_vhost_user_back_process(struct godwit_vhost_user_back *back, char **message)
{
	return give(vhost_user_back_end_process(back->back), message);
}

uint64_t godwit_vhost_user_back_features(const struct godwit_vhost_user_back *back)
{
	return vhost_user_back_end_features(back->back);
}

uint64_t godwit_vhost_user_back_protocol(const struct godwit_vhost_user_back *back)
{
	return vhost_user_back_end_protocol(back->back);
}

void godwit_vhost_user_back_wrote(struct godwit_vhost_user_back *back, uint64_t guest_address,
				  uint64_t size)
{
	vhost_user_back_end_wrote(back->back, guest_address, size);
}

void godwit_vhost_user_back_wrote_used(struct godwit_vhost_user_back *back, uint32_t ring,
				       uint64_t offset, uint64_t size)
{
	vhost_user_back_end_wrote_used(back->back, ring, offset, size);
}

void godwit_vhost_user_back_call(struct godwit_vhost_user_back *back, uint32_t ring)
{
	vhost_user_back_end_call(back->back, ring);
}

int godwit_vhost_user_back_config_changed(struct godwit_vhost_user_back *back, char **message)
{
	return give(vhost_user_back_end_config_changed(back->back), message);
}

void *godwit_vhost_user_back_inflight(const struct godwit_vhost_user_back *back, uint32_t index,
				      size_t *size)
{
	return vhost_user_back_end_inflight(back->back, index, size);
}
