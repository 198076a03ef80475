/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine from start to end, and its states.
 *
 * Built in this order, taken down in the opposite one: KVM's VM, address map, memory and slots,
 * platform devices and PCI bus, virtio devices, vCPUs. All of it on the main loop's thread; the
 * guest is never running meanwhile.
 *
 *   PAUSED  -- resume --> RUNNING -- pause --> PAUSED
 *   RUNNING -- crash  --> CRASHED -- reset --> PAUSED
 *   any     -- shutdown -> SHUTDOWN, which is final
 *
 * The vCPUs are paused once in every state but RUNNING, and the devices are quiesced in PAUSED and
 * CRASHED.
 */
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "kvm/cpu_model.h"
#include "machine/acpi.h"
#include "machine/machine_config.h"
#include "machine/machine_hand.h"
#include "machine/machine_incoming.h"
#include "machine/machine_private.h"
#include "machine/machine_restore.h"

void machine_config_clear(struct machine_config *config)
{
	free(config->name);
	free(config->kernel);
	free(config->initrd);
	free(config->cmdline);
	free(config->cpu);
	free(config->serial);
	for (uint32_t i = 0; i < config->memory_count; i++)
		ram_backing_options_clear(&config->memory[i].backing);
	for (uint32_t i = 0; i < config->elastic_count; i++)
		ram_backing_options_clear(&config->elastic[i].backing);
	for (uint32_t i = 0; i < config->device_count; i++)
		free(config->devices[i].text);
	for (uint32_t i = 0; i < config->adopted_count; i++)
		close_fd(&config->adopted[i]);
	json_decref(config->handed);
	memset(config, 0, sizeof(*config));
}

const char *machine_state_name(enum machine_state state)
{
	static const char *const names[] = {
	    [MACHINE_PAUSED] = "paused",
	    [MACHINE_RUNNING] = "running",
	    [MACHINE_CRASHED] = "guest-panicked",
	    [MACHINE_SHUTDOWN] = "shutdown",
	};

	return names[state];
}

void machine_emit(struct machine *machine, const char *event, json_t *data)
{
	if (machine->handler)
		machine->handler(machine->handler_context, event, data);
	json_decref(data);
}

/* --- Construction ----------------------------------------------------------------------------- */

static struct error *make_cpuid(void *context, uint32_t index, struct kvm_cpuid2 **cpuid)
{
	struct machine *machine = context;

	return kvm_cpuid_build(machine->vm, index, &machine->topology, machine->config.cpu, cpuid);
}

static struct error *create_vcpus(struct machine *machine)
{
	struct kvm_vcpus_options options = {
	    .count = machine->config.cpus,
	    .absent = &kvm_slots_absent_ops,
	    .absent_context = machine->slots,
	    .event = machine_kvm_event,
	    .event_context = machine,
	    .cpuid = make_cpuid,
	    .cpuid_context = machine,
	};

	/* A socket a NUMA node, where processors can be dealt like that. */
	machine->topology =
	    kvm_cpu_topology_make(machine->config.cpus, machine_config_nodes(&machine->config));
	TRY(kvm_vcpus_create(machine->vm, &options, &machine->vcpus));
	kvm_slots_set_vcpus(machine->slots, machine->vcpus);
	return NULL;
}

static struct error *open_files(struct machine *machine)
{
	if (!machine->config.kernel)
		return error_usage("no kernel: give one with --kernel");
	if (machine->config.handed)
		return machine_hand_take_files(machine);
	TRY(boot_file_open(machine->config.kernel, "kernel", &machine->kernel));
	if (machine->config.initrd)
		TRY(boot_file_open(machine->config.initrd, "initial RAM disk", &machine->initrd));
	return NULL;
}

/* Guests of a level have addresses as wide as those on other hosts. */
static struct error *limit_addresses(struct machine *machine)
{
	const struct machine_config *config = &machine->config;
	struct cpu_model model;
	uint64_t memory = 0;

	TRY(cpu_model_parse(config->cpu, &model));
	for (uint32_t i = 0; i < config->memory_count; i++)
		if (!checked_add(memory, config->memory[i].size, &memory))
			memory = UINT64_MAX;
	for (uint32_t i = 0; i < config->elastic_count; i++)
		if (!checked_add(memory, config->elastic[i].maximum, &memory))
			memory = UINT64_MAX;
	machine->vm->physical_bits =
	    cpu_model_physical_bits(&model, machine->vm->physical_bits, memory);
	return NULL;
}

static struct error *machine_build(struct machine *machine)
{
	TRY(machine_config_check(&machine->config));
	TRY(open_files(machine));
	TRY(machine_attention_create(machine));
	TRY(machine_generation_create(machine));
	TRY(kvm_vm_create(false, &machine->vm));
	TRY(limit_addresses(machine));
	TRY(layout_plan(&machine->config, machine->vm->physical_bits, &machine->layout));
	TRY(machine_memory_create(machine));
	TRY(machine_platform_create(machine));
	TRY(machine_devices_create(machine));
	TRY(machine_memory_plug_elastic(machine));
	TRY(machine_auto_create(machine));
	return create_vcpus(machine);
}

