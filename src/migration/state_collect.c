/* SPDX-License-Identifier: BSD-2-Clause */
/* Whole states of state_collect.h. A peer controls how much comes, up to the limit. */
#include "migration/state_collect.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

struct collected {
	uint8_t *bytes;
	size_t size, room;
	bool whole;
};

struct state_collector {
	uint64_t limit, total; /* total: atomic */
	uint32_t count;
	struct collected devices[];
};

struct error *state_collector_create(uint32_t devices, uint64_t limit,
				     struct state_collector **result)
{
	struct state_collector *collector =
	    calloc(1, sizeof(*collector) + devices * sizeof(collector->devices[0]));

	if (!collector)
		return error_system(ENOMEM, "states of devices");
	collector->count = devices;
	collector->limit = limit;
	*result = collector;
	return NULL;
}

void state_collector_destroy(struct state_collector *collector)
{
	if (!collector)
		return;
	for (uint32_t i = 0; i < collector->count; i++)
		free(collector->devices[i].bytes);
	free(collector);
}

/* The first piece is the whole state nearly always; what is longer grows by doubling. */
static struct error *make_room(struct collected *device, uint32_t number, size_t size)
{
	size_t room = MAX(size, 2 * device->room);
	uint8_t *bytes;

	if (size <= device->room)
		return NULL;
	bytes = realloc(device->bytes, room);
	if (!bytes)
		return error_system(ENOMEM, "no room for %zu bytes of device %u", room, number);
	device->bytes = bytes;
	device->room = room;
	return NULL;
}

struct error *state_collector_add(struct state_collector *collector, uint32_t number,
				  const void *bytes, size_t size, bool last)
{
	struct collected *device = &collector->devices[number];

	if (__atomic_add_fetch(&collector->total, size, __ATOMIC_RELAXED) > collector->limit)
		return error_new(E2BIG, "states of devices have more than %llu bytes",
				 (unsigned long long)collector->limit);
	/* Something is allocated for an empty one too: it is whole, and not NULL. */
	TRY(make_room(device, number, MAX(device->size + size, (size_t)1)));
	if (size)
		memcpy(device->bytes + device->size, bytes, size);
	device->size += size;
	device->whole = last;
	return NULL;
}

const void *state_collector_bytes(const struct state_collector *collector, uint32_t number,
				  size_t *size)
{
	const struct collected *device = &collector->devices[number];

	*size = device->whole ? device->size : 0;
	return device->whole ? device->bytes : NULL;
}
