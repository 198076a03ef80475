/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The writer of snapshot files, snapshot_writer.h. What stands in front of the RAM, and its
 * description, grow in two buffers as sections are added; their size is the layout. Bitmaps and
 * checksums are kept in memory (1/1600 of the RAM's size) and written at the end, with everything
 * else that is not a page.
 */
#include "snapshot/snapshot_writer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_buffer.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_file_section.h"
#include "snapshot/snapshot_head.h"
#include "snapshot/snapshot_path.h"

struct writer_block {
	struct snapshot_block_plan plan;
	uint64_t entry_offset; /* of the block's entry in the RAM section */
	uint64_t bitmap_offset, pages_offset;
	uint64_t pages, chunks;
	uint64_t *stored;    /* a word a chunk: the file's bitmap */
	uint64_t *inherited; /* likewise; NULL without a base */
	struct snapshot_checksum *checksums;
};

struct snapshot_writer {
	char *path;	    /* resolved: where the file goes */
	char *partial_path; /* NULL when there is none (any more) */
	int fd;		    /* for everything but pages */
	int pages_fd;
	bool direct; /* pages_fd goes past the page cache */
	int folder_fd;
	bool based; /* has a base */
	uint8_t id[SNAPSHOT_ID_SIZE];
	struct snapshot_head head;
	struct writer_block *blocks;
	uint32_t block_count;
	pthread_mutex_t layout_lock;
	_Atomic bool laid_out; /* offsets of blocks are valid */
	uint64_t tail_offset;  /* behind the last page */
	uint64_t size;	       /* of the finished file; 0 before */
};

/* --- Sections ---------------------------------------------------------------------------------- */

struct snapshot_head *snapshot_writer_head(struct snapshot_writer *writer)
{
	return &writer->head;
}

struct error *snapshot_writer_add_section(struct snapshot_writer *writer, const char *name,
					  uint32_t instance, uint32_t version,
					  const struct state *state)
{
	return snapshot_head_add_section(&writer->head, name, instance, version, state);
}

struct error *snapshot_writer_add_bytes(struct snapshot_writer *writer, const char *name,
					uint32_t instance, uint32_t version, const void *bytes,
					size_t size)
{
	return snapshot_head_add_bytes(&writer->head, name, instance, version, bytes, size);
}

/* --- Creation ---------------------------------------------------------------------------------- */

static struct error *begin_head(struct snapshot_writer *writer, const struct snapshot_file *base)
{
	AUTO_FREE struct snapshot_file_section *section = calloc(1, sizeof(*section));
	const char *capabilities[] = {SNAPSHOT_CAPABILITY_MAPPED, SNAPSHOT_CAPABILITY_BASE};

	if (!section)
		return error_new(ENOMEM, "no memory for section %s", SNAPSHOT_SECTION_FILE);
	memcpy(section->id, writer->id, sizeof(section->id));
	if (base) {
		AUTO_FREE char *base_path = NULL;
		AUTO_FREE char *relative = NULL;

		TRY(snapshot_path_resolve(base->path, &base_path));
		relative = snapshot_path_relative(writer->path, base_path);
		if (!relative)
			return error_new(ENOMEM, "no memory for the path of the base");
		if (strlen(relative) > SNAPSHOT_BASE_PATH_MAX ||
		    !snapshot_path_is_printable(relative, strlen(relative)))
			return error_new(EINVAL,
					 "the path of the base is too long, or has control "
					 "characters: %s",
					 relative);
		memcpy(section->base_id, base->id, sizeof(section->base_id));
		memcpy(section->base_path, relative, strlen(relative) + 1);
	}
	return snapshot_head_begin(&writer->head, capabilities, base ? 2 : 1, section);
}

struct error *snapshot_plan_check(const struct snapshot_block_plan *blocks, uint32_t count)
{
	uint64_t total = 0;

	if (count > SNAPSHOT_BLOCKS_MAX)
		return error_new(E2BIG, "a snapshot has at most %d blocks", SNAPSHOT_BLOCKS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		if (!snapshot_head_name_is_good(blocks[i].name))
			return error_new(EINVAL, "block name '%s' cannot be written",
					 blocks[i].name);
		for (uint32_t other = 0; other < i; other++)
			if (strcmp(blocks[other].name, blocks[i].name) == 0)
				return error_new(EEXIST, "block %s is there twice", blocks[i].name);
		if (!blocks[i].size || !is_aligned(blocks[i].size, SNAPSHOT_PAGE_SIZE) ||
		    blocks[i].size > SNAPSHOT_RAM_MAX - total)
			return error_new(EINVAL,
					 "block %s: %" PRIu64
					 " bytes cannot be saved: all blocks together hold whole "
					 "pages, at most 16 TiB",
					 blocks[i].name, blocks[i].size);
		total += blocks[i].size;
	}
	return NULL;
}

static struct error *add_blocks(struct snapshot_writer *writer,
				const struct snapshot_block_plan *blocks, uint32_t count)
{
	TRY(snapshot_plan_check(blocks, count));
	writer->blocks = calloc(MAX(count, 1u), sizeof(*writer->blocks));
	if (!writer->blocks)
		return error_new(ENOMEM, "no memory for the blocks");
	for (uint32_t i = 0; i < count; i++) {
		struct writer_block *block = &writer->blocks[i];

		block->plan = blocks[i];
		block->pages = block->plan.size / SNAPSHOT_PAGE_SIZE;
		block->chunks = bitmap_words(block->pages);
		writer->block_count = i + 1;
		block->stored = calloc(block->chunks, sizeof(*block->stored));
		block->checksums = calloc(block->chunks, sizeof(*block->checksums));
		if (writer->based)
			block->inherited = calloc(block->chunks, sizeof(*block->inherited));
		if (!block->stored || !block->checksums || (writer->based && !block->inherited))
			return error_new(ENOMEM, "no memory for the bitmaps of block %s",
					 block->plan.name);
	}
	return NULL;
}

/* Refuses a target that is not a plain file, or that the new file would build on. */
static struct error *check_target(const struct snapshot_writer *writer,
				  const struct snapshot_file *base)
{
	struct stat target, other;

	if (lstat(writer->path, &target) < 0)
		return errno == ENOENT ? NULL : error_system(errno, "cannot use %s", writer->path);
	if (!S_ISREG(target.st_mode))
		return error_new(EINVAL, "%s is not a plain file: give another name", writer->path);
	for (; base; base = base->base)
		if (fstat(base->fd, &other) == 0 && other.st_dev == target.st_dev &&
		    other.st_ino == target.st_ino)
			return error_new(EINVAL,
					 "%s is what the new snapshot builds on: give another name",
					 writer->path);
	return NULL;
}

static struct error *open_partial(struct snapshot_writer *writer, enum snapshot_direct direct)
{
	AUTO_FREE char *folder = snapshot_path_folder(writer->path);

	if (!folder || asprintf(&writer->partial_path, "%s.partial-XXXXXX", writer->path) < 0) {
		writer->partial_path = NULL;
		return error_new(ENOMEM, "no memory for the path %s", writer->path);
	}
	writer->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (writer->folder_fd < 0)
		return error_system(errno, "cannot open the folder %s", folder);
	writer->fd = mkostemp(writer->partial_path, O_CLOEXEC); /* mode 0600 */
	if (writer->fd < 0) {
		struct error *error = error_system(errno, "cannot create a file in %s", folder);

		free(writer->partial_path);
		writer->partial_path = NULL;
		return error;
	}
	return snapshot_direct_open(writer->fd, O_WRONLY, direct, writer->path, &writer->pages_fd,
				    &writer->direct);
}

/* Refuses a base that cannot be one, or whose chain is as long as a reader takes. */
static struct error *check_base(const struct snapshot_file *base)
{
	int depth = 0;

	if (base->foreign)
		return error_new(EINVAL, "%s cannot be built on: it has no identity, QEMU wrote it",
				 base->path);
	for (const struct snapshot_file *file = base; file; file = file->base)
		depth++;
	if (depth >= SNAPSHOT_CHAIN_MAX)
		return error_new(ELOOP,
				 "%s already builds on %d others: flatten it first ('godwit "
				 "snapshot flatten')",
				 base->path, depth - 1);
	return NULL;
}

static struct error *initialize(struct snapshot_writer *writer,
				const struct snapshot_writer_options *options,
				const struct snapshot_block_plan *blocks, uint32_t block_count)
{
	writer->based = options->base != NULL;
	if (options->base)
		TRY(check_base(options->base));
	if (getrandom(writer->id, sizeof(writer->id), 0) != sizeof(writer->id))
		return error_system(errno, "no random numbers for the file's id");
	TRY(snapshot_path_resolve(options->path, &writer->path));
	TRY(check_target(writer, options->base));
	TRY(add_blocks(writer, blocks, block_count));
	TRY(begin_head(writer, options->base));
	return open_partial(writer, options->direct);
}

struct error *snapshot_writer_create(const struct snapshot_writer_options *options,
				     const struct snapshot_block_plan *blocks, uint32_t block_count,
				     struct snapshot_writer **writer)
{
	AUTO_SNAPSHOT_WRITER struct snapshot_writer *made = calloc(1, sizeof(*made));

	if (!made)
		return error_new(ENOMEM, "no memory to write %s", options->path);
	made->fd = made->pages_fd = made->folder_fd = -1;
	pthread_mutex_init(&made->layout_lock, NULL);
	TRY(initialize(made, options, blocks, block_count));
	*writer = TAKE_PTR(made);
	return NULL;
}

void snapshot_writer_destroy(struct snapshot_writer *writer)
{
	if (!writer)
		return;
	if (writer->partial_path)
		unlink(writer->partial_path);
	close_fd(&writer->pages_fd);
	close_fd(&writer->fd);
	close_fd(&writer->folder_fd);
	for (uint32_t i = 0; i < writer->block_count; i++) {
		free(writer->blocks[i].stored);
		free(writer->blocks[i].inherited);
		free(writer->blocks[i].checksums);
	}
	pthread_mutex_destroy(&writer->layout_lock);
	free(writer->blocks);
	snapshot_head_clear(&writer->head);
	free(writer->partial_path);
	free(writer->path);
	free(writer);
}

/* --- Layout ------------------------------------------------------------------------------------ */

/* Sizes are bounded, so no sum here can overflow. */
static void lay_out(struct snapshot_writer *writer)
{
	/* 0x01, section id, name, instance, version, RAM's size and flag. */
	uint64_t offset =
	    writer->head.bytes.size + 1 + 4 + 1 + strlen(RAM_SECTION_NAME) + 4 + 4 + 8;

	for (uint32_t i = 0; i < writer->block_count; i++) {
		struct writer_block *block = &writer->blocks[i];

		block->entry_offset = offset;
		block->bitmap_offset =
		    offset + 1 + strlen(block->plan.name) + 8 + MAPPED_RAM_HEADER_SIZE;
		block->pages_offset = align_down(block->bitmap_offset + block->chunks * 8 +
						     SNAPSHOT_PAGES_ALIGNMENT - 1,
						 SNAPSHOT_PAGES_ALIGNMENT);
		offset = block->pages_offset + block->plan.size;
	}
	writer->tail_offset = offset;
	/*
	 * The file gets its size before its pages: file systems let writes past the end happen one
	 * at a time only (ext4: exclusive lock, no asynchrony). If it cannot, writing tells.
	 */
	if (ftruncate(writer->fd, (off_t)offset) < 0)
		return;
}

static void ensure_layout(struct snapshot_writer *writer)
{
	if (atomic_load_explicit(&writer->laid_out, memory_order_acquire))
		return;
	pthread_mutex_lock(&writer->layout_lock);
	if (!atomic_load_explicit(&writer->laid_out, memory_order_relaxed)) {
		writer->head.closed = true;
		lay_out(writer);
		atomic_store_explicit(&writer->laid_out, true, memory_order_release);
	}
	pthread_mutex_unlock(&writer->layout_lock);
}

int snapshot_writer_fd(const struct snapshot_writer *writer)
{
	return writer->pages_fd;
}

bool snapshot_writer_is_direct(const struct snapshot_writer *writer)
{
	return writer->direct;
}

uint64_t snapshot_writer_page_offset(struct snapshot_writer *writer, uint32_t block, uint64_t page)
{
	ensure_layout(writer);
	return writer->blocks[block].pages_offset + page * SNAPSHOT_PAGE_SIZE;
}

void snapshot_writer_reserve(struct snapshot_writer *writer, uint32_t block, uint64_t page,
			     uint64_t count)
{
	uint64_t offset = snapshot_writer_page_offset(writer, block, page);

	if (fallocate(writer->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)(count * SNAPSHOT_PAGE_SIZE)) < 0)
		return; /* not every file system can; a full disk is told of by the write */
}

