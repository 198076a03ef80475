/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of a machine, for the files machine*.c and device_table.c only.
 *
 * Everything belongs to the main loop's thread except `attention` and what it guards, by which
 * vCPUs and devices tell the main loop that there is something to do.
 */
#ifndef GODWIT_MACHINE_MACHINE_PRIVATE_H
#define GODWIT_MACHINE_MACHINE_PRIVATE_H

#include <pthread.h>

#include "kvm/cpuid.h"
#include "machine/auto_memory.h"
#include "machine/boot.h"
#include "machine/layout.h"
#include "machine/machine.h"
#include "machine/pci_host.h"
#include "machine/power.h"
#include "machine/rtc.h"
#include "memory/userfault.h"

struct chardev;
struct serial;

#define MACHINE_CONFIG_SECTION "godwit/config"
#define MACHINE_FAULT_THREADS  2 /* that bring missing pages and copy protected ones */

/* What other threads ask of the main loop; a bit each. */
enum machine_attention {
	ATTENTION_PANICKED = 1 << 0,
	ATTENTION_CRASH_LOADED = 1 << 1,
	ATTENTION_INTERNAL_ERROR = 1 << 2,
	ATTENTION_OFF = 1 << 3,
	ATTENTION_RESET = 1 << 4,
	ATTENTION_ELASTIC = 1 << 5, /* look at machine_elastic_state.changed and attempted */
	ATTENTION_SERIAL = 1 << 6,  /* the serial port has room for input again */
	ATTENTION_LEAVE = 1 << 7,   /* a person at a terminal typed Ctrl-A x */
};

/* What a guest that is stopped or started again no longer means. */
#define ATTENTION_GUEST                                                                            \
	(ATTENTION_PANICKED | ATTENTION_CRASH_LOADED | ATTENTION_INTERNAL_ERROR | ATTENTION_OFF |  \
	 ATTENTION_RESET)

/* A virtio device and its place on the bus. */
struct machine_device {
	struct virtio_device *device;
	struct pci_function *function;
};

struct machine_elastic_state {
	struct machine *machine;
	struct ram_block *block;
	struct memory_region *region;
	struct virtio_device *device; /* also in machine.devices, which owns it */
	uint64_t reported_size;	      /* in the last MEMORY_DEVICE_SIZE_CHANGE */
	bool changed;		      /* atomic: plugged or its reason changed */
	bool attempted;		      /* atomic: the guest touched unplugged memory */
	uint64_t attempted_address;   /* atomic: where, last */
};

struct machine {
	struct machine_config config;
	struct event_loop *loop;
	machine_event_handler handler;
	void *handler_context;

	enum machine_state state;
	bool begun;		/* started, or loaded: the guest has a past */
	bool frozen, thaw_runs; /* stopped for a save; whether it ran before */
	bool saving;
	int exit_status;

	int attention_fd; /* eventfd */
	struct event_source *attention_source;
	uint32_t attention; /* enum machine_attention bits; atomic */
	pthread_mutex_t detail_lock;
	char detail[96]; /* of the last internal error */

	struct boot_file kernel, initrd;
	struct layout layout;
	struct kvm_cpu_topology topology;

	struct kvm_vm *vm;
	struct memory_map *map;
	struct kvm_slots *slots;
	struct kvm_vcpus *vcpus;
	struct ram_block *memory[MACHINE_NODES_MAX]; /* one for each --memory */
	struct machine_elastic_state *elastic;	     /* config.elastic_count of them */

	struct pci_host *pci;
	struct serial *serial;
	struct chardev *serial_chardev;
	struct rtc *rtc;
	struct power *power;
	struct machine_device *devices;
	uint32_t device_count;
	uint8_t generation[PLATFORM_GENERATION_SIZE]; /* the id that the guest sees */
	struct auto_memory *auto_memory;	      /* NULL: no elastic device is automatic */
	struct machine_reclaim *reclaim;	      /* NULL: no other process has the memory */
	struct userfault *userfault;		      /* once it is needed */
	struct lazy_restore *restore;	   /* NULL: not restored lazily, or all is there */
	bool restoring;			   /* atomic: memory is still being brought */
	struct machine_migrate *migrate;   /* NULL: it is not being moved away */
	struct machine_incoming *incoming; /* NULL: it has not come from elsewhere */
};

/* machine_memory.c */

/* Creates RAM blocks and regions as the layout says, and the slots behind them. */
struct error *machine_memory_create(struct machine *machine) MUST_CHECK;
/* Creates the elastic (virtio-mem) devices and plugs them in. */
struct error *machine_memory_plug_elastic(struct machine *machine) MUST_CHECK;
/*
 * The descriptors of all blocks, as machine_config.adopted has them, for another process; they stay the
 * machine's. An error names a block that cannot be handed over.
 */
#define MACHINE_BLOCKS_MAX (MACHINE_NODES_MAX + MACHINE_ELASTIC_MAX)
struct error *machine_memory_share(const struct machine *machine, int fds[MACHINE_BLOCKS_MAX],
				   uint32_t *count) MUST_CHECK;
