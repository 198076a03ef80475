/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio-blk device of blk.h: options, features, configuration, life cycle. The work is in
 * blk_queue.c.
 *
 * With one queue all of it runs on the device's loop. With more, each queue has a loop and thread
 * of its own that this file creates, and quiesce and reset wait for each of them in turn. What the
 * device's loop writes and queues read is `write_through` (atomic) and what is fixed before
 * DRIVER_OK.
 *
 * The guest controls configuration writes (one byte: the cache mode), the feature set, and
 * requests.
 */
#include "virtio/blk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/options.h"
#include "virtio/blk_queue.h"

/* Feature bits (5.2.3). */
#define F_SEG_MAX      2
#define F_RO	       5
#define F_BLK_SIZE     6
#define F_FLUSH	       9
#define F_TOPOLOGY     10
#define F_CONFIG_WCE   11
#define F_MQ	       12
#define F_DISCARD      13
#define F_WRITE_ZEROES 14

/* Configuration layout (5.2.4), little-endian; geometry and size_max are not offered and read as 0.
 */
enum config_offset {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXPONENT = 24,
	CONFIG_MIN_IO_SIZE = 26,
	CONFIG_OPT_IO_SIZE = 28,
	CONFIG_WRITEBACK = 32,
	CONFIG_NUM_QUEUES = 34,
	CONFIG_MAX_DISCARD_SECTORS = 36,
	CONFIG_MAX_DISCARD_SEG = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_MAX_WRITE_ZEROES_SECTORS = 48,
	CONFIG_MAX_WRITE_ZEROES_SEG = 52,
	CONFIG_WRITE_ZEROES_MAY_UNMAP = 56,
	CONFIG_SIZE = 60,
};

struct virtio_blk {
	struct virtio_device device;
	struct blk_disk disk;
	struct blk_queue *queues; /* device.queue_count, once the device is initialised */
	bool initialised;
	bool write_through_option; /* cache=writethrough */
	bool writeback;		   /* the field of the configuration */
};

struct blk_options {
	struct blk_file_options file;
	const char *id, *serial; /* serial may be NULL */
	uint64_t queues;
	bool write_through;
	bool discard, discard_given;
};

static struct virtio_blk *blk_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_blk, device);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	const struct virtio_blk *blk = blk_of(device);
	const struct blk_file *file = &blk->disk.file;
	uint32_t block = file->block_size;
	uint8_t config[CONFIG_SIZE] = {0};

	put_le64(config + CONFIG_CAPACITY, file->sectors);
	put_le32(config + CONFIG_SEG_MAX, BLK_SEGMENTS_MAX);
	put_le32(config + CONFIG_BLK_SIZE, block);
	config[CONFIG_PHYSICAL_EXPONENT] = (uint8_t)__builtin_ctz(file->physical_size / block);
	put_le16(config + CONFIG_MIN_IO_SIZE, (uint16_t)(file->physical_size / block));
	put_le32(config + CONFIG_OPT_IO_SIZE, file->optimal_size / block);
	config[CONFIG_WRITEBACK] = blk->writeback;
	put_le16(config + CONFIG_NUM_QUEUES, device->queue_count);
	put_le32(config + CONFIG_MAX_DISCARD_SECTORS, BLK_RANGE_SECTORS_MAX);
	put_le32(config + CONFIG_MAX_DISCARD_SEG, BLK_RANGES_MAX);
	put_le32(config + CONFIG_DISCARD_ALIGNMENT, file->physical_size / BLK_SECTOR);
	put_le32(config + CONFIG_MAX_WRITE_ZEROES_SECTORS, BLK_RANGE_SECTORS_MAX);
	put_le32(config + CONFIG_MAX_WRITE_ZEROES_SEG, BLK_RANGES_MAX);
	config[CONFIG_WRITE_ZEROES_MAY_UNMAP] = blk->disk.unmap;
	memcpy(data, config + offset, size);
}

/*
 * When a write is stable on completion (5.2.6.2): the user wants it, the driver cannot flush, or it
 * chose so with the configuration's writeback field.
 */
