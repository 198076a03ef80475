/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Restoring a machine from a snapshot file: all of it before the guest goes on; or lazily, bringing
 * memory while it runs; or as a clone, which shares the file's pages with other clones until it
 * writes to them.
 *
 * Main thread; the machine tells with events: RESTORE_COMPLETED when everything is resident,
 * RESTORE_ANSWERED when the guest has given the first answer that was asked for.
 */
#ifndef GODWIT_MACHINE_MACHINE_RESTORE_H
#define GODWIT_MACHINE_MACHINE_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "machine/machine.h"
#include "snapshot/snapshot_direct.h"
#include "snapshot/snapshot_file.h"

/*
 * The configuration that the machine in @file had, in *@config, which is released with
 * machine_config_clear in any case. The caller may change what does not concern the guest.
 */
struct error *machine_restore_config(const struct snapshot_file *file,
				     struct machine_config *config) MUST_CHECK;

/*
 * For a clone: memory that shares pages of a file is anonymous, of small pages, and not touched
 * before it is needed, whatever the configuration says of its backing.
 */
void machine_restore_clone_config(struct machine_config *config);

/* When the pages of a clone are compared with the checksums of its file. */
enum machine_verify {
	MACHINE_VERIFY_MEANWHILE, /* while the guest runs; it ends when they differ */
	MACHINE_VERIFY_FIRST,	  /* before it goes on */
	MACHINE_VERIFY_NEVER,	  /* somebody else has (snapshot_verify.h) */
};

struct machine_restore_options {
	uint32_t channels;	     /* threads that bring memory: 1 to RAM_LOAD_CHANNELS_MAX */
	enum snapshot_direct direct; /* for reading all of it before the guest goes on */
	bool lazy;		     /* config.lazy must have been set for machine_create */
	bool clone; /* config went through machine_restore_clone_config; neither of these two */
	enum machine_verify verify; /* of a clone */
	const char *first_answer;   /* machine_first_answer.h; NULL: nobody asks */
	/* Called now and then while memory is brought before the guest goes on. NULL: not. */
	void (*progress)(void *context, uint64_t done, uint64_t total);
	/* Likewise: whether to give up. NULL: never. */
	bool (*cancelled)(void *context);
	/*
	 * A lazy restore, or a clone, cannot go on: memory that the guest had is not to be had.
	 * Called on any thread; must end the process at once, before a device writes what is not there to a disk.
	 */
	void (*lost)(void *context, const struct error *error);
	void *context;
};

/*
 * Brings @file, or the stream that it is the front of, which the machine takes over (also on error), into a machine that was just created
 * with its configuration, gives it another generation id, and lets the guest go on unless it had
 * crashed or config.paused is set. After an error the machine can only be destroyed.
 */
struct error *machine_restore(struct machine *machine, struct snapshot_file *file,
			      const struct machine_restore_options *options) MUST_CHECK;

/* For the machine's own use: ends a lazy restore. Accepts a machine that has none. */
void machine_restore_end(struct machine *machine);
/*
 * Likewise: a vCPU cannot go on, as @detail says. When it is @certain that it could not get at its
 * memory, or the file that a clone shares has become shorter, the clone is lost (options.lost).
 * False: this is no clone, or its file is whole. Any thread.
 */
bool machine_restore_lost(struct machine *machine, bool certain, const char *detail);

struct machine_restore_report {
	int64_t started_ns;   /* from the call to the guest's first instruction */
	int64_t resident_ns;  /* from the call until everything is there, or verified; 0: not yet */
	const char *answer;   /* the first answer that was asked for; the machine's, or NULL */
	int64_t answer_ns;    /* from the call until it came; 0: not yet */
	bool clone;	      /* nothing is brought: what follows is about verifying */
	uint64_t total, done; /* bytes of pages */
	uint64_t asked;	      /* pieces that somebody waited for */
};
/* False when the machine was not restored. */
bool machine_restore_report(const struct machine *machine, struct machine_restore_report *report);

#endif
