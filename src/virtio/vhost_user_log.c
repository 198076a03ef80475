/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a back-end writes to guest memory, for who copies that of a running guest: a source of the log of
 * writes (memory/dirty_log.h). While the log is on, the back-end marks pages in a bitmap that it
 * shares with this process, a bit for each page of guest memory from address 0 up to the end of all
 * regions, whatever of them is plugged.
 *
 * The bitmap is on the device's loop; only collecting, which the log orders behind starting and before
 * stopping, is on the collector's thread, and takes marks with atomic exchanges.
 *
 * A back-end that dies may have written what it did not mark: all pages count as written then. One that
 * marks too little spoils the copy, as it could spoil the original; what it marks where no memory is,
 * or none that is plugged, is not looked at. It cannot cut the bitmap off, which is sealed.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "virtio/vhost_user_device_private.h"

/* The pages that one page of the bitmap is about: 128 MiB. What nobody has marked there stays a hole. */
#define PAGES_EACH (DIRTY_PAGE_SIZE * 8)

static struct vhost_user_device *from_source(struct dirty_source *source)
{
	return CONTAINER_OF(source, struct vhost_user_device, log.source);
}

/* --- The bitmap -------------------------------------------------------------------------------- */

static uint64_t size_for(const struct memory_map *map)
{
	const struct memory_region *region;
	uint64_t end = 0;

	for (region = memory_map_first(map); region; region = region->next)
		end = MAX(end, region->address + region->size);
	return (end / DIRTY_PAGE_SIZE / PAGES_EACH + 1) * DIRTY_PAGE_SIZE;
}

static void destroy_bitmap(struct vhost_user_log *log)
{
	if (log->words)
		munmap(log->words, log->size);
	log->words = NULL;
	close_fd(&log->fd);
}

static struct error *create_bitmap(struct vhost_user_log *log, const struct memory_map *map)
{
	void *words;

