/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The requests of virtio-blk, on a file in memory. The first byte of the input chooses how the disk
 * is opened: bits 0 read-only, 1 write-through, 2 direct I/O (where the host's tmpfs has it), 3 no
 * discard, 4 an odd size.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "virtio/blk.h"
#include "virtio_fuzz.h"

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
