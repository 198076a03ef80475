/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands on the machine as a whole: state, processors, devices, statistics. Main loop; a client
 * controls the arguments, whose types the schema has checked.
 */
#include "control/commands.h"

#include <fcntl.h>
#include <string.h>

#include "base/clock.h"
#include "control/control.h"
#include "control/memory_report.h"
#include "control/qmp_server.h"
#include "machine/machine_incoming.h"
#include "machine/machine_migrate.h"

/* As QEMU's RunState. */
static const char *status_of(const struct control *control)
{
	return machine_is_incoming(control->machine)
		   ? "inmigrate"
		   : machine_state_name(machine_state(control->machine));
}

struct error *command_query_status(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	enum machine_state state = machine_state(control->machine);

	*result = json_pack("{s:s,s:b}", "status", status_of(control), "running",
			    state == MACHINE_RUNNING);
	return NULL;
}

struct error *command_query_name(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	*result = json_pack("{s:s}", "name", machine_configuration(control->machine)->name);
	return NULL;
}

/* The number of our thread that is named "vcpu<index>" (vcpu.c), or 0. */
static pid_t vcpu_thread_id(uint32_t index)
{
	AUTO_CLOSEDIR DIR *tasks = opendir("/proc/self/task");
	struct dirent *item;
	char wanted[24];

	snprintf(wanted, sizeof(wanted), "vcpu%u\n", index);
	while (tasks && (item = readdir(tasks)) != NULL) {
		char path[64], name[24] = "";
		AUTO_CLOSE int fd = -1;

		snprintf(path, sizeof(path), "%.16s/comm", item->d_name);
		fd = openat(dirfd(tasks), path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, name, sizeof(name) - 1) > 0 && strcmp(name, wanted) == 0)
			return (pid_t)strtol(item->d_name, NULL, 10);
	}
	return 0;
}

struct error *command_query_cpus_fast(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	uint32_t count = kvm_vcpus_count(machine_vcpus(control->machine));

	*result = json_array();
	for (uint32_t i = 0; i < count; i++) {
		char path[48];

		snprintf(path, sizeof(path), "/machine/unattached/device[%u]", i);
		json_array_append_new(*result, json_pack("{s:i,s:s,s:i,s:s,s:{s:i}}", "cpu-index",
							 (int)i, "qom-path", path, "thread-id",
							 (int)vcpu_thread_id(i), "target", "x86_64",
							 "props", "core-id", (int)i));
	}
	return NULL;
}

struct error *command_stop(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	TRY(machine_incoming_check(control->machine));
	machine_pause(control->machine);
	return NULL;
}

struct error *command_cont(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	return machine_resume(control->machine);
}

struct error *command_system_reset(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	return machine_reset(control->machine);
}

struct error *command_system_powerdown(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	machine_powerdown(control->machine);
	return NULL;
}

/* The answer and the SHUTDOWN event leave when the server closes. */
struct error *command_quit(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;

	TRY(machine_migrate_check_end(control->machine));
	machine_shutdown(control->machine, false, "host-qmp-quit");
	return NULL;
}

struct error *command_godwit_devices(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct virtio_device *device;

	*result = json_array();
	for (uint32_t i = 0; (device = machine_device(control->machine, i)) != NULL; i++)
		json_array_append_new(*result, virtio_device_describe(device));
	return NULL;
}

static json_t *describe_cpus(struct machine *machine)
{
	struct kvm_vcpus *vcpus = machine_vcpus(machine);
	json_t *list = json_array();

	for (uint32_t i = 0; i < kvm_vcpus_count(vcpus); i++) {
		struct kvm_vcpu_statistics statistics;

		kvm_vcpus_statistics(vcpus, i, &statistics);
		json_array_append_new(list,
				      json_pack("{s:i,s:I,s:I,s:I,s:I,s:I}", "index", (int)i,
						"cpu-ns", (json_int_t)statistics.cpu_ns, "exits",
						(json_int_t)statistics.exits, "pio-exits",
						(json_int_t)statistics.pio_exits, "mmio-exits",
						(json_int_t)statistics.mmio_exits, "other-exits",
						(json_int_t)statistics.other_exits));
	}
	return list;
}

/* Everything that a live view shows, in one answer, so that its numbers belong together. */
struct error *command_godwit_statistics(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	struct memory_totals totals;
	json_t *memory, *guest;

	TRY(memory_totals_read(control->machine, &control->measure, &totals));
	resizer_update(control->resizer);
	memory = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "boot", (json_int_t)totals.boot,
			   "requested", (json_int_t)totals.requested, "plugged",
			   (json_int_t)totals.plugged, "maximum", (json_int_t)totals.maximum,
			   "resident", (json_int_t)totals.resident, "shared",
			   (json_int_t)totals.shared, "vmm", process_memory_describe(&totals.vmm));
	*result = json_pack(
	    "{s:s,s:s,s:i,s:I,s:I,s:i,s:o,s:o,s:o,s:o}", "name",
	    machine_configuration(control->machine)->name, "status", status_of(control), "pid",
	    (int)getpid(), "time-ns", (json_int_t)clock_monotonic_ns(), "process-cpu-ns",
	    (json_int_t)clock_ns(CLOCK_PROCESS_CPUTIME_ID), "clients",
	    (int)qmp_server_clients(control->server), "cpus", describe_cpus(control->machine),
	    "memory", memory, "elastic", memory_elastic_describe(control->machine), "jobs",
	    jobs_describe(control->jobs));
	guest = balloon_statistics_describe(control->machine);
	if (guest)
		json_object_set_new(*result, "guest", guest);
	return NULL;
}
