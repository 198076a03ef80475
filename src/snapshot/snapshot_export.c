/* SPDX-License-Identifier: BSD-2-Clause */
/* Exports of snapshot_export.h. One thread; the snapshot is somebody else's. */
#include "snapshot/snapshot_export.h"

#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_parts.h"
#include "snapshot/snapshot_writer.h"

/* --- A new, sparse file ------------------------------------------------------------------------ */

struct output {
	const char *path;
	int fd;
	const struct snapshot_progress *progress;
	uint64_t done, total; /* bytes of memory */
	uint8_t *buffer;      /* SNAPSHOT_CHUNK_SIZE */
};

static struct error *output_open(struct output *output, const char *path)
{
	output->path = path;
	output->fd = -1;
	output->buffer = aligned_alloc(SNAPSHOT_PAGE_SIZE, SNAPSHOT_CHUNK_SIZE);
	if (!output->buffer)
		return error_new(ENOMEM, "no memory to write %s", path);
	output->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (output->fd >= 0)
		return NULL;
	if (errno == EEXIST)
		return error_new(EEXIST, "%s exists: remove it, or give another name", path);
	return error_system(errno, "cannot create %s", path);
}

/* Ends the output; with an error, nothing is left of it. */
static struct error *output_close(struct output *output, struct error *error)
{
	if (output->fd >= 0 && !error && fsync(output->fd) < 0)
		error = error_system(errno, "cannot write %s to its disk", output->path);
	if (output->fd >= 0 && error)
		unlink(output->path);
	close_fd(&output->fd);
	free(output->buffer);
	return error;
}

static struct error *output_write(struct output *output, const void *bytes, size_t size,
				  uint64_t offset)
{
	const uint8_t *from = bytes;

	while (size) {
		ssize_t written = pwrite(output->fd, from, size, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return error_system(errno, "cannot write %s", output->path);
		from += written;
		offset += (size_t)written;
		size -= (size_t)written;
	}
	return NULL;
}

static bool page_is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, SNAPSHOT_PAGE_SIZE - 1) == 0;
}

/* Writes the pages of @bytes that are not zeros, in runs. */
static struct error *output_write_pages(struct output *output, const uint8_t *bytes, size_t size,
					uint64_t offset)
{
	size_t start = 0;

	for (size_t at = 0; at <= size; at += SNAPSHOT_PAGE_SIZE) {
		if (at < size && !page_is_zero(bytes + at))
			continue;
		if (at > start)
			TRY(output_write(output, bytes + start, at - start, offset + start));
		start = at + SNAPSHOT_PAGE_SIZE;
	}
	return NULL;
}

/* Puts [@from, @from + @size) of @block at @offset of the output. */
static struct error *output_copy(struct output *output, const struct snapshot_block *block,
				 uint64_t from, uint64_t size, uint64_t offset)
{
	uint64_t end = from + size;

	while (from < end) {
		uint64_t chunk = from / SNAPSHOT_CHUNK_SIZE;
		size_t skip = from % SNAPSHOT_CHUNK_SIZE;
		size_t part = MIN(end - from, (uint64_t)SNAPSHOT_CHUNK_SIZE - skip);

		if (!snapshot_chunk_is_zero(block, chunk)) {
			int result = snapshot_chunk_read(block, chunk, output->buffer);

			if (result)
				return snapshot_chunk_error(block, chunk, result);
			TRY(output_write_pages(output, output->buffer + skip, part, offset));
		}
		from += part;
		offset += part;
		output->done += part;
		if (chunk % SNAPSHOT_PROGRESS_CHUNKS == 0 || from == end)
			snapshot_progress_report(output->progress, output->done, output->total);
	}
	return NULL;
}

static struct error *output_set_size(struct output *output, uint64_t size)
{
	if (ftruncate(output->fd, (off_t)size) < 0)
		return error_system(errno, "cannot give %s its size of %" PRIu64 " bytes",
				    output->path, size);
	return NULL;
}

/* --- Raw --------------------------------------------------------------------------------------- */

static struct error *write_raw(struct output *output, const struct snapshot_block *block)
{
	output->total = block->size;
	TRY(output_set_size(output, block->size));
	return output_copy(output, block, 0, block->size, 0);
}

struct error *snapshot_export_raw(const struct snapshot_block *block, const char *path,
				  const struct snapshot_progress *progress)
{
	struct output output = {.progress = progress};
	struct error *error = output_open(&output, path);

	if (!error)
		error = write_raw(&output, block);
	return output_close(&output, error);
}

/* --- ELF --------------------------------------------------------------------------------------- */