/* The process that had the memory does not go on with it. */
void machine_memory_own(const struct machine *machine);
/* Once the devices are gone. */
void machine_memory_destroy(struct machine *machine);
/* Sends the events for what happened to elastic devices. */
void machine_memory_report(struct machine *machine);

/* machine_devices.c */

/* Serial port, clock, power ports, PCI bus. */
struct error *machine_platform_create(struct machine *machine) MUST_CHECK;
void machine_platform_destroy(struct machine *machine);
/* Takes over @device, gives it its transport, its place on the bus and its thread. */
struct error *machine_plug(struct machine *machine, struct virtio_device *device) MUST_CHECK;
/* The devices that the configuration names, and those that are always there. */
struct error *machine_devices_create(struct machine *machine) MUST_CHECK;
void machine_devices_destroy(struct machine *machine);
/* Only while the vCPUs are paused. */
void machine_devices_reset(struct machine *machine);
void machine_devices_quiesce(struct machine *machine);
void machine_devices_resume(struct machine *machine);
/*
 * Lets devices rest whose writes to memory are another process's, so that nobody here could see them, until they
 * are held no longer; beside all else that lets devices rest. Any thread.
 */
void machine_devices_hold(struct machine *machine, bool hold);
/* Refuses to take along a machine with a device that cannot be. */
struct error *machine_check_movable(const struct machine *machine, enum virtio_move how) MUST_CHECK;
/* Tells the devices that memory comes while the guest runs, or (NULL) that all of it is there. Any thread. */
void machine_memory_comes(const struct machine *machine, struct userfault *userfault);
/* Refuses a state to come into a machine with a device that is not there yet. */
struct error *machine_check_present(const struct machine *machine) MUST_CHECK;
/*
 * Takes what only one process may hold, the locks of disks; on an error none of it is held. Any thread
 * that knows that the machine stands still.
 */
struct error *machine_take_over(struct machine *machine) MUST_CHECK;

/* machine_hand.c */

/* The serial port's character device, as virtio_device_release and _take_over. Main loop. */
void machine_hand_release_serial(struct machine *machine);
void machine_hand_take_serial(struct machine *machine);
/* Kernel and initial RAM disk of the process that hands them over. */
struct error *machine_hand_take_files(struct machine *machine) MUST_CHECK;
/*
 * What was handed over of @device, one of the configuration's; NULL: nothing is, or it has
 * nothing.
 */
json_t *machine_hand_device(const struct machine *machine,
			    const struct machine_device_config *device);

/* machine_reclaim.c */

/* Watches over memory that other processes share, if any do; after the devices are there. */
struct error *machine_reclaim_create(struct machine *machine) MUST_CHECK;
void machine_reclaim_destroy(struct machine *machine);

/* machine_serial.c */

/* The serial port, connected to the character device of the configuration. */
struct error *machine_serial_create(struct machine *machine) MUST_CHECK;
void machine_serial_destroy(struct machine *machine);
/* The guest has room for input again. */
void machine_serial_receive(struct machine *machine);
/* Visits the serial port (the context is the machine). */
void machine_serial_state(void *machine, struct state *state);

/* machine_attention.c */

struct error *machine_attention_create(struct machine *machine) MUST_CHECK;
void machine_attention_destroy(struct machine *machine);
/* Asks the main loop to look. Any thread; cannot fail. */
void machine_attract(struct machine *machine, enum machine_attention what);
/* Forgets what was asked but not looked at; when a reset or crash made it void. */
void machine_attention_forget(struct machine *machine, uint32_t what);
/* For the vCPUs and the power ports. */
void machine_kvm_event(void *context, enum kvm_event event, const char *detail);
void machine_power_request(void *context, enum power_request what);

/* device_table.c */

/* Makes the device that one --disk, --net, … asks for; @index numbers the devices of its kind. */
struct error *device_table_create(struct machine *machine,
				  const struct machine_device_config *config, uint32_t index,
				  struct virtio_device **device) MUST_CHECK;

/* machine.c */

/* Sends an event; takes over @data, which may be NULL. */
void machine_emit(struct machine *machine, const char *event, json_t *data);
/* machine_reset with its cause, for the event. */
struct error *machine_reset_by(struct machine *machine, bool guest, const char *reason) MUST_CHECK;
/*
 * Stops the guest until machine_thaw, for a save; what the guest or the operator asks meanwhile
 * waits or is refused. machine_thaw lets it go on if it ran and nobody has paused it since.
 */
void machine_freeze(struct machine *machine);
void machine_thaw(struct machine *machine);
/* Stops the guest for good, until a reset: MACHINE_CRASHED. */
void machine_crash(struct machine *machine);

/* machine_restore.c */

/* Whether a lazy restore still brings memory. Any thread. */
static inline bool machine_is_restoring(const struct machine *machine)
{
	return __atomic_load_n(&machine->restoring, __ATOMIC_ACQUIRE);
}

/* machine_generation.c */

/* A random id; from then on the guest finds it where ACPI says, once it is in its memory. */
struct error *machine_generation_create(struct machine *machine) MUST_CHECK;

/* machine_auto.c */

/* Makes automatic elastic devices follow the guest, if there are any; paused. */
struct error *machine_auto_create(struct machine *machine) MUST_CHECK;

#endif
