/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a machine's memory is and what the host holds for it, as the control commands report it.
 * Main loop only.
 */
#ifndef GODWIT_CONTROL_MEMORY_REPORT_H
#define GODWIT_CONTROL_MEMORY_REPORT_H

#include <jansson.h>

#include "control/process_memory.h"
#include "machine/machine.h"

/* All of it, in bytes; what asks the host is as old as memory_totals_read allows. */
struct memory_totals {
	uint64_t boot;			      /* always plugged */
	uint64_t requested, plugged, maximum; /* of all elastic devices */
	uint64_t resident;		      /* the host holds for the guest */
	uint64_t shared;	   /* beside that, mapped pages that it holds once for all clones */
	struct process_memory vmm; /* the host holds for us */
};

/*
 * The last measurement of resident memory. It walks page tables, so it is only repeated when that
 * takes less than a twentieth of the time since.
 */
struct memory_measure {
	int64_t taken_ns, cost_ns; /* CLOCK_MONOTONIC */
	uint64_t resident, shared;
	struct process_memory vmm;
};

struct error *memory_totals_read(struct machine *machine, struct memory_measure *measure,
				 struct memory_totals *totals) MUST_CHECK;
/* {"resident", "proportional", "private", "page-tables"} */
json_t *process_memory_describe(const struct process_memory *memory);

/* The elastic device whose region is @region, or NULL: boot memory. */
struct virtio_device *memory_region_device(struct machine *machine,
					   const struct memory_region *region);
/* [{id, kind, address, size, plugged, resident, …}], ascending addresses. Measures; not cached. */
json_t *memory_regions_describe(struct machine *machine);
/* [{id, requested, plugged, maximum, reason, node, block-size, address}] */
json_t *memory_elastic_describe(struct machine *machine);
/* KVM's slots: what is used of what there is, and what the guest did outside. */
json_t *memory_slots_describe(struct machine *machine);
/*
 * [{id, socket, connected, slots, maximum, excess, exact}]: what back-ends hold, for each device whose
 * work one does.
 */
json_t *memory_back_ends_describe(struct machine *machine);

#endif
