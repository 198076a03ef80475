/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine of fake_machine.h. One thread, no guest. */
#include "fake_machine.h"

#include <string.h>

#include "base/checked.h"
#include "machine/machine_hand.h"
#include "machine/machine_incoming.h"
#include "machine/machine_migrate.h"
#include "machine/machine_restore.h"
#include "machine/machine_save.h"

struct fake_machine *fake(struct machine *machine)
{
	return (struct fake_machine *)machine;
}

static const struct fake_machine *fake_const(const struct machine *machine)
{
	return (const struct fake_machine *)machine;
}

static void must(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "fake machine: %s\n", error_message(error));
	abort();
}

static void add_elastic(struct fake_machine *machine, const char *id, uint64_t address,
			bool automatic)
{
	struct fake_elastic *elastic = &machine->elastic[machine->elastic_count];
	struct machine_elastic *config = &machine->config.elastic[machine->elastic_count];

	snprintf(elastic->device.id, sizeof(elastic->device.id), "%s", id);
	snprintf(config->id, sizeof(config->id), "%s", id);
	config->automatic = automatic;
	elastic->status = (struct virtio_mem_status){
	    .maximum = GIB(1), .block_size = MIB(2), .address = address, .node = 0};
	machine->elastic_count++;
	machine->config.elastic_count++;
}

struct machine *fake_machine_create(struct event_loop *loop, machine_event_handler handler,
				    void *context)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct fake_machine *machine = calloc(1, sizeof(*machine));
	struct memory_region *region;

	machine->loop = loop;
	machine->handler = handler;
	machine->context = context;
	machine->state = MACHINE_RUNNING;
	machine->config.name = strdup("fake");
	machine->config.cpus = 2;
	machine->config.memory[0].size = MIB(16);
	machine->config.memory_count = 1;
	must(memory_map_create(&machine->map));
	must(ram_block_create("memory0", &backing, MIB(16), &machine->boot));
	must(memory_map_add(machine->map, 0, MIB(16), machine->boot, 0, 0, &region));
	add_elastic(machine, "hot0", GIB(4), false);
	add_elastic(machine, "hot1", GIB(6), true);
	return (struct machine *)machine;
}

void fake_machine_destroy(struct machine *machine)
{
	memory_map_destroy(fake(machine)->map);
	ram_block_destroy(fake(machine)->boot);
	free(fake(machine)->config.name);
	free(machine);
}

void fake_event(struct machine *machine, const char *event, json_t *data)
{
	fake(machine)->handler(fake(machine)->context, event, data);
	json_decref(data);
}

void fake_guest_plugs(struct machine *machine, uint32_t index, uint64_t size)
{
	struct fake_elastic *elastic = &fake(machine)->elastic[index];
	char path[64];

	elastic->status.plugged = size;
	elastic->status.reason =
	    size == elastic->status.requested ? VIRTIO_MEM_READY : VIRTIO_MEM_PENDING;
	snprintf(path, sizeof(path), "/machine/peripheral/%s", elastic->device.id);
	fake_event(machine, "MEMORY_DEVICE_SIZE_CHANGE",
		   json_pack("{s:s,s:I,s:s}", "id", elastic->device.id, "size", (json_int_t)size,
			     "qom-path", path));
}

/* ---- machine.h ---- */

void machine_pause(struct machine *machine)
{
	fake(machine)->state = MACHINE_PAUSED;
	fake_event(machine, "STOP", NULL);
}

struct error *machine_resume(struct machine *machine)
{
	fake(machine)->state = MACHINE_RUNNING;
	fake_event(machine, "RESUME", NULL);
	return NULL;
}

struct error *machine_reset(struct machine *machine)
{
	if (fake(machine)->refuse_reset)
		return error_new(EIO, "the kernel file is gone");
	fake(machine)->resets++;
	return NULL;
}

void machine_powerdown(struct machine *machine)
{
	fake(machine)->powerdowns++;
}

void machine_shutdown(struct machine *machine, bool guest, const char *reason)
{
	fake(machine)->shutdowns++;
	fake_event(machine, "SHUTDOWN", json_pack("{s:b,s:s}", "guest", guest, "reason", reason));
	event_loop_stop(fake(machine)->loop);
}

const char *machine_state_name(enum machine_state state)
{
	static const char *const names[] = {"paused", "running", "guest-panicked", "shutdown"};

	return names[state];
}

enum machine_state machine_state(const struct machine *machine)
{
	return fake_const(machine)->state;
}

const struct machine_config *machine_configuration(const struct machine *machine)
{
	return &fake_const(machine)->config;
}

struct memory_map *machine_memory_map(struct machine *machine)
{
	return fake(machine)->map;
}

struct kvm_slots *machine_slots(struct machine *machine)
{
	return NULL;
}

struct kvm_vcpus *machine_vcpus(struct machine *machine)
{
	return NULL;
}

uint64_t machine_reclaimed(const struct machine *machine)
{
	return 0;
}

struct virtio_device *machine_device(struct machine *machine, uint32_t index)
{
	return NULL;
}

struct virtio_device *machine_device_of_type(struct machine *machine, const char *type)
{
	return NULL;
}

