/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file behind virtio-blk, see blk_file.h. Runs on the thread that creates the device; anything
 * may fail and says so in the error. System calls: open, fstat, statx, fcntl(F_OFD_SETLK),
 * fallocate, ioctl(BLK*).
 */
#include "blk/blk_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/checked.h"

#define BLOCK_SIZE_MAX                                                                             \
	65536 /* bytes; larger is no answer of a sane driver, and virtio cannot say it */

static struct error *open_file(struct blk_file *file)
{
	int flags =
	    O_CLOEXEC | (file->readonly ? O_RDONLY : O_RDWR) | (file->direct ? O_DIRECT : 0);
	struct stat status;

	/* Before opening it: opening a pipe would wait for its other end. */
	if (stat(file->path, &status) < 0)
		return error_system(errno, "disk '%s'", file->path);
	if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
		return error_new(EINVAL, "disk '%s' is neither a regular file nor a block device",
				 file->path);
	file->fd = open(file->path, flags);
	if (file->fd >= 0)
		return NULL;
	if (errno == EINVAL && file->direct)
		return error_new(
		    EINVAL, "disk '%s' is on a file system without direct I/O: it must go without",
		    file->path);
	if ((errno == EROFS || errno == EACCES || errno == EPERM) && !file->readonly)
		return error_system(
		    errno, "disk '%s' cannot be opened for writing, only read-only perhaps",
		    file->path);
	return error_system(errno, "disk '%s'", file->path);
}

/*
 * A lock of the open file description, so that it also keeps out a second --disk of this process
 * and ends with the descriptor. Exclusive for a writer, shared among readers.
 */
static int set_lock(const struct blk_file *file)
{
	struct flock lock = {
	    .l_type = file->readonly ? F_RDLCK : F_WRLCK,
	    .l_whence = SEEK_SET,
	};

	return fcntl(file->fd, F_OFD_SETLK, &lock);
}

struct error *blk_file_lock(struct blk_file *file)
{
	if (!file->lock || set_lock(file) == 0) {
		file->away = false;
		return NULL;
	}
	if (errno == EAGAIN || errno == EACCES)
		return error_new(
		    EBUSY, "disk '%s' is in use by another process or another disk%s", file->path,
		    file->readonly ? " that writes to it" : "; several may share it read-only");
	return error_system(errno, "disk '%s' cannot be locked (lock=off runs without)",
			    file->path);
}

static uint32_t sane_size(uint64_t size, uint32_t otherwise)
{
	return is_power_of_two(size) && size >= BLK_SECTOR && size <= BLOCK_SIZE_MAX
		   ? (uint32_t)size
		   : otherwise;
}

/*
 * Whether fallocate can punch: on a block device it zeroes with unmap, which the device must be
 * able to do by itself. A partition has its queue one level up.
 */
static bool device_can_unmap(dev_t device)
{
	static const char *const parents[] = {"", "../"};

	for (size_t i = 0; i < ARRAY_SIZE(parents); i++) {
		AUTO_FCLOSE FILE *limit = NULL;
		AUTO_FREE char *path = NULL;
		uint64_t bytes;

		if (asprintf(&path, "/sys/dev/block/%u:%u/%squeue/write_zeroes_max_bytes",
			     major(device), minor(device), parents[i]) < 0) {
			path = NULL;
			return false;
		}
		limit = fopen(path, "re");
		if (limit && fscanf(limit, "%" SCNu64, &bytes) == 1)
			return bytes > 0;
	}
	return false;
}

static struct error *measure_block_device(struct blk_file *file, const struct stat *status)
{
	unsigned int physical = 0, optimal = 0;
	uint64_t size = 0;
	int logical = 0;

	if (ioctl(file->fd, BLKGETSIZE64, &size) < 0 || ioctl(file->fd, BLKSSZGET, &logical) < 0)
		return error_system(errno, "disk '%s': size of the block device", file->path);
	file->size = size;
	file->block_size = sane_size((uint64_t)logical, BLK_SECTOR);
	file->physical_size = file->block_size;
	if (ioctl(file->fd, BLKPBSZGET, &physical) == 0)
		file->physical_size = MAX(sane_size(physical, file->block_size), file->block_size);
	if (ioctl(file->fd, BLKIOOPT, &optimal) == 0)
		file->optimal_size = optimal;
	file->can_punch = !file->readonly && device_can_unmap(status->st_rdev);
	return NULL;
}

