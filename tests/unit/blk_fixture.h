/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio-blk device on a file of its own, and requests to it. */
#ifndef GODWIT_TEST_BLK_FIXTURE_H
#define GODWIT_TEST_BLK_FIXTURE_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "virtio/blk.h"
#include "virtio_state.h"

#define F_RO	       VIRTIO_FEATURE(5)
#define F_FLUSH	       VIRTIO_FEATURE(9)
#define F_CONFIG_WCE   VIRTIO_FEATURE(11)
#define F_MQ	       VIRTIO_FEATURE(12)
#define F_DISCARD      VIRTIO_FEATURE(13)
#define F_WRITE_ZEROES VIRTIO_FEATURE(14)

#define T_IN	       0
#define T_OUT	       1
#define T_FLUSH	       4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define S_OK	 0
#define S_IOERR	 1
#define S_UNSUPP 2

#define DISK_SIZE MIB(8)

/* Where the tests put things in guest memory. */
#define HEADER 0x1000
#define STATUS 0x2000
#define DATA   0x10000

struct disk {
	struct driver driver;
	char path[64];
	int fd; /* the file, opened again */
};

static inline void disk_create_file(struct disk *disk, uint64_t size)
{
	strcpy(disk->path, "/tmp/godwit-test-blk-XXXXXX");
	disk->fd = mkstemp(disk->path);
	assert_true(disk->fd >= 0);
	assert_int_equal(ftruncate(disk->fd, (off_t)size), 0);
}

static inline struct error *disk_try(struct disk *disk, const char *options)
{
	struct virtio_device *device;
	char text[128];
	struct error *error;

	snprintf(text, sizeof(text), "%s%s", disk->path, options);
	error = virtio_blk_create(text, &device);
	if (!error)
		disk->driver.device = device;
	return error;
}

/* Adds the device to a new guest. */
static inline void disk_open(struct disk *disk, const char *options)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_device *device;

	driver_no_error(disk_try(disk, options));
	device = disk->driver.device;
	driver_create_memory(&disk->driver, &backing);
	driver_add_device(&disk->driver, device);
}

static inline void disk_start(struct disk *disk, uint64_t size, const char *options,
			      uint64_t features)
{
	disk_create_file(disk, size);
	disk_open(disk, options);
	driver_start(&disk->driver, features);
}

static inline void disk_end(struct disk *disk)
{
	driver_destroy(&disk->driver);
	close(disk->fd);
	unlink(disk->path);
}

static inline void put_header(struct disk *disk, uint32_t type, uint64_t sector)
{
	uint8_t *raw = disk->driver.ram + HEADER;

	put_le32(raw, type);
	put_le32(raw + 4, 0);
	put_le64(raw + 8, sector);
	disk->driver.ram[STATUS] = 0xff;
}

/* One request with one data buffer at DATA; returns its status. */
static inline uint8_t disk_request(struct disk *disk, uint32_t type, uint64_t sector, uint32_t size)
{
	bool reads = type == T_IN || type == T_GET_ID;
	struct driver_buffer buffers[3] = {{HEADER, 16, false}};
	size_t count = 1;

	put_header(disk, type, sector);
	if (size)
		buffers[count++] = (struct driver_buffer){DATA, size, reads};
	buffers[count++] = (struct driver_buffer){STATUS, 1, true};
	driver_request(&disk->driver, 0, buffers, count);
	return disk->driver.ram[STATUS];
}

static inline void put_range(struct disk *disk, int index, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	uint8_t *raw = disk->driver.ram + DATA + index * 16;

	put_le64(raw, sector);
	put_le32(raw + 8, sectors);
	put_le32(raw + 12, flags);
}

static inline void fill(struct disk *disk, uint64_t offset, uint64_t size, uint8_t byte)
{
	uint8_t *bytes = malloc(size);

	assert_non_null(bytes);
	memset(bytes, byte, size);
	assert_int_equal(pwrite(disk->fd, bytes, size, (off_t)offset), size);
	free(bytes);
}

/* The byte that all of the range consists of, or -1. */
static inline int uniform(struct disk *disk, uint64_t offset, uint64_t size)
{
	uint8_t *bytes = malloc(size);
	int result;

	assert_non_null(bytes);
	assert_int_equal(pread(disk->fd, bytes, size, (off_t)offset), size);
	result = bytes[0];
	for (uint64_t i = 1; i < size; i++)
		if (bytes[i] != bytes[0])
			result = -1;
	free(bytes);
	return result;
}

static inline uint64_t allocated(struct disk *disk)
{
	struct stat status;

	fsync(disk->fd);
	assert_int_equal(fstat(disk->fd, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

#endif