void snapshot_writer_set_chunk(struct snapshot_writer *writer, uint32_t block, uint64_t chunk,
			       uint64_t stored, uint64_t inherited,
			       struct snapshot_checksum checksum)
{
	struct writer_block *target = &writer->blocks[block];

	target->stored[chunk] = stored;
	if (target->inherited)
		target->inherited[chunk] = inherited;
	target->checksums[chunk] = checksum;
}

/* --- The end ----------------------------------------------------------------------------------- */

static struct error *write_all(struct snapshot_writer *writer, const uint8_t *bytes, size_t size,
			       uint64_t offset)
{
	while (size) {
		ssize_t written = pwrite(writer->fd, bytes, size, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return error_system(errno, "cannot write %s", writer->path);
		bytes += written;
		offset += (size_t)written;
		size -= (size_t)written;
	}
	return NULL;
}

static void hash_zeros(XXH3_state_t *hash, uint64_t size)
{
	static const uint8_t zeros[64 << 10];

	for (uint64_t part; size; size -= part) {
		part = MIN(size, (uint64_t)sizeof(zeros));
		XXH3_64bits_update(hash, zeros, part);
	}
}

/*
 * Writes what stands between the pages of the previous block (or the start of the file) and those
 * of @block. With the first block that is also the head, whose start is not written here: it makes
 * the file one, so it comes last.
 */
static struct error *write_entry(struct snapshot_writer *writer, struct writer_block *block,
				 struct snapshot_buffer *entry, XXH3_state_t *hash)
{
	uint64_t offset = block->bitmap_offset + block->chunks * 8;
	uint8_t *bitmap;

	snapshot_buffer_put_name(entry, block->plan.name);
	snapshot_buffer_put64(entry, block->plan.size);
	snapshot_buffer_put32(entry, MAPPED_RAM_VERSION);
	snapshot_buffer_put64(entry, SNAPSHOT_PAGE_SIZE);
	snapshot_buffer_put64(entry, block->bitmap_offset);
	snapshot_buffer_put64(entry, block->pages_offset);
	bitmap = snapshot_buffer_grow(entry, block->chunks * 8);
	if (!bitmap)
		return error_new(ENOMEM, "no memory for the bitmap of block %s", block->plan.name);
	for (uint64_t word = 0; word < block->chunks; word++)
		put_le64(bitmap + word * 8, block->stored[word]);
	XXH3_64bits_update(hash, entry->bytes, entry->size);
	hash_zeros(hash, block->pages_offset - offset);
	/* The buffer ends where the bitmap does. */
	return write_all(writer, entry->bytes, entry->size, offset - entry->size);
}

static uint64_t ram_size(const struct snapshot_writer *writer)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < writer->block_count; i++)
		total += writer->blocks[i].plan.size;
	return total;
}

