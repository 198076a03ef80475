/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening snapshot files and the chains that they form, and finding what is in them. A file names
 * its base by a path, which is opened as what it is: from somebody who may want us to open
 * something else. So nothing but plain files is read, and no chain goes on for ever.
 */
#include "snapshot/snapshot_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bitmap.h"
#include "snapshot/snapshot_parse.h"
#include "snapshot/snapshot_path.h"
#include "snapshot/snapshot_receive.h"

void snapshot_file_close(struct snapshot_file *file)
{
	while (file) {
		struct snapshot_file *base = file->base;

		for (uint32_t i = 0; i < file->block_count; i++) {
			free((void *)file->blocks[i].stored);
			free((void *)file->blocks[i].inherited);
			free((void *)file->blocks[i].checksums);
		}
		for (uint32_t i = 0; i < file->section_count; i++)
			free((void *)file->sections[i].bytes);
		free(file->blocks);
		free(file->sections);
		free(file->base_path);
		free(file->path);
		close_fd(&file->fd);
		snapshot_receiver_destroy(file->receiver);
		free(file);
		file = base;
	}
}

static struct error *open_plain(struct snapshot_file *file)
{
	struct stat status;

	/* A pipe must not make us wait, nor a terminal become ours. */
	file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (file->fd < 0)
		return error_system(errno, "cannot open the snapshot");
	if (fstat(file->fd, &status) < 0)
		return error_system(errno, "cannot look at the snapshot");
	if (!S_ISREG(status.st_mode))
		return error_new(EINVAL, "is not a plain file");
	file->size = (uint64_t)status.st_size;
	return NULL;
}

static struct error *parse(struct snapshot_file *file, bool damaged)
{
	AUTO_FREE struct snapshot_parser *parser = calloc(1, sizeof(*parser));
	struct error *error;

	if (!parser)
		return error_new(ENOMEM, "no memory to read it");
	parser->file = file;
	parser->damaged = damaged;
	error = snapshot_stream_begin(&parser->stream, file->fd, file->size);
	if (!error)
		error = snapshot_parse_configuration(parser);
	if (!error && file->foreign)
		error = snapshot_parse_foreign(parser);
	else if (!error)
		error = snapshot_parse_godwit(parser);
	snapshot_stream_end(&parser->stream);
	return error;
}

/* Opens the one file @path, without its base. */
static struct error *open_one(const char *path, bool damaged, struct snapshot_file **file)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *opened = calloc(1, sizeof(*opened));

	if (!opened)
		return error_new(ENOMEM, "no memory to open %s", path);
	opened->fd = -1;
	opened->path = strdup(path);
	if (!opened->path)
		return error_new(ENOMEM, "no memory to open %s", path);
	TRY(error_prefix(open_plain(opened), "%s", path));
	TRY(error_prefix(parse(opened, damaged), "%s", path));
	*file = TAKE_PTR(opened);
	return NULL;
}

/* Gives each block that inherits pages its block in the base, which must have them. */
static struct error *link_blocks(struct snapshot_file *file)
{
	for (uint32_t i = 0; i < file->block_count; i++) {
		struct snapshot_block *block = &file->blocks[i];
		uint64_t pages = snapshot_block_pages(block), base_pages;

		block->base = snapshot_file_block(file->base, block->name);
		base_pages = block->base ? snapshot_block_pages(block->base) : 0;
		if (base_pages < pages &&
		    bitmap_next_set(block->inherited, base_pages, pages) < pages)
			return error_new(
			    EBADMSG,
			    "%s: block %s inherits page %zu from %s, which has %" PRIu64
			    " pages of it",
			    file->path, block->name,
			    bitmap_next_set(block->inherited, base_pages, pages), file->base->path,
			    base_pages);
	}
	return NULL;
}

/* The id as 32 digits. */
static const char *id_text(const uint8_t id[SNAPSHOT_ID_SIZE], char text[2 * SNAPSHOT_ID_SIZE + 1])
{
	for (int i = 0; i < SNAPSHOT_ID_SIZE; i++)
		snprintf(text + 2 * i, 3, "%02x", id[i]);
	return text;
}

