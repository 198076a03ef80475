/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a whole machine but its memory's content: which parts there are, in which order they
 * are loaded, and that all of them are there.
 *
 * Part names are part of the format of streams and files and stay as they are:
 *
 *   "machine"                  what the guest asked for and nobody looked at yet, generation id
 *   "irqchip", "clock"         of KVM
 *   "serial", "rtc", "pci-host"
 *   "0000:00:02.0/pci"         each PCI function, the bridge included: configuration space, MSI-X
 *   "0000:00:02.0/virtio-net/stream"  bytes of what is behind it, for devices that have a stream
 *   "0000:00:02.0/virtio-net"  what is behind it
 *   "cpu"                      each processor; the instance is its number
 *
 * Streams (virtio_device.h) are parts like the others, with a name, a place in the order, and bytes; but
 * whoever saves or loads the machine may let them flow beside it.
 *
 * Main thread. The machine is paused (or crashed) throughout.
 */
#ifndef GODWIT_MACHINE_MACHINE_STATE_H
#define GODWIT_MACHINE_MACHINE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "machine/machine.h"

struct virtio_device;

/*
 * Takes a part that was visited; @state is borrowed. NULL: it is a stream, which the handler has saved
 * if it wants to (machine_state_stream). An error ends the save.
 */
typedef struct error *(*machine_state_section_handler)(void *context, const struct state_part *part,
						       const struct state *state);

/*
 * Visits every part in load order and hands each to @handler. With @describe the states have their
 * fields noted. The machine is as before, whatever this returns.
 */
struct error *machine_state_save(struct machine *machine, bool describe,
				 machine_state_section_handler handler, void *context) MUST_CHECK;

/* The device whose stream @part is; NULL: it is a state. */
struct virtio_device *machine_state_stream(const struct state_part *part);

/* Names the parts that there are, in the order in which they are saved and loaded; any state. */
struct error *machine_state_list(struct machine *machine,
				 struct error *(*handler)(void *context,
							  const struct state_part *part),
				 void *context) MUST_CHECK;

/* A section of a stream; everything borrowed. */
struct machine_state_section {
	const char *name;
	uint32_t instance, version;
	const void *bytes; /* NULL: a stream that was loaded before */
	size_t size;
};

/*
 * Loads @sections, in any order, into a machine that was created with the same configuration and
 * never started. Every part needs exactly one section and every section its part; what is missing,
 * double or unknown is refused by name before anything is loaded. The machine is then paused (or
 * crashed, as it was) and goes on with machine_resume; after an error it can only be destroyed.
 *
 * Guest memory is neither read nor written. Elastic memory is plugged by this, so the content of
 * memory comes after; and before machine_resume.
 */
struct error *machine_state_load(struct machine *machine,
				 const struct machine_state_section *sections,
				 size_t count) MUST_CHECK;

#endif