struct error *machine_create(struct machine_config *config, struct event_loop *loop,
			     machine_event_handler handler, void *context, struct machine **result)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	struct error *error;

	if (!machine) {
		machine_config_clear(config);
		return error_system(ENOMEM, "machine");
	}
	machine->config = *config;
	memset(config, 0, sizeof(*config));
	machine->loop = loop;
	machine->handler = handler;
	machine->handler_context = context;
	machine->state = MACHINE_PAUSED;
	machine->attention_fd = machine->kernel.fd = machine->initrd.fd = -1;
	pthread_mutex_init(&machine->detail_lock, NULL);
	error = machine_build(machine);
	if (error) {
		machine_destroy(machine);
		return error;
	}
	*result = machine;
	return NULL;
}

static void machine_stop_guest(struct machine *machine);

void machine_destroy(struct machine *machine)
{
	if (!machine)
		return;
	machine_incoming_abandon(machine);
	/*
	 * While the guest stands still nothing new reaches the devices; but a device that is about
	 * to unplug memory may still ask for the vCPUs, so these go after the devices' threads.
	 */
	machine_stop_guest(machine);
	machine_incoming_end(machine);
	auto_memory_destroy(TAKE_PTR(machine->auto_memory));
	machine_devices_destroy(machine);
	if (machine->slots)
		kvm_slots_set_vcpus(machine->slots, NULL);
	kvm_vcpus_destroy(TAKE_PTR(machine->vcpus));
	machine_restore_end(machine);
	machine_platform_destroy(machine);
	userfault_destroy(TAKE_PTR(machine->userfault));
	machine_memory_destroy(machine);
	kvm_vm_destroy(TAKE_PTR(machine->vm));
	machine_attention_destroy(machine);
	close_fd(&machine->kernel.fd);
	close_fd(&machine->initrd.fd);
	pthread_mutex_destroy(&machine->detail_lock);
	machine_config_clear(&machine->config);
	free(machine);
}

/* --- States ----------------------------------------------------------------------------------- */

/* Puts the guest at the beginning of its kernel. The vCPUs are paused. */
static struct error *machine_load(struct machine *machine)
{
	struct acpi_options acpi = {.config = &machine->config,
				    .layout = &machine->layout,
				    .generation = machine->generation};
	struct boot_options boot = {
	    .kernel = machine->kernel,
	    .initrd = machine->initrd,
	    .cmdline = machine->config.cmdline ?: "",
	    .layout = &machine->layout,
	    .rsdp = ACPI_RSDP_ADDRESS,
	};
	struct kvm_boot_state state;

	TRY(boot_load(machine->map, &boot, &state));
	TRY(acpi_write(&acpi, machine->map));
	TRY(boot_write_reset_vector(machine->map));
	return kvm_vcpus_reset(machine->vcpus, &state);
}

static void machine_stop_guest(struct machine *machine)
{
	if (machine->state != MACHINE_RUNNING)
		return;
	/* The processors first: then nothing new reaches the devices while they come to rest. */
	auto_memory_pause(machine->auto_memory, true);
	kvm_vcpus_pause(machine->vcpus);
	kvm_vm_stop_clock(machine->vm);
	machine_devices_quiesce(machine);
	machine->state = MACHINE_PAUSED;
}

static void machine_run_guest(struct machine *machine)
{
	machine->state = MACHINE_RUNNING;
	machine_devices_resume(machine);
	kvm_vm_start_clock(machine->vm);
	kvm_vcpus_resume(machine->vcpus);
	auto_memory_pause(machine->auto_memory, false);
}

struct error *machine_start(struct machine *machine)
{
	machine->begun = true;
	TRY(machine_load(machine));
	if (machine->config.paused)
		machine_devices_quiesce(machine);
	else
		machine_run_guest(machine);
	return NULL;
}

void machine_freeze(struct machine *machine)
{
	machine->thaw_runs = machine->state == MACHINE_RUNNING;
	machine_stop_guest(machine);
	machine->frozen = true;
}

void machine_thaw(struct machine *machine)
{
	machine->frozen = false;
	if (machine->state == MACHINE_PAUSED && machine->thaw_runs)
		machine_run_guest(machine);
	/* What the guest had asked for when it was stopped. */
	machine_attract(machine, 0);
}

