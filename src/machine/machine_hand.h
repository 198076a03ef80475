/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine that goes on in another process of this host with all that it has, by descriptor:
 * beside its memory (machine_migrate_options.share_memory) its kernel, serial port, disks,
 * networks, sockets. Who is to be the guest's process is the handover's to say
 * (machine_migrate.h); these see to it that the two of them do not get in each other's way.
 *
 * Main thread.
 */
#ifndef GODWIT_MACHINE_MACHINE_HAND_H
#define GODWIT_MACHINE_MACHINE_HAND_H

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

#define MACHINE_HANDED_VERSION 1

/*
 * Adds to @handed (virtio/handed.h), an empty object, what the other process is to have:
 * machine_config.handed there. The machine works on.
 */
struct error *machine_hand_share(struct machine *machine, json_t *handed) MUST_CHECK;
/*
 * It goes on in this process, which it was shared with or handed to, and in no other. Idempotent.
 */
void machine_hand_end(struct machine *machine);
/*
 * Reads what is in the file @fd, which is closed: what machine_hand_share wrote, of this version.
 */
struct error *machine_hand_read(int fd, json_t **handed) MUST_CHECK;

#endif
