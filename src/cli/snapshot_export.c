/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot export FILE OUT`: memory as a core file, or a block as it is. */
#include "snapshot/snapshot_export.h"

#include <string.h>

#include "cli/snapshot.h"

static const struct cli_option options[] = {
    {"elf", CLI_FLAG, NULL, "all of guest-physical memory as a core file, for gdb"},
    {"raw", CLI_REQUIRED, "BLOCK", "the bytes of a block; 'snapshot info' lists them"},
    SNAPSHOT_BASE_OPTION,
    {},
};

static struct error *find_block(const struct snapshot_file *file, const char *name,
				const struct snapshot_block **block)
{
	const char *names[SNAPSHOT_BLOCKS_MAX + 1] = {};
	const char *nearest;

	*block = snapshot_file_block(file, name);
	if (*block)
		return NULL;
	for (uint32_t i = 0; i < file->block_count; i++)
		names[i] = file->blocks[i].name;
	nearest = cli_nearest(name, names);
	return error_new(ENOENT, "%s has no block '%s': %s%s", file->path, name,
			 nearest ? "did you mean " : "'godwit snapshot info' lists them",
			 nearest ?: "");
}

static struct error *run_export(const struct cli_arguments *arguments, int *status)
{
	const char *raw = cli_value(arguments, "raw", NULL), *out = arguments->positional[1];
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	const struct snapshot_block *block = NULL;
	struct snapshot_bar bar;
	struct error *error;
	bool assumed = false;

	if (!raw == !cli_has(arguments, "elf"))
		return error_usage("give one of --elf and --raw BLOCK: what to export");
	TRY(snapshot_open_given(arguments, &file));
	if (raw)
		TRY(find_block(file, raw, &block));
	if (raw)
		error = snapshot_export_raw(block, out, snapshot_bar_begin(&bar, "exported"));
	else
		error =
		    snapshot_export_elf(file, out, snapshot_bar_begin(&bar, "exported"), &assumed);
	snapshot_bar_end(&bar);
	if (!error && assumed)
		fprintf(stderr,
			"godwit snapshot export: %s does not say where its memory is: this is "
			"right for %s unless max-ram-below-4g was given\n",
			file->path, file->machine);
	return error;
}

const struct cli_command cli_snapshot_export = {
    .name = "snapshot export",
    .positionals = "FILE OUT",
    .minimum = 2,
    .maximum = 2,
    .summary = "Write a snapshot's memory in another form",
    .description = "OUT is a new, sparse file. Every page is checked on its way.",
    .options = options,
    .run = run_export,
};
