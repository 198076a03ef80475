/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot info FILE`: what is in the file, from its bitmaps and sections alone. */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/snapshot.h"
#include "snapshot/snapshot_map.h"

static const struct cli_option options[] = {
    {"map", CLI_REQUIRED, "FILE", "draw where memory is into a new SVG file"},
    {"json", CLI_FLAG, NULL, "print JSON, sizes in bytes"},
    {},
};

static uint64_t file_allocated(const struct snapshot_file *file)
{
	struct stat status;

	return fstat(file->fd, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}

static json_t *u64(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* A path may be any bytes. */
static json_t *path_text(const char *path)
{
	return json_string(path) ?: json_string("?");
}

static struct error *describe_blocks(const struct snapshot_file *file, json_t *list)
{
	for (uint32_t i = 0; i < file->block_count; i++) {
		const struct snapshot_block *block = &file->blocks[i];
		uint64_t counts[SNAPSHOT_PAGE_KINDS];

		TRY(snapshot_block_count(block, counts));
		json_array_append_new(
		    list,
		    json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "name", block->name, "size",
			      u64(block->size), "offset", u64(block->pages_offset), "stored",
			      u64(counts[SNAPSHOT_PAGE_STORED] * SNAPSHOT_PAGE_SIZE), "inherited",
			      u64(counts[SNAPSHOT_PAGE_INHERITED] * SNAPSHOT_PAGE_SIZE), "zero",
			      u64(counts[SNAPSHOT_PAGE_ZERO] * SNAPSHOT_PAGE_SIZE), "unplugged",
			      u64(counts[SNAPSHOT_PAGE_UNPLUGGED] * SNAPSHOT_PAGE_SIZE),
			      "allocated", u64(snapshot_block_allocated(block))));
	}
	return NULL;
}

/* The configuration as the machine wrote it; NULL when there is none, or it is not an object. */
static json_t *configuration(const struct snapshot_file *file)
{
	const struct snapshot_section *section =
	    snapshot_file_section(file, SNAPSHOT_SECTION_CONFIG, 0);
	json_error_t ignored;

	if (file->foreign || !section)
		return NULL;
	return json_loadb((const char *)section->bytes, section->size, 0, &ignored);
}

static struct error *describe(const struct snapshot_file *file, json_t **description)
{
	char id[SNAPSHOT_ID_TEXT], base_id[SNAPSHOT_ID_TEXT];
	json_t *blocks = json_array(), *sections = json_array();
	struct error *error = describe_blocks(file, blocks);

	for (uint32_t i = 0; i < file->section_count; i++)
		json_array_append_new(
		    sections, json_pack("{s:s,s:I,s:I,s:o,s:o}", "name", file->sections[i].name,
					"instance", (json_int_t)file->sections[i].instance,
					"version", (json_int_t)file->sections[i].version, "size",
					u64(file->sections[i].size), "offset",
					u64(file->sections[i].offset)));
	*description = json_pack("{s:o,s:s,s:s,s:o,s:o,s:o,s:o}", "file", path_text(file->path),
				 "writer", file->foreign ? "qemu" : "godwit", "machine",
				 file->machine, "size", u64(file->size), "allocated",
				 u64(file_allocated(file)), "blocks", blocks, "sections", sections);
	if (!file->foreign)
		json_object_set_new(*description, "id",
				    json_string(snapshot_id_text(file->id, id)));
	if (file->base_path)
		json_object_set_new(*description, "base",
				    json_pack("{s:o,s:s}", "path", path_text(file->base_path), "id",
					      snapshot_id_text(file->base_id, base_id)));
	json_object_set_new(*description, "configuration", configuration(file));
	return error;
}

/* The members that are one value: name, processors, kernel. Lists are for --json. */
static void print_configuration(json_t *config)
{
	const char *key;
	json_t *value;

	json_object_foreach (config, key, value) {
		AUTO_FREE char *text =
		    json_is_object(value) || json_is_array(value) || json_is_null(value)
			? NULL
			: json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

		/* Keys are as in the file, which is somebody else's. */
		if (text && key[strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789-_")] == '\0')
			printf("%-20s %s\n", key, text);
	}
	if (config)
		printf("\n");
}

static void print_blocks(json_t *blocks)
{
	struct table table;
	json_t *block;
	size_t index;

	table_start(&table, "BLOCK", ">SIZE", ">STORED", ">INHERITED", ">ZERO", ">UNPLUGGED",
		    ">ALLOCATED", NULL);
	json_array_foreach (blocks, index, block) {
		table_row(&table, json_text(block, "name"), human(json_u64(block, "size")),
			  human(json_u64(block, "stored")), human(json_u64(block, "inherited")),
			  human(json_u64(block, "zero")), human(json_u64(block, "unplugged")),
			  human(json_u64(block, "allocated")));
	}
	table_print(&table, stdout, "");
}

static void print_sections(json_t *sections)
{
	struct table table;
	json_t *section;
	size_t index;

	table_start(&table, "SECTION", ">INSTANCE", ">VERSION", ">BYTES", NULL);
	json_array_foreach (sections, index, section) {
		char instance[24], version[24], size[24];

		snprintf(instance, sizeof(instance), "%" PRIu64, json_u64(section, "instance"));
		snprintf(version, sizeof(version), "%" PRIu64, json_u64(section, "version"));
		snprintf(size, sizeof(size), "%" PRIu64, json_u64(section, "size"));
		table_row(&table, json_text(section, "name"), instance, version, size);
	}
	table_print(&table, stdout, "");
}

static void print_description(const char *path, json_t *description)
{
	json_t *base = json_object_get(description, "base");

	printf("%s: %s, %s, of which %s allocated\n", path, json_text(description, "machine"),
	       human(json_u64(description, "size")), human(json_u64(description, "allocated")));
	if (*json_text(description, "id"))
		printf("id    %s\n", json_text(description, "id"));
	if (base)
		printf("base  %s, %s\n", json_text(base, "id"), json_text(base, "path"));
	printf("\n");
	print_configuration(json_object_get(description, "configuration"));
	print_blocks(json_object_get(description, "blocks"));
	printf("\n");
	print_sections(json_object_get(description, "sections"));
}

static struct error *run_info(const struct cli_arguments *arguments, int *status)
{
	const struct snapshot_open_options alone = {.without_base = true};
	const char *map = cli_value(arguments, "map", NULL);
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	json_t *description;
	struct error *error;

	TRY(snapshot_file_open(arguments->positional[0], &alone, &file));
	if (map)
		TRY(snapshot_map_write(file, map));
	error = describe(file, &description);
	if (!error && cli_has(arguments, "json"))
		json_print(json_incref(description));
	else if (!error)
		print_description(file->path, description);
	json_decref(description);
	return error;
}

const struct cli_command cli_snapshot_info = {
    .name = "snapshot info",
    .positionals = "FILE",
    .minimum = 1,
    .maximum = 1,
    .summary = "Show what is in a snapshot",
    .description = "Reads no pages, and no base. STORED is in the file; INHERITED is in its base.",
    .options = options,
    .run = run_info,
};
