/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Protection domains, regions and windows, and copies to and from what is behind their keys.
 *
 * Runs on the engine's thread. Keys, addresses and sizes are the peer's or the guest's: a key is its
 * index and a generation, both of which must be right, and a place is found only wholly inside. Memory
 * itself is the user's callback, which may refuse or ask for patience; the engine holds no pointer to it
 * longer than one copy.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/engine.h"

#define INDEX(key)    ((key) >> 8)
#define INDEX_MAX     0xffffffU
#define REMOTE_WRITES (GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_ATOMIC)
#define REMOTE_RIGHTS (REMOTE_WRITES | GODWIT_RDMA_REMOTE_READ)
#define REGION_RIGHTS (REMOTE_RIGHTS | GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_BIND_WINDOW)

/* --- Objects ----------------------------------------------------------------------------------- */

int godwit_rdma_domain_create(struct godwit_rdma *engine, struct godwit_rdma_domain **domain)
{
	*domain = calloc(1, sizeof(**domain));
	if (!*domain)
		return -ENOMEM;
	(*domain)->engine = engine;
	engine->users++;
	return 0;
}

int godwit_rdma_domain_destroy(struct godwit_rdma_domain *domain)
{
	if (!domain)
		return 0;
	if (domain->users)
		return -EBUSY;
	domain->engine->users--;
	free(domain);
	return 0;
}

/* A key that is free: @wanted, or any for 0. */
static int choose_key(struct godwit_rdma *engine, uint32_t wanted, uint32_t *key)
{
	if (wanted) {
		*key = wanted;
		if (!INDEX(wanted))
			return -EINVAL;
		return rdma_table_find(&engine->keys, INDEX(wanted)) ? -EEXIST : 0;
	}
	if (engine->keys.count >= INDEX_MAX - 1)
		return -ENOSPC;
	do {
		engine->next_index = engine->next_index % INDEX_MAX + 1;
	} while (rdma_table_find(&engine->keys, engine->next_index));
	*key = engine->next_index << 8 | engine->generation++;
	return 0;
}

bool rdma_region_can_have(uint64_t address, uint64_t size, uint32_t access)
{
	return size && !(access & ~REGION_RIGHTS) &&
	       (!(access & REMOTE_WRITES) || access & GODWIT_RDMA_LOCAL_WRITE) &&
	       address <= UINT64_MAX - (size - 1);
}

int godwit_rdma_region_create(struct godwit_rdma_domain *domain,
			      const struct godwit_rdma_region_options *options,
			      struct godwit_rdma_region **result)
{
	struct godwit_rdma_region *region;
	uint32_t key;
	int status;

	*result = NULL;
	if (!options->memory.span)
		return -EINVAL;
	if (options->by_work
		? !options->memory.registered || options->address || options->size ||
		      options->access
		: !rdma_region_can_have(options->address, options->size, options->access))
		return -EINVAL;
	status = choose_key(domain->engine, options->key, &key);
	if (status < 0)
		return status;
	region = calloc(1, sizeof(*region));
	if (!region)
		return -ENOMEM;
	region->entry.number = INDEX(key);
	region->key = key;
	region->domain = domain;
	region->memory = options->memory;
	region->by_work = options->by_work;
	region->address = options->address;
	region->size = options->size;
	region->access = options->access;
	if (!rdma_table_add(&domain->engine->keys, &region->entry)) {
		free(region);
		return -ENOMEM;
	}
	domain->users++;
	*result = region;
	return 0;
}

int godwit_rdma_region_destroy(struct godwit_rdma_region *region)
{
	if (!region)
		return 0;
	if (region->windows)
		return -EBUSY;
	rdma_table_remove(&region->domain->engine->keys, &region->entry);
	region->domain->users--;
	free(region);
	return 0;
}

uint32_t godwit_rdma_region_key(const struct godwit_rdma_region *region)
{
	return region->key;
}

