/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end's memory: the front-end's regions, mapped and found again by guest or user address.
 *
 * Runs on the session's thread. The front-end controls regions and files: a region must be in its
 * file, must not wrap and must not overlap another in either address. Regions are kept in two sorted
 * lists of pointers, so that thousands of them cost a search and a short move each.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "vhost_user/back_end_private.h"

/* --- Files ------------------------------------------------------------------------------------- */

struct error *back_map(int fd, uint64_t offset, uint64_t size, struct back_file *file)
{
	uint64_t end, start, page;
	struct stat status;
	void *map;

	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_blksize <= 0)
		return error_new(EINVAL, "a descriptor is no file that could be shared");
	if (!size || !checked_add(offset, size, &end) || end > (uint64_t)status.st_size)
		return error_new(EINVAL,
				 "%" PRIu64 " bytes at %" PRIu64
				 " are not in their file, which has %" PRIu64,
				 size, offset, (uint64_t)status.st_size);
	/* Huge pages are mapped whole; for other files the block size is a page or more as well. */
	page = is_power_of_two((uint64_t)status.st_blksize) ? (uint64_t)status.st_blksize : 4096;
	start = align_down(offset, page);
	if (!checked_align_up(end, page, &end))
		return error_new(EINVAL, "%" PRIu64 " bytes at %" PRIu64 " wrap", size, offset);
	map = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		   (off_t)start);
	if (map == MAP_FAILED)
		return error_system(errno, "cannot map %" PRIu64 " bytes at %" PRIu64, size,
				    offset);
	*file = (struct back_file){(uint8_t *)map + (offset - start), size, map, end - start};
	return NULL;
}

void back_unmap(struct back_file *file)
{
	if (file->map)
		munmap(file->map, file->map_size);
	*file = (struct back_file){0};
}

/* --- Tables ------------------------------------------------------------------------------------ */

static uint64_t key_of(const struct back_region *region, bool user)
{
	return user ? region->region.user_address : region->region.guest_address;
}

