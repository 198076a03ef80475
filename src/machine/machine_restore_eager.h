/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of a restore that brings all memory before the guest goes on. Main thread. */
#ifndef GODWIT_MACHINE_MACHINE_RESTORE_EAGER_H
#define GODWIT_MACHINE_MACHINE_RESTORE_EAGER_H

#include "machine/machine_restore.h"
#include "migration/ram_load.h"

/*
 * From @file, or from the stream that it is the front of, into memory that is plugged as it will
 * be. Returns when everything is there and verified; *@progress says how much that was. An error of
 * code ECANCELED: options->cancelled said so.
 */
struct error *machine_restore_eager(const struct machine *machine, const struct snapshot_file *file,
				    const struct machine_restore_options *options,
				    struct ram_load_progress *progress) MUST_CHECK;

#endif
