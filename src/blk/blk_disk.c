/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk of blk_disk.h. Runs on the device's thread; only opening can fail. */
#include "blk/blk_disk.h"

#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/state.h"

/* Feature bits (5.2.3). */
#define F_SEG_MAX      (1ULL << 2)
#define F_RO	       (1ULL << 5)
#define F_BLK_SIZE     (1ULL << 6)
#define F_FLUSH	       (1ULL << 9)
#define F_TOPOLOGY     (1ULL << 10)
#define F_CONFIG_WCE   (1ULL << 11)
#define F_MQ	       (1ULL << 12)
#define F_DISCARD      (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)

/* Configuration layout (5.2.4), little-endian; geometry and size_max are not offered and read as 0.
 */
enum config_offset {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXPONENT = 24,
	CONFIG_MIN_IO_SIZE = 26,
	CONFIG_OPT_IO_SIZE = 28,
	CONFIG_NUM_QUEUES = 34,
	CONFIG_MAX_DISCARD_SECTORS = 36,
	CONFIG_MAX_DISCARD_SEG = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_MAX_WRITE_ZEROES_SECTORS = 48,
	CONFIG_MAX_WRITE_ZEROES_SEG = 52,
	CONFIG_WRITE_ZEROES_MAY_UNMAP = 56,
};

void blk_disk_read_config(const struct blk_disk *disk, uint32_t offset, void *data, uint32_t size)
{
	const struct blk_file *file = &disk->file;
	uint32_t block = file->block_size;
	uint8_t config[BLK_CONFIG_SIZE] = {0};

	put_le64(config + CONFIG_CAPACITY, file->sectors);
	put_le32(config + CONFIG_SEG_MAX, BLK_SEGMENTS_MAX);
	put_le32(config + CONFIG_BLK_SIZE, block);
	config[CONFIG_PHYSICAL_EXPONENT] = (uint8_t)__builtin_ctz(file->physical_size / block);
	put_le16(config + CONFIG_MIN_IO_SIZE, (uint16_t)(file->physical_size / block));
	put_le32(config + CONFIG_OPT_IO_SIZE, file->optimal_size / block);
	config[BLK_CONFIG_WRITEBACK] = disk->writeback;
	put_le16(config + CONFIG_NUM_QUEUES, disk->queues);
	put_le32(config + CONFIG_MAX_DISCARD_SECTORS, BLK_RANGE_SECTORS_MAX);
	put_le32(config + CONFIG_MAX_DISCARD_SEG, BLK_RANGES_MAX);
	put_le32(config + CONFIG_DISCARD_ALIGNMENT, file->physical_size / BLK_SECTOR);
	put_le32(config + CONFIG_MAX_WRITE_ZEROES_SECTORS, BLK_RANGE_SECTORS_MAX);
	put_le32(config + CONFIG_MAX_WRITE_ZEROES_SEG, BLK_RANGES_MAX);
	config[CONFIG_WRITE_ZEROES_MAY_UNMAP] = disk->unmap;
	memcpy(data, config + offset, size);
}

/*
 * When a write is stable on completion (5.2.6.2): the user wants it, the driver cannot flush, or it
 * chose so with the configuration's writeback field.
 */
static void update_write_through(struct blk_disk *disk, uint64_t features)
{
	bool stable = disk->write_through_option ||
		      (features & F_CONFIG_WCE ? !disk->writeback : !(features & F_FLUSH));

	__atomic_store_n(&disk->write_through, stable, __ATOMIC_RELAXED);
}

void blk_disk_write_config(struct blk_disk *disk, uint64_t features, uint32_t offset,
			   const void *data, uint32_t size)
{
	const uint8_t *bytes = data;

	if (!(features & F_CONFIG_WCE) || !range_contains(offset, size, BLK_CONFIG_WRITEBACK, 1))
		return;
	disk->writeback = bytes[BLK_CONFIG_WRITEBACK - offset] & 1;
	update_write_through(disk, features);
}

