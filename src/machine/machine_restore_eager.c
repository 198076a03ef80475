/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bringing memory, machine_restore_eager.h, from a file or a stream. It has a thread of its own for
 * the sake of who watches: the main thread shows progress and asks whether to go on.
 */
#include "machine/machine_restore_eager.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/thread.h"
#include "machine/machine_private.h"
#include "migration/ram_receive.h"

#define LOOK_NS (50 * NS_PER_MS)

/* One of the two is there. */
struct eager {
	struct ram_load *load;
	struct ram_receive *receive;
	struct error *error;
};

static void eager_progress(const struct eager *eager, struct ram_load_progress *progress)
{
	if (eager->load)
		ram_load_progress(eager->load, progress);
	else
		ram_receive_progress(eager->receive, progress);
}

static void eager_cancel(const struct eager *eager)
{
	if (eager->load)
		ram_load_cancel(eager->load);
	else
		ram_receive_cancel(eager->receive);
}

static void *eager_thread(void *context)
{
	struct eager *eager = context;

	eager->error = eager->load ? ram_load_run(eager->load) : ram_receive_run(eager->receive);
	return NULL;
}

/* Waits LOOK_NS; whether the thread has ended. */
static bool join_soon(pthread_t thread)
{
	int64_t until_ns = clock_monotonic_ns() + LOOK_NS;
	const struct timespec until = {.tv_sec = until_ns / NS_PER_SECOND,
				       .tv_nsec = until_ns % NS_PER_SECOND};

	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0;
}

static struct error *run_watched(struct eager *eager, const struct machine_restore_options *options)
{
	struct ram_load_progress progress;
	bool cancelled = false;
	pthread_t thread;

	TRY(thread_start(&thread, "restore", eager_thread, eager));
	while (!join_soon(thread)) {
		eager_progress(eager, &progress);
		if (options->progress)
			options->progress(options->context, progress.done, progress.total);
		if (!cancelled && options->cancelled && options->cancelled(options->context)) {
			cancelled = true;
			eager_cancel(eager);
		}
	}
	return eager->error;
}

struct error *machine_restore_eager(const struct machine *machine, const struct snapshot_file *file,
				    const struct machine_restore_options *options,
				    struct ram_load_progress *progress)
{
	struct ram_load_options load_options = {.channels = options->channels,
						.direct = options->direct};
	AUTO_RAM_LOAD struct ram_load *load = NULL;
	AUTO_RAM_RECEIVE struct ram_receive *receive = NULL;
	struct eager eager = {};

	if (file->receiver) {
		TRY(ram_receive_create(machine->map, file, &receive));
	} else {
		TRY(ram_load_check(machine->map, file));
		TRY(ram_load_create(machine->map, file, &load_options, &load));
	}
	eager.load = load;
	eager.receive = receive;
	TRY(run_watched(&eager, options));
	eager_progress(&eager, progress);
	return NULL;
}
