/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit snapshot verify FILE`: whether it can be restored. */
#include "snapshot/snapshot_verify.h"

#include <unistd.h>

#include "base/checked.h"
#include "base/size.h"
#include "cli/snapshot.h"

#define THREADS_USUAL 4

static const struct cli_option options[] = {
    SNAPSHOT_BASE_OPTION,
    {"threads", CLI_REQUIRED, "N", "how many threads read (default: processors, at most 4)"},
    {"json", CLI_FLAG, NULL, "print JSON, sizes in bytes"},
    {},
};

static struct error *thread_count(const struct cli_arguments *arguments, uint64_t *threads)
{
	const char *text = cli_value(arguments, "threads", NULL);
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	*threads = (uint64_t)MAX(1L, MIN(processors, (long)THREADS_USUAL));
	if (!text)
		return NULL;
	TRY(error_prefix(number_parse(text, SNAPSHOT_VERIFY_THREADS_MAX, threads), "--threads"));
	if (!*threads)
		return error_usage("--threads 0: 1 to %d are possible",
				   SNAPSHOT_VERIFY_THREADS_MAX);
	return NULL;
}

static struct error *run_verify(const struct cli_arguments *arguments, int *status)
{
	AUTO_SNAPSHOT_FILE struct snapshot_file *file = NULL;
	struct snapshot_verify_result result;
	struct snapshot_bar bar;
	struct error *error;
	uint64_t threads;

	TRY(thread_count(arguments, &threads));
	TRY(snapshot_open_given(arguments, &file));
	error = snapshot_verify(file, (unsigned int)threads, snapshot_bar_begin(&bar, "verified"),
				&result);
	snapshot_bar_end(&bar);
	if (error)
		return error;
	if (cli_has(arguments, "json"))
		json_print(json_pack("{s:I,s:I,s:b}", "memory", (json_int_t)result.bytes, "zero",
				     (json_int_t)result.zero, "checksums", !file->foreign));
	else
		printf("%s: %s of memory, %s of it zeros, %s\n", file->path, human(result.bytes),
		       human(result.zero),
		       file->foreign ? "sound in structure; QEMU's files have no checksums"
				     : "is whole");
	return NULL;
}

const struct cli_command cli_snapshot_verify = {
    .name = "snapshot verify",
    .positionals = "FILE",
    .minimum = 1,
    .maximum = 1,
    .summary = "Check that a snapshot can be restored",
    .description = "Reads every page, in its bases too, and compares all checksums.",
    .options = options,
    .run = run_verify,
};