int godwit_rdma_window_create(struct godwit_rdma_domain *domain, unsigned int type, uint32_t key,
			      struct godwit_rdma_window **result)
{
	struct godwit_rdma_window *window;
	int status;

	*result = NULL;
	if (type != 1 && type != 2)
		return -EINVAL;
	status = choose_key(domain->engine, key, &key);
	if (status < 0)
		return status;
	window = calloc(1, sizeof(*window));
	if (!window)
		return -ENOMEM;
	window->entry.number = INDEX(key);
	window->is_window = true;
	window->key = key;
	window->domain = domain;
	window->type = type;
	if (!rdma_table_add(&domain->engine->keys, &window->entry)) {
		free(window);
		return -ENOMEM;
	}
	domain->users++;
	*result = window;
	return 0;
}

static void unbind(struct godwit_rdma_window *window)
{
	if (window->region)
		window->region->windows--;
	window->region = NULL;
}

int godwit_rdma_window_destroy(struct godwit_rdma_window *window)
{
	if (!window)
		return 0;
	unbind(window);
	rdma_table_remove(&window->domain->engine->keys, &window->entry);
	window->domain->users--;
	free(window);
	return 0;
}

uint32_t godwit_rdma_window_key(const struct godwit_rdma_window *window)
{
	return window->key;
}

/* --- Work -------------------------------------------------------------------------------------- */

static struct godwit_rdma_window *window_of(struct rdma_table_entry *entry)
{
	return CONTAINER_OF(entry, struct godwit_rdma_window, entry);
}

static struct godwit_rdma_region *region_of(struct rdma_table_entry *entry)
{
	return CONTAINER_OF(entry, struct godwit_rdma_region, entry);
}

/* Both kinds have it in the same place. */
static bool is_window(const struct rdma_table_entry *entry)
{
	_Static_assert(offsetof(struct godwit_rdma_region, is_window) ==
			   offsetof(struct godwit_rdma_window, is_window),
		       "regions and windows begin alike");
	return CONTAINER_OF(entry, const struct godwit_rdma_region, entry)->is_window;
}

/* The region of @pair's domain with the index of @key, or NULL. */
static struct godwit_rdma_region *find_region(const struct godwit_rdma_pair *pair, uint32_t key)
{
	struct rdma_table_entry *entry = rdma_table_find(&pair->engine->keys, INDEX(key));

	if (!entry || is_window(entry) || region_of(entry)->domain != pair->domain)
		return NULL;
	return region_of(entry);
}

static struct godwit_rdma_window *find_window(const struct godwit_rdma_pair *pair, uint32_t key)
{
	struct rdma_table_entry *entry = rdma_table_find(&pair->engine->keys, INDEX(key));

	if (!entry || !is_window(entry) || window_of(entry)->domain != pair->domain)
		return NULL;
	return window_of(entry);
}

bool rdma_bind_window(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work)
{
	struct godwit_rdma_window *window = find_window(pair, work->window);
	struct godwit_rdma_region *region = find_region(pair, work->region);

	if (!window || INDEX(work->bind_key) != INDEX(window->key) ||
	    work->bind_access & ~REMOTE_RIGHTS)
		return false;
	/* Type 2 is bound to something, and only when it is not. */
	if (window->type == 2 && (window->region || !work->bind_size))
		return false;
	if (!work->bind_size) {
		unbind(window);
		window->key = work->bind_key;
		return true;
	}
	if (!region || region->key != work->region || !(region->access & GODWIT_RDMA_BIND_WINDOW) ||
	    (work->bind_access & REMOTE_WRITES && !(region->access & GODWIT_RDMA_LOCAL_WRITE)) ||
	    !range_contains(region->address, region->size, work->bind_address, work->bind_size))
		return false;
	unbind(window);
	region->windows++;
	window->region = region;
	window->key = work->bind_key;
	window->address = work->bind_address;
	window->size = work->bind_size;
	window->access = work->bind_access;
	window->pair = pair->entry.number;
	return true;
}

