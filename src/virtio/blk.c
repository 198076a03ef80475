/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio-blk device of blk.h: options and life cycle. What it shows of its file is in
 * blk/blk_disk.c, the work in blk_queue.c.
 *
 * With one queue all of it runs on the device's loop. With more, each queue has a loop and thread
 * of its own that this file creates, and quiesce and reset wait for each of them in turn. What the
 * device's loop writes and queues read is the disk's (blk/blk_disk.h).
 *
 * The guest controls configuration writes (one byte: the cache mode), the feature set, and
 * requests.
 */
#include "virtio/blk.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/options.h"
#include "virtio/blk_queue.h"
#include "virtio/handed.h"

struct virtio_blk {
	struct virtio_device device;
	struct blk_disk disk;
	struct blk_queue *queues; /* device.queue_count, once the device is initialised */
	bool initialised;
};

static struct virtio_blk *blk_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_blk, device);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	blk_disk_read_config(&blk_of(device)->disk, offset, data, size);
}

static void config_write(struct virtio_device *device, uint32_t offset, const void *data,
			 uint32_t size)
{
	blk_disk_write_config(&blk_of(device)->disk, device->driver_features, offset, data, size);
}

static bool accept_features(struct virtio_device *device, uint64_t features)
{
	blk_disk_accept(&blk_of(device)->disk, features);
	return true;
}

static void activate(struct virtio_device *device)
{
	/* The queues wait for doorbells. */
}

static void queue_notify(struct virtio_device *device, uint16_t queue)
{
	blk_queue_run(&blk_of(device)->queues[queue]);
}

static void drain_on_loop(void *context)
{
	blk_queue_drain(context);
}

static void drop_on_loop(void *context)
{
	blk_queue_drop(context);
}

static void quiesce(struct virtio_device *device)
{
	struct virtio_blk *blk = blk_of(device);

	for (uint16_t i = 0; i < device->queue_count; i++)
		event_loop_call(blk->queues[i].loop, drain_on_loop, &blk->queues[i]);
}

static void resume(struct virtio_device *device)
{
	/* A notification for each queue follows. */
}

static void reset(struct virtio_device *device)
{
	struct virtio_blk *blk = blk_of(device);

	for (uint16_t i = 0; i < device->queue_count; i++)
		event_loop_call(blk->queues[i].loop, drop_on_loop, &blk->queues[i]);
	blk_disk_reset(&blk->disk);
}

static void visit_state(struct virtio_device *device, struct state *state)
{
	blk_disk_state(&blk_of(device)->disk, device->driver_features, state);
}

static json_int_t total(const struct virtio_blk *blk, enum blk_counter counter)
{
	uint64_t sum = 0;

	for (uint16_t i = 0; i < blk->device.queue_count; i++)
		sum += __atomic_load_n(&blk->queues[i].engine.counters[counter], __ATOMIC_RELAXED);
	return (json_int_t)sum;
}

static void describe(struct virtio_device *device, json_t *object)
{
	static const char *const names[] = {
	    [BLK_COUNT_READS] = "reads",	 [BLK_COUNT_BYTES_READ] = "bytes-read",
	    [BLK_COUNT_WRITES] = "writes",	 [BLK_COUNT_BYTES_WRITTEN] = "bytes-written",
	    [BLK_COUNT_SYNCS] = "flushes",	 [BLK_COUNT_DISCARDS] = "discards",
	    [BLK_COUNT_ZEROES] = "write-zeroes", [BLK_COUNT_FAILED] = "failed",
	};
	const struct virtio_blk *blk = blk_of(device);
	const struct blk_file *file = &blk->disk.file;

	json_object_set_new(object, "path", json_string(file->path));
	json_object_set_new(object, "size", json_integer((json_int_t)(file->sectors * BLK_SECTOR)));
	json_object_set_new(object, "block-size", json_integer(file->block_size));
	json_object_set_new(object, "readonly", json_boolean(file->readonly));
	json_object_set_new(object, "direct", json_boolean(file->direct));
	json_object_set_new(object, "write-through", json_boolean(blk->disk.write_through));
	for (int i = 0; i < BLK_COUNTERS; i++)
		json_object_set_new(object, names[i], json_integer(total(blk, i)));
}

/* Also of a device that was not completely created. */
static void destroy(struct virtio_device *device)
{
	struct virtio_blk *blk = blk_of(device);
	struct event_loop *loop;

	for (uint16_t i = 0; blk->queues && i < device->queue_count; i++) {
		loop = device->queues[i].loop;
		if (loop != device->loop)
			event_loop_join(loop);
		blk_queue_destroy(&blk->queues[i]);
		if (loop != device->loop)
			event_loop_destroy(loop);
	}
	free(blk->queues);
	if (blk->initialised)
		virtio_device_cleanup(device);
	blk_disk_close(&blk->disk);
	free(blk);
}

static struct error *sync_disk(struct virtio_device *device)
{
	return blk_file_sync(&blk_of(device)->disk.file);
}

static void release(struct virtio_device *device)
{
	blk_file_unlock(&blk_of(device)->disk.file);
}

static struct error *take_over(struct virtio_device *device)
{
	return blk_file_lock(&blk_of(device)->disk.file);
}

