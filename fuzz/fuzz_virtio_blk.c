/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The requests of virtio-blk, on a file in memory. The first byte of the input chooses how the disk
 * is opened: bits 0 read-only, 1 write-through, 2 direct I/O (where the host's tmpfs has it), 3 no
 * discard, 4 an odd size.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/blk.h"
#include "virtio_fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* Bytes of the moves of virtio_fuzz.c. */
enum { OFFER_AND_NOTIFY = 0, TURN_LOOP = 15 };
enum { WRITABLE = 1, CONTENTS = 2, LARGE = 4 };

#define PREFIX	     11 /* choice, le64 features, le16 queue size */
#define REQUEST_SIZE 64 /* at least what put_request writes */

static uint8_t *put_buffer(uint8_t *at, uint8_t control, uint16_t size)
{
	at[0] = control | LARGE;
	put_le16(at + 1, size);
	return at + 3;
}

/* The moves for a request of @type that a driver would make, and a turn of the loop to complete it.
 */
static size_t put_request(uint8_t *start, uint8_t type, uint32_t random)
{
	bool ranges = type == 11 || type == 13, data = type <= 1 || ranges || type == 8;
	uint16_t size = type <= 1 ? (random % 16 + 1) * 512 : type == 8 ? 20 : 16;
	uint8_t *at = start;

	*at++ = OFFER_AND_NOTIFY;
	*at++ = data ? 2 : 1; /* buffers, less one */
	at = put_buffer(at, CONTENTS, 16);
	memset(at, 0, 16);
	at[0] = type;
	at[8] = ranges ? 0 : (uint8_t)(random >> 8);
	at += 16;
	if (data)
		at = put_buffer(at, ranges ? CONTENTS : type == 1 ? 0 : WRITABLE, size);
	if (ranges) {
		memset(at, 0, 16);
		at[0] = (uint8_t)(random >> 8);
		at[8] = (uint8_t)(random >> 16);
		at[12] = random >> 24 & 1;
		at += 16;
	}
	at = put_buffer(at, WRITABLE, 1);
	*at++ = TURN_LOOP;
	return (size_t)(at - start);
}

/* Now and then appends a sane request: finding one by chance takes a fuzzer minutes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	static const uint8_t types[] = {0, 1, 4, 8, 11, 13, 0, 1};

	if (seed % 4 || max_size < PREFIX + REQUEST_SIZE)
		return LLVMFuzzerMutate(data, size, max_size);
	if (size < PREFIX) {
		memset(data, 0xff, PREFIX);
		data[8] = 0x7f; /* features: all that the device offers */
		data[0] = (uint8_t)(seed >> 2);
		put_le16(data + 9, 0);
		size = PREFIX;
	}
	if (size > max_size - REQUEST_SIZE)
		return LLVMFuzzerMutate(data, size, max_size);
	return size + put_request(data + size, types[seed / 4 % 8], seed * 2654435761U);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_device *device;
	struct virtio_fuzz fuzz;
	uint8_t choice = size ? data[0] : 0;
	bool direct = choice & 4 && !(choice & 16);
	char text[128];
	int fd;

	if (!size)
		return 0;
	virtio_fuzz_setup(&fuzz);
	fd = memfd_create("disk", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, MIB(1) + (choice & 16 ? 700 : 0)) < 0)
		return 0;
	snprintf(text, sizeof(text), "/proc/self/fd/%d,readonly=%s,cache=%s,direct=%s%s", fd,
		 choice & 1 ? "on" : "off", choice & 2 ? "writethrough" : "writeback",
		 direct ? "on" : "off", choice & 8 ? ",discard=off" : "");
	virtio_fuzz_check(virtio_blk_create(text, &device));
	virtio_fuzz_run(&fuzz, device, data + 1, size - 1);
	virtio_fuzz_teardown(&fuzz);
	close(fd);
	return 0;
}
