/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot convert STREAM OUT`: a sequential stream as a file. */
#include "snapshot/snapshot_convert.h"

#include "cli/snapshot.h"
#include "cli/stream_target.h"
#include "snapshot/snapshot_receive.h"

static const struct cli_option options[] = {
    {},
};

static struct error *run_convert(const struct cli_arguments *arguments, int *status)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *stream = NULL;
	const char *name = arguments->positional[0];
	struct channel *channel = NULL;
	struct snapshot_bar bar;
	struct error *error;

	TRY(stream_source_open(name, &channel));
	if (!channel) {
		/* It is no stream; if it is not readable either, that is the message. */
		TRY(snapshot_file_open(name, NULL, &stream));
		return error_new(EINVAL, "%s is a snapshot file already", name);
	}
	TRY(snapshot_receive(channel, false, &stream));
	error = snapshot_convert(stream, arguments->positional[1],
				 snapshot_bar_begin(&bar, "received"));
	snapshot_bar_end(&bar);
	return error;
}

const struct cli_command cli_snapshot_convert = {
    .name = "snapshot convert",
    .positionals = "STREAM|exec:COMMAND|fd:N OUT",
    .minimum = 2,
    .maximum = 2,
    .summary = "Make a snapshot file of a stream",
    .description =
	"Takes what 'godwit save' has sent to a command, a pipe or a descriptor, and "
	"writes a file\nthat all tools read. Every page is checked on its way. What is at "
	"OUT is replaced when\nthe whole stream has come.",
    .options = options,
    .run = run_convert,
};
