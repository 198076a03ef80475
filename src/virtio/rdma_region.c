/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory as the RDMA device uses it: lists of runs, the queues in them, and the memory behind keys.
 *
 * Where memory is is found anew for each access, so that it may be unplugged and come back under a
 * region; nothing is pinned. The guest controls every list and every index: lists are checked for sizes
 * that wrap and count against one limit of the device, indices are masked, and an address is only
 * ever used through the accessor. What is written is marked in the log of writes.
 *
 * Runs on the device's loop, in a read section. Making something can fail with the status that the
 * driver gets.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define RUN_SIZE	16U
#define RUN_ALIGNMENT	64U
#define PAGE_SHIFT_MIN	12U
#define PAGE_SHIFT_MAX	30U
#define TYPE_MEMORY	1U
#define TYPE_ALL_MEMORY 2U
#define TYPE_FAST	3U

/* --- Runs -------------------------------------------------------------------------------------- */

static bool grow(struct adapter_runs *runs, uint32_t room)
{
	struct adapter_run *list;

	if (room <= runs->room)
		return true;
	list = realloc(runs->list, room * sizeof(*list));
	if (!list)
		return false;
	runs->list = list;
	runs->room = room;
	return true;
}

/* True if the last run ends where a run at @address begins. */
static bool goes_on(const struct adapter_runs *runs, uint64_t address)
{
	const struct adapter_run *list = runs->list;
	uint32_t count = runs->count;

	if (!count)
		return false;
	return list[count - 1].address + runs->size - (count > 1 ? list[count - 2].end : 0) ==
	       address;
}

uint32_t adapter_runs_add(struct virtio_rdma *rdma, struct adapter_runs *runs, const uint8_t *list,
			  uint32_t count, uint64_t limit)
{
	if (count > RUNS_MAX - rdma->runs || !grow(runs, runs->count + count))
		return ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t address = get_le64(list + i * RUN_SIZE),
			 length = get_le64(list + i * RUN_SIZE + 8);
		bool merges;

		if (!length || length > limit - runs->size || address > UINT64_MAX - length)
			return EINVAL;
		merges = goes_on(runs, address);
		runs->size += length;
		if (merges) {
			runs->list[runs->count - 1].end = runs->size;
			continue;
		}
		runs->list[runs->count++] = (struct adapter_run){address, runs->size};
		rdma->runs++;
	}
	return 0;
}

void adapter_runs_free(struct virtio_rdma *rdma, struct adapter_runs *runs)
{
	rdma->runs -= runs->count;
	free(runs->list);
	*runs = (struct adapter_runs){0};
}

/* The address of byte @offset, which there is, and how many follow it in its run. */
static uint64_t find_run(const struct adapter_runs *runs, uint64_t offset, uint64_t *left)
{
	uint32_t low = 0, high = runs->count - 1;
	uint64_t start;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (offset < runs->list[middle].end)
			high = middle;
		else
			low = middle + 1;
	}
	start = low ? runs->list[low - 1].end : 0;
	*left = runs->list[low].end - offset;
	return runs->list[low].address + (offset - start);
}

bool adapter_span(struct virtio_rdma *rdma, uint64_t address, uint64_t *there,
		  enum memory_access_mode mode, uint8_t **host)
{
	struct memory_map *map = rdma->device.map;
	const struct memory_region *region = memory_map_find(map, address);
	struct memory_span span;
	uint64_t offset;

	if (!region)
		return false;
	offset = address - region->address;
	*there = MIN(*there, region->size - offset);
	if (region->unit)
		*there = MIN(*there, region->unit - (offset & (region->unit - 1)));
	if (!memory_access(map, address, *there, mode, &span))
		return false;
	*host = span.host;
	return true;
}

/* Of an object of runs. */
static bool runs_span(struct virtio_rdma *rdma, const struct adapter_runs *runs, uint64_t offset,
		      uint64_t *there, enum memory_access_mode mode, uint8_t **host)
{
	uint64_t left, address = find_run(runs, offset, &left);

	*there = MIN(*there, left);
	return adapter_span(rdma, address, there, mode, host);
}

/* --- Queues ------------------------------------------------------------------------------------ */

static bool is_all_there(struct virtio_rdma *rdma, const struct adapter_runs *runs, uint64_t size)
{
	uint64_t there;
	uint8_t *host;

	for (uint64_t at = 0; at < size; at += there) {
		there = size - at;
		if (!runs_span(rdma, runs, at, &there, MEMORY_WRITE, &host))
			return false;
	}
	return true;
}

