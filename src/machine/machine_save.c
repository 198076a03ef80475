/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A save, machine_save.h. One thread does what takes long; what concerns the machine as a whole (the
 * moment: guest stopped, states collected) it asks of the main loop and waits for.
 *
 *   thread     the files are opened, which a hung disk may keep waiting; a lazy restore that is
 *              under way ends; a running guest's memory is watched
 *   main loop  the moment: the guest stops, states of devices and processors go into the file's
 *              front; with --live the guest goes on at once, but for devices whose writes would
 *              not be seen: they rest until memory is written
 *   thread     memory is written; the file is synced and put in place, or the stream ended
 *   main loop  the guest goes on; the owner is told
 *
 * Whatever fails, the guest goes on as it was.
 */
#include "machine/machine_save.h"

#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/thread.h"
#include "machine/machine_incoming.h"
#include "machine/machine_private.h"
#include "machine/machine_save_parts.h"
#include "migration/ram_save.h"

#define LAZY_POLL_NS   (5 * NS_PER_MS)
#define STREAM_THREADS 2 /* one sends while the other prepares what comes next */

struct machine_save {
	struct machine *machine;
	struct machine_save_options options; /* path and base are copies */
	void (*done)(void *context, struct error *error);
	void *context;

	struct snapshot_block_plan *plans;
	uint32_t plan_count;
	struct snapshot_file *base;	/* the thread's, as the next one */
	struct snapshot_writer *writer; /* or: */
	struct snapshot_sender *sender; /* freed by the thread, with the lock held */
	struct snapshot_head *head;	/* of either */
	struct ram_save *memory; /* from when files are open until it is written: the thread's */
	pthread_t thread;
	struct error *result;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t changed;
	bool moment_over;
	struct error *moment_error;
	bool cancelled;
	bool abandoned;	  /* the owner destroys it: the main loop does nothing more */
	uint32_t posted;  /* callbacks on their way to the main loop */
	int64_t froze_ns; /* when the guest stopped, if it stands still */
	struct machine_save_progress progress;
};

/* The guest stands still. */
static struct error *collect(struct machine_save *save)
{
	TRY(machine_save_parts(save->machine, save->head));
	return save->options.live ? ram_save_protect(save->memory) : NULL;
}

/* --- On the main loop -------------------------------------------------------------------------- */

static void freeze(struct machine_save *save)
{
	machine_freeze(save->machine);
	pthread_mutex_lock(&save->lock);
	save->froze_ns = clock_monotonic_ns();
	pthread_mutex_unlock(&save->lock);
}

static void thaw(struct machine_save *save)
{
	if (!save->froze_ns)
		return;
	machine_thaw(save->machine);
	pthread_mutex_lock(&save->lock);
	save->progress.paused_ns += clock_monotonic_ns() - save->froze_ns;
	save->froze_ns = 0;
	pthread_mutex_unlock(&save->lock);
}

static void save_free(struct machine_save *save);

/*
 * A callback that was posted has arrived: whether the owner still wants to hear. The last one to
 * arrive after the owner is gone frees the save.
 */
static bool arrived(struct machine_save *save)
{
	bool abandoned, last;

	pthread_mutex_lock(&save->lock);
	last = --save->posted == 0;
	abandoned = save->abandoned;
	pthread_mutex_unlock(&save->lock);
	if (abandoned && last)
		save_free(save);
	return !abandoned;
}

static void take_moment(void *context)
{
	struct machine_save *save = context;
	struct error *error;

	if (!arrived(save))
		return;
	if (save->machine->state == MACHINE_SHUTDOWN) {
		error = error_new(ECANCELED, "the machine is shutting down");
	} else {
		freeze(save);
		error = collect(save);
		/* Their writes would not be seen. Until memory is written. */
		if (!error && save->options.live)
			machine_devices_hold(save->machine, true);
		if (error || save->options.live)
			thaw(save);
	}
	pthread_mutex_lock(&save->lock);
	save->moment_error = error;
	save->moment_over = true;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
}