bool rdma_register_region(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work)
{
	struct godwit_rdma_region *region = find_region(pair, work->bind_key);

	if (!region || !region->by_work || region->size ||
	    !rdma_region_can_have(work->bind_address, work->bind_size, work->bind_access) ||
	    region->memory.registered(region->memory.context, work))
		return false;
	region->key = work->bind_key;
	region->address = work->bind_address;
	region->size = work->bind_size;
	region->access = work->bind_access;
	return true;
}

bool rdma_invalidate(struct godwit_rdma_pair *pair, uint32_t key, bool remote)
{
	struct godwit_rdma_window *window = find_window(pair, key);
	struct godwit_rdma_region *region = find_region(pair, key);

	if (window && window->key == key && window->type == 2 && window->region &&
	    window->pair == pair->entry.number) {
		unbind(window);
		return true;
	}
	if (region && region->key == key && region->by_work && region->size && !region->windows &&
	    (!remote || region->access & REMOTE_RIGHTS)) {
		region->size = 0;
		return true;
	}
	return false;
}

void rdma_unbind_windows(struct godwit_rdma_pair *pair)
{
	const struct rdma_table *keys = &pair->engine->keys;

	for (uint32_t i = 0; i < keys->bucket_count; i++) {
		for (struct rdma_table_entry *entry = keys->buckets[i]; entry;
		     entry = entry->next) {
			struct godwit_rdma_window *window = window_of(entry);

			if (is_window(entry) && window->type == 2 &&
			    window->pair == pair->entry.number)
				unbind(window);
		}
	}
}

/* --- Finding ----------------------------------------------------------------------------------- */

bool rdma_find_remote(struct godwit_rdma_pair *pair, uint32_t key, uint64_t address, uint64_t size,
		      uint32_t access, struct rdma_place *place)
{
	struct rdma_table_entry *entry = rdma_table_find(&pair->engine->keys, INDEX(key));
	const struct godwit_rdma_region *region;

	if (!entry || (pair->attributes.access & access) != access)
		return false;
	if (is_window(entry)) {
		const struct godwit_rdma_window *window = window_of(entry);

		region = window->region;
		if (window->key != key || !region || window->domain != pair->domain ||
		    (window->access & access) != access ||
		    (window->type == 2 && window->pair != pair->entry.number) ||
		    !range_contains(window->address, window->size, address, size))
			return false;
	} else {
		region = region_of(entry);
		if (region->key != key || region->domain != pair->domain ||
		    (region->access & access) != access ||
		    !range_contains(region->address, region->size, address, size))
			return false;
	}
	*place = (struct rdma_place){region, address - region->address};
	return true;
}

bool rdma_find_local(struct godwit_rdma_pair *pair, const struct godwit_rdma_segment *segment,
		     bool write, struct rdma_place *place)
{
	struct rdma_table_entry *entry = rdma_table_find(&pair->engine->keys, INDEX(segment->key));
	const struct godwit_rdma_region *region;

	if (!entry || is_window(entry))
		return false;
	region = region_of(entry);
	if (region->key != segment->key || region->domain != pair->domain ||
	    (write && !(region->access & GODWIT_RDMA_LOCAL_WRITE)) ||
	    !range_contains(region->address, region->size, segment->address, segment->size))
		return false;
	*place = (struct rdma_place){region, segment->address - region->address};
	return true;
}

/* --- Copies ------------------------------------------------------------------------------------ */

static int span(const struct godwit_rdma_region *region, uint64_t offset, bool write, uint64_t size,
		uint8_t **bytes, uint64_t *there)
{
	int status;

	*bytes = NULL;
	*there = size;
	status = region->memory.span(region->memory.context, offset, write, bytes, there);
	if (status < 0)
		return status == -EAGAIN ? -EAGAIN : -EACCES;
	/* A callback that is wrong must not become the peer's chance. */
	return *bytes && *there && *there <= size ? 0 : -EACCES;
}

