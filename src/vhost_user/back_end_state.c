/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end's log of what it writes, the buffer of what is in flight, its device's state, post-copy.
 *
 * Runs on the session's thread; marks and notes may be made from any. The front-end controls files,
 * sizes and offsets: what is marked beyond the log's end is dropped, and a buffer that is too small for
 * its queues is refused.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/checked.h"
#include "vhost_user/back_end_private.h"
#include "vhost_user/inflight.h"

#define LOG_PAGE 4096U

/* --- The log ----------------------------------------------------------------------------------- */

static void mark(struct vhost_user_back_end *back, uint64_t address, uint64_t size)
{
	uint64_t last;

	if (!back->log.bytes || !(back->features & VHOST_F_LOG_ALL) || !size ||
	    !checked_add(address, size - 1, &last))
		return;
	last = MIN(last / LOG_PAGE, back->log.size * 8 - 1);
	for (uint64_t page = address / LOG_PAGE; page <= last; page++)
		atomic_fetch_or_explicit((_Atomic uint8_t *)&back->log.bytes[page / 8],
					 (uint8_t)(1U << page % 8), memory_order_seq_cst);
}

void vhost_user_back_end_wrote(struct vhost_user_back_end *back, uint64_t guest_address,
			       uint64_t size)
{
	mark(back, guest_address, size);
}

void vhost_user_back_end_wrote_used(struct vhost_user_back_end *back, uint32_t ring,
				    uint64_t offset, uint64_t size)
{
	const struct vhost_user_ring_address *address = &back->rings[ring].address;
	uint64_t at;

	if (address->flags & VHOST_USER_RING_LOG && checked_add(address->log, offset, &at))
		mark(back, at, size);
}

static struct error *set_log(struct vhost_user_back_end *back,
			     const struct vhost_user_message *message,
			     struct vhost_user_message *reply)
{
	struct back_file log = {0};

	TRY(error_prefix(back_map(message->fds[0], message->log.offset, message->log.size, &log),
			 "the log"));
	if (back->options.ops->memory_goes)
		back->options.ops->memory_goes(back->options.context, 0, 0);
	back_unmap(&back->log);
	back->log = log;
	reply->type = message->type;
	reply->payload = VHOST_USER_U64;
	return NULL;
}

/* --- What is in flight ------------------------------------------------------------------------- */

static struct error *check_queues(const struct vhost_user_back_end *back,
				  const struct vhost_user_message *message, uint64_t *size)
{
	const struct vhost_user_inflight *inflight = &message->inflight;

	if (!inflight->queues || inflight->queues > back->options.queues || !inflight->queue_size ||
	    inflight->queue_size > back->options.queue_size)
		return error_new(EPROTO, "%s is for %u queues of %u", message->type->name,
				 inflight->queues, inflight->queue_size);
	*size = inflight->queues *
		vhost_user_inflight_size(back->features & RING_PACKED, inflight->queue_size);
	return NULL;
}

static void use_inflight(struct vhost_user_back_end *back, const struct back_file *file,
			 const struct vhost_user_inflight *inflight)
{
	if (back->options.ops->memory_goes)
		back->options.ops->memory_goes(back->options.context, 0, 0);
	back_unmap(&back->inflight);
	back->inflight = *file;
	back->inflight_queues = inflight->queues;
	back->inflight_queue_size = inflight->queue_size;
}

static struct error *get_inflight(struct vhost_user_back_end *back,
				  const struct vhost_user_message *message,
				  struct vhost_user_message *reply)
{
	AUTO_CLOSE int fd = -1;
	struct back_file file;
	uint64_t size;

	TRY(check_queues(back, message, &size));
	fd = memfd_create("in-flight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_system(errno, "cannot make the in-flight buffer");
	TRY(back_map(fd, 0, size, &file));
	use_inflight(back, &file, &message->inflight);
	reply->type = message->type;
	reply->payload = VHOST_USER_INFLIGHT;
	reply->inflight = message->inflight;
	reply->inflight.size = size;
	reply->inflight.offset = 0;
	reply->fds[0] = TAKE_FD(fd); /* closed when it was sent */
	reply->fd_count = 1;
	return NULL;
}

static struct error *set_inflight(struct vhost_user_back_end *back,
				  const struct vhost_user_message *message)
{
	struct back_file file;
	uint64_t size;

	TRY(check_queues(back, message, &size));
	if (message->inflight.size < size)
		return error_new(EPROTO, "%s is a buffer of %" PRIu64 " bytes, not %" PRIu64,
				 message->type->name, message->inflight.size, size);
	TRY(error_prefix(
	    back_map(message->fds[0], message->inflight.offset, message->inflight.size, &file),
	    "the in-flight buffer"));
	if ((uintptr_t)file.bytes % 8) {
		back_unmap(&file);
		return error_new(EPROTO, "%s begins at %" PRIu64, message->type->name,
				 message->inflight.offset);
	}
	use_inflight(back, &file, &message->inflight);
	return NULL;
}

void *vhost_user_back_end_inflight(const struct vhost_user_back_end *back, uint32_t index,
				   size_t *size)
{
	*size = vhost_user_inflight_size(back->features & RING_PACKED, back->inflight_queue_size);
	/* The features, and with them the size, may have changed since. */
	return back->inflight.bytes && index < back->inflight_queues &&
		       (index + 1) * *size <= back->inflight.size
		   ? back->inflight.bytes + index * *size
		   : NULL;
}

/* --- State ------------------------------------------------------------------------------------- */

static struct error *set_state_fd(struct vhost_user_back_end *back,
				  struct vhost_user_message *message,
				  struct vhost_user_message *reply)
{
	struct error *error = NULL;