/* @then: what an operator can do about a save. */
static struct error *frozen_error(const struct machine *machine, const char *then)
{
	if (machine_is_incoming(machine))
		return error_new(EBUSY, "the machine is arriving from another host, which is where "
					"its guest runs, or is held: 'godwit status' shows it");
	if (machine->migrate)
		return error_new(EBUSY, "the machine is being moved to another host: 'godwit "
					"status' shows how far it is");
	return error_new(EBUSY, "the machine is being saved%s%s", *then == ':' ? "" : " ", then);
}

void machine_pause(struct machine *machine)
{
	if (machine->frozen && machine->thaw_runs) {
		machine->thaw_runs = false;
		machine_emit(machine, "STOP", NULL);
	}
	if (machine->state != MACHINE_RUNNING)
		return;
	machine_stop_guest(machine);
	machine_emit(machine, "STOP", NULL);
}

struct error *machine_resume(struct machine *machine)
{
	if (machine->frozen)
		return frozen_error(machine, "and goes on when that ends; cancel the job to go on "
					     "at once");
	switch (machine->state) {
	case MACHINE_RUNNING:
		return NULL;
	case MACHINE_CRASHED:
		return error_new(EPERM, "the guest has crashed and cannot go on; reset it");
	case MACHINE_SHUTDOWN:
		return error_new(EPERM, "the machine is shutting down");
	case MACHINE_PAUSED:
		break;
	}
	machine_run_guest(machine);
	machine_emit(machine, "RESUME", NULL);
	return NULL;
}

void machine_crash(struct machine *machine)
{
	machine_stop_guest(machine);
	machine->state = MACHINE_CRASHED;
	/* What the guest asked for between its crash and the stop is void. */
	machine_attention_forget(machine, ATTENTION_GUEST);
}

struct error *machine_reset_by(struct machine *machine, bool guest, const char *reason)
{
	bool run = machine->state == MACHINE_RUNNING;

	if (machine->state == MACHINE_SHUTDOWN)
		return error_new(EPERM, "the machine is shutting down");
	if (machine->frozen)
		return frozen_error(machine, ": cancel the job, or wait for it");
	TRY(machine_incoming_check(machine));
	machine_stop_guest(machine);
	machine->state = MACHINE_PAUSED;
	machine_devices_reset(machine);
	machine_attention_forget(machine, ATTENTION_GUEST);
	TRY(machine_load(machine));
	machine_emit(machine, "RESET", json_pack("{s:b, s:s}", "guest", guest, "reason", reason));
	if (run)
		machine_run_guest(machine);
	return NULL;
}

struct error *machine_reset(struct machine *machine)
{
	return machine_reset_by(machine, false, "host-qmp-system-reset");
}

void machine_powerdown(struct machine *machine)
{
	kvm_vm_pulse_irq(machine->vm, PLATFORM_POWER_GSI);
	machine_emit(machine, "POWERDOWN", NULL);
}

void machine_shutdown(struct machine *machine, bool guest, const char *reason)
{
	if (machine->state == MACHINE_SHUTDOWN)
		return;
	/* Else who waits for pages would be waited for; machine_destroy ends the process then. */
	if (!machine_incoming_lose(machine))
		machine_stop_guest(machine);
	machine->state = MACHINE_SHUTDOWN;
	machine_emit(machine, "SHUTDOWN",
		     json_pack("{s:b, s:s}", "guest", guest, "reason", reason));
	event_loop_stop(machine->loop);
}

/* --- Looking in ------------------------------------------------------------------------------- */

void machine_leave(struct machine *machine)
{
	machine->state = MACHINE_SHUTDOWN;
	event_loop_stop(machine->loop);
}

enum machine_state machine_state(const struct machine *machine)
{
	return machine->state;
}

int machine_exit_status(const struct machine *machine)
{
	return machine->exit_status;
}

const struct machine_config *machine_configuration(const struct machine *machine)
{
	return &machine->config;
}

struct memory_map *machine_memory_map(struct machine *machine)
{
	return machine->map;
}

struct kvm_slots *machine_slots(struct machine *machine)
{
	return machine->slots;
}

struct kvm_vcpus *machine_vcpus(struct machine *machine)
{
	return machine->vcpus;
}

struct virtio_device *machine_device(struct machine *machine, uint32_t index)
{
	return index < machine->device_count ? machine->devices[index].device : NULL;
}

struct virtio_device *machine_device_of_type(struct machine *machine, const char *type)
{
	for (uint32_t i = 0; i < machine->device_count; i++)
		if (!strcmp(machine->devices[i].device->ops->type, type))
			return machine->devices[i].device;
	return NULL;
}

struct virtio_device *machine_elastic(struct machine *machine, const char *id)
{
	for (uint32_t i = 0; i < machine->config.elastic_count; i++)
		if (!strcmp(machine->config.elastic[i].id, id))
			return machine->elastic[i].device;
	return NULL;
}

struct virtio_device *machine_elastic_at(struct machine *machine, uint32_t index)
{
	return index < machine->config.elastic_count ? machine->elastic[index].device : NULL;
}
