/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A restore, machine_restore.h: states first, since they say what is plugged, then memory, or with
 * a lazy restore the promise of it.
 *
 * A lazy restore that fails later (the file was damaged, or its disk broke) leaves the guest without
 * memory that it had: nothing can be done but end the process at once, before a device writes what
 * is not there to a disk. The same goes for a clone whose file is found damaged, or is cut off.
 */
#include "machine/machine_restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "machine/machine_config_json.h"
#include "machine/machine_first_answer.h"
#include "machine/machine_private.h"
#include "machine/machine_restore_eager.h"
#include "machine/machine_state.h"
#include "migration/ram_lazy.h"
#include "migration/ram_load.h"
#include "migration/ram_share.h"

/* What a restored machine keeps. */
struct lazy_restore {
	struct machine *machine;
	struct machine_restore_options options;
	struct snapshot_file *file;
	struct ram_lazy *lazy;	   /* NULL: everything is there */
	struct ram_verify *verify; /* of a clone that is being verified, or NULL */
	int shared_fd;		   /* of the file of a clone, to see that it stays whole, or -1 */
	uint64_t shared_size;
	int64_t began_ns;
	struct machine_first_answer *answer; /* NULL: nobody asks */
	struct machine_restore_report report;
};

/* --- What is in the file ----------------------------------------------------------------------- */

struct error *machine_restore_config(const struct snapshot_file *file,
				     struct machine_config *config)
{
	const struct snapshot_section *section =
	    snapshot_file_section(file, MACHINE_CONFIG_SECTION, 0);
	struct error *error;
	json_error_t problem;
	json_t *json;

	memset(config, 0, sizeof(*config));
	if (file->foreign)
		return error_new(EINVAL,
				 "'%s' was saved by QEMU: godwit reads its memory "
				 "('godwit snapshot export') but has none of its devices",
				 file->path);
	if (!section)
		return error_new(EINVAL, "'%s' has no section " MACHINE_CONFIG_SECTION, file->path);
	json = json_loadb((const char *)section->bytes, section->size, JSON_REJECT_DUPLICATES,
			  &problem);
	if (!json)
		return error_new(EINVAL,
				 "'%s': section " MACHINE_CONFIG_SECTION " at offset %#lx: %s",
				 file->path, (unsigned long)section->offset, problem.text);
	error = machine_config_from_json(json, config);
	json_decref(json);
	return error_prefix(error, "'%s': section " MACHINE_CONFIG_SECTION, file->path);
}

static void clone_backing(struct ram_backing_options *backing, const char *what)
{
	char text[128];

	if (backing->backing != RAM_BACKING_MEMFD && backing->backing != RAM_BACKING_ANON)
		log_warning(
		    "%s was backed by %s, and as a clone is by pages of 4 KiB that the host "
		    "does not guarantee",
		    what, ram_backing_describe(backing, text, sizeof(text)));
	ram_backing_options_clear(backing);
	*backing = (struct ram_backing_options){.backing = RAM_BACKING_ANON,
						.host_node = backing->host_node};
}

void machine_restore_clone_config(struct machine_config *config)
{
	for (uint32_t i = 0; i < config->memory_count; i++)
		clone_backing(&config->memory[i].backing, "boot memory");
	for (uint32_t i = 0; i < config->elastic_count; i++)
		clone_backing(&config->elastic[i].backing, config->elastic[i].id);
}

static struct error *load_states(struct machine *machine, const struct snapshot_file *file)
{
	AUTO_FREE struct machine_state_section *sections =
	    calloc(MAX(file->section_count, 1U), sizeof(*sections));
	size_t count = 0;

	if (!sections)
		return error_system(ENOMEM, "sections");
	for (uint32_t i = 0; i < file->section_count; i++) {
		const struct snapshot_section *section = &file->sections[i];

		if (strncmp(section->name, "godwit/", 7) == 0)
			continue; /* the file's own */
		sections[count++] = (struct machine_state_section){
		    .name = section->name,
		    .instance = section->instance,
		    .version = section->version,
		    .bytes = section->bytes,
		    .size = section->size,
		};
	}
	return error_prefix(machine_state_load(machine, sections, count), "'%s'", file->path);
}

/* --- Before the guest goes on ------------------------------------------------------------------ */

