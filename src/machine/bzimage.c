/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Linux bzImage, entered at its 64-bit entry point (Documentation/arch/x86/boot.rst, "64-bit BOOT
 * PROTOCOL").
 *
 * The file is a real-mode set-up part, of which only the header is read, and the protected-mode
 * kernel, which goes to its preferred address if memory reaches that far. Every field of the header
 * is the file's to choose and checked.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/boot.h"

/* Offsets in the set-up header, which are the same in the file and in the boot parameters. */
#define HEADER_START	       0x1f1
#define HEADER_SETUP_SECTORS   0x1f1 /* u8 */
#define HEADER_SYSTEM_SIZE     0x1f4 /* u32, in 16 bytes */
#define HEADER_BOOT_FLAG       0x1fe /* u16, 0xaa55 */
#define HEADER_JUMP_OFFSET     0x201 /* u8: the header ends this far after 0x202 */
#define HEADER_MAGIC	       0x202 /* u32, "HdrS" */
#define HEADER_VERSION	       0x206 /* u16 */
#define HEADER_LOADER	       0x210 /* u8 */
#define HEADER_LOAD_FLAGS      0x211 /* u8 */
#define HEADER_INITRD_ADDRESS  0x218 /* u32 */
#define HEADER_INITRD_SIZE     0x21c /* u32 */
#define HEADER_CMDLINE_POINTER 0x228 /* u32 */
#define HEADER_INITRD_MAXIMUM  0x22c /* u32, last byte */
#define HEADER_ALIGNMENT       0x230 /* u32 */
#define HEADER_RELOCATABLE     0x234 /* u8 */
#define HEADER_XLOAD_FLAGS     0x236 /* u16 */
#define HEADER_CMDLINE_SIZE    0x238 /* u32, without the zero */
#define HEADER_PREFERRED       0x258 /* u64 */
#define HEADER_INIT_SIZE       0x260 /* u32 */
#define HEADER_END	       0x264 /* what this loader reads */
#define HEADER_LIMIT	       0x290 /* where the boot parameters use the space for something else */

#define HEADER_MAGIC_VALUE     0x53726448
#define VERSION_MINIMUM	       0x020c /* 2.12: xloadflags */
#define LOAD_FLAGS_LOADED_HIGH 0x01
#define XLOAD_FLAGS_KERNEL_64  0x0001

/* Other boot parameters ("zero page"). */
#define PARAMS_SIZE	    4096
#define PARAMS_RSDP	    0x070 /* u64, since 2.14 */
#define PARAMS_E820_COUNT   0x1e8 /* u8 */
#define PARAMS_E820	    0x2d0
#define PARAMS_E820_SIZE    20
#define LOADER_UNREGISTERED 0xff
#define ENTRY_64_OFFSET	    0x200
#define SECTOR		    512
#define ALIGNMENT_MAX	    GIB(1)

struct bzimage {
	uint64_t kernel_offset, kernel_size; /* in the file, bytes */
	uint64_t address;		     /* where it goes */
	uint64_t init_size; /* bytes it needs from there until it can read the memory map */
	uint64_t initrd_top;
	uint64_t cmdline_limit; /* bytes, with the zero */
};

static struct error *bzimage_bad(const struct boot_options *options, const char *field,
				 uint64_t value, const char *reason)
{
	return error_new(EINVAL, "%s: %s is 0x%llx: %s", options->kernel.path, field,
			 (unsigned long long)value, reason);
}

static struct error *bzimage_parse(const struct boot_options *options, const uint8_t *header,
				   uint64_t size, struct bzimage *image)
{
	uint64_t setup_sectors = header[HEADER_SETUP_SECTORS] ?: 4;
	uint64_t alignment = get_le32(header + HEADER_ALIGNMENT);
	uint64_t low_end = options->layout->low_end;

	if (get_le16(header + HEADER_BOOT_FLAG) != 0xaa55 ||
	    get_le32(header + HEADER_MAGIC) != HEADER_MAGIC_VALUE)
		return error_new(EINVAL, "%s is neither a bzImage nor an ELF file",
				 options->kernel.path);
	if (get_le16(header + HEADER_VERSION) < VERSION_MINIMUM)
		return bzimage_bad(options, "the boot protocol version",
				   get_le16(header + HEADER_VERSION),
				   "2.12 (0x20c) is the oldest that works");
	if (!(get_le16(header + HEADER_XLOAD_FLAGS) & XLOAD_FLAGS_KERNEL_64) ||
	    !(header[HEADER_LOAD_FLAGS] & LOAD_FLAGS_LOADED_HIGH))
		return bzimage_bad(options, "xloadflags", get_le16(header + HEADER_XLOAD_FLAGS),
				   "the kernel has no 64-bit entry point; use a 64-bit kernel");

	image->kernel_offset = (setup_sectors + 1) * SECTOR;
	image->kernel_size = 16ULL * get_le32(header + HEADER_SYSTEM_SIZE);
	if (image->kernel_size <= ENTRY_64_OFFSET || image->kernel_offset > size ||
	    image->kernel_size > size - image->kernel_offset)
		return bzimage_bad(
		    options, "syssize", get_le32(header + HEADER_SYSTEM_SIZE),
		    "the file is shorter than that, or no kernel is left; is it whole?");

	image->init_size = get_le32(header + HEADER_INIT_SIZE);
	if (image->init_size < image->kernel_size)
		return bzimage_bad(options, "init_size", image->init_size,
				   "it is less than the size of the kernel");
	if (!is_power_of_two(alignment) || alignment < PARAMS_SIZE || alignment > ALIGNMENT_MAX)
		return bzimage_bad(options, "kernel_alignment", alignment,
				   "it must be a power of two from 4 KiB to 1 GiB");

	/* The preferred address saves the kernel from relocating itself; a small guest does
	 * without. */
	image->address = get_le64(header + HEADER_PREFERRED);
	if (!header[HEADER_RELOCATABLE] &&
	    (!is_aligned(image->address, PARAMS_SIZE) || image->address < LAYOUT_HIGH_START))
		return bzimage_bad(
		    options, "pref_address", image->address,
		    "a kernel that cannot be relocated must want a page above 1 MiB");
	if (header[HEADER_RELOCATABLE] &&
	    (!is_aligned(image->address, alignment) ||
	     !range_contains(LAYOUT_HIGH_START, low_end - LAYOUT_HIGH_START, image->address,
			     image->init_size)) &&
	    !checked_align_up(LAYOUT_HIGH_START, alignment, &image->address))
		return bzimage_bad(options, "kernel_alignment", alignment, "it is too large");
	if (!range_contains(LAYOUT_HIGH_START, low_end - LAYOUT_HIGH_START, image->address,
			    image->init_size))
		return error_new(ENOSPC,
				 "%s needs 0x%llx bytes at 0x%llx, but low memory ends at 0x%llx; "
				 "give the guest "
				 "more memory",
				 options->kernel.path, (unsigned long long)image->init_size,
				 (unsigned long long)image->address, (unsigned long long)low_end);

	image->initrd_top = MIN(low_end, get_le32(header + HEADER_INITRD_MAXIMUM) + 1ULL);
	image->cmdline_limit = get_le32(header + HEADER_CMDLINE_SIZE) + 1ULL;
	return NULL;
}

/* The first 4 GiB mapped one to one with pages of 2 MiB: one page of level 4, one of level 3, four
 * of level 2. */
static struct error *bzimage_write_page_tables(struct memory_map *map, struct kvm_boot_state *state)
{
	const uint64_t present_writable = 0x3;
	const uint64_t large = 0x80;
	uint64_t level_3 = LAYOUT_BOOT_PAGE_TABLES + PARAMS_SIZE;
	uint64_t level_2 = level_3 + PARAMS_SIZE;
	uint8_t page[PARAMS_SIZE] = {0};

	put_le64(page, level_3 | present_writable);
	TRY(boot_write(map, LAYOUT_BOOT_PAGE_TABLES, page, sizeof(page)));
	for (uint32_t i = 0; i < 4; i++)
		put_le64(page + 8 * i, (level_2 + i * PARAMS_SIZE) | present_writable);
	TRY(boot_write(map, level_3, page, sizeof(page)));
	for (uint32_t table = 0; table < 4; table++) {
		for (uint32_t i = 0; i < 512; i++)
			put_le64(page + 8 * i,
				 (GIB(table) + MIB(2 * i)) | present_writable | large);
		TRY(boot_write(map, level_2 + table * PARAMS_SIZE, page, sizeof(page)));
	}
	state->cr3 = LAYOUT_BOOT_PAGE_TABLES;
	return NULL;
}

static struct error *bzimage_write_params(struct memory_map *map,
					  const struct boot_options *options, const uint8_t *header,
					  uint64_t initrd, uint64_t initrd_size)
{
	uint32_t header_end = MIN(HEADER_MAGIC + header[HEADER_JUMP_OFFSET], HEADER_LIMIT);
	struct layout_range ranges[LAYOUT_RANGES_MAX];
	uint32_t count = layout_boot_ranges(options->layout, ranges);
	uint8_t params[PARAMS_SIZE] = {0};

	memcpy(params + HEADER_START, header + HEADER_START,
	       MAX(header_end, (uint32_t)HEADER_END) - HEADER_START);
	params[HEADER_LOADER] = LOADER_UNREGISTERED;
	put_le32(params + HEADER_CMDLINE_POINTER, LAYOUT_BOOT_CMDLINE);
	put_le32(params + HEADER_INITRD_ADDRESS, (uint32_t)initrd);
	put_le32(params + HEADER_INITRD_SIZE, (uint32_t)initrd_size);
	put_le64(params + PARAMS_RSDP, options->rsdp);
	params[PARAMS_E820_COUNT] = (uint8_t)count;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *entry = params + PARAMS_E820 + i * PARAMS_E820_SIZE;

		put_le64(entry, ranges[i].address);
		put_le64(entry + 8, ranges[i].size);
		put_le32(entry + 16, ranges[i].type);
	}
	return boot_write(map, LAYOUT_BOOT_PARAMS, params, sizeof(params));
}

struct error *bzimage_load(struct memory_map *map, const struct boot_options *options,
			   uint64_t size, struct kvm_boot_state *state)
{
	uint8_t header[HEADER_LIMIT];
	struct bzimage image = {0};
	uint64_t initrd = 0, initrd_size = 0;

	if (size < sizeof(header))
		return error_new(EINVAL, "%s is no kernel: it has %llu bytes", options->kernel.path,
				 (unsigned long long)size);
	TRY(boot_file_read(&options->kernel, 0, header, sizeof(header)));
	TRY(bzimage_parse(options, header, size, &image));
	TRY(boot_file_load(&options->kernel, image.kernel_offset, map, image.address,
			   image.kernel_size));
	TRY(boot_load_initrd(map, options, image.address + image.init_size, image.initrd_top,
			     &initrd, &initrd_size));
	TRY(boot_write_cmdline(map, options, image.cmdline_limit));
	TRY(bzimage_write_params(map, options, header, initrd, initrd_size));
	TRY(bzimage_write_page_tables(map, state));
	TRY(boot_write_gdt(map, true, state));
	state->long_mode = true;
	state->entry = image.address + ENTRY_64_OFFSET;
	state->rsi = LAYOUT_BOOT_PARAMS;
	return NULL;
}
