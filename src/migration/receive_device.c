/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of devices on their way in, receiver.h: the pool, the order of each device's chunks, loading
 * them on the workers, and the credit.
 *
 * The invariant: places that are promised (`granted`: for each device what it may still send, and what
 * it has sent that is not loaded yet) are never more than there are. So a chunk within its credit
 * always has a place. A device that has not ended has at least one, so it always goes on.
 *
 * The peer controls indexes, lengths, their order and number; each is compared with what was granted
 * before anything is touched. Nothing grows.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "migration/receiver_private.h"

#define UNKNOWN UINT64_MAX

/* --- Life -------------------------------------------------------------------------------------- */

static void load_chunks(void *context);

struct error *receive_devices_init(struct migration_receiver *receiver,
				   const struct migration_receiver_options *options)
{
	uint64_t least = (uint64_t)options->devices * WIRE_CHUNK_MAX;
	uint64_t size = options->pool_size ?: MAX((uint64_t)MIGRATION_POOL_SIZE, least);

	if (options->devices > WIRE_DEVICES_MAX)
		return error_new(E2BIG, "%u devices are too many: at most %d", options->devices,
				 WIRE_DEVICES_MAX);
	if (size < least || size < WIRE_CHUNK_MAX)
		return error_usage("a buffer of %llu bytes is too small for the states of %u "
				   "devices: give %llu or more",
				   (unsigned long long)size, options->devices,
				   (unsigned long long)MAX(least, (uint64_t)WIRE_CHUNK_MAX));
	receiver->device_count = options->devices;
	receiver->places = (uint32_t)MIN(size / WIRE_CHUNK_MAX, (uint64_t)UINT32_MAX);
	receiver->window = MIN(receiver->places, (uint32_t)DEVICE_WINDOW_MAX);
	receiver->devices = calloc(options->devices + 1, sizeof(*receiver->devices));
	receiver->chunks =
	    calloc((size_t)options->devices * receiver->window + 1, sizeof(*receiver->chunks));
	receiver->free_places = calloc(receiver->places, sizeof(*receiver->free_places));
	if (!receiver->devices || !receiver->chunks || !receiver->free_places)
		return error_system(ENOMEM, "states of devices");
	receiver->pool =
	    mmap(NULL, (size_t)receiver->places * WIRE_CHUNK_MAX, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (receiver->pool == MAP_FAILED) {
		receiver->pool = NULL;
		return error_system(errno, "a buffer of %llu bytes for states of devices",
				    (unsigned long long)size);
	}
	/* Places that were in use lately are taken first: they are in a cache. */
	for (receiver->free_count = 0; receiver->free_count < receiver->places;
	     receiver->free_count++)
		receiver->free_places[receiver->free_count] =
		    receiver->places - 1 - receiver->free_count;
	for (uint32_t i = 0; i < options->devices; i++) {
		struct receive_device *device = &receiver->devices[i];

		device->receiver = receiver;
		device->job = (struct worker_job){.run = load_chunks, .context = device};
		device->limit = 1;
		device->last = UNKNOWN;
		device->chunks = receiver->chunks + (size_t)i * receiver->window;
	}
	receiver->granted = options->devices;
	return NULL;
}

void receive_devices_clear(struct migration_receiver *receiver)
{
	if (receiver->pool)
		munmap(receiver->pool, (size_t)receiver->places * WIRE_CHUNK_MAX);
	free(receiver->free_places);
	free(receiver->chunks);
	free(receiver->devices);
}

/* --- Credit ------------------------------------------------------------------------------------ */

static struct error *announce(struct migration_receiver *receiver, uint32_t number, uint32_t limit)
{
	struct migration_message message = {.type = MIGRATION_STATE_CREDIT};

	message.credit.device = number;
	message.credit.indexes = limit;
	message.credit.bytes = (uint64_t)limit * WIRE_CHUNK_MAX;
	return migration_link_send(receiver->link, &message);
}

struct error *receive_devices_start(struct migration_receiver *receiver)
{
	for (uint32_t i = 0; i < receiver->device_count; i++) {
		receiver->devices[i].announced = 1;
		TRY(announce(receiver, i, 1));
	}
	if (!receiver->device_count)
		receiver_all_loaded(receiver);
	return NULL;
}

/* What a device may have on its way: those that send much share what the others do not need. */
static uint32_t fair_window(const struct migration_receiver *receiver,
			    const struct receive_device *device)
{
	uint32_t spare = receiver->places - receiver->device_count;

	if (!device->busy)
		return 1;
	return MIN(1 + spare / MAX(receiver->busy_count, 2u), receiver->window);
}

/*
 * With the lock: more credit, as far as there are places. Returns whether the source is to be told:
 * not of each single one, but before it has none left.
 */
static bool top_up(struct migration_receiver *receiver, struct receive_device *device)
{
	uint32_t window = fair_window(receiver, device), used = device->limit - device->next;
	uint32_t more;

	if (device->last != UNKNOWN)
		return false;
	more = window > used ? MIN(window - used, receiver->places - receiver->granted) : 0;
	more = (uint32_t)MIN((uint64_t)more, (uint64_t)UINT32_MAX - device->limit);
	device->limit += more;
	receiver->granted += more;
	more = device->limit - device->announced;
	if (!more || (more < window / 4 && device->announced > device->next))
		return false;
	device->announced = device->limit;
	return true;
}

/* --- Arriving ---------------------------------------------------------------------------------- */

static struct error *check_chunk(const struct migration_receiver *receiver,
				 const struct wire_record *record)
{
	const struct receive_device *device = &receiver->devices[record->device.device];
	uint32_t number = record->device.device, index = record->device.index;

	if (device->last != UNKNOWN && index > device->last)
		return error_new(EBADMSG, "chunk %u of device %u comes after its last, %u", index,
				 number, (uint32_t)device->last);
	if (index >= device->announced)
		return error_new(EBADMSG, "chunk %u of device %u: there is credit for %u", index,
				 number, device->announced);
	if (index < device->next || device->chunks[index % receiver->window].state != CHUNK_ABSENT)
		return error_new(EBADMSG, "chunk %u of device %u came twice", index, number);
	if ((record->flags & WIRE_DEVICE_LAST) &&
	    (device->last != UNKNOWN || index + 1ULL < device->top))
		return error_new(EBADMSG, "chunk %u of device %u is not its last", index, number);
	return NULL;
}

struct error *receive_devices_expect(struct migration_receiver *receiver,
				     const struct wire_record *record, uint8_t **bytes)
{
	uint32_t index = record->device.index;
	struct receive_device *device;
	struct receive_chunk *chunk;
	struct error *error;

	if (record->device.device >= receiver->device_count)
		return error_new(EBADMSG, "device %u of %u", record->device.device,
				 receiver->device_count);
	pthread_mutex_lock(&receiver->lock);
	error = check_chunk(receiver, record);
	if (!error) {
		device = &receiver->devices[record->device.device];
		chunk = &device->chunks[index % receiver->window];
		*chunk =
		    (struct receive_chunk){.state = CHUNK_ARRIVING,
					   .place = receiver->free_places[--receiver->free_count],
					   .length = record->length};
		receiver->peak = MAX(receiver->peak, receiver->places - receiver->free_count);
		device->top = MAX(device->top, index + 1);
		if (record->flags & WIRE_DEVICE_LAST) {
			/* What it will not send is for others. */
			device->last = index;
			receiver->granted -= device->limit - (index + 1);
			device->limit = device->announced = index + 1;
		}
		*bytes = receiver->pool + (size_t)chunk->place * WIRE_CHUNK_MAX;
	}
	pthread_mutex_unlock(&receiver->lock);
	return error;
}

void receive_devices_arrived(struct migration_receiver *receiver, const struct wire_record *record)
{
	struct receive_device *device = &receiver->devices[record->device.device];
	bool submit;

	pthread_mutex_lock(&receiver->lock);
	device->chunks[record->device.index % receiver->window].state = CHUNK_HERE;
	device->arrived++;
	submit = !device->loading && !receiver->stopping && record->device.index == device->next;
	if (submit)
		device->loading = true;
	pthread_mutex_unlock(&receiver->lock);
	if (submit)
		worker_pool_submit(receiver->workers, &device->job);
}

struct error *receive_devices_check(const struct migration_receiver *receiver)
{
	for (uint32_t i = 0; i < receiver->device_count; i++) {
		const struct receive_device *device = &receiver->devices[i];

		if (device->last == UNKNOWN || device->arrived != device->last + 1)
			return error_new(EBADMSG, "the end, without all of the state of device %u",
					 i);
	}
	return NULL;
}

/* --- Loading ----------------------------------------------------------------------------------- */

/* With the lock: the chunk at device->next is loaded. Returns whether to tell of more credit. */
static bool consume(struct migration_receiver *receiver, struct receive_device *device,
		    struct receive_chunk *chunk)
{
	chunk->state = CHUNK_ABSENT;
	receiver->free_places[receiver->free_count++] = chunk->place;
	receiver->granted--;
	if (device->next++ == device->last) {
		device->ended = true;
		receiver->loaded_count++;
		if (device->busy)
			receiver->busy_count--;
		return false;
	}
	if (!device->busy) {
		device->busy = true;
		receiver->busy_count++;
	}
	return top_up(receiver, device);
}

static void load_chunks(void *context)
{
	struct receive_device *device = context;
	struct migration_receiver *receiver = device->receiver;
	uint32_t number = (uint32_t)(device - receiver->devices), limit;
	struct error *error = NULL;
	bool all_loaded = false, tell;

	pthread_mutex_lock(&receiver->lock);
	while (!error && !receiver->stopping && !device->ended) {
		struct receive_chunk *chunk = &device->chunks[device->next % receiver->window];
		const uint8_t *bytes = receiver->pool + (size_t)chunk->place * WIRE_CHUNK_MAX;
		bool last = device->next == device->last;

		if (chunk->state != CHUNK_HERE)
			break;
		pthread_mutex_unlock(&receiver->lock);
		error = receiver->ops->load(receiver->context, number, bytes, chunk->length, last);
		pthread_mutex_lock(&receiver->lock);
		if (error)
			break;
		tell = consume(receiver, device, chunk);
		all_loaded = device->ended && receiver->loaded_count == receiver->device_count;
		limit = device->announced;
		if (tell) {
			pthread_mutex_unlock(&receiver->lock);
			error = announce(receiver, number, limit);
			pthread_mutex_lock(&receiver->lock);
		}
	}
	device->loading = false;
	pthread_mutex_unlock(&receiver->lock);
	if (error)
		receiver_fail(receiver, error);
	else if (all_loaded)
		receiver_all_loaded(receiver);
}