static struct error *load_memory(struct lazy_restore *restore,
				 const struct machine_restore_options *options)
{
	struct ram_load_progress progress;

	TRY(machine_restore_eager(restore->machine, restore->file, options, &progress));
	restore->report.total = progress.total;
	restore->report.done = progress.done;
	return NULL;
}

/* --- While the guest runs ---------------------------------------------------------------------- */

static void note_resident(struct lazy_restore *restore)
{
	struct machine_restore_report *report = &restore->report;

	report->resident_ns = clock_monotonic_ns() - restore->began_ns;
	log_info("restored: everything there after %.1f ms",
		 (double)report->resident_ns / NS_PER_MS);
	machine_emit(restore->machine, "RESTORE_COMPLETED",
		     json_pack("{s:I, s:I, s:I, s:I}", "bytes", (json_int_t)report->total, "asked",
			       (json_int_t)report->asked, "started-ns",
			       (json_int_t)report->started_ns, "resident-ns",
			       (json_int_t)report->resident_ns));
}

static void look(struct lazy_restore *restore)
{
	struct ram_lazy_progress progress;
	int64_t answered = restore->answer ? machine_first_answer_time(restore->answer) : 0;

	if (answered)
		restore->report.answer_ns = answered - restore->began_ns;
	if (restore->verify)
		ram_verify_progress(restore->verify, &restore->report.total, &restore->report.done);
	if (!restore->lazy)
		return;
	ram_lazy_progress(restore->lazy, &progress);
	restore->report.total = progress.total;
	restore->report.done = progress.done;
	restore->report.asked = progress.asked;
}

/* On the main loop. */
static void first_answer_came(void *context)
{
	struct lazy_restore *restore = context;

	look(restore);
	log_info("restored: %s after %.1f ms", restore->report.answer,
		 (double)restore->report.answer_ns / NS_PER_MS);
	machine_emit(restore->machine, "RESTORE_ANSWERED",
		     json_pack("{s:s, s:I}", "answer", restore->report.answer, "answer-ns",
			       (json_int_t)restore->report.answer_ns));
}

/* On the main loop: memory is an ordinary mapping again, or what it shares is verified. */
static void finish_lazy(void *context)
{
	struct machine *machine = context;
	struct lazy_restore *restore = machine->restore;

	look(restore);
	if (restore->lazy)
		machine_memory_comes(machine, NULL);
	ram_lazy_destroy(TAKE_PTR(restore->lazy));
	ram_verify_destroy(TAKE_PTR(restore->verify));
	snapshot_file_close(TAKE_PTR(restore->file));
	__atomic_store_n(&machine->restoring, false, __ATOMIC_RELEASE);
	note_resident(restore);
}

static void lazy_completed(void *context)
{
	struct lazy_restore *restore = context;

	if (event_loop_post(restore->machine->loop, finish_lazy, restore->machine) < 0)
		log_error("no memory to tell that the restore is complete");
}

/* See the head of this file. */
static void lazy_failed(void *context, struct error *error)
{
	struct lazy_restore *restore = context;

	restore->options.lost(restore->options.context, error);
	error_free(error);
}

static const struct ram_lazy_ops lazy_ops = {.completed = lazy_completed, .failed = lazy_failed};
static const struct ram_share_ops share_ops = {.completed = lazy_completed, .failed = lazy_failed};

bool machine_restore_lost(struct machine *machine, bool certain, const char *detail)
{
	struct lazy_restore *restore = machine->restore;
	struct stat info;

	if (!restore || restore->shared_fd < 0)
		return false;
	if (!certain && fstat(restore->shared_fd, &info) == 0 &&
	    (uint64_t)info.st_size >= restore->shared_size)
		return false;
	lazy_failed(restore,
		    error_new(EFAULT,
			      "%s: the snapshot that this is a clone of has been cut off, or "
			      "its disk cannot be read",
			      detail));
	return true;
}

static struct error *promise_memory(struct lazy_restore *restore)
{
	struct machine *machine = restore->machine;

	if (!machine->userfault)
		TRY(userfault_create(MACHINE_FAULT_THREADS, &machine->userfault));
	TRY(ram_lazy_create(machine->map, restore->file, machine->userfault, &lazy_ops, restore,
			    &restore->lazy));
	__atomic_store_n(&machine->restoring, true, __ATOMIC_RELEASE);
	machine_memory_comes(machine, machine->userfault);
	return NULL;
}

