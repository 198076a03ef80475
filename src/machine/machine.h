/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A whole virtual machine: from a configuration to running guest, and what an operator does with
 * it.
 *
 * Threads: everything here belongs to the machine's main loop (the control server runs there too),
 * except what says otherwise. Devices and vCPUs have threads of their own and post back to the main
 * loop.
 */
#ifndef GODWIT_MACHINE_MACHINE_H
#define GODWIT_MACHINE_MACHINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "kvm/slots.h"
#include "kvm/vcpu.h"
#include "memory/memory_map.h"
#include "memory/ram_block.h"
#include "virtio/mem.h"
#include "virtio/virtio_device.h"

#define MACHINE_CPUS_MAX    64
#define MACHINE_NODES_MAX   8
#define MACHINE_ELASTIC_MAX 64
#define MACHINE_DEVICES_MAX 240

/* One --memory: boot memory of one NUMA node. */
struct machine_memory {
	uint64_t size; /* bytes */
	uint32_t node;
	struct ram_backing_options backing;
};

/* One --elastic. */
struct machine_elastic {
	char id[32];
	uint64_t maximum, size,
	    block; /* bytes; block 0: 2 MiB or the page size, whichever is larger */
	uint32_t node;
	struct ram_backing_options backing;
	bool automatic; /* auto=MIN..MAX */
	uint64_t auto_minimum, auto_maximum;
};

/* One --disk, --net, --vsock, …: the text is parsed by the device's own constructor
 * (device_table.c). */
struct machine_device_config {
	const char *kind; /* a static string: "disk", "net", "rng", "console", "balloon", "vsock",
			     "fs", "vhost-user" */
	char *text;	  /* owned */
};

enum machine_on_crash { ON_CRASH_PAUSE, ON_CRASH_RESET, ON_CRASH_EXIT };

/* What `godwit run` was told; owned by the machine once it is created. */
struct machine_config {
	char *name;
	char *kernel, *initrd, *cmdline; /* initrd and cmdline may be NULL */
	uint32_t cpus;
	char *cpu; /* which processor (cpu_model.h); NULL: the host's */
	struct machine_memory memory[MACHINE_NODES_MAX];
	uint32_t memory_count;
	struct machine_elastic elastic[MACHINE_ELASTIC_MAX];
	uint32_t elastic_count;
	uint8_t distance[MACHINE_NODES_MAX][MACHINE_NODES_MAX]; /* SLIT; 0: default 10 or 20 */
	struct machine_device_config devices[MACHINE_DEVICES_MAX];
	uint32_t device_count;
	char *serial; /* a character-device description (chardev.h): "null", "tty", "file:P",
			 "unix:P" */
	enum machine_on_crash on_crash;
	bool no_reboot;	      /* a guest's reset ends the machine */
	bool paused;	      /* do not start the guest */
	bool lazy;	      /* memory will be brought while the guest runs (machine_restore.h) */
	bool incoming;	      /* the guest comes from another process (machine_incoming.h) */
	uint32_t slots_limit; /* KVM slots to use at most; 0: what KVM allows */
	/*
	 * Descriptors of memory that another process has and hands over, of all --memory and then of all
	 * --elastic; none: the machine makes its own. Taken over one by one (-1).
	 */
	int adopted[MACHINE_NODES_MAX + MACHINE_ELASTIC_MAX];
	uint32_t adopted_count;
	/* What that process hands over beside it (machine_hand.h), or NULL. Owned. */
	json_t *handed;
};
void machine_config_clear(struct machine_config *config);

enum machine_state { MACHINE_PAUSED, MACHINE_RUNNING, MACHINE_CRASHED, MACHINE_SHUTDOWN };
const char *machine_state_name(
    enum machine_state state); /* QMP RunState: "paused", "running", "guest-panicked", "shutdown" */

struct machine;

/* What the machine tells its owner (the control server), on the main loop. @data is borrowed, may
 * be NULL. */
typedef void (*machine_event_handler)(void *context, const char *event, json_t *data);

/*
 * Builds everything; the guest does not run yet. Takes over *config (also on error). The devices,
 * the order of construction and the address map are in machine.c. Events have QMP's names: STOP,
 * RESUME, RESET, SHUTDOWN, POWERDOWN, GUEST_PANICKED, GUEST_CRASHLOADED,
 * MEMORY_DEVICE_SIZE_CHANGE, MEMORY_UNPLUGGED_ACCESS, ELASTIC_AUTO_DECISION; docs/control.md says
 * what each carries.
 */
struct error *machine_create(struct machine_config *config, struct event_loop *loop,
			     machine_event_handler handler, void *context,
			     struct machine **machine) MUST_CHECK;
void machine_destroy(struct machine *machine);

/* Loads the kernel, sets the registers, and starts the guest unless it is to be paused. */
struct error *machine_start(struct machine *machine) MUST_CHECK;
/* stop and cont: vCPUs parked, devices quiesced. Idempotent. */
void machine_pause(struct machine *machine);
struct error *machine_resume(struct machine *machine) MUST_CHECK;
/* System reset: devices reset, elastic memory unplugged, kernel loaded again. */
struct error *machine_reset(struct machine *machine) MUST_CHECK;
/* Presses the power button; the guest decides. */
void machine_powerdown(struct machine *machine);
/* Ends the machine: event SHUTDOWN, then the main loop is stopped. @reason as QMP's ShutdownCause.
 */
void machine_shutdown(struct machine *machine, bool guest, const char *reason);

/* The same for a machine that stands still and goes on in another process: without an event. */
void machine_leave(struct machine *machine);

/*
 * Gives the guest a new generation id and tells it: it is not the only one that goes on from where
 * it stands, and is to make new keys and random numbers. A guest without a driver does not notice.
 * After a restore; the memory must be there, the guest need not run.
 */
struct error *machine_new_generation(struct machine *machine) MUST_CHECK;

enum machine_state machine_state(const struct machine *machine);
/* 0 unless the guest crashed (or failed to start) and the machine exits because of it. */
int machine_exit_status(const struct machine *machine);
const struct machine_config *machine_configuration(const struct machine *machine);
struct memory_map *machine_memory_map(struct machine *machine);
struct kvm_slots *machine_slots(struct machine *machine);
struct kvm_vcpus *machine_vcpus(struct machine *machine);

/* Bytes of unplugged memory that other processes had filled, and that were given back. */
uint64_t machine_reclaimed(const struct machine *machine);

/* Every virtio device of the machine, in order of PCI address; NULL past the end. */
struct virtio_device *machine_device(struct machine *machine, uint32_t index);
/* The first device of @type ("virtio-balloon"), or NULL. */
struct virtio_device *machine_device_of_type(struct machine *machine, const char *type);
/* The elastic device (virtio-mem) named @id; NULL if there is none. machine_elastic_at: the
 * index-th, NULL past the end. */
struct virtio_device *machine_elastic(struct machine *machine, const char *id);
struct virtio_device *machine_elastic_at(struct machine *machine, uint32_t index);

#endif