struct virtio_device *machine_elastic(struct machine *machine, const char *id)
{
	for (uint32_t i = 0; i < fake(machine)->elastic_count; i++)
		if (strcmp(fake(machine)->elastic[i].device.id, id) == 0)
			return &fake(machine)->elastic[i].device;
	return NULL;
}

struct virtio_device *machine_elastic_at(struct machine *machine, uint32_t index)
{
	return index < fake(machine)->elastic_count ? &fake(machine)->elastic[index].device : NULL;
}

/* ---- virtio/mem.h ---- */

const char *virtio_mem_reason_name(enum virtio_mem_reason reason)
{
	static const char *const names[] = {
	    "ready", "pending", "busy", "guest-out-of-memory", "no-driver", "guest-refuses"};

	return names[reason];
}

struct error *virtio_mem_request(struct virtio_device *device, uint64_t size)
{
	struct fake_elastic *elastic = CONTAINER_OF(device, struct fake_elastic, device);

	if (size > elastic->status.maximum || !is_aligned(size, elastic->status.block_size))
		return error_usage("the size does not fit '%s'", device->id);
	elastic->status.requested = size;
	elastic->status.reason =
	    size == elastic->status.plugged ? VIRTIO_MEM_READY : VIRTIO_MEM_PENDING;
	return NULL;
}

void virtio_mem_status(struct virtio_device *device, struct virtio_mem_status *status)
{
	const struct virtio_mem_status *known =
	    &CONTAINER_OF(device, struct fake_elastic, device)->status;

	*status = (struct virtio_mem_status){
	    .requested = known->requested,
	    .plugged = __atomic_load_n(&known->plugged, __ATOMIC_SEQ_CST),
	    .maximum = known->maximum,
	    .block_size = known->block_size,
	    .address = known->address,
	    .node = known->node,
	    .reason = known->reason,
	};
}

/* ---- kvm ---- */

void kvm_slots_statistics(struct kvm_slots *slots, struct kvm_slots_statistics *statistics)
{
	*statistics = (struct kvm_slots_statistics){.slots_max = 509, .slots_plugged = 3};
}

void kvm_slots_region_attempts(struct kvm_slots *slots, const struct memory_region *region,
			       uint64_t *reads, uint64_t *writes)
{
	*reads = *writes = 0;
}

uint32_t kvm_vcpus_count(const struct kvm_vcpus *vcpus)
{
	return 2;
}

void kvm_vcpus_statistics(const struct kvm_vcpus *vcpus, uint32_t index,
			  struct kvm_vcpu_statistics *statistics)
{
	*statistics = (struct kvm_vcpu_statistics){.exits = 10 + index};
}

/* ---- snapshots ---- */

struct error *machine_save_start(struct machine *machine,
				 const struct machine_save_options *options,
				 void (*done)(void *context, struct error *error), void *context,
				 struct machine_save **save)
{
	return error_new(ENOTSUP, "this machine cannot be saved");
}

void machine_save_cancel(struct machine_save *save)
{
}

void machine_save_progress(struct machine_save *save, struct machine_save_progress *progress)
{
	*progress = (struct machine_save_progress){};
}

void machine_save_destroy(struct machine_save *save)
{
}

bool machine_restore_report(const struct machine *machine, struct machine_restore_report *report)
{
	return false;
}

/* ---- machine_migrate.h, machine_incoming.h: it stays where it is ---- */

struct error *machine_migrate_start(struct machine *machine,
				    const struct machine_migrate_options *options,
				    void (*done)(void *context, struct error *error),
				    void (*changed)(void *context), void *context,
				    struct machine_migrate **migrate)
{
	return error_new(ENOTSUP, "a fake machine does not move");
}

struct error *machine_migrate_check(const struct machine *machine,
				    const struct machine_migrate_options *options)
{
	return error_new(ENOTSUP, "it stays");
}

struct error *machine_hand_share(struct machine *machine, json_t *handed)
{
	return error_new(ENOTSUP, "it stays");
}

void machine_hand_end(struct machine *machine)
{
}

struct error *machine_migrate_cancel(struct machine_migrate *migrate)
{
	return NULL;
}

struct error *machine_migrate_settle(struct machine_migrate *migrate, bool resume_here)
{
	return NULL;
}

struct error *machine_migrate_start_postcopy(struct machine_migrate *migrate)
{
	return NULL;
}

struct error *machine_migrate_recover(struct machine_migrate *migrate, const char *address)
{
	return NULL;
}

struct error *machine_migrate_check_end(const struct machine *machine)
{
	return NULL;
}

void machine_migrate_limit(struct machine_migrate *migrate, uint64_t bandwidth,
			   uint32_t downtime_ms)
{
}

void machine_migrate_get_progress(struct machine_migrate *migrate,
				  struct machine_migrate_progress *progress)
{
}

void machine_migrate_destroy(struct machine_migrate *migrate)
{
}

bool machine_is_incoming(const struct machine *machine)
{
	return false;
}

struct error *machine_incoming_settle(struct machine *machine, bool resume_here)
{
	return NULL;
}

struct error *machine_incoming_recover(struct machine *machine, const char *address)
{
	return NULL;
}

struct error *machine_incoming_check(const struct machine *machine)
{
	return NULL;
}

bool machine_incoming_get_report(struct machine *machine, struct machine_incoming_report *report)
{
	return false;
}
