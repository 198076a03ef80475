/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot flatten FILE OUT`: a snapshot that builds on no other. */
#include "cli/snapshot.h"
#include "snapshot/snapshot_export.h"

static const struct cli_option options[] = {
    SNAPSHOT_BASE_OPTION,
    {},
};

static struct error *run_flatten(const struct cli_arguments *arguments, int *status)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct snapshot_bar bar;
	struct error *error;

	TRY(snapshot_open_given(arguments, &file));
	error =
	    snapshot_flatten(file, arguments->positional[1], snapshot_bar_begin(&bar, "copied"));
	snapshot_bar_end(&bar);
	return error;
}

const struct cli_command cli_snapshot_flatten = {
    .name = "snapshot flatten",
    .positionals = "FILE OUT",
    .minimum = 2,
    .maximum = 2,
    .summary = "Make a snapshot that builds on no other",
    .description = "OUT holds what FILE and its bases hold together. Every page is checked on its "
		   "way. What is\nat OUT is replaced when the new file is complete; it may be FILE "
		   "itself.",
    .options = options,
    .run = run_flatten,
};