static void put_elf_header(uint8_t header[sizeof(Elf64_Ehdr)], uint32_t segments)
{
	memset(header, 0, sizeof(Elf64_Ehdr));
	memcpy(header, ELFMAG, SELFMAG);
	header[EI_CLASS] = ELFCLASS64;
	header[EI_DATA] = ELFDATA2LSB;
	header[EI_VERSION] = EV_CURRENT;
	put_le16(header + offsetof(Elf64_Ehdr, e_type), ET_CORE);
	put_le16(header + offsetof(Elf64_Ehdr, e_machine), EM_X86_64);
	put_le32(header + offsetof(Elf64_Ehdr, e_version), EV_CURRENT);
	put_le64(header + offsetof(Elf64_Ehdr, e_phoff), sizeof(Elf64_Ehdr));
	put_le16(header + offsetof(Elf64_Ehdr, e_ehsize), sizeof(Elf64_Ehdr));
	put_le16(header + offsetof(Elf64_Ehdr, e_phentsize), sizeof(Elf64_Phdr));
	put_le16(header + offsetof(Elf64_Ehdr, e_phnum), (uint16_t)segments);
}

static void put_segment(uint8_t segment[sizeof(Elf64_Phdr)], const struct snapshot_range *range,
			uint64_t offset)
{
	memset(segment, 0, sizeof(Elf64_Phdr));
	put_le32(segment + offsetof(Elf64_Phdr, p_type), PT_LOAD);
	put_le32(segment + offsetof(Elf64_Phdr, p_flags), PF_R | PF_W | PF_X);
	put_le64(segment + offsetof(Elf64_Phdr, p_offset), offset);
	put_le64(segment + offsetof(Elf64_Phdr, p_vaddr), range->address);
	put_le64(segment + offsetof(Elf64_Phdr, p_paddr), range->address);
	put_le64(segment + offsetof(Elf64_Phdr, p_filesz), range->size);
	put_le64(segment + offsetof(Elf64_Phdr, p_memsz), range->size);
	put_le64(segment + offsetof(Elf64_Phdr, p_align), SNAPSHOT_PAGE_SIZE);
}

static void put_note_segment(uint8_t segment[sizeof(Elf64_Phdr)], uint64_t offset, uint64_t size)
{
	memset(segment, 0, sizeof(Elf64_Phdr));
	put_le32(segment + offsetof(Elf64_Phdr, p_type), PT_NOTE);
	put_le64(segment + offsetof(Elf64_Phdr, p_offset), offset);
	put_le64(segment + offsetof(Elf64_Phdr, p_filesz), size);
	put_le64(segment + offsetof(Elf64_Phdr, p_align), 4);
}

/*
 * The header, then the table of segments, the notes (the first segment: crash wants it so, even
 * without any), and memory. Where that begins goes into *@start.
 */
static struct error *write_front(struct output *output, const struct snapshot_memory *memory,
				 const struct snapshot_buffer *notes, uint64_t *start)
{
	const uint64_t table = sizeof(Elf64_Ehdr),
		       notes_at = table + (memory->count + 1) * sizeof(Elf64_Phdr);
	uint8_t header[sizeof(Elf64_Ehdr)], segment[sizeof(Elf64_Phdr)];
	uint64_t offset =
	    align_down(notes_at + notes->size + SNAPSHOT_PAGE_SIZE - 1, SNAPSHOT_PAGE_SIZE);

	*start = offset;
	put_elf_header(header, memory->count + 1);
	TRY(output_write(output, header, sizeof(header), 0));
	put_note_segment(segment, notes_at, notes->size);
	TRY(output_write(output, segment, sizeof(segment), table));
	TRY(output_write(output, notes->bytes, notes->size, notes_at));
	for (uint32_t i = 0; i < memory->count; i++) {
		put_segment(segment, &memory->ranges[i], offset);
		TRY(output_write(output, segment, sizeof(segment),
				 table + (i + 1) * sizeof(segment)));
		offset += memory->ranges[i].size;
	}
	output->total = offset - *start;
	return output_set_size(output, offset);
}

static struct error *write_elf(struct output *output, const struct snapshot_file *file,
			       const struct snapshot_memory *memory,
			       const struct snapshot_buffer *notes)
{
	uint64_t offset;

	TRY(write_front(output, memory, notes, &offset));
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct snapshot_range *range = &memory->ranges[i];

		TRY(output_copy(output, snapshot_file_block(file, range->block), range->offset,
				range->size, offset));
		offset += range->size;
	}
	return NULL;
}