	log->size = size_for(map);
	log->fd = memfd_create("written", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (log->fd < 0 || ftruncate(log->fd, (off_t)log->size) < 0 ||
	    fcntl(log->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_system(errno, "a log of writes for a back-end");
	words = mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
	if (words == MAP_FAILED)
		return error_system(errno, "a log of writes for a back-end");
	log->words = words;
	return NULL;
}

/* --- Starting and stopping --------------------------------------------------------------------- */

bool vhost_user_log_offered(uint64_t features, uint64_t protocol)
{
	return protocol & VHOST_USER_PROTOCOL_LOG_SHMFD && features & VHOST_F_LOG_ALL;
}

struct error *vhost_user_log_give(struct vhost_user_device *vhost)
{
	return vhost->log.words
		   ? vhost_user_front_end_start_log(vhost->front, vhost->log.fd, 0, vhost->log.size)
		   : NULL;
}

static bool any_runs(const struct vhost_user_device *vhost)
{
	for (uint16_t i = 0; i < vhost->queues; i++)
		if (vhost->rings[i].running)
			return true;
	return false;
}

/* Only a back-end that refuses is an error: one that has gone marks nothing, and its successor will. */
static struct error *give_to_rings(struct vhost_user_device *vhost)
{
	struct error *error = vhost_user_log_give(vhost);

	if (error && vhost_user_front_end_broken(vhost->front))
		vhost_user_connection_failed(vhost, TAKE_PTR(error));
	else if (error)
		error_free(vhost_user_front_end_stop_log(vhost->front));
	vhost_user_connection_settle(vhost);
	return error;
}

struct request {
	struct vhost_user_device *vhost;
	struct error *error;
};

static void start_on_loop(void *context)
{
	struct request *request = context;
	struct vhost_user_device *vhost = request->vhost;

	request->error = create_bitmap(&vhost->log, vhost->device.map);
	/* Rings that start later are told then. */
	if (!request->error && any_runs(vhost))
		request->error = give_to_rings(vhost);
	if (request->error)
		destroy_bitmap(&vhost->log);
}

static void stop_on_loop(void *context)
{
	struct vhost_user_device *vhost = context;
	struct error *error;

	destroy_bitmap(&vhost->log);
	if (!vhost->front)
		return;
	error = vhost_user_front_end_stop_log(vhost->front);
	if (error)
		vhost_user_connection_failed(vhost, error);
	vhost_user_connection_settle(vhost);
}

static struct error *start(struct dirty_source *source)
{
	struct request request = {from_source(source), NULL};

	event_loop_call(request.vhost->device.loop, start_on_loop, &request);
	return request.error;
}

static void stop(struct dirty_source *source)
{
	struct vhost_user_device *vhost = from_source(source);

	event_loop_call(vhost->device.loop, stop_on_loop, vhost);
}

/* --- Collecting -------------------------------------------------------------------------------- */

/* Moves the marks of @count pages from guest page @first on to @pages, from @to on. */
static void take_marks(struct vhost_user_log *log, uint64_t first, uint64_t count, uint64_t *pages,
		       uint64_t to)
{
	while (count) {
		uint64_t *word = &log->words[first / 64], shift = first % 64;
		uint64_t step = MIN(64 - shift, count);
		uint64_t mask = (step == 64 ? ~0ULL : (1ULL << step) - 1) << shift;

		if (__atomic_load_n(word, __ATOMIC_RELAXED) & mask) {
			uint64_t marks =
			    (__atomic_fetch_and(word, ~mask, __ATOMIC_ACQUIRE) & mask) >> shift;

			pages[to / 64] |= marks << to % 64;
			if (to % 64 && marks >> (64 - to % 64))
				pages[to / 64 + 1] |= marks >> (64 - to % 64);
		}
		first += step;
		to += step;
		count -= step;
	}
}

static void collect_region(struct vhost_user_log *log, const struct memory_region *region,
			   uint64_t *pages)
{
	uint64_t first = region->address / DIRTY_PAGE_SIZE, count, done;
	uint64_t to = region->block_offset / DIRTY_PAGE_SIZE;

	for (done = 0; done < region->size / DIRTY_PAGE_SIZE; done += count) {
		count = MIN(PAGES_EACH - (first + done) % PAGES_EACH,
			    region->size / DIRTY_PAGE_SIZE - done);
		/* To look into a hole is to fill it. */
		if (!region->unit || memory_region_any_plugged(region, done * DIRTY_PAGE_SIZE,
							       count * DIRTY_PAGE_SIZE))
			take_marks(log, first + done, count, pages, to + done);
	}
}

static struct error *collect(struct dirty_source *source, const struct ram_block *block,
			     uint64_t *pages)
{
	struct vhost_user_device *vhost = from_source(source);
	const struct memory_region *region;

	for (region = memory_map_first(vhost->device.map); region; region = region->next)
		if (region->block == block)
			collect_region(&vhost->log, region, pages);
	return NULL;
}

void vhost_user_log_lost(struct vhost_user_device *vhost)
{
	struct vhost_user_log *log = &vhost->log;

	for (size_t i = 0; log->words && i < log->size / sizeof(*log->words); i++)
		__atomic_store_n(&log->words[i], ~0ULL, __ATOMIC_RELEASE);
}

/* --- Life -------------------------------------------------------------------------------------- */

void vhost_user_log_begin(struct vhost_user_device *vhost)
{
	vhost->log.fd = -1;
	vhost->log.source = (struct dirty_source){.start = start, .stop = stop, .collect = collect};
	dirty_log_add_source(memory_map_dirty_log(vhost->device.map), &vhost->log.source);
	vhost->log.added = true;
}

void vhost_user_log_end(struct vhost_user_device *vhost)
{
	if (vhost->log.added)
		dirty_log_remove_source(memory_map_dirty_log(vhost->device.map),
					&vhost->log.source);
	vhost->log.added = false;
}
