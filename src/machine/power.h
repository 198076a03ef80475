/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ports by which a guest ends or restarts itself or says that it crashed: ACPI's sleep control
 * and reset registers, the keyboard controller's reset command, and pvpanic (QEMU's
 * docs/specs/pvpanic.rst).
 */
#ifndef GODWIT_MACHINE_POWER_H
#define GODWIT_MACHINE_POWER_H

#include "base/error.h"
#include "kvm/io_bus.h"

enum power_request {
	POWER_OFF,
	POWER_RESET,
	POWER_PANICKED,	    /* the guest's kernel has crashed */
	POWER_CRASH_LOADED, /* it has, and starts its crash kernel */
};

struct power;

/* @request is called on a vCPU's thread, possibly many times; it must not block. */
struct error *power_create(struct io_bus *bus,
			   void (*request)(void *context, enum power_request what), void *context,
			   struct power **power) MUST_CHECK;
/* No vCPU runs any more. Accepts NULL. */
void power_destroy(struct power *power);

#endif