	if (message->transfer.direction > 1 || message->transfer.phase)
		return error_new(EPROTO, "%s has direction %" PRIu32 " and phase %" PRIu32,
				 message->type->name, message->transfer.direction,
				 message->transfer.phase);
	if (back_any_runs(back))
		return error_new(EPROTO, "%s while a ring runs", message->type->name);
	error =
	    back->options.ops->transfer_state(back->options.context, !message->transfer.direction,
					      vhost_user_message_take_fd(message, 0));
	reply->type = message->type;
	reply->payload = VHOST_USER_U64;
	reply->u64 = VHOST_USER_NO_FD | !!error;
	error_free(error);
	return NULL;
}

static struct error *answer(const struct vhost_user_message *message, uint64_t value,
			    struct vhost_user_message *reply)
{
	reply->type = message->type;
	reply->payload = VHOST_USER_U64;
	reply->u64 = value;
	return NULL;
}

static struct error *check_state(struct vhost_user_back_end *back,
				 const struct vhost_user_message *message,
				 struct vhost_user_message *reply)
{
	struct error *error = back->options.ops->check_state
				  ? back->options.ops->check_state(back->options.context)
				  : NULL;
	uint64_t value = !!error;

	error_free(error);
	return answer(message, value, reply);
}

/* --- Post-copy --------------------------------------------------------------------------------- */

static struct error *advise(struct vhost_user_back_end *back,
			    const struct vhost_user_message *message,
			    struct vhost_user_message *reply)
{
	struct uffdio_api api = {.api = UFFD_API};
	AUTO_CLOSE int fd = -1;

	if (back->postcopy)
		return error_new(EPROTO, "%s comes twice", message->type->name);
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return error_system(errno, "cannot open a userfaultfd");
	reply->type = message->type;
	reply->payload = VHOST_USER_EMPTY;
	reply->fds[0] = dup(fd);
	if (reply->fds[0] < 0)
		return error_system(errno, "cannot hand on a userfaultfd");
	reply->fd_count = 1;
	back->userfault = TAKE_FD(fd);
	back->postcopy = BACK_POSTCOPY_ADVISED;
	return NULL;
}

bool vhost_user_back_end_in_postcopy(const struct vhost_user_back_end *back)
{
	return back->postcopy == BACK_POSTCOPY_LISTENS;
}

static struct error *listen_postcopy(struct vhost_user_back_end *back,
				     const struct vhost_user_message *message,
				     struct vhost_user_message *reply)
{
	if (back->postcopy != BACK_POSTCOPY_ADVISED || back->table.count)
		return error_new(EPROTO, "%s %s", message->type->name,
				 back->table.count ? "comes after memory" : "is not at its place");
	back->postcopy = BACK_POSTCOPY_LISTENS;
	return answer(message, 0, reply);
}

struct error *back_watch_faults(struct vhost_user_back_end *back, struct back_region *region)
{
	struct uffdio_register range = {
	    .range = {(uintptr_t)region->file.map, region->file.map_size},
	    .mode = UFFDIO_REGISTER_MODE_MISSING};

	if (ioctl(back->userfault, UFFDIO_REGISTER, &range) < 0)
		return error_system(errno, "its missing pages cannot be watched");
	region->faults = true;
	return NULL;
}

static struct error *end_postcopy(struct vhost_user_back_end *back,
				  const struct vhost_user_message *message,
				  struct vhost_user_message *reply)
{
	uint64_t failed = 0;

	for (uint32_t i = 0; i < back->table.count; i++) {
		struct back_region *region = back->table.by_guest[i];
		struct uffdio_range range = {(uintptr_t)region->file.map, region->file.map_size};

		if (region->faults && ioctl(back->userfault, UFFDIO_UNREGISTER, &range) < 0)
			failed = 1;
		region->faults = false;
	}
	close_fd(&back->userfault);
	back->postcopy = BACK_POSTCOPY_OFF;
	back->gated = false;
	return answer(message, failed, reply);
}

struct error *back_state_request(struct vhost_user_back_end *back,
				 struct vhost_user_message *message,
				 struct vhost_user_message *reply)
{
	switch (message->type->request) {
	case VHOST_USER_SET_LOG_BASE:
		return set_log(back, message, reply);
	case VHOST_USER_GET_INFLIGHT_FD:
		return get_inflight(back, message, reply);
	case VHOST_USER_SET_INFLIGHT_FD:
		return set_inflight(back, message);
	case VHOST_USER_SET_DEVICE_STATE_FD:
		return set_state_fd(back, message, reply);
	case VHOST_USER_CHECK_DEVICE_STATE:
		return check_state(back, message, reply);
	case VHOST_USER_POSTCOPY_ADVISE:
		return advise(back, message, reply);
	case VHOST_USER_POSTCOPY_LISTEN:
		return listen_postcopy(back, message, reply);
	default:
		return end_postcopy(back, message, reply);
	}
}