void blk_disk_accept(struct blk_disk *disk, uint64_t features)
{
	disk->writeback =
	    !disk->write_through_option && (features & F_FLUSH || !(features & F_CONFIG_WCE));
	update_write_through(disk, features);
	disk->limits.discard = features & F_DISCARD;
	disk->limits.write_zeroes = features & F_WRITE_ZEROES;
}

void blk_disk_reset(struct blk_disk *disk)
{
	disk->writeback = !disk->write_through_option;
}

void blk_disk_state(struct blk_disk *disk, uint64_t features, struct state *state)
{
	bool sync_failed = __atomic_load_n(&disk->sync_failed, __ATOMIC_RELAXED);
	char serial[BLK_ID_SIZE];

	state_same(state, "sectors", disk->file.sectors);
	state_same(state, "block size", disk->file.block_size);
	state_same(state, "read-only", disk->file.readonly);
	memcpy(serial, disk->limits.id, sizeof(serial));
	state_buffer(state, "serial", serial, sizeof(serial));
	state_check(state, memcmp(serial, disk->limits.id, sizeof(serial)) == 0, "serial",
		    "is not that of this disk");
	state_bool(state, "writeback", &disk->writeback);
	state_bool(state, "flush failed", &sync_failed);
	if (!state_loading(state) || state_failed(state))
		return;
	/* Whoever answers the guest's next flush: data that it wrote was lost. */
	__atomic_store_n(&disk->sync_failed, sync_failed, __ATOMIC_RELAXED);
	disk->writeback = disk->writeback && !disk->write_through_option;
	update_write_through(disk, features);
}

/* What the file can do becomes what the device offers. */
static struct error *offer_features(struct blk_disk *disk, const struct blk_disk_options *options)
{
	if (options->discard && !disk->file.can_punch)
		return error_new(EOPNOTSUPP,
				 "disk '%s': discard=on, but its storage cannot give ranges back%s",
				 disk->file.path, disk->file.readonly ? " when read-only" : "");
	disk->unmap = disk->file.can_punch && (options->discard || !options->discard_given);
	disk->features = F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY;
	if (options->queues > 1)
		disk->features |= F_MQ;
	disk->features |= disk->file.readonly ? F_RO : F_WRITE_ZEROES;
	/* Without these a driver knows that every write is stable when it completes (5.2.6.2). */
	if (!options->write_through)
		disk->features |= F_FLUSH;
	if (!disk->file.readonly && !options->write_through)
		disk->features |= F_CONFIG_WCE;
	if (disk->unmap)
		disk->features |= F_DISCARD;
	return NULL;
}

struct error *blk_disk_open(struct blk_disk *disk, const struct blk_disk_options *options)
{
	void *zeros;

	*disk = (struct blk_disk){
	    .file.fd = -1,
	    .name = strdup(options->name),
	    .queues = options->queues,
	    .write_through_option = options->write_through,
	    .writeback = !options->write_through,
	};
	if (!disk->name)
		return error_system(ENOMEM, "disk '%s'", options->file.path);
	TRY(blk_file_open(&disk->file, &options->file));
	disk->limits = (struct blk_limits){
	    .sectors = disk->file.sectors,
	    .alignment = disk->file.direct ? disk->file.block_size : BLK_SECTOR,
	    .readonly = disk->file.readonly,
	};
	memcpy(disk->limits.id, options->serial, strnlen(options->serial, BLK_ID_SIZE));
	/* Only ever read: the kernel's zero page, which costs no memory. */
	zeros = mmap(NULL, BLK_ZEROS_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zeros == MAP_FAILED)
		return error_system(errno, "disk '%s'", disk->file.path);
	disk->zeros = zeros;
	return offer_features(disk, options);
}

void blk_disk_close(struct blk_disk *disk)
{
	if (disk->zeros)
		munmap(disk->zeros, BLK_ZEROS_SIZE);
	disk->zeros = NULL;
	blk_file_close(&disk->file);
	free(disk->name);
	disk->name = NULL;
}