static void wrote(const struct godwit_rdma_region *region, uint64_t offset, uint64_t size)
{
	if (region->memory.wrote)
		region->memory.wrote(region->memory.context, offset, size);
}

int rdma_copy_in(const struct rdma_place *place, uint64_t more, const uint8_t *bytes, uint32_t size)
{
	uint64_t offset = place->offset + more, there;

	for (uint8_t *to; size; size -= (uint32_t)there, bytes += there, offset += there) {
		int status = span(place->region, offset, true, size, &to, &there);

		if (status < 0)
			return status;
		memcpy(to, bytes, there);
		wrote(place->region, offset, there);
	}
	return 0;
}

int rdma_probe(const struct rdma_place *place, uint64_t size)
{
	uint64_t offset = place->offset, there;

	for (uint8_t *from; size; size -= there, offset += there) {
		int status = span(place->region, offset, false, size, &from, &there);

		if (status < 0)
			return status;
	}
	return 0;
}

int rdma_copy_out(const struct rdma_place *place, uint64_t more, uint8_t *bytes, uint32_t size)
{
	uint64_t offset = place->offset + more, there;

	for (uint8_t *from; size; size -= (uint32_t)there, bytes += there, offset += there) {
		int status = span(place->region, offset, false, size, &from, &there);

		if (status < 0)
			return status;
		memcpy(bytes, from, there);
	}
	return 0;
}

/* Either direction of a copy between a packet and segments. */
static int copy_segments(struct godwit_rdma_pair *pair, const struct godwit_rdma_segment *segments,
			 uint32_t count, uint64_t offset, uint8_t *out, const uint8_t *in,
			 uint32_t size)
{
	for (uint32_t i = 0; i < count && size; i++) {
		struct rdma_place place;
		uint32_t part;
		int status;

		if (offset >= segments[i].size) {
			offset -= segments[i].size;
			continue;
		}
		if (!rdma_find_local(pair, &segments[i], in, &place))
			return -EACCES;
		part = (uint32_t)MIN((uint64_t)size, segments[i].size - offset);
		status = in ? rdma_copy_in(&place, offset, in, part)
			    : rdma_copy_out(&place, offset, out, part);
		if (status < 0)
			return status;
		if (in)
			in += part;
		else
			out += part;
		size -= part;
		offset = 0;
	}
	return size ? -EACCES : 0;
}

int rdma_scatter(struct godwit_rdma_pair *pair, const struct godwit_rdma_segment *segments,
		 uint32_t count, uint64_t offset, const uint8_t *bytes, uint32_t size)
{
	return copy_segments(pair, segments, count, offset, NULL, bytes, size);
}

int rdma_gather(struct godwit_rdma_pair *pair, const struct godwit_rdma_work *work, uint64_t offset,
		uint8_t *bytes, uint32_t size)
{
	if (!work->bytes)
		return copy_segments(pair, work->segments, work->segment_count, offset, bytes, NULL,
				     size);
	memcpy(bytes, (const uint8_t *)work->bytes + offset, size);
	return 0;
}

int rdma_atomic(const struct rdma_place *place, const struct rdma_packet *request,
		uint64_t *original)
{
	uint64_t there, *number, expected = request->compare;
	uint8_t *bytes;
	int status = span(place->region, place->offset, true, sizeof(*number), &bytes, &there);

	if (status < 0)
		return status;
	if (there < sizeof(*number) || (uintptr_t)bytes % sizeof(*number))
		return -EINVAL;
	/* Other processors see it as one step. Numbers in memory have the machine's own order. */
	number = (uint64_t *)(void *)bytes;
	if ((request->opcode & ~RDMA_SERVICE_MASK) == RDMA_FETCH_ADD) {
		*original = __atomic_fetch_add(number, request->swap, __ATOMIC_SEQ_CST);
	} else {
		__atomic_compare_exchange_n(number, &expected, request->swap, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		*original = expected;
	}
	wrote(place->region, place->offset, sizeof(*number));
	return 0;
}