static void put_ram_end(struct snapshot_buffer *buffer, uint32_t id)
{
	snapshot_buffer_put64(buffer, RAM_FLAG_EOS);
	snapshot_head_section_end(buffer, id);
	snapshot_buffer_put8(buffer, QEVM_SECTION_END);
	snapshot_buffer_put32(buffer, id);
	snapshot_buffer_put64(buffer, RAM_FLAG_EOS);
	snapshot_head_section_end(buffer, id);
}

static struct error *put_tables(struct snapshot_writer *writer, struct snapshot_buffer *tail)
{
	struct state_field field = {"checksums", "buffer", 0};
	uint64_t chunks = 0;
	uint8_t *room;
	uint32_t id;

	for (uint32_t i = 0; i < writer->block_count; i++)
		chunks += writer->blocks[i].chunks;

	field.size = chunks * SNAPSHOT_CHECKSUM_SIZE;
	id = snapshot_head_section_begin(&writer->head, tail, SNAPSHOT_SECTION_CHECKSUMS, 0, 1,
					 field.size);
	room = snapshot_buffer_grow(tail, field.size);
	for (uint32_t i = 0; room && i < writer->block_count; i++) {
		const struct writer_block *block = &writer->blocks[i];

		for (uint64_t chunk = 0; chunk < block->chunks; chunk++) {
			put_be64(room, block->checksums[chunk].high);
			put_be64(room + 8, block->checksums[chunk].low);
			room += SNAPSHOT_CHECKSUM_SIZE;
		}
	}
	snapshot_head_section_end(tail, id);
	snapshot_head_describe(&writer->head, SNAPSHOT_SECTION_CHECKSUMS, 0, 1, &field, 1);
	if (!writer->based)
		return NULL;