/* The number of regions that begin at or below @address. */
static uint32_t find(struct back_region *const *list, uint32_t count, uint64_t address, bool user)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (key_of(list[middle], user) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct back_region *region_at(const struct back_table *table, uint64_t address, bool user)
{
	struct back_region **list = user ? table->by_user : table->by_guest;
	uint32_t place = find(list, table->count, address, user);
	struct back_region *region;

	if (!place)
		return NULL;
	region = list[place - 1];
	return address - key_of(region, user) < region->region.size ? region : NULL;
}

/* Whether the range is free in one of the two address spaces. */
static bool is_free(const struct back_table *table, uint64_t address, uint64_t size, bool user)
{
	struct back_region **list = user ? table->by_user : table->by_guest;
	uint32_t place = find(list, table->count, address + size - 1, user);

	return !place || !ranges_overlap(key_of(list[place - 1], user),
					 list[place - 1]->region.size, address, size);
}

static struct error *check_region(const struct back_table *table,
				  const struct vhost_user_region *region)
{
	uint64_t end;

	if (!region->size || !checked_add(region->guest_address, region->size - 1, &end) ||
	    !checked_add(region->user_address, region->size - 1, &end))
		return error_new(EINVAL,
				 "memory at 0x%" PRIx64 " of %#" PRIx64
				 " bytes at user address %#" PRIx64 " is no range",
				 region->guest_address, region->size, region->user_address);
	if (!is_free(table, region->guest_address, region->size, false) ||
	    !is_free(table, region->user_address, region->size, true))
		return error_new(EINVAL,
				 "memory at 0x%" PRIx64 " of %#" PRIx64
				 " bytes overlaps memory that is mapped",
				 region->guest_address, region->size);
	return NULL;
}

static void insert_into(struct back_region **list, uint32_t count, struct back_region *region,
			bool user)
{
	uint32_t place = find(list, count, key_of(region, user), user);

	memmove(list + place + 1, list + place, (count - place) * sizeof(*list));
	list[place] = region;
}

static void remove_from(struct back_region **list, uint32_t count, const struct back_region *region,
			bool user)
{
	uint32_t place = find(list, count, key_of(region, user), user) - 1;

	memmove(list + place, list + place + 1, (count - place - 1) * sizeof(*list));
}

static struct error *grow(struct back_table *table)
{
	uint32_t capacity = table->capacity ? 2 * table->capacity : 8;
	struct back_region **list;

	if (table->count < table->capacity)
		return NULL;
	list = reallocarray(table->by_guest, capacity, sizeof(struct back_region *));
	if (list)
		table->by_guest = list;
	list = list ? reallocarray(table->by_user, capacity, sizeof(struct back_region *)) : NULL;
	if (!list)
		return error_system(ENOMEM, "cannot note a piece of memory");
	table->by_user = list;
	table->capacity = capacity;
	return NULL;
}

static void insert(struct back_table *table, struct back_region *region)
{
	insert_into(table->by_guest, table->count, region, false);
	insert_into(table->by_user, table->count, region, true);
	table->count++;
}

static void take_out(struct back_table *table, const struct back_region *region)
{
	remove_from(table->by_guest, table->count, region, false);
	remove_from(table->by_user, table->count, region, true);
	table->count--;
}

/* The device is told before, and the region is freed. */
static void free_region(struct vhost_user_back_end *back, struct back_region *region)
{
	const struct vhost_user_back_end_ops *ops = back->options.ops;

	if (ops->memory_goes)
		ops->memory_goes(back->options.context, region->region.guest_address,
				 region->region.size);
	back_unmap(&region->file);
	free(region);
}

void back_free_table(struct vhost_user_back_end *back, struct back_table *table)
{
	for (uint32_t i = 0; i < table->count; i++)
		free_region(back, table->by_guest[i]);
	free(table->by_guest);
	free(table->by_user);
	*table = (struct back_table){0};
}

/* --- Regions ----------------------------------------------------------------------------------- */

static struct error *new_region(struct vhost_user_back_end *back, struct back_table *table,
				const struct vhost_user_region *is, int fd,
				struct back_region **result)
{
	struct back_region *region;
	struct stat status;
	struct error *error;

	TRY(check_region(table, is));
	TRY(grow(table));
	if (fstat(fd, &status) < 0)
		return error_system(errno, "memory at 0x%" PRIx64, is->guest_address);
	region = calloc(1, sizeof(*region));
	if (!region)
		return error_system(ENOMEM, "memory at 0x%" PRIx64, is->guest_address);
	*region =
	    (struct back_region){.region = *is, .device = status.st_dev, .inode = status.st_ino};
	error = back_map(fd, is->offset, is->size, &region->file);
	if (!error && back->postcopy == BACK_POSTCOPY_LISTENS)
		error = back_watch_faults(back, region);
	if (error) {
		back_unmap(&region->file);
		free(region);
		return error_prefix(error, "memory at 0x%" PRIx64, is->guest_address);
	}
	insert(table, region);
	*result = region;
	return NULL;
}

static struct error *end_of_addresses(struct vhost_user_back_end *back,
				      const struct vhost_user_message *message)
{
	if (message->u64)
		return error_new(EPROTO, "%s ends post-copy's addresses with %#" PRIx64,
				 message->type->name, message->u64);
	back->gated = false;
	return NULL;
}

struct error *back_add_region(struct vhost_user_back_end *back, struct vhost_user_message *message,
			      struct vhost_user_message *reply)
{
	struct back_region *region;

	if (message->payload == VHOST_USER_U64)
		return end_of_addresses(back, message);
	if (back->table.count >= back->options.slots)
		return error_new(ENOSPC, "memory at 0x%" PRIx64 ": %" PRIu32 " pieces are the most",
				 message->region.guest_address, back->options.slots);
	TRY(new_region(back, &back->table, &message->region, message->fds[0], &region));
	if (back->postcopy == BACK_POSTCOPY_LISTENS) {
		back->gated = true;
		reply->type = message->type;
		reply->payload = VHOST_USER_REGION;
		reply->region = region->region;
		reply->region.user_address = (uintptr_t)region->file.bytes;
	}
	return NULL;
}

struct error *back_remove_region(struct vhost_user_back_end *back,
				 struct vhost_user_message *message,
				 struct vhost_user_message *reply)
{
	const struct vhost_user_region *is = &message->region;
	struct back_region *region = region_at(&back->table, is->guest_address, false);

	if (!region || region->region.guest_address != is->guest_address ||
	    region->region.size != is->size || region->region.user_address != is->user_address)
		return error_new(ENOENT,
				 "memory at 0x%" PRIx64 " of %#" PRIx64 " bytes was not added so",
				 is->guest_address, is->size);
	if (back_ring_uses(back, &region->region))
		return error_new(EBUSY, "memory at 0x%" PRIx64 " has a ring that runs",
				 is->guest_address);
	take_out(&back->table, region);
	free_region(back, region);
	return NULL;
}

/* Keeps what is mapped already: nothing that stays is unmapped. */
static struct back_region *take_same(struct vhost_user_back_end *back,
				     const struct vhost_user_region *is, int fd)
{
	struct back_region *region = region_at(&back->table, is->guest_address, false);
	struct stat status;

	if (!region || memcmp(&region->region, is, sizeof(*is)) || fstat(fd, &status) < 0 ||
	    status.st_dev != region->device || status.st_ino != region->inode)
		return NULL;
	take_out(&back->table, region);
	region->kept = true;
	return region;
}

/* The old table is as it was: what it had has its place there still. */
static void give_back(struct vhost_user_back_end *back, struct back_table *table)
{
	uint32_t i = 0;

	while (i < table->count) {
		struct back_region *region = table->by_guest[i];

		if (!region->kept) {
			i++;
			continue;
		}
		take_out(table, region);
		region->kept = false;
		insert(&back->table, region);
	}
}

static struct error *fill_table(struct vhost_user_back_end *back, struct back_table *table,
				const struct vhost_user_message *message)
{
	for (uint32_t i = 0; i < message->regions.count; i++) {
		const struct vhost_user_region *is = &message->regions.list[i];
		struct back_region *region = NULL;

		TRY(check_region(table, is));
		TRY(grow(table));
		if (back->postcopy != BACK_POSTCOPY_LISTENS)
			region = take_same(back, is, message->fds[i]);
		if (region)
			insert(table, region);
		else
			TRY(new_region(back, table, is, message->fds[i], &region));
	}
	return back_resolve_rings(back, table, false);
}

static void answer_addresses(const struct vhost_user_back_end *back,
			     const struct vhost_user_message *message,
			     struct vhost_user_message *reply)
{
	reply->type = message->type;
	reply->payload = VHOST_USER_REGIONS;
	reply->regions.count = message->regions.count;
	for (uint32_t i = 0; i < message->regions.count; i++) {
		const struct vhost_user_region *is = &message->regions.list[i];
		const struct back_region *region =
		    region_at(&back->table, is->guest_address, false);

		reply->regions.list[i] = *is;
		reply->regions.list[i].user_address = (uintptr_t)region->file.bytes;
	}
}

struct error *back_set_table(struct vhost_user_back_end *back, struct vhost_user_message *message,
			     struct vhost_user_message *reply)
{
	struct back_table table = {0};
	struct error *error;

	if (back->gated && !message->regions.count) {
		back->gated = false;
		return NULL;
	}
	error = fill_table(back, &table, message);
	if (error) {
		give_back(back, &table);
		back_free_table(back, &table);
		return error_prefix(error, "%s", message->type->name);
	}
	TRY(back_resolve_rings(back, &table, true));
	back_free_table(back, &back->table);
	back->table = table;
	for (uint32_t i = 0; i < table.count; i++)
		table.by_guest[i]->kept = false;
	if (back->postcopy == BACK_POSTCOPY_LISTENS) {
		back->gated = true;
		answer_addresses(back, message, reply);
	}
	return NULL;
}

/* --- Addresses --------------------------------------------------------------------------------- */

void *back_user(const struct back_table *table, uint64_t user_address, uint64_t size)
{
	const struct back_region *region = region_at(table, user_address, true);

	if (!region ||
	    !range_contains(region->region.user_address, region->region.size, user_address, size))
		return NULL;
	return region->file.bytes + (user_address - region->region.user_address);
}

uint64_t back_guest_address(const struct back_table *table, uint64_t user_address)
{
	const struct back_region *region = region_at(table, user_address, true);

	return region->region.guest_address + (user_address - region->region.user_address);
}

void *vhost_user_back_end_guest_part(const struct vhost_user_back_end *back, uint64_t guest_address,
				     uint64_t *size)
{
	const struct back_region *region = region_at(&back->table, guest_address, false);
	uint64_t offset;

	if (!region)
		return NULL;
	offset = guest_address - region->region.guest_address;
	*size = MIN(*size, region->region.size - offset);
	return region->file.bytes + offset;
}

void *vhost_user_back_end_guest(const struct vhost_user_back_end *back, uint64_t guest_address,
				uint64_t size)
{
	uint64_t there = size;
	void *pointer = vhost_user_back_end_guest_part(back, guest_address, &there);

	return there == size ? pointer : NULL;
}

uint32_t vhost_user_back_end_regions(const struct vhost_user_back_end *back)
{
	return back->table.count;
}
