/* SPDX-License-Identifier: BSD-2-Clause */
/* What the actions of `godwit snapshot` share. */
#ifndef GODWIT_CLI_SNAPSHOT_H
#define GODWIT_CLI_SNAPSHOT_H

#include "cli/command.h"
#include "cli/output.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_progress.h"

extern const struct cli_command cli_snapshot_info, cli_snapshot_verify, cli_snapshot_diff,
    cli_snapshot_export, cli_snapshot_flatten, cli_snapshot_convert;

#define SNAPSHOT_BASE_OPTION                                                                       \
	{                                                                                          \
		"base", CLI_REQUIRED, "PATH", "where the file's base is, if not where it says"     \
	}

/* Opens the first positional with its bases, with --base as given. */
struct error *snapshot_open_given(const struct cli_arguments *arguments,
				  struct snapshot_file **file) MUST_CHECK;

/* A bar on a terminal for what takes longer than a moment. Zero it and give it a @verb. */
struct snapshot_bar {
	const char *verb; /* "verified" */
	int64_t started_ns, drawn_ns;
	struct snapshot_progress progress;
};
/* The progress to give to a tool; borrowed from @bar. */
const struct snapshot_progress *snapshot_bar_begin(struct snapshot_bar *bar, const char *verb);
/* Takes the bar away. */
void snapshot_bar_end(struct snapshot_bar *bar);

/* An id as 32 digits; @text is returned. */
#define SNAPSHOT_ID_TEXT (2 * SNAPSHOT_ID_SIZE + 1)
const char *snapshot_id_text(const uint8_t id[SNAPSHOT_ID_SIZE], char text[SNAPSHOT_ID_TEXT]);

#endif