	field = (struct state_field){"bitmaps", "buffer", chunks * 8};
	id = snapshot_head_section_begin(&writer->head, tail, SNAPSHOT_SECTION_INHERITED, 0, 1,
					 field.size);
	room = snapshot_buffer_grow(tail, field.size);
	for (uint32_t i = 0; room && i < writer->block_count; i++) {
		const struct writer_block *block = &writer->blocks[i];

		for (uint64_t word = 0; word < block->chunks; word++, room += 8)
			put_le64(room, block->inherited[word]);
	}
	snapshot_head_section_end(tail, id);
	snapshot_head_describe(&writer->head, SNAPSHOT_SECTION_INHERITED, 0, 1, &field, 1);
	return NULL;
}

/*
 * The whole description. Scripts find it as the first '{' behind the file's last NUL, which must
 * not be one of its length's bytes: spaces are added until it is not.
 */
static void put_description(const struct snapshot_writer *writer, struct snapshot_buffer *buffer)
{
	struct snapshot_buffer json = {};
	size_t capability = 1 + strlen(SNAPSHOT_CAPABILITY_MAPPED);

	snapshot_buffer_print(
	    &json,
	    "{\"configuration\":{\"vmsd_name\":\"configuration\",\"version\":1,\"fields\":["
	    "{\"name\":\"len\",\"type\":\"uint32\",\"size\":4},"
	    "{\"name\":\"name\",\"type\":\"buffer\",\"size\":%zu}],"
	    "\"subsections\":[{\"vmsd_name\":\"configuration/capabilities\",\"version\":1,"
	    "\"fields\":[{\"name\":\"caps_count\",\"type\":\"uint32\",\"size\":4},",
	    strlen(SNAPSHOT_MACHINE));
	if (writer->based)
		snapshot_buffer_print(
		    &json,
		    "{\"name\":\"capabilities\",\"index\":0,\"type\":\"capability\",\"size\":%zu},"
		    "{\"name\":\"capabilities\",\"index\":1,\"type\":\"capability\",\"size\":%zu}",
		    capability, 1 + strlen(SNAPSHOT_CAPABILITY_BASE));
	else
		snapshot_buffer_print(
		    &json, "{\"name\":\"capabilities\",\"type\":\"capability\",\"size\":%zu}",
		    capability);
	snapshot_buffer_print(&json, "]}]},\"page_size\":%d,\"devices\":[", SNAPSHOT_PAGE_SIZE);
	snapshot_buffer_put(&json, writer->head.description.bytes, writer->head.description.size);
	snapshot_buffer_print(&json, "]}");
	for (;;) {
		uint8_t raw[4];

		put_be32(raw, (uint32_t)json.size);
		if (json.failed || !memchr(raw, '{', sizeof(raw)))
			break;
		snapshot_buffer_put8(&json, ' ');
	}
	snapshot_buffer_put8(buffer, QEVM_DESCRIPTION);
	snapshot_buffer_put32(buffer, (uint32_t)json.size);
	snapshot_buffer_put(buffer, json.bytes, json.size);
	buffer->failed |= json.failed;
	free(json.bytes);
}

