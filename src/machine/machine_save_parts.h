/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything about a machine that a snapshot says in sections: its configuration, where its memory
 * is and what of it is plugged, the states of its devices and processors. Main thread.
 */
#ifndef GODWIT_MACHINE_MACHINE_SAVE_PARTS_H
#define GODWIT_MACHINE_MACHINE_SAVE_PARTS_H

#include "machine/machine.h"
#include "snapshot/snapshot_head.h"

/*
 * Adds the sections of @machine, whose guest stands still, to @head. Paths of the configuration are
 * absolute there, so that any folder will do to restore it from. An error: memory in more ranges
 * than a snapshot can name, text that is not UTF-8, a device whose state cannot be had, no memory.
 */
struct error *machine_save_parts(struct machine *machine, struct snapshot_head *head) MUST_CHECK;

#endif