static void update_write_through(struct virtio_blk *blk, uint64_t features)
{
	bool flush = features & VIRTIO_FEATURE(F_FLUSH);
	bool toggle = features & VIRTIO_FEATURE(F_CONFIG_WCE);
	bool stable = blk->write_through_option || (toggle ? !blk->writeback : !flush);

	__atomic_store_n(&blk->disk.write_through, stable, __ATOMIC_RELAXED);
}

static void config_write(struct virtio_device *device, uint32_t offset, const void *data,
			 uint32_t size)
{
	struct virtio_blk *blk = blk_of(device);
	const uint8_t *bytes = data;

	if (!virtio_device_has(device, F_CONFIG_WCE) ||
	    !range_contains(offset, size, CONFIG_WRITEBACK, 1))
		return;
	blk->writeback = bytes[CONFIG_WRITEBACK - offset] & 1;
	update_write_through(blk, device->driver_features);
}

/* Any subset will do; a driver that can toggle the cache but not flush it starts without one
 * (5.2.5.2). */
static bool accept_features(struct virtio_device *device, uint64_t features)
{
	struct virtio_blk *blk = blk_of(device);

	blk->writeback = !blk->write_through_option && (features & VIRTIO_FEATURE(F_FLUSH) ||
							!(features & VIRTIO_FEATURE(F_CONFIG_WCE)));
	update_write_through(blk, features);
	blk->disk.limits.discard = features & VIRTIO_FEATURE(F_DISCARD);
	blk->disk.limits.write_zeroes = features & VIRTIO_FEATURE(F_WRITE_ZEROES);
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
	blk->writeback = !blk->write_through_option;
}

/* What the guest believes of the disk must hold for the one that it comes back to. */
static void visit_state(struct virtio_device *device, struct state *state)
{
	struct virtio_blk *blk = blk_of(device);
	struct blk_disk *disk = &blk->disk;
	bool sync_failed = __atomic_load_n(&disk->sync_failed, __ATOMIC_RELAXED);
	char serial[BLK_ID_SIZE];

	state_same(state, "sectors", disk->file.sectors);
	state_same(state, "block size", disk->file.block_size);
	state_same(state, "read-only", disk->file.readonly);
	memcpy(serial, disk->limits.id, sizeof(serial));
	state_buffer(state, "serial", serial, sizeof(serial));
	state_check(state, memcmp(serial, disk->limits.id, sizeof(serial)) == 0, "serial",
		    "is not that of this disk");
	state_bool(state, "writeback", &blk->writeback);
	state_bool(state, "flush failed", &sync_failed);
	if (!state_loading(state) || state_failed(state))
		return;
	/* Whoever answers the guest's next flush: data that it wrote was lost. */
	__atomic_store_n(&disk->sync_failed, sync_failed, __ATOMIC_RELAXED);
	blk->writeback = blk->writeback && !blk->write_through_option;
	update_write_through(blk, device->driver_features);
}