static struct error *share(struct virtio_device *device, json_t *handed)
{
	struct blk_file *file = &blk_of(device)->disk.file;

	blk_file_share(file, handed);
	if (handed)
		handed_put(handed, "file", file->fd);
	return NULL;
}

static const struct virtio_device_ops blk_ops = {
    .type = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .pci_class = 0x010000,
    .config_size = BLK_CONFIG_SIZE,
    .config_read = config_read,
    .config_write = config_write,
    .accept_features = accept_features,
    .activate = activate,
    .queue_notify = queue_notify,
    .reset = reset,
    .quiesce = quiesce,
    .resume = resume,
    .sync = sync_disk,
    .release = release,
    .take_over = take_over,
    .share = share,
    .describe = describe,
    .destroy = destroy,
};

static struct error *take_cache(struct options *options, bool *write_through)
{
	const char *text = options_take(options, "cache");

	*write_through = text && strcmp(text, "writethrough") == 0;
	if (!text || *write_through || strcmp(text, "writeback") == 0)
		return NULL;
	return error_usage("cache: '%s' is neither 'writeback' nor 'writethrough'", text);
}

/* The strings of *parsed live as long as @options. */
static struct error *take_options(struct options *options, struct blk_disk_options *parsed)
{
	uint64_t queues = 1;

	*parsed = (struct blk_disk_options){.file.lock = true};
	parsed->file.path = options_take(options, "path");
	TRY(options_take_bool(options, "readonly", &parsed->file.readonly));
	TRY(options_take_bool(options, "direct", &parsed->file.direct));
	TRY(options_take_number(options, "queues", VIRTIO_BLK_QUEUES_MAX, &queues));
	TRY(take_cache(options, &parsed->write_through));
	parsed->serial = options_take(options, "serial");
	parsed->discard_given = options_take(options, "discard");
	TRY(options_take_bool(options, "discard", &parsed->discard));
	TRY(options_take_bool(options, "lock", &parsed->file.lock));
	parsed->name = options_take(options, "id") ?: "disk";
	TRY(options_finish(options));
	if (!parsed->file.path || !*parsed->file.path)
		return error_usage("a disk needs the path of its file");
	if (!queues)
		return error_usage("queues: a disk needs at least one");
	parsed->queues = (uint16_t)queues;
	if (parsed->serial && strlen(parsed->serial) > BLK_ID_SIZE)
		return error_usage("serial: '%s' has more than %d characters", parsed->serial,
				   BLK_ID_SIZE);
	parsed->serial = parsed->serial ?: parsed->name;
	return NULL;
}

static struct error *create_queues(struct virtio_blk *blk)
{
	struct virtio_device *device = &blk->device;

	blk->queues = calloc(device->queue_count, sizeof(*blk->queues));
	if (!blk->queues)
		return error_system(ENOMEM, "disk '%s'", device->id);
	for (uint16_t i = 0; i < device->queue_count; i++)
		blk->queues[i].engine.ring.event_fd = -1;
	for (uint16_t i = 0; i < device->queue_count; i++) {
		if (device->queue_count > 1)
			TRY(event_loop_create(&device->queues[i].loop));
		TRY(blk_queue_create(&blk->queues[i], device, &blk->disk, i,
				     device->queues[i].loop));
	}
	for (uint16_t i = 0; device->queue_count > 1 && i < device->queue_count; i++) {
		char name[16];

		snprintf(name, sizeof(name), "blk-queue-%u", i);
		TRY(event_loop_start_thread(device->queues[i].loop, name));
	}
	return NULL;
}

static struct error *create(struct virtio_blk *blk, const struct blk_disk_options *options)
{
	TRY(blk_disk_open(&blk->disk, options));
	TRY(virtio_device_init(&blk->device, &blk_ops, visit_state, options->name, options->queues,
			       BLK_QUEUE_SIZE));
	blk->initialised = true;
	blk->device.features |= blk->disk.features;
	return create_queues(blk);
}

static struct error *take_handed(json_t *handed, struct blk_file_options *file)
{
	file->handed = true;
	file->handed_fd = handed_take(handed, "file");
	return file->handed_fd < 0 ? error_new(EBADMSG, "disk '%s' has not come along", file->path)
				   : NULL;
}

static struct error *create_from(const char *text, bool lock_later, json_t *handed,
				 struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	struct blk_disk_options parsed;
	struct virtio_blk *blk;
	struct error *error;

	TRY(options_parse(text, "path", &options));
	TRY(take_options(options, &parsed));
	parsed.file.later = lock_later;
	if (handed)
		TRY(take_handed(handed, &parsed.file));
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return error_system(ENOMEM, "disk '%s'", parsed.file.path);
	blk->disk.file.fd = -1;
	error = create(blk, &parsed);
	if (error) {
		destroy(&blk->device);
		return error;
	}
	*device = &blk->device;
	return NULL;
}

struct error *virtio_blk_create(const char *text, struct virtio_device **device)
{
	return create_from(text, false, NULL, device);
}

struct error *virtio_blk_create_unlocked(const char *text, struct virtio_device **device)
{
	return create_from(text, true, NULL, device);
}

struct error *virtio_blk_create_handed(const char *text, json_t *handed,
				       struct virtio_device **device)
{
	return create_from(text, true, handed, device);
}
