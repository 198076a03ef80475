/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot ACTION`: tools for snapshot files, which need no running VM. */
#include "cli/snapshot.h"

#include <unistd.h>

#include "base/clock.h"
#include "cli/command_table.h"

#define BAR_AFTER_NS (NS_PER_SECOND / 2)
#define BAR_EVERY_NS (100 * NS_PER_MS)

struct error *snapshot_open_given(const struct cli_arguments *arguments,
				  struct snapshot_file **file)
{
	const struct snapshot_open_options options = {.base = cli_value(arguments, "base", NULL)};

	return snapshot_file_open(arguments->positional[0], &options, file);
}

static void draw_bar(void *context, uint64_t done, uint64_t total)
{
	struct snapshot_bar *bar = context;
	int64_t now = clock_monotonic_ns();
	char text[BAR_WIDTH_MAX + 1];

	if (now - bar->started_ns < BAR_AFTER_NS || now - bar->drawn_ns < BAR_EVERY_NS)
		return;
	bar->drawn_ns = now;
	fprintf(stderr, "\r%s %s of %s %s\033[K", bar_format(done, total, 40, text), human(done),
		human(total), bar->verb);
}

const struct snapshot_progress *snapshot_bar_begin(struct snapshot_bar *bar, const char *verb)
{
	*bar = (struct snapshot_bar){.verb = verb,
				     .started_ns = clock_monotonic_ns(),
				     .progress = {.report = draw_bar, .context = bar}};
	return isatty(STDERR_FILENO) ? &bar->progress : NULL;
}

void snapshot_bar_end(struct snapshot_bar *bar)
{
	if (bar->drawn_ns)
		fprintf(stderr, "\r\033[K");
}

const char *snapshot_id_text(const uint8_t id[SNAPSHOT_ID_SIZE], char text[SNAPSHOT_ID_TEXT])
{
	for (int i = 0; i < SNAPSHOT_ID_SIZE; i++)
		snprintf(text + (size_t)i * 2, 3, "%02x", id[i]);
	return text;
}

static struct error *run_snapshot(const struct cli_arguments *arguments, int *status)
{
	return error_usage("an action is missing: 'godwit help snapshot' lists them");
}

static const struct cli_command *const actions[] = {
    &cli_snapshot_info,
    &cli_snapshot_verify,
    &cli_snapshot_diff,
    &cli_snapshot_export,
    &cli_snapshot_flatten,
    &cli_snapshot_convert,
    NULL,
};

const struct cli_command cli_snapshot = {
    .name = "snapshot",
    .positionals = "ACTION [ARGUMENT...]",
    .summary = "Look at snapshot files, check, compare and convert them",
    .description =
	"'godwit help snapshot ACTION' tells more. Files that QEMU wrote with mapped-ram "
	"can be\nread as well.",
    .run = run_snapshot,
    .actions = actions,
};