uint32_t adapter_ring_create(struct virtio_rdma *rdma, struct adapter_ring *ring, uint32_t slots,
			     uint32_t stride, const uint8_t *list, uint32_t count)
{
	uint64_t size = RING_ELEMENTS + (uint64_t)slots * stride;
	uint32_t status;

	*ring = (struct adapter_ring){.slots = slots, .stride = stride};
	/* An index lies in one piece. */
	for (uint32_t i = 0; i < count; i++)
		if (get_le64(list + i * RUN_SIZE) % RUN_ALIGNMENT ||
		    (i + 1 < count && get_le64(list + i * RUN_SIZE + 8) % RUN_ALIGNMENT))
			return EINVAL;
	status = adapter_runs_add(rdma, &ring->runs, list, count, UINT64_MAX);
	if (status)
		return status;
	if (ring->runs.size < size)
		return EINVAL;
	return rdma->loading || is_all_there(rdma, &ring->runs, size) ? 0 : EFAULT;
}

void adapter_ring_free(struct virtio_rdma *rdma, struct adapter_ring *ring)
{
	adapter_runs_free(rdma, &ring->runs);
}

bool adapter_ring_read(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t slot,
		       uint8_t *bytes, uint32_t size)
{
	uint64_t offset = RING_ELEMENTS + (uint64_t)slot * ring->stride, there;
	uint8_t *host;

	for (uint32_t done = 0; done < size; done += (uint32_t)there) {
		there = size - done;
		if (!runs_span(rdma, &ring->runs, offset + done, &there, MEMORY_READ, &host))
			return false;
		memcpy(bytes + done, host, there);
	}
	return true;
}

bool adapter_ring_write(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t slot,
			const uint8_t *bytes, uint32_t size)
{
	uint64_t offset = RING_ELEMENTS + (uint64_t)slot * ring->stride, there;
	uint8_t *host;

	for (uint32_t done = 0; done < size; done += (uint32_t)there) {
		there = size - done;
		if (!runs_span(rdma, &ring->runs, offset + done, &there, MEMORY_WRITE, &host))
			return false;
		memcpy(host, bytes + done, there);
		memory_written(rdma->device.map, host, there);
	}
	return true;
}

/* The number at @offset of the header, or NULL. Runs, and so such numbers, are aligned. */
static uint32_t *header_word(struct virtio_rdma *rdma, const struct adapter_ring *ring,
			     uint32_t offset, enum memory_access_mode mode)
{
	uint64_t there = sizeof(uint32_t);
	uint8_t *host;

	if (!runs_span(rdma, &ring->runs, offset, &there, mode, &host) || there < sizeof(uint32_t))
		return NULL;
	return (uint32_t *)(void *)host;
}

bool adapter_ring_load(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t offset,
		       uint32_t *index)
{
	const uint32_t *word = header_word(rdma, ring, offset, MEMORY_READ);

	if (!word)
		return false;
	*index = le32toh(__atomic_load_n(word, __ATOMIC_ACQUIRE)) & (ring->slots - 1);
	return true;
}

void adapter_ring_store(struct virtio_rdma *rdma, const struct adapter_ring *ring, uint32_t offset,
			uint32_t index)
{
	uint32_t *word = header_word(rdma, ring, offset, MEMORY_WRITE);

	if (!word)
		return;
	__atomic_store_n(word, htole32(index), __ATOMIC_RELEASE);
	memory_written(rdma->device.map, word, sizeof(*word));
}

