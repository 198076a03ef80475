/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whether a migration can begin, machine_migrate.h: what is under way, and options that mean nothing
 * together. Main thread; whoever asks for a migration controls the options.
 */
#include <errno.h>

#include "machine/machine_incoming.h"
#include "machine/machine_migrate_private.h"

/* What concerns memory that is sent means nothing where none is. */
static struct error *check_shared(const struct machine *machine,
				  const struct machine_migrate_options *options)
{
	const char *useless = options->zstd				 ? "compress"
			      : options->bandwidth			 ? "bandwidth"
			      : options->auto_converge			 ? "auto-converge"
			      : options->tls				 ? "tls"
			      : options->mode != MACHINE_MIGRATE_PRECOPY ? "mode"
									 : NULL;
	int fds[MACHINE_BLOCKS_MAX];
	uint32_t count;

	if (useless)
		return error_usage("%s: no memory is sent with share-memory, and nothing leaves "
				   "this host: leave it out",
				   useless);
	return machine_memory_share(machine, fds, &count);
}

struct error *machine_migrate_check(const struct machine *machine,
				    const struct machine_migrate_options *options)
{
	if (machine->state == MACHINE_SHUTDOWN)
		return error_new(EPERM, "the machine is shutting down");
	if (machine_is_incoming(machine))
		return error_new(EBUSY, "the machine is arriving from another host still");
	if (machine->migrate)
		return error_new(EBUSY, "a migration is under way already: wait for it or cancel "
					"its job");
	if (machine->saving)
		return error_new(EBUSY, "a save is under way: wait for it or cancel its job");
	/* Memory that is handed over is not read. */
	TRY(machine_check_movable(machine, options->update	   ? VIRTIO_MOVE_HANDED
					   : options->share_memory ? VIRTIO_MOVE_STOPPED
								   : VIRTIO_MOVE_LOGGED));
	if (options->share_memory)
		TRY(check_shared(machine, options));
	if (options->channels < 1 || options->channels > WIRE_CHANNELS_MAX)
		return error_usage("channels: %u is not 1 to %d", options->channels,
				   WIRE_CHANNELS_MAX);
	if (!options->downtime_ms || options->downtime_ms > MACHINE_MIGRATE_DOWNTIME_MAX)
		return error_usage("max-downtime: %u is not 1 to %d milliseconds",
				   options->downtime_ms, MACHINE_MIGRATE_DOWNTIME_MAX);
	if (options->mode == MACHINE_MIGRATE_POSTCOPY && options->auto_converge)
		return error_usage("auto-converge: in the mode 'postcopy' the guest moves at once: "
				   "leave it out");
	if (options->mode == MACHINE_MIGRATE_HYBRID &&
	    (!options->stalled_rounds || options->stalled_rounds > MACHINE_MIGRATE_STALLED_MAX))
		return error_usage("stalled-rounds: %u is not 1 to %d", options->stalled_rounds,
				   MACHINE_MIGRATE_STALLED_MAX);
	return NULL;
}
