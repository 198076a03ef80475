/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of devices on their way out, sender.h: one generic path for every device. Whoever has a chunk
 * waits for credit, gets its index, and sends it over a connection that is free, from where it is.
 *
 * The destination controls the credit: it can make a device wait, no more.
 */
#include "base/checked.h"
#include "migration/sender_private.h"

/* A connection that nobody uses now, or else the next in turn. Locked. */
static struct send_channel *enter_any(struct migration_sender *sender)
{
	uint32_t turn = __atomic_fetch_add(&sender->turn, 1, __ATOMIC_RELAXED);
	uint32_t count = sender->channel_count;

	for (uint32_t i = 0; i < count; i++) {
		struct send_channel *channel = sender->channels[(turn + i) % count];

		if (pthread_mutex_trylock(&channel->lock) == 0)
			return channel;
	}
	send_channel_enter(sender->channels[turn % count]);
	return sender->channels[turn % count];
}

/* Waits until @size bytes may be sent, and gives them an index. */
static struct error *take_index(struct migration_sender *sender, uint32_t number, uint32_t size,
				bool last, uint32_t *index)
{
	struct send_device *device = &sender->devices[number];
	struct error *error = NULL;
	bool waited = false;

	pthread_mutex_lock(&sender->lock);
	while (!sender->stopping &&
	       (device->next >= device->indexes || device->sent + size > device->bytes)) {
		waited = true;
		pthread_cond_wait(&sender->changed, &sender->lock);
	}
	if (sender->stopping) {
		error = error_new(error_code(sender->error), "%s", error_message(sender->error));
	} else if (device->ended) {
		error = error_new(EINVAL, "device %u goes on after its last chunk", number);
	} else {
		*index = device->next++;
		device->sent += size;
		device->ended = last;
	}
	pthread_mutex_unlock(&sender->lock);
	if (waited)
		__atomic_fetch_add(&sender->sent.credit_waits, 1, __ATOMIC_RELAXED);
	return error;
}

static struct error *emit_chunk(struct migration_sender *sender, uint32_t number, const void *bytes,
				uint32_t size, bool last)
{
	struct wire_record record = {
	    .kind = WIRE_RECORD_DEVICE, .flags = last ? WIRE_DEVICE_LAST : 0, .length = size};
	struct send_channel *channel;
	struct error *error;

	record.device.device = number;
	TRY(take_index(sender, number, size, last, &record.device.index));
	channel = enter_any(sender);
	/* Pages that were added and not sent yet are in front of it. */
	error = channel->parts ? send_channel_flush(channel) : NULL;
	if (!error)
		error = send_channel_record(channel, &record, bytes);
	pthread_mutex_unlock(&channel->lock);
	return error ? sender_fail(sender, error) : NULL;
}

struct error *migration_sender_emit(struct migration_sender *sender, uint32_t device,
				    const void *bytes, size_t size, bool last)
{
	const uint8_t *next = bytes;

	if (device >= sender->device_count)
		return error_new(EINVAL, "device %u of %u", device, sender->device_count);
	if (!size && !last)
		return NULL;
	do {
		uint32_t some = (uint32_t)MIN(size, (size_t)WIRE_CHUNK_MAX);

		size -= some;
		TRY(emit_chunk(sender, device, next, some, last && !size));
		next += some;
	} while (size);
	return NULL;
}

struct error *migration_sender_credit(struct migration_sender *sender,
				      const struct migration_message *message)
{
	struct error *error = NULL;
	struct send_device *device;

	if (message->credit.device >= sender->device_count)
		return error_new(EBADMSG, "credit for device %u of %u", message->credit.device,
				 sender->device_count);
	pthread_mutex_lock(&sender->lock);
	device = &sender->devices[message->credit.device];
	if (message->credit.indexes < device->indexes || message->credit.bytes < device->bytes) {
		error = error_new(EBADMSG,
				  "credit for device %u is taken back: %u chunks and %llu bytes "
				  "after %u and %llu",
				  message->credit.device, message->credit.indexes,
				  (unsigned long long)message->credit.bytes, device->indexes,
				  (unsigned long long)device->bytes);
	} else {
		device->indexes = message->credit.indexes;
		device->bytes = message->credit.bytes;
		pthread_cond_broadcast(&sender->changed);
	}
	pthread_mutex_unlock(&sender->lock);
	return error;
}