/* Everything behind the last page. Its end covers all other bytes of the file that are not pages. */
static struct error *write_tail(struct snapshot_writer *writer, struct snapshot_buffer *tail,
				uint32_t ram_id, XXH3_state_t *hash)
{
	static const struct state_field end_fields[] = {{"magic", "uint64", 8},
							{"id", "buffer", SNAPSHOT_ID_SIZE},
							{"file-size", "uint64", 8},
							{"checksum", "uint64", 8}};
	size_t size_at;
	uint32_t id;

	put_ram_end(tail, ram_id);
	TRY(put_tables(writer, tail));
	id = snapshot_head_section_begin(&writer->head, tail, SNAPSHOT_SECTION_END, 0, 1,
					 SNAPSHOT_END_SIZE);
	snapshot_head_describe(&writer->head, SNAPSHOT_SECTION_END, 0, 1, end_fields,
			       ARRAY_SIZE(end_fields));
	snapshot_buffer_put64(tail, SNAPSHOT_END_MAGIC);
	snapshot_buffer_put(tail, writer->id, sizeof(writer->id));
	size_at = tail->size;
	snapshot_buffer_put64(tail, 0);
	snapshot_buffer_put64(tail, 0);
	snapshot_head_section_end(tail, id);
	snapshot_buffer_put8(tail, QEVM_EOF);
	put_description(writer, tail);
	if (tail->failed || writer->head.description.failed)
		return error_new(ENOMEM, "no memory for the end of %s", writer->path);
	put_be64(tail->bytes + size_at, writer->tail_offset + tail->size);
	XXH3_64bits_update(hash, tail->bytes, size_at + 8);
	XXH3_64bits_update(hash, tail->bytes + size_at + 16, tail->size - size_at - 16);
	put_be64(tail->bytes + size_at + 8, XXH3_64bits_digest(hash));
	writer->size = writer->tail_offset + tail->size;
	return write_all(writer, tail->bytes, tail->size, writer->tail_offset);
}

