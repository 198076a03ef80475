/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Streams of devices on their way out, machine_migrate_private.h: each has a job of its own on the
 * sender's workers, which runs once beside each round of memory, and a last time when the guest stands
 * still. What a device emits is sent at once, over whichever connection is free, as far as the
 * destination has room.
 *
 * The migration's own thread, but where it says so. Fails when the connection does, or a device.
 */
#include "machine/machine_migrate_private.h"
#include "machine/machine_state.h"

struct finding {
	struct machine_migrate *migrate;
	uint32_t next;
};

static struct error *find_stream(void *context, const struct state_part *part)
{
	struct finding *finding = context;
	struct machine_migrate *migrate = finding->migrate;
	struct virtio_device *device = machine_state_stream(part);
	struct migrate_stream *streams;

	if (device) {
		streams =
		    reallocarray(migrate->streams, migrate->stream_count + 1, sizeof(*streams));
		if (!streams)
			return error_system(ENOMEM, "streams of devices");
		migrate->streams = streams;
		streams[migrate->stream_count++] = (struct migrate_stream){
		    .migrate = migrate, .device = device, .number = finding->next};
	}
	finding->next++;
	return NULL;
}

struct error *migrate_streams_find(struct machine_migrate *migrate)
{
	struct finding finding = {.migrate = migrate};

	return machine_state_list(migrate->machine, find_stream, &finding);
}

static struct error *emit(void *context, const void *bytes, size_t size)
{
	struct migrate_stream *stream = context;

	return migration_sender_emit(stream->migrate->sender, stream->number, bytes, size, false);
}

/* On a worker. */
static void save(void *context)
{
	struct migrate_stream *stream = context;
	struct virtio_device *device = stream->device;

	stream->error = error_prefix(device->stream->save(device, stream->stopped, emit, stream),
				     "%s", device->id);
	if (!stream->error && stream->stopped)
		stream->error =
		    migration_sender_emit(stream->migrate->sender, stream->number, "", 0, true);
}

void migrate_streams_begin(struct machine_migrate *migrate, bool stopped)
{
	struct worker_pool *workers = migration_sender_workers(migrate->sender);

	for (uint32_t i = 0; i < migrate->stream_count; i++) {
		struct migrate_stream *stream = &migrate->streams[i];

		stream->job = (struct worker_job){.run = save, .context = stream};
		stream->begun = true;
		stream->stopped = stopped;
		worker_pool_submit(workers, &stream->job);
	}
}

struct error *migrate_streams_end(struct machine_migrate *migrate, struct error *error)
{
	struct worker_pool *workers = migration_sender_workers(migrate->sender);

	if (error) /* or they might wait for credit for ever */
		migration_sender_cancel(migrate->sender);
	for (uint32_t i = 0; i < migrate->stream_count; i++) {
		struct migrate_stream *stream = &migrate->streams[i];

		worker_pool_wait(workers, &stream->job);
		if (!error)
			error = TAKE_PTR(stream->error);
		error_free(TAKE_PTR(stream->error));
	}
	return error;
}

void migrate_streams_finish(struct machine_migrate *migrate)
{
	for (uint32_t i = 0; i < migrate->stream_count; i++) {
		struct migrate_stream *stream = &migrate->streams[i];

		if (stream->begun && stream->device->stream->end_save)
			stream->device->stream->end_save(stream->device);
		stream->begun = false;
	}
}

void migrate_streams_clear(struct machine_migrate *migrate)
{
	free(TAKE_PTR(migrate->streams));
	migrate->stream_count = 0;
}