static json_int_t total(const struct virtio_blk *blk, enum blk_counter counter)
{
	uint64_t sum = 0;

	for (uint16_t i = 0; i < blk->device.queue_count; i++)
		sum += __atomic_load_n(&blk->queues[i].counters[counter], __ATOMIC_RELAXED);
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
	if (blk->disk.zeros)
		munmap(blk->disk.zeros, BLK_ZEROS_SIZE);
	blk_file_close(&blk->disk.file);
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

static const struct virtio_device_ops blk_ops = {
    .type = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .pci_class = 0x010000,
    .config_size = CONFIG_SIZE,
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
static struct error *take_options(struct options *options, struct blk_options *parsed)
{
	*parsed = (struct blk_options){.queues = 1, .file.lock = true, .id = "disk"};
	parsed->file.path = options_take(options, "path");
	TRY(options_take_bool(options, "readonly", &parsed->file.readonly));
	TRY(options_take_bool(options, "direct", &parsed->file.direct));
	TRY(options_take_number(options, "queues", VIRTIO_BLK_QUEUES_MAX, &parsed->queues));
	TRY(take_cache(options, &parsed->write_through));
	parsed->serial = options_take(options, "serial");
	parsed->discard_given = options_take(options, "discard");
	TRY(options_take_bool(options, "discard", &parsed->discard));
	TRY(options_take_bool(options, "lock", &parsed->file.lock));
	parsed->id = options_take(options, "id") ?: parsed->id;
	TRY(options_finish(options));
	if (!parsed->file.path || !*parsed->file.path)
		return error_usage("a disk needs the path of its file");
	if (!parsed->queues)
		return error_usage("queues: a disk needs at least one");
	if (parsed->serial && strlen(parsed->serial) > BLK_ID_SIZE)
		return error_usage("serial: '%s' has more than %d characters", parsed->serial,
				   BLK_ID_SIZE);
	return NULL;
}

/* What the file can do becomes what the device offers. */
static struct error *offer_features(struct virtio_blk *blk, const struct blk_options *options)
{
	struct blk_disk *disk = &blk->disk;
	uint64_t features =
	    VIRTIO_FEATURE(F_SEG_MAX) | VIRTIO_FEATURE(F_BLK_SIZE) | VIRTIO_FEATURE(F_TOPOLOGY);

	if (options->discard && !disk->file.can_punch)
		return error_new(EOPNOTSUPP,
				 "disk '%s': discard=on, but its storage cannot give ranges back%s",
				 disk->file.path, disk->file.readonly ? " when read-only" : "");
	disk->unmap = disk->file.can_punch && (options->discard || !options->discard_given);
	if (options->queues > 1)
		features |= VIRTIO_FEATURE(F_MQ);
	if (disk->file.readonly)
		features |= VIRTIO_FEATURE(F_RO);
	else
		features |= VIRTIO_FEATURE(F_WRITE_ZEROES);
	/* Without these a driver knows that every write is stable when it completes (5.2.6.2). */
	if (!options->write_through)
		features |= VIRTIO_FEATURE(F_FLUSH);
	if (!disk->file.readonly && !options->write_through)
		features |= VIRTIO_FEATURE(F_CONFIG_WCE);
	if (disk->unmap)
		features |= VIRTIO_FEATURE(F_DISCARD);
	blk->device.features |= features;
	blk->write_through_option = options->write_through;
	blk->writeback = !options->write_through;
	return NULL;
}

static struct error *create_disk(struct blk_disk *disk, const struct blk_options *options)
{
	const char *serial = options->serial ?: options->id;
	void *zeros;

	TRY(blk_file_open(&disk->file, &options->file));
	disk->limits = (struct blk_limits){
	    .sectors = disk->file.sectors,
	    .alignment = disk->file.direct ? disk->file.block_size : BLK_SECTOR,
	    .readonly = disk->file.readonly,
	};
	memcpy(disk->limits.id, serial, strnlen(serial, BLK_ID_SIZE));
	/* Only ever read: the kernel's zero page, which costs no memory. */
	zeros = mmap(NULL, BLK_ZEROS_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zeros == MAP_FAILED)
		return error_system(errno, "disk '%s'", disk->file.path);
	disk->zeros = zeros;
	return NULL;
}

static struct error *create_queues(struct virtio_blk *blk)
{
	struct virtio_device *device = &blk->device;

	blk->queues = calloc(device->queue_count, sizeof(*blk->queues));
	if (!blk->queues)
		return error_system(ENOMEM, "disk '%s'", device->id);
	for (uint16_t i = 0; i < device->queue_count; i++)
		blk->queues[i].ring.event_fd = -1;
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

static struct error *create(struct virtio_blk *blk, const struct blk_options *options)
{
	TRY(create_disk(&blk->disk, options));
	TRY(virtio_device_init(&blk->device, &blk_ops, visit_state, options->id,
			       (uint16_t)options->queues, BLK_QUEUE_SIZE));
	blk->initialised = true;
	TRY(offer_features(blk, options));
	return create_queues(blk);
}

static struct error *create_from(const char *text, bool lock_later, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	struct blk_options parsed;
	struct virtio_blk *blk;
	struct error *error;

	TRY(options_parse(text, "path", &options));
	TRY(take_options(options, &parsed));
	parsed.file.later = lock_later;
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
	return create_from(text, false, device);
}

struct error *virtio_blk_create_unlocked(const char *text, struct virtio_device **device)
{
	return create_from(text, true, device);
}