/* Everything but the head, which is only put into the hash. */
static struct error *write_metadata(struct snapshot_writer *writer, XXH3_state_t *hash)
{
	struct snapshot_buffer buffer = {};
	struct error *error = NULL;
	uint32_t ram_id;

	XXH3_64bits_update(hash, writer->head.bytes.bytes, writer->head.bytes.size);
	ram_id = snapshot_head_ram_begin(&writer->head, &buffer, ram_size(writer));
	for (uint32_t i = 0; i < writer->block_count && !error; i++) {
		error = write_entry(writer, &writer->blocks[i], &buffer, hash);
		buffer.size = 0;
	}
	/* Without a block, the start of the RAM section is still in the buffer. */
	if (!writer->block_count)
		writer->tail_offset -= buffer.size;
	if (!error)
		error = write_tail(writer, &buffer, ram_id, hash);
	free(buffer.bytes);
	return error;
}

static struct error *put_in_place(struct snapshot_writer *writer)
{
	if (fsync(writer->fd) < 0)
		return error_system(errno, "cannot write %s to its disk", writer->path);
	if (rename(writer->partial_path, writer->path) < 0)
		return error_system(errno, "cannot put %s in place", writer->path);
	free(writer->partial_path);
	writer->partial_path = NULL;
	if (fsync(writer->folder_fd) < 0)
		return error_system(errno,
				    "%s is new and whole, but its folder could not be written to "
				    "its disk: the old one may come back after a power failure",
				    writer->path);
	return NULL;
}

struct error *snapshot_writer_finish(struct snapshot_writer *writer)
{
	XXH3_state_t *hash = XXH3_createState();
	struct error *error;

	ensure_layout(writer);
	if (!hash)
		return error_new(ENOMEM, "no memory to write %s", writer->path);
	XXH3_64bits_reset(hash);
	error = write_metadata(writer, hash);
	XXH3_freeState(hash);
	if (!error)
		error = write_all(writer, writer->head.bytes.bytes, writer->head.bytes.size, 0);
	if (!error)
		error = put_in_place(writer);
	return error;
}

uint64_t snapshot_writer_size(const struct snapshot_writer *writer)
{
	return writer->size;
}

uint64_t snapshot_writer_allocated(const struct snapshot_writer *writer)
{
	struct stat status;

	return fstat(writer->fd, &status) < 0 ? 0 : (uint64_t)status.st_blocks * 512;
}

const uint8_t *snapshot_writer_id(const struct snapshot_writer *writer)
{
	return writer->id;
}