static void tell(void *context)
{
	struct machine_save *save = context;

	if (!arrived(save))
		return;
	thaw(save);
	save->done(save->context, TAKE_PTR(save->result));
}

/* --- The thread -------------------------------------------------------------------------------- */

static struct error *post(struct machine_save *save, event_callback callback)
{
	int result;

	pthread_mutex_lock(&save->lock);
	save->posted++;
	pthread_mutex_unlock(&save->lock);
	result = event_loop_post(save->machine->loop, callback, save);
	if (result < 0) {
		pthread_mutex_lock(&save->lock);
		save->posted--;
		pthread_mutex_unlock(&save->lock);
		return error_system(-result, "cannot reach the main loop");
	}
	return NULL;
}

static struct error *cancelled(void)
{
	return error_new(ECANCELED, "the save was cancelled");
}

static bool is_cancelled(struct machine_save *save)
{
	bool is;

	pthread_mutex_lock(&save->lock);
	is = save->cancelled;
	pthread_mutex_unlock(&save->lock);
	return is;
}

/* All that touches a disk before the moment: the main loop must not wait for one. */
static struct error *open_files(struct machine_save *save)
{
	struct ram_save_options options = {.channels = save->options.channels,
					   .sender = save->sender};
	struct snapshot_writer_options writer = {.path = save->options.path,
						 .direct = save->options.direct};
	struct ram_save *memory;

	if (save->options.base)
		TRY(error_prefix(snapshot_file_open(save->options.base, NULL, &save->base),
				 "base"));
	writer.base = options.base = save->base;
	if (save->sender) {
		save->head = snapshot_sender_head(save->sender);
		options.channels = STREAM_THREADS;
	} else {
		TRY(snapshot_writer_create(&writer, save->plans, save->plan_count, &save->writer));
		save->head = snapshot_writer_head(save->writer);
		options.direct = snapshot_writer_is_direct(save->writer);
	}
	TRY(ram_save_create(save->machine->map, save->writer, &options, &memory));
	pthread_mutex_lock(&save->lock);
	save->memory = memory; /* from here on machine_save_cancel ends it */
	pthread_mutex_unlock(&save->lock);
	return is_cancelled(save) ? cancelled() : NULL;
}

static struct error *wait_for_lazy_restore(struct machine_save *save)
{
	const struct timespec pause = {.tv_nsec = LAZY_POLL_NS};

