/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot diff A B`: what is different; exit status 1 if anything is, as of diff(1). */
#include "snapshot/snapshot_diff.h"

#include <inttypes.h>

#include "cli/snapshot.h"

static const struct cli_option options[] = {
    {"json", CLI_FLAG, NULL, "print JSON, sizes in bytes"},
    {},
};

static json_t *describe(const struct snapshot_diff *diff)
{
	json_t *blocks = json_array(), *sections = json_array();

	for (uint32_t i = 0; i < diff->block_count; i++) {
		const struct snapshot_block_diff *block = &diff->blocks[i];

		json_array_append_new(
		    blocks,
		    json_pack("{s:s,s:[I,I],s:I,s:I}", "name", block->name, "sizes",
			      (json_int_t)block->sizes[0], (json_int_t)block->sizes[1], "pages",
			      (json_int_t)block->pages, "different", (json_int_t)block->different));
	}
	for (uint32_t i = 0; i < diff->section_count; i++) {
		const struct snapshot_section_diff *section = &diff->sections[i];

		json_array_append_new(
		    sections,
		    json_pack("{s:s,s:I,s:[b,b],s:[I,I],s:[I,I],s:I}", "name", section->name,
			      "instance", (json_int_t)section->instance, "there", section->there[0],
			      section->there[1], "sizes", (json_int_t)section->sizes[0],
			      (json_int_t)section->sizes[1], "versions",
			      (json_int_t)section->versions[0], (json_int_t)section->versions[1],
			      "first-byte", (json_int_t)section->first));
	}
	return json_pack("{s:b,s:I,s:o,s:o}", "same", diff->same, "pages",
			 (json_int_t)diff->different, "blocks", blocks, "sections", sections);
}

static void print_blocks(const struct snapshot_diff *diff)
{
	for (uint32_t i = 0; i < diff->block_count; i++) {
		const struct snapshot_block_diff *block = &diff->blocks[i];

		if (!block->sizes[0] || !block->sizes[1])
			printf("block %s: %s, only in the %s file\n", block->name,
			       human(block->sizes[0] + block->sizes[1]),
			       block->sizes[0] ? "first" : "second");
		else if (block->sizes[0] != block->sizes[1])
			printf("block %s: %s in the first file, %s in the second\n", block->name,
			       human(block->sizes[0]), human(block->sizes[1]));
		if (block->different)
			printf("block %s: %" PRIu64 " of %" PRIu64
			       " pages are different, the first at 0x%" PRIx64 "\n",
			       block->name, block->different, block->pages,
			       block->first * SNAPSHOT_PAGE_SIZE);
	}
}

static void print_sections(const struct snapshot_diff *diff)
{
	for (uint32_t i = 0; i < diff->section_count; i++) {
		const struct snapshot_section_diff *section = &diff->sections[i];

		printf("section %s", section->name);
		if (section->instance)
			printf(", instance %u", section->instance);
		if (!section->there[0] || !section->there[1])
			printf(": only in the %s file\n", section->there[0] ? "first" : "second");
		else if (section->versions[0] != section->versions[1])
			printf(": version %u in the first file, %u in the second\n",
			       section->versions[0], section->versions[1]);
		else
			printf(": different from byte %zu on (%zu and %zu bytes)\n", section->first,
			       section->sizes[0], section->sizes[1]);
	}
}

static struct error *run_diff(const struct cli_arguments *arguments, int *status)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *a = NULL;
	AUTO_SNAPSHOT_FILE struct snapshot_file *b = NULL;
	AUTO_SNAPSHOT_DIFF struct snapshot_diff *diff = NULL;
	struct snapshot_bar bar;
	struct error *error;

	TRY(snapshot_file_open(arguments->positional[0], NULL, &a));
	TRY(snapshot_file_open(arguments->positional[1], NULL, &b));
	error = snapshot_diff(a, b, snapshot_bar_begin(&bar, "compared"), &diff);
	snapshot_bar_end(&bar);
	if (error)
		return error;
	if (cli_has(arguments, "json")) {
		json_print(describe(diff));
	} else {
		print_blocks(diff);
		print_sections(diff);
	}
	*status = diff->same ? 0 : 1;
	return NULL;
}

const struct cli_command cli_snapshot_diff = {
    .name = "snapshot diff",
    .positionals = "FILE FILE",
    .minimum = 2,
    .maximum = 2,
    .summary = "Compare what two snapshots hold",
    .description = "Prints nothing when memory and all states are the same. The exit status is 1 "
		   "if anything\nis different.",
    .options = options,
    .run = run_diff,
};