bool adapter_ring_disarm(struct virtio_rdma *rdma, const struct adapter_ring *ring, bool solicited)
{
	uint32_t *word = header_word(rdma, ring, RING_ARMED, MEMORY_WRITE), armed;

	if (!word)
		return false;
	/* After the completion can be seen: the driver arms, and then looks for completions. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	armed = __atomic_load_n(word, __ATOMIC_RELAXED);
	if (!armed || (le32toh(armed) == RING_ARMED_SOLICITED && !solicited))
		return false;
	__atomic_store_n(word, 0, __ATOMIC_SEQ_CST);
	memory_written(rdma->device.map, word, sizeof(*word));
	return true;
}

/* --- Behind keys ------------------------------------------------------------------------------- */

/* Callbacks of the engine, which has checked that @offset and what follows lie in the region. */

static int memory_span_at(void *context, uint64_t offset, bool write, uint8_t **bytes,
			  uint64_t *there)
{
	struct adapter_key *key = context;
	enum memory_access_mode mode = write ? MEMORY_WRITE : MEMORY_READ;
	bool found;

	if (key->runs.size != key->length)
		return -EFAULT;
	found = key->all_memory ? adapter_span(key->rdma, offset, there, mode, bytes)
				: runs_span(key->rdma, &key->runs, offset, there, mode, bytes);
	return found ? 0 : -EFAULT;
}

static int fast_span_at(void *context, uint64_t offset, bool write, uint8_t **bytes,
			uint64_t *there)
{
	struct adapter_key *key = context;
	uint64_t at = key->first + offset, size = UINT64_C(1) << key->page_shift,
		 within = at & (size - 1), address;

	*there = MIN(*there, size - within);
	if (at >> key->page_shift >= key->pages_max)
		return -EFAULT;
	if (!checked_add(key->pages[at >> key->page_shift], within, &address))
		return -EFAULT;
	return adapter_span(key->rdma, address, there, write ? MEMORY_WRITE : MEMORY_READ, bytes)
		   ? 0
		   : -EFAULT;
}

static void mark(struct adapter_key *key, uint64_t offset, uint64_t size,
		 int (*find)(void *context, uint64_t offset, bool write, uint8_t **bytes,
			     uint64_t *there))
{
	uint8_t *bytes;

	if (memory_logs_writes(key->rdma->device.map) && !find(key, offset, true, &bytes, &size))
		memory_written(key->rdma->device.map, bytes, size);
}

static void memory_wrote(void *context, uint64_t offset, uint64_t size)
{
	mark(context, offset, size, memory_span_at);
}

static void fast_wrote(void *context, uint64_t offset, uint64_t size)
{
	mark(context, offset, size, fast_span_at);
}

/* A work request gives the region the pages of a list, which is in guest memory. */
static int fast_registered(void *context, const struct godwit_rdma_work *work)
{
	struct adapter_key *key = context;
	uint32_t count = (uint32_t)(work->register_data[1] >> 32),
		 shift = (uint32_t)work->register_data[1];
	uint64_t first, end;

	if (!count || count > key->pages_max || shift < PAGE_SHIFT_MIN || shift > PAGE_SHIFT_MAX)
		return -EINVAL;
	first = work->bind_address & ((UINT64_C(1) << shift) - 1);
	if (!checked_add(first, work->bind_size, &end) || end > (uint64_t)count << shift)
		return -EINVAL;
	if (!memory_read(key->rdma->device.map, work->register_data[0], key->pages,
			 count * sizeof(*key->pages)))
		return -EFAULT;
	for (uint32_t i = 0; i < count; i++)
		key->pages[i] = le64toh(key->pages[i]);
	key->page_shift = shift;
	key->first = first;
	return 0;
}

/* --- Commands ---------------------------------------------------------------------------------- */

void adapter_key_free(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_key *key = CONTAINER_OF(object, struct adapter_key, object);

	rdma->regions -= key->region != NULL;
	rdma->windows -= key->window != NULL;
	godwit_rdma_window_destroy(key->window);
	godwit_rdma_region_destroy(key->region);
	adapter_numbers_remove(&rdma->keys, object);
	adapter_runs_free(rdma, &key->runs);
	free(key->pages);
	free(key);
}

/* A key that is not used yet, with a number. NULL: no room. */
static struct adapter_key *new_key(struct virtio_rdma *rdma)
{
	struct adapter_key *key = calloc(1, sizeof(*key));

	if (!key)
		return NULL;
	key->rdma = rdma;
	if (adapter_numbers_add(&rdma->keys, &key->object))
		return key;
	free(key);
	return NULL;
}

static struct adapter_key *find_key(struct virtio_rdma *rdma, uint32_t key)
{
	struct adapter_object *object = adapter_numbers_find(&rdma->keys, key >> 8);

	return object ? CONTAINER_OF(object, struct adapter_key, object) : NULL;
}

/* What the type of a region asks for. 0 or the status. */
static uint32_t fill_region(struct virtio_rdma *rdma, struct adapter_key *key,
			    const uint8_t *request, uint32_t size,
			    struct godwit_rdma_region_options *options)
{
	uint32_t type = get_le32(request + 16), count = get_le32(request + 20),
		 pages = get_le32(request + 40);
	uint64_t address = get_le64(request + 24), length = get_le64(request + 32);

	if (count > (size - 48) / RUN_SIZE)
		return EINVAL;
	options->memory = (struct godwit_rdma_memory){
	    .span = memory_span_at, .wrote = memory_wrote, .context = key};
	options->key = key->object.number << 8;
	if (type == TYPE_MEMORY) {
		if (pages || !length)
			return EINVAL;
		options->address = address;
		options->size = key->length = length;
		return adapter_runs_add(rdma, &key->runs, request + 48, count, length);
	}
	if (type != TYPE_ALL_MEMORY && type != TYPE_FAST)
		return EOPNOTSUPP;
	if (count || address || length)
		return EINVAL;
	if (type == TYPE_ALL_MEMORY) {
		key->all_memory = true;
		options->size = UINT64_MAX;
		return pages ? EINVAL : 0;
	}
	if (!pages || pages > FAST_PAGES_MAX)
		return EINVAL;
	key->pages_max = pages;
	key->pages = calloc(pages, sizeof(*key->pages));
	options->by_work = true;
	options->access = 0;
	options->memory = (struct godwit_rdma_memory){.span = fast_span_at,
						      .wrote = fast_wrote,
						      .context = key,
						      .registered = fast_registered};
	return key->pages ? 0 : ENOMEM;
}

uint32_t adapter_region_create(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_object *domain = adapter_numbers_find(&rdma->domains, get_le32(request + 8));
	struct godwit_rdma_region_options options = {.access = get_le32(request + 12)};
	struct adapter_key *key;
	uint32_t status;
	int result;

	if (!domain)
		return ENOENT;
	key = rdma->regions < REGIONS_MAX ? new_key(rdma) : NULL;
	if (!key)
		return ENOMEM;
	memcpy(key->object.made, request, 48);
	status = fill_region(rdma, key, request, size, &options);
	if (!status) {
		result = godwit_rdma_region_create(
		    CONTAINER_OF(domain, struct adapter_domain, object)->domain, &options,
		    &key->region);
		status = (uint32_t)-result;
	}
	if (status) {
		adapter_key_free(rdma, &key->object);
		return status;
	}
	rdma->regions++;
	put_le32(answer + 8, options.key);
	return 0;
}

uint32_t adapter_region_extend(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_key *key = find_key(rdma, get_le32(request + 8));
	uint32_t count = get_le32(request + 12), held;
	struct adapter_runs *runs;
	uint32_t status;
	uint64_t before;

	if (!key || !key->region)
		return ENOENT;
	if (!key->length || count > (size - 16) / RUN_SIZE)
		return EINVAL;
	runs = &key->runs;
	held = runs->count;
	before = runs->size;
	status = adapter_runs_add(rdma, runs, request + 16, count, key->length);
	if (!status)
		return 0;
	/* As it was: what was put to the last run is taken from it again. */
	rdma->runs -= runs->count - held;
	runs->count = held;
	runs->size = before;
	if (held)
		runs->list[held - 1].end = before;
	return status;
}

uint32_t adapter_region_destroy(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
				uint8_t *answer)
{
	struct adapter_key *key = find_key(rdma, get_le32(request + 8));
	int result;

	if (!key || !key->region)
		return ENOENT;
	result = godwit_rdma_region_destroy(key->region);
	if (result)
		return (uint32_t)-result;
	key->region = NULL;
	rdma->regions--;
	adapter_key_free(rdma, &key->object);
	return 0;
}

uint32_t adapter_window_create(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_object *domain = adapter_numbers_find(&rdma->domains, get_le32(request + 8));
	struct adapter_key *key;
	int result;

	if (!domain)
		return ENOENT;
	key = rdma->windows < WINDOWS_MAX ? new_key(rdma) : NULL;
	if (!key)
		return ENOMEM;
	memcpy(key->object.made, request, 16);
	result = godwit_rdma_window_create(
	    CONTAINER_OF(domain, struct adapter_domain, object)->domain, get_le32(request + 12),
	    key->object.number << 8, &key->window);
	if (result) {
		adapter_key_free(rdma, &key->object);
		return (uint32_t)-result;
	}
	rdma->windows++;
	put_le32(answer + 8, key->object.number << 8);
	return 0;
}

uint32_t adapter_window_destroy(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
				uint8_t *answer)
{
	struct adapter_key *key = find_key(rdma, get_le32(request + 8));

	if (!key || !key->window)
		return ENOENT;
	adapter_key_free(rdma, &key->object);
	return 0;
}