	while (machine_is_restoring(save->machine)) {
		if (is_cancelled(save))
			return cancelled();
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static struct error *wait_for_moment(struct machine_save *save)
{
	struct error *error;

	TRY(post(save, take_moment));
	pthread_mutex_lock(&save->lock);
	/* Also when cancelled: the main loop may be at it. It is not when it has abandoned the save. */
	while (!save->moment_over && !save->abandoned)
		pthread_cond_wait(&save->changed, &save->lock);
	error = TAKE_PTR(save->moment_error);
	if (!error && save->cancelled)
		error = cancelled();
	pthread_mutex_unlock(&save->lock);
	return error;
}

/* From here on progress is what it was. */
static void end_memory(struct machine_save *save)
{
	struct ram_save *memory;
	struct ram_save_progress progress;

	ram_save_progress(save->memory, &progress);
	pthread_mutex_lock(&save->lock);
	memory = TAKE_PTR(save->memory);
	save->progress.total = progress.total;
	save->progress.done = progress.done;
	save->progress.stored = progress.stored;
	save->progress.waited = progress.waited;
	pthread_mutex_unlock(&save->lock);
	ram_save_destroy(memory);
}

static void note_size(struct machine_save *save)
{
	struct machine_save_progress *progress = &save->progress;

	pthread_mutex_lock(&save->lock);
	if (save->sender) {
		progress->file_size = progress->file_allocated = snapshot_sender_size(save->sender);
	} else {
		progress->file_size = snapshot_writer_size(save->writer);
		progress->file_allocated = snapshot_writer_allocated(save->writer);
	}
	pthread_mutex_unlock(&save->lock);
}

static struct error *write_memory(struct machine_save *save)
{
	struct error *error = ram_save_run(save->memory);

	machine_devices_hold(save->machine, false);
	end_memory(save);
	return error;
}

static struct error *finish(struct machine_save *save)
{
	if (is_cancelled(save))
		return cancelled();
	return save->sender ? snapshot_sender_finish(save->sender)
			    : snapshot_writer_finish(save->writer);
}

/* What goes wrong with memory goes wrong with the file, mostly; the writer names it itself. */
static struct error *name_file(const struct machine_save *save, struct error *error)
{
	return error_prefix(error, "%s", save->options.path);
}

static struct error *do_save(struct machine_save *save)
{
	TRY(open_files(save));
	TRY(wait_for_lazy_restore(save));
	if (save->options.live)
		TRY(ram_save_watch(save->memory, save->machine->userfault));
	TRY(wait_for_moment(save));
	if (save->sender)
		TRY(name_file(save, snapshot_sender_begin(save->sender)));
	TRY(name_file(save, write_memory(save)));
	TRY(save->sender ? name_file(save, finish(save)) : finish(save));
	note_size(save);
	return NULL;
}

static void *save_thread(void *context)
{
	struct machine_save *save = context;

	save->result = do_save(save);
	machine_devices_hold(save->machine, false);
	if (save->result && is_cancelled(save)) { /* whatever it was that noticed */
		error_free(save->result);
		save->result = cancelled();
	}
	if (save->memory)
		end_memory(save);
	/* A partial file goes before anybody is told, and who reads a stream sees its end. */
	snapshot_writer_destroy(TAKE_PTR(save->writer));
	snapshot_file_close(TAKE_PTR(save->base));
	pthread_mutex_lock(&save->lock);
	snapshot_sender_destroy(TAKE_PTR(save->sender));
	pthread_mutex_unlock(&save->lock);
	error_free(post(save, tell)); /* fails without memory for a list entry only */
	return NULL;
}

/* --- Life -------------------------------------------------------------------------------------- */

static struct error *plan_memory(struct machine_save *save)
{
	const struct memory_map *map = save->machine->map;
	uint32_t count = ram_save_plan(map, NULL, 0);

	if (count > SNAPSHOT_BLOCKS_MAX)
		return error_new(E2BIG,
				 "a snapshot holds %d pieces of memory, and this machine has %u",
				 SNAPSHOT_BLOCKS_MAX, count);
	save->plans = calloc(MAX(count, 1U), sizeof(*save->plans));
	if (!save->plans)
		return error_system(ENOMEM, "a save");
	save->plan_count = ram_save_plan(map, save->plans, count);
	for (uint32_t i = 0; i < save->plan_count; i++)
		save->progress.total += save->plans[i].size;
	return NULL;
}

/* What can be done, and refused, without waiting for anything. */
static struct error *prepare(struct machine_save *save)
{
	struct machine *machine = save->machine;

	TRY(plan_memory(save));
	if (save->options.live && !machine->userfault)
		TRY(userfault_create(MACHINE_FAULT_THREADS, &machine->userfault));
	for (uint32_t i = 0; save->options.live && i < machine->config.memory_count; i++)
		TRY(error_prefix(userfault_supports(machine->memory[i]), "live"));
	for (uint32_t i = 0; save->options.live && i < machine->config.elastic_count; i++)
		TRY(error_prefix(userfault_supports(machine->elastic[i].block), "live"));
	if (!save->options.stream)
		return NULL;
	return snapshot_sender_create(TAKE_PTR(save->options.stream), save->plans, save->plan_count,
				      &save->sender);
}

static void save_free(struct machine_save *save)
{
	snapshot_sender_destroy(save->sender);
	channel_close(save->options.stream);
	free(save->plans);
	error_free(save->result);
	error_free(save->moment_error);
	pthread_cond_destroy(&save->changed);
	pthread_mutex_destroy(&save->lock);
	free((char *)save->options.path);
	free((char *)save->options.base);
	free(save);
}

/* What cannot be done now, or not with a stream, before anything is made for it. */
static struct error *check_start(const struct machine *machine,
				 const struct machine_save_options *options)
{
	if (machine->state == MACHINE_SHUTDOWN)
		return error_new(EPERM, "the machine is shutting down");
	if (machine->migrate || machine_is_incoming(machine))
		return error_new(EBUSY,
				 "the machine is being moved to another host or from one: wait "
				 "for that, or cancel its job");
	if (machine->saving)
		return error_new(EBUSY,
				 "a save is under way already: wait for it or cancel its job");
	TRY(machine_check_movable(machine, VIRTIO_MOVE_STOPPED));
	if (!options->stream)
		return NULL;
	if (options->direct == SNAPSHOT_DIRECT_ON)
		return error_usage("direct: needs a file, and %s takes bytes only in their order",
				   options->path);
	if (options->base)
		return error_usage("base: needs a file, and %s takes bytes only in their order",
				   options->path);
	if (options->channels > 1)
		return error_usage("channels: %u need a file, and %s takes bytes only in their "
				   "order: use 1",
				   options->channels, options->path);
	return NULL;
}

struct error *machine_save_start(struct machine *machine,
				 const struct machine_save_options *options,
				 void (*done)(void *context, struct error *error), void *context,
				 struct machine_save **result)
{
	struct machine_save *save = NULL;
	struct error *error = check_start(machine, options);

	if (!error) {
		save = calloc(1, sizeof(*save));
		error = save ? NULL : error_system(ENOMEM, "a save");
	}
	if (error) {
		channel_close(options->stream);
		return error;
	}
	pthread_mutex_init(&save->lock, NULL);
	pthread_cond_init(&save->changed, NULL);
	save->machine = machine;
	save->done = done;
	save->context = context;
	save->options = *options;
	save->options.path = strdup(options->path);
	save->options.base = options->base ? strdup(options->base) : NULL;
	error = save->options.path ? prepare(save) : error_system(ENOMEM, "a save");
	if (!error)
		error = thread_start(&save->thread, "save", save_thread, save);
	if (error) {
		save_free(save);
		return error;
	}
	machine->saving = true;
	*result = save;
	return NULL;
}

void machine_save_cancel(struct machine_save *save)
{
	pthread_mutex_lock(&save->lock);
	save->cancelled = true;
	if (save->memory)
		ram_save_cancel(save->memory);
	if (save->sender)
		snapshot_sender_cancel(save->sender);
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
}

void machine_save_progress(struct machine_save *save, struct machine_save_progress *progress)
{
	struct ram_save_progress memory;

	pthread_mutex_lock(&save->lock);
	*progress = save->progress;
	if (save->memory) {
		ram_save_progress(save->memory, &memory);
		progress->total = memory.total;
		progress->done = memory.done;
		progress->stored = memory.stored;
		progress->waited = memory.waited;
	}
	if (save->froze_ns)
		progress->paused_ns += clock_monotonic_ns() - save->froze_ns;
	pthread_mutex_unlock(&save->lock);
}

void machine_save_destroy(struct machine_save *save)
{
	bool last;

	if (!save)
		return;
	machine_save_cancel(save);
	pthread_mutex_lock(&save->lock);
	save->abandoned = true;
	pthread_cond_broadcast(&save->changed);
	pthread_mutex_unlock(&save->lock);
	pthread_join(save->thread, NULL);
	thaw(save);
	save->machine->saving = false;
	/* A callback that is still queued frees the save instead. */
	pthread_mutex_lock(&save->lock);
	last = save->posted == 0;
	pthread_mutex_unlock(&save->lock);
	if (last)
		save_free(save);
}
