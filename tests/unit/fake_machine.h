/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine without KVM for tests of the control floor: the functions of machine.h, kvm/slots.h,
 * kvm/vcpu.h and virtio/mem.h that control calls, over a real memory map. A test plays the guest by
 * writing `plugged`.
 */
#ifndef GODWIT_TESTS_FAKE_MACHINE_H
#define GODWIT_TESTS_FAKE_MACHINE_H

#include "machine/machine.h"

/* Tests write `status.plugged` from their own thread, atomically. */
struct fake_elastic {
	struct virtio_device device; /* first: it is what control sees */
	struct virtio_mem_status status;
};

struct fake_machine {
	struct machine_config config;
	enum machine_state state;
	struct event_loop *loop;
	machine_event_handler handler;
	void *context;
	struct memory_map *map;
	struct ram_block *boot;
	struct fake_elastic elastic[2];
	uint32_t elastic_count;
	int resets, powerdowns, shutdowns;
	bool refuse_reset;
};

/* A machine "fake" with 16 MiB of boot memory and the devices hot0 (1 GiB at 4 GiB) and hot1
 * (automatic). */
struct machine *fake_machine_create(struct event_loop *loop, machine_event_handler handler,
				    void *context);
void fake_machine_destroy(struct machine *machine);
struct fake_machine *fake(struct machine *machine);
/* The guest of device @index has plugged @size bytes; the machine tells so. */
void fake_guest_plugs(struct machine *machine, uint32_t index, uint64_t size);
void fake_event(struct machine *machine, const char *event, json_t *data);

#endif