struct error *snapshot_export_elf(const struct snapshot_file *file,
				  const struct snapshot_processor *processors, uint32_t count,
				  const char *path, const struct snapshot_progress *progress,
				  bool *assumed)
{
	AUTO_FREE struct snapshot_memory *memory = calloc(1, sizeof(*memory));
	struct output output = {.progress = progress};
	struct snapshot_buffer notes = {0};
	struct error *error;

	if (!memory)
		return error_new(ENOMEM, "no memory to write %s", path);
	TRY(snapshot_file_memory(file, memory, assumed));
	snapshot_notes_put(&notes, processors, count);
	error = notes.failed ? error_new(ENOMEM, "no memory to write %s", path)
			     : output_open(&output, path);
	if (!error)
		error = output_close(&output, write_elf(&output, file, memory, &notes));
	free(notes.bytes);
	return error;
}

/* --- Flat -------------------------------------------------------------------------------------- */

static struct error *copy_sections(const struct snapshot_file *file, struct snapshot_writer *writer)
{
	for (uint32_t i = 0; i < file->section_count; i++) {
		const struct snapshot_section *section = &file->sections[i];

		if (strcmp(section->name, SNAPSHOT_SECTION_FILE) == 0)
			continue; /* the new file has its own */
		TRY(snapshot_writer_add_bytes(writer, section->name, section->instance,
					      section->version, section->bytes, section->size));
	}
	return NULL;
}

/* Copies the chunk that is in the output's buffer. */
static struct error *copy_chunk(struct output *output, struct snapshot_writer *writer,
				uint32_t index, const struct snapshot_block *block, uint64_t chunk)
{
	size_t size = snapshot_chunk_size(block, chunk);
	uint64_t stored = 0;

	for (size_t at = 0; at < size; at += SNAPSHOT_PAGE_SIZE)
		if (!page_is_zero(output->buffer + at))
			stored |= UINT64_C(1) << at / SNAPSHOT_PAGE_SIZE;
	snapshot_writer_set_chunk(writer, index, chunk, stored, 0, block->checksums[chunk]);
	return output_write_pages(
	    output, output->buffer, size,
	    snapshot_writer_page_offset(writer, index, chunk * SNAPSHOT_CHUNK_PAGES));
}

static struct error *copy_pages(const struct snapshot_file *file, struct snapshot_writer *writer,
				struct output *output)
{
	for (uint32_t i = 0; i < file->block_count; i++)
		output->total += file->blocks[i].size;
	for (uint32_t i = 0; i < file->block_count; i++) {
		const struct snapshot_block *block = &file->blocks[i];

		for (uint64_t chunk = 0; chunk < snapshot_block_chunks(block); chunk++) {
			int result;

			output->done += snapshot_chunk_size(block, chunk);
			if (chunk % SNAPSHOT_PROGRESS_CHUNKS == 0)
				snapshot_progress_report(output->progress, output->done,
							 output->total);
			if (snapshot_chunk_is_zero(block, chunk))
				continue;
			result = snapshot_chunk_read(block, chunk, output->buffer);
			if (result)
				return snapshot_chunk_error(block, chunk, result);
			TRY(copy_chunk(output, writer, i, block, chunk));
		}
	}
	snapshot_progress_report(output->progress, output->total, output->total);
	return NULL;
}

struct error *snapshot_flatten(const struct snapshot_file *file, const char *path,
			       const struct snapshot_progress *progress)
{
	AUTO_FREE struct snapshot_block_plan *plans =
	    calloc((size_t)file->block_count + 1, sizeof(*plans));
	AUTO_FREE uint8_t *buffer = aligned_alloc(SNAPSHOT_PAGE_SIZE, SNAPSHOT_CHUNK_SIZE);
	const struct snapshot_writer_options options = {.path = path};
	AUTO_SNAPSHOT_WRITER struct snapshot_writer *writer = NULL;
	struct output output = {.path = path, .progress = progress, .buffer = buffer};

	if (file->foreign)
		return error_new(ENOTSUP, "%s was written by QEMU, and builds on no other file",
				 file->path);
	if (!plans || !buffer)
		return error_new(ENOMEM, "no memory to write %s", path);
	for (uint32_t i = 0; i < file->block_count; i++) {
		memcpy(plans[i].name, file->blocks[i].name, sizeof(plans[i].name));
		plans[i].size = file->blocks[i].size;
	}
	TRY(snapshot_writer_create(&options, plans, file->block_count, &writer));
	TRY(copy_sections(file, writer));
	output.fd = snapshot_writer_fd(writer);
	TRY(copy_pages(file, writer, &output));
	return snapshot_writer_finish(writer);
}
