/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Looks once a second whether processes that share the guest's memory have filled what is unplugged, and
 * gives that back: what a back-end holds coarsely, or does against the rules, costs the host memory for
 * that long and no longer. Only in machines that share memory. Main loop.
 */
#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "machine/machine_private.h"

#define PERIOD_NS NS_PER_SECOND
#define RETRY_NS  (20 * NS_PER_MS)
#define SHARE	  50 /* of the time at most 1/50 is spent on it */

struct machine_reclaim {
	struct machine *machine;
	struct event_timer *timer;
	uint64_t found; /* bytes, so far */
	struct rate_limit reports;
};

static void report(struct machine_reclaim *reclaim, uint64_t found)
{
	char text[SIZE_TEXT_MAX];

	reclaim->found += found;
	if (rate_limit_pass(&reclaim->reports))
		log_warning("another process has filled %s of unplugged memory; it is given back",
			    size_format(found, text));
}

static void look(void *context)
{
	struct machine_reclaim *reclaim = context;
	int64_t start = clock_monotonic_ns();
	uint64_t found = 0;

	if (!memory_map_reclaim(reclaim->machine->map, &found)) {
		event_timer_arm(reclaim->timer, RETRY_NS);
		return;
	}
	if (found)
		report(reclaim, found);
	event_timer_arm(reclaim->timer, MAX(PERIOD_NS, (clock_monotonic_ns() - start) * SHARE));
}

struct error *machine_reclaim_create(struct machine *machine)
{
	struct machine_reclaim *reclaim;
	struct error *error;

	if (!memory_map_handed_out(machine->map))
		return NULL;
	reclaim = calloc(1, sizeof(*reclaim));
	if (!reclaim)
		return error_system(ENOMEM, "the watch over shared memory");
	reclaim->machine = machine;
	error = event_timer_create(machine->loop, look, reclaim, &reclaim->timer);
	if (error) {
		free(reclaim);
		return error;
	}
	machine->reclaim = reclaim;
	event_timer_arm(reclaim->timer, PERIOD_NS);
	return NULL;
}

void machine_reclaim_destroy(struct machine *machine)
{
	struct machine_reclaim *reclaim = TAKE_PTR(machine->reclaim);

	if (!reclaim)
		return;
	event_timer_destroy(reclaim->timer);
	free(reclaim);
}

uint64_t machine_reclaimed(const struct machine *machine)
{
	return machine->reclaim ? machine->reclaim->found : 0;
}
