/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ELF kernels with a PVH entry (the Xen project's docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h): the segments go to their physical addresses, and the first
 * processor starts in 32-bit protected mode without paging, ebx pointing at a start-info structure.
 * Nothing here depends on what kernel it is: tests boot tiny programs this way.
 *
 * The ELF parser trusts nothing: counts, offsets and sizes are checked against the file and against
 * guest memory.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "machine/boot.h"

#define SEGMENTS_MAX   64
#define NOTES_SIZE_MAX KIB(64)
#define HEADER_SIZE    64 /* of ELF64; ELF32's is shorter */

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define START_INFO_MAGIC   0x336ec578
#define START_INFO_VERSION 1
#define START_INFO_SIZE	   56
#define MODULE_SIZE	   32
#define MEMORY_ENTRY_SIZE  24
#define MODULE_OFFSET	   START_INFO_SIZE
#define MEMORY_OFFSET	   (MODULE_OFFSET + MODULE_SIZE)

struct elf_segment {
	uint32_t type;
	uint64_t offset, file_size, memory_size, address, alignment;
};

struct elf_image {
	const struct boot_options *options;
	uint64_t file_size;
	bool wide; /* ELF64 */
	uint32_t segment_count;
	struct elf_segment segments[SEGMENTS_MAX];
	uint64_t end; /* of the loaded image in guest memory */
	bool entry_found;
	uint64_t entry;
};

static struct error *elf_bad(const struct elf_image *image, const char *field, uint64_t value,
			     const char *reason)
{
	return error_new(EINVAL, "%s: ELF %s is 0x%llx: %s", image->options->kernel.path, field,
			 (unsigned long long)value, reason);
}

static struct error *elf_read_segment(struct elf_image *image, const uint8_t *header)
{
	struct elf_segment *segment = &image->segments[image->segment_count++];
	uint64_t end;

	segment->type = get_le32(header);
	if (image->wide) {
		segment->offset = get_le64(header + 8);
		segment->address = get_le64(header + 24);
		segment->file_size = get_le64(header + 32);
		segment->memory_size = get_le64(header + 40);
		segment->alignment = get_le64(header + 48);
	} else {
		segment->offset = get_le32(header + 4);
		segment->address = get_le32(header + 12);
		segment->file_size = get_le32(header + 16);
		segment->memory_size = get_le32(header + 20);
		segment->alignment = get_le32(header + 28);
	}
	if (segment->type != PT_LOAD && segment->type != PT_NOTE)
		return NULL;
	if (!checked_add(segment->offset, segment->file_size, &end) || end > image->file_size)
		return elf_bad(image, "p_offset", segment->offset,
			       "the segment lies outside the file");
	if (segment->type == PT_NOTE)
		return NULL;
	if (segment->file_size > segment->memory_size)
		return elf_bad(image, "p_filesz", segment->file_size, "it is larger than p_memsz");
	if (segment->memory_size &&
	    !range_contains(LAYOUT_HIGH_START, image->options->layout->low_end - LAYOUT_HIGH_START,
			    segment->address, segment->memory_size))
		return elf_bad(
		    image, "p_paddr", segment->address,
		    "the segment lies outside the guest's memory between 1 MiB and the end of low "
		    "memory; give the guest more memory");
	image->end = MAX(image->end, segment->address + segment->memory_size);
	return NULL;
}

static struct error *elf_read_headers(struct elf_image *image)
{
	const struct boot_file *file = &image->options->kernel;
	uint8_t header[HEADER_SIZE];
	uint64_t table;
	uint32_t count, entry_size;

	if (image->file_size < sizeof(header))
		return elf_bad(image, "file size", image->file_size,
			       "it is too short for a header");
	TRY(boot_file_read(file, 0, header, sizeof(header)));
	if (header[EI_CLASS] != ELFCLASS64 && header[EI_CLASS] != ELFCLASS32)
		return elf_bad(image, "class", header[EI_CLASS], "it must be 1 or 2");
	image->wide = header[EI_CLASS] == ELFCLASS64;
	if (header[EI_DATA] != ELFDATA2LSB)
		return elf_bad(image, "data encoding", header[EI_DATA], "it must be little-endian");
	if (get_le16(header + 16) != ET_EXEC && get_le16(header + 16) != ET_DYN)
		return elf_bad(image, "e_type", get_le16(header + 16), "it must be an executable");
	if (get_le16(header + 18) != (image->wide ? EM_X86_64 : EM_386))
		return elf_bad(image, "e_machine", get_le16(header + 18), "it must be x86");
	table = image->wide ? get_le64(header + 32) : get_le32(header + 28);
	entry_size = get_le16(header + (image->wide ? 54 : 42));
	count = get_le16(header + (image->wide ? 56 : 44));
	if (entry_size != (image->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return elf_bad(image, "e_phentsize", entry_size, "it does not fit the class");
	if (!count || count > SEGMENTS_MAX)
		return elf_bad(image, "e_phnum", count, "from 1 to 64 segments are supported");
	if (!range_contains(0, image->file_size, table, (uint64_t)count * entry_size))
		return elf_bad(image, "e_phoff", table, "the table lies outside the file");
	for (uint32_t i = 0; i < count; i++) {
		uint8_t entry[sizeof(Elf64_Phdr)];

		TRY(boot_file_read(file, table + (uint64_t)i * entry_size, entry, entry_size));
		TRY(elf_read_segment(image, entry));
	}
	return NULL;
}

/* Searches one PT_NOTE segment; a malformed note ends the search of it. */
static struct error *elf_read_notes(struct elf_image *image, const struct elf_segment *segment)
{
	const uint64_t alignment = segment->alignment == 8 ? 8 : 4;
	AUTO_FREE uint8_t *notes = NULL;
	uint64_t at = 0;

	if (segment->file_size > NOTES_SIZE_MAX)
		return elf_bad(image, "p_filesz", segment->file_size, "notes of more than 64 KiB");
	notes = malloc(segment->file_size ?: 1);
	if (!notes)
		return error_system(ENOMEM, "cannot read %s", image->options->kernel.path);
	TRY(boot_file_read(&image->options->kernel, segment->offset, notes, segment->file_size));
	while (range_contains(0, segment->file_size, at, 12)) {
		/* 32-bit sizes in 64-bit sums: nothing here can wrap. */
		uint64_t name_size = get_le32(notes + at);
		uint64_t size = get_le32(notes + at + 4);
		uint32_t type = get_le32(notes + at + 8);
		uint64_t name = at + 12;
		uint64_t body = align_down(name + name_size + alignment - 1, alignment);

		if (!range_contains(0, segment->file_size, body, size))
			break;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_size == 4 &&
		    !memcmp(notes + name, "Xen", 4) && (size == 4 || size == 8)) {
			image->entry = size == 4 ? get_le32(notes + body) : get_le64(notes + body);
			image->entry_found = true;
			break;
		}
		at = align_down(body + size + alignment - 1, alignment);
	}
	return NULL;
}

static struct error *elf_find_entry(struct elf_image *image)
{
	for (uint32_t i = 0; i < image->segment_count && !image->entry_found; i++)
		if (image->segments[i].type == PT_NOTE)
			TRY(elf_read_notes(image, &image->segments[i]));
	if (!image->entry_found)
		return error_new(
		    EINVAL,
		    "%s is an ELF file without a PVH entry (a note \"Xen\" of type 18); use the "
		    "distribution's bzImage or build the kernel with CONFIG_PVH",
		    image->options->kernel.path);
	for (uint32_t i = 0; i < image->segment_count; i++) {
		const struct elf_segment *segment = &image->segments[i];

		if (segment->type == PT_LOAD &&
		    range_contains(segment->address, segment->file_size, image->entry, 1))
			return NULL;
	}
	return elf_bad(image, "PVH entry", image->entry, "it lies in no loaded segment");
}

static struct error *pvh_write_start_info(struct memory_map *map,
					  const struct boot_options *options, uint64_t initrd,
					  uint64_t initrd_size)
{
	struct layout_range ranges[LAYOUT_RANGES_MAX];
	uint32_t count = layout_boot_ranges(options->layout, ranges);
	uint8_t page[MEMORY_OFFSET + LAYOUT_RANGES_MAX * MEMORY_ENTRY_SIZE] = {0};
	uint8_t *entry = page + MODULE_OFFSET;

	put_le32(page, START_INFO_MAGIC);
	put_le32(page + 4, START_INFO_VERSION);
	put_le32(page + 12, initrd_size ? 1 : 0);
	put_le64(page + 16, initrd_size ? LAYOUT_BOOT_START_INFO + MODULE_OFFSET : 0);
	put_le64(page + 24, LAYOUT_BOOT_CMDLINE);
	put_le64(page + 32, options->rsdp);
	put_le64(page + 40, LAYOUT_BOOT_START_INFO + MEMORY_OFFSET);
	put_le32(page + 48, count);
	put_le64(entry, initrd);
	put_le64(entry + 8, initrd_size);
	for (uint32_t i = 0; i < count; i++) {
		entry = page + MEMORY_OFFSET + i * MEMORY_ENTRY_SIZE;
		put_le64(entry, ranges[i].address);
		put_le64(entry + 8, ranges[i].size);
		put_le32(entry + 16, ranges[i].type);
	}
	return boot_write(map, LAYOUT_BOOT_START_INFO, page, sizeof(page));
}

struct error *pvh_load(struct memory_map *map, const struct boot_options *options, uint64_t size,
		       struct kvm_boot_state *state)
{
	struct elf_image image = {.options = options, .file_size = size};
	uint64_t initrd = 0, initrd_size = 0;

	TRY(elf_read_headers(&image));
	TRY(elf_find_entry(&image));
	for (uint32_t i = 0; i < image.segment_count; i++) {
		const struct elf_segment *segment = &image.segments[i];

		if (segment->type != PT_LOAD)
			continue;
		TRY(boot_file_load(&options->kernel, segment->offset, map, segment->address,
				   segment->file_size));
		TRY(boot_clear(map, segment->address + segment->file_size,
			       segment->memory_size - segment->file_size));
	}
	TRY(boot_load_initrd(map, options, image.end, options->layout->low_end, &initrd,
			     &initrd_size));
	TRY(boot_write_cmdline(map, options, LAYOUT_BOOT_CMDLINE_MAX));
	TRY(pvh_write_start_info(map, options, initrd, initrd_size));
	TRY(boot_write_gdt(map, false, state));
	state->long_mode = false;
	state->entry = image.entry;
	state->rbx = LAYOUT_BOOT_START_INFO;
	return NULL;
}