static struct error *share_memory(struct lazy_restore *restore)
{
	restore->shared_fd = fcntl(restore->file->fd, F_DUPFD_CLOEXEC, 0);
	if (restore->shared_fd < 0)
		return error_system(errno, "snapshot '%s'", restore->file->path);
	restore->shared_size = restore->file->size;
	return ram_share_attach(restore->machine->map, restore->file);
}

/* After ram_load_check. */
static struct error *verify_clone(struct lazy_restore *restore)
{
	struct machine *machine = restore->machine;
	struct error *error;

	if (restore->options.verify == MACHINE_VERIFY_NEVER)
		return NULL;
	TRY(ram_verify_create(machine->map, restore->file, &restore->verify));
	if (restore->options.verify == MACHINE_VERIFY_MEANWHILE) {
		__atomic_store_n(&machine->restoring, true, __ATOMIC_RELEASE);
		return NULL;
	}
	error = ram_verify_run(restore->verify, restore->options.channels);
	look(restore);
	ram_verify_destroy(TAKE_PTR(restore->verify));
	return error;
}

/* --- Restoring --------------------------------------------------------------------------------- */

static struct error *restore_parts(struct lazy_restore *restore,
				   const struct machine_restore_options *options)
{
	struct machine *machine = restore->machine;

	if (restore->file->receiver &&
	    (options->lazy || options->clone || options->direct == SNAPSHOT_DIRECT_ON))
		return error_usage("%s: '%s' is a stream, whose bytes come only in their order: "
				   "make a file of it ('godwit snapshot convert')",
				   options->lazy    ? "lazy"
				   : options->clone ? "clone"
						    : "direct",
				   restore->file->path);
	if (options->first_answer) {
		TRY(error_prefix(machine_first_answer_create(machine, options->first_answer,
							     first_answer_came, restore,
							     &restore->answer),
				 "first answer"));
		restore->report.answer = machine_first_answer_name(restore->answer);
	}
	/* Memory comes first: loading states may already make KVM look into it. */
	if (options->lazy)
		TRY(promise_memory(restore));
	if (options->clone)
		TRY(share_memory(restore));
	TRY(load_states(machine, restore->file));
	if (!options->lazy && !options->clone)
		TRY(load_memory(restore, options));
	else
		TRY(ram_load_check(machine->map, restore->file));
	if (options->clone)
		TRY(verify_clone(restore));
	return machine_new_generation(machine);
}

struct error *machine_restore(struct machine *machine, struct snapshot_file *file,
			      const struct machine_restore_options *options)
{
	struct lazy_restore *restore = calloc(1, sizeof(*restore));

	if (!restore) {
		snapshot_file_close(file);
		return error_system(ENOMEM, "a restore");
	}
	machine->restore = restore; /* machine_destroy ends it, whatever happens */
	restore->machine = machine;
	restore->shared_fd = -1;
	restore->options = *options;
	restore->file = file;
	restore->report.clone = options->clone;
	restore->began_ns = clock_monotonic_ns();
	TRY(restore_parts(restore, options));
	if (machine->state == MACHINE_PAUSED && !machine->config.paused)
		TRY(machine_resume(machine));
	restore->report.started_ns = clock_monotonic_ns() - restore->began_ns;
	if (restore->answer)
		machine_first_answer_begin(restore->answer);
	if (options->lazy)
		return ram_lazy_start(restore->lazy, options->channels);
	if (restore->verify)
		return ram_verify_start(restore->verify, &share_ops, restore);
	snapshot_file_close(TAKE_PTR(restore->file));
	note_resident(restore);
	return NULL;
}

void machine_restore_end(struct machine *machine)
{
	struct lazy_restore *restore = TAKE_PTR(machine->restore);

	if (!restore)
		return;
	ram_lazy_destroy(restore->lazy);
	ram_verify_destroy(restore->verify);
	snapshot_file_close(restore->file);
	close_fd(&restore->shared_fd);
	machine_first_answer_destroy(restore->answer);
	free(restore);
}

bool machine_restore_report(const struct machine *machine, struct machine_restore_report *report)
{
	if (!machine->restore)
		return false;
	look(machine->restore);
	*report = machine->restore->report;
	return true;
}
