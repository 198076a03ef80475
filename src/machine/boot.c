/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all kernel formats share: reading files, placing the initial RAM disk, the descriptor table.
 * Runs on the main thread before the guest does. The files come from the operator but may be
 * anything.
 */
#include "machine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/checked.h"

#define PAGE	     4096
#define RESET_VECTOR 0xffff0
#define RESET_PORT   (PLATFORM_POWER_PORT + 2)

struct error *boot_file_open(const char *path, const char *what, struct boot_file *file)
{
	file->path = path;
	file->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0)
		return error_system(errno, "cannot open the %s %s", what, path);
	return NULL;
}

static struct error *boot_file_size(const struct boot_file *file, uint64_t *size)
{
	struct stat status;

	if (fstat(file->fd, &status) < 0)
		return error_system(errno, "cannot tell the size of %s", file->path);
	if (!S_ISREG(status.st_mode))
		return error_new(EINVAL, "%s is not a regular file", file->path);
	*size = (uint64_t)status.st_size;
	return NULL;
}

struct error *boot_file_read(const struct boot_file *file, uint64_t offset, void *buffer,
			     size_t size)
{
	char *at = buffer;

	if (offset > INT64_MAX - size)
		return error_new(EINVAL, "%s: offset 0x%llx is too large", file->path,
				 (unsigned long long)offset);
	while (size) {
		ssize_t count = pread(file->fd, at, size, (off_t)offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return error_system(errno, "cannot read %s", file->path);
		if (!count)
			return error_new(EINVAL,
					 "%s ends at 0x%llx, in the middle of what is to be loaded",
					 file->path, (unsigned long long)offset);
		at += count;
		offset += (uint64_t)count;
		size -= (size_t)count;
	}
	return NULL;
}

/* The longest piece of [address, address + size) that lies in one region: NUMA nodes meet inside
 * low memory. */
static uint64_t boot_piece(struct memory_map *map, uint64_t address, uint64_t size)
{
	const struct memory_region *region = memory_map_find(map, address);

	return region ? MIN(size, region->size - (address - region->address)) : 0;
}

static struct error *boot_no_memory(uint64_t address)
{
	return error_new(EFAULT, "guest memory at 0x%llx is not there",
			 (unsigned long long)address);
}

struct error *boot_file_load(const struct boot_file *file, uint64_t offset, struct memory_map *map,
			     uint64_t address, uint64_t size)
{
	while (size) {
		uint64_t piece = boot_piece(map, address, size);
		struct memory_span span;
		struct error *error;
		int section;

		if (!piece)
			return boot_no_memory(address);
		section = memory_read_begin(map);
		if (memory_access(map, address, piece, MEMORY_WRITE, &span)) {
			error = boot_file_read(file, offset, span.host, span.size);
			memory_written(map, span.host, span.size);
		} else {
			error = boot_no_memory(address);
		}
		memory_read_end(map, section);
		if (error)
			return error;
		address += piece;
		offset += piece;
		size -= piece;
	}
	return NULL;
}

struct error *boot_write(struct memory_map *map, uint64_t address, const void *data, uint64_t size)
{
	return memory_write(map, address, data, size) ? NULL : boot_no_memory(address);
}

struct error *boot_clear(struct memory_map *map, uint64_t address, uint64_t size)
{
	while (size) {
		uint64_t piece = boot_piece(map, address, size);
		struct memory_span span;
		bool present;
		int section;

		if (!piece)
			return boot_no_memory(address);
		section = memory_read_begin(map);
		present = memory_access(map, address, piece, MEMORY_WRITE, &span);
		if (present) {
			memset(span.host, 0, span.size);
			memory_written(map, span.host, span.size);
		}
		memory_read_end(map, section);
		if (!present)
			return boot_no_memory(address);
		address += piece;
		size -= piece;
	}
	return NULL;
}

struct error *boot_load_initrd(struct memory_map *map, const struct boot_options *options,
			       uint64_t bottom, uint64_t top, uint64_t *address, uint64_t *size)
{
	*address = 0;
	*size = 0;
	if (options->initrd.fd < 0)
		return NULL;
	TRY(boot_file_size(&options->initrd, size));
	if (!*size) /* the boot protocols say "none" with a size of 0 */
		return NULL;
	top = align_down(top, PAGE);
	if (*size > top || align_down(top - *size, PAGE) < bottom)
		return error_new(
		    ENOSPC,
		    "the initial RAM disk %s (%llu bytes) does not fit between the kernel, which "
		    "needs memory up to 0x%llx, and the end of low memory at 0x%llx; give the "
		    "guest "
		    "more memory",
		    options->initrd.path, (unsigned long long)*size, (unsigned long long)bottom,
		    (unsigned long long)top);
	*address = align_down(top - *size, PAGE);
	return boot_file_load(&options->initrd, 0, map, *address, *size);
}

struct error *boot_write_cmdline(struct memory_map *map, const struct boot_options *options,
				 uint64_t limit)
{
	size_t size = strlen(options->cmdline) + 1;

	if (size > MIN(limit, LAYOUT_BOOT_CMDLINE_MAX))
		return error_usage("the kernel command line has %zu bytes; %s takes %llu", size - 1,
				   options->kernel.path,
				   (unsigned long long)MIN(limit, LAYOUT_BOOT_CMDLINE_MAX) - 1);
	return boot_write(map, LAYOUT_BOOT_CMDLINE, options->cmdline, size);
}

struct error *boot_write_gdt(struct memory_map *map, bool long_mode, struct kvm_boot_state *state)
{
	/* Flat, present, accessed: code is readable and 64-bit or 32-bit, data is writable. */
	const uint64_t descriptors[4] = {
	    [2] = long_mode ? 0x00af9b000000ffffULL : 0x00cf9b000000ffffULL,
	    [3] = 0x00cf93000000ffffULL,
	};
	uint8_t table[sizeof(descriptors)];

	for (size_t i = 0; i < ARRAY_SIZE(descriptors); i++)
		put_le64(table + 8 * i, descriptors[i]);
	state->gdt = LAYOUT_BOOT_GDT;
	state->gdt_limit = sizeof(table) - 1;
	return boot_write(map, LAYOUT_BOOT_GDT, table, sizeof(table));
}

struct error *boot_write_reset_vector(struct memory_map *map)
{
	static const uint8_t code[] = {
	    0xba,
	    RESET_PORT & 0xff,
	    RESET_PORT >> 8, /* mov dx, RESET_PORT */
	    0xb0,
	    PLATFORM_RESET_VALUE, /* mov al, PLATFORM_RESET_VALUE */
	    0xee,		  /* out dx, al */
	    0xf4,		  /* hlt */
	    0xeb,
	    0xfd, /* jmp to the hlt */
	};

	return boot_write(map, RESET_VECTOR, code, sizeof(code));
}

struct error *boot_load(struct memory_map *map, const struct boot_options *options,
			struct kvm_boot_state *state)
{
	static const uint8_t elf_magic[4] = {0x7f, 'E', 'L', 'F'};
	uint8_t magic[4];
	uint64_t size;

	memset(state, 0, sizeof(*state));
	state->stack = LAYOUT_BOOT_STACK;
	TRY(boot_file_size(&options->kernel, &size));
	if (size < sizeof(magic))
		return error_new(EINVAL, "%s is no kernel: it has %llu bytes", options->kernel.path,
				 (unsigned long long)size);
	TRY(boot_file_read(&options->kernel, 0, magic, sizeof(magic)));
	if (!memcmp(magic, elf_magic, sizeof(magic)))
		return pvh_load(map, options, size, state);
	return bzimage_load(map, options, size, state);
}