/* Whether holes can be made: tried beyond the end, where there is nothing to lose. */
static bool probe_punch(const struct blk_file *file)
{
	uint64_t beyond;

	if (file->readonly || !checked_align_up(file->size, BLOCK_SIZE_MAX, &beyond) ||
	    beyond > INT64_MAX - BLOCK_SIZE_MAX)
		return false;
	return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)beyond,
			 BLOCK_SIZE_MAX) == 0;
}

static void measure_regular_file(struct blk_file *file, const struct stat *status)
{
	file->size = (uint64_t)status->st_size;
	file->block_size = BLK_SECTOR;
	file->physical_size = sane_size((uint64_t)status->st_blksize, 4096);
	file->can_punch = probe_punch(file);
}

/* What O_DIRECT demands of offsets and buffers. */
static void measure_direct(struct blk_file *file)
{
	uint32_t offset = file->block_device ? file->block_size : 4096, memory = offset;

#ifdef STATX_DIOALIGN
	struct statx answer;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) == 0 &&
	    answer.stx_mask & STATX_DIOALIGN && answer.stx_dio_offset_align) {
		offset = sane_size(answer.stx_dio_offset_align, BLK_SECTOR);
		memory =
		    is_power_of_two(answer.stx_dio_mem_align) ? answer.stx_dio_mem_align : offset;
	}
#endif
	file->block_size = MAX(file->block_size, offset);
	file->physical_size = MAX(file->physical_size, file->block_size);
	file->memory_alignment = memory;
}

struct error *blk_file_open(struct blk_file *file, const struct blk_file_options *options)
{
	struct stat status;

	*file = (struct blk_file){
	    .path = strdup(options->path),
	    .fd = -1,
	    .readonly = options->readonly,
	    .direct = options->direct,
	    .lock = options->lock,
	    .memory_alignment = 1,
	};
	if (!file->path)
		return error_system(ENOMEM, "disk '%s'", options->path);
	if (options->handed) {
		file->fd = options->handed_fd;
		file->shared = file->away = true;
	} else {
		TRY(open_file(file));
		if (!options->later)
			TRY(blk_file_lock(file));
	}
	if (fstat(file->fd, &status) < 0)
		return error_system(errno, "disk '%s'", file->path);
	file->block_device = S_ISBLK(status.st_mode);
	if (file->block_device)
		TRY(measure_block_device(file, &status));
	else
		measure_regular_file(file, &status);
	if (file->direct)
		measure_direct(file);
	if (!file->size)
		return error_new(EINVAL, "disk '%s' is empty", file->path);
	if (file->direct && file->size % file->block_size)
		return error_new(EINVAL,
				 "disk '%s': its size %" PRIu64
				 " is no multiple of %u bytes, which direct I/O needs there",
				 file->path, file->size, file->block_size);
	file->sectors = file->size / BLK_SECTOR + !!(file->size % BLK_SECTOR);
	return NULL;
}

void blk_file_share(struct blk_file *file, bool share)
{
	file->shared = share;
}

void blk_file_unlock(struct blk_file *file)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (file->shared)
		file->away = true;
	else if (file->lock)
		fcntl(file->fd, F_OFD_SETLK, &lock);
}

struct error *blk_file_sync(const struct blk_file *file)
{
	if (file->readonly || fdatasync(file->fd) == 0)
		return NULL;
	return error_system(errno, "disk '%s': what the guest wrote cannot be made durable",
			    file->path);
}

void blk_file_close(struct blk_file *file)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	/* By name: an operation that just completed may hold the open file for a moment longer. */
	if (file->fd >= 0 && !file->away)
		fcntl(file->fd, F_OFD_SETLK, &lock);
	close_fd(&file->fd);
	free(file->path);
	file->path = NULL;
}