/* Opens the base of @file, found at @path, which is in no file from @top to @file. */
static struct error *open_base(struct snapshot_file *top, struct snapshot_file *file,
			       const char *path, bool damaged)
{
	char wanted[2 * SNAPSHOT_ID_SIZE + 1], found[2 * SNAPSHOT_ID_SIZE + 1];
	AUTO_SNAPSHOT_FILE struct snapshot_file *base = NULL;
	struct error *error = open_one(path, damaged, &base);

	if (error)
		return error_prefix(error, "%s builds on %s", file->path, file->base_path);
	if (base->foreign || memcmp(base->id, file->base_id, sizeof(base->id)) != 0)
		return error_new(EBADMSG,
				 "%s builds on the snapshot with the id %s, and %s is %s: give the "
				 "right base",
				 file->path, id_text(file->base_id, wanted), path,
				 base->foreign ? "QEMU's" : id_text(base->id, found));
	for (const struct snapshot_file *upper = top; upper; upper = upper->base)
		if (memcmp(upper->id, base->id, sizeof(base->id)) == 0)
			return error_new(ELOOP, "%s builds on %s, which builds on it", path,
					 upper->path);
	file->base = TAKE_PTR(base);
	return link_blocks(file);
}

static struct error *open_chain(struct snapshot_file *top,
				const struct snapshot_open_options *options)
{
	const char *given = options->base;
	int depth = 1;

	for (struct snapshot_file *file = top; file->base_path; file = file->base, depth++) {
		AUTO_FREE char *path =
		    given ? strdup(given) : snapshot_path_join(file->path, file->base_path);

		if (!path)
			return error_new(ENOMEM, "no memory for the path of the base");
		if (depth == SNAPSHOT_CHAIN_MAX)
			return error_new(ELOOP, "%s builds on more than %d others", top->path,
					 SNAPSHOT_CHAIN_MAX - 1);
		TRY(open_base(top, file, path, options->damaged));
		given = NULL;
	}
	if (given)
		return error_usage("%s builds on no other file: give it no base", top->path);
	return NULL;
}

struct error *snapshot_file_open(const char *path, const struct snapshot_open_options *options,
				 struct snapshot_file **file)
{
	static const struct snapshot_open_options usual;
	AUTO_SNAPSHOT_FILE struct snapshot_file *opened = NULL;

	if (!options)
		options = &usual;
	TRY(open_one(path, options->damaged, &opened));
	if (!options->without_base)
		TRY(open_chain(opened, options));
	*file = TAKE_PTR(opened);
	return NULL;
}

/* --- Finding ----------------------------------------------------------------------------------- */

const struct snapshot_section *snapshot_file_section(const struct snapshot_file *file,
						     const char *name, uint32_t instance)
{
	for (uint32_t i = 0; i < file->section_count; i++)
		if (file->sections[i].instance == instance &&
		    strcmp(file->sections[i].name, name) == 0)
			return &file->sections[i];
	return NULL;
}

const struct snapshot_block *snapshot_file_block(const struct snapshot_file *file, const char *name)
{
	for (uint32_t i = 0; i < file->block_count; i++)
		if (strcmp(file->blocks[i].name, name) == 0)
			return &file->blocks[i];
	return NULL;
}

struct error *snapshot_file_load(const struct snapshot_file *file, const struct state_part *part)
{
	const struct snapshot_section *section =
	    snapshot_file_section(file, part->name, part->instance);
	AUTO_STATE struct state *state = NULL;

	if (!section)
		return error_new(ENOENT, "%s: section %s, instance %u, is missing", file->path,
				 part->name, part->instance);
	state = state_load_begin(section->bytes, section->size, section->version);
	return error_prefix(state_visit(state, part), "%s: section at offset 0x%" PRIx64,
			    file->path, section->offset);
}
